"""What the study scripts share: options, files of results, pictures that tell what they show."""

from __future__ import annotations

import argparse
import datetime
import hashlib
import json
import os
import platform
from pathlib import Path
from typing import Any

import matplotlib.pyplot as plt
import torch
from matplotlib.figure import Figure

import advcal
from advcal import evaluation, plots

# --- options ---


def parser(doc: str | None, *, data: bool = True, bfloat16: bool = True) -> argparse.ArgumentParser:
    """Make a parser of the options that most studies have."""
    made = argparse.ArgumentParser(
        description=doc, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    made.add_argument("--out", type=Path, default=Path("results"), help="folder for all it makes")
    if data:
        made.add_argument("--data", type=Path, required=True, help="folder that holds CIFAR-10")
        made.add_argument("--device", default="cpu", help="where to compute, such as cuda (cpu)")
    if bfloat16:
        made.add_argument(
            "--bfloat16",
            action="store_true",
            help="compute in mixed precision, faster where the processor computes in bfloat16",
        )
    return made


def check_ranges(
    parser: argparse.ArgumentParser, args: argparse.Namespace, **ranges: tuple[float, float]
) -> None:
    """End the program with one line if an option is outside its range."""
    for name, (least, most) in ranges.items():
        value = getattr(args, name)
        if not least <= value <= most:
            parser.error(f"--{name.replace('_', '-')} must be from {least} to {most}, not {value}")


def make_folder(path: Path) -> None:
    """Make the folder for results, or end the program with one line."""
    try:
        path.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise SystemExit(f"--out {path}: {error.strerror}") from None


# --- files of results ---


def date_and_versions() -> dict[str, object]:
    """Tell when figures were made, and with what."""
    return {
        "date": datetime.date.today().isoformat(),
        "versions": {
            "advcal": advcal.__version__,
            "torch": str(torch.__version__),
            "python": platform.python_version(),
        },
    }


def write_json(path: Path, content: object) -> None:
    """Write a JSON file such that there is the old one or the new one at any moment."""
    unfinished = path.with_name(f"{path.name}.tmp")
    unfinished.write_text(json.dumps(content, indent=1) + "\n")
    os.replace(unfinished, path)


def read_json(path: Path) -> dict[str, Any]:
    """Read a JSON file; nothing if it is not there."""
    return dict(json.loads(path.read_text())) if path.exists() else {}


# --- pictures ---


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


def draw_reliability(
    records: dict[tuple[str, str], evaluation.Evaluation], shown: list[str]
) -> Figure:
    """Draw reliability diagrams: a row per model, a column per attack."""
    models = list(dict.fromkeys(model for model, _ in records))
    size = (2.6 * len(shown), 3.0 * len(models) + 0.4)
    figure, axes = plt.subplots(
        len(models), len(shown), figsize=size, squeeze=False, layout="constrained"
    )
    for row, model in zip(axes, models, strict=True):
        for ax, attack in zip(row, shown, strict=True):
            bins = records[model, attack].bins
            plots.reliability_diagram(bins, ax=ax, title=f"{model}, {attack}")
    handles = {
        label: handle
        for ax in axes.flat
        for handle, label in zip(*ax.get_legend_handles_labels(), strict=True)
    }
    figure.legend(
        handles.values(), handles.keys(), loc="outside lower center", ncols=3, frameon=False
    )
    return figure
