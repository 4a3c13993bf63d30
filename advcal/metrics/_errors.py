"""Calibration errors of the top label that are read off a reliability table."""

import itertools

import torch
from torch import Tensor

from advcal import _probs
from advcal._typing import Array
from advcal.metrics._bins import Binning, quantile_edges
from advcal.metrics._table import reliability_bins


def mce(
    probs: Array,
    labels: Array,
    *,
    n_bins: int = 15,
    binning: Binning = "uniform",
    from_logits: bool = False,
) -> Array:
    r"""Compute the maximum calibration error: the gap of confidence and accuracy in the worst bin.

    $\max_m |\mathrm{acc}(B_m) - \mathrm{conf}(B_m)|$ over the bins that are not empty.

    Args:
        probs: Probabilities, shape `(n, classes)`; a tensor or a NumPy array.
        labels: Integer labels of the same kind, shape `(n,)`.
        n_bins: The number of bins.
        binning: `"uniform"` for bins of equal width or `"quantile"` for bins of equal mass.
        from_logits: Whether `probs` are logits, whose softmax is taken in float64.

    Returns:
        A scalar in `[0, 1]`, float64, of the kind of `probs`.

    Raises:
        TypeError: If `probs` or `labels` is of another kind or dtype.
        ValueError: If a shape or value is wrong, a row does not sum to one, or `n` is 0.

    Example:
        >>> import torch
        >>> probs = torch.tensor([[0.9, 0.1], [0.4, 0.6]])
        >>> round(float(mce(probs, torch.tensor([0, 0]), n_bins=10)), 4)
        0.6

    References:
        Guo et al., On Calibration of Modern Neural Networks, ICML 2017, eq. 5.
    """
    table = reliability_bins(probs, labels, n_bins=n_bins, binning=binning, from_logits=from_logits)
    return table.mce


def rmsce(
    probs: Array,
    labels: Array,
    *,
    n_bins: int = 15,
    binning: Binning = "uniform",
    from_logits: bool = False,
) -> Array:
    r"""Compute the root mean square calibration error of the top label.

    $\sqrt{\sum_m \frac{|B_m|}{n} \, (\mathrm{acc}(B_m) - \mathrm{conf}(B_m))^2}$.

    Args:
        probs: Probabilities, shape `(n, classes)`; a tensor or a NumPy array.
        labels: Integer labels of the same kind, shape `(n,)`.
        n_bins: The number of bins.
        binning: `"uniform"` for bins of equal width or `"quantile"` for bins of equal mass.
        from_logits: Whether `probs` are logits, whose softmax is taken in float64.

    Returns:
        A scalar in `[0, 1]`, float64, of the kind of `probs`.

    Raises:
        TypeError: If `probs` or `labels` is of another kind or dtype.
        ValueError: If a shape or value is wrong, a row does not sum to one, or `n` is 0.

    Example:
        >>> import torch
        >>> probs = torch.tensor([[0.9, 0.1], [0.4, 0.6]])
        >>> round(float(rmsce(probs, torch.tensor([0, 0]), n_bins=10)), 4)
        0.4301

    References:
        Hendrycks et al., Deep Anomaly Detection with Outlier Exposure, ICLR 2019.
    """
    table = reliability_bins(probs, labels, n_bins=n_bins, binning=binning, from_logits=from_logits)
    return table.rmsce


def debiased_rmsce(
    probs: Array,
    labels: Array,
    *,
    n_bins: int = 15,
    binning: Binning = "uniform",
    from_logits: bool = False,
) -> Array:
    r"""Compute the root mean square calibration error, corrected for the size of the sample.

    In a bin of `b` predictions the squared gap exceeds that of the population by the variance of
    the accuracy. Its unbiased estimate, $a(1 - a)/(b - 1)$ at accuracy `a`, is taken off each
    square; a bin of one prediction counts as 0, and so does a negative total. The source has bins
    of equal mass: `binning="quantile"`.

    Args:
        probs: Probabilities, shape `(n, classes)`; a tensor or a NumPy array.
        labels: Integer labels of the same kind, shape `(n,)`.
        n_bins: The number of bins.
        binning: `"uniform"` for bins of equal width or `"quantile"` for bins of equal mass.
        from_logits: Whether `probs` are logits, whose softmax is taken in float64.

    Returns:
        A scalar in `[0, 1]`, float64, of the kind of `probs`.

    Raises:
        TypeError: If `probs` or `labels` is of another kind or dtype.
        ValueError: If a shape or value is wrong, a row does not sum to one, or `n` is 0.

    Example:
        >>> import torch
        >>> probs = torch.tensor([[0.75, 0.25]]).expand(4, 2)
        >>> float(rmsce(probs, torch.tensor([0, 0, 1, 1])))
        0.25
        >>> float(debiased_rmsce(probs, torch.tensor([0, 0, 1, 1])))
        0.0

    References:
        Kumar, Liang & Ma, Verified Uncertainty Calibration, NeurIPS 2019.
    """
    table = reliability_bins(probs, labels, n_bins=n_bins, binning=binning, from_logits=from_logits)
    return table.debiased_rmsce


def ece_sweep(probs: Array, labels: Array, *, from_logits: bool = False) -> Array:
    """Compute the expected calibration error with as many bins as keep the accuracy monotone.

    The number of equal-mass bins grows from one until the accuracy of some bin is below that of the
    bin before it; the last number before that is taken. Edges are those of
    `reliability_bins(..., binning="quantile")`.

    Args:
        probs: Probabilities, shape `(n, classes)`; a tensor or a NumPy array.
        labels: Integer labels of the same kind, shape `(n,)`.
        from_logits: Whether `probs` are logits, whose softmax is taken in float64.

    Returns:
        A scalar in `[0, 1]`, float64, of the kind of `probs`.

    Raises:
        TypeError: If `probs` or `labels` is of another kind or dtype.
        ValueError: If a shape or value is wrong, a row does not sum to one, or `n` is 0.

    Example:
        >>> import torch
        >>> probs = torch.tensor([[0.9, 0.1], [0.4, 0.6]])
        >>> round(float(ece_sweep(probs, torch.tensor([0, 0]))), 4)
        0.35

    References:
        Roelofs et al., Mitigating Bias in Calibration Error Estimation, AISTATS 2022.
    """
    confidence, correct, own_kind = _probs.top_labels(probs, labels, from_logits)
    ascending, order = confidence.cpu().sort()  # where it does not matter how often one waits
    zero = ascending.new_zeros(1)
    rights = torch.cat([zero, correct.cpu()[order].double().cumsum(0)])
    confidences = torch.cat([zero, ascending.cumsum(0)])
    n = len(ascending)

    def at(n_bins: int) -> tuple[Tensor, bool]:
        edges = quantile_edges(ascending, order, n_bins)
        ends = torch.searchsorted(ascending, edges, right=True).unique()
        ends = torch.cat([ends.new_tensor([0]), ends[ends < n], ends.new_tensor([n])])
        right = rights[ends].diff()
        error = abs(confidences[ends].diff() - right).sum() / n
        return error, bool(((right / ends.diff()).diff() >= 0).all())

    error, monotone = at(n)
    if not monotone:  # else no coarser bins would fall either
        rising = itertools.takewhile(lambda found: found[1], map(at, range(1, n + 1)))
        error, _ = list(rising)[-1]
    return own_kind(error.to(confidence.device))
