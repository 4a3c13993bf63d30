"""Choose by several figures at once: the Pareto front, and its volume."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, TypeVar

from advcal import _checks

Key = TypeVar("Key")


def pareto(
    records: Mapping[Key, Any], *, maximise: Sequence[str] = (), minimise: Sequence[str] = ()
) -> dict[Key, Any]:
    """Keep the records that no other one is as good as in every figure and better than in one.

    Records that are equal in all figures stay or go together.

    Args:
        records: From names to records: what `evaluate` returns, or dicts, or anything with the
            figures as attributes.
        maximise: The figures of which more is better, such as `"accuracy"`.
        minimise: The figures of which less is better, such as `"ece"`.

    Returns:
        The records on the front, in the order that they came in.

    Raises:
        TypeError: If an argument is of the wrong kind.
        ValueError: If there are no records or figures, or a record has no finite number for one.

    Example:
        >>> records = {
        ...     "standard": {"accuracy": 0.1, "ece": 0.05},
        ...     "AT": {"accuracy": 0.6, "ece": 0.1},
        ...     "worse": {"accuracy": 0.5, "ece": 0.2},
        ... }
        >>> list(pareto(records, maximise=["accuracy"], minimise=["ece"]))
        ['standard', 'AT']
    """
    costs = costs_of(records, maximise, minimise)
    front = _undominated(list(costs.values()))
    return {key: records[key] for key, cost in costs.items() if cost in front}


def hypervolume(
    records: Mapping[Any, Any],
    *,
    reference: Mapping[str, float],
    maximise: Sequence[str] = (),
    minimise: Sequence[str] = (),
) -> float:
    """Compute the volume between the Pareto front and a point that is worse: more is better.

    It is exact, for any number of figures, and meant for tens of records. Records that are not
    better than the reference in every figure add nothing.

    Args:
        records: From names to records, as in `pareto`.
        reference: A value for each figure, at the bad end: one for all that are to be compared.
        maximise: The figures of which more is better.
        minimise: The figures of which less is better.

    Returns:
        The volume, in the product of the units of the figures.

    Raises:
        TypeError: If an argument is of the wrong kind.
        ValueError: If there are no records or figures, a record has no finite number for one, or
            the reference has not one number for each figure.

    Example:
        >>> records = {"a": {"accuracy": 0.5, "ece": 0.25}, "b": {"accuracy": 0.25, "ece": 0.0}}
        >>> worst = {"accuracy": 0.0, "ece": 0.5}
        >>> hypervolume(records, reference=worst, maximise=["accuracy"], minimise=["ece"])
        0.1875

    References:
        Zitzler & Thiele, Multiobjective Evolutionary Algorithms, IEEE Transactions on Evolutionary
        Computation 3 (4), 1999.
    """
    costs = costs_of(records, maximise, minimise)
    names = [*maximise, *minimise]
    if not isinstance(reference, Mapping) or set(reference) != set(names):
        raise ValueError(f"expected reference as a number for each of {names}, got {reference!r}")
    signs = [-1.0] * len(maximise) + [1.0] * len(minimise)
    corner = tuple(
        sign * _checks.number(f"reference[{name!r}]", reference[name])
        for sign, name in zip(signs, names, strict=True)
    )
    inside = {
        cost for cost in costs.values() if all(c < r for c, r in zip(cost, corner, strict=True))
    }
    return _volume(list(inside), corner)


def costs_of(
    records: Mapping[Key, Any], maximise: Sequence[str], minimise: Sequence[str]
) -> dict[Key, tuple[float, ...]]:
    """Return the figures of each record with their signs turned so that less is better."""
    if not isinstance(records, Mapping):
        raise TypeError(f"expected records as a mapping, got {_checks.kind(records)}")
    if not records:
        raise ValueError("expected one record or more, got none")
    for name, figures in (("maximise", maximise), ("minimise", minimise)):
        _checks.sequence(name, figures)
        for figure in figures:
            _checks.arguments(figure=figure)
    signed = [*((f, -1.0) for f in maximise), *((f, 1.0) for f in minimise)]
    if not signed:
        raise ValueError("expected a figure to maximise or to minimise, got none")
    return {
        key: tuple(sign * _figure(key, record, figure) for figure, sign in signed)
        for key, record in records.items()
    }


def _figure(key: object, record: Any, figure: str) -> float:
    value = record.get(figure) if isinstance(record, Mapping) else getattr(record, figure, None)
    if value is None:
        raise ValueError(f"expected {figure!r} in each record, got none in {key!r}")
    return _checks.figure(f"{figure} of {key!r}", value)


def _dominates(one: tuple[float, ...], other: tuple[float, ...]) -> bool:
    return one != other and all(a <= b for a, b in zip(one, other, strict=True))


def _undominated(costs: Sequence[tuple[float, ...]]) -> set[tuple[float, ...]]:
    return {cost for cost in costs if not any(_dominates(other, cost) for other in costs)}


def _volume(costs: list[tuple[float, ...]], corner: tuple[float, ...]) -> float:
    """Compute the volume that costs dominate below a corner: slices along the last figure."""
    if not costs:
        return 0.0
    if len(corner) == 1:
        return corner[0] - min(costs)[0]
    total, rising = 0.0, sorted(_undominated(costs), key=lambda cost: cost[-1])
    ends = [*(cost[-1] for cost in rising[1:]), corner[-1]]
    for i, (cost, end) in enumerate(zip(rising, ends, strict=True), 1):
        if end > cost[-1]:
            total += (end - cost[-1]) * _volume([each[:-1] for each in rising[:i]], corner[:-1])
    return total
