"""Records as aligned text, LaTeX or CSV."""

import csv
import dataclasses
import io
import math
import statistics
from collections.abc import Mapping, Sequence
from typing import Any, TypeVar

from advcal import _checks
from advcal.evaluation._evaluate import FIGURES, Evaluation

Key = TypeVar("Key", bound=tuple[str, ...])

_LATEX = {letter: f"\\{letter}" for letter in "&%$#_{}"}
_LATEX |= {
    "±": r"$\pm$",
    "≤": r"$\leq$",
    "≥": r"$\geq$",
    "\\": r"\textbackslash{}",
    "~": r"\textasciitilde{}",
    "^": r"\textasciicircum{}",
}


def table(
    records: Mapping[Key, Evaluation | Sequence[Evaluation]] | Sequence[Mapping[str, Any]],
    *,
    columns: Sequence[str] | None = None,
    figures: Sequence[str] = ("n", "clean_accuracy", *FIGURES),
    format: str = "markdown",
) -> str:
    """Lay out records as a table: Markdown that reads as plain text too, LaTeX or CSV.

    Args:
        records: From the words that name a row to its record, or to a list of records of
            independent runs, shown as mean ± standard deviation; or what `sweep` returns.
        columns: The heading of each of these words, `("model", "attack")` by default; of what
            `sweep` returns the keys that name a row, by default
            `("model", "data", "attack", "eps")`.
        figures: The attributes of `Evaluation` to show, in order.
        format: `"markdown"`; `"latex"`, a `tabular` with the rules of the package booktabs; or
            `"csv"`, with all digits and the figures' own names; of runs the standard deviation has
            a column to itself, such as `accuracy_std`.

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
    known = [field.name for field in dataclasses.fields(Evaluation) if field.name != "bins"]
    for figure in figures:
        _checks.choice("figures", figure, known)
    if isinstance(records, Mapping):
        columns = ("model", "attack") if columns is None else columns
        rows = _rows_of_mapping(records, columns, figures)
    else:
        columns = ("model", "data", "attack", "eps") if columns is None else columns
        rows = _rows_of_list(records, columns, figures)
    if not rows:
        raise ValueError("expected one record or more, got none")
    if format == "csv":
        return _csv(columns, figures, rows)
    heading = [*columns, *(figure.replace("_", " ") for figure in figures)]
    cells = [heading, *([_cell(value) for value in row] for row in rows)]
    return (aligned if format == "markdown" else latex)(cells, n_names=len(columns))


def _rows_of_mapping(
    records: Mapping[Any, Any], columns: Sequence[str], figures: Sequence[str]
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
        rows.append([*key, *(_over_runs([getattr(run, f) for run in runs]) for f in figures)])
    return rows


def _over_runs(values: list[Any]) -> Any:
    """Return the value that is the same in all runs, or the mean and the standard deviation."""
    if len(values) == 1 or (isinstance(values[0], int) and len(set(values)) == 1):
        return values[0]
    if not all(map(math.isfinite, values)):  # an infinite NLL has no spread
        return statistics.fmean(values), math.nan
    return statistics.fmean(values), statistics.stdev(values)


def _rows_of_list(records: Any, columns: Sequence[str], figures: Sequence[str]) -> list[list[Any]]:
    listed = records if isinstance(records, (list, tuple)) else ()
    others = [f" of {_checks.kind(each)}" for each in listed if not isinstance(each, Mapping)]
    if others or listed is not records:
        got = _checks.kind(records) + "".join(others[:1])
        raise TypeError(f"expected records as a mapping or a list of dicts, got {got}")
    rows = []
    for record in records:
        for name in (*columns, *figures):
            if name not in record:
                raise ValueError(f"expected {name!r} in each record, got {list(record)}")
        names = [record[name] for name in columns]
        short = [f"{value:.4g}" if isinstance(value, float) else value for value in names]
        rows.append([*short, *(record[figure] for figure in figures)])
    return rows


def aligned(rows: Sequence[Sequence[str]], n_names: int) -> str:
    """Lay out rows as a Markdown table: the first is the heading, the first cells are words."""
    rows = [[cell.replace("|", "\\|") for cell in row] for row in rows]
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    sides = "<" * n_names + ">" * (len(widths) - n_names)
    form = "| " + " | ".join(map("{{:{}{}}}".format, sides, widths)) + " |"
    heading, *lines = (form.format(*row) for row in rows)
    rules = {"<": ":{}-", ">": "-{}:"}
    rule = (rules[side].format("-" * width) for side, width in zip(sides, widths, strict=True))
    return "\n".join([heading, f"|{'|'.join(rule)}|", *lines])


def latex(rows: Sequence[Sequence[str]], n_names: int) -> str:
    """Lay out rows as a LaTeX tabular: words to the left, figures to the right."""
    heading, *lines = (
        " & ".join("".join(_LATEX.get(letter, letter) for letter in cell) for cell in row) + r" \\"
        for row in rows
    )
    columns = "l" * n_names + "r" * (len(rows[0]) - n_names)
    start, end = rf"\begin{{tabular}}{{{columns}}}", r"\end{tabular}"
    return "\n".join([start, r"\toprule", heading, r"\midrule", *lines, r"\bottomrule", end])


def _csv(columns: Sequence[str], figures: Sequence[str], rows: Sequence[Sequence[Any]]) -> str:
    n = len(columns)
    words: list[Any] = [*zip(columns, *(row[:n] for row in rows), strict=True)]
    for figure, *values in zip(figures, *(row[n:] for row in rows), strict=True):
        if any(isinstance(value, tuple) for value in values):
            pairs = [value if isinstance(value, tuple) else (value, None) for value in values]
            words += zip((figure, f"{figure}_std"), *pairs, strict=True)
        else:
            words.append((figure, *values))
    text = io.StringIO()
    csv.writer(text, lineterminator="\n").writerows(zip(*words, strict=True))
    return text.getvalue().rstrip("\n")


def _cell(value: Any) -> str:
    if isinstance(value, tuple):
        return "{:.3f} ± {:.3f}".format(*value)
    return f"{value:.4f}" if isinstance(value, float) else "" if value is None else str(value)
