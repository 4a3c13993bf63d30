"""The foot of the perpendicular: the nearest point of the decision boundary in few passes."""

import sys

import torch
from torch import Tensor

from advcal import _checks
from advcal._logits import lift, masked, rivals
from advcal._typing import Bounds, Model, Progress
from advcal.attacks._balls import free, norm, per_example
from advcal.attacks._gradient import gradient_at, logits_at, select, slope_of
from advcal.attacks._nearest import Box, Nearest, corner, dot, steady, unit
from advcal.attacks._norms import ways
from advcal.attacks._shown import shown

_OVERSHOOT = (1e-4, 0.1)  # the least and the most, relative to the distance
_SETTLED = 3e-3  # the overshoot to go on with once an example has been fooled
_RELAXATION = 0.01  # the least
_NEWTON = 3  # iterations of Newton along a ray that the box may bend: no pass of the model
_FAR = 1e3  # how far a ray goes at most without bounds, in units of the distance sought


def foot(
    model: Model,
    inputs: Tensor,
    labels: Tensor,
    *,
    steps: int = 40,
    candidates: int = 3,
    targeted: bool = False,
    bounds: Bounds = (0.0, 1.0),
    progress: Progress | None = None,
) -> Tensor:
    r"""Find the nearest L2 point beyond the decision boundary, in tens of passes.

    The nearest point $x + \rho u$ of a boundary $m(x') = z_k - z_y = 0$ is the foot of a
    perpendicular: its direction $u$ is the normal $n = \nabla m / \|\nabla m\|_2$ there. That is
    solved as a fixed point. Each step relaxes the direction towards the normal at the last point,
    $u \leftarrow u + \omega (n - u)$, scaled to norm 1, with Aitken's $\omega$ of the last two
    residuals, and goes along it, bent at `bounds`, to where the linearised $m$ is 0. A small
    overshoot, halved if a point fooled the model and doubled if it did not, makes the points
    come down on the far side.

    The steps are shared out: a search for each of the `candidates` classes of the highest other
    logits, from the input, and one that goes on from the nearest point of all. A search changes
    its class when it lands in another. Returns, per example, the nearest of all points that
    fooled the model, the last one among them; an example that is never fooled comes back
    unchanged. Makes `steps + 1` forward and `steps` backward passes.

    The fixed point is the Hasofer-Lind-Rackwitz-Fiessler iteration of structural reliability; the
    relaxation, the overshoot and the shares are this library's.

    Args:
        model: Inputs `(n, ...)` to logits `(n, classes)`.
        inputs: The inputs within `bounds`, shape `(n, ...)`.
        labels: Integer labels, shape `(n,)`; the classes to reach if `targeted`.
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
        >>> from advcal.attacks import foot
        >>> model = lambda inputs: (inputs - 0.25) @ torch.tensor([[1.0, -1.0], [0.0, 0.0]])
        >>> adversarial = foot(model, torch.tensor([[0.5, 0.5]]), torch.tensor([0]))
        >>> print(f"{(adversarial - torch.tensor([[0.5, 0.5]])).norm():.4f}")
        0.2500

    References:
        Rackwitz & Fiessler, Structural reliability under combined random load sequences, Computers
        & Structures 1978. Irons & Tuck, A version of the Aitken accelerator for computer iteration,
        International Journal for Numerical Methods in Engineering 1969.
    """
    with shown(model, progress, len(inputs), steps + 1) as model:
        search = _Search(model, inputs, labels, targeted, bounds)
        share, begun = 0 if targeted else steps // (candidates + 1), 0
        while share and begun < min(candidates, search.most_others):
            search.begin(begun)
            for _ in range(share):
                search.step()
            steps, begun = steps - share, begun + 1
        search.resume(search.n_others >= begun)
        for _ in range(steps):
            search.step()
        search.nearest.see(search.points, logits_at(model, search.points))
        return search.nearest.points


class _Search:
    """Where the search for the foot stands, per example."""

    points: Tensor  # where the model is looked at next
    direction: Tensor  # the unit vectors from the inputs to them; zero if there is none yet
    rivals: Tensor  # the classes whose boundary is sought; -1 for that of the rank
    rank: Tensor  # among the other classes, 0 the highest; less than the width
    width: int
    ways: tuple[Tensor, Tensor]  # between what directions are clamped
    overshoot: Tensor  # relative to the distance
    relaxation: Tensor
    residual: Tensor  # the last normal less the last direction; NaN if there is none yet

    def __init__(
        self, model: Model, inputs: Tensor, labels: Tensor, targeted: bool, bounds: Box
    ) -> None:
        self.model, self.inputs, self.labels = model, inputs, labels
        self.targeted, self.bounds = targeted, bounds
        self.nearest = Nearest(inputs, labels, targeted=targeted)
        self.origin = lift(inputs)
        self.furthest = norm(corner(self.origin, bounds)).to(self.origin.dtype)
        self.ways = ways(self.origin, bounds, self.origin.dtype)
        self.best_direction = torch.zeros_like(self.origin)
        self.best_rivals = torch.full_like(labels, -1)
        self.most_others = sys.maxsize
        self.n_others = torch.full_like(labels, sys.maxsize)  # than the label, not masked
        self.points, self.direction = inputs, self.best_direction
        self.rivals, self.rank = self.best_rivals, torch.zeros_like(labels)
        self.overshoot = self.relaxation = torch.ones_like(self.furthest)
        self.residual = self.origin

    def begin(self, rank: int) -> None:
        """Search for the class of the highest other logit but `rank`; resume if there is none."""
        self.resume(self.n_others == rank)
        self._set_out(self.n_others > rank, rank)

    def resume(self, rows: Tensor) -> None:
        """Go on from the nearest points, or set out if there is none."""
        self._set_out(rows, 0)
        found = rows & self.nearest.distance.isfinite()
        self.points = select(found, self.nearest.points, self.points)
        self.direction = select(found, self.best_direction, self.direction)
        self.rivals = torch.where(found, self.best_rivals, self.rivals)
        self.overshoot = torch.where(found, _SETTLED, self.overshoot)
        self.relaxation = torch.where(found, 0.5, self.relaxation)

    def _set_out(self, rows: Tensor, rank: int) -> None:
        self.width = rank + 1
        self.points = select(rows, self.inputs, self.points)
        self.direction = select(rows, torch.zeros_like(self.direction), self.direction)
        self.residual = select(rows, torch.full_like(self.residual, torch.nan), self.residual)
        self.rivals, self.rank = (
            self.rivals.masked_fill(rows, -1),
            self.rank.masked_fill(rows, rank),
        )
        self.overshoot = self.overshoot.masked_fill(rows, _OVERSHOOT[1])
        self.relaxation = self.relaxation.masked_fill(rows, 1.0)

    def step(self) -> None:
        """Look at the points, turn towards the normal there and go to the boundary."""
        logits, lead, gradient = gradient_at(self.model, self.points, slope_of(self._lead))
        if self.most_others == sys.maxsize:
            self.most_others = logits.shape[1] - 1
            others = ~masked(logits).scatter(1, self.labels[:, None], True)
            self.n_others = others.sum(dim=1).clamp_min(1)
        fooled, nearer = self.nearest.see(self.points, logits)
        gradient = free(lift(steady(gradient)), self.bounds)
        slope = norm(gradient)
        normal = unit(gradient, slope)
        self._turn(normal)
        self.best_direction = select(nearer, self.direction, self.best_direction)
        self.best_rivals = torch.where(nearer, self.rivals, self.best_rivals)
        if not self.targeted:
            self.rivals = torch.where(fooled, logits.argmax(dim=1), self.rivals)
        self.overshoot *= torch.where(fooled, 0.5, 2.0)
        self.overshoot.clamp_(*_OVERSHOOT)
        offset = lift(self.points) - self.origin
        gap = (-lead / slope).to(offset.dtype)
        further = self.overshoot * torch.maximum(norm(offset).to(offset.dtype), gap.abs())
        self._go(normal, dot(normal, offset) + gap + further)

    def _lead(self, logits: Tensor) -> Tensor:
        """Return by how much the logits of the rivals lead, or those of the targets."""
        _checks.label_range(self.labels, logits.shape[1])
        ranked = rivals(logits, self.labels, self.width).gather(1, self.rank[:, None])[:, 0]
        self.rivals = torch.where((self.rivals < 0) | self.targeted, ranked, self.rivals)
        pair = torch.stack([self.rivals, self.labels], dim=1)
        rival, label = logits.gather(1, pair).unbind(dim=1)
        return label - rival if self.targeted else rival - label

    def _turn(self, normal: Tensor) -> None:
        """Relax the direction towards the normal."""
        residual = normal - self.direction
        change = residual - self.residual
        aitken = -self.relaxation * dot(self.residual, change) / dot(change, change)
        first = aitken.isnan()
        self.relaxation = torch.where(first, self.relaxation, aitken.clamp(_RELAXATION, 1))
        none = self.direction.flatten(1).abs().amax(dim=1) == 0
        gap = torch.zeros_like(self.relaxation).masked_fill(none, torch.nan)
        self.residual = residual + per_example(gap, residual)
        turn = per_example(self.relaxation, residual) * residual
        self.direction = unit(self.direction + turn)

    def _go(self, normal: Tensor, goal: Tensor) -> None:
        """Go along the direction, bent at the bounds, until the normal measures the goal."""
        low, high = self.bounds
        # Without bounds there is no corner to end at: then a ray that hardly climbs goes so far.
        limit = torch.where(
            self.furthest.isfinite(), self.furthest, _FAR * goal.nan_to_num(0, 0).clamp_min(0)
        )
        ray = self.direction.clamp(*self.ways)
        product, length = normal * ray, torch.zeros_like(goal)
        for _ in range(_NEWTON):
            straight = (per_example(length, ray) * ray).add_(self.origin)
            bent = straight.clamp(low, high)
            slope = straight.eq_(bent).mul_(product).flatten(1).sum(dim=1)  # of what is not bent
            short = goal - bent.sub_(self.origin).mul_(normal).flatten(1).sum(dim=1)
            length = length + short / slope.clamp_min(torch.finfo(slope.dtype).tiny)
            length = length.nan_to_num(0).clamp_min(0).minimum(limit)
        straight = self.origin + per_example(length, ray) * ray
        self.points = straight.clamp(low, high).to(self.inputs.dtype)
