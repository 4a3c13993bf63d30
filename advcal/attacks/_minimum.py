"""The minimum-norm attack: searches whose every length is a share of the radius at hand."""

import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Literal

import torch
from torch import Tensor

from advcal import _checks
from advcal._logits import lift, masked, rivals
from advcal._typing import Bounds, Model, Progress
from advcal.attacks._balls import Ball, free, per_example
from advcal.attacks._gradient import gradient_at, logits_at, select
from advcal.attacks._nearest import Box, Nearest, corner, lengths, steady, unit
from advcal.attacks._norms import DUAL_ORDERS, ways
from advcal.attacks._shown import shown
from advcal.attacks._sparse import sparsest

_GAMMA = 0.4, 0.001  # by which share the radius changes at the first step of a search, and the last
_BEYOND = 1.0001  # times as far as the linear estimate is the first radius, to end on the far side
_MEMORY = 0.3  # the share of the last direction in the next
_WORTH = 8  # so many steps are worth the look at one more class
_SHORTEST = 12  # steps below which a search for one class alone does not pay
_ROUNDING = 1e-6  # of the length of a step
_QUICK = 3  # steps within which a first search succeeds if the model is smooth around the input


def minimum_norm(
    model: Model,
    inputs: Tensor,
    labels: Tensor,
    *,
    norm: Literal["linf", "l2", "l1", "l0"] = "linf",
    steps: int = 100,
    candidates: int = 3,
    targeted: bool = False,
    bounds: Bounds = (0.0, 1.0),
    progress: Progress | None = None,
) -> Tensor:
    r"""Find a perturbation of least norm that changes the prediction, in linf, L2, L1 or L0.

    $\min \|\delta\|$ such that $\arg\max f(x + \delta) \ne y$. A search follows the boundary with a
    ball, as `fmn` does: it climbs the lead of another class,
    $\delta \leftarrow \Pi_\varepsilon(\delta + a_t \varepsilon\,s(h_t))$, with a moving average
    $h_t$ of the unit gradients of $z_k - z_y$, and makes the radius $\varepsilon$ smaller if the
    last point fooled the model and larger if it did not; until a first success $\varepsilon$ is at
    least the linear estimate $\|\delta\| + |z_k - z_y| / \|\nabla(z_k - z_y)\|_*$. What differs is
    that steps are measured in radii: nothing depends on the units of the inputs, on the scale of
    the logits or on bounds that do not bind. Steps are signs in `linf` and unit vectors in `l2` and
    `l1`, projected on the ball and the bounds; $a_t$ falls by a cosine.

    In `linf` and `l2` the first steps, one for each of the `candidates` classes of the highest
    other logits, look at the input alone, and the search starts towards the class that is nearest
    by the linear estimate. After a success, or three steps, it goes towards whatever class leads.
    If there are enough steps, and in `l1`, half of all are shared by searches that start towards
    each of these classes; the others go on from the nearest point of all. An example whose first
    search takes long to succeed stays with that one search: its gradients say little from afar.
    Besides the first, one candidate is taken for every eight steps.

    `l0` counts the entries that change, channels apart, and has searches of its own, for finite
    bounds only. The first sets the entries that gain most, by a moving average of gradients, to
    the ends of their ranges, as many as the radius says. From 80 steps on it has half of them and
    sigma-zero, in units of the ranges, the other half. `candidates` are of no use there.

    Returns, per example, the nearest of all points that fooled the model, the last one among them;
    an example that is never fooled comes back unchanged. Makes `steps + 1` forward and `steps`
    backward passes.

    Args:
        model: Inputs `(n, ...)` to logits `(n, classes)`.
        inputs: The inputs within `bounds`, shape `(n, ...)`.
        labels: Integer labels, shape `(n,)`; the classes to reach if `targeted`.
        norm: `"linf"`, `"l2"`, `"l1"` or `"l0"`.
        steps: The number of steps.
        candidates: To how many classes searches start; of no use if `targeted`.
        targeted: Whether to reach `labels` instead of leaving them.
        bounds: The lowest and highest valid value: numbers, tensors that broadcast, or None.
        progress: A wrapper of an iterable that shows progress, such as `tqdm.tqdm`: over the
            examples times the calls of the model.

    Returns:
        Adversarial inputs, of the shape, dtype and device of `inputs`.

    Raises:
        TypeError: If an argument is of the wrong kind or dtype.
        ValueError: If a shape, value or device is wrong, or the model returns NaN.

    Example:
        >>> from advcal.attacks import minimum_norm
        >>> model = lambda inputs: (inputs - 0.25) @ torch.tensor([[1.0, -1.0], [0.0, 0.0]])
        >>> inputs, labels = torch.tensor([[0.5, 0.5]]), torch.tensor([0])
        >>> adversarial = minimum_norm(model, inputs, labels, norm="l2")
        >>> print(f"{(adversarial - inputs).norm():.3f}")
        0.250

    References:
        Pintor et al., Fast Minimum-norm Adversarial Attacks through Adaptive Norm Constraints,
        NeurIPS 2021, algorithm 1, whose radius this is. Cinà et al., sigma-zero: Gradient-based
        Optimization of l0-norm Adversarial Examples, ICLR 2025, algorithm 1. Steps in radii, the
        averages, the candidates and the first search in L0 are this library's.
    """
    with shown(model, progress, len(inputs), steps + 1) as model:
        nearest = Nearest(inputs, labels, norm=norm, targeted=targeted)
        if norm == "l0":
            return sparsest(model, nearest, bounds, steps)
        n_classes = 1 if targeted else min(candidates, 1 + steps // _WORTH)
        search = _Search(model, nearest, bounds, steps, n_classes)
        share = steps // 2 // n_classes
        if n_classes == 1 or share < (_SHORTEST if search.rule.ranking else 1):
            search.run(steps - search.compare(steps))
        else:
            search.run_several(steps, share)
        nearest.see(search.points, logits_at(model, search.points))
        return nearest.points


def from_the_input(
    model: Model, inputs: Tensor, labels: Tensor, *, towards: Tensor, steps: int, bounds: Bounds
) -> Tensor:
    """Make one search in L2, which starts towards a class for each example, `towards`.

    After a success, or three steps, it goes towards whatever class leads. So it may end at any
    class, and what that class decides is by which way. Makes `steps + 1` forward and `steps`
    backward passes.
    """
    nearest = Nearest(inputs, labels)
    search = _Search(model, nearest, bounds, steps, 1)
    search.begun, search.ranked, search.share = True, towards[:, None], steps
    search.run(steps)
    nearest.see(search.points, logits_at(model, search.points))
    return nearest.points


@dataclass(frozen=True)
class _Rule:
    """How a search steps in a norm.

    Attributes:
        ranking: Whether linear estimates at the inputs rank the other classes: in L1 they hang on
            one entry of each gradient, the largest, and short searches tell more.
        sizes: The lengths of the first step and of the last, in radii.
        settled: The same when a search goes on from the nearest point.
        anneal: The lengths, and how far it is from the first to the last, to the length.
        step: Origin, offset, gradient, length in radii, radius and bounds to the next point.
        patience: With fewer steps than these in all, first lengths are shorter in proportion, down
            to a third.
    """

    ranking: bool
    sizes: tuple[float, float]
    settled: tuple[float, float]
    anneal: Callable[[Tensor, Tensor, Tensor], Tensor]
    step: Callable[[Tensor, Tensor, Tensor, Tensor, Tensor, Box], Tensor]
    patience: int = 0

    def shorter(self, steps: int) -> "_Rule":
        """Return the rule for so many steps."""
        part = min(1.0, max(1 / 3, steps / self.patience)) if self.patience else 1.0
        sizes, settled = ((part * first, last) for first, last in (self.sizes, self.settled))
        return replace(self, sizes=sizes, settled=settled)


def _evenly(first: Tensor, last: Tensor, share: Tensor) -> Tensor:
    return first + (last - first) * share


def _in_proportion(first: Tensor, last: Tensor, share: Tensor) -> Tensor:
    return first * (last / first) ** share


def _in_a_cube(
    origin: Tensor, offset: Tensor, gradient: Tensor, size: Tensor, eps: Tensor, box: Box
) -> Tensor:
    side = per_example(eps, offset).to(offset.dtype)
    step = per_example(size * eps, offset).to(offset.dtype) * gradient.sign()
    return (origin + (offset + step).clamp(-side, side)).clamp(*box)


def _towards(origin: Tensor, offset: Tensor, gradient: Tensor, length: Tensor, box: Box) -> Tensor:
    """Move along the gradient, leaving out what would lead out of the box at once."""
    step = per_example(length, offset).to(offset.dtype)
    sides = ways(origin + offset, box, gradient.dtype, _ROUNDING * step)
    return offset + step * unit(gradient.clamp(*sides))


def _in_a_sphere(
    origin: Tensor, offset: Tensor, gradient: Tensor, size: Tensor, eps: Tensor, box: Box
) -> Tensor:
    offset = _towards(origin, offset, gradient, size * eps, box)
    shorter = (eps / lengths(offset)).nan_to_num(1.0).clamp_max(1)
    return (origin + per_example(shorter, offset).to(offset.dtype) * offset).clamp(*box)


def _in_a_diamond(
    origin: Tensor, offset: Tensor, gradient: Tensor, size: Tensor, eps: Tensor, box: Box
) -> Tensor:
    offset = _towards(origin, offset, gradient, size * eps, box)
    return Ball.norms["l1"](origin, eps, box).project(origin + offset)


_RULES = {
    "linf": _Rule(True, (2.0, 0.02), (1.0, 0.01), _evenly, _in_a_cube),
    "l2": _Rule(True, (10.0, 0.1), (3.0, 0.01), _in_proportion, _in_a_sphere),
    "l1": _Rule(False, (3.0, 0.01), (1.0, 0.01), _in_proportion, _in_a_diamond, patience=120),
}


class _Search:
    """Where the search of each example stands."""

    points: Tensor  # where the model is looked at next
    eps: Tensor  # the radius
    found: Tensor  # the distance of the nearest success of this search
    heading: Tensor  # a moving average of unit gradients
    rank: Tensor  # of the class that is sought, among the others; -1 for whichever leads
    taken: Tensor  # steps of this search
    length: Tensor  # of this search, in steps
    sizes: tuple[Tensor, Tensor]  # of the first step and the last
    quick: Tensor  # whether the first search succeeded at once
    ranked: Tensor  # the other classes, the highest logit first, later the nearest
    n_others: Tensor  # than the label, not masked
    share: int  # the length of the first search if it succeeds at once

    def __init__(self, model: Model, nearest: Nearest, box: Box, steps: int, n_ranked: int) -> None:
        self.model, self.nearest, self.box, self.steps = model, nearest, box, steps
        self.n_ranked, self.rule = n_ranked, _RULES[nearest.norm].shorter(steps)
        self.origin = lift(nearest.inputs)
        self.furthest = lengths(corner(self.origin, box), nearest.norm)
        self.points, self.eps = nearest.inputs, torch.zeros_like(self.furthest)
        self.found, self.taken = torch.full_like(self.eps, torch.inf), torch.zeros_like(self.eps)
        self.length, self.rank = self.taken + steps, torch.zeros_like(nearest.labels)
        self.sizes = self.taken + self.rule.sizes[0], self.taken + self.rule.sizes[1]
        self.heading = torch.zeros_like(self.origin)
        self.quick = torch.zeros_like(nearest.labels, dtype=torch.bool)
        self.begun = False

    def compare(self, share: int) -> int:
        """Look at the inputs for each class, step to the nearest; return how many steps it took."""
        logits, lead, gradient = self._look()
        every = [self._estimate(lead, gradient)]
        n = self.n_ranked if self.rule.ranking else 1  # however few classes an example has
        for rank in range(1, n):
            self.rank = self.rank * 0 + rank
            _, other, slope = self._look()
            nearer = (estimate := self._estimate(other, slope)) < torch.stack(every).amin(dim=0)
            lead, gradient = torch.where(nearer, other, lead), select(nearer, slope, gradient)
            every.append(estimate)
        if n > 1:
            columns = torch.stack(every[: self.ranked.shape[1]], dim=1)
            order = columns.argsort(dim=1, stable=True)
            self.ranked, self.rank = self.ranked.gather(1, order), self.rank * 0
        self.length = self.length - (n - 1)
        self.share = min(share, self.steps - (n - 1))
        self._move(logits, lead, gradient)
        return n

    def _estimate(self, lead: Tensor, gradient: Tensor) -> Tensor:
        """Estimate how far the class is, by the linearised model."""
        distance = lead.abs() / lengths(gradient, self.nearest.norm, DUAL_ORDERS)
        return distance.nan_to_num(torch.inf, posinf=torch.inf)

    def run_several(self, steps: int, share: int) -> None:
        """Search for each class in turn, then go on from the nearest point of all."""
        taken = self.compare(share) + share - 1
        self.run(share - 1)
        for rank in range(1, self.n_ranked):
            self.begin(rank, share)
            self.run(share)
            taken += share
        self._go_on(self.quick, steps - taken)
        self.run(steps - taken)

    def begin(self, rank: int, steps: int) -> None:
        """Search from the input for the class that seemed nearest but `rank`."""
        rows = self.quick & (self.n_others > rank)
        self.points = select(rows, self.nearest.inputs, self.points)
        self.eps = self.eps.masked_fill(rows, 0)
        self.found = self.found.masked_fill(rows, torch.inf)
        self.rank = self.rank.masked_fill(rows, rank)
        self._restart(rows, steps)
        self._go_on(self.quick & ~rows, steps)

    def _go_on(self, rows: Tensor, steps: int) -> None:
        self.points = select(rows, self.nearest.points, self.points)
        self.eps = torch.where(rows, self.nearest.distance, self.eps)
        self.found = torch.where(rows, self.nearest.distance, self.found)
        self.rank = self.rank.masked_fill(rows, -1)
        first, last = self.rule.settled
        self.sizes = self.sizes[0].masked_fill(rows, first), self.sizes[1].masked_fill(rows, last)
        self._restart(rows, steps)

    def _restart(self, rows: Tensor, steps: int) -> None:
        self.taken = self.taken.masked_fill(rows, 0)
        self.length = self.length.masked_fill(rows, steps)
        self.heading = self.heading.masked_fill(per_example(rows, self.heading), 0)

    def run(self, steps: int) -> None:
        """Take steps."""
        for _ in range(steps):
            self._step()

    def _step(self) -> None:
        self._move(*self._look())

    def _look(self) -> tuple[Tensor, Tensor, Tensor]:
        logits, lead, gradient = gradient_at(self.model, self.points, self._slope)
        return logits, lead, free(steady(gradient), self.box)

    def _move(self, logits: Tensor, lead: Tensor, gradient: Tensor) -> None:
        fooled, _ = self.nearest.see(self.points, logits)
        offset = lift(self.points) - self.origin
        reached = lengths(offset, self.nearest.norm)
        self.found = torch.where(fooled, self.found.minimum(reached), self.found)
        at_once = fooled & (self.rank == 0) & (self.taken < _QUICK)
        self.length = torch.where(at_once & ~self.quick, self.share, self.length)
        self.quick = self.quick | at_once
        self.rank = self.rank.masked_fill(fooled | (self.taken >= _QUICK), -1)
        share = (1 - torch.cos(math.pi * self.taken / self.length)) / 2
        gamma = _GAMMA[0] + (_GAMMA[1] - _GAMMA[0]) * share
        estimate = reached + _BEYOND * lead.abs() / lengths(
            gradient, self.nearest.norm, DUAL_ORDERS
        )
        grown = self.eps * (1 + gamma)
        blind = torch.where(self.furthest.isfinite(), self.furthest, grown)
        first = torch.where(estimate.isfinite(), grown.maximum(estimate), blind)
        grown = torch.where(self.found.isfinite(), grown, first)
        shrunk = (self.eps * (1 - gamma)).minimum(self.found)
        self.eps = torch.where(fooled, shrunk, grown).minimum(self.furthest)
        size = self.rule.anneal(*self.sizes, share)
        self.heading = _MEMORY * self.heading + (1 - _MEMORY) * unit(gradient)
        points = self.rule.step(self.origin, offset, self.heading, size, self.eps, self.box)
        self.points, self.taken = points.to(self.nearest.inputs.dtype), self.taken + 1

    def _slope(self, logits: Tensor) -> tuple[Tensor, Tensor]:
        """Return by how much the class that is sought leads, and the gradient of that."""
        labels = self.nearest.labels
        _checks.label_range(labels, logits.shape[1])
        if not self.begun:
            self.begun, self.ranked = True, rivals(logits, labels, self.n_ranked)
            others = ~masked(logits).scatter(1, labels[:, None], True)
            self.n_others = others.sum(dim=1).clamp_min(1)
        leading = rivals(logits, labels, 1)[:, 0]
        ranked = self.ranked.gather(1, self.rank.clamp(0, self.ranked.shape[1] - 1)[:, None])[:, 0]
        sought = torch.where(self.rank < 0, leading, ranked)
        up, down = (labels, leading) if self.nearest.targeted else (sought, labels)
        pair = torch.stack([up, down], dim=1)
        ahead, behind = logits.gather(1, pair).unbind(dim=1)
        slope = torch.zeros_like(logits).scatter_(1, pair[:, 1:], -1).scatter_(1, pair[:, :1], 1)
        return ahead - behind, slope
