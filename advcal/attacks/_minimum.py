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
from advcal.attacks._norms import DUAL_ORDERS
from advcal.attacks._shown import shown
from advcal.attacks._sparse import sparsest

_GAMMA = 0.2, 0.001  # by which share the radius changes at the first step of a search, and the last
_BEYOND = 1.0001  # times as far as the linear estimate is the first radius, to end on the far side
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
    $\delta \leftarrow \Pi_\varepsilon(\delta + a_t \varepsilon\,s(\nabla(z_k - z_y)))$, and makes
    the radius $\varepsilon$ smaller where the last point fooled the model and larger where it did
    not; until a first success $\varepsilon$ is at least the linear estimate
    $\|\delta\| + |z_k - z_y| / \|\nabla(z_k - z_y)\|_*$. What differs is that steps are measured in
    radii: nothing depends on the units of the inputs, on the scale of the logits or on bounds that
    do not bind. Steps are signs in `linf` and unit gradients in `l2` and `l1`, projected on the
    ball and the bounds; $a_t$ falls by a cosine.

    Half of the steps are shared by searches for each of the `candidates` classes of the highest
    other logits, each from the input; the others go on from the nearest point of all, towards
    whatever class leads. An example whose first search takes long to succeed stays with that one
    search: its gradients say little from afar.

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
        candidates: How many classes have a search of their own; of no use if `targeted`.
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
        shares and the first search in L0 are this library's.
    """
    with shown(model, progress, len(inputs), steps + 1) as model:
        nearest = Nearest(inputs, labels, norm=norm, targeted=targeted)
        if norm == "l0":
            return sparsest(model, nearest, bounds, steps)
        n_searches = 1 if targeted else candidates
        share = steps // 2 // n_searches if n_searches > 1 else 0
        search = _Search(model, nearest, bounds, steps, n_searches if share else 1)
        for rank in range(n_searches if share else 0):
            search.begin(rank, share)
            search.run(share)
        if share:
            search.resume(steps - n_searches * share)
        search.run(steps - n_searches * share)
        nearest.see(search.points, logits_at(model, search.points))
        return nearest.points


@dataclass(frozen=True)
class _Rule:
    """How a search steps in a norm.

    Attributes:
        sizes: The lengths of the first step and of the last, in radii.
        settled: The same when a search goes on from the nearest point.
        anneal: The lengths, and how far it is from the first to the last, to the length.
        step: Origin, offset, gradient, length in radii, radius and bounds to the next point.
        patience: With fewer steps than these in all, first lengths are shorter in proportion, down
            to a third.
    """

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
    points, near = origin + offset, _ROUNDING * step  # a projection may end just short of a bound
    full = (gradient > 0) & (points + near >= box[1])
    empty = (gradient < 0) & (points - near <= box[0])
    return offset + step * unit(gradient.masked_fill(full | empty, 0))


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
    "linf": _Rule((2.0, 0.02), (1.0, 0.01), _evenly, _in_a_cube),
    "l2": _Rule((10.0, 0.1), (3.0, 0.01), _in_proportion, _in_a_sphere),
    "l1": _Rule((3.0, 0.01), (1.0, 0.01), _in_proportion, _in_a_diamond, patience=120),
}


class _Search:
    """Where the search of each example stands."""

    points: Tensor  # where the model is looked at next
    eps: Tensor  # the radius
    found: Tensor  # the distance of the nearest success of this search
    rank: Tensor  # of the class that is sought, among the others; -1 for whichever leads
    taken: Tensor  # steps of this search
    length: Tensor  # of this search, in steps
    sizes: tuple[Tensor, Tensor]  # of the first step and the last
    quick: Tensor  # whether the first search succeeded at once
    ranked: Tensor  # the other classes, the highest logit first
    n_others: Tensor  # than the label, not masked

    def __init__(
        self, model: Model, nearest: Nearest, box: Box, steps: int, candidates: int
    ) -> None:
        self.model, self.nearest, self.box, self.steps = model, nearest, box, steps
        self.candidates, self.rule = candidates, _RULES[nearest.norm].shorter(steps)
        self.origin = lift(nearest.inputs)
        self.furthest = lengths(corner(self.origin, box), nearest.norm)
        self.points, self.eps = nearest.inputs, torch.zeros_like(self.furthest)
        self.found, self.taken = torch.full_like(self.eps, torch.inf), torch.zeros_like(self.eps)
        self.length, self.rank = self.taken + steps, torch.full_like(nearest.labels, -1)
        self.sizes = self.taken + self.rule.sizes[0], self.taken + self.rule.sizes[1]
        self.quick = torch.zeros_like(nearest.labels, dtype=torch.bool)
        self.begun = False

    def begin(self, rank: int, steps: int) -> None:
        """Search from the input for the class of the highest other logit but `rank`."""
        if rank == 0:
            self.rank, self.length = self.rank * 0, self.length * 0 + steps
            return
        if rank == 1:  # what was slow goes on with its one search, for whichever class leads
            self.length = torch.where(self.quick, self.length, self.steps)
            self.rank = torch.where(self.quick, self.rank, -1)
        rows = self.quick & (self.n_others > rank)
        self.points = select(rows, self.nearest.inputs, self.points)
        self.eps, self.found = (
            self.eps.masked_fill(rows, 0),
            self.found.masked_fill(rows, torch.inf),
        )
        self.rank = self.rank.masked_fill(rows, rank)
        self._restart(rows, steps)
        self._go_on(self.quick & ~rows, steps)

    def resume(self, steps: int) -> None:
        """Go on from the nearest points."""
        self._go_on(self.quick, steps)

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

    def run(self, steps: int) -> None:
        """Take steps."""
        for _ in range(steps):
            self._step()

    def _step(self) -> None:
        logits, lead, gradient = gradient_at(self.model, self.points, self._slope)
        gradient = free(steady(gradient), self.box)
        fooled, _ = self.nearest.see(self.points, logits)
        offset = lift(self.points) - self.origin
        reached = lengths(offset, self.nearest.norm)
        self.found = torch.where(fooled, self.found.minimum(reached), self.found)
        self.quick = self.quick | (fooled & (self.rank == 0) & (self.taken < _QUICK))
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
        points = self.rule.step(self.origin, offset, gradient, size, self.eps, self.box)
        self.points, self.taken = points.to(self.nearest.inputs.dtype), self.taken + 1

    def _slope(self, logits: Tensor) -> tuple[Tensor, Tensor]:
        """Return by how much the class that is sought leads, and the gradient of that."""
        labels = self.nearest.labels
        _checks.label_range(labels, logits.shape[1])
        if not self.begun:
            self.begun, self.ranked = True, rivals(logits, labels, self.candidates)
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
