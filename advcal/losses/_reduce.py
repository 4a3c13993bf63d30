"""`reduction=`, as in torch.nn.functional."""

from typing import Literal

from torch import Tensor

from advcal import _checks

Reduction = Literal["mean", "sum", "none"]


def reduced(losses: Tensor, reduction: Reduction) -> Tensor:
    """Reduce losses `(n,)` by name."""
    _checks.choice("reduction", reduction, ("mean", "sum", "none"))
    if reduction == "none":
        return losses
    return losses.mean() if reduction == "mean" else losses.sum()


def checked(logits: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
    """Check logits `(n, classes)` and integer labels `(n,)`."""
    if not isinstance(logits, Tensor):
        raise TypeError(f"expected logits as a torch.Tensor, got {_checks.kind(logits)}")
    if not logits.is_floating_point():
        raise TypeError(f"expected logits of a floating dtype, got {_checks.kind(logits)}")
    if logits.ndim != 2 or logits.shape[0] == 0 or logits.shape[1] < 2:
        raise ValueError(
            f"expected logits of shape (n >= 1, classes >= 2), got {_checks.kind(logits)}"
        )
    return logits, _checks.labels(labels, len(logits), logits.shape[1], logits.device)
