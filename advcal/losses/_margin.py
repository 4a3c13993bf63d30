"""How far a prediction is from right, in logits."""

import torch
from torch import Tensor

from advcal.losses._reduce import Reduction, checked, reduced


def margin(logits: Tensor, labels: Tensor, *, reduction: Reduction = "mean") -> Tensor:
    r"""Compute $\max_{k \ne y} z_k - z_y$: positive where the prediction is wrong.

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
        >>> float(margin(torch.tensor([[3.0, 1.0, 0.0]]), torch.tensor([0])))
        -2.0

    References:
        Carlini & Wagner, Towards Evaluating the Robustness of Neural Networks, S&P 2017, f6.
    """
    logits, labels = checked(logits, labels)
    label = logits.gather(1, labels[:, None])[:, 0]
    return reduced(without_label(logits, labels).amax(dim=1) - label, reduction)


def without_label(logits: Tensor, labels: Tensor) -> Tensor:
    """Return the logits with the label's own put to minus infinity."""
    return logits.scatter(1, labels[:, None], -torch.inf)


def log_odds(logits: Tensor, labels: Tensor) -> Tensor:
    r"""Return $\log\sum_{k \ne y} e^{z_k} - z_y$, of which cross-entropy is the softplus.

    It rises and falls with the cross-entropy and does not go flat where the softmax saturates.
    """
    label = logits.gather(1, labels[:, None])[:, 0]
    return without_label(logits, labels).logsumexp(dim=1) - label
