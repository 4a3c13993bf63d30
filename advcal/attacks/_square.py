"""The Square attack: random search over square patches, by queries alone."""

import math
from collections.abc import Callable
from functools import partial
from typing import Any, Literal

import torch
from torch import Tensor

from advcal import _checks
from advcal._frozen import frozen
from advcal._pass import rows_of
from advcal._sums import running
from advcal._typing import Bounds, Model, Progress
from advcal.attacks._balls import Ball, ball, each_of, free, of_rows, per_example
from advcal.attacks._balls import norm as length_of
from advcal.attacks._gradient import Best, goal_of, logits_at, to_be_sorted_out
from advcal.attacks._shown import shown

_HALVED_AFTER = (10, 50, 200, 500, 1000, 2000, 4000, 6000, 8000)  # of 10,000 queries


def square(
    model: Model,
    inputs: Tensor,
    labels: Tensor,
    *,
    eps: float | Tensor,
    norm: Literal["linf", "l2"] = "linf",
    steps: int = 5000,
    initial_p: float = 0.8,
    targeted: bool = False,
    bounds: Bounds = (0.0, 1.0),
    generator: torch.Generator | None = None,
    progress: Progress | None = None,
) -> Tensor:
    r"""Raise the margin by random patches, without a gradient.

    Starts from stripes (`linf`) or tiles (`l2`) on the surface of the ball. Each query then tries
    to set a random square, every channel to one end of its range (`linf`), or to move the
    perturbation of one random square to another (`l2`), and keeps what raises the margin
    $\max_{k \ne y} z_k - z_y$ or fools the model. The square covers a share `initial_p` of the
    image at first and less and less later on, the published schedule stretched to `steps`. An
    example that is fooled leaves the batch at once, so that `steps` is the most queries that one
    takes. The model need not be differentiable.

    Inputs of another shape than `(n, channels, height, width)` are taken as one row of values, and
    squares are then intervals. What is drawn for an example depends on `generator`, on its place in
    the batch and on the size of the batch, but not on what its neighbours are.

    Args:
        model: Inputs `(n, ...)` to logits `(n, classes)`.
        inputs: The inputs within `bounds`, shape `(n, ...)`.
        labels: Integer labels, shape `(n,)`; the classes to reach if `targeted`.
        eps: The radius, in units of `inputs`: a number, or one for each example, shape `(n,)`.
        norm: `"linf"` or `"l2"`.
        steps: How often to call the model, at most.
        initial_p: The share of the image that the first squares cover, above 0 and at most 1.
        targeted: Whether to move towards `labels` instead of away from them.
        bounds: The lowest and highest valid value: numbers, tensors that broadcast, or None.
        generator: The source of the squares; a copy of the global one if None.
        progress: A wrapper of an iterable that shows progress, such as `tqdm.tqdm`: over the
            examples times the calls of the model.

    Returns:
        Adversarial inputs, of the shape, dtype and device of `inputs`.

    Raises:
        TypeError: If an argument is of the wrong kind or dtype.
        ValueError: If a shape, value or device is wrong, or the model returns NaN.

    Example:
        >>> model = lambda inputs: (inputs.round() - 0.5) @ torch.tensor([[1.0, -1.0], [0.0, 0.0]])
        >>> inputs, labels = torch.tensor([[0.625, 0.5]]), torch.tensor([0])
        >>> adversarial = square(model, inputs, labels, eps=0.25, steps=20)
        >>> model(adversarial).argmax(dim=1)
        tensor([1])

    References:
        Andriushchenko et al., Square Attack: a Query-efficient Black-box Adversarial Attack via
        Random Search, ECCV 2020, algorithms 1 to 3.
    """
    inputs, labels, bounds = _checks.attack_inputs(inputs, labels, bounds)
    _checks.choice("norm", norm, ("linf", "l2"))
    _checks.arguments(steps=steps, initial_p=initial_p, targeted=targeted, generator=generator)
    _checks.arguments(progress=progress)
    with frozen(model, grad=False), shown(model, progress, len(inputs), steps) as model:
        n, shape = len(inputs), inputs.shape if inputs.ndim == 4 else (len(inputs), 1, 1, -1)
        low, high = (e.reshape(shape) if isinstance(e, Tensor) else e for e in bounds)
        whole = ball(norm, inputs.reshape(shape), eps, (low, high))
        goal = goal_of("margin", model, inputs, labels, targeted)
        generator = _checks.resolve(generator, inputs.device)

        def draw(rows: Tensor, *shape: int) -> Tensor:
            options: Any = {"dtype": torch.float32, "device": generator.device}
            sample = torch.rand(n, *shape, generator=generator, **options)
            return sample.to(inputs.device)[rows]

        search: type[_Linf | _L2] = _Linf if norm == "linf" else _L2
        best, here = Best(whole.centre, stop=True), search(whole)
        rows = torch.arange(n, device=inputs.device)
        points = here.start(partial(draw, rows))
        for step in range(steps):
            if step:
                halvings = sum(step * 10_000 // steps > after for after in _HALVED_AFTER)
                share = initial_p / 2**halvings
                points = here.proposal(best.points[rows], share, partial(draw, rows))
            logits = logits_at(model, points.reshape(len(rows), *inputs.shape[1:]))
            best.offer(points, goal.reached(logits), goal(logits), rows)
            if to_be_sorted_out(step + 1, points):
                left = best.left(rows)
                if not len(left):
                    break
                if len(left) < len(rows):
                    rows, goal = of_rows((rows, goal), left)
                    model = rows_of(model, left)
                    here = search(whole.of(rows))
        return best.points.reshape(inputs.shape)


Draw = Callable[..., Tensor]  # a shape to numbers in [0, 1), one such array for each example


class _Linf:
    """Points whose every value is at one end of its range, as far as patches have reached."""

    def __init__(self, region: Ball) -> None:
        self.low = region.project(torch.full_like(region.centre, -torch.inf))
        self.high = region.project(torch.full_like(region.centre, torch.inf))

    def start(self, draw: Draw) -> Tensor:
        """Stripe each channel."""
        channels, _, width = self.low.shape[1:]
        return torch.where(draw(channels, 1, width) < 0.5, self.low, self.high)

    def proposal(self, points: Tensor, share: float, draw: Draw) -> Tensor:
        """Set a patch, one sign for each channel."""
        channels, height, width = points.shape[1:]
        patch = _patch(share, height, width)  # algorithm 2 of the paper
        inside = _along(draw(1, 1, 1), patch[0], height, points).transpose(2, 3)
        inside = inside & _along(draw(1, 1, 1), patch[1], width, points)
        ends = torch.where(draw(channels, 1, 1) < 0.5, self.low, self.high)
        return torch.where(inside, ends, points)


class _L2:
    """Points on the sphere, cut with the box, whose perturbation lies in a few bumps."""

    def __init__(self, region: Ball) -> None:
        self.images, self.region = region.centre, region

    def start(self, draw: Draw) -> Tensor:
        """Tile the image with bumps, five to a side."""
        n, channels, height, width = self.images.shape
        a, b = max(height // 5, 1), max(width // 5, 1)
        rows, columns = height // a, width // b
        signs = draw(channels, rows, columns, 1, 1).sub(0.5).sign()
        tiles = signs * self._bumps(a, b, draw(1, rows, columns, 1, 1))
        tiles = tiles.transpose(3, 4).reshape(n, channels, rows * a, columns * b)
        top, left = (height - rows * a) // 2, (width - columns * b) // 2
        offset = torch.zeros_like(self.images)
        offset[:, :, top : top + rows * a, left : left + columns * b] = tiles.to(offset.dtype)
        return self._on_the_sphere(offset)

    def proposal(self, points: Tensor, share: float, draw: Draw) -> Tensor:
        """Add a bump to one patch, and all the length that another patch has."""
        n, channels, height, width = points.shape
        # Algorithm 3 of the paper. Two patches are emptied. One gets their squared length back, and
        # what the sphere has left over as its share of a channel, along the sum of a bump and its
        # own old direction: so the norm of the whole stays the radius.
        a, b = _patch(share, height, width, least=3, odd=True)
        offset = (points - self.images).float().flatten(2)
        to, other = (_cells(draw(2), a, b, height, width)[:, None] for _ in range(2))
        to, other = to.expand(n, channels, -1), other.expand(n, channels, -1)
        held = offset.gather(2, to)
        emptied = offset.scatter(2, to, 0.0).scatter(2, other, 0.0)
        squared = offset.square().sum(dim=2, keepdim=True)
        freed = squared - emptied.square().sum(dim=2, keepdim=True)
        whole = each_of(self.region.radius**2, squared, squared.dtype)
        unused = per_example(whole, squared) - squared.sum(dim=1, keepdim=True)
        unused = unused.clamp_min(0) / channels
        signs = draw(channels, 1).sub(0.5).sign()
        bump = signs * self._bumps(a, b, draw(1, 1, 1)).flatten(2) + _unit(held, 2)
        bump = _unit(bump, 2) * (freed.clamp_min(0) + unused).sqrt()
        return self._on_the_sphere(emptied.scatter(2, to, bump).reshape(points.shape))

    def _bumps(self, a: int, b: int, turn: Tensor) -> Tensor:
        """Two halves of opposite sign, split across the longer side; a square's side by chance."""
        bump = _bump(max(a, b), min(a, b), self.images.device)
        if a == b:
            return torch.where(turn < 0.5, bump, bump.T)
        return (bump if a > b else bump.T) * torch.ones_like(turn)

    def _on_the_sphere(self, offset: Tensor) -> Tensor:
        offset = free(offset, self.region.bounds)
        length = length_of(offset)
        factor = torch.where(length > 0, length, 1.0).reciprocal() * self.region.radius
        moved = self.images + offset * per_example(factor, offset).to(offset.dtype)
        return self.region.project(moved.to(self.images.dtype))


def _patch(
    share: float, height: int, width: int, *, least: int = 1, odd: bool = False
) -> tuple[int, int]:
    """Return the sides of a square of a share of the area, longer one way if it does not fit."""
    side = max(round(math.sqrt(share * height * width)), least)
    side += odd and side % 2 == 0
    short = min(side, height, width)
    if short == side:
        return side, side
    long = min(max(round(share * height * width / short), least), max(height, width))
    return (short, long) if height <= width else (long, short)


def _along(where: Tensor, size: int, total: int, like: Tensor) -> Tensor:
    """Mark `size` of `total` places that begin at a random one, shape `(n, 1, 1, total)`."""
    first = (where * (total - size + 1)).long()
    place = torch.arange(total, device=like.device)
    return (place >= first) & (place < first + size)


def _cells(where: Tensor, a: int, b: int, height: int, width: int) -> Tensor:
    """Return the flat indices of a random patch of an image, shape `(n, a * b)`."""
    first = where[:, :1] * (height - a + 1), where[:, 1:] * (width - b + 1)
    rows = first[0].long() + torch.arange(a, device=where.device)
    columns = first[1].long() + torch.arange(b, device=where.device)
    return (rows[:, :, None] * width + columns[:, None]).flatten(1)


def _bump(long: int, short: int, device: torch.device) -> Tensor:
    """Return the published update of unit length, shape `(long, short)`."""
    half = torch.cat([_peak(long // 2, short, device), -_peak(long - long // 2, short, device)])
    bump: Tensor = half / half.norm()
    return bump


def _peak(a: int, b: int, device: torch.device) -> Tensor:
    r"""Return $\sum_{k \ge r} 1 / (k + 1)^2$ at the distance $r$ from the middle."""
    rings = max(a // 2, b // 2) + 1
    heights = 1 / torch.arange(1, rings + 1, dtype=torch.float32, device=device).square()
    heights = running(heights.flip(0)).flip(0)
    row, column = ((torch.arange(side, device=device) - side // 2).abs() for side in (a, b))
    return heights[torch.maximum(row[:, None], column)]


def _unit(values: Tensor, dim: int) -> Tensor:
    length = values.norm(dim=dim, keepdim=True)
    return values / torch.where(length > 0, length, 1.0)
