"""Which claims of a paper stand? Paired differences over seeds, from the results of the studies.

Reads the JSON files of examples/adaptive_smoothing.py and examples/shifts_and_ensembles.py and
prints a table: each claim with the mean difference over the seeds, its 95 % interval and its
p-value by the paired t-test, and a verdict that follows from them. Nothing is trained.

    python examples/verdicts.py --results docs/results
"""

import argparse
import json
import statistics
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

from scipy import stats

LEVEL = 0.05


class Paired(NamedTuple):
    """The mean of paired differences, its 95 % interval and the p-value of there being none."""

    difference: float
    low: float
    high: float
    p: float


class Claim(NamedTuple):
    """That a figure of one method is lower, or higher, than that of another."""

    words: str
    figure: str
    method: str
    other: str
    lower: bool = True


PRECOMPUTED = "AR-AdaLS, pre-computed"
CLAIMS = (
    Claim("AdaLS is better calibrated than plain training", "clean ECE", "AdaLS", "vanilla"),
    Claim("AR-AdaLS is better calibrated than plain training", "clean ECE", PRECOMPUTED, "vanilla"),
    Claim("AR-AdaLS is better than label smoothing", "clean ECE", PRECOMPUTED, "label smoothing"),
    Claim("AR-AdaLS is better than AdaLS", "clean ECE", PRECOMPUTED, "AdaLS"),
    Claim(
        "levels by robustness are better than levels at random",
        "clean ECE",
        PRECOMPUTED,
        "AR-AdaLS, random levels",
    ),
    Claim("on the fly is better than before", "clean ECE", "AR-AdaLS, on the fly", PRECOMPUTED),
    Claim("under shift, AR-AdaLS is better than plain", "shifted ECE", PRECOMPUTED, "vanilla"),
    Claim(
        "under shift, AR-AdaLS is better than label smoothing",
        "shifted ECE",
        PRECOMPUTED,
        "label smoothing",
    ),
    Claim("under shift, AR-AdaLS is better than AdaLS", "shifted ECE", PRECOMPUTED, "AdaLS"),
    Claim(
        "strange images stand out more than after label smoothing",
        "AUROC",
        PRECOMPUTED,
        "label smoothing",
        lower=False,
    ),
)


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--results", type=Path, required=True, help="folder of the JSON files")
    args = parser.parse_args()
    try:
        found = json.loads((args.results / "shifts.json").read_text())
    except (OSError, ValueError) as error:
        raise SystemExit(f"--results {args.results}: {error}") from None
    print(table(found))


def runs_of(shifts: dict[str, Any], figure: str, method: str) -> list[float]:
    """Return a figure of a method for each seed."""
    if figure == "AUROC":
        return [float(value) for value in shifts["auroc"][method]]
    found = shifts["figures"][method]
    if figure == "clean ECE":
        return [float(value) for value in found["clean"]["ece"]]
    shifted = [each["ece"] for key, each in found.items() if key != "clean"]
    return [statistics.fmean(values) for values in zip(*shifted, strict=True)]


def paired(values: Sequence[float], others: Sequence[float]) -> Paired:
    """Compare two methods that have the same seeds."""
    differences = [a - b for a, b in zip(values, others, strict=True)]
    mean = statistics.fmean(differences)
    error = statistics.stdev(differences) / len(differences) ** 0.5
    if error == 0:
        return Paired(mean, mean, mean, 1.0 if mean == 0 else 0.0)
    spread = stats.t(len(differences) - 1)
    half = float(spread.ppf(1 - LEVEL / 2)) * error
    return Paired(mean, mean - half, mean + half, 2 * float(spread.sf(abs(mean) / error)))


def verdict(found: Paired, *, lower: bool) -> str:
    """Say what follows for a claim."""
    if found.p >= LEVEL:
        return "not told apart"
    return "reproduced" if (found.difference < 0) == lower else "the contrary"


def table(shifts: dict[str, Any]) -> str:
    """Lay the claims out as Markdown."""
    lines = ["| claim | figure | difference | 95 % interval | p | verdict |"]
    lines.append("|:--|:--|--:|--:|--:|:--|")
    for claim in CLAIMS:
        ours, theirs = (runs_of(shifts, claim.figure, name) for name in (claim.method, claim.other))
        found = paired(ours, theirs)
        cells = [
            claim.words,
            claim.figure,
            f"{found.difference:+.3f}",
            f"{found.low:+.3f} to {found.high:+.3f}",
            f"{found.p:.3f}",
            verdict(found, lower=claim.lower),
        ]
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines)


if __name__ == "__main__":
    main()
