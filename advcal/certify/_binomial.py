"""Exact bounds of a probability from counts of draws, on the normal scale, and of failures."""

import functools

import numpy as np
import numpy.typing as npt
from scipy import special, stats

Floats = npt.NDArray[np.float64]


def z_lower(successes: npt.NDArray[np.int64], draws: npt.NDArray[np.int64], alpha: float) -> Floats:
    """Return `Φ⁻¹(p)` of the lower Clopper-Pearson bound p, which fails with probability `alpha`.

    Args:
        successes: The counts, shape `(n, ...)`.
        draws: Of how many draws, shape `(n,)`.
        alpha: The probability that the bound is above the truth, for each count.
    """
    z = np.empty(successes.shape)
    for n in np.unique(draws):
        z[draws == n] = _table(int(n), alpha)[successes[draws == n]]
    return z


def z_upper(successes: npt.NDArray[np.int64], draws: npt.NDArray[np.int64], alpha: float) -> Floats:
    """Return `Φ⁻¹(p)` of the upper Clopper-Pearson bound p."""
    misses = draws.reshape(-1, *[1] * (successes.ndim - 1)) - successes
    return -z_lower(misses, draws, alpha)


@functools.lru_cache(maxsize=32)
def _table(n: int, alpha: float) -> Floats:
    # 1 - p is the upper quantile of Beta(n - k + 1, k). Taken itself, it keeps its digits as p
    # comes near 1, where the radius is largest.
    k = np.arange(1, n + 1)
    with_any = -special.ndtri(special.betainccinv(n - k + 1.0, k, alpha))
    return np.concatenate([[-np.inf], with_any])


def most_failures(n: int, alpha: float, delta: float) -> int:
    """Return how many of n independent statements fail at most, but with probability `delta`."""
    return int(stats.binom.isf(delta, n, alpha)) if alpha > 0 else 0
