"""Craft, then take the loss: the two steps of an objective."""

from collections.abc import Callable
from dataclasses import fields
from typing import Any, cast

import torch
from torch import Tensor

from advcal import _checks
from advcal._frozen import attacked
from advcal._pass import whole
from advcal._random import anew
from advcal._typing import Attack, Batch, Loss, Model
from advcal._values import Value


def craft(attack: Attack, model: Model, inputs: Tensor, labels: Tensor) -> Tensor:
    """Attack the inputs of a batch in training, as the objectives of this module do.

    The model is frozen meanwhile, and taken out of what wraps it for several processes. An attack
    that was given no generator draws anew each time: the global random state, which a checkpoint
    has, moves by one number with each call, as it moves with dropout, whatever the attack draws.

    Args:
        attack: `(model, inputs, labels) -> adversarial inputs`.
        model: The model in training; left as it was found.
        inputs: Shape `(n, ...)`.
        labels: Shape `(n,)`.

    Returns:
        What the attack made of the inputs, without a gradient.

    Raises:
        TypeError: If an argument is of the wrong kind, or the attack returns no tensor.
        ValueError: If the attack returns another shape or dtype.

    Example:
        >>> from functools import partial
        >>> from advcal.attacks import pgd
        >>> model, inputs, labels = torch.nn.Linear(2, 2), torch.rand(3, 2), torch.tensor([0, 1, 1])
        >>> craft(partial(pgd, eps=0.1), model, inputs, labels).shape
        torch.Size([3, 2])
    """
    _checks.arguments(attack=attack, model=model)
    if not isinstance(inputs, Tensor):
        raise TypeError(f"expected inputs as a torch.Tensor, got {_checks.kind(inputs)}")
    with anew(inputs.device):
        return attacked(attack, model, inputs, labels)


class Crafting(Value):
    """An objective in two steps, so that others can go around it without crafting twice."""

    def __post_init__(self) -> None:
        """Check each field by its name; None passes if it is the default."""
        for field in fields(cast(Any, self)):
            value = getattr(self, field.name)
            if value is not None or field.default is not None:
                _checks.arguments(**{field.name: value})

    def craft(self, model: Model, batch: Batch) -> Any:
        """Draw and attack: make of a batch what the loss is taken of.

        Args:
            model: The model in training.
            batch: `(inputs, labels, *rest)`.

        Returns:
            What `loss_of` takes.
        """
        raise NotImplementedError

    def loss_of(self, model: Model, crafted: Any) -> Tensor:
        """Take the loss of what was crafted.

        Args:
            model: The model in training.
            crafted: What `craft` returned.

        Returns:
            The loss, a scalar.
        """
        raise NotImplementedError

    def __call__(self, model: Model, batch: Batch) -> Tensor:
        return self.loss_of(model, self.craft(model, batch))


def two_steps(objective: Any) -> tuple[Callable[..., Any], Callable[..., Tensor]]:
    """Return `craft` and `loss_of` of an objective; a plain function does all in the second."""
    if all(callable(getattr(objective, step, None)) for step in ("craft", "loss_of")):
        return objective.craft, objective.loss_of
    return lambda model, batch: batch, objective


def examples(batch: Batch) -> tuple[Tensor, Tensor]:
    """Return the inputs and the labels of a batch, integer labels as int64 as the losses want."""
    inputs, labels, *_ = batch
    return inputs, whole(labels)


def loss_at(loss: Loss, logits: Any, labels: Any) -> Tensor:
    """Take a loss; integer labels out of range are refused before a kernel of a device meets them.

    Of labels that were on the CPU the range is known from there; else this waits for the device.
    """
    tensors = isinstance(labels, Tensor) and isinstance(logits, Tensor)
    if tensors and (labels.dtype, labels.ndim, logits.ndim) == (torch.int64, 1, 2) and len(labels):
        _checks.label_range(labels, logits.shape[1])
    return loss(logits, labels)


def both(model: Model, inputs: Tensor, others: Tensor, *, joint: bool) -> tuple[Tensor, Tensor]:
    """Run two batches through a model, in one forward pass or in two."""
    if not joint:
        return model(inputs), model(others)
    first, second = model(torch.cat([inputs, others])).chunk(2)
    return first, second
