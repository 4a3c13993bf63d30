"""The figures of predictions as sums that add: accuracy, NLL, Brier score and the table."""

from __future__ import annotations

import dataclasses
from typing import Any, Generic, Literal

import torch
from torch import Tensor

from advcal import _checks, _probs, _processes
from advcal._typing import Array
from advcal.metrics._intervals import Interval, mean_ends
from advcal.metrics._scores import mistake_cost, scored, weighted
from advcal.metrics._table import ReliabilityBins, reliability_bins

_FIGURES = ("accuracy", "confidence", "nll", "brier", "ece", "mce", "mcs")
_OF_BINS = ("accuracy", "ece", "mce", "mcs")


@dataclasses.dataclass(frozen=True, eq=False, repr=False)
class Summary(Generic[Array]):
    r"""What streaming and distributed evaluation keep: every figure and its interval, as sums.

    Summaries add, as their tables do: `a + b` is the summary of both data sets.

    Attributes:
        bins: The reliability table.
        sums: Float64, shape `(6,)`: the summed NLL and Brier score; the summed squares of
            confidence, NLL and Brier score; and, as the scale of what mistakes that were not seen
            would cost, the summed NLL of the mistakes, $-\log(1 - c)$ at confidence `c`. All of
            them times the weights, if the examples have weights.
    """

    bins: ReliabilityBins[Array]
    sums: Array

    def __add__(self, other: object) -> Summary[Array]:
        if not isinstance(other, Summary):
            return NotImplemented
        return Summary(self.bins + other.bins, self.sums + other.sums)

    # Any, so that type checkers take `total = 0` and then `total += summary`.
    def __radd__(self, other: int) -> Any:
        # so that sum(summaries) works, and nothing else adds
        return self if type(other) is int and other == 0 else NotImplemented

    def __repr__(self) -> str:
        names = ("accuracy", "nll", "brier", "ece")
        figures = ", ".join(f"{name}={float(getattr(self, name)):.4f}" for name in names)
        return f"Summary(n={float(self.n):.10g}, {figures})"

    def all_reduce(self) -> Summary[Array]:
        """Return the sum over all processes; see `ReliabilityBins.all_reduce`.

        Returns:
            The sum, of the kind of this summary.

        Raises:
            ValueError: If the edges differ between processes.
        """
        if not _processes.running():
            return self
        sums, own_kind = _probs.as_tensor("sums", self.sums)
        return Summary(self.bins.all_reduce(), own_kind(_processes.summed(sums)))

    @property
    def n(self) -> Array:
        """The number of predictions, or the sum of their weights, a scalar."""
        return self.bins.n

    @property
    def accuracy(self) -> Array:
        """The share of right predictions."""
        return self.bins.accuracy

    @property
    def confidence(self) -> Array:
        """The mean confidence."""
        return self.bins.confidence

    @property
    def nll(self) -> Array:
        """The negative log-likelihood, in nats."""
        value: Array = self.sums[0] / self.n
        return value

    @property
    def brier(self) -> Array:
        """The Brier score, from 0 to 2."""
        value: Array = self.sums[1] / self.n
        return value

    @property
    def ece(self) -> Array:
        """The expected calibration error."""
        return self.bins.ece

    @property
    def mce(self) -> Array:
        """The maximum calibration error."""
        return self.bins.mce

    @property
    def mcs(self) -> Array:
        """The miscalibration score, confidence minus accuracy."""
        return self.bins.mcs

    def interval(
        self,
        figure: Literal["accuracy", "confidence", "nll", "brier", "ece", "mce", "mcs"],
        *,
        level: float = 0.95,
        resamples: int = 1000,
        generator: torch.Generator | None = None,
    ) -> Interval[Array]:
        """Compute a figure with an interval of that of the population.

        For accuracy, ECE, MCE and MCS see `ReliabilityBins.interval`. Confidence, NLL and Brier
        score have the wider, at each end, of Student's interval and of Wilson's on the range of the
        score, with the variance found: it has a width if all scores are alike, as when no
        prediction is wrong.

        Args:
            figure: The name of a property.
            level: The confidence level, in `(0, 1)`.
            resamples: The number of draws; only the lower end of ECE draws.
            generator: The source of randomness; a copy of the global one by default.

        Returns:
            The figure and the ends, each a float64 scalar of the kind of this summary.

        Raises:
            TypeError: If an argument is of the wrong kind.
            ValueError: If a value is wrong, or the summary is empty.
        """
        _checks.choice("figure", figure, _FIGURES)
        if figure in _OF_BINS:
            chosen: Any = figure
            options: Any = {"level": level, "resamples": resamples, "generator": generator}
            return self.bins.interval(chosen, **options)
        _checks.arguments(level=level, resamples=resamples, generator=generator)
        sums, own_kind = _probs.as_tensor("sums", self.sums)
        if float(self.n) == 0:
            raise ValueError("expected a summary of one prediction or more, got none")
        value, n = float(getattr(self, figure)), float(self.bins.effective_n)
        square = float(sums[{"confidence": 2, "nll": 3, "brier": 4}[figure]] / self.n)
        most = {"confidence": 1.0, "nll": float(sums[5] / self.n), "brier": 2.0}[figure]
        low, high = mean_ends(value * n, square * n, n, level, most=most)
        high = high if figure == "nll" else min(most, high)
        low, high = min(max(0.0, low), value), max(high, value)  # whatever rounding says
        ends = (own_kind(sums.new_tensor(end)) for end in (low, high))
        return Interval(getattr(self, figure), *ends)

    @classmethod
    def of_scores(
        cls,
        bins: ReliabilityBins[Array],
        confidence: Tensor,
        nll: Tensor,
        brier: Tensor,
        weights: Tensor | None = None,
    ) -> Summary[Array]:
        """Sum up what is known of each example, float64 `(n,)`, beside the table of all of them."""
        each = [nll, brier, *(part.square() for part in (confidence, nll, brier))]
        each.append(mistake_cost(confidence))
        if weights is not None:
            each = [weighted(part, weights) for part in each]
        own_kind = _probs.as_tensor("edges", bins.edges)[1]
        return cls(bins, own_kind(torch.stack([part.sum() for part in each])))


def summary(
    probs: Array,
    labels: Array,
    *,
    n_bins: int = 15,
    weights: Array | None = None,
    from_logits: bool = False,
) -> Summary[Array]:
    """Sum up predictions: accuracy, confidence, NLL, Brier score and the reliability table.

    For data that pass in batches or lie in several processes: summaries add, in memory that does
    not grow with the data, and have an interval of every figure.

    Args:
        probs: Probabilities, shape `(n, classes)`; a tensor or a NumPy array.
        labels: Integer labels of the same kind, shape `(n,)`.
        n_bins: The number of equal-width bins of the table.
        weights: What each example counts for, `(n,)` of the kind of `probs`, not negative; all the
            same if None.
        from_logits: Whether `probs` are logits, whose softmax is taken in float64.

    Returns:
        The summary, its fields of the kind of `probs`.

    Raises:
        TypeError: If `probs` or `labels` is of another kind or dtype.
        ValueError: If a shape or value is wrong, a row does not sum to one, or `n` is 0.

    Example:
        >>> import torch
        >>> batches = torch.tensor([[0.75, 0.25]]).expand(4, 2), torch.tensor([[0.9, 0.1]])
        >>> labels = torch.tensor([0, 0, 0, 1]), torch.tensor([0])
        >>> total = sum(map(summary, batches, labels))
        >>> total
        Summary(n=5, accuracy=0.8000, nll=0.4709, brier=0.3040, ece=0.0200)
        >>> found = total.interval("accuracy")
        >>> round(float(found.low), 3), round(float(found.high), 3)
        (0.284, 0.995)
    """
    options: Any = {"weights": weights, "from_logits": from_logits}
    bins = reliability_bins(probs, labels, n_bins=n_bins, **options)
    p, y, _ = _probs.probabilities(probs, labels)
    highest, costs, squares = map(torch.cat, zip(*scored(p, y, from_logits), strict=True))
    w = None if weights is None else _probs.example_weights(probs, weights, y)
    return Summary.of_scores(bins, highest, costs, squares, w)
