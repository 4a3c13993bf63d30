"""The training loop, as a generator of records."""

import math
from collections.abc import Iterable, Iterator
from typing import NamedTuple

import torch
from torch import Tensor, nn

from advcal import _checks
from advcal._batches import casting, check_source, prepared
from advcal._typing import Batch, Objective, Progress


class Epoch(NamedTuple):
    """What one epoch of training did.

    Attributes:
        epoch: The number of the epoch, from 1.
        loss: The mean of the objective over the epoch's examples.
        n: The number of examples.
    """

    epoch: int
    loss: float
    n: int


def epochs(
    model: nn.Module,
    batches: Iterable[Batch],
    objective: Objective,
    optimizer: torch.optim.Optimizer,
    *,
    n: int,
    autocast: torch.dtype | None = None,
    channels_last: bool = False,
    progress: Progress | None = None,
) -> Iterator[Epoch]:
    """Train for `n` epochs and yield a record after each.

    The body of the `for` is the place for schedules, validation, early stopping and checkpoints;
    `break` ends training. Each epoch puts the model into train mode. Batches go to the device of
    the model; the model is never moved.

    Args:
        model: The model to train, in place.
        batches: An iterable of `(inputs, labels, *rest)` that can be gone through `n` times, such
            as a `DataLoader` or a list.
        objective: `(model, batch) -> scalar loss`.
        optimizer: The optimizer of the model's parameters.
        n: The number of epochs.
        autocast: `torch.bfloat16` to compute the objective in mixed precision, attacks included.
            For float16 use a loop with a gradient scaler.
        channels_last: Whether to lay out four-dimensional inputs and weights channels last, which
            is faster for convolutions on most machines. It converts the model in place.
        progress: A wrapper of an iterable that shows progress, such as `tqdm.tqdm`.

    Yields:
        An `Epoch` after each epoch.

    Raises:
        TypeError: If an argument or a batch is of the wrong kind.
        ValueError: If `n` is not positive, an epoch has no batches, or the objective is no scalar.
        FloatingPointError: If the loss is not finite; the weights are those before that step.

    Example:
        >>> _ = torch.manual_seed(0)
        >>> model = nn.Linear(2, 2)
        >>> batches = [(torch.eye(2), torch.tensor([0, 1]))]
        >>> from advcal.trainers import standard
        >>> optimizer = torch.optim.SGD(model.parameters(), lr=1.0)
        >>> for epoch in epochs(model, batches, standard(), optimizer, n=3):
        ...     print(epoch.epoch, epoch.n)
        1 2
        2 2
        3 2
    """
    if not isinstance(model, nn.Module):
        raise TypeError(f"expected model as a torch.nn.Module, got {_checks.kind(model)}")
    if not isinstance(optimizer, torch.optim.Optimizer):
        raise TypeError(
            f"expected optimizer as a torch.optim.Optimizer, got {_checks.kind(optimizer)}"
        )
    _checks.function("objective", objective)
    check_source(batches, progress)
    n = _checks.count("n", n)
    autocasting = casting(model, autocast)
    if channels_last:
        model.to(memory_format=torch.channels_last)  # type: ignore[call-overload]

    def run() -> Iterator[Epoch]:
        for epoch in range(1, n + 1):
            model.train()
            total, examples = 0.0, 0
            for batch in prepared(batches, model, channels_last=channels_last, progress=progress):
                optimizer.zero_grad()
                with autocasting():
                    loss = objective(model, batch)
                value = _finite(loss, f"epoch {epoch}, after {examples} examples")
                loss.backward()
                optimizer.step()
                total += value * len(batch[0])
                examples += len(batch[0])
            if examples == 0:
                raise ValueError(
                    f"expected batches in epoch {epoch}, got none; an iterator can be gone "
                    "through only once, a list or a DataLoader again and again"
                )
            yield Epoch(epoch, total / examples, examples)

    return run()


def fit(
    model: nn.Module,
    batches: Iterable[Batch],
    objective: Objective,
    optimizer: torch.optim.Optimizer,
    *,
    n: int,
    autocast: torch.dtype | None = None,
    channels_last: bool = False,
    progress: Progress | None = None,
) -> list[Epoch]:
    """Train for `n` epochs: the short form of `epochs`, which says more.

    Args:
        model: The model to train, in place.
        batches: An iterable of `(inputs, labels, *rest)` that can be gone through `n` times.
        objective: `(model, batch) -> scalar loss`.
        optimizer: The optimizer of the model's parameters.
        n: The number of epochs.
        autocast: `torch.bfloat16` to compute the objective in mixed precision.
        channels_last: Whether to lay out inputs and weights channels last.
        progress: A wrapper of an iterable that shows progress, such as `tqdm.tqdm`.

    Returns:
        The record of each epoch.

    Raises:
        TypeError: If an argument or a batch is of the wrong kind.
        ValueError: If `n` is not positive, an epoch has no batches, or the objective is no scalar.
        FloatingPointError: If the loss is not finite; the weights are those before that step.

    Example:
        >>> _ = torch.manual_seed(0)
        >>> model = nn.Linear(2, 2)
        >>> batches = [(torch.eye(2), torch.tensor([0, 1]))]
        >>> from advcal.trainers import standard
        >>> optimizer = torch.optim.SGD(model.parameters(), lr=1.0)
        >>> [epoch.n for epoch in fit(model, batches, standard(), optimizer, n=2)]
        [2, 2]
    """
    return list(
        epochs(
            model,
            batches,
            objective,
            optimizer,
            n=n,
            autocast=autocast,
            channels_last=channels_last,
            progress=progress,
        )
    )


def _finite(loss: Tensor, where: str) -> float:
    if not isinstance(loss, Tensor) or loss.ndim != 0:
        raise ValueError(f"expected the objective to give a scalar, got {_checks.kind(loss)}")
    _checks.differentiable("losses", loss, "the parameters")
    value = float(loss.detach())
    if not math.isfinite(value):
        raise FloatingPointError(f"expected a finite loss, got {value} in {where}")
    return value
