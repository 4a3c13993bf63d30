"""Soft labels."""

from typing import Any

import torch
from torch import Tensor

from advcal import _checks
from advcal._logits import masked


def smooth_labels(
    labels: Tensor, n_classes: int, smoothing: float | Tensor, logits: Tensor | None = None
) -> Tensor:
    r"""Mix one-hot labels with the uniform distribution: $(1 - s)\,e_y + s / K$.

    Args:
        labels: Integer labels, shape `(n,)`.
        n_classes: The number of classes $K$.
        smoothing: $s$ in `[0, K / (K - 1)]`, one number or one per example, shape `(n,)`. At 1 the
            target is uniform; above 1 the label is less likely than the rest.
        logits: The logits that the targets are for, shape `(n, n_classes)`, or None. Classes that
            they mask get no probability and do not count in $K$.

    Returns:
        Target probabilities, shape `(n, n_classes)`, of the dtype of `smoothing` if it is a
        tensor and of the default dtype otherwise.

    Raises:
        TypeError: If `labels` is not an integer tensor or `smoothing` not a number or tensor.
        ValueError: If a label or `smoothing` is out of range, or the logits have another shape.

    Example:
        >>> smooth_labels(torch.tensor([1]), 4, 0.2)
        tensor([[0.0500, 0.8500, 0.0500, 0.0500]])

    References:
        Szegedy et al., Rethinking the Inception Architecture, CVPR 2016, section 7.
    """
    _checks.arguments(n_classes=n_classes)
    labels, off = checked(labels, n_classes, logits)
    s = _smoothing(smoothing, labels, n_classes / (n_classes - 1))
    return mixed(labels, s, off)


def mixed(labels: Tensor, s: Tensor, off: Tensor) -> Tensor:
    """Mix labels with the uniform distribution over the classes that are not off."""
    onehot = torch.nn.functional.one_hot(labels, off.shape[1]).to(s.dtype)
    return ((1 - s) * onehot + s / (~off).sum(dim=1, keepdim=True)).masked_fill(off, 0.0)


def checked(labels: Tensor, n_classes: int, logits: Tensor | None) -> tuple[Tensor, Tensor]:
    """Check labels, and the logits that soft labels are for; return which classes these mask."""
    n = len(labels) if isinstance(labels, Tensor) and labels.ndim == 1 else 0
    labels = _checks.labels(labels, n, n_classes)
    if logits is None:
        return labels, torch.zeros(n, n_classes, dtype=torch.bool, device=labels.device)
    if not isinstance(logits, Tensor) or logits.shape != (n, n_classes):
        raise ValueError(f"expected logits of shape {(n, n_classes)}, got {_checks.kind(logits)}")
    _checks.tensor("logits", logits)
    return labels, masked(logits).to(labels.device)


def _smoothing(value: Any, labels: Tensor, most: float) -> Tensor:
    if not isinstance(value, Tensor):
        _checks.number("smoothing", value, least=0, most=most)
        return torch.full((1, 1), float(value), device=labels.device)
    if _checks.tensor("smoothing", value).shape != labels.shape:
        raise ValueError(
            f"expected smoothing of shape {tuple(labels.shape)}, got {_checks.kind(value)}"
        )
    within = ((value >= 0) & (value <= most * (1 + 1e-6))).all()
    if not _checks.recording() and not bool(within):
        raise ValueError(
            f"expected smoothing >= 0 and <= {most:g}, got {value.min()} to {value.max()}"
        )
    return value[:, None]
