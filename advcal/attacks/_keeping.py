"""Descend an objective while a label is kept: the engine of every attack on calibration."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple, Protocol

import torch
from torch import Tensor

from advcal import _checks
from advcal._logits import Apart, finite, lift
from advcal._sums import widest
from advcal._typing import Model
from advcal.attacks._balls import Ball, each_of, per_example
from advcal.attacks._gradient import Best, linearised, logits_at, look_at, scaled, select
from advcal.attacks._nearest import steady
from advcal.attacks._norms import inward
from advcal.attacks._tangent import Tangent

_MARGIN_KEPT = 1e-3  # of the first margin, so that rounding elsewhere cannot flip the answer
FIRST = 10  # steps before a descent begins again
_LEAST = 0.1  # of the first step, the least one after that, until …
_CLOSE_IN = 0.75  # … so much of the steps are done
_SHORTEST = 1 / 16  # of a step, to which a gap may shorten it
_MOMENTUM = {"first": 0.3, "later": 0.6}  # share of the direction before, in first rounds, later
_PARTS = (0.72, 0.5, 0.35, 0.25, 0.17)  # lengths of the parts of a step by a linear model


class Stage(NamedTuple):
    """How far a descent has come.

    Attributes:
        progress: From 0 at the first step until it begins again to 1 at the last.
        turn: How often it has begun again.
        crossed: Which have crossed since, shape `(n,)`; None if it never begins again.
    """

    progress: float = 0.0
    turn: int = 0
    crossed: Tensor | None = None


class Look(NamedTuple):
    """What an aim makes of logits, each with one row per example.

    Attributes:
        score: What the best point has most of.
        gradient: The gradient of what is lowered, with respect to the logits.
        side: False or True; when it changes, a step went too far. None if there is one side.
        order: The order of the entropy that is raised, 0 if it is none; None if it never is.
    """

    score: Tensor
    gradient: Tensor
    side: Tensor | None = None
    order: Tensor | None = None


class Aim(Protocol):
    """Where to go while the label is kept."""

    def look(self, logits: Tensor, apart: Apart, stage: Stage) -> Look:
        """Look at logits."""
        ...


@dataclass(frozen=True, eq=False)
class Lower:
    """Lower an objective, logits to one value per example, of which the least is the best."""

    objective: Callable[[Tensor], Tensor]

    def look(self, logits: Tensor, apart: Apart, stage: Stage) -> Look:
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
    step_size: float | Tensor | Callable[[int], Tensor],
    *,
    anew: bool = False,
    best: Best | None = None,
) -> Tensor:
    """Follow an aim down while the label is kept, and win the label back if it is not.

    The steps of an example are halved each time it crosses from one side to the other, so that it
    closes in on the boundary; not when it first gains a label that it did not have. Returns, per
    example, the best of all points seen: one that keeps the label before one that does not, then
    the one of higher score. Costs `steps + 1` forward and at most `steps` backward passes.

    With `anew` it begins again from the best point after 10 steps, then after 20, 40, … more, and
    closes in only in the last quarter of these: halved for good, the steps of a long descent would
    end where it first met the boundary. What more steps see comes on top of what fewer see. Its
    steps are those of `_Rolling`.

    Args:
        model: The model, frozen.
        start: Where to start.
        labels: The labels to keep.
        aim: Where to go.
        region: Where to stay.
        steps: The number of steps.
        step_size: The first length of a step, with `anew` at most: a number or `(n,)`, or what
            gives it for a number of steps until the descent begins again.
        anew: Whether to begin again.
        best: What was seen before, if anything was.
    """
    best, here = Best(start) if best is None else best, start
    least_lead: Tensor | None = None
    ever_kept = torch.zeros_like(labels, dtype=torch.bool)
    rule: _Rolling | _Straight = _Straight(region)
    if anew:
        rule = _Rolling(region, labels, learns=steps > FIRST)
    for turn, (length, taken) in enumerate(_cycles(steps) if anew else [(steps, steps)]):
        first = step_size(length) if callable(step_size) else step_size
        first = each_of(first, start, torch.float32)
        size, least = _Halved(first), _LEAST if length > FIRST and anew else 0.0
        rule.begin(turn)
        for step in range(taken + 1):
            if step == taken:
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
            crossed = size.crossed() if anew else None
            seen = aim.look(logits, apart, Stage(step / max(1, length - 1), turn, crossed))
            best.offer(here, keeps, seen.score)
            if step == taken:
                break
            side = keeps if seen.side is None else (seen.side + 1) * keeps
            size.cross(side, ever_kept, least if step < _CLOSE_IN * length else 0.0)
            ever_kept = ever_kept | keeps
            place = _Place(here, logits, apart, lead, least_lead, keeps, regain, seen, back)
            here = rule.step(place, size.now)
        here = best.points
    return best.points


def _cycles(steps: int) -> list[tuple[int, int]]:
    """Cut steps into cycles of 10, 20, 40, …, the last as far as it goes.

    Their lengths do not depend on the number of steps, and fewer than 10 are one cycle. A new one
    takes a forward pass more.
    """
    length, left = min(steps, FIRST), steps
    cycles = []
    while left > 0:
        cycles.append((length, min(length, left)))
        left, length = left - length - 1, 2 * length
    return cycles


class _Halved:
    """The length of the steps of each example, halved when it crosses to another side."""

    def __init__(self, first: Tensor) -> None:
        self.now, self._first = first, first
        self._side: Tensor | None = None

    def crossed(self) -> Tensor:
        """Tell which have been halved, shape `(n,)`."""
        return self.now < self._first

    def cross(self, side: Tensor, counts: Tensor, least: float) -> None:
        """Take in on which side each example is, whether that counts, and the least share."""
        if self._side is not None:
            halved = self.now / 2
            halved = torch.maximum(halved, least * self._first) if least else halved
            self.now = torch.where((side != self._side) & counts, halved, self.now)
        self._side = side


class _Place(NamedTuple):
    """What is known where a descent stands, each with one row per example."""

    points: Tensor
    logits: Tensor
    apart: Apart
    lead: Tensor  # of the label over the others
    least_lead: Tensor  # at which it counts as kept
    keeps: Tensor
    regain: Tensor  # the gradient, with respect to the logits, of by how much the label is behind
    look: Look
    back: Callable[[Tensor], Tensor]  # from a gradient with respect to the logits to the inputs


class _Straight:
    """Steps down the slope of the aim while the label is kept, else of what is to regain."""

    def __init__(self, region: Ball) -> None:
        self._region = region

    def begin(self, turn: int) -> None:
        """Begin, which is once."""

    def step(self, at: _Place, size: Tensor) -> Tensor:
        """Take a step of the size and project."""
        slope = scaled(torch.where(at.keeps[:, None], at.look.gradient, at.regain))
        return self._region.project(self._region.ascend(at.points, -at.back(slope), size))


class _Rolling:
    """Steps that follow the aim on the other side too, beside winning the label back.

    The optimum of an example that has crossed lies along the boundary. There gradients alternate,
    so that each step keeps a share of the direction of those before. And a step is cut to where, by
    the gradient, the logits that it moves are level, down to a sixteenth: in a large ball steps are
    much like those in a smaller one. If the aim is an entropy, steps after the first beginning turn
    on their way, by a linear model of the logits that all looks have taught: one slope is true at
    one point only, and where many classes tie the way out is between theirs.
    """

    _direction: Tensor

    def __init__(self, region: Ball, labels: Tensor, *, learns: bool) -> None:
        self._region, self._labels, self._learns = region, labels, learns
        self._near: Tangent | None = None

    def begin(self, turn: int) -> None:
        """Begin from another point, for the first time at turn 0."""
        self._first, self._moves = turn == 0, False
        self._share = _MOMENTUM["first" if self._first else "later"]
        if self._near is not None:
            self._near.jump()

    def step(self, at: _Place, size: Tensor) -> Tensor:
        """Step down about as far as it takes to close the gap to level logits, if that is above 0.

        With a linear model it is a step in parts, of which the later ones follow the model.
        """
        here, follow = at.points, scaled(at.look.gradient)
        # Not while the label leads by too little: two classes would cancel out.
        slope = torch.where(
            at.keeps[:, None], follow, at.regain + follow * (at.lead < 0).unsqueeze(1)
        )
        gap = (slope * finite(at.logits - at.apart.label)).sum(dim=1)
        gap = torch.where(at.keeps, gap, gap + 2 * at.least_lead)
        gradient = lift(steady(at.back(slope)))
        if at.look.order is not None and self._learns:
            self._near = self._near or Tangent(here, at.logits, self._labels)
            self._near.learn(here, at.logits, slope, gradient)
            self._near.raise_entropy(at.look.order, 2 * at.least_lead)
        steepness = self._turn(inward(self._region, -gradient, here))
        # A slope that is steep for the moment, as that of a root near 0, says little of the way.
        reach = torch.maximum((gap / steepness).to(size.dtype), _SHORTEST * size)
        reach = torch.where(gap > 0, torch.minimum(size, reach), size)
        if self._near is None or self._first:
            return self._go(here, reach)
        here = self._go(here, _PARTS[0] * reach)
        for part in _PARTS[1:]:
            self._turn(self._near.descent_at(here))
            here = self._go(here, part * reach)
        return here

    def _turn(self, down: Tensor) -> Tensor:
        """Turn towards a direction; return how steep it is."""
        steepness: Tensor = torch.linalg.vector_norm(
            down.flatten(1), self._region.dual, dim=1, dtype=widest(down.device)
        )
        least = torch.finfo(steepness.dtype).tiny  # where there is no slope
        steepness = steepness.clamp_min(least)
        down = (down / per_example(steepness, down)).to(down.dtype)
        self._direction = down.add_(self._direction, alpha=self._share) if self._moves else down
        self._moves = True
        return steepness

    def _go(self, here: Tensor, length: Tensor) -> Tensor:
        return self._region.project(self._region.ascend(here, self._direction, length))


def _lead(apart: Apart) -> tuple[Tensor, Tensor]:
    """Return by how much the label leads, and the gradient of by how much it is behind."""
    rival = apart.others.amax(dim=1, keepdim=True)
    level = apart.others == rival
    gradient = level / level.sum(dim=1, keepdim=True, dtype=rival.dtype)
    return (apart.label - rival)[:, 0], gradient.scatter_(1, apart.column, -1)


def unchanged_or(model: Model, points: Tensor, labels: Tensor, inputs: Tensor) -> Tensor:
    """Check by a last forward pass that each point has its label; if not, give the input."""
    return select(logits_at(model, points).argmax(dim=1) == labels, points, inputs)
