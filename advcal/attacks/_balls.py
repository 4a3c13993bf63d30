"""The sets that attacks stay in: a ball around each input, cut with the box of valid inputs."""

from collections.abc import Callable
from dataclasses import dataclass, fields, is_dataclass, replace
from typing import Any, ClassVar, Self, overload

import torch
from torch import Tensor

from advcal import _checks
from advcal._logits import lift
from advcal._sums import wide, widest


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
    # What each norm has of its own, and `_ascend` if it likes.
    _project: ClassVar[Callable[..., Tensor]]
    _steepest: ClassVar[Callable[..., Tensor]]
    _random_point: ClassVar[Callable[..., Tensor]]

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
        _checks.like_inputs(self.centre, points=points)
        return self._length(points)

    def project(self, points: Tensor) -> Tensor:
        """Bring points into the ball and the bounds.

        Args:
            points: Points, shape `(n, ...)`.

        Returns:
            Points inside; one that is inside stays as it is.
        """
        _checks.like_inputs(self.centre, points=points)
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
        _checks.like_inputs(self.centre, gradient=gradient)
        if points is not None:
            _checks.like_inputs(self.centre, points=points)
        return self._steepest(gradient, points)

    def random_point(self, generator: torch.Generator | None) -> Tensor:
        """Draw a point for each input, uniformly from the ball before the box is cut out.

        Args:
            generator: The source of the random numbers; the global state itself if None.

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
        _checks.like_inputs(self.centre, points=points, gradient=gradient)
        if not isinstance(size, Tensor):
            _checks.number("size", size, least=0)
        elif _checks.tensor("size", size).shape != self.centre.shape[:1]:
            wanted = tuple(self.centre.shape[:1])
            raise ValueError(f"expected size of shape {wanted}, got {_checks.kind(size)}")
        return self._ascend(points, gradient, size)

    def _length(self, points: Tensor) -> Tensor:
        offset = (wide(points) - wide(self.centre)).flatten(1)
        lengths: Tensor = torch.linalg.vector_norm(offset, self.order, dim=1)
        return lengths

    def _ascend(self, points: Tensor, gradient: Tensor, size: float | Tensor) -> Tensor:
        step = self._steepest(gradient, points)
        if isinstance(size, Tensor) and size.dtype != torch.float64:
            return (points + per_example(size, points) * step).to(points.dtype)
        return points + times(size, step)


def ball(name: str, inputs: Tensor, eps: float | Tensor, bounds: Any) -> Ball:
    """Make the balls of a norm by its name, of what has been checked."""
    return Ball.norms[name](inputs, eps, bounds)


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


def laid_out(values: Tensor, like: Tensor) -> Tensor:
    """Give values the memory format of others of their shape."""
    return values if values.stride() == like.stride() else torch.empty_like(like).copy_(values)


def free_to_read(value: Tensor) -> bool:
    """Tell whether reading a value waits for no device."""
    return value.device.type == "cpu" and not _checks.recording()


def of_rows(value: Any, rows: Tensor | slice) -> Any:
    """Take some examples out of a tensor, of a model, or of what a tuple or a dataclass holds."""
    if isinstance(value, Tensor):
        return _checks.note(value[rows], **_checks.noted(value))
    if isinstance(value, tuple):
        return tuple(of_rows(each, rows) for each in value)
    if hasattr(type(value), "of_rows"):
        return value.of_rows(rows)
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
