"""How sure a metric is of itself: intervals, a test of calibration, bands for diagrams."""

from collections.abc import Callable
from typing import Generic, NamedTuple

import numpy as np
import torch
from torch import Tensor

from advcal import _checks, _probs
from advcal._typing import Array
from advcal.metrics._bins import Binning, uniform_bin
from advcal.metrics._table import reliability_bins


class Interval(NamedTuple, Generic[Array]):
    """A value with an interval around it.

    Attributes:
        value: The metric of all examples.
        low: The lower end.
        high: The upper end.
    """

    value: Array
    low: Array
    high: Array


class CalibrationTest(NamedTuple, Generic[Array]):
    """What a test of calibration found.

    Attributes:
        value: The expected calibration error of the examples.
        p_value: The share of calibrated draws, the examples among them, with at least this error.
    """

    value: Array
    p_value: Array


def bootstrap(
    metric: Callable[[Array, Array], Array],
    probs: Array,
    labels: Array,
    *,
    resamples: int = 1000,
    level: float = 0.95,
    generator: torch.Generator | None = None,
) -> Interval[Array]:
    """Compute a metric with its percentile bootstrap interval.

    The metric is computed on examples drawn with replacement, as many as there are. In simulations
    intervals of level .95 cover the truth in about 95 % of cases for scores that are means, `mcs`
    among them, and in 89 to 96 % for `debiased_rmsce`. Other calibration errors, which are never
    negative, are biased upwards by sampling, and doubly so when resampled: near perfect calibration
    their interval lies above the truth. For `ece` use `ece_interval`.

    Args:
        metric: A function of `probs` and `labels`, to an array of their kind or a number; options
            by `functools.partial`.
        probs: Probabilities, shape `(n, classes)`, or logits if the metric takes them.
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
        >>> from advcal.metrics import accuracy
        >>> probs = torch.tensor([[0.9, 0.1]]).expand(100, 2)
        >>> labels = torch.arange(100) % 5 // 4  # 80 right, 20 wrong
        >>> found = bootstrap(accuracy, probs, labels, generator=torch.Generator().manual_seed(0))
        >>> bool(0.70 < found.low < 0.75 < 0.85 < found.high < 0.90)
        True

    References:
        Efron, Bootstrap methods: another look at the jackknife, Annals of Statistics 7, 1979.
    """
    p, _, _ = _probs.probabilities(
        probs, labels, metric=metric, resamples=resamples, level=level, generator=generator
    )
    source = _checks.resolve(generator, p.device)
    array = isinstance(probs, np.ndarray)
    value = metric(probs, labels)
    draws = []
    for _ in range(resamples):
        chosen = torch.randint(len(p), (len(p),), generator=source, device=source.device)
        index = chosen.numpy() if array else chosen.to(p.device)
        draws.append(metric(probs[index], labels[index]))
    return Interval(value, *_ends(draws, level, array))


def ece_interval(
    probs: Array,
    labels: Array,
    *,
    n_bins: int = 15,
    binning: Binning = "uniform",
    resamples: int = 1000,
    level: float = 0.95,
    from_logits: bool = False,
    generator: torch.Generator | None = None,
) -> Interval[Array]:
    r"""Compute the expected calibration error with an interval that allows for its bias.

    Sampling makes the error of a calibrated model positive, so the interval is that of a test.
    If the gaps of the population were $\kappa$ times a given pattern, and the sums in the bins
    normal, a sample would have at least the error found with a probability that rises with
    $\kappa$. At the ends of the interval it is `(1 - level) / 2` and `(1 + level) / 2`. The pattern
    of the upper end is the gaps found; that of the lower end has them shrunk, $1 - s^2 / g^2$ of a
    gap $g$ of standard error $s$ and nothing of one below $s$, since small gaps are mostly chance.
    The lower end is 0 where the error found is no evidence against calibration, and the error found
    need not lie within the interval.

    What is covered is the error of the population in the same bins: in simulations by 90 to 98 % of
    intervals of level .95, least where one bin of eight has all of it.

    Args:
        probs: Probabilities, shape `(n, classes)`; a tensor or a NumPy array.
        labels: Integer labels of the same kind, shape `(n,)`.
        n_bins: The number of bins.
        binning: `"uniform"` for bins of equal width or `"quantile"` for bins of equal mass.
        resamples: The number of draws.
        level: The confidence level of the interval, in `(0, 1)`.
        from_logits: Whether `probs` are logits, whose softmax is taken in float64.
        generator: The source of randomness; a copy of the global one by default.

    Returns:
        The error, as `ece` has it, and the ends, each a float64 scalar of the kind of `probs`.

    Raises:
        TypeError: If `probs` or `labels` is of another kind or dtype.
        ValueError: If a shape or value is wrong, a row does not sum to one, or `n` is 0.

    Example:
        >>> import torch
        >>> probs = torch.tensor([[0.9, 0.1]]).expand(100, 2)
        >>> labels = torch.arange(100) % 5 // 4  # 80 right, 20 wrong
        >>> found = ece_interval(probs, labels, generator=torch.Generator().manual_seed(0))
        >>> bool(0.01 < found.low < 0.04 < 0.16 < found.high < 0.2)
        True
    """
    _checks.arguments(resamples=resamples, level=level, generator=generator)
    table = reliability_bins(probs, labels, n_bins=n_bins, binning=binning, from_logits=from_logits)
    edges, own_kind = _probs.as_tensor("edges", table.edges)
    counts, confidences, corrects = (
        torch.as_tensor(field, dtype=torch.float64, device=edges.device)
        for field in (table.counts, table.confidences, table.corrects)
    )
    n, error = counts.sum(), float(table.ece)
    gaps = (confidences - corrects) / n
    filled = counts.clamp(min=1)
    # Of the sum of right minus confidence: how many are right, and how many there are.
    spreads = corrects * (counts - corrects) / filled + gaps.square() * n**2 / filled * (
        1 - counts / n
    )
    source = _checks.resolve(generator, edges.device)
    noise = torch.randn(
        resamples, len(gaps), dtype=torch.float64, generator=source, device=source.device
    )
    noise = noise.to(edges.device) * (spreads.sqrt() / n)
    shrunk = gaps * (1 - spreads / (n * gaps).square()).clamp(min=0).nan_to_num(0.0)

    def end(pattern: Tensor, share: float) -> float:
        """Return the error of a population from which this share of samples has at least ours."""

        def reached(scale: float) -> bool:
            errors = (scale * pattern + noise).abs().sum(dim=1)
            return float((errors >= error - 1e-12).double().mean()) >= share

        size = float(pattern.abs().sum())
        low, high = 0.0, 1.0
        while not reached(high) and high * size < 1:
            high *= 2
        for _ in range(30):
            middle = (low + high) / 2
            low, high = (low, middle) if reached(middle) else (middle, high)
        return 0.0 if reached(0.0) else min(high * size, 1.0)

    if not bool(shrunk.any()):
        shrunk = gaps
    ends = (end(shrunk, (1 - level) / 2), end(gaps, (1 + level) / 2))
    return Interval(table.ece, *(own_kind(edges.new_tensor(each)) for each in ends))


def _ends(draws: list[Array], level: float, array: bool) -> tuple[Array, Array]:
    tails = [(1 - level) / 2, (1 + level) / 2]
    if array:
        low, high = np.quantile(np.stack(draws), tails, axis=0)
    else:
        each = torch.stack([torch.as_tensor(draw, dtype=torch.float64) for draw in draws])
        low, high = each.quantile(each.new_tensor(tails), dim=0)
    return low, high


def calibration_test(
    probs: Array,
    labels: Array,
    *,
    n_bins: int = 15,
    binning: Binning = "uniform",
    resamples: int = 1000,
    from_logits: bool = False,
    generator: torch.Generator | None = None,
) -> CalibrationTest[Array]:
    """Test whether the top label is calibrated, by consistency resampling.

    If it is, each prediction is right with the probability of its confidence. Draws from that
    hypothesis give the distribution of the expected calibration error that sampling alone causes;
    the p-value is `(1 + #{draws with at least the error found}) / (1 + resamples)`, which keeps its
    level at any sample size.

    Args:
        probs: Probabilities, shape `(n, classes)`; a tensor or a NumPy array.
        labels: Integer labels of the same kind, shape `(n,)`.
        n_bins: The number of bins.
        binning: `"uniform"` for bins of equal width or `"quantile"` for bins of equal mass.
        resamples: The number of draws.
        from_logits: Whether `probs` are logits, whose softmax is taken in float64.
        generator: The source of randomness; a copy of the global one by default.

    Returns:
        The error and its p-value, each of the kind of `probs`.

    Raises:
        TypeError: If `probs` or `labels` is of another kind or dtype.
        ValueError: If a shape or value is wrong, a row does not sum to one, or `n` is 0.

    Example:
        >>> import torch
        >>> probs = torch.tensor([[0.9, 0.1]]).expand(100, 2)
        >>> labels = torch.arange(100) % 5 // 4  # 80 right, 20 wrong
        >>> found = calibration_test(probs, labels, generator=torch.Generator().manual_seed(0))
        >>> bool(found.p_value < 0.02)
        True

    References:
        Vaicenavicius et al., Evaluating model calibration in classification, AISTATS 2019,
        section 4.
    """
    table = reliability_bins(probs, labels, n_bins=n_bins, binning=binning, from_logits=from_logits)
    drawn, own_kind = _calibrated_corrects(
        probs, labels, table.edges, binning, resamples, from_logits, generator
    )
    confidences = torch.as_tensor(table.confidences)
    errors = (confidences - drawn).abs().sum(dim=1) / int(table.n)
    reached = (errors >= float(table.ece) - 1e-12).sum()  # equal but for rounding is equal
    return CalibrationTest(table.ece, own_kind((1 + reached.double()) / (1 + resamples)))


def consistency_bands(
    probs: Array,
    labels: Array,
    *,
    n_bins: int = 15,
    binning: Binning = "uniform",
    resamples: int = 1000,
    level: float = 0.95,
    from_logits: bool = False,
    generator: torch.Generator | None = None,
) -> tuple[Array, Array]:
    """Compute where the accuracy of each bin lies if the top label is calibrated.

    Quantiles, bin by bin, of draws in which each prediction is right with the probability of its
    confidence; the confidences stay, where the source draws them too. A bin outside its band is
    evidence against calibration; of many bins some leave theirs by chance.

    Args:
        probs: Probabilities, shape `(n, classes)`; a tensor or a NumPy array.
        labels: Integer labels of the same kind, shape `(n,)`; checked, and used for nothing else.
        n_bins: The number of bins.
        binning: `"uniform"` for bins of equal width or `"quantile"` for bins of equal mass.
        resamples: The number of draws.
        level: The share of the draws that lie within the band of a bin, in `(0, 1)`.
        from_logits: Whether `probs` are logits, whose softmax is taken in float64.
        generator: The source of randomness; a copy of the global one by default.

    Returns:
        The lower and the upper ends, each `(n_bins,)`, NaN where a bin is empty.

    Raises:
        TypeError: If `probs` or `labels` is of another kind or dtype.
        ValueError: If a shape or value is wrong, a row does not sum to one, or `n` is 0.

    Example:
        >>> import torch
        >>> probs = torch.tensor([[0.5, 0.5]]).expand(100, 2)
        >>> seed = torch.Generator().manual_seed(0)
        >>> low, high = consistency_bands(probs, torch.arange(100) % 2, n_bins=1, generator=seed)
        >>> bool(0.37 < low < 0.43 < 0.57 < high < 0.63)
        True

    References:
        Bröcker & Smith, Increasing the Reliability of Reliability Diagrams, Weather and
        Forecasting 22, 2007.
    """
    _checks.arguments(level=level)
    table = reliability_bins(probs, labels, n_bins=n_bins, binning=binning, from_logits=from_logits)
    drawn, own_kind = _calibrated_corrects(
        probs, labels, table.edges, binning, resamples, from_logits, generator
    )
    counts = torch.as_tensor(table.counts)
    accuracies = drawn / torch.where(counts > 0, counts.double(), torch.nan)
    tails = accuracies.new_tensor([(1 - level) / 2, (1 + level) / 2])
    low, high = accuracies.quantile(tails, dim=0)
    return own_kind(low), own_kind(high)


def _calibrated_corrects(
    probs: Array,
    labels: Array,
    edges: Array,
    binning: Binning,
    resamples: int,
    from_logits: bool,
    generator: torch.Generator | None,
) -> tuple[Tensor, Callable[[Tensor], Array]]:
    """Draw how many predictions of each bin are right if all are calibrated, per draw."""
    _checks.arguments(resamples=resamples, generator=generator)
    confidence, _, own_kind = _probs.top_labels(probs, labels, from_logits)
    source = _checks.resolve(generator, confidence.device)
    n_bins = len(edges) - 1
    if binning == "uniform":
        index = uniform_bin(confidence, n_bins)
    else:
        inner = torch.as_tensor(edges[1:-1], device=confidence.device)
        index = torch.bucketize(confidence, inner)
    drawn = torch.empty(resamples, n_bins, dtype=torch.float64, device=confidence.device)
    for row in drawn:
        uniform = torch.rand(
            len(confidence), dtype=torch.float64, generator=source, device=source.device
        )
        right = uniform.to(confidence.device) < confidence
        row.copy_(torch.bincount(index[right], minlength=n_bins))
    return drawn, own_kind
