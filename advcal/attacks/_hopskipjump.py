"""HopSkipJump: the nearest adversarial point by what a model decides, and nothing else."""

import math
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor

from advcal import _checks
from advcal._random import draw
from advcal._typing import Bounds, Model, Progress
from advcal.attacks._balls import free, per_example
from advcal.attacks._gradient import logits_at, select
from advcal.attacks._nearest import Box, Nearest, lengths, unit
from advcal.attacks._shown import shown

_PROBES = 30  # in the first round; the square root of the number of the round times that later on
_REACH = 0.01  # how far probes go, of the distance
_STARTS = 100  # how many random points to start from are tried at most


def hopskipjump(
    model: Model,
    inputs: Tensor,
    labels: Tensor,
    *,
    norm: Literal["linf", "l2"] = "linf",
    steps: int = 1000,
    bounds: Bounds = (0.0, 1.0),
    generator: torch.Generator | None = None,
    progress: Progress | None = None,
) -> Tensor:
    r"""Look for the nearest adversarial point where a model tells its decisions alone.

    Starts at noise that fools the model and comes back to the boundary by bisection. Then, in
    rounds: probes around the point on the boundary tell its normal, $\mathrm{mean}((\varphi -
    \bar\varphi) u)$ with $u$ a random direction and $\varphi$ 1 where it fools the model and -1
    where not; a step along the normal, halved until it fools; bisection back towards the input.
    Probes go 1 % of the distance far: a model that rounds its inputs more coarsely hides the normal
    from them.

    Of the logits only the class of the highest counts. A model that gives labels is
    `lambda x: one_hot(model(x), n_classes).float()`, with `one_hot` of `torch.nn.functional`. Every
    example takes part in every call, so `steps` are the queries of each.

    Args:
        model: Inputs `(n, ...)` to logits `(n, classes)`, or to anything whose highest is the
            decision.
        inputs: The inputs within `bounds`, shape `(n, ...)`.
        labels: Integer labels, shape `(n,)`, which are left.
        norm: `"linf"` or `"l2"`.
        steps: How often to call the model.
        bounds: The lowest and highest valid value: finite numbers, or tensors that broadcast.
        generator: Where the noise comes from; a copy of the global one if None.
        progress: A wrapper of an iterable that shows progress, such as `tqdm.tqdm`: over the
            examples times the calls of the model.

    Returns:
        The nearest of all points that fooled the model, of the shape, dtype and device of
        `inputs`; an example for which there is none comes back unchanged.

    Raises:
        TypeError: If an argument is of the wrong kind or dtype.
        ValueError: If a shape, value or device is wrong, or the model returns NaN.

    Example:
        >>> from advcal.attacks import hopskipjump
        >>> network = lambda inputs: (inputs - 0.25) @ torch.tensor([[1.0, -1.0], [0.0, 0.0]])
        >>> one_hot = torch.nn.functional.one_hot
        >>> decides = lambda inputs: one_hot(network(inputs).argmax(dim=1), 2).float()
        >>> adversarial = hopskipjump(decides, torch.tensor([[0.5, 0.5]]), torch.tensor([0]))
        >>> print(f"{(adversarial - torch.tensor([[0.5, 0.5]])).abs().max():.2f}")
        0.25

    References:
        Chen, Jordan & Wainwright, HopSkipJumpAttack: A Query-Efficient Decision-Based Attack, IEEE
        S&P 2020, algorithms 1 and 2.
    """
    box: Box = bounds
    low, high = (torch.as_tensor(end, dtype=inputs.dtype, device=inputs.device) for end in box)
    if not bool((low.isfinite() & high.isfinite()).all()):
        raise ValueError("expected finite bounds, to start at noise, got none or infinite ones")
    with shown(model, progress, len(inputs), steps) as model:
        nearest = Nearest(inputs, labels, norm=norm)
        search = _Search(model, nearest, box, norm, generator, steps)
        search.fools(inputs)
        points, turn = search.start(low, high), 0
        while search.left and bool((points != inputs).any()):  # else there is nothing to look for
            turn += 1
            points = search.walked(points, search.normal(points, round(_PROBES * turn**0.5)), turn)
        return nearest.points


@dataclass
class _Search:
    """A search in rounds that all examples make together.

    Attributes:
        model: The model, frozen.
        nearest: The nearest points yet, of all that were looked at.
        box: The lowest and the highest valid value.
        norm: The norm.
        source: Where random numbers come from.
        left: How many looks are left.
    """

    model: Model
    nearest: Nearest
    box: tuple[Any, Any]
    norm: str
    source: torch.Generator | None
    left: int

    def fools(self, points: Tensor) -> Tensor:
        """Look at points: a query for each example, if there is one left."""
        if not self.left:
            return torch.zeros_like(self.nearest.labels, dtype=torch.bool)
        self.left -= 1
        logits = logits_at(self.model, points)
        _checks.label_range(self.nearest.labels, logits.shape[1])
        return self.nearest.see(points, logits)[0]

    def start(self, low: Tensor, high: Tensor) -> Tensor:
        """Find noise, corners of the box or plain colours that fool the model, and bisect."""
        points, found = self.nearest.points, self.nearest.distance == 0
        for tried in range(_STARTS):
            if not self.left or bool(found.all()):
                break
            like, kind = points, tried % 3
            for axis in range(2, points.ndim if kind == 2 else 2):
                like = like.narrow(axis, 0, 1)
            noise = draw(torch.rand, like, self.source)
            noise = noise.round() if kind == 1 else noise
            there = (low + noise * (high - low)).clamp(*self.box).expand_as(points)
            fooled = self.fools(there)
            points, found = select(fooled & ~found, there, points), found | fooled
        return self.bisected(points)

    def bisected(self, points: Tensor) -> Tensor:
        """Come back towards the inputs to the boundary, from points that fool the model."""
        low = torch.zeros_like(self.nearest.distance)
        high, size = low + 1, self.nearest.inputs[0].numel()
        for _ in range(math.ceil(math.log2(size**0.5 / _REACH))):
            share = (low + high) / 2
            fooled = self.fools(self._between(points, share))
            low, high = torch.where(fooled, low, share), torch.where(fooled, share, high)
        return self._between(points, high)

    def normal(self, points: Tensor, probes: int) -> Tensor:
        """Estimate the normal of the boundary, towards where the model is fooled."""
        distance = lengths(points - self.nearest.inputs, self.norm)
        length = per_example(distance * _REACH, points).to(points.dtype)
        probes = min(probes, self.left)
        total, signed = torch.zeros_like(points), torch.zeros_like(points)
        mean = torch.zeros_like(distance)
        for _ in range(probes):
            noise = free(draw(torch.randn, points, self.source), self.box)
            noise = unit(noise).to(points.dtype) if self.norm == "l2" else noise
            there = (points + length * noise).clamp(*self.box)
            move = (there - points) / torch.where(length > 0, length, 1.0)
            sign = torch.where(self.fools(there), 1.0, -1.0)
            total, mean = total + move, mean + sign
            signed = signed + per_example(sign, move).to(move.dtype) * move
        mean = mean / max(probes, 1)
        level = per_example(torch.where(mean.abs() < 1, mean, 0.0), total).to(total.dtype)
        return signed - level * total

    def walked(self, points: Tensor, normal: Tensor, turn: int) -> Tensor:
        """Step along the normal, half as far until that fools the model, and bisect back."""
        direction = normal.sign() if self.norm == "linf" else unit(normal).to(points.dtype)
        size = lengths(points - self.nearest.inputs, self.norm) / turn**0.5
        found, best = torch.zeros_like(self.nearest.labels, dtype=torch.bool), points
        for _ in range(12):
            move = per_example(size, points).to(points.dtype) * direction
            there = (points + move).clamp(*self.box)
            fooled = self.fools(there) & ~found
            best, found, size = select(fooled, there, best), found | fooled, size / 2
            if bool(found.all()) or not self.left:
                break
        return self.bisected(best)

    def _between(self, points: Tensor, share: Tensor) -> Tensor:
        """Go a share of the distance: along the line, or by what is further off in a cube."""
        offset = points - self.nearest.inputs
        if self.norm == "linf":
            reach = share * lengths(offset, self.norm)
            most = per_example(reach, offset).to(offset.dtype)
            return (self.nearest.inputs + offset.clamp(-most, most)).clamp(*self.box)
        there = self.nearest.inputs + per_example(share, offset).to(offset.dtype) * offset
        return there.clamp(*self.box)
