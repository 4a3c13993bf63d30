"""The balls of each norm: how to project, which way is steepest, how to draw a point."""

from functools import cached_property
from typing import Any

import torch
from torch import Tensor

from advcal import _batches, _checks
from advcal._logits import lift
from advcal._random import draw
from advcal._sums import exact, running, wide
from advcal._typing import Bounds
from advcal.attacks._balls import Ball, ball, each_of, free, free_to_read, norm, per_example, times


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
        outside = per_example(length > self.radius, points)
        radius = self.radius * (1 - 4 * torch.finfo(centre.dtype).eps)  # rounding cannot lead out
        offset = offset * per_example(length.reciprocal() * radius, points).to(offset.dtype)
        moved = (centre + offset).to(points.dtype)
        further = (moved - centre).abs() > offset.abs()
        moved = torch.where(further, torch.nextafter(moved, self.centre), moved)
        return torch.where(outside, moved, points)

    def _steepest(self, gradient: Tensor, points: Tensor | None = None) -> Tensor:
        gradient = _inward(self, gradient, points)
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
        clamped = points.clamp(*self.bounds)
        outside = self._length(clamped) > self.radius
        rows = outside.nonzero()[:, 0] if free_to_read(points) else slice(None)
        surface = self.of(rows)._surface(exact(points[rows])).to(clamped)
        clamped[rows] = torch.where(per_example(outside[rows], points), surface, clamped[rows])
        return clamped

    def _surface(self, points: Tensor) -> Tensor:
        """Project points that are outside of the ball."""
        held = (self.centre, per_example(self.radius, points.flatten(1)), *self.bounds)
        centre, radius, low, high = map(_exactly, held)
        radius = radius * (1 - 2**-44)  # so that the rounding of a sum cannot lead out
        offset = (points - centre).flatten(1)
        room = torch.where(offset > 0, (high - centre).flatten(1), (centre - low).flatten(1))
        size = offset.abs()
        shrunk = (size - _threshold(size, room, radius)).clamp_min(0).minimum(room)
        total = shrunk.sum(dim=1, keepdim=True)
        shrunk = shrunk * torch.where(total > radius, total.reciprocal() * radius, 1.0)
        inside = (shrunk * offset.sign()).reshape(centre.shape)
        return _shifted(centre, inside, self.centre.dtype).clamp(low, high)

    def _steepest(self, gradient: Tensor, points: Tensor | None = None) -> Tensor:
        flat = _inward(self, gradient, points).flatten(1)
        top = flat.abs().argmax(dim=1, keepdim=True)
        direction = torch.zeros_like(flat).scatter(1, top, flat.gather(1, top).sign())
        return direction.reshape(gradient.shape)

    def _ascend(self, points: Tensor, gradient: Tensor, size: float | Tensor) -> Tensor:
        slope, (low, high) = gradient.flatten(1), self.bounds
        room = torch.where(gradient > 0, high - points, points - low).flatten(1)
        room = room.masked_fill(slope == 0, 0)
        order = slope.abs().argsort(dim=1, descending=True, stable=True)
        room = wide(room.gather(1, order))
        budget = each_of(size, points, room.dtype)[:, None]
        room = torch.where(room.isinf(), budget, room)
        spent = (budget - (running(room, 1) - room)).clamp_min(0).minimum(room)
        move = torch.zeros_like(spent).scatter(1, order, spent).to(points.dtype) * slope.sign()
        return points + move.reshape(points.shape)

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


def _inward(ball: Ball, gradient: Tensor, points: Tensor | None) -> Tensor:
    """Leave out the entries that point out of the box."""
    if points is None:
        return gradient
    low, high = ball.bounds
    out = ((gradient > 0) & (points >= high)) | ((gradient < 0) & (points <= low))
    return gradient.masked_fill(out, 0)


def _share(ball: Ball, generator: torch.Generator | None) -> Tensor:
    """Draw the share of the radius that a uniform point of a ball is off, shape `(n,)`."""
    share = draw(torch.rand, ball.centre.flatten(1)[:, 0], generator)
    if not isinstance(ball.bounds[0], Tensor):
        return share.pow(1 / ball.centre[0].numel())
    size = (ball.bounds[0] < ball.bounds[1]).flatten(1).sum(dim=1).clamp_min(1)
    return share.pow((1 / wide(size)).to(share.dtype))


def _threshold(size: Tensor, room: Tensor, eps: float | Tensor) -> Tensor:
    """Find the amount to take off each `size` so that what is left, cut at `room`, sums to `eps`.

    What is left falls piecewise linearly in that amount, with a kink where a coordinate comes off
    its cut (`size - room`) and one where it ends (`size`). Shape `(n, 1)`.
    """
    kinks, order = torch.cat([size, (size - room).clamp_min(0)], dim=1).sort(1, descending=True)
    slope = torch.where(order < size.shape[1], 1, -1).cumsum(dim=1).to(size.dtype)
    gaps = kinks[:, :-1] - kinks[:, 1:]
    left = torch.cat([torch.zeros_like(gaps[:, :1]), running(slope[:, :-1] * gaps, 1)], dim=1)
    after = (left < eps).sum(dim=1, keepdim=True).clamp_max(left.shape[1] - 1)
    before = (after - 1).clamp_min(0)
    rest = (eps - left.gather(1, before)) / slope.gather(1, before).clamp_min(1)
    return (kinks.gather(1, before) - rest).clamp_min(0)


def _exactly(value: Any) -> Any:
    return exact(value) if isinstance(value, Tensor) else value


def _rounded(values: Tensor, inputs: Tensor, *, up: bool) -> Tensor:
    rounded = values.to(inputs.dtype)
    wrong = rounded.double() < values if up else rounded.double() > values
    towards = torch.full_like(rounded, torch.inf if up else -torch.inf)
    return torch.where(wrong, torch.nextafter(rounded, towards), rounded).to(inputs.device)


def _shifted(centre: Tensor, offset: Tensor, dtype: torch.dtype) -> Tensor:
    """Add in float64 and round to a dtype, never further from the centre than the offset."""
    rounded = (centre + offset).to(dtype)
    further = (rounded.double() - centre).abs() > offset.abs()
    return torch.where(further, torch.nextafter(rounded, centre.to(dtype)), rounded)
