r"""How far a mean over Gaussian noise moves when the point does.

If an event has probability p at a point, then at distance r it has at least
$\Phi(\Phi^{-1}(p) - r/\sigma)$ and at most $\Phi(\Phi^{-1}(p) + r/\sigma)$. The mean of a score in
[0, 1] is the integral of the probabilities that it exceeds t, which a sum over thresholds bounds
from both sides.
"""

from typing import NamedTuple

import numpy as np
import numpy.typing as npt
from scipy import special

from advcal.certify._binomial import Floats, z_lower, z_upper


class Scale(NamedTuple):
    """The thresholds of a score, and what a step of it weighs in a lower and an upper sum."""

    thresholds: Floats
    below: Floats
    above: Floats
    rest: float  # what the upper sum has below the first threshold

    @property
    def n(self) -> int:
        """The number of thresholds, each of which needs its own bound."""
        return len(self.thresholds)


def _fine() -> Scale:
    """Step evenly by 1/128, and evenly on the scale of logits for probabilities near 0, 1."""
    even = np.arange(1, 128) / 128
    t = np.unique(np.concatenate([even, special.expit(np.linspace(-10, 10, 65))]))
    return Scale(t, np.diff(t, prepend=0.0), np.diff(t, append=1.0), float(t[0]))


FINE = _fine()
VOTES = Scale(np.array([0.5]), np.array([1.0]), np.array([1.0]), 0.0)  # of scores 0 and 1


def mean_bounds(
    counts: npt.NDArray[np.int64],
    draws: npt.NDArray[np.int64],
    scale: Scale,
    *,
    alpha: float,
    shift: float,
) -> tuple[Floats, Floats]:
    """Bound mean scores anywhere within `shift` standard deviations of the noise.

    Args:
        counts: How many scores reach each threshold, shape `(n, ..., thresholds)`.
        draws: Of how many, shape `(n,)`.
        scale: The thresholds.
        alpha: The probability that any one count gives a wrong bound on a side.
        shift: The radius over the standard deviation of the noise.

    Returns:
        Lower and upper bounds, shape `(n, ...)`.
    """
    low = special.ndtr(z_lower(counts, draws, alpha) - shift) @ scale.below
    high = special.ndtr(z_upper(counts, draws, alpha) + shift) @ scale.above + scale.rest
    return low, np.minimum(high, 1.0)


def majority_shift(z: Floats, scale: Scale) -> Floats:
    """Find how far a mean stays above one half, in standard deviations, shape `(n,)`; 0 if not.

    Args:
        z: Lower bounds of the probability to reach each threshold, as `Φ⁻¹`, `(n, thresholds)`.
        scale: The thresholds.
    """
    if scale.n == 1:
        return np.maximum(z[:, 0], 0.0)
    low, high = np.zeros(len(z)), np.full(len(z), 1.0)
    while (more := _mean(z, high, scale) > 0.5).any():
        high[more] *= 2
    for _ in range(60):  # keeps to the side that is certified
        middle = (low + high) / 2
        above = _mean(z, middle, scale) > 0.5
        low, high = np.where(above, middle, low), np.where(above, high, middle)
    return low


def _mean(z: Floats, shift: Floats, scale: Scale) -> Floats:
    below: Floats = special.ndtr(z - shift[:, None]) @ scale.below
    return below
