"""Digests: whether two examples are equal, whether two settings are."""

import hashlib
from collections.abc import Iterable, Iterator

import numpy as np
import torch
from torch import Tensor

from advcal import _checks
from advcal._pass import sourced
from advcal._typing import Batch


def examples(
    name: str, batches: object, shapes: set[tuple[int, ...]]
) -> Iterator[tuple[Batch, list[bytes]]]:
    """Go through batches with a digest of each example, all of one shape, which `shapes` keeps."""
    for batch in sourced(name, batches):
        digests = rows(batch[0])
        shapes.add(tuple(batch[0].shape[1:]))
        if len(shapes) > 1:
            found = " and ".join(map(str, sorted(shapes)))
            raise ValueError(f"expected inputs of one shape, got {found}")
        yield batch, digests


def rows(inputs: Tensor) -> list[bytes]:
    """Digest each example by its values in float32: examples of equal values are equal.

    What is less than 24 binary digits of an example's largest value does not count, nor the sign of
    a zero, the dtype, the device and the memory format. 8-bit images have values up to 255.
    """
    if inputs.ndim == 0 or inputs.numel() == 0 or inputs.is_complex():
        raise ValueError(f"expected inputs of real numbers (n, ...), got {_checks.kind(inputs)}")
    values = inputs.detach().cpu().float().double().reshape(len(inputs), -1).numpy()
    _, exponent = np.frexp(np.abs(values).max(axis=1, keepdims=True))
    step = np.ldexp(1.0, exponent - 24)
    kept = ((values / step).round() * step + 0.0).astype(np.float32)  # -0 is 0
    return [hashlib.blake2b(row, digest_size=16).digest() for row in kept]


def content(tensor: Tensor) -> list[bytes]:
    """Return the dtype and the bytes of a tensor, which are all that its digest depends on."""
    flat = tensor.detach().cpu().contiguous().flatten()
    return [str(tensor.dtype).encode(), flat.view(torch.uint8).numpy().tobytes()]


def of(parts: Iterable[bytes]) -> str:
    """Digest bytes to a short word."""
    digest = hashlib.sha256()
    for part in parts:
        digest.update(part)
    return digest.hexdigest()[:16]
