"""What the attacks for the smallest perturbation share."""

import math
from typing import Any, TypeAlias

import torch
from torch import Tensor

from advcal._logits import lift
from advcal._sums import widest
from advcal.attacks import _norms
from advcal.attacks._balls import free_to_read, norm, per_example
from advcal.attacks._gradient import pulled, select

ORDERS = _norms.ORDERS | {"l0": 0.0}  # which counts, and has no ball to project on

Box: TypeAlias = Any
"""Bounds that have been checked: a pair of numbers, or of tensors of the inputs' shape."""


class Nearest:
    """The nearest adversarial points that an attack has seen, per example.

    Attributes:
        points: The points; the inputs themselves until there is one.
        distance: How far they are from the inputs, float64, shape `(n,)`; infinite until then.
    """

    def __init__(
        self, inputs: Tensor, labels: Tensor, *, norm: str = "l2", targeted: bool = False
    ) -> None:
        self.inputs, self.labels, self.targeted, self.norm = inputs, labels, targeted, norm
        self.points = inputs.clone()
        self.distance = torch.full_like(labels, torch.inf, dtype=widest(labels.device))

    def see(self, points: Tensor, logits: Tensor) -> tuple[Tensor, Tensor]:
        """Keep the points that are adversarial and nearer; return which are which, both `(n,)`."""
        fooled = (logits.argmax(dim=1) == self.labels) == self.targeted
        return fooled, self.keep(points, fooled)

    def keep(self, points: Tensor, fooled: Tensor) -> Tensor:
        """Keep those of the adversarial points that are nearer and return which are."""
        length = lengths(points - self.inputs, self.norm)
        nearer = fooled & (length < self.distance)
        self.distance = torch.where(nearer, length, self.distance)
        self.points = select(nearer, points, self.points)
        return nearer


def lengths(offsets: Tensor, name: str = "l2", orders: dict[str, float] = ORDERS) -> Tensor:
    """Return a norm of each example by its name, or by `DUAL_ORDERS` the dual one, shape `(n,)`."""
    flat = offsets.flatten(1)
    order, dtype = orders[name], widest(flat.device)
    if order == torch.inf:  # a processor is faster with these two than with a norm
        return flat.abs().amax(dim=1).to(dtype)
    if name == "l1":
        return flat.abs().sum(dim=1, dtype=dtype)
    if order == 0:
        return flat.clone().ne_(0).sum(dim=1, dtype=dtype)
    size: Tensor = torch.linalg.vector_norm(flat, order, dim=1, dtype=dtype)
    return size


def behind(
    points: Tensor, output: Tensor, others: Tensor, labels: Tensor, *, retain: bool
) -> tuple[Tensor, Tensor]:
    """Return by how much the logits of other classes are behind, and the gradient of their lead."""
    pair, logits = torch.stack([labels, others], dim=1), lift(output.detach())
    upstream = torch.zeros_like(output).scatter_(1, pair[:, 1:], 1).scatter_(1, pair[:, :1], -1)
    gradient = pulled(output, points, upstream, retain=retain)
    label, other = logits.gather(1, pair).unbind(dim=1)
    return label - other, lift(steady(gradient.nan_to_num()))


def steady(gradient: Tensor) -> Tensor:
    """Give infinite entries, which are the largest number by now, the size of the largest other.

    Some networks have them, such as one with a square root at pixels of 0. Left as they are, all
    other entries would count for nothing, and the linear estimate of a distance would be 0.
    """
    most = torch.finfo(gradient.dtype).max
    if free_to_read(gradient) and bool((gradient.flatten(1).abs().amax(dim=1) < most).all()):
        return gradient
    infinite = gradient.abs() == most
    size = gradient.masked_fill(infinite, 0).flatten(1).abs().amax(dim=1)
    size = per_example(torch.where(size > 0, size, 1.0), gradient)
    return torch.where(infinite, size * gradient.sign(), gradient)


def dot(a: Tensor, b: Tensor) -> Tensor:
    """Return the inner product of each pair of examples, shape `(n,)`."""
    return (a * b).flatten(1).sum(dim=1)


def unit(gradient: Tensor, length: Tensor | None = None) -> Tensor:
    """Scale each example to an L2 norm of 1, in float32 or wider; what is zero stays zero.

    The length is that of each example, `norm(gradient)`, if it is known.
    """
    gradient = lift(gradient)
    length = (norm(gradient) if length is None else length).to(gradient.dtype)
    return gradient / per_example(torch.where(length > 0, length, 1.0), gradient)


def corner(inputs: Tensor, bounds: Box) -> Tensor:
    """Return the offsets from the inputs to the corners of the box that are furthest off."""
    return torch.maximum(inputs - bounds[0], bounds[1] - inputs)


def cosine(first: float, last: float, fraction: float) -> float:
    """Anneal from the first value at fraction 0 to the last at fraction 1."""
    return last + (first - last) * (1 + math.cos(math.pi * fraction)) / 2
