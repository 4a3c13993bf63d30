"""What a loop does with a batch before it uses it: check, move, lay out, cast."""

from collections.abc import Callable, Iterable, Iterator
from contextlib import AbstractContextManager, nullcontext
from itertools import islice
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
    skip: int = 0,
) -> Iterator[Batch]:
    """Return batches on the model's device, the inputs in the memory format asked for.

    The first `skip` batches are taken from the source at once and dropped.
    """
    check_source(batches, progress)
    if progress is not None:
        batches = progress(batches)
    source = iter(batches)
    skipped = sum(1 for _ in islice(source, skip))
    if skipped < skip:
        raise ValueError(f"expected {skip} batches or more, as before the stop, got {skipped}")
    device = device_of(model)
    return (_prepared(*each, device, channels_last) for each in enumerate(source, skip + 1))


def check_source(batches: object, progress: object) -> None:
    """Check what gives the batches and what shows progress through them."""
    if not isinstance(batches, Iterable):
        raise TypeError(f"expected batches as an iterable, got {_checks.kind(batches)}")
    if progress is not None:
        _checks.function("progress", progress)


def again(batches: object) -> None:
    """Check batches that can be read more than once."""
    check_source(batches, None)
    if isinstance(batches, Iterator):
        raise TypeError(
            "expected batches that can be read again, such as a list or a DataLoader, got "
            f"{_checks.kind(batches)}"
        )


def _prepared(number: int, batch: Batch, device: torch.device | None, channels_last: bool) -> Batch:
    if not isinstance(batch, (tuple, list)) or len(batch) < 2:
        length = f" of length {len(batch)}" if isinstance(batch, (tuple, list)) else ""
        raise TypeError(
            f"expected batches as (inputs, labels, ...), got {_checks.kind(batch)}{length} "
            f"in batch {number}"
        )
    if not isinstance(batch[0], Tensor):
        raise TypeError(
            f"expected inputs as a torch.Tensor, got {_checks.kind(batch[0])} in batch {number}"
        )
    moved = [part.to(device) if isinstance(part, Tensor) else part for part in batch]
    inputs, labels = moved[:2]
    moved[1] = whole(labels)
    if channels_last and inputs.ndim == 4:
        moved[0] = inputs.contiguous(memory_format=torch.channels_last)
    return tuple(moved)


def whole(labels: Any) -> Any:
    """Return integer labels as int64 and anything else, such as soft labels, as it is."""
    return (
        labels.long() if isinstance(labels, Tensor) and _checks.is_integer(labels.dtype) else labels
    )


def casting(model: object, dtype: torch.dtype | None) -> Callable[[], AbstractContextManager[Any]]:
    """Return what opens autocast to `dtype` on the model's device, or nothing where it is None."""
    if dtype is None:
        return nullcontext
    if not isinstance(dtype, torch.dtype) or not dtype.is_floating_point:
        raise TypeError(f"expected autocast as a floating torch.dtype or None, got {dtype!r}")
    device = device_of(model) or torch.device("cpu")
    return lambda: torch.autocast(device.type, dtype)
