"""Digests: whether two examples are equal, whether two settings are."""

import hashlib
from collections.abc import Iterable

import torch
from torch import Tensor

from advcal import _checks


def rows(inputs: Tensor) -> list[bytes]:
    """Digest each example by its values in float32: examples of equal values are equal.

    It does not matter of which dtype they are, on which device and in which memory format, nor
    whether a zero has a sign. 8-bit images have values up to 255.
    """
    if inputs.ndim == 0 or inputs.is_complex():
        raise ValueError(f"expected inputs of real numbers (n, ...), got {_checks.kind(inputs)}")
    values = inputs.detach().cpu().float().reshape(len(inputs), -1) + 0.0  # -0 is 0
    return [hashlib.blake2b(row, digest_size=16).digest() for row in values.numpy()]


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
