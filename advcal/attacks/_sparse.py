"""The fewest entries to change: two searches in L0."""

import math

import torch
from torch import Tensor

from advcal import _checks
from advcal._logits import lift, rivals
from advcal._sums import running
from advcal._typing import Model
from advcal.attacks._balls import free, free_to_read
from advcal.attacks._gradient import gradient_at, logits_at
from advcal.attacks._nearest import Box, Nearest, cosine, steady
from advcal.attacks._thresholds import counted, largest

_FEW = 80  # steps below which sigma-zero does not come near
_MEMORY = 0.8  # the share of the last scores in the next
_GAMMA = 0.3, 0.01  # by which share the number of entries changes, at the first step and the last
_LENGTH = 2.0, 0.2  # of the first step of Adam and the last, in ranges
_MOMENTS = 0.9, 0.999
_FIRST_LEAST = 0.1  # the smallest change that is let stand, in ranges
_RAISED = 0.01  # by which share of a step it is raised or lowered
_ENOUGH = 128  # gains, of which no more make up for most leads
_WIDTH = 1e-3  # of the smooth count of changed entries


def sparsest(model: Model, nearest: Nearest, box: Box, steps: int) -> Tensor:
    """Look for the least number of entries by two searches, or by the first alone in few steps."""
    ends = (end.isfinite().all() if isinstance(end, Tensor) else math.isfinite(end) for end in box)
    if not all(ends):
        raise ValueError("expected finite bounds with norm 'l0', got infinite ones")
    first = steps if steps < _FEW else steps // 2
    points = _Most(nearest, box).run(model, first)
    if first < steps:
        points = _SigmaZero(nearest, box).run(model, steps - first)
    nearest.see(points, logits_at(model, points))
    return nearest.points


class _Walk:
    """A search whose points and gradients are rows of entries."""

    def __init__(self, nearest: Nearest, box: Box) -> None:
        self.nearest, self.box, self.origin = nearest, box, lift(nearest.inputs)
        low, high = ((end - self.origin).flatten(1) for end in box)
        self.low, self.high = low, high  # how far each entry can go
        self.offset = torch.zeros_like(low)

    def run(self, model: Model, steps: int) -> Tensor:
        """Look and step in turn; return the last points, not yet looked at."""
        points = self.nearest.inputs
        for step in range(steps):
            logits, lead, gradient = gradient_at(model, points, self._slope)
            gradient = free(steady(gradient), self.box)
            fooled, _ = self.nearest.see(points, logits)
            self.step(fooled, lead, gradient.flatten(1), step / steps)
            moved = self.origin + self.offset.reshape(self.origin.shape)
            points = moved.clamp(*self.box).to(self.nearest.inputs.dtype)
        return points

    def step(self, fooled: Tensor, lead: Tensor, gradient: Tensor, progress: float) -> None:
        """Set the next offset."""
        raise NotImplementedError

    def _slope(self, logits: Tensor) -> tuple[Tensor, Tensor]:
        """Return the lead of the highest other class, or of the target, and its gradient."""
        labels = self.nearest.labels
        _checks.label_range(labels, logits.shape[1])
        pair = torch.stack([rivals(logits, labels, 1)[:, 0], labels], dim=1)
        other, label = logits.gather(1, pair).unbind(dim=1)
        slope = torch.zeros_like(logits).scatter_(1, pair[:, 1:], -1).scatter_(1, pair[:, :1], 1)
        return (label - other, -slope) if self.nearest.targeted else (other - label, slope)


class _Most(_Walk):
    """Set the entries that gain most to the ends of their ranges."""

    def __init__(self, nearest: Nearest, box: Box) -> None:
        super().__init__(nearest, box)
        self.score = torch.zeros_like(self.offset)
        self.count: Tensor | None = None
        self.found = torch.full_like(nearest.distance, torch.inf)

    def step(self, fooled: Tensor, lead: Tensor, gradient: Tensor, progress: float) -> None:
        """Follow the boundary with the number of entries."""
        # Masks are numbers, 1 or 0, and choices weighted means: a processor is fast with these.
        changed, up = self.offset.clone().ne_(0), gradient.to(self.low, copy=True).gt_(0)
        self.found = torch.where(fooled, self.found.minimum(counted(changed)[:, 0]), self.found)
        ends = torch.lerp(self.low, self.high, up)
        gain = gradient * torch.lerp(ends, self.offset, changed)
        most = gain.abs().amax(dim=1, keepdim=True)
        new = gain / torch.where(most > 0, most, 1.0)
        self.score = _MEMORY * self.score + (1 - _MEMORY) * new
        if self.count is None:
            self.count = torch.where(fooled, 0.0, _needed(gain, -lead).to(self.found))
        else:
            gamma = cosine(*_GAMMA, progress)
            fewer = (self.count - 1).minimum((self.count * (1 - gamma)).floor())
            more = (self.count + 1).maximum((self.count * (1 + gamma)).floor())
            self.count = torch.where(fooled, fewer, more).minimum(self.found - 1)
        ends = torch.lerp(ends, self.offset, changed.mul_(gain.gt_(0)))
        self.offset = ends.mul_(largest(self.score, self.count))


def _needed(gain: Tensor, lead: Tensor) -> Tensor:
    """Count how many of the largest gains, `(n, d)`, make up for a lead, `(n,)`."""
    gain, all_of_them = gain.clamp_min(0), gain.shape[1]
    most = min(_ENOUGH, all_of_them) if free_to_read(gain) else all_of_them
    sums = running(gain.topk(most, dim=1).values, 1)
    if most < all_of_them and bool((sums[:, -1] < lead).any()):
        sums = running(gain.sort(dim=1, descending=True).values, 1)
    return (sums < lead[:, None]).sum(dim=1) + 1


class _SigmaZero(_Walk):
    """Shrink a smooth count of the changed entries while the label is lost."""

    def __init__(self, nearest: Nearest, box: Box) -> None:
        super().__init__(nearest, box)
        width = self.high - self.low
        self.width = torch.where(width > 0, width, 1.0)
        self.change = torch.zeros_like(self.offset)  # in ranges
        self.mean = self.square = self.change
        self.least = torch.full_like(self.change[:, :1], _FIRST_LEAST)
        self.taken = 0

    def step(self, fooled: Tensor, lead: Tensor, gradient: Tensor, progress: float) -> None:
        """Take a step of Adam and put small changes back."""
        self.taken += 1
        change = self.change
        count = change * _WIDTH / (change.square() + _WIDTH).square()
        slope = torch.where(fooled[:, None], count, -gradient * self.width)
        most = slope.abs().amax(dim=1, keepdim=True)
        slope = slope / torch.where(most > 0, most, 1.0)
        first, second = _MOMENTS
        self.mean = first * self.mean + (1 - first) * slope
        self.square = second * self.square + (1 - second) * slope.square()
        deviation = (self.square / (1 - second**self.taken)).sqrt() + 1e-8
        length = cosine(*_LENGTH, progress)
        change = change - length * (self.mean / (1 - first**self.taken)) / deviation
        change = change.clamp(self.low / self.width, self.high / self.width)
        raised = _RAISED * length * torch.where(fooled, 1, -1)[:, None]
        self.least = (self.least + raised).clamp(0, 1)
        self.change = change.masked_fill(change.abs() < self.least, 0)
        self.offset = self.change * self.width
