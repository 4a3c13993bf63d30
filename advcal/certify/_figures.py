"""Accuracy and calibration that no attack within the bounds can make worse."""

from __future__ import annotations

import dataclasses

import numpy as np
import torch
from torch import Tensor

from advcal import _checks
from advcal._sums import running
from advcal.certify._binomial import Floats, most_failures
from advcal.certify._ece import MOST_BINS, Outcomes, greatest_ece
from advcal.certify._reach import Reach


@dataclasses.dataclass(frozen=True)
class CertifiedFigures:
    """Bounds of the figures of a data set, which no attack in the ball can pass.

    All but the last two hold together with probability `1 - delta` over the draws of noise, and
    without exception if the bounds do not rest on draws. They are of these examples; what they
    say of others is a question of statistics as ever.

    Attributes:
        n: The number of examples.
        accuracy_low: The least accuracy.
        accuracy_high: The greatest.
        mcs_low: The least mean confidence minus accuracy.
        mcs_high: The greatest.
        ece_low: A lower bound of the expected calibration error, the absolute value of the MCS.
        ece_high: The greatest expected calibration error; attained, if the bounds of the examples
            are.
        brier_high: An upper bound of the Brier score, from 0 to 2.
        top_brier_high: The greatest mean squared difference of right (1 or 0) and confidence.
        delta: The probability that any of the figures above is wrong.
        failures: The number of examples of which the bounds may be wrong nevertheless, which the
            figures allow for.
        nll_high: An upper bound of the negative log-likelihood, in nats. It has no limit that would
            let a single example be wrong, so that it rests on all of them.
        nll_delta: The probability that `nll_high` is wrong.
    """

    n: int
    accuracy_low: float
    accuracy_high: float
    mcs_low: float
    mcs_high: float
    ece_low: float
    ece_high: float
    brier_high: float
    top_brier_high: float
    delta: float
    failures: int
    nll_high: float
    nll_delta: float


def figures(
    reach: Reach, labels: Tensor, *, n_bins: int = 15, delta: float = 1e-3
) -> CertifiedFigures:
    r"""Bound accuracy and calibration under every attack in the ball of the bounds.

    Each example comes out right or wrong, with a confidence in an interval; see `Reach`. All
    figures are certificates, none an estimate. Accuracy and MCS are sums of the worst of each
    example. The ECE, which is none, is maximised over all confidences and outcomes at once:
    $\max_{s \in \{\pm1\}^B} \frac1n \sum_i \max s_b (y - c)$ over the bins b, outcomes y and
    confidences c that are open to example i. A solver that alternates, or Emde et al.'s relaxation,
    finds a value below this maximum, which is an attack and not a certificate. For the Brier score
    of all classes the mass that the label loses goes where it costs most; for that of the top label
    this is Emde et al.'s closed form.

    Bounds that fail with probability $\alpha$ for each example, independently, fail for more than q
    of n with probability `delta` at most. The figures allow for q failures.

    Args:
        reach: Bounds of the probabilities, from `Certificates.reach`, `crown` or `interval`.
        labels: Integer labels, shape `(n,)`.
        n_bins: The number of equal-width bins of the ECE, 16 at most.
        delta: The probability that some figure is wrong.

    Returns:
        `CertifiedFigures`.

    Raises:
        TypeError: If an argument is of the wrong kind.
        ValueError: If a shape or value is wrong.

    Example:
        >>> lower, upper = torch.tensor([[[0.7, 0.1]], [[0.9, 0.3]]]).double()
        >>> found = figures(Reach(lower, upper, torch.tensor([0])), torch.tensor([0]))
        >>> print(f"{found.accuracy_low:.0f}, {found.ece_high:.2f}, {found.top_brier_high:.2f}")
        1, 0.30, 0.09

    References:
        Emde et al., Towards Certification of Uncertainty Calibration under Adversarial Attacks,
        ICLR 2025.
    """
    if not isinstance(reach, Reach):
        raise TypeError(f"expected reach as Reach, got {_checks.kind(reach)}")
    n, n_classes = reach.lower.shape
    y = _checks.labels(labels, n, n_classes, reach.lower.device)
    if _checks.count("n_bins", n_bins) > MOST_BINS:
        raise ValueError(f"expected n_bins <= {MOST_BINS}, got {n_bins}")
    _checks.arguments(delta=delta)

    outcomes = _outcomes(reach, y)
    failures = most_failures(n, reach.alpha, delta)
    spare = failures / n
    right = np.array([1.0, 0.0])
    only = outcomes.possible & (outcomes.possible.sum(axis=1) == 1)[:, None]
    least_gap = _worst(outcomes, outcomes.low[:, None] - right, least=True)
    greatest_gap = _worst(outcomes, outcomes.high - right, least=False)
    mcs_low = max(float(least_gap.mean()) - 2 * spare, -1.0)
    mcs_high = min(float(greatest_gap.mean()) + 2 * spare, 1.0)
    squares = np.maximum((outcomes.low[:, None] - right) ** 2, (outcomes.high - right) ** 2)
    top_brier = _worst(outcomes, squares, least=False).mean()
    edges = np.arange(n_bins + 1) / n_bins
    own = reach.lower.gather(1, y[:, None])[:, 0]
    return CertifiedFigures(
        n=n,
        accuracy_low=max(float(only[:, 0].mean()) - spare, 0.0),
        accuracy_high=min(float(outcomes.possible[:, 0].mean()) + spare, 1.0),
        mcs_low=mcs_low,
        mcs_high=mcs_high,
        ece_low=max(0.0, mcs_low, -mcs_high),
        ece_high=min(greatest_ece(outcomes, edges) + 2 * spare, 1.0),
        brier_high=min(float(_brier(reach, y).mean()) + 2 * spare, 2.0),
        top_brier_high=min(float(top_brier) + spare, 1.0),
        delta=delta if reach.alpha else 0.0,
        failures=failures,
        nll_high=float(-own.log().mean()),
        nll_delta=min(1.0, n * reach.alpha),
    )


def _outcomes(reach: Reach, labels: Tensor) -> Outcomes:
    """Tell what can become of each example."""
    own = labels[:, None]
    low = reach.confidence[0]
    others = reach.upper.scatter(1, own, -torch.inf).amax(dim=1)
    high = torch.stack([reach.upper.gather(1, own)[:, 0], others], dim=1)
    possible = high >= low[:, None]
    certain = (reach.labels >= 0)[:, None]
    right = reach.labels == labels
    possible &= ~certain | torch.stack([right, ~right], dim=1)
    # Bounds that contradict each other have failed: nothing is known.
    broken = ~possible.any(dim=1)
    possible[broken], high[broken], low = True, 1.0, low.masked_fill(broken, 0.0)
    return Outcomes(*(part.cpu().numpy() for part in (possible, low, high)))


def _worst(outcomes: Outcomes, values: Floats, *, least: bool) -> Floats:
    """Take the least or the greatest value of the possible outcomes."""
    sign = -1 if least else 1
    worst: Floats = sign * np.where(outcomes.possible, sign * values, -np.inf).max(axis=1)
    return worst


def _brier(reach: Reach, labels: Tensor) -> Tensor:
    r"""Bound the Brier score of each example, shape `(n,)`.

    The label has its least probability, and $p^2 \le l^2 + (l + u)(p - l)$ between l and u, so that
    the rest goes first to the classes of greatest l + u.
    """
    own = labels[:, None]
    label = reach.lower.gather(1, own)[:, 0]
    l, u = (part.scatter(1, own, 0.0) for part in (reach.lower, reach.upper))  # noqa: E741
    gain, order = (l + u).sort(dim=1, descending=True)
    room = (u - l).gather(1, order)
    mass = (1 - label - l.sum(dim=1)).clamp_min(0)
    before = running(room, 1) - room
    filled = torch.minimum((mass[:, None] - before).clamp_min(0), room)
    return (1 - label) ** 2 + l.square().sum(dim=1) + (gain * filled).sum(dim=1)
