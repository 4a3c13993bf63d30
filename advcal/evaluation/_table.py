"""Records as a table to read, to print or to compute with."""

import csv
import io
from collections.abc import Mapping, Sequence
from typing import Any, Literal, TypeAlias

from advcal import _checks
from advcal._markup import Groups, Text, aligned, html, latex
from advcal.evaluation._costs import Cost, check_costs, cost_words, with_costs
from advcal.evaluation._evaluate import Evaluation
from advcal.evaluation._rows import SHOWN, Key, Names, Row, flat, gathered, headings, named_by
from advcal.evaluation._words import Style, cells

Lines: TypeAlias = list[tuple[list[str], list[str]]]  # the names of each row, and its figures


def table(
    records: Mapping[Key, Evaluation | Sequence[Evaluation]] | Sequence[Mapping[str, Any]],
    *,
    columns: Names | None = None,
    figures: Names = SHOWN,
    intervals: Literal["brackets", "plus_minus"] | None = None,
    over: Literal["severity", "corruption", "both"] | None = None,
    across: str | None = None,
    stacked: bool = False,
    best: str | None = None,
    costs: Mapping[str, Cost] | None = None,
    percent: bool = False,
    digits: int | None = None,
    denominator: int | None = None,
    format: str = "markdown",
) -> str:
    """Lay out records as a table: Markdown that reads as plain text too, LaTeX or CSV.

    A notebook shows the Markdown as a table. For all of it in one `DataFrame` see `rows`.

    Args:
        records: From the name of a row, one word or a tuple of several, to its record, or to a list
            of records of independent runs, shown as mean ± standard deviation; or what `sweep`
            returns.
        columns: The heading of each word of a name, `"model"` and `"attack"` by default; of what
            `sweep` returns the keys that name a row, by default
            `("model", "data", "attack", "eps")`. A mapping renames them: `{"eps": "ε"}`.
        figures: The attributes of `Evaluation` to show, in order, or a mapping from them to their
            headings; `"reached"` is of attacks that had targets.
        intervals: How to show the interval of each figure, of level .95 over the examples:
            `"brackets"` for its ends, `"plus_minus"` for half its width, or None for not at all;
            records of several runs have their standard deviation instead.
        over: What to take means over, of what `sweep` returns of corrupted data: `"severity"` for a
            row per corruption, `"corruption"` for a row per severity, `"both"`, or None. They are
            known by names such as `"fog 3"`; rows of other data stay.
        across: The column whose words become headings above the figures, such as `"attack"`, so
            that a row has the figures of each; None for a row per record.
        stacked: Whether each figure has a row to itself instead of a column. All figures with their
            intervals fit into a terminal so, also with `across`.
        best: The column to compare, such as `"model"`: of the rows that differ in it alone the best
            of each figure is in bold, for MCS the one nearest to zero; None for no bold. It is the
            best number: `metrics.paired_test` says whether it is better by more than chance.
        costs: From each word of the column `"model"` to the `Cost` of that model, as the function
            `costs` returns them: parameters, megabytes and the median milliseconds of a batch come
            last in each row.
        percent: Whether to show accuracies, confidences, calibration errors and other shares in
            percent.
        digits: Digits after the point: 4 if None, 3 with an interval, and 2 less in percent.
        denominator: What radii are shown as fractions of, such as 255 for `8/255`.
        format: `"markdown"`; `"latex"`, a `tabular` with the rules of the package booktabs; or
            `"csv"`, one record to a line, with all digits whatever is said of looks; of runs the
            standard deviation has a column to itself, such as `accuracy_std`, and the ends of
            intervals have two, such as `accuracy_low` and `accuracy_high`.

    Returns:
        The table, one line per record and one or more of heading.

    Raises:
        TypeError: If `records` is neither a mapping to `Evaluation` or lists of them, nor a list
            of dicts, or another argument is of the wrong kind.
        ValueError: If there are no records, a key has not one word per column, a dict lacks a name
            or a figure, a figure is not an attribute of `Evaluation`, `across` or `best` is not a
            column, two records belong in one place, a model has no cost, or `stacked` costs are
            asked for.

    Example:
        >>> import torch
        >>> from advcal.evaluation import evaluate
        >>> record = evaluate(torch.nn.Identity(), [(torch.eye(2), torch.tensor([0, 1]))])
        >>> print(table({("identity", "none"): record}, figures=["n", "accuracy", "ece"]))
        | model    | attack | n | accuracy |    ece |
        |:---------|:-------|--:|---------:|-------:|
        | identity | none   | 2 |   1.0000 | 0.2689 |
        >>> print(table({"identity": record}, figures={"accuracy": "right"}, percent=True))
        | model    |  right |
        |:---------|-------:|
        | identity | 100.00 |
    """
    _checks.choice("format", format, ("markdown", "latex", "csv"))
    _checks.arguments(stacked=stacked, percent=percent, digits=digits, denominator=denominator)
    if intervals is not None:
        _checks.choice("intervals", intervals, ("brackets", "plus_minus"))
    names, shown = named_by(records, columns), headings("figures", figures)
    for option, column in (("across", across), ("best", best)):
        if column is not None:
            _checks.choice(option, column, [*names])
    found = gathered(records, [*names], [*shown], over)
    kept = [name for name in names if name != across]
    if costs is not None:
        check_costs(costs, found, kept)
        if stacked:
            raise ValueError("expected stacked without costs, which have columns, got both")
    if format == "csv":
        return _csv(found, names, shown, costs, ends=intervals is not None)
    style = Style(intervals, percent, digits, denominator)
    lines = cells(found, [*names], style, best)
    of_figures = [style.heading(figure, heading) for figure, heading in shown.items()]
    above = [names[name] for name in kept]
    if stacked:
        above, lines = [*above, "figure"], _stacked(lines, of_figures)
    groups: list[tuple[str, int]] = []
    if across is not None:
        place = [*names].index(across)
        words = [[*names.values()][place]] * isinstance(found[0].names[across], (int, float))
        groups, lines = _beside(lines, place, " ".join(words))
    of_columns = of_figures * max(1, len(groups))
    if stacked:  # a column is of one word of `across`, which is heading enough
        of_columns, groups = [word for word, _ in groups] or ["value"], []
    text = [[*above, *of_columns], *([*word, *row] for word, row in lines)]
    if costs is not None:
        place, last = kept.index("model"), cost_words(costs)
        heading = [*text[0], *next(iter(last.values()))]
        text = [heading, *([*line, *last[line[place]].values()] for line in text[1:])]
        groups += [("", len(heading) - len(lines[0][1]) - len(kept))] * bool(groups)
    return _laid_out(text, len(above), groups, format)


def _laid_out(text: Sequence[Sequence[str]], n_names: int, groups: Groups, format: str) -> str:
    if format == "latex":
        return latex(text, n_names, groups)
    return Text(aligned(text, n_names, groups), html(text, n_names, groups))


def _stacked(lines: Lines, figures: Sequence[str]) -> Lines:
    """Give each figure a row, which it names beside the words of the record."""
    return [
        ([*names, figure], [cell])
        for names, row in lines
        for figure, cell in zip(figures, row, strict=True)
    ]


def _beside(lines: Lines, place: int, of: str) -> tuple[list[tuple[str, int]], Lines]:
    """Put rows that differ in one word alone beside each other, under that word.

    Returns the words, each with the number of its columns, and the wider rows.
    """
    width = len(lines[0][1])
    groups = list(dict.fromkeys(names[place] for names, _ in lines))
    found: dict[tuple[str, ...], dict[str, list[str]]] = {}
    for names, figures in lines:
        key = (*names[:place], *names[place + 1 :])
        if names[place] in found.setdefault(key, {}):
            raise ValueError(f"expected one record for {names}, got two; name more columns")
        found[key][names[place]] = figures
    wide = [
        ([*key], [cell for group in groups for cell in row.get(group, [""] * width)])
        for key, row in found.items()
    ]
    return [(f"{of} {group}".strip(), width) for group in groups], wide


def _csv(
    found: Sequence[Row],
    names: Mapping[str, str],
    shown: Mapping[str, str],
    costs: Mapping[str, Cost] | None,
    *,
    ends: bool,
) -> str:
    if not ends:
        found = [row.without_ends() for row in found]
    lines = flat(found, names, shown)
    if costs is not None:
        lines = with_costs(lines, found, costs, ends=ends)
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerows([[*lines[0]], *([*line.values()] for line in lines)])
    return text.getvalue().rstrip("\n")
