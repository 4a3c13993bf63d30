"""The difference of logits ratio: a margin that no rescaling of the logits changes."""

import torch
from torch import Tensor

from advcal import _checks
from advcal._logits import masked, without_label
from advcal.losses._reduce import Reduction, checked, reduced


def dlr(
    logits: Tensor, labels: Tensor, *, targets: Tensor | None = None, reduction: Reduction = "mean"
) -> Tensor:
    r"""Compute the difference of logits ratio, a loss for attacks, positive if wrong.

    With $z_{\pi_1} \ge z_{\pi_2} \ge \dots$ the sorted logits,
    $-(z_y - \max_{k \ne y} z_k) / (z_{\pi_1} - z_{\pi_3})$, and towards targets $t$
    $-(z_y - z_t) / (z_{\pi_1} - (z_{\pi_3} + z_{\pi_4}) / 2)$. Neither a shift nor a scale of the
    logits changes it, so it does not go flat as cross-entropy does. It is 0 if all the
    logits that it looks at are equal, and the bare difference if masks leave fewer of them.

    Args:
        logits: Logits, shape `(n, classes)`, of 3 classes or more, 4 with `targets`.
        labels: Integer labels, shape `(n,)`.
        targets: The classes to move towards, integers, shape `(n,)`.
        reduction: `"mean"`, `"sum"` or `"none"`.

    Returns:
        A scalar, or shape `(n,)` with `reduction="none"`.

    Raises:
        TypeError: If an argument is of the wrong kind or dtype.
        ValueError: If a shape, a label or the number of classes is out of range.

    Example:
        >>> float(dlr(torch.tensor([[3.0, 2.0, 1.0]]), torch.tensor([0])))
        -0.5

    References:
        Croce & Hein, Reliable Evaluation of Adversarial Robustness with an Ensemble of Diverse
        Parameter-free Attacks, ICML 2020, eq. 6 and 7.
    """
    logits, labels = checked(logits, labels, reduction=reduction)
    needed = 3 if targets is None else 4
    if logits.shape[1] < needed:
        raise ValueError(
            f"expected logits of {needed} classes or more for this loss, got "
            f"{_checks.kind(logits)}; the margin does with 2"
        )
    top = logits.topk(needed, dim=1).values
    if targets is None:
        rival, base = without_label(logits, labels).amax(dim=1), top[:, 2]
    else:
        targets = _checks.labels(
            targets, len(logits), logits.shape[1], logits.device, name="targets"
        )
        rival = logits.gather(1, targets[:, None])[:, 0]
        base = (top[:, 2] + top[:, 3]) / 2
    scale = top[:, 0] - base
    lead = logits.gather(1, labels[:, None])[:, 0] - rival
    usable = (scale > 0) & ~masked(top)[:, -1]
    return reduced(-lead / torch.where(usable, scale, 1.0), reduction)
