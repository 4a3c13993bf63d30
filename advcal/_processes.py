"""Exchanges between the processes of a distributed run."""

from collections.abc import Callable, Mapping
from typing import Any, TypeVar

import torch
from torch import Tensor, distributed

_T = TypeVar("_T")


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


# With a group, whose processes all call it; None is a process that is alone.


def gathered(value: _T, group: "distributed.ProcessGroup | None") -> list[_T]:
    """Return a value of each process, in the order of their ranks."""
    if group is None:
        return [value]
    found: list[Any] = [None] * distributed.get_world_size(group)
    distributed.all_gather_object(found, value, group=group)
    return found


def agreed(work: Callable[[], _T], group: "distributed.ProcessGroup | None") -> _T:
    """Let the first process do something, and all of them have what it gave, or its error.

    Nobody goes on before it is done.
    """
    if group is None:
        return work()
    found: list[Any] = [None, None]
    if distributed.get_rank(group) == 0:
        try:
            found[0] = work()
        except Exception as error:
            found[1] = error
    distributed.broadcast_object_list(found, distributed.get_global_rank(group, 0), group=group)
    if found[1] is not None:
        raise found[1]
    return found[0]  # type: ignore[no-any-return]


def same(settings: Mapping[str, Any], group: "distributed.ProcessGroup | None") -> None:
    """Check that settings are the same in all processes; each raises if one differs."""
    first, *others = gathered(settings, group)
    for rank, other in enumerate(others, 1):
        for name in [*first, *(other.keys() - first.keys())]:
            if first.get(name) != other.get(name):
                raise ValueError(
                    f"expected {name} to be the same in all processes, got {first.get(name)!r} in "
                    f"process 0 and {other.get(name)!r} in process {rank}"
                )
