"""An audit as rows of words: figure by figure, or model by model."""

import math
from collections.abc import Mapping, Sequence
from typing import Any

from advcal._markup import Text, aligned, decimal, html, latex

FIGURES = {
    "accuracy": "accuracy",
    "ece": "ECE",
    "mcs": "MCS",
    "nll": "NLL",
    "brier": "Brier score",
    "aurc": "AURC",
}
_BOUNDS = {  # what is certified of a figure: from below, from above, or both
    "accuracy": ("accuracy_low", None),
    "ece": (None, "ece_high"),
    "mcs": ("mcs_low", "mcs_high"),
    "nll": (None, "nll_high"),
    "brier": (None, "brier_high"),
    "aurc": (None, None),
}


def rows_of(audits: Mapping[str, Any], *, several: bool = False) -> list[list[str]]:
    """Return rows of cells, the heading first.

    Args:
        audits: What `Audit.as_dict` returns, or from names to that.
        several: Whether it is from names.
    """
    return _by_model(audits) if several else _by_figure(audits["parts"])


def _by_figure(parts: Mapping[str, Any]) -> list[list[str]]:
    void = parts.get("diagnosis", {}).get("verdict") == "fail"
    heading = ["figure", "clean", "attacked (not to be believed)" if void else "attacked"]
    certified = parts.get("certified")
    rows = [[*heading, "certified"]]
    for name, word in FIGURES.items():
        sides = [interval(parts[side]["figures"][name]) for side in ("clean", "attacked")]
        rows.append([word, *sides, bound(name, certified)])
    for name, word in (("coverage", "coverage of 90 % sets"), ("size", "classes in a set")):
        if "sets" in parts["clean"]:
            sets = [parts[side]["sets"] for side in ("clean", "attacked")]
            ends = [each.get("intervals", {}).get(name) for each in sets]  # older files have none
            sides = [
                interval([each[name], *around]) if around else f"{each[name]:.3f}"
                for each, around in zip(sets, ends, strict=True)
            ]
            rows.append([word, *sides, ""])
    if "detection" in parts:
        found = [parts["detection"][side] for side in ("clean", "attacked")]
        sides = [
            interval([each["auroc"], *each.get("intervals", {}).get("auroc", [math.nan] * 2)])
            for each in found
        ]
        rows.append(["AUROC of detection", *sides, ""])
    return rows


def _by_model(audits: Mapping[str, Any]) -> list[list[str]]:
    heading = ["model", "clean accuracy", "robust accuracy", "clean ECE", "attacked ECE"]
    rows = [[*heading, "clean Brier", "attacked Brier", "confidence moved", "diagnosis"]]
    for name, found in audits.items():
        parts = found["parts"]
        clean, attacked = (parts[side]["figures"] for side in ("clean", "attacked"))
        robust = interval(attacked["accuracy"])
        if "certified" in parts:
            robust = f"{parts['certified']['accuracy_low']:.3f} to {robust}"
        envelope = parts["envelope"]
        cells = [interval(clean["accuracy"]), robust]
        for figure in ("ece", "brier"):
            cells += [f"{side[figure][0]:.3f}" for side in (clean, attacked)]
        moved = f"{envelope['lowest'][-1]:.3f} to {envelope['highest'][-1]:.3f}"
        rows.append([name, *cells, moved, parts["diagnosis"]["verdict"]])
    return rows


def interval(ends: Sequence[float]) -> str:
    """Write a figure with its interval."""
    value, low, high = (decimal(each, 3) for each in ends)
    return f"{value} [{low}, {high}]"


def bound(name: str, certified: Mapping[str, Any] | None) -> str:
    """Write what is certified of a figure."""
    if certified is None:
        return ""
    low, high = _BOUNDS[name]
    words = [f"≥ {decimal(certified[low], 3)}"] if low else []
    words += [f"≤ {decimal(certified[high], 3)}"] if high else []
    return ", ".join(words)


def tabular(rows: list[list[str]], format: str) -> str:
    """Lay out rows as Markdown, which notebooks show as a table, or LaTeX."""
    if format == "latex":
        return latex(rows, n_names=1)
    return Text(aligned(rows, n_names=1), html(rows))
