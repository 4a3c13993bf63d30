"""A table so fine that equal-mass bins and the smooth error are read off it, and that adds."""

from __future__ import annotations

import dataclasses
from typing import Any, Generic

import torch

from advcal import _checks, _probs, _processes, _sums
from advcal._typing import Array
from advcal.metrics._binless import GRID, fixed_point, spread_residuals
from advcal.metrics._bins import uniform_bin, uniform_edges
from advcal.metrics._table import ReliabilityBins


@dataclasses.dataclass(frozen=True, eq=False, repr=False)
class ReliabilitySketch(Generic[Array]):
    """What streaming and distributed evaluation keep of predictions, 1.3 MB whatever their number.

    Sketches add: `a + b` is the sketch of both data sets, its counts exactly, its sums to float64
    rounding.

    Attributes:
        bins: The table of `2**15` bins of equal width.
        residuals: Summed right minus confidence, float64, shape `(2**15,)`, each split linearly
            between the centres of the two bins around the confidence.
    """

    bins: ReliabilityBins[Array]
    residuals: Array

    def __add__(self, other: object) -> ReliabilitySketch[Array]:
        if not isinstance(other, ReliabilitySketch):
            return NotImplemented
        return ReliabilitySketch(self.bins + other.bins, self.residuals + other.residuals)

    # Any, so that type checkers take `total = 0` and then `total += sketch`.
    def __radd__(self, other: int) -> Any:
        # so that sum(sketches) works, and nothing else adds
        return self if type(other) is int and other == 0 else NotImplemented

    def __repr__(self) -> str:
        return (
            f"ReliabilitySketch(n={int(self.bins.n)}, accuracy={float(self.bins.accuracy):.4f}, "
            f"confidence={float(self.bins.confidence):.4f}, "
            f"smooth_ece={float(self.smooth_ece):.4f})"
        )

    def all_reduce(self) -> ReliabilitySketch[Array]:
        """Return the sum over all processes; see `ReliabilityBins.all_reduce`.

        Returns:
            The sum, of the kind of this sketch.

        Raises:
            ValueError: If the edges differ between processes.
        """
        if not _processes.running():
            return self
        residuals, own_kind = _probs.as_tensor("residuals", self.residuals)
        return ReliabilitySketch(self.bins.all_reduce(), own_kind(_processes.summed(residuals)))

    @property
    def smooth_ece(self) -> Array:
        r"""The smooth calibration error, that of the function `smooth_ece` to float64 rounding.

        At the width σ that it sets itself it is within $h^2 / (8 \sigma^2)$ of the error without a
        grid, $h = 2^{-15}$.
        """
        residuals, own_kind = _probs.as_tensor("residuals", self.residuals)
        error = fixed_point(residuals.cpu().numpy() / int(self.bins.n))
        value: Array = own_kind(residuals.new_tensor(error))
        return value

    def quantile_bins(self, *, n_bins: int = 15) -> ReliabilityBins[Array]:
        r"""Compute the table of equal-mass bins, each edge rounded up to one of the fine bins'.

        `reliability_bins(..., binning="quantile")` has its edge `i` at the confidence of rank
        `ceil(i n / n_bins)`; here it is the right end of the fine bin that holds this confidence,
        at most `2**-15` above it. Predictions between the two are in the bin below. So the
        expected calibration error is within $\frac{2}{n} \sum |a_i - c_i|$ of the exact one, the
        sum being over the predictions in fine bins that hold an inner edge: at most twice their
        share.

        Args:
            n_bins: The number of bins.

        Returns:
            The table, of the kind of this sketch.

        Raises:
            TypeError: If `n_bins` is not an int.
            ValueError: If `n_bins` is below 1.
        """
        _checks.arguments(n_bins=n_bins)
        fine, own_kind = _probs.as_tensor("edges", self.bins.edges)
        counts, confidences, corrects = (
            _probs.as_tensor("field", field)[0]
            for field in (self.bins.counts, self.bins.confidences, self.bins.corrects)
        )
        numbers = torch.arange(1, n_bins, device=fine.device)
        ranks = (numbers * int(self.bins.n) + n_bins - 1) // n_bins
        edges = uniform_edges(n_bins, fine.device)
        edges[1:-1] = fine[1:][torch.searchsorted(counts.cumsum(0), ranks)]
        index = torch.bucketize(fine[1:], edges[1:-1])
        sums = (
            field.new_zeros(n_bins).index_add(0, index, field)
            for field in (counts, confidences, corrects)
        )
        return ReliabilityBins(own_kind(edges), *(own_kind(each) for each in sums))


def reliability_sketch(
    probs: Array, labels: Array, *, from_logits: bool = False
) -> ReliabilitySketch[Array]:
    """Sketch predictions finely enough for equal-mass bins and the smooth calibration error.

    For data that pass in batches or lie in several processes: sketches add, in memory that does
    not grow with the data.

    Args:
        probs: Probabilities, shape `(n, classes)`; a tensor or a NumPy array.
        labels: Integer labels of the same kind, shape `(n,)`.
        from_logits: Whether `probs` are logits, whose softmax is taken in float64.

    Returns:
        The sketch, its fields of the kind of `probs`.

    Raises:
        TypeError: If `probs` or `labels` is of another kind or dtype.
        ValueError: If a shape or value is wrong, a row does not sum to one, or `n` is 0.

    Example:
        >>> import torch
        >>> batches = torch.tensor([[0.75, 0.25]]).expand(4, 2), torch.tensor([[0.9, 0.1]])
        >>> labels = torch.tensor([0, 0, 0, 1]), torch.tensor([0])
        >>> sketch = sum(map(reliability_sketch, batches, labels))
        >>> round(float(sketch.quantile_bins(n_bins=2).ece), 4)
        0.02
    """
    p, y, own_kind = _probs.probabilities(probs, labels, from_logits=from_logits)
    cells = torch.zeros(GRID, 2, dtype=torch.int64, device=p.device)  # wrong and right
    confidences, residuals = torch.zeros(2, GRID, dtype=torch.float64, device=p.device)
    for rows in _probs.checked_rows(p, y, from_logits):
        confidence, correct = _probs.top_label(*rows)
        residuals += spread_residuals(confidence, correct)
        index = uniform_bin(confidence, GRID)
        cells += _sums.per_cell(2 * index + correct, 2 * GRID).view(GRID, 2)
        confidences += _sums.per_cell(index, GRID, confidence)
    fields = uniform_edges(GRID, p.device), cells.sum(dim=1), confidences, cells[:, 1].clone()
    bins = ReliabilityBins(*(own_kind(field) for field in fields))
    return ReliabilitySketch(bins, own_kind(residuals))
