"""What objectives share: how they read a batch, craft, and run two batches through a model."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar

import torch
from torch import Tensor

from advcal._frozen import attacked
from advcal._pass import whole
from advcal._typing import Attack, Batch, Model

_kept: ContextVar[list[Tensor] | None] = ContextVar("_kept", default=None)
_given: ContextVar[list[Tensor] | None] = ContextVar("_given", default=None)


def examples(batch: Batch) -> tuple[Tensor, Tensor]:
    """Return the inputs and the labels of a batch, integer labels as int64 as the losses want."""
    inputs, labels, *_ = batch
    return inputs, whole(labels)


def craft(attack: Attack, model: Model, inputs: Tensor, labels: Tensor) -> Tensor:
    """Attack the frozen model, once for all passes over a batch."""
    return once(inputs.shape, lambda: attacked(attack, model, inputs, labels))


def once(shape: tuple[int, ...], make: Callable[[], Tensor]) -> Tensor:
    """Make a tensor of this shape; inside `given`, take what was made before instead."""
    given = _given.get()
    if given and given[0].shape == shape:
        return given.pop(0)
    made = make()
    if (kept := _kept.get()) is not None:
        kept.append(made)
    return made


@contextmanager
def keeping() -> Iterator[list[Tensor]]:
    """Note what is made inside, in order."""
    made: list[Tensor] = []
    tokens = _kept.set(made), _given.set(None)
    try:
        yield made
    finally:
        _kept.reset(tokens[0])
        _given.reset(tokens[1])


@contextmanager
def given(made: list[Tensor]) -> Iterator[None]:
    """Hand out what was made before, in the same order."""
    token = _given.set(list(made))
    try:
        yield
    finally:
        _given.reset(token)


def both(model: Model, inputs: Tensor, others: Tensor, *, joint: bool) -> tuple[Tensor, Tensor]:
    """Run two batches through a model, in one forward pass or in two."""
    if not joint:
        return model(inputs), model(others)
    first, second = model(torch.cat([inputs, others])).chunk(2)
    return first, second
