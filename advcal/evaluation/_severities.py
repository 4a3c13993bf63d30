"""Records of corrupted data: means over severities, and errors against a baseline model."""

import dataclasses
import re
import statistics
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from advcal import _checks
from advcal.evaluation._json import numbers

Records = Sequence[Mapping[str, Any]]
_NAME = re.compile(r"(.+) ([1-5])")  # "fog 3"


@dataclasses.dataclass(frozen=True)
class CorruptionErrors:
    """The errors of a model under corruptions, in units of those of a baseline model.

    Attributes:
        mean: The mean corruption error, mCE: the mean of `kinds`; 1 is as good as the baseline.
        relative: The relative mCE, of what the error grows by from clean data; None without these.
        kinds: From each corruption to its error, CE.
    """

    mean: float
    relative: float | None
    kinds: Mapping[str, float]


def corruption_errors(
    records: Records, *, baseline: str, clean: str | None = None
) -> dict[str, CorruptionErrors]:
    r"""Compare models under corruptions with a baseline model, by the mean corruption error.

    $CE_c = \sum_s E_{s,c} / \sum_s E^b_{s,c}$ for corruption $c$, over its severities $s$, with the
    share of mistakes $E$ of a model and $E^b$ of the baseline; mCE is the mean over the
    corruptions. The relative mCE has $E_{s,c} - E$ for $E_{s,c}$, with the error $E$ on clean data,
    for both models. Papers print 100 times these numbers, with AlexNet as the baseline on
    ImageNet-C. Figures are comparable only for the same corruptions and the same baseline.

    Args:
        records: What `sweep` returns of models on the sets of `read_corruptions` or `corruptions`,
            one per model and data set. A name such as `"fog 3"` is of severity 3, another one is a
            corruption of one severity.
        baseline: The name of the model to compare with.
        clean: The name of the data set without corruption.

    Returns:
        From the name of each model, the baseline too, to its errors.

    Raises:
        TypeError: If an argument is of the wrong kind.
        ValueError: If there is none or more than one record of a model on a data set, no such
            baseline, or a corruption under which the baseline makes no mistakes, or no more than on
            clean data.

    Example:
        >>> accuracies = {("A", "fog 1"): 0.5, ("A", "fog 2"): 0.25, ("A", "test"): 1.0}
        >>> accuracies |= {("B", "fog 1"): 0.75, ("B", "fog 2"): 0.5, ("B", "test"): 0.75}
        >>> records = [{"model": m, "data": d, "accuracy": a} for (m, d), a in accuracies.items()]
        >>> found = corruption_errors(records, baseline="A", clean="test")["B"]
        >>> print(found.mean, found.relative)
        0.6 0.2

    References:
        Hendrycks & Dietterich, Benchmarking Neural Network Robustness to Common Corruptions and
        Perturbations, ICLR 2019, section 4.2.
    """
    errors: dict[str, dict[str, float]] = {}
    for record in listed(records, ("model", "data", "accuracy")):
        model, data = record["model"], record["data"]
        if data in errors.setdefault(model, {}):
            raise ValueError(f"expected one record of {model!r} on {data!r}, got more; choose one")
        errors[model][data] = 1 - _checks.number("accuracy", record["accuracy"], least=0, most=1)
    if baseline not in errors:
        raise ValueError(f"expected baseline to be one of {list(errors)}, got {baseline!r}")
    wanted = set(errors[baseline]) | ({clean} if clean is not None else set())
    for model, found in errors.items():
        if odd := sorted(wanted ^ set(found)):
            some = f"{odd[:3]}, not of both {baseline!r} and {model!r}"
            raise ValueError(f"expected records of the same data of each model, got {some}")
    sets: dict[str, list[str]] = {}
    for data in errors[baseline]:
        if data != clean:
            sets.setdefault(_kind(data), []).append(data)
    if not sets:
        raise ValueError("expected records of corrupted data, got none")
    return {
        model: CorruptionErrors(
            statistics.fmean(kinds.values()),
            None
            if clean is None
            else statistics.fmean(_ratios(found, errors[baseline], sets, clean).values()),
            kinds,
        )
        for model, found in errors.items()
        for kinds in [_ratios(found, errors[baseline], sets, None)]
    }


def _ratios(
    errors: Mapping[str, float],
    baseline: Mapping[str, float],
    sets: Mapping[str, Sequence[str]],
    clean: str | None,
) -> dict[str, float]:
    """Divide the errors of each corruption, less those on clean data, by the baseline's."""
    ratios = {}
    for kind, names in sets.items():
        own, other = (
            sum(each[name] - (0 if clean is None else each[clean]) for name in names)
            for each in (errors, baseline)
        )
        if other <= 0:
            more = "mistakes" if clean is None else "more mistakes than on clean data"
            raise ValueError(f"expected {more} of the baseline under {kind!r}, got none")
        ratios[kind] = own / other
    return ratios


def _kind(data: str) -> str:
    found = _NAME.fullmatch(data)
    return found[1] if found else data


# --- means -----------------------------------------------------------------------------------

_GROUPS: dict[str, Callable[[str, str], str]] = {
    "severity": lambda kind, level: kind,
    "corruption": lambda kind, level: f"severity {level}",
    "both": lambda kind, level: "corruptions",
}


def averaged(records: Records, over: str, figures: Sequence[str]) -> list[dict[str, Any]]:
    """Take the means of records that differ in the severity or the corruption of their data alone.

    What is not of corrupted data by its name stays as it is.
    """
    _checks.choice("over", over, _GROUPS)
    groups: dict[Any, list[Mapping[str, Any]]] = {}
    for record in listed(records, ("data",)):
        found = _NAME.fullmatch(record["data"])
        data = _GROUPS[over](*found.groups()) if found else record["data"]
        key = (data, found is None, *(record.get(name) for name in ("model", "attack", "eps")))
        groups.setdefault(key, []).append(record)
    return [
        dict(group[0])
        if alone
        else {
            **{name: group[0][name] for name in group[0] if name not in ("intervals", "bins")},
            "data": data,
            **{name: _mean([record.get(name) for record in group]) for name in figures},
        }
        for (data, alone, *_), group in groups.items()
    ]


def _mean(values: list[Any]) -> Any:
    if all(value == values[0] for value in values):
        return values[0]
    return statistics.fmean(map(numbers, values))


def listed(records: Any, names: Sequence[str]) -> Records:
    """Check a list of dicts that have some names."""
    some: Records = records if isinstance(records, (list, tuple)) else ()
    others = [f" of {_checks.kind(each)}" for each in some if not isinstance(each, Mapping)]
    if others or some is not records:
        got = _checks.kind(records) + "".join(others[:1])
        raise TypeError(f"expected records as a mapping or a list of dicts, got {got}")
    for record in some:
        for name in names:
            if name not in record:
                raise ValueError(f"expected {name!r} in each record, got {list(record)}")
    return list(some)
