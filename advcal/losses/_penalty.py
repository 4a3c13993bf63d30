"""The confidence penalty: cross-entropy less the entropy of the prediction."""

from torch import Tensor
from torch.nn.functional import cross_entropy

from advcal._logits import entropy, lift
from advcal.losses._reduce import Reduction, checked, reduced


def confidence_penalty(
    logits: Tensor, labels: Tensor, *, beta: float = 0.1, reduction: Reduction = "mean"
) -> Tensor:
    r"""Compute the cross-entropy less a reward for unsure predictions.

    $\mathrm{CE}(z, y) - \beta H(p)$, with the entropy $H(p) = -\sum_k p_k \log p_k$. The entropy of
    the prediction is rewarded, so the loss can be negative. Over the logits it is least when the
    label still leads: the penalty is the KL divergence from the prediction to the uniform
    distribution, label smoothing that in the other direction.

    Args:
        logits: Logits, shape `(n, classes)`.
        labels: Integer labels, shape `(n,)`.
        beta: $\beta \ge 0$, the weight of the entropy; 0 is cross-entropy.
        reduction: `"mean"`, `"sum"` or `"none"`.

    Returns:
        A scalar, or shape `(n,)` with `reduction="none"`.

    Raises:
        TypeError: If an argument is of the wrong kind or dtype.
        ValueError: If a shape, a label or `beta` is out of range.

    Example:
        >>> import torch
        >>> logits, label = torch.zeros(1, 4), torch.tensor([2])
        >>> print(f"{float(confidence_penalty(logits, label, beta=0.5)):.4f}")  # log 4 - .5 log 4
        0.6931

    References:
        Pereyra et al., Regularizing Neural Networks by Penalizing Confident Output Distributions,
        ICLR 2017 workshop.
    """
    logits, labels = checked(logits, labels, beta=beta, reduction=reduction)
    wide = lift(logits)
    losses = cross_entropy(wide, labels, reduction="none")
    return reduced(losses - beta * entropy(wide.log_softmax(dim=1)), reduction, logits.dtype)
