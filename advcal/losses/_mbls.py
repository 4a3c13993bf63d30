"""Margin-based label smoothing: logits may differ by so much, and no more."""

from torch import Tensor
from torch.nn.functional import cross_entropy

from advcal._logits import lift, mean_of_unmasked
from advcal.losses._reduce import Reduction, checked, reduced


def mbls(
    logits: Tensor,
    labels: Tensor,
    *,
    margin: float = 10.0,
    alpha: float = 0.1,
    reduction: Reduction = "mean",
) -> Tensor:
    r"""Compute the cross-entropy with a penalty on logits far below the highest (MbLS).

    $\mathrm{CE}(z, y) + \frac\alpha K \sum_k \max(0, \max_j z_j - z_k - m)$. Margin-based label
    smoothing: only distances of the logits beyond the margin are penalised. The penalty is the mean
    over the classes, as in the authors' code; their equation has the sum. Masked classes do not
    count in it.

    Args:
        logits: Logits, shape `(n, classes)`.
        labels: Integer labels, shape `(n,)`.
        margin: $m \ge 0$, the distance that costs nothing.
        alpha: $\alpha \ge 0$, the weight of the penalty; 0 is cross-entropy.
        reduction: `"mean"`, `"sum"` or `"none"`.

    Returns:
        A scalar, or shape `(n,)` with `reduction="none"`.

    Raises:
        TypeError: If an argument is of the wrong kind or dtype.
        ValueError: If a shape, a label, `margin` or `alpha` is out of range.

    Example:
        >>> import torch
        >>> logits, label = torch.tensor([[30.0, 0.0]]), torch.tensor([0])
        >>> float(mbls(logits, label))  # .1 · (0 + 20) / 2
        1.0

    References:
        Liu et al., The Devil is in the Margin, CVPR 2022.
    """
    logits, labels = checked(logits, labels, margin=margin, alpha=alpha, reduction=reduction)
    wide = lift(logits)
    beyond = (wide.amax(dim=1, keepdim=True) - wide - margin).relu()
    penalty = alpha * mean_of_unmasked(beyond, wide)
    losses = cross_entropy(wide, labels, reduction="none") + penalty
    return reduced(losses, reduction, logits.dtype)
