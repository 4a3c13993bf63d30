"""Records in a file, a line of strict JSON each, which says if it is damaged."""

import json
import os
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from advcal import _digest, _files
from advcal.evaluation import _json

Record = dict[str, Any]

NAMES = ("model", "data", "attack", "eps")
_CHECK = "check"  # the digest of all else in a record, among its settings
_FRESH = "give a changed sweep a file of its own"

Key = tuple[str, str, str, float | None]


def key_of(record: Mapping[str, Any]) -> Key:
    """Return what a record is known by."""
    model, data, attack, eps = (record[name] for name in NAMES)
    return model, data, attack, eps


def sealed(record: Record) -> Record:
    """Add the digest of a record to its settings."""
    rest = {name: each for name, each in record["settings"].items() if name != _CHECK}
    record = {**record, "settings": rest}
    return {**record, "settings": {**rest, _CHECK: _digest.of([_json.strict(record).encode()])}}


def read(file: Path, wanted: Mapping[Key, Mapping[str, str]]) -> dict[Key, Record]:
    """Return the records of a file, after taking off a last line that was half written.

    Args:
        file: The file, which need not be there.
        wanted: From the keys of records to the settings that they must be made with.
    """
    if not file.exists():
        return {}
    content = file.read_bytes()
    whole = content.rfind(b"\n") + 1
    done: dict[Key, Record] = {}
    lines: dict[Key, int] = {}
    for number, line in enumerate(content[:whole].splitlines(), start=1):
        where = f"line {number} of {file}"
        record = _parsed(line, where)
        key = key_of(record)
        named = dict(zip(NAMES, key, strict=True))
        if key not in wanted:
            got = f"{named} in {where}"
            raise ValueError(f"expected records of this sweep alone, got {got}; {_FRESH}")
        if key in done:
            raise ValueError(
                f"expected each record once, got {named} in line {lines[key]} and in {where}; two "
                "sweeps wrote to it at the same time: take one of the lines away"
            )
        for name, value in wanted[key].items():
            if (found := record["settings"].get(name)) != value:
                now = f"expected {name} of {named} in {where} as it is now, {value}"
                raise ValueError(f"{now}, got {found}; {_FRESH}")
        done[key], lines[key] = record, number
    if whole < len(content):
        os.truncate(file, whole)
    return done


def append(file: Path, record: Record) -> None:
    """Add a record; what is there stays whole, also on a full disk."""
    with file.open("ab", buffering=0) as lines:
        end, left = lines.seek(0, os.SEEK_END), memoryview(_json.strict(record).encode() + b"\n")
        try:
            while left:
                left = left[lines.write(left) :]
            os.fsync(lines.fileno())
        except OSError as error:
            os.ftruncate(lines.fileno(), end)
            told = f"expected to write {file}, got: {error.strerror}; the records before are kept"
            raise OSError(error.errno, told) from None


def ordered(file: Path, records: Iterable[Record]) -> None:
    """Write all records of a file anew, in this order."""
    with _files.whole(file) as lines:
        for record in records:
            lines.write(_json.strict(record).encode() + b"\n")


# --- a line ----------------------------------------------------------------------------------


def _parsed(line: bytes, where: str) -> Record:
    """Read a line, and see that it is a whole record."""
    try:
        found = json.loads(line)
        record = {
            name: each if name in (*NAMES, "settings") else _json.numbers(each)
            for name, each in found.items()
        }
        hash((key_of(record), record["n"]))
        check = record["settings"].get(_CHECK)
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        shown = f"{line[:200]!r}" + " ..." * (len(line) > 200)
        raise ValueError(f"expected a record of a sweep in {where}, got {shown}") from error
    if check is not None and check != sealed(record)["settings"][_CHECK]:
        raise ValueError(
            f"expected a record as it was written in {where}, got another; it was damaged or "
            "edited: take the line away, and it is made again"
        )
    return record
