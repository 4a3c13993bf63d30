"""Auto-PGD in L1 as published: sparse steps, in balls that shrink to the one that is asked for."""

from dataclasses import dataclass, replace
from typing import Self

import torch
from torch import Tensor

from advcal._random import draw
from advcal._typing import Model
from advcal.attacks._balls import Ball, each_of, of_rows, per_example, times
from advcal.attacks._gradient import Best, Goal, Point, climb, select
from advcal.attacks._thresholds import counted, reached_by

_PHASES = ((3, 0.3), (2, 0.3), (1, 0.4))  # radii of the ball, and shares of the steps
_CHECKED = 0.04  # the share of a phase's steps between two checkpoints
_FEWER = 1.5  # how many times fewer entries a step changes than the best point has changed
_SHRUNK = 0.95  # of the last number of changed entries, below which the steps are whole again
_SHORTER, _LEAST = 1.5, 0.1  # what shortens other steps, and the least length, in radii
_SHARE = 0.2  # of the entries that a step changes, from the input itself
_RADIUS = 12  # at which a random start has the published standard deviation of 1


def normal_around(region: Ball, generator: torch.Generator) -> Tensor:
    """Draw normal points around the centres, as wide for their radius as published for images."""
    noise = draw(torch.randn, region.centre, generator)
    return region.centre + times(region.radius / _RADIUS, noise)


def climb_in_phases(
    model: Model, points: Tensor, region: Ball, goal: Goal, steps: int, best: Best
) -> None:
    """Climb in balls of three radii, two and one, each from the highest point of the one before.

    Only points of the last ball are offered. Costs `steps + 3` forward and `steps` backward passes.
    """
    rows = torch.arange(len(points), device=points.device)
    if best.stop and best.n:
        rows = best.left(rows)
    left = steps
    for radii, share in _PHASES:
        ball = replace(region, radius=radii * region.radius)
        points = ball.project(points)
        part = left if radii == 1 else min(-int(-share * steps // 1), left)
        left -= part
        if radii == 1:
            rule = Sparse.begin(ball, points, part)
            climb(model, points, goal, rule, part, best)
        elif part and len(rows):
            one, inside, start, aim = of_rows((model, ball, points, goal), rows)
            highest = _Highest(start)
            climb(one, start, aim, Sparse.begin(inside, start, part), part, highest)
            points = points.clone().index_copy_(0, rows, highest.points)


class _Highest(Best):
    """Keep the points of the highest loss, whether they fool the model or not."""

    def offer(
        self, points: Tensor, first: Tensor, second: Tensor, rows: Tensor | None = None
    ) -> None:
        """Take the points of a higher loss."""
        super().offer(points, torch.zeros_like(first), second, rows)


@dataclass(frozen=True, eq=False)
class Sparse:
    """The rule of steps that change few entries by as much, as few as pay."""

    region: Ball
    size: Tensor
    share: Tensor  # of the entries that a step changes
    changed: Tensor  # how many entries the highest point had changed at the last checkpoint
    every: int  # steps between checkpoints
    taken: int = 0
    highest: Tensor | None = None  # the highest loss, where it is, and the gradient there
    top: Tensor | None = None
    top_gradient: Tensor | None = None

    @classmethod
    def begin(cls, region: Ball, start: Tensor, steps: int) -> Self:
        """Set out from a point."""
        size = each_of(region.radius, start, start.dtype)
        changed = (start != region.centre).flatten(1).sum(dim=1).to(size.dtype)
        n = start[0].numel()
        share = torch.where(changed > 0, changed / (_FEWER * n), _SHARE)
        changed = torch.where(changed > 0, changed, n)
        return cls(region, size, share, changed, max(int(_CHECKED * steps), 1))

    def step(self, points: Tensor, seen: Point) -> tuple[Tensor, Self]:
        """Record what was found, set size and sparsity at checkpoints, and step."""
        _, losses, gradient = seen
        losses = torch.where(losses.isnan(), -torch.inf, losses)
        best = new = [losses, points, gradient]
        if self.highest is not None and self.top is not None and self.top_gradient is not None:
            higher, last = losses > self.highest, (self.highest, self.top, self.top_gradient)
            best = [select(higher, *pair) for pair in zip(new, last, strict=True)]
        highest, top, top_gradient = best
        rule = replace(self, highest=highest, top=top, top_gradient=top_gradient)
        rule = replace(rule, taken=self.taken + 1)
        if self.taken and self.taken % self.every == 0:
            rule, shrunk = rule._checked(top)
            points, gradient = select(shrunk, top, points), select(shrunk, top_gradient, gradient)
        move = _sparse_sign(gradient, rule.share) * per_example(rule.size, points)
        return self.region.project(points + move.to(points.dtype)), rule

    def _checked(self, top: Tensor) -> tuple[Self, Tensor]:
        """Return the rule from a checkpoint on, and which examples go back to their top."""
        changed = (top != self.region.centre).flatten(1).sum(dim=1).to(self.changed.dtype)
        shrunk = changed / self.changed < _SHRUNK
        whole = each_of(self.region.radius, top, self.size.dtype)
        shorter = (self.size / _SHORTER).maximum(_LEAST * whole)
        size = torch.where(shrunk, whole, shorter)
        share = changed / (_FEWER * top[0].numel())
        return replace(self, size=size, share=share, changed=changed), shrunk


def _sparse_sign(gradient: Tensor, share: Tensor) -> Tensor:
    """Return the signs of the largest entries, a share of all, scaled to an L1 norm of 1."""
    flat = gradient.flatten(1)
    n = flat.shape[1]
    kept = n - ((1 - share) * n).long().clamp(0, n - 1)
    size = flat.abs()
    reach = torch.ge(size, reached_by(size, kept), out=size)
    total = counted(reach).clamp_min(1).to(flat.dtype)
    return flat.sign().mul_(reach).div_(total).reshape(gradient.shape)
