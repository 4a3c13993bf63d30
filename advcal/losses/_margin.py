"""How far a prediction is from right, in logits."""

from torch import Tensor

from advcal._logits import without_label
from advcal.losses._reduce import Reduction, checked, reduced


def margin(logits: Tensor, labels: Tensor, *, reduction: Reduction = "mean") -> Tensor:
    r"""Compute by how much the best wrong class leads.

    $\max_{k \ne y} z_k - z_y$: positive if the prediction is wrong.

    Args:
        logits: Logits, shape `(n, classes)`.
        labels: Integer labels, shape `(n,)`.
        reduction: `"mean"`, `"sum"` or `"none"`.

    Returns:
        A scalar, or shape `(n,)` with `reduction="none"`.

    Raises:
        TypeError: If `logits` or `labels` is of the wrong kind or dtype.
        ValueError: If a shape or a label is out of range.

    Example:
        >>> import torch
        >>> float(margin(torch.tensor([[3.0, 1.0, 0.0]]), torch.tensor([0])))
        -2.0

    References:
        Carlini & Wagner, Towards Evaluating the Robustness of Neural Networks, S&P 2017, f6.
    """
    logits, labels = checked(logits, labels, reduction=reduction)
    label = logits.gather(1, labels[:, None])[:, 0]
    return reduced(without_label(logits, labels).amax(dim=1) - label, reduction)
