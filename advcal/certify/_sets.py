"""Sets of classes that hold the label as often as promised, also under attack."""

from __future__ import annotations

import dataclasses
import math
from typing import Any, Literal

import torch
from scipy import special
from torch import Tensor

from advcal import _checks, _probs
from advcal._sums import exact, home, running
from advcal.certify._reach import Reach

Score = Literal["lac", "aps", "raps"]


@dataclasses.dataclass(frozen=True)
class PredictionSets:
    """A function from probabilities `(n, classes)` to sets of classes, bool, `(n, classes)`.

    Attributes:
        threshold: The greatest score of a class in a set; infinite if the sets must hold all.
        score: `"lac"`, `"aps"` or `"raps"`.
        penalty: RAPS' penalty λ of each rank beyond the first `n_free`.
        n_free: The number of ranks without a penalty.
        passes: Of how many noisy passes the scores are means; 0 if of one pass, without means.
    """

    threshold: float
    score: Score = "lac"
    penalty: float = 0.01
    n_free: int = 1
    passes: int = 0

    def __call__(self, probs: Tensor) -> Tensor:
        p = _probabilities(probs)
        if (len(p) if p.ndim == 3 else 0) != self.passes:
            shape = f"({self.passes}, n, classes)" if self.passes else "(n, classes)"
            raise ValueError(f"expected probs of shape {shape}, got {_checks.kind(probs)}")
        return _scores(p, self.score, self.penalty, self.n_free) <= self.threshold

    def under(self, reach: Reach) -> tuple[Tensor, Tensor]:
        """Tell what the sets can be anywhere in a ball; for the score `"lac"`.

        With bounds about the clean inputs, the share of labels that are always in a set is the
        certified coverage, and the sets of what may be in one bound the size. With bounds about
        inputs that may have been attacked, what may be in a set holds the whole set of the clean
        input, and so covers as it does.

        Args:
            reach: Bounds of the probabilities.

        Returns:
            Two tensors `(n, classes)`: which classes always are in the set, and which may be.

        Raises:
            TypeError: If `reach` is not a `Reach`.
            ValueError: If the score is another one.
        """
        if not isinstance(reach, Reach):
            raise TypeError(f"expected reach as a Reach, got {_checks.kind(reach)}")
        if self.score != "lac" or self.passes:
            raise ValueError("expected sets by the score 'lac' of one pass, got others")
        return 1 - reach.lower <= self.threshold, 1 - reach.upper <= self.threshold


def conformal(
    probs: Tensor | Reach,
    labels: Tensor,
    *,
    alpha: float = 0.1,
    score: Score = "lac",
    penalty: float = 0.01,
    n_free: int = 1,
    eps: float = 0.0,
    sigma: float | None = None,
    beta: float = 1e-3,
) -> PredictionSets:
    r"""Calibrate sets of classes that miss the label with probability `alpha` at most.

    Split conformal prediction: the threshold is the $\lceil (n + 1)(1 - \alpha) \rceil$-th smallest
    score of the labels, and a set has the classes up to it. New examples must be exchangeable with
    these; the probability is over both. Scores, which grow as a class is less likely: `"lac"`
    $1 - p_y$, the smallest sets; `"aps"`, the probability of the classes up to y, the most likely
    first, for coverage that is even over examples; `"raps"`, with $\lambda (r_y - n_{free})_+$ for
    the rank r of y, for smaller sets of many classes. APS without random ties covers rather more
    than it promises and has no empty sets.

    What is calibrated on clean data promises nothing under attack. Four ways to a promise there:

    - Attack the calibration data. Then it holds for this attack, and for no other.
    - Noise, in L2 of radius `eps` (RCP1): give `eps` and `sigma`, and probabilities of *one* noisy
      pass, here and later. Coverage is raised to $\Phi(\Phi^{-1}(1-\alpha) + \varepsilon/\sigma)$
      without attack, so that it is $1 - \alpha$ at least under any that does not see the noise.
    - The mean of m noisy passes (RSCP+): give probabilities `(m, n, classes)`, here and later. Sets
      vary less with the noise and are larger. `beta` is what may go wrong with one mean.
    - Bounds (`Reach`) of the calibration data in place of `probs`, or `PredictionSets.under` of
      bounds about the inputs that arrive.

    Args:
        probs: Probabilities of the calibration data, `(n, classes)`, or with passes before, or
            bounds of them. They must not have served to fit anything before.
        labels: Integer labels, shape `(n,)`.
        alpha: The probability to miss the label.
        score: `"lac"`, `"aps"` or `"raps"`.
        penalty: RAPS' penalty λ of each rank beyond the first `n_free`; choose it on other data.
        n_free: The number of ranks without a penalty.
        eps: The radius in L2 for which noisy scores are to cover.
        sigma: The standard deviation of the noise, if there is any.
        beta: The probability that the mean of m passes is off by more than is allowed for.

    Returns:
        `PredictionSets`.

    Raises:
        TypeError: If an argument is of the wrong kind.
        ValueError: If a shape or value is wrong, or options do not go together.

    Example:
        >>> probs = torch.tensor([[0.9, 0.1], [0.6, 0.4], [0.3, 0.7], [0.8, 0.2]])
        >>> sets = conformal(probs, torch.tensor([0, 0, 1, 1]), alpha=0.4)
        >>> sets(torch.tensor([[0.95, 0.05], [0.5, 0.5]])).tolist()
        [[True, False], [False, False]]

    References:
        Sadinle, Lei & Wasserman, Least Ambiguous Set-Valued Classifiers, JASA 2019 (LAC); Romano,
        Sesia & Candès, Classification with Valid and Adaptive Coverage, NeurIPS 2020 (APS);
        Angelopoulos et al., Uncertainty Sets for Image Classifiers, ICLR 2021 (RAPS); Yan, Romano &
        Weng, Provably Robust Conformal Prediction, ICLR 2024 (RSCP+).
    """
    _checks.choice("score", score, ("lac", "aps", "raps"))
    _checks.arguments(penalty=penalty, n_free=n_free)
    _checks.number("alpha", alpha, above=0, most=0.5)
    _checks.number("beta", beta, above=0, most=0.5)
    eps = _checks.number("eps", eps, least=0)
    if eps and sigma is None:
        raise ValueError(
            "expected sigma beside eps, the noise that the probabilities have, got none"
        )
    shift = 0.0 if sigma is None else eps / _checks.number("sigma", sigma, above=0)

    p, passes = _calibration(probs, score)
    y = home(labels) if isinstance(labels, Tensor) else labels
    y = _checks.labels(y, p.shape[-2], p.shape[-1], p.device)
    own = _scores(p, score, penalty, n_free).gather(1, y[:, None])[:, 0]
    if not passes:
        level = 1 - alpha if not shift else float(special.ndtr(special.ndtri(1 - alpha) + shift))
        return PredictionSets(_quantile(own, level), score, penalty, n_free)
    if score == "raps":
        raise ValueError("expected score 'lac' or 'aps' for means of passes, got 'raps'")
    _checks.number("beta", beta, above=0, most=alpha / 2)
    error = math.sqrt(-math.log(beta) / (2 * passes))
    highest = min(_quantile(own, 1 - alpha + 2 * beta) + error, 1.0)
    # A score s is let in if Φ⁻¹(s - error) - shift <= Φ⁻¹(highest).
    threshold = error + float(special.ndtr(special.ndtri(highest) + shift))
    threshold = threshold if highest < 1 else math.inf
    return PredictionSets(threshold, score, penalty, n_free, passes)


def _probabilities(value: Any) -> Tensor:
    """Check probabilities `(n, classes)` or `(passes, n, classes)`."""
    _checks.tensor("probs", value)
    if value.ndim not in (2, 3) or value.numel() == 0:
        raise ValueError(f"expected probs of shape (n >= 1, classes), got {_checks.kind(value)}")
    rows: Tensor = _probs.sound(value.detach().flatten(0, -2))
    return exact(rows).reshape(value.shape)


def _calibration(probs: Any, score: str) -> tuple[Tensor, int]:
    """Return what the scores of the labels are taken of, and the number of passes in it."""
    if isinstance(probs, Reach):
        if score != "lac":
            raise ValueError(f"expected score 'lac' for bounds of probabilities, got {score!r}")
        return probs.lower, 0
    p = _probabilities(probs)
    return p, len(p) if p.ndim == 3 else 0


def _scores(p: Tensor, score: str, penalty: float, n_free: int) -> Tensor:
    """Return the score of every class, `(n, classes)`; the mean over passes."""
    if p.ndim == 3:
        return torch.stack([_scores(each, score, penalty, n_free) for each in p]).mean(dim=0)
    if score == "lac":
        return 1 - p
    falling, order = p.sort(dim=1, descending=True, stable=True)
    sums = running(falling, 1).clamp_max(1)
    if score == "raps":
        ranks = torch.arange(1, p.shape[1] + 1, device=p.device)
        sums = sums + penalty * (ranks - n_free).clamp_min(0)
    return torch.empty_like(p).scatter(1, order, sums)


def _quantile(scores: Tensor, level: float) -> float:
    """Return the conformal quantile: infinite if there are too few scores for the level."""
    # (n + 1) level may come out a little above a whole number that it is.
    rank = math.ceil((len(scores) + 1) * level - 1e-9)
    return float(scores.sort().values[rank - 1]) if rank <= len(scores) else math.inf
