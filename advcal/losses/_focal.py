"""The focal loss: cross-entropy that counts for less when the model is already sure."""

import torch
from torch import Tensor
from torch.nn.functional import logsigmoid

from advcal._logits import lift, log_odds
from advcal.losses._reduce import Reduction, checked, reduced


def focal(
    logits: Tensor, labels: Tensor, *, gamma: float = 3.0, reduction: Reduction = "mean"
) -> Tensor:
    r"""Compute the focal loss: cross-entropy with less weight on what is already right.

    $-(1 - p_y)^\gamma \log p_y$. It bounds the KL divergence from the label less $\gamma$ times the
    entropy of the prediction from above, so a model that is trained on it is less confident. It is
    computed from the log-odds of the label, and stays exact if $p_y$ rounds to 1.

    Args:
        logits: Logits, shape `(n, classes)`.
        labels: Integer labels, shape `(n,)`.
        gamma: $\gamma \ge 0$; 0 is cross-entropy.
        reduction: `"mean"`, `"sum"` or `"none"`.

    Returns:
        A scalar, or shape `(n,)` with `reduction="none"`.

    Raises:
        TypeError: If an argument is of the wrong kind or dtype.
        ValueError: If a shape, a label or `gamma` is out of range.

    Example:
        >>> import torch
        >>> logits = torch.tensor([[0.75, 0.25]]).log()
        >>> print(f"{float(focal(logits, torch.tensor([0]), gamma=2.0)):.4f}")  # .25² · -log .75
        0.0180

    References:
        Lin et al., Focal Loss for Dense Object Detection, ICCV 2017, eq. 4; Mukhoti et al.,
        Calibrating Deep Neural Networks using Focal Loss, NeurIPS 2020.
    """
    logits, labels = checked(logits, labels, gamma=gamma, reduction=reduction)
    return _focal(logits, labels, gamma, gamma, reduction)


def flsd53(logits: Tensor, labels: Tensor, *, reduction: Reduction = "mean") -> Tensor:
    r"""Compute the focal loss with a $\gamma$ that depends on the example (FLSD-53).

    $\gamma = 5$ if the label has a probability below .2, else 3. The loss jumps there.

    Args:
        logits: Logits, shape `(n, classes)`.
        labels: Integer labels, shape `(n,)`.
        reduction: `"mean"`, `"sum"` or `"none"`.

    Returns:
        A scalar, or shape `(n,)` with `reduction="none"`.

    Raises:
        TypeError: If an argument is of the wrong kind or dtype.
        ValueError: If a shape or a label is out of range.

    Example:
        >>> import torch
        >>> logits = torch.tensor([[0.9, 0.1], [0.5, 0.5]]).log()
        >>> flsd53(logits, torch.tensor([1, 1]), reduction="none")  # .9⁵ · -log .1, .5³ · -log .5
        tensor([1.3597, 0.0866])

    References:
        Mukhoti et al., Calibrating Deep Neural Networks using Focal Loss, NeurIPS 2020.
    """
    logits, labels = checked(logits, labels, reduction=reduction)
    return _focal(logits, labels, 5.0, 3.0, reduction)


def _focal(
    logits: Tensor, labels: Tensor, unlikely: float, likely: float, reduction: Reduction
) -> Tensor:
    odds = log_odds(lift(logits), labels)
    gamma = torch.where(odds.detach().neg().sigmoid() < 0.2, unlikely, likely)
    losses = -logsigmoid(-odds) * (gamma * logsigmoid(odds)).exp()
    return reduced(losses, reduction, logits.dtype)
