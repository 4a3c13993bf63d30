"""Bounds of the activations of a ReLU network over a box of inputs: interval and CROWN."""

from typing import NamedTuple

import torch
from torch import Tensor

from advcal.certify._affine import Affine


class Box(NamedTuple):
    """Ends of intervals, each of shape `(n, size)`."""

    low: Tensor
    high: Tensor


def through(box: Box, affine: Affine) -> Box:
    """Map a box by an affine map: `(c, r)` to `(Wc + b, |W| r)`."""
    centre = affine((box.low + box.high) / 2)
    radius = (box.high - box.low) / 2 @ affine.matrix.abs().T
    return Box(centre - radius, centre + radius)


def interval_margins(box: Box, maps: list[Affine], rows: Tensor) -> Tensor:
    """Bound `rows @ logits` from below by intervals, `(n, rows)`."""
    for affine in maps[:-1]:
        box = Box(*(end.clamp_min(0) for end in through(box, affine)))
    return _ends(box, maps[-1], rows)


def crown_margins(box: Box, maps: list[Affine], rows: Tensor) -> Tensor:
    """Bound `rows @ logits` from below by linear bounds of every ReLU, `(n, rows)`."""
    known: list[Box] = []
    last = box
    for k, affine in enumerate(maps[:-1]):
        last = through(last, affine)
        if k:  # before the first ReLU intervals are exact
            last = _closer(last, maps[: k + 1], known, box)
        known.append(last)
        last = Box(*(end.clamp_min(0) for end in last))
    # Neither is always the tighter one.
    return torch.maximum(_backward(rows, maps, known, box), _ends(last, maps[-1], rows))


def _ends(box: Box, affine: Affine, rows: Tensor) -> Tensor:
    """Bound `rows @ output` of one map from below by intervals."""
    return through(box, Affine(rows @ affine.matrix, rows @ affine.offset)).low


def _closer(last: Box, maps: list[Affine], known: list[Box], box: Box) -> Box:
    """Bound by lines what intervals leave on both sides of zero; of the rest the sign is enough."""
    undecided = (last.low < 0) & (last.high > 0)
    some = undecided.any(dim=0).nonzero()[:, 0]
    rows = last.low.new_zeros(len(some), last.low.shape[1])
    rows[torch.arange(len(some), device=some.device), some] = 1
    low, minus_high = _backward(torch.cat([rows, -rows]), maps, known, box).chunk(2, dim=1)
    lower = last.low.index_copy(1, some, torch.maximum(last.low[:, some], low))
    upper = last.high.index_copy(1, some, torch.minimum(last.high[:, some], -minus_high))
    return Box(lower.where(undecided, last.low), upper.where(undecided, last.high))


def _backward(rows: Tensor, maps: list[Affine], known: list[Box], box: Box) -> Tensor:
    """Bound `rows @ output` of the last map from below.

    A linear bound of the output is carried back through the network. If a ReLU's input lies
    between l < 0 < u, it is at most the chord u (z - l) / (u - l), which a negative coefficient
    takes, and at least z or 0, whichever is closer by area, which a positive one takes.
    """
    slopes = rows @ maps[-1].matrix
    constant = (rows @ maps[-1].offset).expand(len(box.low), -1)
    slopes = slopes.expand(len(box.low), -1, -1)
    for affine, (low, high) in zip(reversed(maps[:-1]), reversed(known), strict=True):
        chord = (high / (high - low)).where((low < 0) & (high > 0), (low >= 0).to(low))
        least = (high > -low).to(low)
        plus, minus = slopes.clamp_min(0), slopes.clamp_max(0)
        above = -(chord * low.clamp_max(0))  # the chord at 0; nothing where the ReLU is linear
        constant = constant + (minus @ above[:, :, None])[:, :, 0]
        slopes = plus * least.where((low < 0) & (high > 0), chord)[:, None] + minus * chord[:, None]
        constant = constant + slopes @ affine.offset
        slopes = slopes @ affine.matrix
    ends = slopes.clamp_min(0) @ box.low[:, :, None] + slopes.clamp_max(0) @ box.high[:, :, None]
    return constant + ends[:, :, 0]
