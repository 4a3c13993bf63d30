"""Which claims of a paper stand? Paired differences over seeds, from the results of the studies.

Reads the JSON files of examples/shifts_and_ensembles.py (Qin et al. on AR-AdaLS) and of
examples/defenses.py (Cheng et al. on IAA and IAT) and prints a table for each: every claim with the
mean difference over the seeds, its 95 % interval and its p-value by the paired t-test, and a
verdict that follows from them. Nothing is trained.

    python examples/verdicts.py --results docs/results
"""

import argparse
import json
import statistics
from collections.abc import Callable, Sequence
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


Values = Callable[[str, str], list[float]]  # of a figure and a method, for each seed

LS, ADALS, FLY = "label smoothing", "AdaLS", "AR-AdaLS, on the fly"
AR, RANDOM = "AR-AdaLS, pre-computed", "AR-AdaLS, random levels"
SMOOTHING = (
    Claim("AdaLS is better calibrated than plain training", "clean ECE", ADALS, "vanilla"),
    Claim("AR-AdaLS is better calibrated than plain training", "clean ECE", AR, "vanilla"),
    Claim("AR-AdaLS is better than label smoothing", "clean ECE", AR, LS),
    Claim("AR-AdaLS is better than AdaLS", "clean ECE", AR, ADALS),
    Claim("levels by robustness are better than levels at random", "clean ECE", AR, RANDOM),
    Claim("on the fly is better than before", "clean ECE", FLY, AR),
    Claim("under shift, AR-AdaLS is better than plain", "shifted ECE", AR, "vanilla"),
    Claim("under shift, AR-AdaLS is better than label smoothing", "shifted ECE", AR, LS),
    Claim("under shift, AR-AdaLS is better than AdaLS", "shifted ECE", AR, ADALS),
    Claim("strange images stand out more than after label smoothing", "AUROC", AR, LS, lower=False),
)
PGD, IAA = "distance of MCS from 0, PGD-20", "distance of MCS from 0, IAA"
INVERSE = (
    Claim("IAT withstands IAA better than plain training", IAA, "IAT", "standard"),
    Claim("IAT withstands PGD better than plain training", PGD, "IAT", "standard"),
    Claim("AT+IAT withstands IAA better than PGD-AT", IAA, "AT+IAT", "PGD-AT"),
    Claim("AT+IAT withstands PGD better than PGD-AT", PGD, "AT+IAT", "PGD-AT"),
    Claim("AT+IAT withstands PGD better than plain training", PGD, "AT+IAT", "standard"),
    Claim("AT+IAT is better calibrated than PGD-AT", "clean ECE", "AT+IAT", "PGD-AT"),
    Claim("CCAT is more exposed to IAA than PGD-AT", IAA, "CCAT", "PGD-AT", lower=False),
    Claim("entropy-AT is more exposed to IAA than PGD-AT", IAA, "entropy-AT", "PGD-AT", False),
)


def main() -> None:
    """Print the tables."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--results", type=Path, required=True, help="folder of the JSON files")
    args = parser.parse_args()
    try:
        shifts, defended = (
            json.loads((args.results / name).read_text())
            for name in ("shifts.json", "defenses.json")
        )
    except (OSError, ValueError) as error:
        raise SystemExit(f"--results {args.results}: {error}") from None
    print(table(SMOOTHING, of_shifts(shifts)))
    print()
    print(table(INVERSE, of_defenses(defended)))


def of_shifts(shifts: dict[str, Any]) -> Values:
    """Read figures out of shifts.json."""

    def values(figure: str, method: str) -> list[float]:
        if figure == "AUROC":
            return [float(value) for value in shifts["auroc"][method]]
        found = shifts["figures"][method]
        if figure == "clean ECE":
            return [float(value) for value in found["clean"]["ece"]]
        shifted = [each["ece"] for key, each in found.items() if key != "clean"]
        return [statistics.fmean(of_seed) for of_seed in zip(*shifted, strict=True)]

    return values


def of_defenses(studies: dict[str, Any]) -> Values:
    """Read figures out of defenses.json, in the order of the seeds."""

    def values(figure: str, method: str) -> list[float]:
        found = [study for study in studies.values() if study["defense"] == method]
        found.sort(key=lambda study: int(study["settings"]["seed"]))
        if figure == "clean ECE":
            return [float(study["results"]["none"]["ece"]) for study in found]
        attack = figure.rpartition(", ")[2]
        return [abs(float(study["results"][attack]["mcs"])) for study in found]

    return values


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


def table(claims: Sequence[Claim], values: Values) -> str:
    """Lay the claims out as Markdown; of a single seed there is a difference and no more."""
    lines = ["| claim | figure | difference | 95 % interval | p | verdict |"]
    lines.append("|:--|:--|--:|--:|--:|:--|")
    for claim in claims:
        ours, theirs = (values(claim.figure, name) for name in (claim.method, claim.other))
        if min(len(ours), len(theirs)) == 1:
            cells = [f"{ours[0] - theirs[0]:+.3f}", "", "", "one seed: not testable"]
        else:
            found = paired(ours, theirs)
            interval = f"{found.low:+.3f} to {found.high:+.3f}"
            said = verdict(found, lower=claim.lower)
            cells = [f"{found.difference:+.3f}", interval, f"{found.p:.3f}", said]
        lines.append("| " + " | ".join([claim.words, claim.figure, *cells]) + " |")
    return "\n".join(lines)


if __name__ == "__main__":
    main()
