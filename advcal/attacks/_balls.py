"""The sets that attacks stay in: a ball around each input, cut with the box of valid inputs."""

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor

from advcal import _checks


class Ball(NamedTuple):
    """The points within a distance of each input and within the bounds, as functions.

    Attributes:
        project: Points `(n, ...)` to points inside. A point inside stays as it is.
        random_point: A generator to points drawn at random, one per input.
        steepest: Gradients `(n, ...)` to the directions of unit norm that raise the loss most.
        ascend: Points `(n, ...)`, gradients and a length, a number or `(n,)`, to the points one
            step of that length uphill, not yet projected.
    """

    project: Callable[[Tensor], Tensor]
    random_point: Callable[[torch.Generator], Tensor]
    steepest: Callable[[Tensor], Tensor]
    ascend: Callable[[Tensor, Tensor, float | Tensor], Tensor]


def linf(inputs: Tensor, *, eps: float, bounds: tuple[float, float] = (0.0, 1.0)) -> Ball:
    r"""Make the balls $\|x' - x\|_\infty \le \varepsilon$ within the bounds.

    Their corners are rounded inwards once, in the dtype of the inputs, so that a projection is one
    clamp and no point inside is further off than `eps`, not even by rounding.

    Args:
        inputs: The centres, shape `(n, ...)`, within `bounds`.
        eps: The radius, in units of `inputs`.
        bounds: The lowest and the highest valid value of an input.

    Returns:
        The ball; its random point is uniform.

    Raises:
        TypeError: If an argument is of the wrong kind or dtype.
        ValueError: If a shape or value is wrong.

    Example:
        >>> ball = linf(torch.tensor([[0.5, 0.0]]), eps=0.25)
        >>> ball.project(torch.tensor([[1.0, -1.0]]))
        tensor([[0.7500, 0.0000]])
    """
    inputs, eps, bounds = _checked(inputs, eps, bounds)
    wide = inputs.double()
    low = _rounded((wide - eps).clamp_min(bounds[0]), inputs, up=True)
    high = _rounded((wide + eps).clamp_max(bounds[1]), inputs, up=False)

    def random_point(generator: torch.Generator) -> Tensor:
        noise = _draw(torch.rand, inputs, generator) * 2 - 1
        return torch.clamp(inputs + eps * noise, low, high)

    return Ball(
        lambda points: torch.clamp(points, low, high), random_point, torch.sign, _along(torch.sign)
    )


def l2(inputs: Tensor, *, eps: float, bounds: tuple[float, float] = (0.0, 1.0)) -> Ball:
    r"""Make the balls $\|x' - x\|_2 \le \varepsilon$ within the bounds.

    Projection is onto the box first and then, along the line to the centre, into the ball: that
    stays in the box and gives up less of the radius than the other order. Coordinates are rounded
    towards the centre, so that no point inside is further off than `eps`.

    Args:
        inputs: The centres, shape `(n, ...)`, within `bounds`.
        eps: The radius, in units of `inputs`.
        bounds: The lowest and the highest valid value of an input.

    Returns:
        The ball; its random point is uniform in the ball before the box is cut out.

    Raises:
        TypeError: If an argument is of the wrong kind or dtype.
        ValueError: If a shape or value is wrong.

    Example:
        >>> ball = l2(torch.tensor([[0.5, 0.5]]), eps=0.5)
        >>> ball.project(torch.tensor([[0.8, 0.9]]))
        tensor([[0.8000, 0.9000]])
    """
    inputs, eps, bounds = _checked(inputs, eps, bounds)
    centre = inputs if inputs.dtype.itemsize >= 4 else inputs.float()
    radius = eps * (1 - 4 * torch.finfo(centre.dtype).eps)  # so that rounding cannot lead out

    def project(points: Tensor) -> Tensor:
        points = points.clamp(*bounds)
        offset = points - centre
        length = norm(offset)
        outside = per_example(length > eps, points)
        offset = offset * per_example(radius / length, points).to(offset.dtype)
        moved = (centre + offset).to(points.dtype)
        further = (moved - centre).abs() > offset.abs()
        moved = torch.where(further, torch.nextafter(moved, inputs), moved)
        return torch.where(outside, moved, points)

    def random_point(generator: torch.Generator) -> Tensor:
        direction = steepest(_draw(torch.randn, inputs, generator))
        size = inputs[0].numel()
        length = eps * _draw(torch.rand, inputs.flatten(1)[:, 0], generator) ** (1 / size)
        return project(inputs + per_example(length, inputs) * direction)

    def steepest(gradient: Tensor) -> Tensor:
        length = per_example(norm(gradient), gradient)
        return (gradient / torch.where(length > 0, length, 1.0)).to(gradient.dtype)

    return Ball(project, random_point, steepest, _along(steepest))


def l1(inputs: Tensor, *, eps: float, bounds: tuple[float, float] = (0.0, 1.0)) -> Ball:
    r"""Make the balls $\|x' - x\|_1 \le \varepsilon$ within the bounds.

    Projection is onto the ball and the box together, exactly: with $r_i$ the room between input and
    bound on the side of the offset $\delta_i$, it takes $\delta_i$ to
    $\mathrm{sign}(\delta_i) \min(r_i, \max(|\delta_i| - \lambda, 0))$, with $\lambda$ such that the
    ball is just reached. One after the other would lose much of the radius. A step uphill takes the
    coordinates of the largest gradient first, each as far as the box has room, until its length is
    spent: the best that a linear loss allows.

    Args:
        inputs: The centres, shape `(n, ...)`, within `bounds`.
        eps: The radius, in units of `inputs`: the sum of all changes.
        bounds: The lowest and the highest valid value of an input.

    Returns:
        The ball; its random point is uniform in the ball before the box is cut out.

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
    inputs, eps, bounds = _checked(inputs, eps, bounds)
    wide = inputs.double()
    low, high = (wide - bounds[0]).flatten(1), (bounds[1] - wide).flatten(1)
    radius = eps * (1 - 2**-44)  # so that the rounding of a sum cannot lead out

    def length(points: Tensor) -> Tensor:
        return (points.double() - wide).flatten(1).abs().sum(dim=1)

    def project(points: Tensor) -> Tensor:
        clamped = points.clamp(*bounds)
        outside = (length(clamped) > eps).nonzero()[:, 0]
        if not len(outside):
            return clamped
        offset = (points[outside].double() - wide[outside]).flatten(1)
        clamped[outside] = within(offset, outside)
        return clamped

    def within(offset: Tensor, rows: Tensor) -> Tensor:
        room = torch.where(offset > 0, high[rows], low[rows])
        size = offset.abs()
        shrunk = (size - _threshold(size, room, radius)[:, None]).clamp_min(0).minimum(room)
        total = shrunk.sum(dim=1, keepdim=True)
        shrunk = shrunk * torch.where(total > radius, radius / total, 1.0)
        centre = wide[rows]
        inside = (shrunk * offset.sign()).reshape(centre.shape)
        return _shifted(centre, inside, inputs.dtype).clamp(*bounds)

    def random_point(generator: torch.Generator) -> Tensor:
        sign = _draw(torch.rand, inputs, generator).sub(0.5).sign()
        share = -_draw(torch.rand, inputs, generator).double().clamp_min(2**-53).log()
        share = share / per_example(share.flatten(1).sum(dim=1), share)
        size = inputs[0].numel()
        radius = eps * _draw(torch.rand, inputs.flatten(1)[:, 0], generator) ** (1 / size)
        return project((wide + per_example(radius, wide) * share * sign).to(inputs.dtype))

    def steepest(gradient: Tensor) -> Tensor:
        flat = gradient.flatten(1)
        top = flat.abs().argmax(dim=1, keepdim=True)
        direction = torch.zeros_like(flat).scatter(1, top, flat.gather(1, top).sign())
        return direction.reshape(gradient.shape)

    def ascend(points: Tensor, gradient: Tensor, size: float | Tensor) -> Tensor:
        start, slope = points.flatten(1), gradient.flatten(1)
        room = torch.where(slope > 0, bounds[1] - start, start - bounds[0]) * slope.sign().abs()
        order = slope.abs().argsort(dim=1, descending=True, stable=True)
        room = room.gather(1, order).double()
        budget = torch.as_tensor(size, dtype=room.dtype, device=room.device).reshape(-1, 1)
        spent = (budget - (room.cumsum(dim=1) - room)).clamp_min(0).minimum(room)
        move = torch.zeros_like(spent).scatter(1, order, spent).to(points.dtype) * slope.sign()
        return points + move.reshape(points.shape)

    return Ball(project, random_point, steepest, ascend)


def _threshold(size: Tensor, room: Tensor, eps: float) -> Tensor:
    """Find the amount to take off each `size` so that what is left, cut at `room`, sums to `eps`.

    What is left falls piecewise linearly in that amount, with a kink where a coordinate comes off
    its cut (`size - room`) and one where it ends (`size`).
    """
    kinks, order = torch.cat([size, (size - room).clamp_min(0)], dim=1).sort(1, descending=True)
    slope = torch.where(order < size.shape[1], 1.0, -1.0).to(size.dtype).cumsum(dim=1)
    gaps = kinks[:, :-1] - kinks[:, 1:]
    left = torch.cat([torch.zeros_like(gaps[:, :1]), (slope[:, :-1] * gaps).cumsum(dim=1)], dim=1)
    after = (left < eps).sum(dim=1, keepdim=True).clamp_max(left.shape[1] - 1)
    before = (after - 1).clamp_min(0)
    rest = (eps - left.gather(1, before)) / slope.gather(1, before).clamp_min(1)
    return (kinks.gather(1, before) - rest)[:, 0].clamp_min(0)


BALLS = {"linf": linf, "l2": l2, "l1": l1}


def ball(name: str, inputs: Tensor, eps: float, bounds: tuple[float, float]) -> Ball:
    """Make the ball of a norm by its name."""
    _checks.choice("norm", name, BALLS)
    return BALLS[name](inputs, eps=eps, bounds=bounds)


def norm(offsets: Tensor) -> Tensor:
    """Return the L2 norm of each example, float64, shape `(n,)`."""
    lengths: Tensor = torch.linalg.vector_norm(offsets.flatten(1), dim=1, dtype=torch.float64)
    return lengths


def per_example(values: Tensor, like: Tensor) -> Tensor:
    """Shape values `(n,)` to broadcast over examples `(n, ...)`."""
    return values.reshape(-1, *[1] * (like.ndim - 1))


def _checked(
    inputs: Tensor, eps: float, bounds: tuple[float, float]
) -> tuple[Tensor, float, tuple[float, float]]:
    inputs = _checks.inputs(inputs).detach()
    return inputs, _checks.number("eps", eps, least=0), _checks.bounds_pair(bounds)


def _rounded(values: Tensor, inputs: Tensor, *, up: bool) -> Tensor:
    rounded = values.to(inputs.dtype)
    wrong = rounded.double() < values if up else rounded.double() > values
    towards = torch.full_like(rounded, torch.inf if up else -torch.inf)
    return torch.where(wrong, torch.nextafter(rounded, towards), rounded)


def _shifted(centre: Tensor, offset: Tensor, dtype: torch.dtype) -> Tensor:
    """Add in float64 and round to a dtype, never further from the centre than the offset."""
    rounded = (centre + offset).to(dtype)
    further = (rounded.double() - centre).abs() > offset.abs()
    return torch.where(further, torch.nextafter(rounded, centre.to(dtype)), rounded)


def _along(steepest: Callable[[Tensor], Tensor]) -> Callable[..., Tensor]:
    """Step along a direction of unit norm."""

    def ascend(points: Tensor, gradient: Tensor, size: float | Tensor) -> Tensor:
        if isinstance(size, Tensor):
            size = per_example(size, points)
        return (points + size * steepest(gradient)).to(points.dtype)

    return ascend


def _draw(sampler: Callable[..., Tensor], like: Tensor, generator: torch.Generator) -> Tensor:
    noise = sampler(like.shape, generator=generator, device=generator.device)
    return noise.to(like.device, like.dtype)
