"""Craft, then take the loss: the two steps of an objective."""

from typing import Any, Protocol, runtime_checkable

import torch
from torch import Tensor

from advcal import _checks
from advcal._batches import whole
from advcal._frozen import attacked
from advcal._random import anew
from advcal._typing import Attack, Batch, Model
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


@runtime_checkable
class TwoSteps(Protocol):
    """An objective that can be asked for each of its steps."""

    def craft(self, model: Any, batch: Any, /) -> Any:
        """Make of a batch what the loss is taken of."""
        ...

    def loss_of(self, model: Any, crafted: Any, /) -> Tensor:
        """Take the loss of what was crafted."""
        ...


class Crafting(Value):
    """An objective in two steps, so that others can go around it without crafting twice."""

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


def crafted_by(objective: object, model: Model, batch: Batch) -> Any:
    """Take the first step of an objective; one that is a plain function has it in the second."""
    return objective.craft(model, batch) if isinstance(objective, TwoSteps) else batch


def loss_of(objective: Any, model: Model, crafted: Any) -> Tensor:
    """Take the second step of an objective, or all of a plain function."""
    two = isinstance(objective, TwoSteps)
    loss: Tensor = objective.loss_of(model, crafted) if two else objective(model, crafted)
    return loss


def examples(batch: Batch) -> tuple[Tensor, Tensor]:
    """Return the inputs and the labels of a batch, integer labels as int64 as the losses want."""
    inputs, labels, *_ = batch
    return inputs, whole(labels)


def both(model: Model, inputs: Tensor, others: Tensor, *, joint: bool) -> tuple[Tensor, Tensor]:
    """Run two batches through a model, in one forward pass or in two."""
    if not joint:
        return model(inputs), model(others)
    first, second = model(torch.cat([inputs, others])).chunk(2)
    return first, second
