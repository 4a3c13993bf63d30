"""Predictions of pixels or tokens as rows, without those that have no label."""

import torch
from torch import Tensor

from advcal import _checks, _probs
from advcal._typing import Array


def labelled(probs: Array, labels: Array, *, ignore_index: int = -100) -> tuple[Array, Array]:
    """Return as rows the predictions that have a label, for any metric of this package.

    Of segmentations and sequences each pixel or token becomes an example:
    `ece(*labelled(probs, labels, ignore_index=255))`. It takes logits alike. Weights of the same
    shape as the labels go along as `weights[labels != 255]`.

    Args:
        probs: Probabilities, shape `(n, classes)` or `(n, classes, ...)`, the classes second as in
            `torch.nn.functional.cross_entropy`; a tensor or a NumPy array.
        labels: Integer labels of the same kind, shape `(n,)` or `(n, ...)`.
        ignore_index: The label of what has none.

    Returns:
        Probabilities `(rows, classes)` and labels `(rows,)`.

    Raises:
        TypeError: If `probs` or `labels` is of another kind or dtype, or `ignore_index` is not an
            int.
        ValueError: If a shape is wrong, or nothing has a label.

    Example:
        >>> import torch
        >>> probs = torch.tensor([[[0.9, 0.2, 0.6]], [[0.1, 0.8, 0.4]]]).movedim(1, 0)
        >>> rows, kept = labelled(probs, torch.tensor([[0, -100, 1]]))
        >>> rows.shape, kept.tolist()
        (torch.Size([2, 2]), [0, 1])
    """
    _checks.count("ignore_index", ignore_index, least=-(2**63))
    p: Tensor = _probs.as_tensor("probs", probs)[0]
    own_kind = _probs.as_tensor("probs", probs)[1]
    y: Tensor = _probs.as_tensor("labels", labels)[0]
    if isinstance(probs, Tensor) != isinstance(labels, Tensor):
        raise TypeError(f"expected labels of the kind of probs, got {_checks.kind(labels)}")
    if y.dtype != torch.bool:
        _checks.tensor("labels", y, integer=True, given=labels)
    if p.ndim < 2 or y.shape != (len(p), *p.shape[2:]):
        raise ValueError(
            "expected probs of shape (n, classes, ...) and labels of shape (n, ...), got "
            f"{tuple(p.shape)} and {tuple(y.shape)}"
        )
    flat = y.flatten()
    kept = flat.to(torch.int64) != ignore_index  # as uint8, -100 would be 156
    if not bool(kept.any()):
        raise ValueError(f"expected a label other than {ignore_index}, got none")
    return own_kind(p.movedim(1, -1).flatten(0, -2)[kept]), own_kind(flat[kept])
