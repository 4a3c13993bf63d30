"""The sets that attacks stay in: a ball around each input, cut with the box of valid inputs."""

from dataclasses import dataclass, fields, is_dataclass, replace
from functools import cached_property
from typing import Any, ClassVar, Self, overload

import torch
from torch import Tensor

from advcal import _checks
from advcal._logits import lift
from advcal._random import draw
from advcal._sums import exact, running, wide, widest
from advcal._typing import Bounds


@dataclass(frozen=True, eq=False)
class Ball:
    """The points within a distance of each input and within the bounds, for one norm.

    Attributes:
        centre: The inputs, shape `(n, ...)`.
        radius: The distance in the norm, a number or one for each input, shape `(n,)`.
        bounds: The lowest and the highest valid values: two numbers, or two tensors of the shape of
            the inputs.
        norms: The kind of ball of each norm, by its name: the one table of norms.
        order: The order of the norm.
        dual: The order of the dual norm.
    """

    centre: Tensor
    radius: float | Tensor
    bounds: tuple[Any, Any]

    norms: ClassVar[dict[str, type["Ball"]]] = {}
    order: ClassVar[float]
    dual: ClassVar[float]

    def __init_subclass__(cls, name: str, order: float, dual: float) -> None:
        Ball.norms[name], cls.order, cls.dual = cls, order, dual

    def of(self, rows: Tensor | slice) -> Self:
        """Take the balls of some of the inputs.

        Args:
            rows: The indices of the inputs, or a slice of them.

        Returns:
            Their balls.
        """
        if not isinstance(rows, slice):
            _checks.tensor("rows", rows, integer=True)
        balls: Self = of_rows(self, rows)
        return balls

    def length(self, points: Tensor) -> Tensor:
        """Measure how far points are from the centres.

        Args:
            points: Points, shape `(n, ...)`.

        Returns:
            Lengths in the norm, float64, shape `(n,)`.
        """
        self._check(points=points)
        return self._length(points)

    def project(self, points: Tensor) -> Tensor:
        """Bring points into the ball and the bounds.

        Args:
            points: Points, shape `(n, ...)`.

        Returns:
            Points inside; one that is inside stays as it is.
        """
        self._check(points=points)
        return self._project(points)

    def steepest(self, gradient: Tensor, points: Tensor | None = None) -> Tensor:
        """Return the directions of unit norm that raise the loss most.

        Args:
            gradient: The gradients of the loss, shape `(n, ...)`.
            points: Where they were taken. Given them, what would leave the box at once is left out,
                but not in `linf`, whose directions have no length to share.

        Returns:
            Directions, shape `(n, ...)`.
        """
        self._check(gradient=gradient, **({} if points is None else {"points": points}))
        return self._steepest(gradient, points)

    def random_point(self, generator: torch.Generator) -> Tensor:
        """Draw a point for each input, uniformly from the ball before the box is cut out.

        Args:
            generator: The source of the random numbers.

        Returns:
            Points inside, shape `(n, ...)`.
        """
        _checks.arguments(generator=generator)
        return self._random_point(generator)

    def ascend(self, points: Tensor, gradient: Tensor, size: float | Tensor) -> Tensor:
        """Take a step uphill.

        Args:
            points: Where from, shape `(n, ...)`.
            gradient: The gradients of the loss there.
            size: The length of the step, a number or `(n,)`.

        Returns:
            Where the step leads, not yet projected.
        """
        self._check(points=points, gradient=gradient)
        if not isinstance(size, Tensor):
            _checks.number("size", size, least=0)
        elif _checks.tensor("size", size).shape != self.centre.shape[:1]:
            wanted = tuple(self.centre.shape[:1])
            raise ValueError(f"expected size of shape {wanted}, got {_checks.kind(size)}")
        return self._ascend(points, gradient, size)

    def _check(self, **given: Any) -> None:
        """Check points and gradients, but for their values: a device would be waited for."""
        for name, value in given.items():
            at = _checks.tensor(name, value).device
            if value.shape != self.centre.shape or at != self.centre.device:
                wanted = f"{tuple(self.centre.shape)} on {self.centre.device} like the inputs"
                raise ValueError(
                    f"expected {name} of shape {wanted}, got {_checks.kind(value)} on {at}"
                )

    def _length(self, points: Tensor) -> Tensor:
        offset = (wide(points) - wide(self.centre)).flatten(1)
        lengths: Tensor = torch.linalg.vector_norm(offset, self.order, dim=1)
        return lengths

    def _project(self, points: Tensor) -> Tensor:
        raise NotImplementedError

    def _steepest(self, gradient: Tensor, points: Tensor | None = None) -> Tensor:
        raise NotImplementedError

    def _random_point(self, generator: torch.Generator) -> Tensor:
        raise NotImplementedError

    def _ascend(self, points: Tensor, gradient: Tensor, size: float | Tensor) -> Tensor:
        step = self._steepest(gradient, points)
        if isinstance(size, Tensor) and size.dtype != torch.float64:
            return (points + per_example(size, points) * step).to(points.dtype)
        return points + times(size, step)

    def _inward(self, gradient: Tensor, points: Tensor | None) -> Tensor:
        """Leave out the entries that point out of the box."""
        if points is None:
            return gradient
        low, high = self.bounds
        out = ((gradient > 0) & (points >= high)) | ((gradient < 0) & (points <= low))
        return gradient.masked_fill(out, 0)

    def _share(self, generator: torch.Generator) -> Tensor:
        """Draw the share of the radius that a uniform point of a ball is off, shape `(n,)`."""
        share = draw(torch.rand, self.centre.flatten(1)[:, 0], generator)
        if not isinstance(self.bounds[0], Tensor):
            return share.pow(1 / self.centre[0].numel())
        size = (self.bounds[0] < self.bounds[1]).flatten(1).sum(dim=1).clamp_min(1)
        return share.pow((1 / wide(size)).to(share.dtype))


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

    def _random_point(self, generator: torch.Generator) -> Tensor:
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
        gradient = self._inward(gradient, points)
        length = per_example(norm(gradient), gradient)
        return (gradient / torch.where(length > 0, length, 1.0)).to(gradient.dtype)

    def _random_point(self, generator: torch.Generator) -> Tensor:
        noise = free(draw(torch.randn, self.centre, generator), self.bounds)
        length = per_example(times(self.radius, self._share(generator)), self.centre)
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
        flat = self._inward(gradient, points).flatten(1)
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

    def _random_point(self, generator: torch.Generator) -> Tensor:
        sign = draw(torch.rand, self.centre, generator).sub(0.5).sign()
        share = -wide(draw(torch.rand, self.centre, generator)).clamp_min(2**-53).log()
        share = free(share, self.bounds)
        total = per_example(share.flatten(1).sum(dim=1), share)
        share = share / torch.where(total > 0, total, 1.0)
        length = per_example(times(self.radius, self._share(generator)), share)
        return self._project((wide(self.centre) + length * share * sign).to(self.centre.dtype))


ORDERS = {name: each.order for name, each in Ball.norms.items()}
DUAL_ORDERS = {name: each.dual for name, each in Ball.norms.items()}


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
    none = torch.zeros(len(_checks.inputs(inputs)), dtype=torch.int64, device=inputs.device)
    return around(name, inputs, _checks.known(none, 0, 0), eps, bounds)[0]


def ball(name: str, inputs: Tensor, eps: float | Tensor, bounds: Bounds) -> Ball:
    """Make the balls of a norm by its name, around a copy of the inputs."""
    _checks.arguments(norm=name)
    radius, box = _checks.radius(eps, _checks.inputs(inputs)), _checks.box(bounds, inputs)
    return Ball.norms[name](_checks.copied(inputs), radius, box)


def around(
    name: str, inputs: Tensor, labels: Tensor, eps: float | Tensor, bounds: Bounds
) -> tuple[Ball, Tensor]:
    """Check what attacks within a radius take; return the balls, and a copy of the labels."""
    inputs, labels, box = _checks.attack_inputs(inputs, labels, bounds)
    _checks.arguments(norm=name)
    return Ball.norms[name](inputs, _checks.radius(eps, inputs), box), labels


def free(values: Tensor, bounds: tuple[Any, Any]) -> Tensor:
    """Put values to 0 where the bounds meet: nothing may change there."""
    low, high = bounds
    return values.masked_fill(low == high, 0) if isinstance(low, Tensor) else values


def norm(offsets: Tensor) -> Tensor:
    """Return the L2 norm of each example, float64, shape `(n,)`."""
    dtype = widest(offsets.device)
    lengths: Tensor = torch.linalg.vector_norm(offsets.flatten(1), dim=1, dtype=dtype)
    return lengths


@overload
def per_example(values: Tensor, like: Tensor) -> Tensor: ...
@overload
def per_example(values: float | Tensor, like: Tensor) -> float | Tensor: ...
def per_example(values: float | Tensor, like: Tensor) -> float | Tensor:
    """Shape values `(n,)` to broadcast over examples `(n, ...)`; a number stays."""
    return values.reshape(-1, *[1] * (like.ndim - 1)) if isinstance(values, Tensor) else values


def each_of(value: float | Tensor, like: Tensor, dtype: torch.dtype) -> Tensor:
    """Return a number, or one for each example, as a tensor `(n,)` that no device waits for."""
    full = value if isinstance(value, Tensor) else like.new_full((), value, dtype=dtype)
    return full.to(dtype).expand(len(like))


def free_to_read(value: Tensor) -> bool:
    """Tell whether reading a value waits for no device."""
    return value.device.type == "cpu" and not _checks.recording()


def of_rows(value: Any, rows: Tensor | slice) -> Any:
    """Take some examples out of a tensor, or of all that a tuple or a dataclass holds."""
    if isinstance(value, Tensor):
        part, ends = value[rows], _checks.ends_of(value)
        part = _checks.true_labels(part) if _checks.are_true(value) else part
        return part if ends is None else _checks.known(part, *ends)
    if isinstance(value, tuple):
        return tuple(of_rows(each, rows) for each in value)
    if is_dataclass(value):
        held = {each.name: of_rows(getattr(value, each.name), rows) for each in fields(value)}
        return replace(value, **held)  # type: ignore[type-var]
    return value


def times(size: float | Tensor, values: Tensor) -> Tensor:
    """Multiply by a number, or each example by its own, rounded as by a number."""
    if not isinstance(size, Tensor):
        return size * values
    wide = lift(values)
    return (per_example(size, wide).to(wide.dtype) * wide).to(values.dtype)


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
