"""The pages of the documentation that are made from the source are whole."""

import importlib
import inspect
import re
import sys
from pathlib import Path

import pytest

import advcal

DOCS = Path(__file__).parent.parent / "docs"
NOWHERE = {"churn", "fit_platt"}  # their papers have no address that is made to last


@pytest.fixture(scope="module")
def extensions():
    pytest.importorskip("sphinx")
    sys.path.insert(0, str(DOCS / "extensions"))
    yield importlib.import_module("entries"), importlib.import_module("links")
    sys.path.remove(str(DOCS / "extensions"))


@pytest.mark.parametrize("room", advcal.__all__)
def test_every_public_name_has_one_entry_in_the_api(extensions, room):
    entries, _ = extensions
    page = (DOCS / "api" / f"{room}.md").read_text(encoding="utf-8")
    listed = [name for names in entries.groups(page).values() for name in names]
    listed += re.findall(r"^\.\. py:data:: (\w+)", page, re.MULTILINE)
    assert sorted(listed) == sorted(getattr(advcal, room).__all__)


@pytest.mark.parametrize("room", advcal.__all__)
def test_papers_that_docstrings_cite_have_an_address(extensions, room):
    _, links = extensions
    module = getattr(advcal, room)
    for name in module.__all__:
        doc = inspect.getdoc(getattr(module, name)) or ""
        cited = " ".join(doc.partition("References:")[2].partition("\n\n")[0].split())
        found = links.CITED.search(cited) or links.ARXIV.search(cited) or "http" in cited
        assert not cited or found or name in NOWHERE, f"{room}.{name}: {cited}"


def test_no_address_of_a_paper_is_idle(extensions):
    _, links = extensions
    root = DOCS.parent
    pages = [
        *root.glob("docs/**/*.md"),
        *root.glob("examples/**/*.md"),
        *root.glob("advcal/**/*.py"),
    ]
    text = " ".join(" ".join(page.read_text(encoding="utf-8").split()) for page in pages).lower()
    assert [paper for paper in links.PAPERS if " ".join(paper.split()).lower() not in text] == []
