"""Label relaxation: a set of acceptable predictions in place of one soft label."""

import math

import torch
from torch import Tensor
from torch.nn.functional import logsigmoid

from advcal import _checks
from advcal._logits import lift, log_odds
from advcal.losses._reduce import Reduction, checked, reduced


def label_relaxation(
    logits: Tensor, labels: Tensor, *, alpha: float = 0.1, reduction: Reduction = "mean"
) -> Tensor:
    r"""Compute a loss that asks for a probability of $1 - \alpha$ of the label, and for no more.

    The least KL divergence from any distribution that gives the label $1 - \alpha$ or more. 0 if
    $p_y \ge 1 - \alpha$, and otherwise $(1 - \alpha) \log\frac{1 - \alpha}{p_y} + \alpha
    \log\frac{\alpha}{1 - p_y}$: of the distributions with at least $1 - \alpha$ on the label, the
    nearest keeps the proportions of the other classes, so only $p_y$ matters. Nothing pulls a
    confident prediction back, unlike with label smoothing.

    Args:
        logits: Logits, shape `(n, classes)`.
        labels: Integer labels, shape `(n,)`.
        alpha: $\alpha$ in `[0, 1]`, how much of the probability need not be on the label; 0 is
            cross-entropy.
        reduction: `"mean"`, `"sum"` or `"none"`.

    Returns:
        A scalar, or shape `(n,)` with `reduction="none"`.

    Raises:
        TypeError: If an argument is of the wrong kind or dtype.
        ValueError: If a shape, a label or `alpha` is out of range.

    Example:
        >>> logits = torch.tensor([[0.95, 0.05], [0.5, 0.5]]).log()
        >>> label_relaxation(logits, torch.tensor([0, 0]), reduction="none")
        tensor([0.0000, 0.3681])

    References:
        Lienen & Hüllermeier, From Label Smoothing to Label Relaxation, AAAI 2021.
    """
    logits, labels = checked(logits, labels, alpha=alpha, reduction=reduction)
    _checks.number("alpha", alpha, most=1)
    odds = log_odds(lift(logits), labels)
    entropy = -sum(share * math.log(share) for share in (alpha, 1 - alpha) if share > 0)
    losses = -(1 - alpha) * logsigmoid(-odds) - entropy
    if alpha > 0:  # 0 also if the label has no chance at all
        losses = losses - alpha * logsigmoid(odds)
    inside = odds.neg().sigmoid() >= 1 - alpha if alpha > 0 else torch.zeros_like(odds).bool()
    return reduced(torch.where(inside, 0.0, losses).clamp_min(0), reduction, logits.dtype)
