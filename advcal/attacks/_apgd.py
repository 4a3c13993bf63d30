"""Auto-PGD: projected gradient descent that chooses its step sizes itself."""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Literal, Self

import torch
from torch import Tensor

from advcal import _batches, _checks
from advcal._logits import log_odds, masked, rivals
from advcal._typing import Bounds, Loss, Model, Norm
from advcal.attacks._apgd_sparse import climb_in_phases, normal_around
from advcal.attacks._balls import Ball, ball, each_of
from advcal.attacks._gradient import (
    LOSSES,
    Best,
    Goal,
    Point,
    climb,
    goal_of,
    logits_at,
    select,
)
from advcal.losses import dlr

_MOMENTUM = 0.75  # the share of the new step; the rest repeats the last one
_FIRST_STEP = {"linf": 2.0, "l2": 2.0, "l1": 1.0}  # in radii


def apgd(
    model: Model,
    inputs: Tensor,
    labels: Tensor,
    *,
    eps: float | Tensor,
    norm: Norm = "linf",
    steps: int = 100,
    restarts: int = 1,
    random_start: bool = True,
    start: Tensor | None = None,
    rho: float = 0.75,
    loss: str | Loss = "cross_entropy",
    targeted: bool = False,
    n_targets: int = 0,
    stop_early: bool = False,
    variant: Literal["halving", "sparse"] = "halving",
    bounds: Bounds = (0.0, 1.0),
    generator: torch.Generator | None = None,
) -> Tensor:
    r"""Climb the loss in steps that halve their length whenever progress stalls (Auto-PGD).

    $z = \Pi(x_t + \eta\,s(\nabla_x L(f(x_t), y)))$ and
    $x_{t+1} = \Pi(x_t + \frac34 (z - x_t) + \frac14 (x_t - x_{t-1}))$ with $\eta = 2\varepsilon$ at
    first. At checkpoints, ever closer, an example halves its $\eta$ and goes back to its point of
    highest loss if fewer than a share `rho` of the steps since the last checkpoint raised the loss,
    or if neither $\eta$ nor the highest loss has changed since. In `l1` the step is that of
    `advcal.attacks.l1` and $\eta = \varepsilon$ at first.

    Returns, per example, the best of all points seen: one that fools the model before one that does
    not, then the one of higher loss. A restart makes `steps + 1` forward and `steps` backward
    passes.

    `variant="sparse"` is APGD as published for `l1`, and stronger there. A step changes two thirds
    as many entries as the highest point has changed, all by as much, and is long again where that
    number falls. The first three tenths of the steps climb in a ball of three radii, the next in
    one of two, and each part goes on from the highest point of the one before; only what is within
    `eps` counts. A restart makes up to `steps + 3` forward passes, and `rho` has no use.

    With `n_targets` the attack runs once for each of the wrong classes that the model finds most
    likely at the inputs, one more forward pass, and raises the loss that leads from the label to
    that class. Whatever wrong class it reaches counts.

    Args:
        model: Inputs `(n, ...)` to logits `(n, classes)`.
        inputs: The inputs within `bounds`, shape `(n, ...)`.
        labels: Integer labels, shape `(n,)`; the classes to reach if `targeted`.
        eps: The radius, in units of `inputs`: a number, or one for each example, shape `(n,)`.
        norm: `"linf"`, `"l2"` or `"l1"`.
        steps: The number of steps.
        restarts: How many times to start; more than one needs `random_start`.
        random_start: Whether to start at a random point of the ball instead of at the input.
        start: Where to start instead, such as what another attack found: the shape and device of
            `inputs`. It is projected on the ball, in the sparse variant on that of three radii, and
            on the ball for one more look, which counts. Further restarts do without it.
        rho: The share of the steps that must raise the loss, from 0 to 1.
        loss: What `pgd` takes: `"cross_entropy"`, `"margin"`, `"dlr"`, `"kl"`, or a callable
            `(logits, labels) -> (n,)`; with `n_targets` one of the first three.
        targeted: Whether to move towards `labels` instead of away from them.
        n_targets: How many wrong classes to aim at, one after the other; no more than there are.
            0 is the plain attack.
        stop_early: Whether an example leaves the batch once it is fooled. Whether each example is
            fooled stays the same.
        variant: `"halving"`, or `"sparse"` for `l1`.
        bounds: The lowest and highest valid value: numbers, tensors that broadcast, or None.
        generator: The source of the random start; a copy of the global one if None.

    Returns:
        Adversarial inputs, of the shape, dtype and device of `inputs`.

    Raises:
        TypeError: If an argument is of the wrong kind or dtype.
        ValueError: If a shape, value or device is wrong, or the model returns NaN.

    Example:
        >>> from advcal.attacks import apgd
        >>> model = lambda inputs: inputs @ torch.tensor([[1.0, -1.0], [0.0, 0.0]])
        >>> apgd(model, torch.tensor([[0.5, 0.5]]), torch.tensor([0]), eps=0.25, steps=5)[:, 0]
        tensor([0.2500])

    References:
        Croce & Hein, Reliable Evaluation of Adversarial Robustness with an Ensemble of Diverse
        Parameter-free Attacks, ICML 2020, algorithm 1 and section 4. Croce & Hein, Mind the Box:
        l1-APGD for Sparse Adversarial Attacks on Image Classifiers, ICML 2021, algorithm 1.
    """
    region = ball(norm, inputs, eps, bounds)
    if restarts > 1 and not random_start:
        raise ValueError(f"expected random_start with restarts > 1, got restarts={restarts}")
    if n_targets and targeted:
        raise ValueError(f"expected n_targets=0 with targeted, got {n_targets}")
    _checks.choice("variant", variant, ("halving", "sparse") if norm == "l1" else ("halving",))
    start = None if start is None else _given(start, region)
    if n_targets:
        goals = _aims(loss, model, inputs, labels, n_targets)
    else:
        goals = [goal_of(loss, model, inputs, labels, targeted)]
    source = generator if random_start else None
    size = each_of(_FIRST_STEP[norm] * region.radius, inputs, inputs.dtype)
    rule = Halving(region, size, {step: rho * since for step, since in _checkpoints(steps)})
    best = Best(inputs, stop=stop_early)
    if start is not None and variant == "sparse" and goals:
        within = region.project(start)  # which phases in larger balls may leave for good
        logits = logits_at(model, within)
        best.offer(within, goals[0].reached(logits), goals[0](logits))
    for goal in goals:
        for points in _starts(region, start, restarts, variant, source):
            if variant == "sparse":
                climb_in_phases(model, points, region, goal, steps, best)
            else:
                climb(model, points, goal, rule, steps, best)
    return best.points


def _given(start: Tensor, region: Ball) -> Tensor:
    """Check points to start at and copy them."""
    _checks.like_inputs(region.centre, start=start)
    if not _checks.recording() and not bool(start.isfinite().all()):
        raise ValueError("expected start without NaN and infinities, got some")
    return _batches.copied(start).to(region.centre.dtype)


def _starts(
    region: Ball,
    start: Tensor | None,
    restarts: int,
    variant: str,
    generator: torch.Generator | None,
) -> Iterator[Tensor]:
    """Yield where each of the restarts begins."""
    for restart in range(restarts):
        if start is not None and restart == 0:
            yield start if variant == "sparse" else region.project(start)
        elif generator is None:
            yield region.centre
        elif variant == "sparse":
            yield normal_around(region, generator)
        else:
            yield region.random_point(generator)


@dataclass(frozen=True, eq=False)
class Halving:
    """The rule of steps with momentum whose length is halved at checkpoints."""

    region: Ball
    size: Tensor
    least_rises: dict[int, float]  # at the checkpoints
    taken: int = 0
    state: "_State | None" = None

    def step(self, points: Tensor, seen: Point) -> tuple[Tensor, Self]:
        """Record what was found, halve what did not pay, and step."""
        if self.state is None:
            highest = torch.where(seen.losses.isnan(), -torch.inf, seen.losses)
            rises = torch.zeros_like(seen.losses, dtype=torch.int64)
            state = _State(
                points, points, seen.losses, seen.gradient,
                rises, rises > 0, highest, highest, points, seen.gradient,
            )  # fmt: skip
        else:
            state = self.state.arrived(points, seen.losses, seen.gradient)
        size = self.size
        if self.taken in self.least_rises:
            state = state.checked(self.least_rises[self.taken])
            size = torch.where(state.halved, size / 2, size)
        region, points = self.region, state.points
        there = region.project(region.ascend(points, state.gradient, size))
        if self.taken:
            new = (there - points).mul_(_MOMENTUM)
            last = (points - state.before).mul_(1 - _MOMENTUM)
            there = region.project(new.add_(points).add_(last))
        return there, replace(self, size=size, taken=self.taken + 1, state=state)


@dataclass(frozen=True, eq=False)
class _State:
    """Where each example stands, shapes `(n,)` and `(n, ...)`."""

    points: Tensor
    before: Tensor
    losses: Tensor
    gradient: Tensor
    rises: Tensor
    halved: Tensor  # at the last checkpoint
    was_highest: Tensor  # at the last checkpoint
    highest: Tensor
    top: Tensor
    top_gradient: Tensor

    def arrived(self, points: Tensor, losses: Tensor, gradient: Tensor) -> "_State":
        """Record what was found where the step led."""
        higher = losses > self.highest
        return replace(
            self,
            points=points,
            before=self.points,
            losses=losses,
            gradient=gradient,
            rises=self.rises + (losses > self.losses),
            highest=torch.where(higher, losses, self.highest),
            top=select(higher, points, self.top),
            top_gradient=select(higher, gradient, self.top_gradient),
        )

    def checked(self, least_rises: float) -> "_State":
        """Tell which examples the step did not pay for, and go back to the highest loss there."""
        stuck = ~self.halved & (self.highest == self.was_highest)
        halved = (self.rises < least_rises) | stuck
        return replace(
            self,
            points=select(halved, self.top, self.points),
            losses=torch.where(halved, self.highest, self.losses),
            gradient=select(halved, self.top_gradient, self.gradient),
            rises=torch.zeros_like(self.rises),
            halved=halved,
            was_highest=self.highest,
        )


def _checkpoints(steps: int) -> list[tuple[int, int]]:
    """Return the published checkpoints, each with the number of steps since the one before."""
    found, last, percent, stride = [], 0, 22, 22
    while percent < 100:
        step = -(-percent * steps // 100)  # rounded up, without the error of a fraction
        if step > last:
            found.append((step, step - last))
        stride = max(stride - 3, 6)
        last, percent = step, percent + stride
    return found


def _aims(
    loss: str | Loss, model: Model, inputs: Tensor, labels: Tensor, n_targets: int
) -> list[Goal]:
    """Make one goal for each of the most likely wrong classes."""
    if callable(loss) or loss == "kl":
        raise ValueError(
            "expected loss 'cross_entropy', 'margin' or 'dlr' with n_targets, "
            f"got {loss if isinstance(loss, str) else 'a callable'}"
        )
    _checks.choice("loss", loss, LOSSES)
    logits = logits_at(model, inputs)
    _checks.label_range(labels, logits.shape[1])
    n_classes = int((~masked(logits)).sum(dim=1).max())
    others = rivals(logits, labels, min(n_targets, max(n_classes - 1, 0))).unbind(dim=1)
    targets = [_checks.note(each, ends=(0, logits.shape[1] - 1)) for each in others]
    towards = {"cross_entropy": _to_class, "dlr": _to_class_by_dlr, "margin": _to_class_by_margin}
    return [Goal(towards[loss], labels, (labels, target)) for target in targets]


def _to_class(logits: Tensor, given: tuple[Tensor, Tensor]) -> Tensor:
    return -log_odds(logits, given[1])


def _to_class_by_dlr(logits: Tensor, given: tuple[Tensor, Tensor]) -> Tensor:
    return dlr(logits, given[0], targets=given[1], reduction="none")


def _to_class_by_margin(logits: Tensor, given: tuple[Tensor, Tensor]) -> Tensor:
    label, target = logits.gather(1, torch.stack(given, dim=1)).unbind(dim=1)
    return target - label
