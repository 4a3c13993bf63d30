"""Descend an objective while a label is kept: the engine of every attack on calibration."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple, Protocol

import torch
from torch import Tensor

from advcal import _checks
from advcal._logits import Apart
from advcal._typing import Model
from advcal.attacks._balls import Ball, each_of
from advcal.attacks._gradient import Best, linearised, logits_at, look_at, scaled, select

_MARGIN_KEPT = 1e-3  # of the first margin, so that rounding elsewhere cannot flip the answer


class Look(NamedTuple):
    """What an aim makes of logits, each with one row per example.

    Attributes:
        score: What the best point has most of.
        gradient: The gradient of what is lowered, with respect to the logits.
        side: False or True; when it changes, a step went too far. None if there is one side.
    """

    score: Tensor
    gradient: Tensor
    side: Tensor | None = None


class Aim(Protocol):
    """Where to go while the label is kept."""

    def look(self, logits: Tensor, apart: Apart, progress: float) -> Look:
        """Look at logits, at a progress from 0 at the first step to 1 at the last."""
        ...


@dataclass(frozen=True, eq=False)
class Lower:
    """Lower an objective, logits to one value per example, of which the least is the best."""

    objective: Callable[[Tensor], Tensor]

    def look(self, logits: Tensor, apart: Apart, progress: float) -> Look:
        """Take the gradient by autograd."""
        values, back = linearised(self.objective, logits)
        return Look(-values.detach(), back(torch.ones_like(values)))


def descend_keeping(
    model: Model,
    start: Tensor,
    labels: Tensor,
    aim: Aim,
    region: Ball,
    steps: int,
    step_size: float | Tensor,
) -> Tensor:
    """Follow an aim down while the label is kept, and win the label back if it is not.

    The steps of an example are halved each time it crosses from one side to the other, so that it
    closes in on the boundary; not when it first gains a label that it did not have. Returns, per
    example, the best of all points seen: one that keeps the label before one that does not, then
    the one of higher score. Costs `steps + 1` forward and `steps` backward passes.
    """
    best, here = Best(start), start
    size = each_of(step_size, start, torch.float32)
    least_lead: Tensor | None = None
    last, ever_kept = labels, torch.zeros_like(labels, dtype=torch.bool)
    for step in range(steps + 1):
        if step == steps:
            logits = logits_at(model, here)
        else:
            logits, back = look_at(model, here)
        _checks.label_range(labels, logits.shape[1])
        apart = Apart.of(logits, labels)
        lead, regain = _lead(apart)
        keeps = logits.argmax(dim=1) == labels
        if least_lead is None:
            least_lead = _MARGIN_KEPT * lead.abs()
        else:
            keeps = keeps & (lead >= least_lead)
        seen = aim.look(logits, apart, step / max(1, steps - 1))
        best.offer(here, keeps, seen.score)
        if step == steps:
            break
        side = keeps if seen.side is None else (seen.side + 1) * keeps
        size = torch.where((side != last) & ever_kept, size / 2, size)
        last, ever_kept = side, ever_kept | keeps
        slope = torch.where(keeps[:, None], seen.gradient, regain)
        here = region.project(region.ascend(here, -back(scaled(slope)), size))
    return best.points


def _lead(apart: Apart) -> tuple[Tensor, Tensor]:
    """Return by how much the label leads, and the gradient of by how much it is behind."""
    rival = apart.others.amax(dim=1, keepdim=True)
    level = apart.others == rival
    gradient = (level / level.sum(dim=1, keepdim=True)).to(rival.dtype)
    return (apart.label - rival)[:, 0], gradient.scatter_(1, apart.column, -1)


def unchanged_or(model: Model, points: Tensor, labels: Tensor, inputs: Tensor) -> Tensor:
    """Check by a last forward pass that each point has its label; if not, give the input."""
    return select(logits_at(model, points).argmax(dim=1) == labels, points, inputs)
