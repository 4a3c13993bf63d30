"""Whether data to choose by are among the data to train on."""

import hashlib
from collections.abc import Iterable, Iterator

import torch
from torch import Tensor

from advcal import _checks
from advcal._batches import prepared
from advcal._typing import Batch


def check_disjoint(batches: Iterable[Batch], validation: Iterable[Batch]) -> None:
    """Check that no input of the validation data is among the training data.

    Inputs are compared by all their bytes, through a hash, so that it finds copies and not images
    that are merely alike. Pass both as they are before augmentation, and in a fixed order, or the
    numbers of the examples say nothing.

    Args:
        batches: The training data, an iterable of `(inputs, labels, *rest)`.
        validation: The validation data, of inputs of the same shape and dtype.

    Returns:
        Nothing.

    Raises:
        TypeError: If an argument or a batch is of the wrong kind, or the dtypes differ.
        ValueError: If inputs are in both; it says how many, and the numbers of the first ten in
            the order in which they come, from 0. Also if there are no inputs, or the shapes differ.

    Example:
        >>> images, labels = torch.arange(8.0).reshape(4, 2), torch.zeros(4).long()
        >>> check_disjoint([(images[:2], labels[:2])], [(images[2:], labels[2:])])
        >>> check_disjoint([(images[:3], labels[:3])], [(images[2:], labels[2:])])
        Traceback (most recent call last):
        ValueError: expected no validation input among the training inputs, got 1 of 2: 0 is 2
    """
    seen: dict[bytes, int] = {}
    kinds: list[tuple[torch.dtype, tuple[int, ...]]] = []
    for i, key in enumerate(_hashes("batches", batches, kinds)):
        seen.setdefault(key, i)
    pairs, count = [], 0
    for i, key in enumerate(_hashes("validation", validation, kinds)):
        count = i + 1
        if key in seen:
            pairs.append(f"{i} is {seen[key]}")
    if not seen or not count:
        raise ValueError(f"expected inputs in both, got {len(seen)} and {count}")
    if pairs:
        raise ValueError(
            "expected no validation input among the training inputs, got "
            f"{len(pairs)} of {count}: {', '.join(pairs[:10])}{', ...' if pairs[10:] else ''}"
        )


def _hashes(
    name: str, batches: object, kinds: list[tuple[torch.dtype, tuple[int, ...]]]
) -> Iterator[bytes]:
    if not isinstance(batches, Iterable):
        raise TypeError(f"expected {name} as an iterable, got {_checks.kind(batches)}")
    for inputs, *_ in prepared(batches, None, channels_last=False, progress=None):
        if inputs.ndim == 0:
            raise ValueError(f"expected inputs of shape (n, ...), got {_checks.kind(inputs)}")
        kinds.append((inputs.dtype, tuple(inputs.shape[1:])))
        if kinds[-1][0] != kinds[0][0]:
            raise TypeError(f"expected inputs of one dtype, got {kinds[0][0]} and {kinds[-1][0]}")
        if kinds[-1][1] != kinds[0][1]:
            raise ValueError(f"expected inputs of one shape, got {kinds[0][1]} and {kinds[-1][1]}")
        for row in _bytes(inputs):
            yield hashlib.blake2b(row, digest_size=16).digest()


def _bytes(inputs: Tensor) -> Iterator[bytes]:
    rows = inputs.detach().cpu()
    if rows.is_floating_point():
        rows = rows + 0.0  # -0 is 0
    rows = rows.reshape(len(rows), -1).contiguous().view(torch.uint8)
    return (row.tobytes() for row in rows.numpy())
