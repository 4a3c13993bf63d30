"""Intervals of any metric by resampling, and of shares in closed form."""

import inspect
import math
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import Tensor

from advcal import _checks, _probs, _sums
from advcal._random import resolve
from advcal._typing import Array
from advcal.metrics._bins import ece, uniform_bin, uniform_edges
from advcal.metrics._errors import debiased_rmsce, mce, rmsce
from advcal.metrics._intervals import Interval, share_ends
from advcal.metrics._scores import mcs
from advcal.metrics._table import ReliabilityBins

# What is read off a table, which is summed anew of each draw, and the property that has it.
_OF_TABLES: dict[Any, str] = {
    ece: "ece",
    mce: "mce",
    mcs: "mcs",
    rmsce: "rmsce",
    debiased_rmsce: "debiased_rmsce",
}


def bootstrap(
    metric: Callable[[Array, Array], Array],
    probs: Array,
    labels: Array,
    *,
    resamples: int = 1000,
    level: float = 0.95,
    generator: torch.Generator | None = None,
) -> Interval[Array]:
    r"""Compute a metric with its percentile bootstrap interval.

    The metric is computed on examples drawn with replacement, as many as there are. One that has
    `reduction="none"` and is the mean of that, as `nll` and `brier`, is computed once, and its
    values are drawn; of each draw of what is read off tables of equal-width bins, as `mcs` and
    `rmsce`, the table alone is computed. A share, the mean of zeros and ones, as `accuracy`, has
    the exact interval of `clopper_pearson` instead, for which nothing is drawn and which has a
    width at 0 and 1 too.

    In simulations intervals of level .95 cover the truth in about 95 % of cases for scores that are
    means, `mcs` among them, and in 89 to 96 % for `debiased_rmsce`. Other calibration errors, which
    are never negative, are biased upwards by sampling, and doubly so when resampled: near perfect
    calibration their interval lies above the truth. For `ece` use `ece_interval`.

    Args:
        metric: A function of `probs` and `labels`, to an array of their kind or a number; options
            by `functools.partial`.
        probs: Probabilities, shape `(n, classes)`, or logits if the metric takes them; or scores,
            shape `(n,)`, for a metric such as `auroc`: a draw has labels of both kinds then.
        labels: Integer labels of the same kind, shape `(n,)`.
        resamples: The number of draws.
        level: The share of the draws that lie within the interval, in `(0, 1)`.
        generator: The source of randomness; a copy of the global one by default.

    Returns:
        The value and the ends, each of the kind of `probs`.

    Raises:
        TypeError: If an argument is of another kind or dtype.
        ValueError: If a shape or value is wrong.

    Example:
        >>> import torch
        >>> from advcal.metrics import accuracy, auroc
        >>> probs = torch.tensor([[0.9, 0.1]]).expand(100, 2)
        >>> labels = torch.arange(100) % 5 // 4  # 80 right, 20 wrong
        >>> found = bootstrap(accuracy, probs, labels)
        >>> round(float(found.low), 3), round(float(found.high), 3)
        (0.708, 0.873)
        >>> seed = torch.Generator().manual_seed(0)
        >>> found = bootstrap(auroc, torch.linspace(0, 1, 100), labels, generator=seed)
        >>> bool(0.3 < found.low < found.value < found.high < 0.7)
        True

    References:
        Efron, Bootstrap methods: another look at the jackknife, Annals of Statistics 7, 1979.
    """
    _checks.arguments(metric=metric, resamples=resamples, level=level, generator=generator)
    if isinstance(metric, partial) and metric.keywords.get("weights") is not None:
        raise ValueError(
            "expected a metric without weights, which would stay where they are as examples are "
            "drawn, got weights; summary(..., weights=weights).interval(figure) has an interval"
        )
    ranked = isinstance(probs, (Tensor, np.ndarray)) and probs.ndim == 1
    p, y, own_kind = _probs.scores(probs, labels) if ranked else _probs.probabilities(probs, labels)
    source = resolve(generator, p.device)
    value = metric(probs, labels)
    each = _values(metric, probs, labels, value)
    if each is not None and bool(((each == 0) | (each == 1)).all()):
        low, high = share_ends(int(each.sum()), len(each), level)
        return Interval(value, own_kind(each.new_tensor(low)), own_kind(each.new_tensor(high)))
    array = isinstance(probs, np.ndarray)
    of_table = None if ranked else _of_table(metric, probs, labels)
    draws = []
    for _ in range(resamples):
        chosen = _drawn(y, source, both=ranked)
        if each is not None:
            draws.append(own_kind(each[chosen].mean()))
        elif of_table is not None:
            draws.append(own_kind(of_table(chosen)))
        else:
            index: Any = chosen.numpy() if array else chosen
            with _once_checked(metric, p):
                draws.append(metric(probs[index], labels[index]))
    return Interval(value, *_ends(draws, level, array))


def _once_checked(metric: Any, probs: Tensor) -> AbstractContextManager[None]:
    """Let a metric of ours on a device read no values of rows that it has seen."""
    function = metric.func if isinstance(metric, partial) else metric
    ours = str(getattr(function, "__module__", "")).startswith("advcal.metrics")
    return _checks.trusted() if ours and probs.device.type != "cpu" else nullcontext()


def _values(metric: Any, probs: Array, labels: Array, value: Any) -> Tensor | None:
    """Return the values of the examples if the metric has them and is their mean."""
    try:
        reduction = inspect.signature(metric).parameters.get("reduction")
    except ValueError:  # it says nothing of its arguments
        return None
    if reduction is None or reduction.default != "mean":
        return None
    found = _probs.as_tensor("values", metric(probs, labels, reduction="none"))[0].double()
    close = found.shape == (len(labels),) and math.isclose(found.mean(), value, rel_tol=1e-5)
    return found if close else None


def _of_table(metric: Any, probs: Array, labels: Array) -> Callable[[Tensor], Tensor] | None:
    """Return the function of the drawn examples that a metric is, if it is one of tables."""
    plain = isinstance(metric, partial) and not metric.args
    options: dict[str, Any] = dict(metric.keywords) if plain else {}
    function = metric.func if plain else metric
    name = next((name for each, name in _OF_TABLES.items() if each is function), None)
    n_bins = options.pop("n_bins", 15)
    from_logits = options.pop("from_logits", False)
    if name is None or options.pop("binning", "uniform") != "uniform" or options:
        return None
    confidence, correct, _ = _probs.top_labels(probs, labels, from_logits)
    if name == "mcs":  # a mean, and rounded as it is by itself
        gaps = confidence - correct.double()
        return lambda chosen: gaps[chosen].sum() / len(chosen)
    index = uniform_bin(confidence, n_bins).long()
    cells, edges = 2 * index + correct, uniform_edges(n_bins, index.device)

    def at(chosen: Tensor) -> Tensor:
        n_bins = len(edges) - 1
        sums = _sums.per_cell(cells[chosen], 2 * n_bins)
        confidences = _sums.per_cell(index[chosen], n_bins, confidence[chosen])
        table = ReliabilityBins(edges, sums[::2] + sums[1::2], confidences, sums[1::2])
        found: Tensor = getattr(table, name)
        return found

    return at


def _drawn(labels: Tensor, source: torch.Generator, *, both: bool) -> Tensor:
    """Draw as many examples as there are; if `both`, of labels 0 and 1 one at least."""
    n = len(labels)
    while True:
        chosen = torch.randint(n, (n,), generator=source, device=source.device).to(labels.device)
        if not both or 0 < int(labels[chosen].sum()) < n:
            return chosen


def _ends(draws: list[Array], level: float, array: bool) -> tuple[Array, Array]:
    tails = [(1 - level) / 2, (1 + level) / 2]
    if array:
        each = np.stack(draws)
        with np.errstate(invalid="ignore"):
            ends = np.quantile(each, tails, axis=0)
        # Between two infinite draws there is no number.
        low, high = np.where(np.isnan(ends), np.quantile(each, tails, 0, method="nearest"), ends)
        return low[()], high[()]
    on = draws[0].device if isinstance(draws[0], Tensor) else "cpu"
    drawn = torch.stack([torch.as_tensor(draw, dtype=torch.float64, device=on) for draw in draws])
    at = drawn.new_tensor(tails)
    nearest = drawn.quantile(at, dim=0, interpolation="nearest")
    found = drawn.quantile(at, dim=0)
    low, high = torch.where(found.isnan(), nearest, found)
    return low, high
