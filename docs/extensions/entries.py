"""API pages: a table of one line per name, then the entries, grouped by question.

A page has, below each of its headings, `.. entries:: name name ...`; `.. overview::` at its top
makes the table from these.
"""

import importlib
import inspect
import re
from pathlib import Path

from docutils import nodes
from docutils.statemachine import StringList
from sphinx.application import Sphinx
from sphinx.util.docutils import SphinxDirective

GROUP = re.compile(
    r"^## (?P<question>.+)|^\.\. entries::(?P<names>(?: \w+|\n {3,}\w.*)+)", re.MULTILINE
)


def groups(page: str) -> dict[str, list[str]]:
    """Read a page's groups: the names of each heading, in order."""
    found: dict[str, list[str]] = {}
    question = ""
    for match in GROUP.finditer(page):
        if match["question"]:
            question = match["question"].strip()
        else:
            found.setdefault(question, []).extend(match["names"].split())
    return found


class _OnModule(SphinxDirective):
    """A directive on a page named after a submodule."""

    has_content = True

    @property
    def module(self) -> str:
        return "advcal." + self.env.docname.rpartition("/")[2]

    def parsed(self, lines: list[str]) -> list[nodes.Node]:
        """Parse lines of reStructuredText in the place of the directive."""
        box = nodes.Element()
        source = f"<{self.name} of {self.env.docname}>"
        self.state.nested_parse(StringList(lines, source), self.content_offset, box)
        return box.children


class Entries(_OnModule):
    """Document the names that stand in the directive."""

    optional_arguments = 1
    final_argument_whitespace = True

    def run(self) -> list[nodes.Node]:
        module = importlib.import_module(self.module)
        lines = [f".. py:currentmodule:: {self.module}", ""]
        for name in " ".join([*self.arguments, *self.content]).split():
            kind = "class" if inspect.isclass(getattr(module, name)) else "function"
            lines += [f".. auto{kind}:: {name}", ""]
        return self.parsed(lines)


class Overview(_OnModule):
    """Draw the table of all names of the page, with the first sentence of each."""

    def run(self) -> list[nodes.Node]:
        page = Path(self.env.doc2path(self.env.docname)).read_text(encoding="utf-8")
        lines: list[str] = []
        for question, names in groups(page).items():
            lines += [f"**{question}**", "", ".. list-table::", "   :widths: 30 70", ""]
            for name in names:
                lines += [f"   * - `{name} <{self.module}.{name}>`", f"     - {self.line(name)}"]
            lines += [""]
        return self.parsed(lines)

    def line(self, name: str) -> str:
        """Take the first sentence of a name's docstring."""
        doc = inspect.getdoc(getattr(importlib.import_module(self.module), name)) or ""
        first = " ".join(doc.partition("\n\n")[0].split())
        return re.sub(r"\$([^$]+)\$", r":math:`\1`", first)


def setup(app: Sphinx) -> dict[str, bool]:
    """Add the two directives."""
    app.add_directive("entries", Entries)
    app.add_directive("overview", Overview)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
