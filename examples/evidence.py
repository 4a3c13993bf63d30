"""What a verdict rests on: differences over seeds or, of one seed, figures over images."""

from __future__ import annotations

import math
import statistics
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from scipy import stats

LEVEL = 0.05
TOLERANCE = 0.03  # within which a figure of a table counts as the paper's

Record = Mapping[str, Any]  # figures of one network under one attack


class Found(NamedTuple):
    """A figure or a difference, its 95 % interval, and the p-value of its being 0."""

    value: float
    low: float
    high: float
    p: float


class Row(NamedTuple):
    """A row of a table of verdicts, in words."""

    claim: str
    paper: str
    ours: str
    interval: str
    p: str
    verdict: str
    network: str
    reason: str


HEADER = Row("claim", "paper", "ours", "95 % interval", "p", "verdict", "network", "why")
ALIGN = Row(":--", "--:", "--:", "--:", "--:", ":--", ":--", ":--")


# --- what was found ---


def paired(values: Sequence[float], others: Sequence[float]) -> Found:
    """Compare two methods that have the same seeds, or the same images, by the paired t-test."""
    differences = [a - b for a, b in zip(values, others, strict=True)]
    mean = statistics.fmean(differences)
    error = statistics.stdev(differences) / len(differences) ** 0.5
    if error == 0:
        return Found(mean, mean, mean, 1.0 if mean == 0 else 0.0)
    spread = stats.t(len(differences) - 1)
    half = float(spread.ppf(1 - LEVEL / 2)) * error
    return Found(mean, mean - half, mean + half, 2 * float(spread.sf(abs(mean) / error)))


def trend(values: Sequence[float]) -> Found:
    """Correlate figures with their order by Kendall's tau, whose p-value needs no model of them."""
    found = stats.kendalltau(range(len(values)), values)
    return Found(float(found.statistic), math.nan, math.nan, float(found.pvalue))


def figure(record: Record, name: str, n: int) -> Found:
    """Take a figure of one network, known as well as n images tell it."""
    found = _over_images(record[name], _error(record, name, n))
    least = -1.0 if name == "mcs" else 0.0
    return found._replace(low=max(least, found.low), high=min(1.0, found.high))


def difference(
    record: Record, other: Record, name: str, n: int, *, distance: bool = False
) -> Found:
    """Subtract a figure of one network from that of another, as if each had n images of its own.

    Args:
        record: The one.
        other: The other.
        name: The figure.
        n: How many images each was tested on.
        distance: Whether to take the distances of the figure from 0.
    """
    one, two = (abs(each[name]) if distance else each[name] for each in (record, other))
    return _over_images(one - two, math.hypot(*(_error(r, name, n) for r in (record, other))))


def _error(record: Record, name: str, n: int) -> float:
    """Return a standard error that is not too small, without the figures of each image.

    Accuracy is a share. A confidence lies in [0, 1], so it varies no more than a share of its mean.
    A gap between the two, signed or by bins, varies no more than both together. A confidence that
    is not told is taken for the one that varies most. Two right and two wrong answers are added,
    since a share of 0 or 1 is no certainty. The upward bias of an error by bins is not in it.
    """
    accuracy, confidence = (
        math.sqrt(share * (1 - share) / n)
        for share in (
            (record["accuracy"] * n + 2) / (n + 4),
            (record.get("confidence", 0.5) * n + 2) / (n + 4),
        )
    )
    return {"accuracy": accuracy, "confidence": confidence}.get(name, accuracy + confidence)


def _over_images(value: float, error: float) -> Found:
    half = float(stats.norm.ppf(1 - LEVEL / 2)) * error
    return Found(value, value - half, value + half, 2 * float(stats.norm.sf(abs(value) / error)))


# --- what follows from it ---


def lower(claim: str, paper: float | None, found: Found, network: str, reason: str = "") -> Row:
    """Judge the claim that something is below 0, such as a difference."""
    return _directed(claim, paper, found, network, reason, below=True)


def higher(claim: str, paper: float | None, found: Found, network: str, reason: str = "") -> Row:
    """Judge the claim that something is above 0."""
    return _directed(claim, paper, found, network, reason, below=False)


def _directed(
    claim: str, paper: float | None, found: Found, network: str, reason: str, *, below: bool
) -> Row:
    said = "" if paper is None else f"{paper:+.3f}"
    if found.p >= LEVEL:
        verdict = "not reproduced: not told apart"
    elif (found.value < 0) == below:
        verdict = "reproduced"
    else:
        verdict = "not reproduced: the contrary"
    interval = "" if math.isnan(found.low) else f"{found.low:+.3f} to {found.high:+.3f}"
    p = "< 0.001" if found.p < 0.001 else f"{found.p:.3f}"
    return Row(claim, said, f"{found.value:+.3f}", interval, p, verdict, network, reason)


def near(
    claim: str,
    paper: float | tuple[float, float],
    found: Found,
    network: str,
    reason: str = "",
    sign: str = "",
) -> Row:
    """Judge a figure of a table: is ours within :data:`TOLERANCE` of it, or within its range?"""
    if isinstance(paper, tuple):
        (least, most), said = paper, f"{paper[0]:{sign}.3f} to {paper[1]:{sign}.3f}"
    else:
        least, most, said = paper - TOLERANCE, paper + TOLERANCE, f"{paper:{sign}.3f}"
    verdict = "reproduced" if least <= found.value <= most else "not reproduced"
    interval = f"{found.low:{sign}.3f} to {found.high:{sign}.3f}"
    return Row(claim, said, f"{found.value:{sign}.3f}", interval, "", verdict, network, reason)


def untestable(claim: str, paper: str, reason: str, ours: str = "", network: str = "") -> Row:
    """Say why a claim has no verdict."""
    return Row(claim, paper, ours, "", "", "not testable here", network, reason)


def table(rows: Sequence[Row]) -> str:
    """Lay rows out as Markdown; a claim on several networks is told in the first of its rows."""
    above = (None, *(row.claim for row in rows))
    told = [
        row._replace(claim="") if row.claim == claim else row
        for row, claim in zip(rows, above, strict=False)
    ]
    return "\n".join("| " + " | ".join(row) + " |" for row in (HEADER, ALIGN, *told))
