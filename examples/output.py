"""What the studies leave behind: JSON files, and pictures that tell which figures they show."""

from __future__ import annotations

import hashlib
import json
import os
from pathlib import Path
from typing import Any

import matplotlib.pyplot as plt
from matplotlib.figure import Figure


def write_json(path: Path, content: object) -> None:
    """Write a JSON file such that there is the old one or the new one at any moment."""
    unfinished = path.with_name(f"{path.name}.tmp")
    unfinished.write_text(json.dumps(content, indent=1) + "\n")
    os.replace(unfinished, path)


def read_json(path: Path) -> dict[str, Any]:
    """Read a JSON file; nothing if it is not there."""
    return dict(json.loads(path.read_text())) if path.exists() else {}


def source(where: str, content: object) -> str:
    """Name what a picture shows: a file of results, or FILE#KEY, and the digest of its content."""
    plain = json.dumps(content, sort_keys=True)
    return f"{where} sha256 {hashlib.sha256(plain.encode()).hexdigest()}"


def save_picture(figure: Figure, path: Path, where: str, content: object) -> None:
    """Write a picture with its :func:`source` inside, and forget it.

    A test of the documentation compares the digest with the file of results there, so that no
    picture stays behind when its figures are made anew.
    """
    figure.savefig(path, dpi=150, metadata={"Source": source(where, content)})
    plt.close(figure)
