r"""The greatest calibration error that confidences and outcomes within bounds can have.

With a sign $s_b$ for each bin, $\sum_b |\sum_{i \in b} d_i| = \max_s \sum_i s_{b(i)} d_i$, and d is
right (1 or 0) minus confidence. For given signs every example is free to take its best bin and
outcome, whatever the others do, so that the maximum over all signs is exact.
"""

from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from advcal.certify._binomial import Floats

MOST_BINS = 16
Indices = npt.NDArray[np.int64]


class Outcomes(NamedTuple):
    """What can become of each example: right or wrong, with a confidence from low to high.

    Attributes:
        possible: Which outcomes there may be, right before wrong, bool, shape `(n, 2)`.
        low: The least confidence, shape `(n,)`.
        high: The greatest, for each outcome, shape `(n, 2)`.
    """

    possible: npt.NDArray[np.bool_]
    low: Floats
    high: Floats


def greatest_ece(outcomes: Outcomes, edges: Floats) -> float:
    """Compute the supremum of the expected calibration error over bins `(e_b, e_(b+1)]`."""
    n_bins = len(edges) - 1
    signs = (np.arange(2**n_bins)[:, None] >> np.arange(n_bins) & 1).astype(bool)
    first = _bin(outcomes.low, edges)
    last = np.where(outcomes.possible, _bin(outcomes.high, edges), -1)
    groups, member = np.unique(
        np.column_stack([first, last]), axis=0, return_inverse=True
    )  # of examples that reach the same bins
    total = np.zeros(len(signs))
    for i, (start, *ends) in enumerate(groups.tolist()):
        rows = (member.reshape(-1) == i).nonzero()[0]
        patterns = [_pattern(signs, start, end) for end in ends if end >= 0]
        codes = sum((p * 32 ** (2 * k) for k, p in enumerate(patterns)), np.zeros(1, np.int64))
        _, some, inverse = np.unique(codes, return_index=True, return_inverse=True)
        best = np.full((len(rows), len(some)), -np.inf)
        for right, end, high in zip((1.0, 0.0), ends, outcomes.high[rows].T, strict=True):
            if end >= 0:
                gain = _gain(signs[some], right, start, end, outcomes.low[rows], high, edges)
                best = np.maximum(best, gain)
        total += best.sum(axis=0)[inverse.reshape(-1)]
    return float(max(total.max(), 0.0) / len(first))


def _bin(confidence: Floats, edges: Floats) -> Indices:
    index: Indices = np.searchsorted(edges, confidence, side="left") - 1
    return index.clip(0, len(edges) - 2)


def _pattern(signs: npt.NDArray[np.bool_], start: int, end: int) -> Indices:
    """Tell signs apart by the first plus and the last minus from `start` to `end`."""
    plus, minus = _first_plus(signs, start, end), _last_minus(signs, start, end)
    return (plus + 1) * 32 + minus + 1


def _first_plus(signs: npt.NDArray[np.bool_], start: int, end: int) -> Indices:
    span = signs[:, start : end + 1]
    return np.where(span.any(axis=1), start + span.argmax(axis=1), -1)


def _last_minus(signs: npt.NDArray[np.bool_], start: int, end: int) -> Indices:
    span = ~signs[:, start : end + 1][:, ::-1]
    return np.where(span.any(axis=1), end - span.argmax(axis=1), -1)


def _gain(
    signs: npt.NDArray[np.bool_],
    right: float,
    start: int,
    end: int,
    low: Floats,
    high: Floats,
    edges: Floats,
) -> Floats:
    """Return the best signed gap of each example under each sign pattern, `(n, patterns)`.

    In a bin of sign plus the confidence goes as low as it can, in one of sign minus as high; the
    lowest bin of sign plus and the highest of sign minus are best.
    """
    plus, minus = _first_plus(signs, start, end), _last_minus(signs, start, end)
    lowest = np.where(plus == start, low[:, None], edges[plus])
    highest = np.where(minus == end, high[:, None], edges[minus + 1])
    gains = [
        np.where(plus >= 0, right - lowest, -np.inf),
        np.where(minus >= 0, highest - right, -np.inf),
    ]
    return np.maximum(*gains)
