"""Craft, then take the loss: the two steps of an objective."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import fields
from typing import Any, cast
from weakref import WeakSet

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from advcal import _answers, _checks
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


@contextmanager
def within_unit_range(advice: str) -> Iterator[None]:
    """Say how to have other bounds than those of an objective's own attack, which are fixed."""
    try:
        yield
    except ValueError as error:
        told = str(error).replace("pass bounds=", advice)
        if told == str(error):
            raise
        raise ValueError(told) from None


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
        _checks.arguments(model=model)
        return self.loss_of(model, self.craft(model, batch))


def two_steps(objective: Any) -> tuple[Callable[..., Any], Callable[..., Tensor]]:
    """Return `craft` and `loss_of` of an objective; a plain function does all in the second."""
    if all(callable(getattr(objective, step, None)) for step in ("craft", "loss_of")):
        return objective.craft, objective.loss_of
    return lambda model, batch: batch, objective


def examples(batch: Batch) -> tuple[Tensor, Tensor]:
    """Check a batch, and return its inputs and labels, integer labels as int64."""
    if not isinstance(batch, (tuple, list)) or len(batch) < 2:
        raise TypeError(f"expected batch as (inputs, labels, ...), got {_checks.kind(batch)}")
    inputs, labels = batch[:2]
    if not isinstance(inputs, Tensor):
        raise TypeError(f"expected inputs as a torch.Tensor, got {_checks.kind(inputs)}")
    if inputs.ndim == 0 or len(inputs) == 0 or inputs.is_meta:
        raise ValueError(f"expected inputs of shape (n >= 1, ...), got {_checks.kind(inputs)}")
    return inputs, whole(labels)


def labelled(batch: Batch) -> tuple[Tensor, Tensor]:
    """Check a batch whose labels are taken apart before any loss sees them."""
    inputs, labels = examples(batch)
    if not isinstance(labels, Tensor):
        raise TypeError(f"expected labels as a torch.Tensor, got {_checks.kind(labels)}")
    if labels.shape[:1] != inputs.shape[:1]:
        raise ValueError(f"expected labels for {len(inputs)} inputs, got {_checks.kind(labels)}")
    return inputs, labels


def loss_at(loss: Loss, model: Model, inputs: Tensor, labels: Any) -> Tensor:
    """Take a loss of what a model in training says of inputs."""
    return loss_of(loss, model(inputs), labels, model)


def loss_of(loss: Loss, logits: Any, labels: Any, model: object = None) -> Tensor:
    """Take a loss; what torch's cross-entropy and a kernel of a device would say is said before.

    Of labels that were on the CPU the range is known from there; else this waits for the device.
    """
    if not _checks.recording():
        left_out, called = getattr(loss, "ignore_index", None), getattr(loss, "func", loss)
        if called is cross_entropy:
            left_out = getattr(loss, "keywords", {}).get("ignore_index", -100)
        if called is cross_entropy or isinstance(called, nn.CrossEntropyLoss):
            _check_classification(logits, labels)
            if first_met(model) and logits.ndim == 2:
                _checks.warn_of_probabilities(logits)
        _check_range(logits, labels, left_out)
    return scalar("loss", loss(logits, labels))


def scalar(name: str, value: Any) -> Tensor:
    """Check that a loss or an objective gave a tensor of one number."""
    if not isinstance(value, Tensor):
        raise TypeError(f"expected the {name} to return a tensor, got {_checks.kind(value)}")
    if value.ndim != 0:
        raise ValueError(f"expected the {name} to give a scalar, got {_checks.kind(value)}")
    return value


def _check_classification(logits: Any, labels: Any) -> None:
    """Check logits and labels for cross-entropy, dense ones and soft labels among them."""
    _answers.answer(logits)
    if not isinstance(labels, Tensor):
        raise TypeError(f"expected labels as a torch.Tensor, got {_checks.kind(labels)}")
    soft = labels.is_floating_point() and labels.shape == logits.shape
    dense = logits.ndim > 2 and labels.shape == logits.shape[:1] + logits.shape[2:]
    if not soft and not dense:
        _checks.class_rows("logits", logits)
        _checks.labels(labels, len(logits), device=logits.device)


def _check_range(logits: Any, labels: Any, left_out: int | None) -> None:
    """Check integer labels, dense ones too, but for what torch's cross-entropy leaves out."""
    if not isinstance(labels, Tensor) or not isinstance(logits, Tensor) or labels.numel() == 0:
        return
    if labels.dtype != torch.int64 or labels.ndim != logits.ndim - 1:
        return
    low, high = _checks.noted(labels).get("ends", (-1, -1))
    if left_out is not None and not 0 <= low <= high < logits.shape[1]:
        labels = labels.masked_fill(labels == left_out, 0)
    _checks.label_range(labels, logits.shape[1])


_seen = WeakSet[Any]()


def first_met(model: object) -> bool:
    """Tell whether a module was not met before: what its answers look like is said once."""
    new = isinstance(model, nn.Module) and model not in _seen
    if new:
        _seen.add(model)
    return new


def logits_at(model: Model, inputs: Tensor) -> Tensor:
    """Run a model in training; its answer must be logits `(n, classes)`, as of a loss of ours."""
    logits = _answers.logits_in(model(inputs), len(inputs))
    if not _checks.recording() and first_met(model):
        _checks.warn_of_probabilities(logits)
    return logits


def both(model: Model, inputs: Tensor, others: Tensor, *, joint: bool) -> tuple[Tensor, Tensor]:
    """Run two batches through a model, in one forward pass or in two."""
    if not joint:
        return logits_at(model, inputs), logits_at(model, others)
    first, second = logits_at(model, torch.cat([inputs, others])).chunk(2)
    return first, second
