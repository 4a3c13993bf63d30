"""Link what the pages name: public names to their entries in the API, papers to where they are."""

import re
import tomllib
from pathlib import Path

from docutils import nodes
from sphinx.addnodes import pending_xref
from sphinx.application import Sphinx
from sphinx.transforms.post_transforms import SphinxPostTransform
from sphinx.util.nodes import make_refnode

import advcal

# Words that code spans use in another sense too: linked as `attacks.autocast` or `autocast(...)`.
HOMONYMS = {"autocast", "curves", "figures", "interval", "margin", "table"}
NAME = re.compile(r"(?:advcal\.)?([A-Za-z_][\w.]*)(\(.*\))?\Z", re.DOTALL)
PRIVATE = re.compile(r"\badvcal(?:\.\w+)*\._\w+\.(?=\w)|(\btorch\.)_C\.")
ARXIV = re.compile(r"arXiv[:\s]\s?(\d{4}\.\d{4,5})(?:v\d+)?")
PAPERS = tomllib.loads((Path(__file__).parent / "papers.toml").read_text(encoding="utf-8"))
CITED = re.compile(
    "|".join(
        r"\s+".join(map(re.escape, key.split())) for key in sorted(PAPERS, key=len, reverse=True)
    ),
    re.IGNORECASE,
)
URLS = {key.lower(): url for key, url in PAPERS.items()}


class LinkNames(SphinxPostTransform):
    """Make a code span that is a public name, or a call of it, a link to its entry."""

    default_priority = 5

    def run(self, **kwargs: object) -> None:
        for literal in list(self.document.findall(nodes.literal)):
            if not _inside_a_link(literal):
                self.link(literal)

    def link(self, literal: nodes.literal) -> None:
        spelled = NAME.match(literal.astext())
        found = self.entry(spelled[1], called=bool(spelled[2])) if spelled else None
        if found is None:
            return
        name, target = found
        here = self.env.docname
        span = literal.deepcopy()
        literal.replace_self(
            make_refnode(self.app.builder, here, target.docname, target.node_id, span, name)
        )

    def entry(self, name: str, *, called: bool) -> tuple[str, object] | None:
        """Find the API's entry of `pgd`, `attacks.pgd` or `ReliabilityBins.interval`."""
        objects = self.env.domains["py"].objects
        first, _, rest = name.partition(".")
        if first in advcal.__all__:
            if not rest and not called:
                return None
            candidates = [f"advcal.{name}"]
        elif name in HOMONYMS and not called:
            return None
        else:
            here = self.env.docname.removeprefix("api/")
            rooms = sorted(advcal.__all__, key=lambda room: room != here)
            candidates = [f"advcal.{room}.{name}" for room in rooms]
        return next(((full, objects[full]) for full in candidates if full in objects), None)


class LinkPapers(SphinxPostTransform):
    """Make a citation a link: an arXiv number, or a paper of `papers.toml`."""

    default_priority = 6

    def run(self, **kwargs: object) -> None:
        for text in list(self.document.findall(nodes.Text)):
            parent = text.parent
            if isinstance(parent, nodes.literal | nodes.literal_block | nodes.math):
                continue
            if isinstance(parent, nodes.TextElement) and not _inside_a_link(text):
                pieces = _linked(str(text))
                if len(pieces) > 1:
                    parent.replace(text, pieces)


class HideRooms(SphinxPostTransform):
    """Write `advcal._typing.Array` as `Array` and `torch._C.Generator` as `torch.Generator`."""

    default_priority = 20  # after references are resolved

    def run(self, **kwargs: object) -> None:
        for reference in self.document.findall(nodes.reference):
            if "._" in reference.get("reftitle", ""):
                uri = reference.get("refid") or reference.get("refuri", "").rpartition("#")[2]
                reference["reftitle"] = uri
        for text in list(self.document.findall(nodes.Text)):
            if PRIVATE.search(text) and not isinstance(text.parent, nodes.literal_block):
                text.parent.replace(text, nodes.Text(PRIVATE.sub(r"\1", text)))


def _linked(text: str) -> list[nodes.Node]:
    """Split a text into plain pieces and links."""
    pieces: list[nodes.Node] = []
    end = 0
    for match in sorted(
        [*ARXIV.finditer(text), *CITED.finditer(text)], key=lambda match: match.start()
    ):
        if match.start() < end:
            continue
        words = " ".join(match[0].split()).lower()
        url = URLS.get(words) or f"https://arxiv.org/abs/{match[1]}"
        pieces += [nodes.Text(text[end : match.start()])] if match.start() > end else []
        pieces.append(nodes.reference("", match[0], refuri=url, internal=False))
        end = match.end()
    return [*pieces, nodes.Text(text[end:])] if pieces else [nodes.Text(text)]


def _inside_a_link(node: nodes.Node) -> bool:
    """Tell whether a node stands in a link, a heading, or the signature of an entry."""
    kinds = (nodes.reference, nodes.title, nodes.literal_block, pending_xref)
    while node.parent is not None:
        node = node.parent
        if isinstance(node, kinds) or node.__class__.__name__.startswith("desc_sig"):
            return True
    return False


def setup(app: Sphinx) -> dict[str, bool]:
    """Add the steps to the build."""
    app.add_post_transform(LinkNames)
    app.add_post_transform(LinkPapers)
    app.add_post_transform(HideRooms)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
