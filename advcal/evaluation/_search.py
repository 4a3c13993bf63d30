"""Fill a Pareto front by one hyperparameter: where to look next."""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Mapping, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

from advcal import _checks
from advcal.evaluation import _resume
from advcal.evaluation._fingerprint import fingerprint
from advcal.evaluation._pareto import costs_of


def pareto_search(
    run: Callable[[float], Any],
    values: Sequence[float],
    *,
    n: int,
    maximise: Sequence[str] = (),
    minimise: Sequence[str] = (),
    records: Mapping[float, Any] | None = None,
    path: str | os.PathLike[str] | None = None,
) -> dict[float, Any]:
    """Fill a Pareto front by one hyperparameter: look half way along the widest gap of the front.

    Runs the given values, then `n` more: each is the mean of two neighbours, those between which
    the figures differ most, in units of the range that each figure has so far. Training is `run`'s
    affair: give it a seed and a checkpoint of its own.

    Args:
        run: A value, for instance of the radius of the training attack, to a record.
        values: Two values or more to begin with; the search stays between them.
        n: The number of further values.
        maximise: The figures of which more is better, in the order of `pareto`.
        minimise: The figures of which less is better.
        records: What is known before, which is not run again.
        path: A file of JSON that gets each record as soon as it is there, and from which a killed
            search of the same `run` goes on; nothing is written if None. Records are then kept as
            plain dicts.

    Returns:
        Values to records, in the order of the values; `pareto` of it is the front.

    Raises:
        TypeError: If an argument is of the wrong kind, or a record is nothing that JSON can hold.
        ValueError: If there are too few values or no figures, a record lacks a figure, or the file
            is of another `run`.

    Example:
        >>> def run(eps):
        ...     return {"clean": 1 - eps**2, "robust": eps}
        >>> list(pareto_search(run, [0.0, 1.0], n=2, maximise=["clean", "robust"]))
        [0.0, 0.5, 0.75, 1.0]
    """
    _checks.function("run", run)
    _checks.sequence("values", values)
    n = _checks.count("n", n, least=0)
    first = sorted({_checks.number("values", value) for value in values})
    if len(first) < 2:
        raise ValueError(f"expected two values or more, got {len(first)}")
    if path is not None:
        _checks.path("path", path)
    if records is not None:
        if not isinstance(records, Mapping):
            raise TypeError(f"expected records as a mapping, got {_checks.kind(records)}")
        for value in records:
            _checks.number("records at a value", value)
    runs = _Runs(run, dict(records or {}), None if path is None else Path(path))
    found: dict[float, Any] = {value: runs(value) for value in first}
    for _ in range(n):
        value = _widest(costs_of(dict(sorted(found.items())), maximise, minimise))
        found[value] = runs(value)
    return dict(sorted(found.items()))


class _Runs:
    """Runs each value once, however often the search is killed."""

    def __init__(
        self, run: Callable[[float], Any], known: dict[float, Any], file: Path | None
    ) -> None:
        self.run, self.known, self.file = run, known, file
        self.settings = {} if file is None else {"run": fingerprint(run)}
        self.kept = _resume.read(file, self.settings, "a search", "records") or []
        self.known |= dict(self.kept)

    def __call__(self, value: float) -> Any:
        if value not in self.known:
            record = self.run(value)
            if self.file is not None:
                record = _plain(record)
                self.kept.append([value, record])
                _resume.write(self.file, self.settings, "records", self.kept)
            self.known[value] = record
        return self.known[value]


def _plain(record: Any) -> dict[str, Any]:
    """Return a record as plain numbers and lists."""
    if isinstance(record, Mapping):
        return dict(record)
    if not hasattr(record, "as_dict"):
        raise TypeError(
            f"expected records as mappings to keep in a file, got {_checks.kind(record)}"
        )
    return dict(record.as_dict())


def _widest(costs: Mapping[float, tuple[float, ...]]) -> float:
    """Return the middle of the neighbours whose figures are furthest apart."""
    columns = list(zip(*costs.values(), strict=True))
    ranges = [max(column) - min(column) or 1.0 for column in columns]

    places = [[c / r for c, r in zip(cost, ranges, strict=True)] for cost in costs.values()]
    gaps = [math.dist(left, right) for left, right in pairwise(places)]
    widest = gaps.index(max(gaps))
    return sum(list(costs)[widest : widest + 2]) / 2
