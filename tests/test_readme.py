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
    assert len(text.splitlines()) <= 125
    addresses = re.findall(r"https://[^)\s]+", text)
    for address in addresses:
        if page := re.fullmatch(r"https://advcal\.readthedocs\.io/en/latest/(.+)\.html", address):
            assert (ROOT / "docs" / f"{page[1]}.md").exists(), address
        if file := re.match(
            r"https://(?:raw\.github\S+/main|github\.com/advcal/\S+/main)/", address
        ):
            assert (ROOT / address[file.end() :]).exists(), address
    # The package index shows this page too, and knows no relative address.
    assert re.findall(r"\]\((?!https://)[^)]*\)", text) == []
    named = set(re.findall(r"^\[([^\]]+)\]: https", text, re.MULTILINE))
    prose = re.sub(r"^\[.*\]: .*", "", text, flags=re.MULTILINE)
    assert all(f"[{name}]" in prose for name in named)
