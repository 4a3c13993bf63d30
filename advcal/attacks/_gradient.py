"""One forward and one backward pass: what a step of every gradient attack costs."""

import functools
from collections.abc import Callable
from typing import NamedTuple, Protocol

import torch
from torch import Tensor
from torch.nn.functional import kl_div

from advcal import _checks
from advcal._frozen import logits_of
from advcal._logits import lift, log_odds
from advcal._typing import Loss, Model
from advcal.attacks._best import at
from advcal.losses import dlr, margin

LOSSES: dict[str, Loss] = {
    "cross_entropy": log_odds,
    "margin": functools.partial(margin, reduction="none"),
    "dlr": functools.partial(dlr, reduction="none"),
}


class Goal(Protocol):
    """A loss to raise, of logits `(m, classes)` of the examples `rows`; of all if None."""

    def __call__(self, logits: Tensor, rows: Tensor | None = None) -> Tensor: ...


def goal_of(
    loss: str | Loss, model: Model, inputs: Tensor, labels: Tensor, targeted: bool = False
) -> Goal:
    """Make what an attack raises of a loss, by name or a callable.

    `"kl"` compares with what the model says of the inputs, which takes a forward pass.
    """
    if loss == "kl":
        clean = logits_at(model, inputs).log_softmax(dim=1)
    elif not callable(loss):
        _checks.choice("loss", loss, [*LOSSES, "kl"])

    def goal(logits: Tensor, rows: Tensor | None = None) -> Tensor:
        given = at(labels, rows)
        _checks.label_range(given, logits.shape[1])
        if loss == "kl":
            values = logits.log_softmax(dim=1)
            losses = kl_div(values, at(clean, rows), reduction="none", log_target=True).sum(dim=1)
        else:
            losses = (loss if callable(loss) else LOSSES[loss])(logits, given)
        losses = _checks.losses(losses, len(given))
        return -losses if targeted else losses

    return goal


class Point(NamedTuple):
    """What a model says at a point: logits and losses in float32 or wider, and the gradient."""

    logits: Tensor
    losses: Tensor
    gradient: Tensor


def gradient_at(model: Model, inputs: Tensor, objective: Callable[[Tensor], Tensor]) -> Point:
    """Run the model forward and the gradient of each example's objective back to the inputs.

    The gradient with respect to the logits is scaled to a largest entry of 1 per example before it
    runs back through the model. That changes no direction, and keeps a confident model's gradient
    from underflowing in half precision on its way. Where the gradient is NaN it is taken as 0.

    Args:
        model: The model, frozen.
        inputs: The points, shape `(n, ...)`.
        objective: Logits to one value per example, shape `(n,)`.
    """
    with torch.enable_grad():
        inputs = inputs.detach().requires_grad_()
        output = logits_of(model, inputs)
        _checks.differentiable("logits", output, "the inputs")
        logits = lift(output.detach()).requires_grad_()
        losses = _checks.losses(objective(logits), len(inputs))
        _checks.differentiable("losses", losses, "the logits")
        (upstream,) = torch.autograd.grad(losses.sum(), logits)
        largest = upstream.abs().amax(dim=1, keepdim=True)
        upstream = upstream / torch.where(largest > 0, largest, 1.0)
        (gradient,) = torch.autograd.grad(output, inputs, upstream.to(output.dtype))
    return Point(logits.detach(), losses.detach(), gradient.nan_to_num())


def logits_at(model: Model, inputs: Tensor) -> Tensor:
    """Run the model forward without a gradient."""
    with torch.no_grad():
        return lift(logits_of(model, inputs))
