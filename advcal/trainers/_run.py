"""A training under way: epoch after epoch, from wherever its checkpoint is."""

import math
from collections.abc import Callable, Generator, Iterable, Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from advcal import _checks
from advcal._frozen import device_of
from advcal._pass import prepared
from advcal._sums import wide
from advcal._typing import Batch, Objective, Progress
from advcal.trainers._checkpoint import Checkpoint, Position, first_of, set_epoch
from advcal.trainers._step import Step


class Epoch(NamedTuple):
    """What one epoch of training did.

    Attributes:
        epoch: The number of the epoch, from 1.
        loss: The mean of the objective over the epoch's examples, in all processes.
        n: The number of examples.
    """

    epoch: int
    loss: float
    n: int


@dataclass(frozen=True, kw_only=True)
class Run:
    """What a training is made of, each part as in `epochs`."""

    model: nn.Module
    batches: Iterable[Batch]
    objective: Objective
    step: Step
    saved: Checkpoint | None
    every: int | None  # batches between checkpoints
    casts: Callable[[], AbstractContextManager[Any]]
    channels_last: bool
    group: torch.distributed.ProcessGroup | None  # the processes that train together
    progress: Progress | None

    def epochs(self, n: int) -> Generator[Epoch, None, list[Epoch]]:
        """Yield the record of each epoch that the checkpoint has not; return those of all."""
        with ExitStack() as stack:
            at = Position() if self.saved is None else self.saved.open(stack, n)
            records = [Epoch(*record) for record in at.records]
            for epoch in range(at.epoch, n + 1):
                self._train(at)
                records.append(Epoch(epoch, at.total / at.n, at.n))
                at = Position(epoch + 1, records=records, first=at.first, begin=at.begin)
                yield records[-1]
                if self.saved is not None:
                    self.saved.save(at)
            return records

    def _train(self, at: Position) -> None:
        """Go through what is left of an epoch."""
        if self.saved is not None and at.batch == 0:
            at.start = self.saved.random()
            at.begin = at.begin or at.start
        set_epoch(self.batches, at.epoch - 1)
        self.model.train()
        source = prepared(
            self.batches,
            self.model,
            channels_last=self.channels_last,
            progress=self.progress,
            skip=at.batch,
        )
        if self.saved is not None and at.batch > 0:
            self.saved.set_random(at.now)
        for batch in source if self.group is None else self._together(source, at):
            if self.saved is not None:
                first_of(batch, at)
            self._take(batch, at)
        if self.step.pending:
            self.step.take()
        if at.n == 0:
            raise ValueError(
                f"expected batches in epoch {at.epoch}, got none; an iterator can be gone "
                "through only once, a list or a DataLoader again and again"
            )

    def _together(self, source: Iterator[Batch], at: Position) -> Iterator[Batch]:
        """Yield batches as long as all processes have one; none goes on without the others."""
        device = device_of(self.model)
        while True:
            batch = next(source, None)
            kind = [0, 0] if batch is None else [1, batch[0].ndim]
            ends = torch.tensor([*kind, *(-each for each in kind)], device=device)
            torch.distributed.all_reduce(ends, torch.distributed.ReduceOp.MAX, group=self.group)
            most, dims, least, other_dims = ends.tolist()
            if most != -least:
                here = "one" if batch is not None else "none"
                raise ValueError(
                    f"expected as many batches in all processes, got {here} for batch "
                    f"{at.batch + 1} of epoch {at.epoch} here, and not so elsewhere"
                )
            if batch is None:
                return
            if dims != -other_dims:
                raise ValueError(
                    f"expected inputs of as many dimensions in all processes, got {batch[0].ndim} "
                    "here and others elsewhere"
                )
            yield batch

    def _take(self, batch: Batch, at: Position) -> None:
        """Take one batch, the step after it and the checkpoint, if they are due."""
        at.batch += 1
        size = _size(batch, at)
        self.step.begin()
        with self.casts(), _noting(at):
            loss = self.objective(self.model, batch)
        mean, total = _finite(loss, size, self.group, at)
        at.total, at.n = at.total + mean * total, at.n + total
        stepped = self.step.add(loss, size, total)
        due = self.every is not None and at.batch % self.every == 0
        if self.saved is not None and stepped and due:
            self.saved.save(at)


@contextmanager
def _noting(at: Position) -> Iterator[None]:
    """Note in an error of an objective, whatever it is, its origin."""
    try:
        yield
    except Exception as error:
        error.add_note(f"in {at}")
        raise


def _size(batch: Batch, at: Position) -> int:
    inputs, labels = batch[:2]
    shape = inputs.shape
    if not shape or shape[0] == 0:
        raise ValueError(
            f"expected inputs of shape (n >= 1, ...), got {_checks.kind(inputs)} in {at}"
        )
    if isinstance(labels, Tensor) and labels.shape[:1] != shape[:1]:
        raise ValueError(
            f"expected labels for {shape[0]} inputs, got {_checks.kind(labels)} in {at}"
        )
    return int(shape[0])


def _finite(
    loss: Tensor, size: int, group: torch.distributed.ProcessGroup | None, at: Position
) -> tuple[float, int]:
    """Return the mean loss and the number of examples in all processes.

    Reading the loss is the one place where a step waits for the device.
    """
    if not isinstance(loss, Tensor) or loss.ndim != 0:
        raise ValueError(f"expected the objective to give a scalar, got {_checks.kind(loss)}")
    _checks.differentiable(loss, "the parameters")
    if group is None:
        value, total = loss.item(), size
    else:
        mean = wide(loss.detach())
        sums = torch.stack([mean * size, torch.full_like(mean, size)])
        torch.distributed.all_reduce(sums, group=group)
        summed, total = sums[0].item(), int(sums[1])
        value = summed / total
    if not math.isfinite(value):
        raise FloatingPointError(f"expected a finite loss, got {value} in {at}")
    return value, total
