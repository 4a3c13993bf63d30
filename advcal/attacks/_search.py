"""Random search while a label is kept: what the engine does when there is no gradient."""

from collections.abc import Callable
from typing import Literal

import torch
from torch import Tensor

from advcal._sums import wide
from advcal._typing import Model
from advcal.attacks._balls import Ball, free, per_example, times
from advcal.attacks._gradient import Best, logits_at

Method = Literal["gradient", "random_search"]

_FIRST_SHARE = 0.3  # of the coordinates that the first proposal changes


def search_keeping(
    model: Model,
    start: Tensor,
    labels: Tensor,
    score: Callable[[Tensor], Tensor],
    region: Ball,
    steps: int,
    generator: torch.Generator | None,
    best: Best | None = None,
) -> Tensor:
    """Change a patch of the best point at random and keep what scores higher and has the label.

    Patches are squares over the last two axes of images, runs over the last axis of other inputs,
    each other axis having its own sign; they shrink from 0.3 of the area to one coordinate. The
    patch is put at the ends of the ball for `linf` and added to the best point for `l2` and `l1`.
    Costs `steps + 1` forward passes. `best` is what was seen before, if anything was.
    """
    inputs, points = region.centre, start
    best = Best(inputs) if best is None else best
    for step in range(steps + 1):
        logits = logits_at(model, points)
        best.offer(points, logits.argmax(dim=1) == labels, score(logits))
        if step == steps:
            break
        inside, signs = _patch(inputs, _FIRST_SHARE * (1 - step / steps) ** 2, generator)
        inside = free(inside, region.bounds)
        if region.order == torch.inf:
            moved = torch.where(inside, inputs + times(region.radius, signs), best.points)
        else:
            area = wide(inside.flatten(1).sum(dim=1).clamp_min(1)) ** (1 / region.order)
            moved = best.points + inside * signs * per_example(
                area.reciprocal() * region.radius, inputs
            )
        points = region.project(moved.to(inputs.dtype))
    return best.points


def _patch(
    inputs: Tensor, share: float, generator: torch.Generator | None
) -> tuple[Tensor, Tensor]:
    """Draw a patch per example: where it is, shape `(n, 1..., sides)`, and the signs in it."""
    where = inputs.device if generator is None else generator.device
    n, n_axes = len(inputs), min(2, inputs.ndim - 1) if inputs.ndim > 3 else 1
    inside = torch.ones([n] + [1] * (inputs.ndim - 1), dtype=torch.bool, device=inputs.device)
    for axis in range(inputs.ndim - n_axes, inputs.ndim):
        length = inputs.shape[axis]
        side = max(1, round(length * share ** (1 / n_axes)))
        draw = torch.rand(n, generator=generator, dtype=torch.float32, device=where)
        first = per_example((draw.to(inputs.device) * (length - side + 1)).long(), inputs)
        shape = [1] * inputs.ndim
        shape[axis] = length
        place = torch.arange(length, device=inputs.device).reshape(shape)
        inside = inside & (place >= first) & (place < first + side)
    shape = [*inputs.shape[: inputs.ndim - n_axes], *[1] * n_axes]
    coins = torch.randint(2, shape, generator=generator, device=where)
    return inside.expand(inputs.shape), (coins * 2 - 1).to(inputs.device, inputs.dtype)
