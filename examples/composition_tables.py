"""The tables of examples/composition.py: what each recipe comes to, and beside AT+IAT."""

from __future__ import annotations

from typing import Any

import defenses
import evidence

GOES_ON = ("CAAT", "longer")  # from the weights of the baseline
KINDS = {
    "plain": "as it is",
    "clean temperature": "temperature",
    "temperature": "temperature for both",
    "by level": "temperature by level",
}
REFERENCE, LONGER = "AT+IAT, as it is", "AT+IAT, longer, as it is"
FIGURES = {
    "clean": ("none", "accuracy"),
    "clean ECE": ("none", "ece"),
    "PGD-20": ("PGD-20", "accuracy"),
    "PGD-20 ECE": ("PGD-20", "ece"),
    "IAA, predicted, ECE": ("IAA, predicted", "ece"),
}
LESS_IS_BETTER = ("clean ECE", "PGD-20 ECE", "envelope")

Rows = dict[str, dict[str, list[float]]]  # figures of networks and calibrations, a value per seed


def rows_of(name: str, run: dict[str, dict[str, Any]]) -> dict[str, dict[str, float]]:
    """Choose the figures of a network to report, a row per calibration."""
    rows = {}
    for kind, words in KINDS.items():
        found = run[kind]
        row = {column: found[attack][figure] for column, (attack, figure) in FIGURES.items()}
        row["envelope"] = found["OCA"]["confidence"] - found["UCA"]["confidence"]
        rows[f"{name}, {words}"] = {column: round(value, 6) for column, value in row.items()}
    return rows


def by_seed(runs: dict[str, dict[str, Any]]) -> dict[str, dict[str, dict[str, float]]]:
    """Put the rows of the networks of each seed together."""
    seeds: dict[str, dict[str, dict[str, float]]] = {}
    for key, run in runs.items():
        name, seed = key.split(" / ")
        seeds.setdefault(seed, {}).update(rows_of(name, run))
    return seeds


def figures(seeds: dict[str, dict[str, dict[str, float]]]) -> Rows:
    """Put the figures of each network and calibration together, a value per seed."""
    first = next(iter(seeds.values()))
    return {
        name: {column: [rows[name][column] for rows in seeds.values()] for column in row}
        for name, row in first.items()
    }


def table(rows: Rows, *, only: tuple[str, ...] = tuple(KINDS.values())) -> str:
    """Lay the figures out as Markdown: mean and standard deviation over the seeds."""
    columns = list(rows[REFERENCE])
    lines = ["| network | " + " | ".join(columns) + " |", "|:--|" + "--:|" * len(columns)]
    for name, row in rows.items():
        if name.rpartition(", ")[2] in only:
            lines.append(f"| {name} | " + " | ".join(map(defenses.spread, row.values())) + " |")
    return "\n".join(lines)


def comparison(rows: Rows, least: int = 0) -> str:
    """Subtract AT+IAT as it is from every other row, over the seeds, with 95 % intervals.

    A network that was trained twice as long is compared with AT+IAT that was too. It is ahead or
    behind in what differs with a p below .05 divided by the number of rows.

    Args:
        rows: The figures.
        least: In how many of the two errors and the envelope a row is ahead that is shown.
    """
    columns = ["PGD-20", *LESS_IS_BETTER]
    lines = ["| network | " + " | ".join([*columns, "ahead in", "behind in"]) + " |"]
    lines.append("|:--|" + "--:|" * len(columns) + ":--|" * 2)
    others = {name: row for name, row in rows.items() if name not in (REFERENCE, LONGER)}
    for name, row in others.items():
        reference = rows[LONGER if name.split(", ")[1] in GOES_ON else REFERENCE]
        found = {each: evidence.paired(row[each], reference[each]) for each in columns}
        sure = {each: f for each, f in found.items() if f.p < evidence.LEVEL / len(others)}
        ahead = [each for each, f in sure.items() if (f.value < 0) == (each in LESS_IS_BETTER)]
        if len(set(ahead) & set(LESS_IS_BETTER)) >= least:
            cells = [f"{f.value:+.3f} ({f.low:+.3f} to {f.high:+.3f})" for f in found.values()]
            cells += [", ".join(ahead), ", ".join(each for each in sure if each not in ahead)]
            lines.append(f"| {name} | " + " | ".join(cells) + " |")
    return "\n".join(lines)
