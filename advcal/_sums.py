"""Sums that lose nothing, on devices without float64 and under deterministic algorithms too."""

import torch
from torch import Tensor


def widest(device: torch.device) -> torch.dtype:
    """Return the dtype of sums on a device: float64, unless it is Apple's and has none."""
    return torch.float32 if device.type == "mps" else torch.float64


def wide(values: Tensor) -> Tensor:
    """Convert values to the dtype of sums on their device."""
    return values.to(widest(values.device))


def home(values: Tensor) -> Tensor:
    """Return values on a device that has float64: as they are, or on the CPU."""
    return values if widest(values.device) == torch.float64 else values.cpu()


def exact(values: Tensor) -> Tensor:
    """Convert values to float64, on the CPU if their device has none."""
    return home(values).double()


def running(values: Tensor, dim: int = 0) -> Tensor:
    """Take the running sum of floating numbers, of which CUDA has no deterministic `cumsum`."""
    if not (values.is_cuda and torch.are_deterministic_algorithms_enabled()):
        return values.cumsum(dim)
    sums, reach = values.movedim(dim, 0), 1
    while reach < len(sums):
        sums = torch.cat([sums[:reach], sums[reach:] + sums[:-reach]])
        reach *= 2
    return sums.movedim(0, dim)


def eager(values: Tensor) -> bool:
    """Tell whether values are on the CPU, and not to be compiled: they can be read at no cost."""
    return eager_device(values.device)


def eager_device(device: torch.device) -> bool:
    """Tell the same of all that is on a device."""
    return device.type == "cpu" and not torch.compiler.is_compiling()


def per_cell(cells: Tensor, n: int, weights: Tensor | None = None) -> Tensor:
    """Count how often each of `n` cells comes, or sum weights by them, shape `(n,)`.

    That is `bincount`, the fastest on the CPU; elsewhere it waits, and with weights is not
    deterministic, and no compiler takes it.
    """
    if eager(cells):
        return torch.bincount(cells, weights, minlength=n)
    weights = torch.ones_like(cells, dtype=torch.int64) if weights is None else weights
    return weights.new_zeros(n).index_add_(0, cells, weights)
