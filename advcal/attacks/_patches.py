"""The moves of Square in each norm: patches of one sign, and bumps that keep their length."""

import math
from collections.abc import Callable
from typing import ClassVar

import torch
from torch import Tensor

from advcal._sums import running
from advcal.attacks._balls import Ball, each_of, free, per_example
from advcal.attacks._balls import norm as length_of

_RADIUS = 12  # at which the tiles of the start in L1 have the published length

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


class _Bumped:
    """Points at the full length, cut with the box, whose perturbation lies in a few bumps."""

    order: ClassVar[int]  # of the norm
    fall: ClassVar[int]  # the power of the distance by which a bump falls

    def __init__(self, region: Ball) -> None:
        self.images, self.region = region.centre, region
        self.bumps: dict[tuple[int, int], Tensor] = {}  # by their sides

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
        return self._inside(self._tiled(offset))

    def proposal(self, points: Tensor, share: float, draw: Draw) -> Tensor:
        """Add a bump to one patch, and all the length that another patch has."""
        n, channels, height, width = points.shape
        # Algorithm 3 of the paper. Two patches are emptied. One gets a new length, of what they had
        # and of what the ball has left over, along the sum of a bump and its own old direction.
        a, b = _patch(share, height, width, least=3, odd=True)
        offset = (points - self.images).float().flatten(2)
        to, other = (_cells(draw(2), a, b, height, width)[:, None] for _ in range(2))
        to, other = to.expand(n, channels, -1), other.expand(n, channels, -1)
        held = offset.gather(2, to)
        emptied = offset.scatter(2, to, 0.0).scatter_(2, other, 0.0)
        signs = draw(channels, 1).sub(0.5).sign()
        bump = signs * self._bumps(a, b, draw(1, 1, 1)).flatten(2) + self._unit(held)
        bump = self._unit(bump) * self._length(offset, emptied)
        return self._inside(emptied.scatter_(2, to, bump).reshape(points.shape))

    def _bumps(self, a: int, b: int, turn: Tensor) -> Tensor:
        """Two halves of opposite sign, split across the longer side; a square's side by chance."""
        if (a, b) not in self.bumps:
            self.bumps[a, b] = _bump(
                max(a, b), min(a, b), self.order, self.fall, self.images.device
            )
        bump = self.bumps[a, b]
        if a == b:
            return torch.where(turn < 0.5, bump, bump.T)
        return (bump if a > b else bump.T) * torch.ones_like(turn)

    def _unit(self, values: Tensor) -> Tensor:
        length = values.norm(p=self.order, dim=2, keepdim=True)
        return values / torch.where(length > 0, length, 1.0)

    def _tiled(self, offset: Tensor) -> Tensor:
        """Scale the bumps that a search starts with."""
        return offset

    def _length(self, offset: Tensor, emptied: Tensor) -> Tensor:
        """Return the length that each channel's patch gets, shape `(n, channels, 1)`."""
        raise NotImplementedError

    def _inside(self, offset: Tensor) -> Tensor:
        """Turn offsets into points of the ball."""
        raise NotImplementedError


class _L2(_Bumped):
    """Such points on the sphere."""

    order, fall = 2, 2

    def _length(self, offset: Tensor, emptied: Tensor) -> Tensor:
        # The squared length of both patches, and a channel's share of the rest of the sphere's: so
        # the norm of the whole stays the radius.
        squared = offset.square().sum(dim=2, keepdim=True)
        freed = squared - emptied.square().sum(dim=2, keepdim=True)
        whole = each_of(self.region.radius**2, squared, squared.dtype)
        unused = per_example(whole, squared) - squared.sum(dim=1, keepdim=True)
        unused = unused.clamp_min(0) / offset.shape[1]
        return (freed.clamp_min(0) + unused).sqrt()

    def _inside(self, offset: Tensor) -> Tensor:
        offset = free(offset, self.region.bounds)
        length = length_of(offset)
        factor = torch.where(length > 0, length, 1.0).reciprocal() * self.region.radius
        moved = self.images + offset * per_example(factor, offset).to(offset.dtype)
        return self.region.project(moved.to(self.images.dtype))


class _L1(_Bumped):
    """Such points in the ball, of bumps that are longer than it and that a projection cuts."""

    order, fall = 1, 4

    def _tiled(self, offset: Tensor) -> Tensor:
        # Tiles have length 1 in the published attack, for images in [0, 1] and a radius of 12. Few
        # tiles are longer, to reach the surface.
        least = offset.float().abs().flatten(1).sum(dim=1).clamp_min(1e-6).reciprocal()
        size = each_of(self.region.radius, least, least.dtype) * least.clamp_min(1 / _RADIUS)
        return offset * per_example(size, offset)

    def _length(self, offset: Tensor, emptied: Tensor) -> Tensor:
        length = offset.abs().sum(dim=2, keepdim=True)
        freed = length - emptied.abs().sum(dim=2, keepdim=True)
        whole = each_of(self.region.radius, length, length.dtype)
        unused = per_example(whole, length) - length.sum(dim=1, keepdim=True)
        return unused.clamp_min(0) + offset.shape[1] * freed.clamp_min(0)

    def _inside(self, offset: Tensor) -> Tensor:
        return self.region.project((self.images + offset).to(self.images.dtype))


MOVES: dict[str, type[_Linf | _L2 | _L1]] = {"linf": _Linf, "l2": _L2, "l1": _L1}


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


def _bump(long: int, short: int, order: int, fall: int, device: torch.device) -> Tensor:
    """Return the published update of unit length, shape `(long, short)`."""
    upper, lower = (_peak(side, short, fall, device) for side in (long // 2, long - long // 2))
    both = torch.cat([upper, -lower])
    bump: Tensor = both / both.norm(p=order)
    return bump


def _peak(a: int, b: int, fall: int, device: torch.device) -> Tensor:
    r"""Return $\sum_{k \ge r} 1 / (k + 1)^{fall}$ at the distance $r$ from the middle."""
    rings = max(a // 2, b // 2) + 1
    heights = 1 / torch.arange(1, rings + 1, dtype=torch.float32, device=device).pow(fall)
    heights = running(heights.flip(0)).flip(0)
    row, column = ((torch.arange(side, device=device) - side // 2).abs() for side in (a, b))
    return heights[torch.maximum(row[:, None], column)]
