"""A proper score in two parts: what recalibrating would save, and what would remain."""

import math
from typing import Generic, NamedTuple

import torch
from scipy.optimize import isotonic_regression
from torch import Tensor

from advcal import _probs, _sums
from advcal._typing import Array
from advcal.metrics._scores import brier, nll


class Decomposition(NamedTuple, Generic[Array]):
    """A score as the sum of two parts, `score == calibration + refinement` up to rounding.

    Attributes:
        score: The score.
        calibration: What the best recalibration of the confidence would save, at least 0.
        refinement: The score after that recalibration.
    """

    score: Array
    calibration: Array
    refinement: Array


def decompose_nll(
    probs: Array, labels: Array, *, from_logits: bool = False
) -> Decomposition[Array]:
    r"""Split the NLL into calibration, which a map of confidences mends, and refinement.

    Refinement is the least that the score can become by a non-decreasing map of the confidence, the
    other classes keeping their proportions, and calibration the rest, at least 0. No bins, and no
    terms within bins: the best map is the isotonic regression of being right on the confidence,
    and with its values $q_i$ calibration is $\frac{1}{n} \sum_i \ell(c_i, a_i) - \ell(q_i, a_i)$,
    where $\ell(c, a) = -a \log c - (1 - a) \log (1 - c)$ and `a` is 1 if the prediction is
    right. Which class a wrong prediction mistook is a term of the score that cancels.

    The map is fitted to the examples that it is judged on, so calibration is not 0 for calibrated
    predictions, but falls to it as their number grows. The score, with calibration or refinement,
    is infinite if a label has probability 0.

    Args:
        probs: Probabilities, shape `(n, classes)`; a tensor or a NumPy array.
        labels: Integer labels of the same kind, shape `(n,)`.
        from_logits: Whether `probs` are logits, whose softmax is taken in float64.

    Returns:
        The score (that of `nll`) and its parts, each a float64 scalar of the kind of `probs`.

    Raises:
        TypeError: If `probs` or `labels` is of another kind or dtype.
        ValueError: If a shape or value is wrong, a row does not sum to one, or `n` is 0.

    Example:
        >>> import torch
        >>> probs = torch.tensor([[0.75, 0.25]]).expand(4, 2)
        >>> parts = decompose_nll(probs, torch.tensor([0, 0, 1, 1]))
        >>> [round(float(part), 4) for part in parts]
        [0.837, 0.1438, 0.6931]

    References:
        Bröcker, Reliability, sufficiency, and the decomposition of proper scores, 2009.
        Dimitriadis, Gneiting & Jordan, Stable reliability diagrams for probabilistic classifiers,
        PNAS 2021. Berta et al., Rethinking Early Stopping: Refine, Then Calibrate, 2025.
    """
    p, y, own_kind = _probs.probabilities(probs, labels, from_logits=from_logits)
    score = nll(p, y, from_logits=from_logits)
    rows = _probs.checked_logits(p, y) if from_logits else _probs.checked_rows(p, y)
    parts = [_nll_terms(*each, from_logits) for each in rows]
    confidence, correct, loss, rest = (torch.cat(part) for part in zip(*parts, strict=True))
    best = _isotonic(confidence, correct.double(), torch.ones_like(confidence))
    least = -torch.where(correct, best, 1 - best).log()
    return Decomposition(*map(own_kind, (score, (loss - least).mean(), (least + rest).mean())))


def decompose_brier(
    probs: Array, labels: Array, *, from_logits: bool = False
) -> Decomposition[Array]:
    r"""Split the Brier score into calibration, which a map of confidences mends, and refinement.

    Refinement is the least that the score can become by a non-decreasing map of the confidence, the
    other classes keeping their proportions, and calibration the rest, at least 0; the map is fitted
    to the examples that it is judged on. With confidence $u$ instead of $c$, and the others'
    proportions $r$, the score of an example is $(1 + |r|^2) (u - z)^2$ and a constant, where
    $z = 1$ if the prediction is right and $(|r|^2 - r_y) / (1 + |r|^2)$ if it is wrong. So the best
    map is a weighted isotonic regression of $z$ on the confidence, within $[0, 1]$. With two
    classes it is that of being right, and both parts are twice those of the confidence alone.

    Args:
        probs: Probabilities, shape `(n, classes)`; a tensor or a NumPy array.
        labels: Integer labels of the same kind, shape `(n,)`.
        from_logits: Whether `probs` are logits, whose softmax is taken in float64.

    Returns:
        The score (that of `brier`) and its parts, each a float64 scalar of the kind of `probs`.

    Raises:
        TypeError: If `probs` or `labels` is of another kind or dtype.
        ValueError: If a shape or value is wrong, a row does not sum to one, or `n` is 0.

    Example:
        >>> import torch
        >>> probs = torch.tensor([[0.75, 0.25]]).expand(4, 2)
        >>> [float(part) for part in decompose_brier(probs, torch.tensor([0, 0, 1, 1]))]
        [0.625, 0.125, 0.5]

    References:
        Murphy, A new vector partition of the probability score, 1973. Bröcker, Reliability,
        sufficiency, and the decomposition of proper scores, 2009. Dimitriadis, Gneiting & Jordan,
        Stable reliability diagrams for probabilistic classifiers, PNAS 2021.
    """
    p, y, own_kind = _probs.probabilities(probs, labels, from_logits=from_logits)
    score = brier(p, y, from_logits=from_logits)
    parts = [_brier_terms(*each) for each in _probs.checked_rows(p, y, from_logits)]
    confidence, target, weight = (torch.cat(part) for part in zip(*parts, strict=True))
    best = _isotonic(confidence, target, weight)
    calibration = (weight * ((confidence - target) ** 2 - (best - target) ** 2)).mean()
    return Decomposition(*map(own_kind, (score, calibration, score - calibration)))


def _isotonic(confidence: Tensor, target: Tensor, weight: Tensor) -> Tensor:
    """Return the rising function of the confidence that is nearest to the targets, in `[0, 1]`."""
    values, group = confidence.unique(return_inverse=True)
    weights = _sums.per_cell(group, len(values), weight)
    targets = _sums.per_cell(group, len(values), weight * target) / weights
    best = isotonic_regression(targets.cpu().numpy(), weights=weights.cpu().numpy()).x
    return torch.from_numpy(best).to(group.device).clamp(0, 1)[group]


def _nll_terms(rows: Tensor, y: Tensor, from_logits: bool) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Return confidence, whether right, the loss of that alone, and what a mistake adds to it."""
    values, top = rows.double(), rows.argmax(dim=1, keepdim=True)
    if from_logits:
        log_probs, values = values.log_softmax(dim=1), values.softmax(dim=1)
        log_others = log_probs.scatter(1, top, -math.inf).logsumexp(dim=1)
    else:
        log_probs, log_others = values.log(), values.scatter(1, top, 0.0).sum(dim=1).log()
    log_top, log_own = (log_probs.gather(1, index)[:, 0] for index in (top, y[:, None]))
    correct = top[:, 0] == y
    even = torch.full_like(log_own, math.log(max(1, rows.shape[1] - 1)))  # where all others are 0
    mistake = torch.where(log_others > -math.inf, log_others - log_own, even)
    loss = -torch.where(correct, log_top, log_others)
    return values.gather(1, top)[:, 0], correct, loss, torch.where(correct, 0.0, mistake)


def _brier_terms(rows: Tensor, y: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Return confidence, and the target and weight of the square that it has in the score."""
    values, top = rows.double(), rows.argmax(dim=1, keepdim=True)
    others = values.scatter(1, top, 0.0)
    sums = others.sum(dim=1, keepdim=True)
    even = 1 / max(1, rows.shape[1] - 1)  # where all others are 0
    others = torch.where(sums > 0, others / sums, even).scatter(1, top, 0.0)
    square = others.square().sum(dim=1)
    own = others.gather(1, y[:, None])[:, 0]
    target = torch.where(top[:, 0] == y, 1.0, (square - own) / (1 + square))
    return values.gather(1, top)[:, 0].clamp(max=1), target, 1 + square
