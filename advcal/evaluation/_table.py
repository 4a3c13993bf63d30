"""Records as aligned text, LaTeX or CSV."""

import csv
import dataclasses
import io
import math
import statistics
from collections.abc import Mapping, Sequence
from typing import Any, Literal, TypeVar, cast

from advcal import _checks
from advcal.evaluation._evaluate import FIGURES, Evaluation, TargetedEvaluation
from advcal.evaluation._json import numbers
from advcal.evaluation._markup import aligned, latex
from advcal.evaluation._severities import averaged, listed

Key = TypeVar("Key", bound=tuple[str, ...])


def table(
    records: Mapping[Key, Evaluation | Sequence[Evaluation]] | Sequence[Mapping[str, Any]],
    *,
    columns: Sequence[str] | None = None,
    figures: Sequence[str] = ("n", "clean_accuracy", *FIGURES),
    intervals: Literal["brackets", "plus_minus"] | None = None,
    over: Literal["severity", "corruption", "both"] | None = None,
    format: str = "markdown",
) -> str:
    """Lay out records as a table: Markdown that reads as plain text too, LaTeX or CSV.

    Args:
        records: From the words that name a row to its record, or to a list of records of
            independent runs, shown as mean ± standard deviation; or what `sweep` returns.
        columns: The heading of each of these words, `("model", "attack")` by default; of what
            `sweep` returns the keys that name a row, by default
            `("model", "data", "attack", "eps")`.
        figures: The attributes of `Evaluation` to show, in order; `"reached"` is of attacks that
            had targets.
        intervals: How to show the interval of each figure, of level .95 over the examples:
            `"brackets"` for its ends, `"plus_minus"` for half its width, or None for not at all;
            records of several runs have their standard deviation instead.
        over: What to take means over, of what `sweep` returns of corrupted data: `"severity"` for a
            row per corruption, `"corruption"` for a row per severity, `"both"`, or None. They are
            known by names such as `"fog 3"`; rows of other data stay.
        format: `"markdown"`; `"latex"`, a `tabular` with the rules of the package booktabs; or
            `"csv"`, with all digits and the figures' own names; of runs the standard deviation has
            a column to itself, such as `accuracy_std`, and the ends of intervals have two, such as
            `accuracy_low` and `accuracy_high`.

    Returns:
        The table, one line per record and one or more of heading.

    Raises:
        TypeError: If `records` is neither a mapping to `Evaluation` or lists of them, nor a list
            of dicts.
        ValueError: If there are no records, a key has not one word per name, a dict lacks a name or
            a figure, or a figure is not an attribute of `Evaluation`.

    Example:
        >>> import torch
        >>> from advcal.evaluation import evaluate
        >>> record = evaluate(torch.nn.Identity(), [(torch.eye(2), torch.tensor([0, 1]))])
        >>> print(table({("identity", "none"): record}, figures=["n", "accuracy", "ece"]))
        | model    | attack | n | accuracy |    ece |
        |:---------|:-------|--:|---------:|-------:|
        | identity | none   | 2 |   1.0000 | 0.2689 |
    """
    _checks.choice("format", format, ("markdown", "latex", "csv"))
    if intervals is not None:
        _checks.choice("intervals", intervals, ("brackets", "plus_minus"))
    others = ("bins", "intervals")
    fields = dataclasses.fields(TargetedEvaluation)
    known = [each.name for each in fields if each.name not in others]
    for figure in figures:
        _checks.choice("figures", figure, known)
    if over is not None:
        records = averaged(cast(Any, records), over, figures)
    if isinstance(records, Mapping):
        columns = ("model", "attack") if columns is None else columns
        rows = _rows_of_mapping(records, columns, figures, intervals is not None)
    else:
        columns = ("model", "data", "attack", "eps") if columns is None else columns
        rows = _rows_of_list(records, columns, figures, intervals is not None)
    if not rows:
        raise ValueError("expected one record or more, got none")
    if format == "csv":
        return _csv(columns, figures, rows)
    n = len(columns)
    cells = [[*columns, *(figure.replace("_", " ") for figure in figures)]]
    for row in rows:
        cells.append([*map(_name, row[:n]), *(_cell(value, intervals) for value in row[n:])])
    return (aligned if format == "markdown" else latex)(cells, n_names=n)


def _rows_of_mapping(
    records: Mapping[Any, Any], columns: Sequence[str], figures: Sequence[str], intervals: bool
) -> list[list[Any]]:
    rows = []
    for key, record in records.items():
        words = isinstance(key, tuple) and all(isinstance(word, str) for word in key)
        if not words or len(key) != len(columns):
            raise ValueError(f"expected {len(columns)} words to name a row, got {key!r}")
        runs = record if isinstance(record, (list, tuple)) else [record]
        if not runs:
            raise ValueError(f"expected one run or more for {key!r}, got none")
        for run in runs:
            if not isinstance(run, Evaluation):
                raise TypeError(f"expected records of Evaluation, got {_checks.kind(run)}")
        if intervals and len(runs) == 1:
            values = [_with_ends(vars(runs[0]), figure) for figure in figures]
        else:
            values = [_over_runs([getattr(run, f, None) for run in runs]) for f in figures]
        rows.append([*key, *values])
    return rows


def _over_runs(values: list[Any]) -> Any:
    """Return the value that is the same in all runs, or the mean and the standard deviation."""
    values = [value for value in values if value is not None] or [None]
    if len(values) == 1 or (isinstance(values[0], int) and len(set(values)) == 1):
        return values[0]
    if not all(map(math.isfinite, values)):  # an infinite NLL has no spread
        return statistics.fmean(values), math.nan
    return statistics.fmean(values), statistics.stdev(values)


def _with_ends(record: Mapping[str, Any], figure: str) -> Any:
    """Return a figure of a record and the ends of its interval, if it has one."""
    ends = record.get("intervals", {}).get(figure)
    value = numbers(record.get(figure))
    return value if ends is None else (value, *map(numbers, ends))


def _rows_of_list(
    records: Any, columns: Sequence[str], figures: Sequence[str], intervals: bool
) -> list[list[Any]]:
    rows = []
    for record in listed(records, [*columns, *(each for each in figures if each != "reached")]):
        values = [_with_ends(record, f) if intervals else numbers(record.get(f)) for f in figures]
        rows.append([*(record[name] for name in columns), *values])
    return rows


def _csv(columns: Sequence[str], figures: Sequence[str], rows: Sequence[Sequence[Any]]) -> str:
    n = len(columns)
    words: list[Any] = [*zip(columns, *(row[:n] for row in rows), strict=True)]
    for figure, *values in zip(figures, *(row[n:] for row in rows), strict=True):
        width = max(len(value) if isinstance(value, tuple) else 1 for value in values)
        if width > 1:
            empty = (None,) * width  # beside a figure without a spread
            full = [
                ((*value, *empty) if isinstance(value, tuple) else (value, *empty))
                for value in values
            ]
            endings = {2: ("", "_std"), 3: ("", "_low", "_high")}[width]
            headings = [f"{figure}{ending}" for ending in endings]
            words += zip(headings, *(each[:width] for each in full), strict=True)
        else:
            words.append((figure, *values))
    text = io.StringIO()
    csv.writer(text, lineterminator="\n").writerows(zip(*words, strict=True))
    return text.getvalue().rstrip("\n")


def _name(value: Any) -> str:
    return f"{value:.4g}" if isinstance(value, float) else "" if value is None else str(value)


def _cell(value: Any, intervals: str | None) -> str:
    if isinstance(value, tuple) and len(value) == 3:
        middle, low, high = value
        if intervals == "brackets":
            return f"{middle:.3f} [{low:.3f}, {high:.3f}]"
        return f"{middle:.3f} ± {(high - low) / 2:.3f}"
    if isinstance(value, tuple):
        return "{:.3f} ± {:.3f}".format(*value)
    return f"{value:.4f}" if isinstance(value, float) else "" if value is None else str(value)
