"""Digests: whether two examples are equal, whether two settings or data sets are."""

import hashlib
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Iterator
from types import CodeType
from typing import Any, TypeAlias

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
    if inputs.ndim == 0 or inputs.numel() == 0:
        raise ValueError(f"expected inputs of shape (n >= 1, ...), got {_checks.kind(inputs)}")
    if inputs.is_complex():
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


def _shown(const: Any) -> str:
    """Print a constant of code, a set in one order whatever the process."""
    return repr(sorted(map(repr, const)) if isinstance(const, frozenset) else const)


def code(compiled: CodeType, told: Callable[[Any], str] = _shown) -> str:
    """Digest what code does, wherever it stands, its constants as they are told."""
    consts = compiled.co_consts
    inner = [code(each, told) if isinstance(each, CodeType) else told(each) for each in consts]
    return of([compiled.co_code, repr(compiled.co_names).encode(), repr(inner).encode()])


def of(parts: Iterable[bytes]) -> str:
    """Digest bytes to a short word."""
    digest = hashlib.sha256()
    for part in parts:
        digest.update(part)
    return digest.hexdigest()[:16]


# --- data ------------------------------------------------------------------------------------

Digest: TypeAlias = Callable[[Iterable[Batch]], int]


class Known(ABC):
    """Batches that know a shorter way to a digest than to go through them."""

    @abstractmethod
    def __iter__(self) -> Iterator[Batch]:
        """Go through the batches."""

    @abstractmethod
    def digest(self, of: Digest) -> int:
        """Digest these data, `of` others that they are made of."""


def data() -> Digest:
    """Make what digests data, in whatever order and batches they come, each set only once.

    What is digested is the inputs and labels, and what else has a row for each example. The sum of
    the digests of parts is that of the whole.
    """
    known: dict[int, tuple[int, Any]] = {}  # by identity, with the data to keep them alive

    def digest(batches: Iterable[Batch]) -> int:
        if id(batches) not in known:
            own = batches.digest(digest) if isinstance(batches, Known) else _whole(batches)
            known[id(batches)] = own, batches
        return known[id(batches)][0]

    return digest


def _whole(batches: Iterable[Batch]) -> int:
    with torch.random.fork_rng(devices=[]):  # a DataLoader draws a seed, and perhaps an order
        found = sourced("batches", batches)
        return sum(word(b"".join(row)) for batch in found for row in _per_example(batch))


def _per_example(batch: Batch) -> Iterator[tuple[bytes, ...]]:
    """Yield the digests of what a batch has of each example."""
    own = (p for p in batch if isinstance(p, Tensor) and p.shape[:1] == batch[0].shape[:1])
    real = (torch.view_as_real(each) if each.is_complex() else each for each in own)
    return zip(*(rows(each) for each in real if each.numel()), strict=True)


def word(content: bytes) -> int:
    """Digest bytes to a number."""
    return int.from_bytes(hashlib.blake2b(content, digest_size=16).digest(), "big")
