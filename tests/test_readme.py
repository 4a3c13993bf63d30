"""The code of the README and of the landing page runs and prints what it says."""

import contextlib
import io
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
README, LANDING = ROOT / "README.md", ROOT / "docs" / "index.md"
BLOCK = re.compile(r"^```python\n(.*?)^```\n(?:\n```text\n(.*?)^```)?", re.DOTALL | re.MULTILINE)
BLOCKS = {path: BLOCK.findall(path.read_text(encoding="utf-8")) for path in (README, LANDING)}
NUMBER = re.compile(r"-?\d+(?:\.\d+)?")


def test_both_have_code():
    assert all(BLOCKS.values())


@pytest.mark.parametrize(
    ("path", "code", "printed"), [(path, *block) for path in BLOCKS for block in BLOCKS[path]]
)
def test_block_prints_what_follows_it(path, code, printed):
    output = io.StringIO()
    with contextlib.redirect_stdout(output):
        exec(compile(code, str(path), "exec"), {"__name__": "readme"})
    words, expected_words = NUMBER.sub("#", output.getvalue()), NUMBER.sub("#", printed)
    assert words == expected_words
    numbers = [float(number) for number in NUMBER.findall(output.getvalue())]
    expected = [float(number) for number in NUMBER.findall(printed)]
    assert numbers == pytest.approx(expected, abs=0.03)  # training differs between machines


def test_the_readme_is_short_and_its_pictures_and_pages_are_there():
    text = README.read_text(encoding="utf-8")
    assert len(text.splitlines()) < 160
    targets = re.findall(r"\]\(([^)\s]+)\)", text)
    assert [t for t in targets if "://" not in t and not (README.parent / t).exists()] == []


def test_every_public_name_is_in_the_table():
    import advcal

    text = README.read_text(encoding="utf-8")
    listed = set(re.findall(r"`(\w+)`", text))
    for name in advcal.__all__:
        assert name in listed
        functions = {each for each in getattr(advcal, name).__all__ if each[0].islower()}
        assert functions <= listed
