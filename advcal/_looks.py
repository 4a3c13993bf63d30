"""What a file is that is not what it should be, in a few words."""

from pathlib import Path

_STARTS = {
    b"version https://git-lfs": "a pointer of Git LFS, whose file was not downloaded",
    b"/annex/objects/": "a pointer of git-annex, whose file was not downloaded",
    b"<": "a web page",
    b"PK\x03\x04": "a zip archive, as .npz is",
    b"PK\x05\x06": "an empty zip archive",
    b"\x1f\x8b": "a gzip archive",
    b"\x80": "a pickle",
    b"\xff\xd8": "a JPEG image that is cut short or damaged",
    b"\x89PNG": "a PNG image that is cut short or damaged",
    b"\x93NUMPY": "an array that is cut short, damaged or of Python objects",
}


def looks(file: Path) -> str:
    """Say what a file looks like by how it begins."""
    with file.open("rb") as opened:
        return of_start(opened.read(512))


def of_start(start: bytes) -> str:
    """Say what begins with these bytes, up to 512."""
    if not start:
        return "an empty file"
    if not start.strip(b"\0"):
        return "zeros, as of a download that was cut short"
    for known, words in _STARTS.items():
        if start.lstrip(b"\xef\xbb\xbf \t\r\n").startswith(known) or start.startswith(known):
            return words
    if start.isascii() and not set(start) & set(b"\0\x01\x02"):
        return "a file of text"
    return "something else"
