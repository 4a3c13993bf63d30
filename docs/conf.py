"""The configuration of the documentation: `python -m sphinx -W -b html docs docs/_build`."""

import os
import re
import shutil
import sys
from pathlib import Path

from docutils import nodes
from sphinx.addnodes import pending_xref
from sphinx.application import Sphinx
from sphinx.environment import BuildEnvironment

import advcal

EXAMPLES = Path(__file__).parent.parent / "examples"
GALLERY = Path(__file__).parent / "gallery"

REPOSITORY = "https://github.com/advcal/advcal"

project = "advcal"
author = "The advcal developers"
copyright = f"2026, {author}"
version = release = advcal.__version__

sys.path.insert(0, str(Path(__file__).parent / "extensions"))
extensions = [
    "entries",
    "links",
    "notebooks",
    "myst_nb",
    "sphinx.ext.autodoc",
    "sphinx.ext.doctest",
    "sphinx.ext.napoleon",
    "sphinx.ext.viewcode",
    "sphinx_copybutton",
    "sphinx-mathjax-offline",
]
exclude_patterns = ["_build", "extensions", "gallery/notebooks"]

# API pages: what `__all__` lists, in its docstring's words. A `name` in single backticks links to
# our object of that name if there is one; a public advcal.* name that does not exist is an error.
autodoc_default_options = {"members": True}
autodoc_member_order = "bysource"
autodoc_preserve_defaults = True
autodoc_typehints_format = "short"
napoleon_numpy_docstring = False
napoleon_use_ivar = True
python_maximum_signature_line_length = 88
python_use_unqualified_type_names = True
toc_object_entries_show_parents = "hide"
default_role = "py:obj"
nitpicky = True
nitpick_ignore_regex = [(r"py:.*", r"(?s)(?!advcal(\.(?!_)\w+)+\Z).*")]

# Pages are Markdown; the notebooks among them are executed, from scratch, at every build.
myst_enable_extensions = ["colon_fence", "deflist", "dollarmath"]
myst_heading_anchors = 3
nb_execution_mode = "force"
nb_execution_in_temp = True
nb_execution_raise_on_error = True
nb_execution_timeout = 900
os.environ["ADVCAL_DOCS"] = str(Path(__file__).parent)  # to a page that shows figures of a study

html_theme = "furo"
html_title = f"advcal {version}"
html_theme_options = {
    "light_css_variables": {"code-font-size": "78%"},  # 94 letters to a line
    "source_repository": REPOSITORY,
    "source_branch": "main",
    "source_directory": "docs/",
    "footer_icons": [
        {"name": "Repository", "url": REPOSITORY, "html": "repository"},
        {"name": "Issues", "url": f"{REPOSITORY}/issues", "html": "issues"},
    ],
}
html_static_path = ["static"]
html_css_files = ["pages.css"]


def collect_notebooks(app: Sphinx) -> None:
    """Mirror the notebooks of `examples/` in the gallery, leaving unchanged ones untouched."""
    notebooks = [*EXAMPLES.glob("*.ipynb"), *EXAMPLES.glob("notebooks/*.md")]
    for stale in {path.name for path in GALLERY.iterdir()} - {path.name for path in notebooks}:
        if stale not in ("index.md", "notebooks"):
            (GALLERY / stale).unlink()
    for source in notebooks:
        copy = GALLERY / source.name
        if not copy.exists() or copy.read_bytes() != source.read_bytes():
            shutil.copyfile(source, copy)


def link_public_name(
    app: Sphinx, env: BuildEnvironment, node: pending_xref, contnode: nodes.TextElement
) -> nodes.reference | None:
    """Resolve `advcal.metrics._bins.Name`, as an annotation spells it, to `advcal.metrics.Name`."""
    public = re.sub(r"\._\w+(?=\.)", "", node.get("reftarget", ""))
    if node.get("refdomain") != "py" or public == node["reftarget"]:
        return None
    python = env.get_domain("py")
    return python.resolve_xref(env, node["refdoc"], app.builder, "obj", public, node, contnode)


def mark_formulas(
    app: Sphinx, what: str, name: str, obj: object, options: object, lines: list[str]
) -> None:
    """Write `$x$` in a docstring, Markdown's sign for a formula, as the role that autodoc reads."""
    lines[:] = re.sub(r"\$([^$]+)\$", r":math:`\1`", "\n".join(lines)).split("\n")


def skip_tuple_fields(
    app: Sphinx, what: str, name: str, obj: object, skip: bool, options: object
) -> bool | None:
    """Leave out the fields of a NamedTuple: its docstring lists them in words."""
    return True if type(obj).__name__ == "_tuplegetter" else None


def name_functions(
    app: Sphinx, what: str, name: str, obj: object, options: object, signature: str, returns: str
) -> tuple[str, str]:
    """Write the name of a function that is a default of a dataclass; a protocol is not called."""
    if getattr(obj, "_is_protocol", False):
        return "", ""
    return re.sub(r"<function (\w+)>", r"\1", signature or "") or signature, returns


def find_source(app: Sphinx, modname: str, attribute: str) -> str | None:
    """Show the source of an attack itself, not of what gives it its levels."""
    plain = getattr(getattr(sys.modules.get(modname), attribute, None), "plain", None)
    return getattr(plain, "__module__", None)


def setup(app: Sphinx) -> None:
    """Connect the steps above to the build."""
    app.connect("viewcode-follow-imported", find_source)
    app.connect("autodoc-process-signature", name_functions)
    app.connect("autodoc-process-docstring", mark_formulas)
    app.connect("autodoc-skip-member", skip_tuple_fields)
    app.connect("builder-inited", collect_notebooks)
    app.connect("missing-reference", link_public_name)
