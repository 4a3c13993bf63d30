"""`reduction=`, as in torch.nn.functional, and the checks that losses share."""

from typing import Any, Literal

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


def checked(logits: Tensor, labels: Tensor, **options: Any) -> tuple[Tensor, Tensor]:
    """Check logits `(n, classes)`, integer labels `(n,)` and options."""
    _checks.arguments(**options)
    _checks.class_rows("logits", logits)
    return logits, _checks.labels(labels, len(logits), logits.shape[1], logits.device)


def checked_attacked(attacked: Tensor, logits: Tensor) -> Tensor:
    """Check the logits of attacked inputs beside those of the inputs."""
    _checks.tensor("attacked", attacked)
    if attacked.shape != logits.shape:
        raise ValueError(
            f"expected attacked of shape {tuple(logits.shape)} like the logits, "
            f"got {_checks.kind(attacked)}"
        )
    if attacked.device != logits.device:
        raise ValueError(f"expected attacked on {logits.device}, got {attacked.device}")
    return lift(attacked)
