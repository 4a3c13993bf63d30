"""What a loop does with a batch before it uses it: check, move, lay out, cast."""

from collections.abc import Callable, Iterable, Iterator
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
from torch import Tensor

from advcal import _checks
from advcal._frozen import device_of
from advcal._typing import Batch, Progress


def prepared(
    batches: Iterable[Batch],
    model: object,
    *,
    channels_last: bool,
    progress: Progress | None,
) -> Iterator[Batch]:
    """Yield batches on the model's device, the inputs in the memory format asked for."""
    device = device_of(model)
    for batch in batches if progress is None else progress(batches):
        if not isinstance(batch, (tuple, list)) or len(batch) < 2:
            raise TypeError(
                f"expected batches as (inputs, labels, ...), got {_checks.kind(batch)}"
                + (f" of length {len(batch)}" if isinstance(batch, (tuple, list)) else "")
            )
        moved = [part.to(device) if isinstance(part, Tensor) else part for part in batch]
        if isinstance(moved[1], Tensor) and _checks.is_integer(moved[1].dtype):
            moved[1] = moved[1].long()
        if channels_last and isinstance(moved[0], Tensor) and moved[0].ndim == 4:
            moved[0] = moved[0].contiguous(memory_format=torch.channels_last)
        yield tuple(moved)


def casting(model: object, dtype: torch.dtype | None) -> Callable[[], AbstractContextManager[Any]]:
    """Return what opens autocast to `dtype` on the model's device, or nothing where it is None."""
    if dtype is None:
        return nullcontext
    if not isinstance(dtype, torch.dtype) or not dtype.is_floating_point:
        raise TypeError(f"expected autocast as a floating torch.dtype or None, got {dtype!r}")
    device = device_of(model) or torch.device("cpu")
    return lambda: torch.autocast(device.type, dtype)
