"""Sums over the processes of a distributed run."""

import torch
from torch import Tensor, distributed


def running() -> bool:
    """Tell whether there is a group of processes to sum over."""
    return distributed.is_available() and distributed.is_initialized()


def summed(value: Tensor) -> Tensor:
    """Return the sum of a tensor over all processes; the tensor stays as it is."""
    total = value.clone()
    distributed.all_reduce(total)
    return total


def alike(value: Tensor) -> bool:
    """Tell whether float64 vectors `(n,)` are the same in all processes, on each of them."""
    ends = torch.tensor([len(value), -len(value)], device=value.device)
    distributed.all_reduce(ends, distributed.ReduceOp.MAX)
    if int(ends.sum()) != 0:  # the longest is longer than the shortest
        return False
    ends = torch.stack([value, -value])
    distributed.all_reduce(ends, distributed.ReduceOp.MAX)
    return not bool(ends.sum(dim=0).any())
