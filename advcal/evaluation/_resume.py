"""A file of JSON that belongs to one run and says so, from which a killed run goes on."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from advcal._files import whole
from advcal.evaluation._json import numbers, strict


def read(file: Path | None, settings: Mapping[str, Any], what: str, key: str) -> Any:
    """Return what a file holds under `key`; it must be of the same settings. None if there is none.

    Args:
        file: The file, or None.
        settings: What the run is made of, in plain numbers and words.
        what: What the file holds, in words for errors, such as "an audit".
        key: The key in the file that has the results.
    """
    if file is None or not file.exists():
        return None
    try:
        found = numbers(json.loads(file.read_text(encoding="utf-8")))
        before, results = dict(found["settings"]), found[key]
    except (ValueError, KeyError, TypeError) as error:
        raise ValueError(f"expected {file} to hold {what}, got something else") from error
    for name, value in settings.items():
        if before.get(name) != value:
            raise ValueError(
                f"expected {file} to hold {what} of the same {name}, got one of another {name}; "
                "delete it or give another path"
            )
    return results


def write(file: Path | None, settings: Mapping[str, Any], key: str, results: Any) -> None:
    """Write the file anew, such that there is the old one or the new one at any moment."""
    if file is not None:
        with whole(file) as written:
            written.write(strict({"settings": dict(settings), key: results}).encode())
