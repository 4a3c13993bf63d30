"""The sets that attacks stay in: a ball around each input, cut with the box of valid inputs."""

from collections.abc import Callable
from typing import Literal, NamedTuple

import torch
from torch import Tensor

from advcal import _checks

Norm = Literal["linf", "l2"]


class Ball(NamedTuple):
    """The points within a distance of each input and within the bounds, as three functions.

    Attributes:
        project: Points `(n, ...)` to points inside. A point inside stays as it is.
        random_point: A generator to points drawn at random, one per input.
        steepest: Gradients `(n, ...)` to the directions of unit norm that raise the loss most.
    """

    project: Callable[[Tensor], Tensor]
    random_point: Callable[[torch.Generator], Tensor]
    steepest: Callable[[Tensor], Tensor]


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

    return Ball(lambda points: torch.clamp(points, low, high), random_point, torch.sign)


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

    return Ball(project, random_point, steepest)


BALLS = {"linf": linf, "l2": l2}


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


def _draw(sampler: Callable[..., Tensor], like: Tensor, generator: torch.Generator) -> Tensor:
    noise = sampler(like.shape, generator=generator, device=generator.device)
    return noise.to(like.device, like.dtype)
