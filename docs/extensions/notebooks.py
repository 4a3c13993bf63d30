"""Offer each page of the gallery as a Jupyter notebook, without its output."""

import re
from pathlib import Path

import nbformat
from myst_nb.core.config import NbParserConfig
from myst_nb.core.read import create_nb_reader
from sphinx.application import Sphinx

OFFER = (
    "{{download}}`Download this page as a notebook <{file}>`; it needs\n"
    '`pip install "advcal[plots]" scikit-learn`.'
)


def convert(app: Sphinx) -> None:
    """Write NAME.ipynb in the gallery's folder `notebooks` for each page that stands alone."""
    gallery = Path(app.srcdir) / "gallery"
    (gallery / "notebooks").mkdir(exist_ok=True)
    for page in gallery.glob("*.md"):
        text = page.read_text(encoding="utf-8")
        if "code-cell" not in text or "ADVCAL_DOCS" in text:  # which needs the checkout
            continue
        reader = create_nb_reader(str(page), app.env.myst_config, NbParserConfig(), text)
        notebook = reader.read(text)
        notebook.metadata = {"kernelspec": notebook.metadata["kernelspec"]}
        (gallery / "notebooks" / f"{page.stem}.ipynb").write_text(
            nbformat.writes(notebook), encoding="utf-8"
        )


def offer(app: Sphinx, docname: str, source: list[str]) -> None:
    """Put the link to it below the title of the page."""
    folder, _, name = docname.rpartition("/")
    if folder == "gallery" and (Path(app.srcdir) / folder / "notebooks" / f"{name}.ipynb").exists():
        line = OFFER.format(file=f"notebooks/{name}.ipynb")
        source[0] = re.sub(r"^(# .+\n)", rf"\1\n{line}\n", source[0], count=1, flags=re.MULTILINE)


def setup(app: Sphinx) -> dict[str, bool]:
    """Connect the two steps to the build, after the pages of the gallery are in place."""
    app.connect("builder-inited", convert, priority=900)
    app.connect("source-read", offer)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
