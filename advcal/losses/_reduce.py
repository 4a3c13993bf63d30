"""`reduction=`, as in torch.nn.functional, and the checks that losses share."""

from typing import Literal

import torch
from torch import Tensor

from advcal import _checks
from advcal._logits import lift

Reduction = Literal["mean", "sum", "none"]


def reduced(losses: Tensor, reduction: Reduction, dtype: torch.dtype | None = None) -> Tensor:
    """Reduce losses `(n,)` by name, and give them the dtype of the logits if it is named."""
    if reduction != "none":
        losses = losses.mean() if reduction == "mean" else losses.sum()
    return losses.to(dtype)


def checked(logits: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
    """Check logits `(n, classes)` and integer labels `(n,)`."""
    if not isinstance(logits, Tensor):
        raise TypeError(f"expected logits as a torch.Tensor, got {_checks.kind(logits)}")
    _checks.class_rows("logits", logits)
    return logits, _checks.labels(labels, len(logits), logits.shape[1], logits.device)


def checked_attacked(attacked: Tensor, logits: Tensor) -> Tensor:
    """Check the logits of attacked inputs beside those of the inputs."""
    if not isinstance(attacked, Tensor) or not attacked.is_floating_point():
        raise TypeError(f"expected attacked as floating logits, got {_checks.kind(attacked)}")
    if attacked.shape != logits.shape:
        raise ValueError(
            f"expected attacked of shape {tuple(logits.shape)} like the logits, "
            f"got {_checks.kind(attacked)}"
        )
    if attacked.device != logits.device:
        raise ValueError(f"expected attacked on {logits.device}, got {attacked.device}")
    return lift(attacked)
