"""Records as rows: what names each of them, and its figures."""

import dataclasses
import math
import statistics
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple, TypeAlias, TypeVar, cast

from advcal import _checks
from advcal.evaluation._costs import Cost, check_costs, with_costs
from advcal.evaluation._evaluate import FIGURES, Evaluation, TargetedEvaluation
from advcal.evaluation._json import numbers
from advcal.evaluation._severities import averaged, listed
from advcal.metrics import Interval

Key = TypeVar("Key", bound=str | tuple[str, ...])
Names: TypeAlias = Sequence[str] | Mapping[str, str]

SHOWN = ("n", "clean_accuracy", *FIGURES)
_KNOWN = [
    each.name
    for each in dataclasses.fields(TargetedEvaluation)
    if each.name not in ("bins", "intervals")
]


class Spread(NamedTuple):
    """A figure of several runs."""

    mean: float
    std: float


class Row(NamedTuple):
    """One line of a table: by column what names it, and by figure its value.

    A value is None, a number, a number with its `Interval`, or the `Spread` of runs.
    """

    names: dict[str, Any]
    values: dict[str, Any]

    def without_ends(self) -> "Row":
        """Leave the intervals out."""
        values = {
            figure: value.value if isinstance(value, Interval) else value
            for figure, value in self.values.items()
        }
        return Row(self.names, values)


def rows(
    records: Mapping[Key, Evaluation | Sequence[Evaluation]] | Sequence[Mapping[str, Any]],
    *,
    columns: Names | None = None,
    figures: Names = SHOWN,
    over: str | None = None,
    costs: Mapping[str, Cost] | None = None,
) -> list[dict[str, Any]]:
    """Flatten records to one dict of names and numbers each: `pandas.DataFrame(rows(records))`.

    Args:
        records: As in `table`.
        columns: As in `table`: what names a row, in order, or a mapping that renames it.
        figures: As in `table`: the attributes of `Evaluation`, or a mapping that renames them.
        over: As in `table`: what to take means over.
        costs: As in `table`: the `Cost` of each model, whose numbers come last: `parameters`,
            `bytes`, and for a batch of 8 `ms_8`, `ms_8_low` and `ms_8_high`.

    Returns:
        Dicts of the same keys. Next to `accuracy` are the ends of its interval of level .95,
        `accuracy_low` and `accuracy_high`, or for runs `accuracy_std`, their standard deviation; of
        a record that has none the value is None.

    Raises:
        TypeError: If `records` is neither a mapping to `Evaluation` or lists of them, nor a list
            of dicts.
        ValueError: As in `table`.

    Example:
        >>> import torch
        >>> from advcal.evaluation import evaluate
        >>> record = evaluate(torch.nn.Identity(), [(torch.eye(2), torch.tensor([0, 1]))])
        >>> [found] = rows({"identity": record}, figures=["accuracy"])
        >>> [*found]
        ['model', 'accuracy', 'accuracy_low', 'accuracy_high']
    """
    names, shown = named_by(records, columns), headings("figures", figures)
    found = gathered(records, [*names], [*shown], over)
    lines = flat(found, names, shown)
    if costs is None:
        return lines
    check_costs(costs, found, [*names])
    return with_costs(lines, found, costs)


def flat(
    found: Sequence[Row], columns: Mapping[str, str], figures: Mapping[str, str]
) -> list[dict[str, Any]]:
    """Give each number of each row a key of its own, the same keys in all rows."""
    parts = {figure: [_parts(row.values[figure]) for row in found] for figure in figures}
    made: list[dict[str, Any]] = [
        {heading: row.names[name] for name, heading in columns.items()} for row in found
    ]
    for figure, heading in figures.items():
        for ending in dict.fromkeys(ending for each in parts[figure] for ending in each):
            for line, each in zip(made, parts[figure], strict=True):
                line[heading + ending] = each.get(ending)
    return made


def _parts(value: Any) -> dict[str, Any]:
    """Return the numbers of a value by the ending that tells them apart."""
    if isinstance(value, Spread):
        return {"": value.mean, "_std": value.std}
    if isinstance(value, Interval):
        return {"": value.value, "_low": value.low, "_high": value.high}
    return {"": value}


def headings(what: str, names: Any) -> dict[str, str]:
    """Return the heading of each name: the name itself if it is not renamed."""
    if not isinstance(names, (list, tuple, Mapping)):
        got = _checks.kind(names)
        raise TypeError(f"expected {what} as a list or a mapping of names, got {got}")
    pairs = list(names.items()) if isinstance(names, Mapping) else [(each, each) for each in names]
    for each in (word for pair in pairs for word in pair):
        if not isinstance(each, str):
            raise TypeError(f"expected {what} to be names, got {_checks.kind(each)} among them")
    shown = [heading for _, heading in pairs]
    for heading in shown:
        if shown.count(heading) > 1:
            raise ValueError(f"expected {what} that differ, got {heading!r} twice")
    return dict(pairs)


def named_by(records: Any, columns: Names | None) -> dict[str, str]:
    """Return the columns that name a row, with their headings; by default those of the records."""
    if columns is not None:
        return headings("columns", columns)
    if not isinstance(records, Mapping):
        columns = ("model", "data", "attack", "eps")
    elif records and all(len(_words(key) or "") == 1 for key in records):
        columns = ("model",)
    return headings("columns", columns or ("model", "attack"))


def gathered(
    records: Any, columns: Sequence[str], figures: Sequence[str], over: str | None
) -> list[Row]:
    """Check records and return them as rows."""
    for figure in figures:
        _checks.choice("figures", figure, _KNOWN)
    if over is not None:
        records = averaged(cast(Any, records), over, figures)
    of = _of_mapping if isinstance(records, Mapping) else _of_list
    found = of(records, columns, figures)
    if not found:
        raise ValueError("expected one record or more, got none")
    return found


def _words(key: Any) -> tuple[str, ...] | None:
    """Return the words of the key of a mapping, or None if it is of another kind."""
    words = (key,) if isinstance(key, str) else key
    fits = isinstance(words, tuple) and all(isinstance(word, str) for word in words)
    return words if fits else None


def _of_mapping(
    records: Mapping[Any, Any], columns: Sequence[str], figures: Sequence[str]
) -> list[Row]:
    found = []
    for key, record in records.items():
        words = _words(key)
        if words is None or len(words) != len(columns):
            raise ValueError(f"expected {len(columns)} words to name a row, got {key!r}")
        runs = record if isinstance(record, (list, tuple)) else [record]
        if not runs:
            raise ValueError(f"expected one run or more for {key!r}, got none")
        for run in runs:
            if not isinstance(run, Evaluation):
                raise TypeError(f"expected records of Evaluation, got {_checks.kind(run)}")
        if len(runs) == 1:
            values = [_with_ends(vars(runs[0]), figure) for figure in figures]
        else:
            values = [_over_runs([getattr(run, f, None) for run in runs]) for f in figures]
        names = dict(zip(columns, words, strict=True))
        found.append(Row(names, dict(zip(figures, values, strict=True))))
    return found


def _over_runs(values: list[Any]) -> Any:
    """Return the value that is the same in all runs, or the mean and the standard deviation."""
    values = [value for value in values if value is not None] or [None]
    if len(values) == 1 or (isinstance(values[0], int) and len(set(values)) == 1):
        return values[0]
    if not all(map(math.isfinite, values)):  # an infinite NLL has no spread
        return Spread(statistics.fmean(values), math.nan)
    return Spread(statistics.fmean(values), statistics.stdev(values))


def _with_ends(record: Mapping[str, Any], figure: str) -> Any:
    """Return a figure of a record with its interval, if it has one."""
    ends = record.get("intervals", {}).get(figure)
    value = numbers(record.get(figure))
    return value if ends is None else Interval(value, *map(numbers, ends))


def _of_list(records: Any, columns: Sequence[str], figures: Sequence[str]) -> list[Row]:
    wanted = [*columns, *(each for each in figures if each != "reached")]
    return [
        Row(
            {name: record[name] for name in columns},
            {figure: _with_ends(record, figure) for figure in figures},
        )
        for record in listed(records, wanted)
    ]
