"""Intervals of shares and of calibration errors, from the counts and sums of bins alone."""

import math
from collections.abc import Callable
from statistics import NormalDist
from typing import Generic, NamedTuple, TypeAlias, TypeVar

import numpy as np
import numpy.typing as npt
import torch
from scipy.special import betaincinv, expit, logit, ndtr, stdtrit

Vector: TypeAlias = npt.NDArray[np.float64]

_EXACT = 200  # examples up to which the law of a sum of binomials is computed exactly
_PATTERNS = 65  # signs of the gaps that are tried at most
_ROUNDING = 1e-12


Value = TypeVar("Value")  # a tensor, an array or a number


class Interval(NamedTuple, Generic[Value]):
    """A value with an interval around it.

    Attributes:
        value: The metric of all examples.
        low: The lower end.
        high: The upper end.
    """

    value: Value
    low: Value
    high: Value


class Sums(NamedTuple):
    """Of each bin that is not empty: how many, their summed confidence, and how many are right."""

    counts: Vector
    confidences: Vector
    corrects: Vector

    @property
    def n(self) -> float:
        """The number of predictions."""
        return float(self.counts.sum())

    @property
    def means(self) -> Vector:
        """The mean confidence of each bin, as a probability."""
        return (self.confidences / self.counts).clip(0, 1)

    @property
    def gaps(self) -> Vector:
        """Accuracy minus confidence of each bin."""
        return (self.corrects - self.confidences) / self.counts

    @property
    def error(self) -> float:
        """The expected calibration error."""
        return float(np.abs(self.corrects - self.confidences).sum()) / self.n


def share_ends(k: float, n: float, level: float) -> tuple[float, float]:
    """Return the exact ends of a share of which `k` of `n` were found."""
    low, high = clopper_pearson(np.array(k), np.array(n), (1 - level) / 2)
    return float(low), float(high)


def clopper_pearson(k: Vector, n: Vector, tail: float) -> tuple[Vector, Vector]:
    """Return the exact ends of shares of which `k` of `n` were found, `tail` beyond each."""
    low = np.where(k > 0, betaincinv(np.maximum(k, 1e-9), n - k + 1, tail), 0.0)
    high = np.where(k < n, betaincinv(k + 1, np.maximum(n - k, 1e-9), 1 - tail), 1.0)
    return low, high


def mean_ends(
    total: float, squares: float, n: float, level: float, *, most: float, least: float = 0.0
) -> tuple[float, float]:
    """Return the ends of the interval of a mean, from the sums of the values and their squares.

    They are those of Student's interval or of Wilson's, whichever is further out. The latter, of
    values from `least` to `most` with the variance found instead of that of a share, has a width if
    all values are alike.
    """
    if not math.isfinite(squares) or n <= 1:
        return -math.inf, math.inf
    z, mean = NormalDist().inv_cdf((1 + level) / 2), total / n
    variation = max(0.0, squares - total * mean)
    middle = (total + z**2 * (least + most) / 2) / (n + z**2)
    reach = z * math.sqrt(variation + (z * (most - least) / 2) ** 2) / (n + z**2)
    student = float(stdtrit(n - 1, (1 + level) / 2)) * math.sqrt(variation / (n - 1) / n)
    return min(middle - reach, mean - student), max(middle + reach, mean + student)


def mce_ends(sums: Sums, level: float) -> tuple[float, float]:
    """Return the ends of the interval of the largest gap, which all bins are within at once."""
    tail = (1 - level) / 2 / len(sums.counts)
    low, high = clopper_pearson(sums.corrects, sums.counts, tail)
    nearest = np.maximum(low - sums.means, sums.means - high)
    furthest = np.maximum(high - sums.means, sums.means - low)
    return max(0.0, float(nearest.max())), float(furthest.max())


def mcs_ends(sums: Sums, level: float) -> tuple[float, float]:
    """Return the ends of the interval of confidence minus accuracy."""
    signs = np.array([[1.0], [-1.0]]).repeat(len(sums.counts), axis=1)
    found, bound = _linear(sums, signs, (1 - level) / 2)
    spread = _spread(sums, float(found[0]), level)
    reach = np.sqrt((bound - found) ** 2 + spread)
    return max(-1.0, -float(found[0] + reach[0])), min(1.0, float(found[1] + reach[1]))


def ece_ends(
    sums: Sums, level: float, resamples: int, source: torch.Generator
) -> tuple[float, float]:
    """Return the ends of the interval of the expected calibration error."""
    tail, error = (1 - level) / 2, sums.error
    spread = _spread(sums, error, level)
    found, bound = _linear(sums, _patterns(sums), tail)
    high = min(1.0, float((found + np.sqrt((bound - found) ** 2 + spread)).max()))
    low = _least_error(sums, tail, resamples, source)
    return max(0.0, error - math.sqrt((error - low) ** 2 + spread)) if low > 0 else 0.0, high


def _spread(sums: Sums, mean: float, level: float) -> float:
    """Return the square of what chance in the shares of the bins adds to a half-width."""
    z = NormalDist().inv_cdf((1 + level) / 2)
    square = float((sums.counts * sums.gaps**2).sum()) / sums.n
    return z**2 * max(0.0, square - mean**2) / sums.n


# --- the upper end ---------------------------------------------------------------------------
# The error is the largest, over signs s of the gaps, of sums of s (accuracy - confidence). Such a
# sum is a count of examples, the right ones where s is +1 and the wrong ones where it is -1, less a
# number that is known: so the largest of their exact upper bounds bounds the error.


def _patterns(sums: Sums) -> Vector:
    """Return rows of signs: -1 for the bins of the lowest gaps in units of their noise."""
    m, n_bins = sums.means, len(sums.counts)
    order = np.argsort(sums.gaps / np.sqrt(m * (1 - m) / sums.counts + 1e-30), kind="stable")
    rank = np.empty(n_bins)
    rank[order] = np.arange(n_bins)
    split = int((sums.gaps < 0).sum())  # the signs that were found
    lowest = np.unique(np.append(np.linspace(0, n_bins, _PATTERNS).round(), split))
    signs: Vector = np.where(rank < lowest[:, None], -1.0, 1.0)
    return signs


def _linear(sums: Sums, signs: Vector, tail: float) -> tuple[Vector, Vector]:
    """Return the sum that was found for each row of signs and its upper bound."""
    n = sums.n
    hits = np.where(signs > 0, sums.corrects, sums.counts - sums.corrects)
    known = np.where(signs > 0, sums.confidences, sums.counts - sums.confidences).sum(axis=1) / n
    total = hits.sum(axis=1)
    low, high = np.full(len(signs), -4.0), np.full(len(signs), 6.0)
    for _ in range(24):
        middle = (low + high) / 2
        rates = _tilted(hits / sums.counts, -(10**middle))
        accepted = _tail(sums.counts, rates, total) > tail
        low, high = np.where(accepted, middle, low), np.where(accepted, high, middle)
    most = (sums.counts * _tilted(hits / sums.counts, -(10**low))).sum(axis=1) / n
    return total / n - known, np.where(total == n, 1.0, most) - known


def _tilted(found: Vector, weight: Vector | float) -> Vector:
    r"""Return the likeliest rates of a given sum: $\mu q^2 - (1 + \mu) q + f = 0$.

    With a negative weight $\mu$ they are above the rates found, with a positive one below.
    """
    mu = np.asarray(weight)[..., None]
    one = 1 + mu
    root = np.sqrt(np.maximum(one**2 - 4 * mu * found, 0))
    with np.errstate(divide="ignore", invalid="ignore"):
        rates: Vector = np.where(one > 0, 2 * found / (one + root), (one - root) / (2 * mu))
    return rates.clip(0, 1 - _ROUNDING)


def _tail(counts: Vector, rates: Vector, total: Vector) -> Vector:
    """Return the probability that a sum of binomials is at most the total, for each row of rates.

    Exactly from its Fourier transform for few examples, else by Lugannani and Rice's formula,
    within 2 % of a probability of .025.
    """
    n, whole = int(counts.sum()), all((each % 1 == 0).all() for each in (counts, total))
    if n > _EXACT or not whole:
        return _saddlepoint(counts, rates, np.ceil(total))
    turns = np.exp(2j * np.pi * np.arange((n + 1) // 2 + 1) / (n + 1))[:, None]
    transform = ((1 + rates[:, None] * (turns - 1)) ** counts).prod(axis=2)
    masses = np.fft.hfft(transform, n + 1, axis=1) / (n + 1)
    index = total.astype(np.int64)[:, None]
    found: Vector = np.take_along_axis(masses.cumsum(axis=1), index, axis=1)[:, 0]
    return found


def _saddlepoint(counts: Vector, rates: Vector, total: Vector) -> Vector:
    with np.errstate(divide="ignore"):
        odds, goal = logit(rates), total + 0.5
    t, low, high = np.zeros(len(rates)), np.full(len(rates), -80.0), np.full(len(rates), 80.0)
    for _ in range(25):
        p = expit(odds + t[:, None])
        mean, variance = (counts * p).sum(axis=1), (counts * p * (1 - p)).sum(axis=1)
        low, high = np.where(mean < goal, t, low), np.where(mean < goal, high, t)
        step = t + (goal - mean) / np.maximum(variance, 1e-300)
        before, t = t, np.where((low < step) & (step < high), step, (low + high) / 2)
        if np.abs(t - before).max() < 1e-10:  # Newton's next step would be lost in rounding
            break
    p = expit(odds + t[:, None])
    log_moment = (counts * np.log1p(rates * np.expm1(np.minimum(t, 700))[:, None])).sum(axis=1)
    w = np.sign(t) * np.sqrt(np.maximum(2 * (t * goal - log_moment), 0))
    u = 2 * np.sinh(t / 2) * np.sqrt((counts * p * (1 - p)).sum(axis=1))
    near = np.abs(w) < 1e-3
    with np.errstate(divide="ignore", invalid="ignore"):
        density = np.exp(-(w**2) / 2) / math.sqrt(2 * math.pi)
        found = np.where(near, 0.5, ndtr(w) + density * (1 / w - 1 / u))
    none = np.exp((counts * np.log1p(-rates)).sum(axis=1))  # the probability of no hit
    possible = (counts * (rates > 0)).sum(axis=1)
    # Of weighted examples the number is not whole, and half an example may not be left.
    return np.where(possible <= total + 0.5, 1.0, np.where(total == 0, none, found))


# --- the lower end ---------------------------------------------------------------------------


def drawn_corrects(sums: Sums, rates: Vector, resamples: int, source: torch.Generator) -> Vector:
    """Draw how many predictions of each bin are right, `(resamples, bins)`, at given rates."""
    whole = sums.counts.round().clip(1)  # they are whole but for weighted examples
    counts, p = (torch.from_numpy(each).to(source.device) for each in (whole, rates))
    shape = (resamples, len(sums.counts))
    found: Vector = torch.binomial(counts.expand(shape), p.expand(shape), source).cpu().numpy()
    return found if (whole == sums.counts).all() else found * (sums.counts / whole)


def _least_error(sums: Sums, tail: float, resamples: int, source: torch.Generator) -> float:
    """Return the least error of populations from which a sample may well have the one found.

    They lie on three paths from calibration: to the accuracies found, by the likeliest way, and
    with all of the error in the bin of the largest gap, or of the most predictions.
    """
    state, error = source.get_state(), sums.error

    def reached(rates: Vector) -> float:
        same = torch.Generator(source.device).set_state(state)  # draws that differ by rates alone
        errors = np.abs(drawn_corrects(sums, rates, resamples, same) - sums.confidences).sum(axis=1)
        return float((errors >= (error - _ROUNDING) * sums.n).mean())

    over = drawn_corrects(sums, sums.means, resamples, source)  # moves the source, as a test does
    errors = np.abs(over - sums.confidences).sum(axis=1)
    if (1 + (errors >= (error - _ROUNDING) * sums.n).sum()) / (1 + resamples) > tail:
        return 0.0
    largest = int(np.abs(sums.corrects - sums.confidences).argmax())
    paths = [_in_one_bin(sums, largest), _in_one_bin(sums, int(sums.counts.argmax()))]
    ends = [_first(path, reached, tail) for path in (*paths, _likeliest(sums))]
    gaps = [np.abs(rates - sums.means) for rates in ends if rates is not None]
    return min(float((sums.counts * each).sum()) / sums.n for each in gaps) if gaps else error


Path: TypeAlias = Callable[[float], Vector]  # from calibrated at 0 to the furthest at 1


def _in_one_bin(sums: Sums, j: int) -> Path:
    m, furthest = sums.means, float(sums.gaps[j] >= 0)

    def at(share: float) -> Vector:
        return np.where(np.arange(len(m)) == j, m + share * (furthest - m), m)

    return at


def _likeliest(sums: Sums) -> Path:
    m, over = sums.means, sums.gaps >= 0
    found, least = (np.where(over, each, 1 - each) for each in (sums.corrects / sums.counts, m))

    def at(share: float) -> Vector:
        rates = np.maximum(_tilted(found, 10 ** (6 - 10 * share)), least)
        return np.where(over, rates, 1 - rates)

    return at


def _first(path: Path, reached: Callable[[Vector], float], tail: float) -> Vector | None:
    """Return the first rates of a path, if any, of which a larger share than the tail reaches."""
    low, high = 0.0, 1.0
    if reached(path(high)) <= tail:
        return None
    for _ in range(16):
        middle = (low + high) / 2
        low, high = (low, middle) if reached(path(middle)) > tail else (middle, high)
    return path(high)
