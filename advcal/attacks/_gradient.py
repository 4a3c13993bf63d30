"""One forward and one backward pass: what a step of every gradient attack costs."""

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor

from advcal import _checks
from advcal._typing import Loss, Model
from advcal.losses import margin
from advcal.losses._margin import without_label


def log_odds(logits: Tensor, labels: Tensor) -> Tensor:
    r"""Return $\log\sum_{k \ne y} e^{z_k} - z_y$, of which cross-entropy is the softplus.

    It rises and falls with the cross-entropy and does not go flat where the softmax saturates.
    """
    label = logits.gather(1, labels[:, None])[:, 0]
    return without_label(logits, labels).logsumexp(dim=1) - label


LOSSES: dict[str, Loss] = {
    "cross_entropy": log_odds,
    "margin": lambda logits, labels: margin(logits, labels, reduction="none"),
}


def loss_by_name(loss: str | Loss) -> Loss:
    """Return a per-example loss by name, or the callable itself."""
    if callable(loss):
        return loss
    _checks.choice("loss", loss, LOSSES)
    return LOSSES[loss]


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
        output = _checks.logits(model(inputs), len(inputs))
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
        return lift(_checks.logits(model(inputs), len(inputs)))


def lift(values: Tensor) -> Tensor:
    """Lift half precision to float32."""
    return values.float() if values.dtype.itemsize < 4 else values
