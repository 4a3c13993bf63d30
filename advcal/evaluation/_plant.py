"""Adversarial points that are known to be there, for attacks to find."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from advcal._logits import lift, masked
from advcal._pass import Bound
from advcal._random import draw
from advcal._typing import Model
from advcal.attacks import Ball

DRAWS = 16  # points that one is chosen from, and as many that are drawn to find it
_NEAR = 0.9  # of the way to the planted point: where the class changes
_SHARP = 10.0  # the gap of the two logits from there to the input, about
_MOVED = 1e-4  # the least relative change of the logits to plant anything by


@dataclass(frozen=True)
class Plants:
    """What was planted in the balls around the examples of a batch.

    Attributes:
        model: Inputs to logits, of which the first is the highest at every example, and the second
            at the planted points. As many as the model has; the others are never the highest.
        planted: In which examples a point could be planted, shape `(n,)`.
        stumbled: In which of these one of the points drawn at random is as good, shape `(n,)`.
    """

    model: Model
    planted: Tensor
    stumbled: Tensor


def plant(
    model: Model, look: Callable[[Tensor], Tensor], ball: Ball, source: torch.Generator
) -> Plants:
    """Draw points on the surface of the balls and read the logits such that the best one counts.

    Of each example the point that moves the logits farthest is planted. How far other points move
    them that way is then a number, which is 0 at the example and 1 at the planted point; the class
    changes at .9. So an adversarial point is there, and the model has to be led to it by its own
    gradient, as in any attack.

    Args:
        model: The model.
        look: Points to logits in float32 or wider, without a gradient.
        ball: The balls.
        source: What the points are drawn from.
    """
    start = look(ball.centre)
    way = torch.zeros_like(start)
    for _ in range(DRAWS):
        moved = _finite(look(_on_surface(ball, source)) - start)
        farther = moved.norm(dim=1) > way.norm(dim=1)
        way = torch.where(farther[:, None], moved, way)
    size = way.norm(dim=1)
    planted = size > _MOVED * start.masked_fill(masked(start), 0).abs().amax(dim=1)
    length = torch.where(planted, size, 1.0)[:, None]
    way = way / length / length
    others = [(True, start), (True, way)]
    made = Bound(model, _read, len(start), others)
    stumbled = torch.zeros_like(planted)
    for _ in range(DRAWS):
        stumbled |= answers(made, _on_surface(ball, source)) != 0
    return Plants(made, planted, stumbled & planted)


def answers(model: Model, points: Tensor) -> Tensor:
    """Return what a model predicts, shape `(n,)`."""
    with torch.no_grad():
        return model(points.clone()).argmax(dim=1)


def _read(model: Any, batch: Any) -> Tensor:
    """Read how far the logits went the planted way as logits of two classes, and others below."""
    inputs, start, way = batch
    logits = lift(model(inputs))
    far = (_finite(logits - start) * way).sum(dim=1) - _NEAR
    below = -(_SHARP * far.detach().abs() + 1)
    rest = [below] * (logits.shape[1] - 2)
    return torch.stack([-_SHARP / 2 * far, _SHARP / 2 * far, *rest], dim=1)


def _finite(values: Tensor) -> Tensor:
    """Put 0 for masked classes, which do not move."""
    return torch.where(values.isfinite(), values, 0.0)


def _on_surface(ball: Ball, source: torch.Generator) -> Tensor:
    way = draw(torch.randn, ball.centre, source)
    return ball.project(ball.ascend(ball.centre, way, ball.radius))
