"""Reliability tables, which add, and what is read off them."""

from __future__ import annotations

import dataclasses
from typing import Any, Generic, Literal

import numpy as np
import torch
from torch import Tensor

from advcal import _checks, _probs, _processes, _random, _sums
from advcal._markup import decimal, html
from advcal._typing import Array
from advcal.metrics import _significance
from advcal.metrics._bins import Binning, binned, expected_gap
from advcal.metrics._intervals import (
    Interval,
    Sums,
    drawn_corrects,
    ece_ends,
    mce_ends,
    mcs_ends,
    share_ends,
)
from advcal.metrics._significance import CalibrationTest, Statistic


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
        squares: None, or, of weighted examples, the sum of their squared weights, a float64 scalar.
            The other sums are of weights then, in float64, and `n` is the sum of all weights.
    """

    edges: Array
    counts: Array
    confidences: Array
    corrects: Array
    squares: Array | None = None

    def __add__(self, other: object) -> ReliabilityBins[Array]:
        if not isinstance(other, ReliabilityBins):
            return NotImplemented
        if type(self.edges) is not type(other.edges):
            raise TypeError(
                f"expected reliability bins of one kind, got {_checks.kind(self.edges)} and "
                f"{_checks.kind(other.edges)}"
            )
        same = self.edges.shape == other.edges.shape
        if not same or not (_checks.recording() or bool((self.edges == other.edges).all())):
            raise ValueError(
                f"expected reliability bins of the same edges, got {self.n_bins} bins and "
                f"{other.n_bins} bins" + (" elsewhere" if self.n_bins == other.n_bins else "")
            )
        weighted = self.squares is not None or other.squares is not None
        return ReliabilityBins(
            self.edges,
            self.counts + other.counts,
            self.confidences + other.confidences,
            self.corrects + other.corrects,
            self._squares() + other._squares() if weighted else None,
        )

    # Any, so that type checkers take `total = 0` and then `total += table`.
    def __radd__(self, other: int) -> Any:
        # so that sum(tables) works, and nothing else adds
        return self if type(other) is int and other == 0 else NotImplemented

    def all_reduce(self) -> ReliabilityBins[Array]:
        """Return the sum of the tables of all processes of `torch.distributed`'s default group.

        Every process must call it, with bins of the same edges, and gets the same sum: counts
        exactly, confidences to float64 rounding. If no group of processes is initialised, one
        process is all there is, and the table comes back as it is. Tensors must be on a device
        that the group's backend takes (NumPy arrays are on the processor).

        Returns:
            The sum, of the kind of this table.

        Raises:
            ValueError: If the edges differ between processes, or there are weights in some only; it
                is raised in each of them.
        """
        if not _processes.running():
            return self
        edges, own_kind = _probs.as_tensor("edges", self.edges)
        weighted = self.squares is not None
        if not _processes.alike(torch.cat([edges, edges.new_tensor([weighted])])):
            told = f"{self.n_bins} bins{' of weights' if weighted else ''}"
            raise ValueError(
                f"expected reliability bins of the same edges in all processes, got {told} here "
                "and others elsewhere"
            )
        fields: list[Any] = [self.counts, self.confidences, self.corrects]
        if weighted:  # a tensor, or a NumPy number
            squares: Any = self.squares
            fields.append(squares if isinstance(squares, Tensor) else np.asarray(squares))
        sums = (_processes.summed(_probs.as_tensor("field", field)[0]) for field in fields)
        return ReliabilityBins(self.edges, *map(own_kind, sums))

    def __repr__(self) -> str:
        return (
            f"ReliabilityBins(n={float(self.n):.10g}, n_bins={self.n_bins}, "
            f"accuracy={float(self.accuracy):.4f}, confidence={float(self.confidence):.4f}, "
            f"ece={float(self.ece):.4f})"
        )

    def _repr_html_(self) -> str:
        rows = [["confidence", "n", "mean confidence", "accuracy", "gap"]]
        fields: tuple[Any, ...] = (self.edges[:-1], self.edges[1:], self.counts)
        fields += self.bin_confidence, self.bin_accuracy, self.gaps
        columns = [each.tolist() for each in fields]
        for low, high, n, *figures in zip(*columns, strict=True):
            shown = str(n) if isinstance(n, int) else f"{n:.10g}"
            rows.append(
                [f"{low:.3f} to {high:.3f}", shown, *(decimal(each, 4) for each in figures)]
            )
        return html([[cell.replace("nan", "") for cell in row] for row in rows])

    @property
    def n_bins(self) -> int:
        """The number of bins."""
        return len(self.counts)

    @property
    def n(self) -> Array:
        """The number of predictions, or the sum of their weights, a scalar."""
        return self.counts.sum()

    @property
    def effective_n(self) -> Array:
        r"""How many examples of equal weight tell as much: `n`, or $(\sum w)^2 / \sum w^2$."""
        value: Array = self.n if self.squares is None else self.n**2 / self.squares
        return value

    @property
    def bin_confidence(self) -> Array:
        """Mean confidence per bin, NaN if a bin is empty."""
        return self.confidences / _nan_where_zero(self.counts)

    @property
    def bin_accuracy(self) -> Array:
        """Accuracy per bin, NaN if a bin is empty."""
        return self.corrects / _nan_where_zero(self.counts)

    @property
    def gaps(self) -> Array:
        """Confidence minus accuracy per bin, positive if overconfident, NaN if empty."""
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
        return expected_gap(self.counts, self.confidences, self.corrects)

    @property
    def overconfidence(self) -> Array:
        """The part of the expected calibration error from bins with positive gaps."""
        return (self.ece + self.mcs) / 2

    @property
    def underconfidence(self) -> Array:
        """The part of the expected calibration error from bins with negative gaps."""
        return (self.ece - self.mcs) / 2

    @property
    def mce(self) -> Array:
        """The maximum calibration error over the bins that are not empty."""
        gaps = (self.confidences - self.corrects) / (self.counts + (self.counts == 0))
        return abs(gaps).max() + 0.0 / _nan_where_zero(self.n)  # NaN of an empty table

    @property
    def rmsce(self) -> Array:
        """The root mean square calibration error."""
        squares = (self.confidences - self.corrects) ** 2 / (self.counts + (self.counts == 0))
        return (_in_turn(squares) / self.n) ** 0.5

    @property
    def debiased_rmsce(self) -> Array:
        """The root mean square calibration error less its bias; see the function of this name."""
        fields: tuple[Any, ...] = (self.counts, self.confidences, self.corrects)
        if self.squares is not None:
            fields = tuple(each * (self.effective_n / self.n) for each in fields)
        value: Array = excess(*fields).clip(min=0) ** 0.5
        return value

    def interval(
        self,
        figure: Literal["accuracy", "mcs", "ece", "mce"] = "ece",
        *,
        level: float = 0.95,
        resamples: int = 1000,
        generator: torch.Generator | None = None,
    ) -> Interval[Array]:
        """Compute accuracy, MCS, ECE or MCE with an interval of that of the population.

        Accuracy has the exact interval of `metrics.clopper_pearson`. For ECE see
        `metrics.ece_interval`; that of MCS has the same exact bounds, of the signs that are all
        alike. MCE has the exact intervals of all bins that are not empty, at once. Only the lower
        end of ECE draws. Of weighted examples they are the intervals of `effective_n` examples with
        the same shares.

        Args:
            figure: `"accuracy"`, `"mcs"`, `"ece"` or `"mce"`.
            level: The confidence level, in `(0, 1)`.
            resamples: The number of draws.
            generator: The source of randomness; a copy of the global one by default.

        Returns:
            The figure and the ends, each a float64 scalar of the kind of this table.

        Raises:
            TypeError: If an argument is of the wrong kind.
            ValueError: If a value is wrong, or the table is empty.
        """
        _checks.choice("figure", figure, ("accuracy", "mcs", "ece", "mce"))
        _checks.arguments(level=level, resamples=resamples)
        sums, own_kind = self._sums(), _probs.as_tensor("edges", self.edges)[1]
        source = _random.steady(generator)
        if figure == "accuracy":
            ends = share_ends(float(sums.corrects.sum()), sums.n, level)
        elif figure == "mcs":
            ends = mcs_ends(sums, level)
        elif figure == "mce":
            ends = mce_ends(sums, level)
        else:
            ends = ece_ends(sums, level, resamples, source)
        value = getattr(self, figure)
        low, high = min(ends[0], float(value)), max(ends[1], float(value))  # whatever rounding says
        return Interval(value, own_kind(self._scalar(low)), own_kind(self._scalar(high)))

    def calibration_test(
        self,
        *,
        statistic: Statistic = "ece",
        resamples: int = 1000,
        generator: torch.Generator | None = None,
    ) -> CalibrationTest[Array]:
        """Test whether the top label is calibrated; see `metrics.calibration_test`.

        Args:
            statistic: `"ece"`, `"rmsce"`, `"chi2"` or `"mcs"`; or, at the edges of the bins,
                `"ks"` or `"kuiper"`.
            resamples: The number of draws.
            generator: The source of randomness; a copy of the global one by default.

        Returns:
            The statistic and its p-value, each of the kind of this table.

        Raises:
            TypeError: If an argument is of the wrong kind.
            ValueError: If a value is wrong, or the table is empty.
        """
        _checks.choice("statistic", statistic, (*_significance.BINNED, "ks", "kuiper"))
        _checks.arguments(resamples=resamples)
        source = _random.steady(generator)
        found = _significance.of_bins(self._sums(), statistic, resamples, source)
        own_kind = _probs.as_tensor("edges", self.edges)[1]
        return CalibrationTest(*(own_kind(self._scalar(each)) for each in found))

    def consistency_bands(
        self,
        *,
        level: float = 0.95,
        resamples: int = 1000,
        generator: torch.Generator | None = None,
    ) -> tuple[Array, Array]:
        """Compute where the accuracy of each bin lies if calibrated: `metrics.consistency_bands`.

        Args:
            level: The share of the draws that lie within the band of a bin, in `(0, 1)`.
            resamples: The number of draws.
            generator: The source of randomness; a copy of the global one by default.

        Returns:
            The lower and the upper ends, each `(n_bins,)`, NaN if a bin is empty.

        Raises:
            TypeError: If an argument is of the wrong kind.
            ValueError: If a value is wrong, or the table is empty.
        """
        _checks.arguments(level=level, resamples=resamples)
        sums, (edges, own_kind) = self._sums(), _probs.as_tensor("edges", self.edges)
        source = _random.steady(generator)
        drawn = drawn_corrects(sums, sums.means, resamples, source) / sums.counts
        ends = np.full((2, self.n_bins), np.nan)
        tails = [(1 - level) / 2, (1 + level) / 2]
        ends[:, self._occupied()] = np.quantile(drawn, tails, axis=0)
        low, high = (own_kind(torch.from_numpy(end).to(edges.device)) for end in ends)
        return low, high

    def _occupied(self) -> Any:
        """Tell which bins are not empty, in NumPy."""
        return _probs.as_tensor("counts", self.counts)[0].cpu().numpy() > 0

    def _squares(self) -> Any:
        return self.counts.sum() if self.squares is None else self.squares

    def _sums(self) -> Sums:
        """Return the sums of the bins that are not empty, in float64 and NumPy.

        Of weighted examples those of so many examples of weight 1 as tell as much.
        """
        chosen = self._occupied()
        if not chosen.any():
            raise ValueError("expected a table of one prediction or more, got none")
        fields = (self.counts, self.confidences, self.corrects)
        arrays = [_probs.as_tensor("sums", field)[0].cpu().double().numpy() for field in fields]
        if self.squares is not None:
            arrays = [array * float(self.effective_n / self.n) for array in arrays]
            for i in (0, 2):  # whole if weights are equal, and not 0 if they are small
                arrays[i] = np.where(arrays[i] < 1e-9, arrays[i], arrays[i].round(9))
        return Sums(*(array[chosen] for array in arrays))

    def _scalar(self, value: float) -> Tensor:
        """Return a number in float64 on the device of the table."""
        device = _probs.as_tensor("edges", self.edges)[0].device
        return torch.full((), value, dtype=torch.float64, device=device)


def excess(counts: Any, confidences: Any, corrects: Any) -> Any:
    """Return the mean square calibration error of sums per bin less its bias."""
    # In float64: the products of counts of billions are beyond int64.
    counts, corrects = (each + 0 * confidences for each in (counts, corrects))
    degrees = (counts - 1).clip(min=1)
    squares = (confidences - corrects) ** 2 * degrees
    noise = corrects * (counts - corrects)
    excesses = (squares - noise) / (counts.clip(min=1) * degrees)
    return _in_turn(excesses * (counts > 1)) / counts.sum()


def _in_turn(terms: Any) -> Any:
    """Add one term after the other, to the same last bit for tensors and arrays."""
    return (_sums.running(terms) if isinstance(terms, Tensor) else terms.cumsum(0))[-1]


def _nan_where_zero(counts: Any) -> Any:
    if isinstance(counts, Tensor):
        return torch.where(counts > 0, counts.double(), torch.nan)
    return np.where(counts > 0, counts, np.nan)


def reliability_bins(
    probs: Array,
    labels: Array,
    *,
    n_bins: int = 15,
    binning: Binning = "uniform",
    positive: int | None = None,
    weights: Array | None = None,
    from_logits: bool = False,
) -> ReliabilityBins[Array]:
    """Sort predictions into bins of confidence, of equal width or of equal mass.

    Bins are right-closed, `(i / n_bins, (i + 1) / n_bins]`, with float64 edges; confidence exactly
    0 falls in the first bin and 1 in the last. Of equal highest probabilities the first class is
    the prediction.

    With `binning="quantile"` edge `i` is the confidence of rank `ceil(i n / n_bins)`, so bins hold
    equally many predictions as far as equal confidences, which stay together, allow it. These
    edges depend on the data: tables of different data do not add.

    With `positive` the table is of the probability of one class, which runs from 0 to 1, and its
    `accuracy` is how often this class is the label. For a binary model it tells more than the table
    of the prediction. All that a table has, intervals and tests among it, it has of this one too.

    Args:
        probs: Probabilities, shape `(n, classes)`; a tensor or a NumPy array.
        labels: Integer labels of the same kind, shape `(n,)`.
        n_bins: The number of bins.
        binning: `"uniform"` for bins of equal width or `"quantile"` for bins of equal mass.
        positive: The class whose probability is compared with how often it is the label, such as 1
            of two classes; the highest probability and whether it is the label's if None.
        weights: What each example counts for, `(n,)` of the kind of `probs`, not negative; all the
            same if None. Bins of equal mass are of equal weight then. All that a table has, it has
            of weighted examples too.
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
    return ReliabilityBins(*binned(probs, labels, n_bins, binning, from_logits, positive, weights))
