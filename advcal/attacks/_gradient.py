"""Looks at points, with a gradient and without, and the climb: looks and steps in turn."""

import inspect
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any, NamedTuple, Protocol, Self

import torch
from torch import Tensor

from advcal import _checks, losses
from advcal._frozen import logits_of
from advcal._logits import divergence, lift, log_odds
from advcal._typing import Loss, Model
from advcal.attacks._balls import of_rows

LOSSES = ("cross_entropy", "margin", "dlr")


@dataclass(frozen=True, eq=False)
class Goal:
    """A loss to raise, or to lower if targeted.

    Attributes:
        loss: Logits and what is given to one value per example.
        labels: The labels, shape `(n,)`.
        given: What the loss compares the logits with, one row per example.
        targeted: Whether to reach the labels instead of leaving them.
    """

    loss: Callable[[Tensor, Any], Tensor]
    labels: Tensor
    given: Any
    targeted: bool = False

    def __call__(self, logits: Tensor, rows: Tensor | None = None) -> Tensor:
        """Return what to raise of logits `(m, classes)` of the examples `rows`; of all if None."""
        _checks.label_range(at(self.labels, rows), logits.shape[1])
        values = self.loss(logits, self.given if rows is None else of_rows(self.given, rows))
        values = _checks.losses(values, len(logits))
        return -values if self.targeted else values

    def reached(self, logits: Tensor, rows: Tensor | None = None) -> Tensor:
        """Tell which of the examples are fooled."""
        return (logits.argmax(dim=1) == at(self.labels, rows)) == self.targeted


def goal_of(
    loss: str | Loss, model: Model, inputs: Tensor, labels: Tensor, targeted: bool = False
) -> Goal:
    """Make what an attack raises of a loss, by name or a callable.

    `"kl"` compares with what the model says of the inputs, which takes a forward pass. A callable
    that has a `reduction` is asked for `"none"`.
    """
    if loss == "kl":
        clean = logits_at(model, inputs).log_softmax(dim=1)
        return Goal(_from_clean, labels, clean, targeted)
    named = not callable(loss)
    if not callable(loss):
        _checks.choice("loss", loss, [*LOSSES, "kl"])
        loss = log_odds if loss == "cross_entropy" else getattr(losses, loss)
    each: Callable[..., Tensor] = loss
    if _takes_reduction(each):
        each = partial(each, reduction="none")
    return Goal(each if named else _Watched(each, targeted), labels, labels, targeted)


class _Watched:
    """A loss of the user's own, whose first values must be numbers."""

    def __init__(self, loss: Callable[..., Tensor], targeted: bool) -> None:
        self.loss, self.sign, self.begun = loss, -1 if targeted else 1, False

    def __call__(self, logits: Tensor, labels: Tensor) -> Tensor:
        values = self.loss(logits, labels)
        if not self.begun:
            self.begun = True
            _checks.at_start(self.sign * _checks.losses(values, len(logits)), logits)
        return values


def _takes_reduction(loss: Callable[..., Tensor]) -> bool:
    try:
        return "reduction" in inspect.signature(loss).parameters
    except ValueError:  # a builtin without a signature
        return False


def _from_clean(logits: Tensor, clean: Tensor) -> Tensor:
    return divergence(clean, logits.log_softmax(dim=1))


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
        values = _checks.losses(objective(logits), len(inputs))
        _checks.differentiable("losses", values, "the logits")
        (upstream,) = torch.autograd.grad(values.sum(), logits)
        largest = upstream.abs().amax(dim=1, keepdim=True)
        upstream = upstream / torch.where(largest > 0, largest, 1.0)
        gradient = back(output, inputs, upstream.to(output.dtype))
    return Point(logits.detach(), values.detach(), gradient.nan_to_num())


def back(output: Tensor, inputs: Tensor, upstream: Tensor, *, retain: bool = False) -> Tensor:
    """Run a gradient of the output back to the inputs, on which it has to depend."""
    gradients = torch.autograd.grad(
        output, inputs, upstream, retain_graph=retain, allow_unused=True
    )
    if gradients[0] is None:
        _checks.differentiable("logits", output.detach(), "the inputs")
    return gradients[0]


def logits_at(model: Model, inputs: Tensor) -> Tensor:
    """Run the model forward without a gradient, on a copy of the inputs, which it may write to."""
    with torch.no_grad():
        return lift(logits_of(model, inputs.clone()))


class Best:
    """Keep, for each example, the points of the highest score.

    A score is a pair: `first` decides and `second` breaks ties. NaN never wins.
    """

    def __init__(self, points: Tensor) -> None:
        self.points = points.clone()
        self.first = points.new_full((len(points),), -torch.inf, dtype=torch.float64)
        self.second = self.first.clone()

    def offer(
        self, points: Tensor, first: Tensor, second: Tensor, rows: Tensor | None = None
    ) -> Tensor:
        """Take the points that score higher and return which did, shape `(n,)`.

        Args:
            points: One point for each example, or for each of `rows`.
            first: What decides, one value per point.
            second: What breaks ties.
            rows: The indices of the examples that the points belong to; all if None.
        """
        first, second = first.double(), second.double().nan_to_num(nan=-torch.inf, posinf=torch.inf)
        held, held_second = at(self.first, rows), at(self.second, rows)
        better = (first > held) | ((first == held) & (second > held_second))
        if rows is None:
            self.first = torch.where(better, first, self.first)
            self.second = torch.where(better, second, self.second)
            self.points = select(better, points, self.points)
        else:
            won = rows[better]
            self.first[won], self.second[won] = first[better], second[better]
            self.points[won] = points[better]
        return better


class Rule(Protocol):
    """How a climb steps: a frozen dataclass whose tensors have one row per example."""

    def step(self, points: Tensor, seen: Point) -> tuple[Tensor, Self]:
        """Return the next points, and the rule for the step after."""
        ...


def climb(
    model: Model,
    points: Tensor,
    goal: Goal,
    rule: Rule,
    steps: int,
    best: Best | None = None,
    *,
    stop_early: bool = False,
) -> Tensor:
    """Look and step by a rule, in turn, and return the last points.

    The best is offered all points, the last too, which takes one more look. With `stop_early` only
    what has not fooled the model yet climbs.
    """
    rows = None
    if best is not None and stop_early:
        rows = (best.first < 1).nonzero()[:, 0]
        points, rule = points[rows], of_rows(rule, rows)
    for _ in range(steps if len(points) else 0):
        seen = gradient_at(model, points, partial(goal, rows=rows))
        reached, rule = rule.step(points, seen)
        if best is not None:
            fooled = goal.reached(seen.logits, rows)
            best.offer(points, fooled, seen.losses, rows)
            if rows is not None and fooled.any():
                left = (~fooled).nonzero()[:, 0]
                rows, reached, rule = rows[left], reached[left], of_rows(rule, left)
        points = reached
        if not len(points):
            return points
    if best is not None and len(points):
        logits = logits_at(model, points)
        best.offer(points, goal.reached(logits, rows), goal(logits, rows), rows)
    return points


def select(condition: Tensor, yes: Tensor, no: Tensor) -> Tensor:
    """Choose per example: `condition` has shape `(n,)`, the rest `(n, ...)`."""
    return torch.where(condition.reshape(-1, *[1] * (yes.ndim - 1)), yes, no)


def at(values: Tensor, rows: Tensor | None) -> Tensor:
    """Take the values of some examples; all of them if `rows` is None."""
    return values if rows is None else values[rows]
