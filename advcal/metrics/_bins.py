"""Reliability tables and the calibration errors that are read off them."""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Iterable
from typing import Any, Generic, Literal

import numpy as np
import torch
from torch import Tensor

from advcal import _checks
from advcal._typing import Array
from advcal.metrics import _distributed
from advcal.metrics._top import checked_rows, top_label, top_labels

Binning = Literal["uniform", "quantile"]


@dataclasses.dataclass(frozen=True, eq=False, repr=False)
class ReliabilityBins(Generic[Array]):
    """A reliability table that adds: `bins_a + bins_b` is the table of both data sets.

    Bin `i` holds the predictions with confidence in `(edges[i], edges[i + 1]]`; confidence exactly
    0 falls in the first bin. The fields are of the kind (tensor or NumPy array) that the table was
    made from. Counts add exactly, sums to float64 rounding, so batches, processes and machines
    combine in memory that does not grow with the data.

    Attributes:
        edges: Bin edges, float64, shape `(n_bins + 1,)`.
        counts: Predictions per bin, int64, shape `(n_bins,)`.
        confidences: Summed confidence per bin, float64, shape `(n_bins,)`.
        corrects: Right predictions per bin, int64, shape `(n_bins,)`.
    """

    edges: Array
    counts: Array
    confidences: Array
    corrects: Array

    def __add__(self, other: object) -> ReliabilityBins[Array]:
        if isinstance(other, int) and other == 0:  # so that sum(tables) works
            return self
        if not isinstance(other, ReliabilityBins):
            return NotImplemented
        if type(self.edges) is not type(other.edges):
            raise TypeError(
                f"expected reliability bins of one kind, got {_checks.kind(self.edges)} and "
                f"{_checks.kind(other.edges)}"
            )
        if self.edges.shape != other.edges.shape or not bool((self.edges == other.edges).all()):
            raise ValueError(
                f"expected reliability bins of the same edges, got {self.n_bins} bins and "
                f"{other.n_bins} bins" + (" elsewhere" if self.n_bins == other.n_bins else "")
            )
        return ReliabilityBins(
            self.edges,
            self.counts + other.counts,
            self.confidences + other.confidences,
            self.corrects + other.corrects,
        )

    __radd__ = __add__

    def all_reduce(self) -> ReliabilityBins[Array]:
        """Return the sum of the tables of all processes of `torch.distributed`'s default group.

        Every process must call it, with bins of the same edges, and gets the same sum: counts
        exactly, confidences to float64 rounding. Where no group of processes is initialised, one
        process is all there is, and the table comes back as it is. Tensors must be on a device
        that the group's backend takes (NumPy arrays are on the processor).

        Returns:
            The sum, of the kind of this table.

        Raises:
            ValueError: If the edges differ between processes; it is raised in each of them.
        """
        if not _distributed.running():
            return self
        edges, own_kind = _checks.as_tensor("edges", self.edges)
        if not _distributed.alike(edges):
            raise ValueError(
                f"expected reliability bins of the same edges in all processes, got {self.n_bins} "
                "bins here and others elsewhere"
            )
        counts, confidences, corrects = (
            own_kind(_distributed.summed(_checks.as_tensor("field", field)[0]))
            for field in (self.counts, self.confidences, self.corrects)
        )
        return ReliabilityBins(self.edges, counts, confidences, corrects)

    def __repr__(self) -> str:
        return (
            f"ReliabilityBins(n={int(self.n)}, n_bins={self.n_bins}, "
            f"accuracy={float(self.accuracy):.4f}, confidence={float(self.confidence):.4f}, "
            f"ece={float(self.ece):.4f})"
        )

    @property
    def n_bins(self) -> int:
        """The number of bins."""
        return len(self.counts)

    @property
    def n(self) -> Array:
        """The number of predictions, a scalar."""
        return self.counts.sum()

    @property
    def bin_confidence(self) -> Array:
        """Mean confidence per bin, NaN where a bin is empty."""
        return self.confidences / _nan_where_zero(self.counts)

    @property
    def bin_accuracy(self) -> Array:
        """Accuracy per bin, NaN where a bin is empty."""
        return self.corrects / _nan_where_zero(self.counts)

    @property
    def gaps(self) -> Array:
        """Confidence minus accuracy per bin, positive where overconfident, NaN where empty."""
        return (self.confidences - self.corrects) / _nan_where_zero(self.counts)

    @property
    def accuracy(self) -> Array:
        """The share of right predictions."""
        return self.corrects.sum() / _nan_where_zero(self.n)  # float64, not torch's default

    @property
    def confidence(self) -> Array:
        """The mean confidence."""
        return self.confidences.sum() / self.n

    @property
    def mcs(self) -> Array:
        """The miscalibration score, confidence minus accuracy."""
        return (self.confidences - self.corrects).sum() / self.n

    @property
    def ece(self) -> Array:
        """The expected calibration error."""
        return abs(self.confidences - self.corrects).sum() / self.n

    @property
    def overconfidence(self) -> Array:
        """The part of the expected calibration error from bins with positive gaps."""
        return (self.ece + self.mcs) / 2

    @property
    def underconfidence(self) -> Array:
        """The part of the expected calibration error from bins with negative gaps."""
        return (self.ece - self.mcs) / 2

    @property
    def rmsce(self) -> Array:
        """The root mean square calibration error."""
        squares = (self.confidences - self.corrects) ** 2 / self.counts.clip(min=1)
        return (_in_turn(squares) / self.n) ** 0.5

    @property
    def debiased_rmsce(self) -> Array:
        """The root mean square calibration error less its bias; see the function of this name."""
        degrees = (self.counts - 1).clip(min=1)
        squares = (self.confidences - self.corrects) ** 2 * degrees
        noise = self.corrects * (self.counts - self.corrects)
        excesses = (squares - noise) / (self.counts.clip(min=1) * degrees)
        excess = _in_turn(excesses * (self.counts > 1)) / self.n
        return excess.clip(min=0) ** 0.5

    @property
    def mce(self) -> Array:
        """The maximum calibration error over the bins that are not empty."""
        return abs(self.gaps)[self.counts > 0].max()


def _in_turn(terms: Any) -> Any:
    """Add one term after the other, to the same last bit for tensors and arrays."""
    return terms.cumsum(0)[-1]


def _nan_where_zero(counts: Any) -> Any:
    if isinstance(counts, Tensor):
        return torch.where(counts > 0, counts.double(), torch.nan)
    return np.where(counts > 0, counts, np.nan)


def uniform_edges(n_bins: int, device: torch.device) -> Tensor:
    """Return the `n_bins + 1` edges of equal-width bins, each rounded once, in float64."""
    numbers = torch.arange(n_bins + 1, dtype=torch.float64, device=device)
    return numbers / numbers[-1]  # by a tensor: a division by a number may multiply instead


def uniform_bin(confidence: Tensor, n_bins: int) -> Tensor:
    """Return the equal-width bin of each float64 confidence, as a search of the edges would."""
    n = torch.tensor(float(n_bins), dtype=torch.float64, device=confidence.device)
    edge = (confidence * (n * (1 - 2**-50))).ceil_()  # its right edge or, by rounding, its left one
    edge += confidence > edge / n
    return edge.sub_(1).clamp_(0, n_bins - 1).to(torch.int32)


def quantile_edges(ascending: Tensor, n_bins: int) -> Tensor:
    """Return the inner edges of equal-mass bins: the values of rank `ceil(i n / n_bins)`."""
    numbers = torch.arange(1, n_bins, device=ascending.device)
    return ascending[(numbers * len(ascending) + n_bins - 1) // n_bins - 1]


def reliability_bins(
    probs: Array,
    labels: Array,
    *,
    n_bins: int = 15,
    binning: Binning = "uniform",
    from_logits: bool = False,
) -> ReliabilityBins[Array]:
    """Sort predictions into bins of confidence, of equal width or of equal mass.

    Bins are right-closed, `(i / n_bins, (i + 1) / n_bins]`, with float64 edges; confidence exactly
    0 falls in the first bin and 1 in the last. Of equal highest probabilities the first class is
    the prediction.

    With `binning="quantile"` edge `i` is the confidence of rank `ceil(i n / n_bins)`, so bins hold
    equally many predictions as far as equal confidences, which stay together, allow it. These
    edges depend on the data: tables of different data do not add.

    Args:
        probs: Probabilities, shape `(n, classes)`; a tensor or a NumPy array.
        labels: Integer labels of the same kind, shape `(n,)`.
        n_bins: The number of bins.
        binning: `"uniform"` for bins of equal width or `"quantile"` for bins of equal mass.
        from_logits: Whether `probs` are logits, whose softmax is taken in float64.

    Returns:
        The table, its fields of the kind of `probs`.

    Raises:
        TypeError: If `probs` or `labels` is of another kind or dtype.
        ValueError: If a shape or value is wrong, a row does not sum to one, or `n` is 0.

    Example:
        >>> import torch
        >>> probs = torch.tensor([[0.9, 0.1], [0.4, 0.6]])
        >>> reliability_bins(probs, torch.tensor([0, 0]), n_bins=10)
        ReliabilityBins(n=2, n_bins=10, accuracy=0.5000, confidence=0.7500, ece=0.3500)

    References:
        Guo et al., On Calibration of Modern Neural Networks, ICML 2017, section 2.
    """
    p, y, own_kind = _checks.probabilities(probs, labels)
    n_bins = _checks.count("n_bins", n_bins)
    _checks.choice("binning", binning, ("uniform", "quantile"))
    edges = uniform_edges(n_bins, p.device)
    if binning == "quantile":
        tops = top_labels(p, y, from_logits)
        edges[1:-1] = quantile_edges(tops[0].sort().values, n_bins)
        chunks: Iterable[tuple[Tensor, Tensor]] = [tops[:2]]
    else:
        chunks = (top_label(*rows) for rows in checked_rows(p, y, from_logits))
    cells = torch.zeros(n_bins, 2, dtype=torch.int64, device=p.device)  # wrong and right
    confidences = torch.zeros(n_bins, dtype=torch.float64, device=p.device)
    for confidence, correct in chunks:
        if binning == "uniform":
            index = uniform_bin(confidence, n_bins)
        else:
            index = torch.bucketize(confidence, edges[1:-1])
        cells += torch.bincount(2 * index + correct, minlength=2 * n_bins).view(n_bins, 2)
        confidences += torch.bincount(index, weights=confidence, minlength=n_bins)
    fields = (edges, cells.sum(dim=1), confidences, cells[:, 1].clone())
    return ReliabilityBins(*(own_kind(field) for field in fields))


def ece(
    probs: Array,
    labels: Array,
    *,
    n_bins: int = 15,
    binning: Binning = "uniform",
    from_logits: bool = False,
) -> Array:
    r"""Compute the expected calibration error of the top label.

    $\sum_m \frac{|B_m|}{n} \, |\mathrm{acc}(B_m) - \mathrm{conf}(B_m)|$. Bins are right-closed; see
    `reliability_bins` for the edges.

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
        >>> round(float(ece(probs, torch.tensor([0, 0]), n_bins=10)), 4)
        0.35

    References:
        Guo et al., On Calibration of Modern Neural Networks, ICML 2017, eq. 3.
    """
    table = reliability_bins(probs, labels, n_bins=n_bins, binning=binning, from_logits=from_logits)
    return table.ece


def mce(
    probs: Array,
    labels: Array,
    *,
    n_bins: int = 15,
    binning: Binning = "uniform",
    from_logits: bool = False,
) -> Array:
    r"""Compute the maximum calibration error of the top label.

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
    r"""Compute the root mean square calibration error of the top label, less its bias.

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
    confidence, correct, own_kind = top_labels(probs, labels, from_logits)
    ascending, order = confidence.sort()
    zero = ascending.new_zeros(1)
    rights = torch.cat([zero, correct[order].double().cumsum(0)])
    confidences = torch.cat([zero, ascending.cumsum(0)])
    n = len(ascending)

    def at(n_bins: int) -> tuple[Tensor, bool]:
        edges = quantile_edges(ascending, n_bins)
        ends = torch.searchsorted(ascending, edges, right=True).unique()
        ends = torch.cat([ends.new_tensor([0]), ends[ends < n], ends.new_tensor([n])])
        right = rights[ends].diff()
        error = abs(confidences[ends].diff() - right).sum() / n
        return error, bool(((right / ends.diff()).diff() >= 0).all())

    error, monotone = at(n)
    if not monotone:  # else no coarser bins would fall either
        rising = itertools.takewhile(lambda found: found[1], map(at, range(1, n + 1)))
        error, _ = list(rising)[-1]
    return own_kind(error)
