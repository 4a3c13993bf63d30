"""Descend an objective while a label is kept: the engine of every attack on calibration."""

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor

from advcal._typing import Model
from advcal.attacks._balls import Ball
from advcal.attacks._gradient import Best, gradient_at, logits_at, select
from advcal.losses import margin

_MARGIN_KEPT = 1e-3  # of the first margin, so that rounding elsewhere cannot flip the answer


class Aim(NamedTuple):
    """Where to go while the label is kept; all functions give one value per example.

    Attributes:
        objective: Logits and the progress from 0 to 1 to what is lowered.
        score: Logits to what the best point has most of.
        side: Logits to whole numbers; where they change, a step went too far.
    """

    objective: Callable[[Tensor, float], Tensor]
    score: Callable[[Tensor], Tensor]
    side: Callable[[Tensor], Tensor] = lambda logits: logits.new_zeros(len(logits))


def descend_keeping(
    model: Model,
    start: Tensor,
    labels: Tensor,
    aim: Aim,
    region: Ball,
    steps: int,
    step_size: float | Tensor,
) -> Tensor:
    """Lower the objective where the label is kept, and win the label back where it is not.

    The steps of an example are halved each time it crosses from one side to the other, so that it
    closes in on the boundary; not when it first gains a label that it did not have. Returns, per
    example, the best of all points seen: one that keeps the label before one that does not, then
    the one of higher score. Costs `steps + 1` forward and `steps` backward passes.
    """
    best, here = Best(start), start
    size = torch.as_tensor(step_size, dtype=torch.float32, device=start.device).expand(len(start))
    least_lead: Tensor | float = -torch.inf
    last, ever_kept = None, torch.zeros_like(labels, dtype=torch.bool)

    def kept(logits: Tensor) -> Tensor:
        lead = -margin(logits, labels, reduction="none")
        return (logits.argmax(dim=1) == labels) & (lead >= least_lead)

    for step in range(steps):
        progress = step / max(1, steps - 1)

        def goal(logits: Tensor, progress: float = progress) -> Tensor:
            regain = margin(logits, labels, reduction="none")
            return torch.where(kept(logits), aim.objective(logits, progress), regain)

        logits, _, gradient = gradient_at(model, here, goal)
        keeps = kept(logits)
        best.offer(here, keeps, aim.score(logits))
        side = torch.where(keeps, aim.side(logits), -1)
        if last is None:
            least_lead = _MARGIN_KEPT * margin(logits, labels, reduction="none").abs()
        else:
            size = torch.where((side != last) & ever_kept, size / 2, size)
        last, ever_kept = side, ever_kept | keeps
        here = region.project(region.ascend(here, -gradient, size))
    logits = logits_at(model, here)
    best.offer(here, kept(logits), aim.score(logits))
    return best.points


def unchanged_or(model: Model, points: Tensor, labels: Tensor, inputs: Tensor) -> Tensor:
    """Check by a last forward pass that each point has its label; where not, give the input."""
    return select(logits_at(model, points).argmax(dim=1) == labels, points, inputs)
