"""Two models on the same examples: how much they differ, and whether by more than chance."""

import math
from collections.abc import Callable, Iterator
from statistics import NormalDist
from typing import Any, Generic, Literal, NamedTuple

import numpy as np
import torch
from scipy.special import bdtr, ndtr
from torch import Tensor

from advcal import _checks, _probs
from advcal._random import resolve
from advcal._typing import Array
from advcal.metrics._bins import uniform_bin
from advcal.metrics._intervals import Vector, mean_ends
from advcal.metrics._scores import accuracy, brier, confidence, mistake_cost, nll

_SCORES: dict[str, Callable[..., Any]] = {
    "accuracy": accuracy,
    "brier": brier,
    "confidence": confidence,
    "nll": nll,
}
_ROUNDING = 1e-12


class PairedTest(NamedTuple, Generic[Array]):
    """How two models differ on the same examples.

    Attributes:
        value: The figure of the first less that of the second.
        low: The lower end of the interval of the difference.
        high: The upper end.
        p_value: The probability of at least this difference, to either side, were the two alike.
    """

    value: Array
    low: Array
    high: Array
    p_value: Array


def paired_test(
    probs: Array,
    others: Array,
    labels: Array,
    *,
    figure: Literal["accuracy", "brier", "confidence", "ece", "nll"] = "accuracy",
    n_bins: int = 15,
    resamples: int = 1000,
    level: float = 0.95,
    from_logits: bool = False,
    generator: torch.Generator | None = None,
) -> PairedTest[Array]:
    r"""Compare a figure of two models, or of one before and after a change, on the same examples.

    What is easy or hard for both cancels, so differences are found that two intervals hide. Under
    attack pass the probabilities of both at their own attacked inputs, as `trainers.predict` has
    them.

    Accuracy has McNemar's exact test, of the examples that one model alone gets right, and Tango's
    score interval. Confidence, NLL and Brier score have a test by flips of the sign of each
    example's difference, and Student's interval or, if it is wider, Wilson's on the range that
    these differences may have: 1 and 2, and of the NLL the largest found or the mean NLL of a
    mistake, so that mistakes not seen are allowed for. ECE has a test by swaps of the two models'
    predictions, which asks whether they are alike in accuracy too; its interval is that of the
    bootstrap of pairs, wider by how much the biases of two such errors can differ: they are those
    at gaps one standard error larger and smaller than were found.

    Args:
        probs: Probabilities of the first model, shape `(n, classes)`; a tensor or a NumPy array.
        others: Those of the second, of the same kind, for the same examples.
        labels: Integer labels of the same kind, shape `(n,)`.
        figure: What to compare.
        n_bins: The number of equal-width bins of the ECE.
        resamples: The number of draws.
        level: The confidence level of the interval, in `(0, 1)`.
        from_logits: Whether both are logits, whose softmax is taken in float64.
        generator: The source of randomness; a copy of the global one by default.

    Returns:
        The difference, its interval and a p-value, float64 scalars of the kind of `probs`.

    Raises:
        TypeError: If an argument is of another kind or dtype.
        ValueError: If a shape or value is wrong, a row does not sum to one, or `n` is 0.

    Example:
        >>> import torch
        >>> first, second = torch.full((2, 40, 2), 0.5)
        >>> first[:, 0], first[:, 1] = 0.9, 0.1
        >>> second[:30, 0], second[:30, 1] = 0.9, 0.1
        >>> second[30:, 0], second[30:, 1] = 0.1, 0.9
        >>> found = paired_test(first, second, torch.zeros(40, dtype=torch.int64))
        >>> round(float(found.value), 3), round(float(found.p_value), 5)
        (0.25, 0.00195)

    References:
        McNemar, Note on the sampling error of the difference between correlated proportions,
        Psychometrika 12, 1947. Tango, Equivalence test and confidence interval for the difference
        in proportions for the paired-sample design, Statistics in Medicine 17, 1998.
    """
    _checks.choice("figure", figure, (*_SCORES, "ece"))
    _checks.arguments(n_bins=n_bins, resamples=resamples, level=level, from_logits=from_logits)
    source = resolve(generator, torch.device("cpu"))
    (template, own_kind), (other, _) = map(_probs.matrix, (probs, others))
    if template.shape[1] != other.shape[1]:
        raise ValueError(
            "expected probs of two models of as many classes, got "
            f"{template.shape[1]} and {other.shape[1]}"
        )
    found: tuple[float, float, float, float]
    if figure == "ece":
        tops = [_probs.top_labels(each, labels, from_logits) for each in (probs, others)]
        pair = _Pair(*(_gaps(c, hit, n_bins) for c, hit, _ in tops))
        found = _of_ece(pair, resamples, level, source)
    else:
        score, options = _SCORES[figure], {"reduction": "none", "from_logits": from_logits}
        each = [_probs.as_tensor("scores", score(p, labels, **options))[0] for p in (probs, others)]
        first, second = (scores.cpu().numpy() for scores in each)
        if figure == "accuracy":
            found = _of_accuracy(first, second, level)
        else:
            size = 2.0 if figure == "brier" else 1.0
            if figure == "nll":
                tops = [_probs.top_labels(p, labels, from_logits) for p in (probs, others)]
                size = max(float(mistake_cost(c).mean()) for c, _, _ in tops)
            found = _of_means(first, second, size, resamples, level, source)
    return PairedTest(*(own_kind(template.new_tensor(x, dtype=torch.float64)) for x in found))


def _of_accuracy(first: Vector, second: Vector, level: float) -> tuple[float, float, float, float]:
    n, b, c = len(first), int((first > second).sum()), int((first < second).sum())
    p_value = min(1.0, 2 * float(bdtr(min(b, c), b + c, 0.5))) if b + c else 1.0
    return (b - c) / n, -_tango(c, b, n, level), _tango(b, c, n, level), p_value


def _tango(b: int, c: int, n: int, level: float) -> float:
    """Return the upper end of Tango's interval of `(b - c) / n`."""
    z, low, high = NormalDist().inv_cdf((1 + level) / 2), (b - c) / n, 1.0
    for _ in range(50):
        delta = (low + high) / 2
        linear = -b - c + (2 * n - b + c) * delta
        root = math.sqrt(max(0.0, linear**2 + 8 * n * c * delta * (1 - delta)))
        share = (root - linear) / (4 * n)  # of what the second alone has right, at this difference
        variance = n * (2 * share + delta * (1 - delta))
        inside = n * delta - (b - c) <= z * math.sqrt(max(0.0, variance))
        low, high = (delta, high) if inside else (low, delta)
    return high


def _of_means(
    first: Vector,
    second: Vector,
    size: float,
    resamples: int,
    level: float,
    source: torch.Generator,
) -> tuple[float, float, float, float]:
    """Compare the means of scores that differ by up to a size, if not by more."""
    with np.errstate(invalid="ignore"):
        each = np.where(first == second, 0.0, first - second)
    n, total, most = len(each), float(each.sum()), float(np.abs(each).max())
    if not math.isfinite(most):  # a label of probability 0
        return total / n, -math.inf, math.inf, 1.0
    flipped = np.concatenate([2 * (flips @ each) - total for flips in _flips(n, resamples, source)])
    beyond = (np.abs(flipped) >= abs(total) - _ROUNDING * most * n).sum()
    size = max(size, most)
    low, high = mean_ends(total, float((each**2).sum()), n, level, least=-size, most=size)
    return total / n, low, high, float((1 + beyond) / (1 + resamples))


def _flips(n: int, resamples: int, source: torch.Generator) -> Iterator[Vector]:
    """Yield draws of zeros and ones, `(some, n)`."""
    for size in _parts(n, resamples):
        drawn = torch.randint(2, (size, n), generator=source, device=source.device)
        yield drawn.cpu().double().numpy()


def _parts(n: int, resamples: int) -> list[int]:
    """Cut a number of draws into runs that stay small."""
    size = max(1, (1 << 20) // n)
    return [min(size, resamples - start) for start in range(0, resamples, size)]


# --- the calibration error -------------------------------------------------------------------


class _Pair(NamedTuple):
    """Confidence minus accuracy of each example of two models, in the column of its bin."""

    first: Vector
    second: Vector


def _gaps(highest: Tensor, correct: Tensor, n_bins: int) -> Vector:
    """Return `(n, n_bins)`, zero but in the bin of each example."""
    index = uniform_bin(highest, n_bins).long()[:, None]
    table = torch.zeros(len(highest), n_bins, dtype=torch.float64, device=highest.device)
    gaps = (highest - correct.double())[:, None]
    found: Vector = table.scatter_(1, index, gaps).cpu().numpy()
    return found


def _of_ece(
    pair: _Pair, resamples: int, level: float, source: torch.Generator
) -> tuple[float, float, float, float]:
    n, swap = len(pair.first), pair.second - pair.first
    sums = pair.first.sum(axis=0), pair.second.sum(axis=0)
    value = _difference(*sums) / n
    moved = np.concatenate([flips @ swap for flips in _flips(n, resamples, source)])
    swapped = _difference(sums[0] + moved, sums[1] - moved) / n
    p_value = (1 + (np.abs(swapped) >= abs(value) - _ROUNDING).sum()) / (1 + resamples)
    drawn = []
    for size in _parts(n, resamples):
        chosen = torch.randint(n, (size, n), generator=source, device=source.device).cpu()
        cells = chosen + n * torch.arange(size, device="cpu")[:, None]
        weights = torch.bincount(cells.flatten(), minlength=size * n).view(size, n).double().numpy()
        drawn.append(_difference(weights @ pair.first, weights @ pair.second) / n)
    spread = NormalDist().inv_cdf((1 + level) / 2) * float(np.concatenate(drawn).std())
    (least, most), (other_least, other_most) = map(_biases, pair)
    ends = value - most + other_least - spread, value - least + other_most + spread
    return value, max(-1.0, ends[0]), min(1.0, ends[1]), float(p_value)


def _difference(first: Vector, second: Vector) -> Any:
    return np.abs(first).sum(axis=-1) - np.abs(second).sum(axis=-1)


def _biases(gaps: Vector) -> tuple[float, float]:
    """Return the bias of the error if gaps are a standard error larger than found, or smaller."""
    n, sums = len(gaps), np.abs(gaps.sum(axis=0))
    counts = (gaps != 0).sum(axis=0)
    noise = np.sqrt(((gaps**2).sum(axis=0) + 1) * counts / (counts + 2))
    found = []
    for shift in (1, -1):
        x = np.maximum(0, sums / np.maximum(noise, _ROUNDING) + shift)
        density = np.exp(-(x**2) / 2) / math.sqrt(2 * math.pi)
        found.append(float((noise * 2 * (density - x * ndtr(-x)))[counts > 0].sum()) / n)
    return found[0], found[1]
