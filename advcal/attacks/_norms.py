"""The balls of each norm: how to project, which way is steepest, how to draw a point."""

from functools import cached_property
from typing import Any

import torch
from torch import Tensor

from advcal import _batches, _checks
from advcal._logits import lift
from advcal._random import draw
from advcal._sums import exact, wide
from advcal._typing import Bounds
from advcal.attacks._balls import (
    Ball,
    ball,
    free,
    free_to_read,
    laid_out,
    norm,
    per_example,
    times,
)
from advcal.attacks._gradient import select
from advcal.attacks._thresholds import gathered, spent, taken_at_least, taken_off

# A projection in L1 gathers the changed coordinates up to this share of all, and never so many
# that they are not sorted: what is found must not depend on the neighbours in the table.
_SHARE, _MOST = 1 / 4, 448


def linf(inputs: Tensor, *, eps: float | Tensor, bounds: Bounds = (0.0, 1.0)) -> Ball:
    r"""Make the balls $\|x' - x\|_\infty \le \varepsilon$ within the bounds.

    No point inside is further off than `eps`, not even by rounding.

    Args:
        inputs: The centres, shape `(n, ...)`, within `bounds`.
        eps: The radius, in units of `inputs`: a number, or one for each input, shape `(n,)`.
        bounds: The lowest and highest valid value: numbers, tensors that broadcast, or None.

    Returns:
        The balls.

    Raises:
        TypeError: If an argument is of the wrong kind or dtype.
        ValueError: If a shape or value is wrong.

    Example:
        >>> ball = linf(torch.tensor([[0.5, 0.0]]), eps=0.25)
        >>> ball.project(torch.tensor([[1.0, -1.0]]))
        tensor([[0.7500, 0.0000]])
    """
    return _of_inputs("linf", inputs, eps, bounds)


def l2(inputs: Tensor, *, eps: float | Tensor, bounds: Bounds = (0.0, 1.0)) -> Ball:
    r"""Make the balls $\|x' - x\|_2 \le \varepsilon$ within the bounds.

    A projection goes to the box first and then along the line to the centre.

    Args:
        inputs: The centres, shape `(n, ...)`, within `bounds`.
        eps: The radius, in units of `inputs`: a number, or one for each input, shape `(n,)`.
        bounds: The lowest and highest valid value: numbers, tensors that broadcast, or None.

    Returns:
        The balls.

    Raises:
        TypeError: If an argument is of the wrong kind or dtype.
        ValueError: If a shape or value is wrong.

    Example:
        >>> ball = l2(torch.tensor([[0.5, 0.5]]), eps=0.5)
        >>> ball.project(torch.tensor([[0.8, 0.9]]))
        tensor([[0.8000, 0.9000]])
    """
    return _of_inputs("l2", inputs, eps, bounds)


def l1(inputs: Tensor, *, eps: float | Tensor, bounds: Bounds = (0.0, 1.0)) -> Ball:
    r"""Make the balls $\|x' - x\|_1 \le \varepsilon$ within the bounds.

    A projection is onto ball and box together: one after the other would lose much of the radius.

    Args:
        inputs: The centres, shape `(n, ...)`, within `bounds`.
        eps: The radius, the sum of all changes: a number, or one for each input, shape `(n,)`.
        bounds: The lowest and highest valid value: numbers, tensors that broadcast, or None.

    Returns:
        The balls.

    Raises:
        TypeError: If an argument is of the wrong kind or dtype.
        ValueError: If a shape or value is wrong.

    Example:
        >>> ball = l1(torch.tensor([[0.5, 0.75]]), eps=0.5)
        >>> ball.project(torch.tensor([[0.75, 1.75]]))
        tensor([[0.7500, 1.0000]])

    References:
        Croce & Hein, Mind the Box: l1-APGD for Sparse Adversarial Attacks, ICML 2021, section 2.
    """
    return _of_inputs("l1", inputs, eps, bounds)


def _of_inputs(name: str, inputs: Tensor, eps: float | Tensor, bounds: Bounds) -> Ball:
    """Make the balls of a norm around inputs that are finite and within the bounds."""
    none = torch.zeros(len(_batches.inputs(inputs)), dtype=torch.int64, device=inputs.device)
    inputs, _, box = _batches.attack_inputs(inputs, _checks.note(none, ends=(0, 0)), bounds)
    return ball(name, inputs, _batches.radius(eps, inputs), box)


class _Linf(Ball, name="linf", order=torch.inf, dual=1):
    """Cubes, whose corners are rounded inwards once, so that a projection is one clamp."""

    def _corners(self) -> tuple[Tensor, Tensor]:
        held = (self.centre, per_example(self.radius, self.centre), *self.bounds)
        x, eps, low, high = map(_exactly, held)
        low, high = (x - eps).clamp(min=low), (x + eps).clamp(max=high)
        return _rounded(low, self.centre, up=True), _rounded(high, self.centre, up=False)

    _kept = cached_property(_corners)

    def _project(self, points: Tensor) -> Tensor:
        # torch.compile knows no lock, which a cached property has.
        corners = self._corners() if torch.compiler.is_compiling() else self._kept
        return torch.clamp(points, *corners)

    def _steepest(self, gradient: Tensor, points: Tensor | None = None) -> Tensor:
        return torch.sign(gradient)

    def _random_point(self, generator: torch.Generator | None) -> Tensor:
        noise = draw(torch.rand, self.centre, generator) * 2 - 1
        return self._project(self.centre + times(self.radius, noise))


class _L2(Ball, name="l2", order=2, dual=2):
    """Balls whose projection is onto the box and then, along the line to the centre, into the ball.

    That stays in the box and gives up less of the radius than the other order. Coordinates are
    rounded towards the centre, so that no point inside is further off than the radius.
    """

    def _project(self, points: Tensor) -> Tensor:
        points, centre = points.clamp(*self.bounds), lift(self.centre)
        offset = points - centre
        length = norm(offset)
        outside = length > self.radius
        if free_to_read(outside) and not bool(outside.any()):
            return points
        radius = self.radius * (1 - 4 * torch.finfo(centre.dtype).eps)  # rounding cannot lead out
        offset = offset * per_example(length.reciprocal() * radius, points).to(offset.dtype)
        moved = _no_further((centre + offset).to(points.dtype), centre, offset)
        return select(outside, moved, points)

    def _steepest(self, gradient: Tensor, points: Tensor | None = None) -> Tensor:
        gradient = inward(self, gradient, points)
        length = per_example(norm(gradient), gradient)
        return (gradient / torch.where(length > 0, length, 1.0)).to(gradient.dtype)

    def _random_point(self, generator: torch.Generator | None) -> Tensor:
        noise = free(draw(torch.randn, self.centre, generator), self.bounds)
        length = per_example(times(self.radius, _share(self, generator)), self.centre)
        return self._project((self.centre + length * self._steepest(noise)).to(self.centre.dtype))


class _L1(Ball, name="l1", order=1, dual=torch.inf):
    r"""Balls whose projection is onto the ball and the box together, exactly.

    With $r_i$ the room between input and bound on the side of the offset $\delta_i$, it takes
    $\delta_i$ to $\mathrm{sign}(\delta_i) \min(r_i, \max(|\delta_i| - \lambda, 0))$, with $\lambda$
    such that the ball is just reached. A step uphill takes the coordinates of the largest gradient
    first, each as far as the box has room, until its length is spent.
    """

    def _project(self, points: Tensor) -> Tensor:
        if points.requires_grad or not free_to_read(points):
            return self._whole(points)
        kept = (lift(points.clamp(*self.bounds)) - lift(self.centre)).abs_().flatten(1)
        few, known = min(int(_SHARE * kept.shape[1]), _MOST), None
        many = kept.sign().sum(dim=1) > few
        if bool(many.any()):
            offset = (lift(points) - lift(self.centre)).flatten(1)
            radius = per_example(self.radius, offset)
            known, kept = taken_at_least(offset.abs(), self._room(offset), radius, few)
            many = kept.sign().sum(dim=1) > few
        stay, rows = kept.bool(), many.nonzero()[:, 0]
        if len(rows) == len(points):
            return self._whole(points, known)
        stay[rows] = False
        inside = self._few(stay, points, known)
        if known is not None:
            inside[rows] = self.of(rows)._whole(points[rows], known[rows])
        return inside

    def _room(self, offset: Tensor) -> Tensor:
        """Return how far the bounds are from the centre on the side of offsets `(n, d)`."""
        ends = (
            torch.full_like(offset, torch.inf).copysign_(offset.detach()).reshape(self.centre.shape)
        )
        return ends.clamp_(*self.bounds).sub_(self.centre).abs_().flatten(1)

    def _few(self, stay: Tensor, points: Tensor, known: Tensor | None) -> Tensor:
        """Project by few coordinates; the others are those of the centre."""
        columns, filled = gathered(stay)
        held = [self.centre, points, *self.bounds]
        held = [e.flatten(1).gather(1, columns) if isinstance(e, Tensor) else e for e in held]
        centre, there, *bounds = held
        there = torch.where(filled, there, centre)
        few = type(self)(centre, self.radius, (bounds[0], bounds[1]))
        moved = few._whole(there, known).to(points.dtype)
        # Rows are filled up with their own first column, which gets the same once more.
        moved = torch.where(filled, moved, moved[:, :1])
        inside = self.centre.flatten(1).to(points.dtype, copy=True)
        return laid_out(inside.scatter_(1, columns, moved).reshape(points.shape), points)

    def _whole(self, points: Tensor, known: Tensor | None = None) -> Tensor:
        """Project by all coordinates, from amounts that are known to be taken off at least."""
        if known is not None and bool((known > 0).all()):  # all are outside
            return self._surface(points, known)
        clamped = points.clamp(*self.bounds)
        outside = per_example(self._length(clamped) > self.radius, points)
        if free_to_read(points) and not bool(outside.any()):
            return clamped
        return torch.where(outside, self._surface(points, known), clamped)

    def _length(self, points: Tensor) -> Tensor:
        return (wide(points) - wide(self.centre)).flatten(1).abs_().sum(dim=1)

    def _surface(self, points: Tensor, known: Tensor | None = None) -> Tensor:
        """Project points that are outside of the ball."""
        held = (self.centre, per_example(self.radius, points.flatten(1)), *self.bounds)
        centre, radius, low, high = map(_exactly, held)
        radius = radius * (1 - 2**-44)  # so that the rounding of a sum cannot lead out
        offset = (exact(points) - centre).flatten(1)
        room = type(self)(centre, radius, (low, high))._room(offset)
        size = offset.abs()
        left = size - taken_off(size, room, radius, known)
        left = torch.minimum(left.clamp_min(0), room)
        total = left.sum(dim=1, keepdim=True)
        left = left * torch.where(total > radius, total.reciprocal() * radius, 1.0)
        inside = left.copysign(offset).reshape(centre.shape)
        moved = (centre + inside).to(self.centre.dtype)
        moved = _no_further(moved, centre, inside).clamp(low, high)
        return laid_out(moved.to(points), points)

    def _steepest(self, gradient: Tensor, points: Tensor | None = None) -> Tensor:
        flat = inward(self, gradient, points).flatten(1)
        top = flat.abs().argmax(dim=1, keepdim=True)
        direction = torch.zeros_like(flat).scatter(1, top, flat.gather(1, top).sign())
        return direction.reshape(gradient.shape)

    def _ascend(self, points: Tensor, gradient: Tensor, size: float | Tensor) -> Tensor:
        low, high = self.bounds
        room = torch.full_like(gradient, torch.inf).copysign_(gradient.detach()).clamp_(low, high)
        room = (room - points).abs_().flatten(1)
        move = spent(gradient.flatten(1), room, size)
        return points + move.to(points.dtype).reshape(points.shape)

    def _random_point(self, generator: torch.Generator | None) -> Tensor:
        sign = draw(torch.rand, self.centre, generator).sub(0.5).sign()
        share = -wide(draw(torch.rand, self.centre, generator)).clamp_min(2**-53).log()
        share = free(share, self.bounds)
        total = per_example(share.flatten(1).sum(dim=1), share)
        share = share / torch.where(total > 0, total, 1.0)
        length = per_example(times(self.radius, _share(self, generator)), share)
        return self._project((wide(self.centre) + length * share * sign).to(self.centre.dtype))


ORDERS = {name: each.order for name, each in Ball.norms.items()}
DUAL_ORDERS = {name: each.dual for name, each in Ball.norms.items()}


def inward(ball: Ball, gradient: Tensor, points: Tensor | None) -> Tensor:
    """Leave out the entries that point out of the box."""
    if points is None:
        return gradient
    return gradient.clamp(*ways(points, ball.bounds, gradient.dtype))


def ways(
    points: Tensor, box: tuple[Any, Any], dtype: torch.dtype, near: float | Tensor = 0.0
) -> tuple[Tensor, Tensor]:
    """Return between what to clamp gradients so that none leads out of the box at once.

    Clamping is faster than masking, whose branches a processor cannot predict. `near` is how near
    to a bound a point is at it, since a projection may end just short of one; `dtype` that of the
    gradients.
    """
    points, most = points.detach(), torch.finfo(dtype).max
    down, up = (points - near).gt_(box[0]), (points + near).lt_(box[1])
    return down.to(dtype).mul_(-most), up.to(dtype).mul_(most)


def _share(ball: Ball, generator: torch.Generator | None) -> Tensor:
    """Draw the share of the radius that a uniform point of a ball is off, shape `(n,)`."""
    share = draw(torch.rand, ball.centre.flatten(1)[:, 0], generator)
    if not isinstance(ball.bounds[0], Tensor):
        return share.pow(1 / ball.centre[0].numel())
    size = (ball.bounds[0] < ball.bounds[1]).flatten(1).sum(dim=1).clamp_min(1)
    return share.pow((1 / wide(size)).to(share.dtype))


def _exactly(value: Any) -> Any:
    return exact(value) if isinstance(value, Tensor) else value


def _rounded(values: Tensor, inputs: Tensor, *, up: bool) -> Tensor:
    rounded = values.to(inputs.dtype)
    wrong = rounded.double() < values if up else rounded.double() > values
    towards = torch.full_like(rounded, torch.inf if up else -torch.inf)
    return torch.where(wrong, torch.nextafter(rounded, towards), rounded).to(inputs.device)


def _no_further(points: Tensor, centre: Tensor, offset: Tensor) -> Tensor:
    """Lead points one number back to the centre if rounding took them further than the offset."""
    # About half are, at random: lerp is faster than where, and numbers than bools.
    further = (points.detach().to(offset.dtype) - centre.detach()).abs_().gt_(offset.detach().abs())
    back = torch.nextafter(points, centre.to(points.dtype))
    return torch.lerp(points, back, further.to(points.dtype))
