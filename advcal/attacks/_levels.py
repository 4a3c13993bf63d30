"""Valid images: results on the grid of 8-bit images, or of any number of levels."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from advcal._logits import lift
from advcal._sums import wide
from advcal._typing import Model
from advcal.attacks._balls import Ball, ball, per_example
from advcal.attacks._gradient import logits_at

_PASSES = 14  # forward passes of a search along a line
# Powers of the sizes of changes, tried in turn: below 1 they become more alike, above 1 fewer.
_SHAPES = (1.0, 0.7, 1.4, 0.4, 2.0, 0.2, 3.0, 0.0)
_ROUNDING = 1e-6  # of a level, by which a point on the grid may seem to be off it

ROW = """levels: 256 for 8-bit images: each value of the result is then one of so many levels,
    evenly from the lowest bound to the highest, which must be finite. The result is in the
    ball, and what the attack reached it reaches too, for up to 15 more forward passes. None
    leaves values as they are."""


def on_grid(
    attack: Callable[..., Tensor],
    model: Model,
    inputs: Tensor,
    labels: Tensor,
    options: dict[str, Any],
    levels: int,
    *,
    keeps: bool,
) -> Tensor:
    """Run an attack, and give images that do what its points do.

    What the attack is its options say: with `eps` and `norm` it stays in that ball, without `eps`
    it looks for the nearest point.

    Args:
        attack: The attack.
        model: The model, frozen.
        inputs: The inputs, shape `(n, ...)`.
        labels: The labels, shape `(n,)`.
        options: Its options, checked, with the defaults among them.
        levels: The number of levels.
        keeps: Whether it leaves the prediction as it is.
    """
    near = "eps" not in options
    norm = options.get("norm", "l2" if near else "linf")
    kind = "l1" if norm == "l0" else norm  # no ball in L0, where radii are numbers of entries
    region = ball(kind, inputs, options.get("eps", 0.0), options["bounds"])
    order = 0 if norm == "l0" else region.order
    grid = _Grid.of(region, levels, within=not near and "norm" in options, order=order)
    own = options | ({"eps": grid.radius} if grid.within else {})
    points = attack(model, inputs, labels, **own)
    told = None if keeps else labels
    does = _Does.of(model, grid, points, told, options.get("targeted", False))
    search = _nearest if near else _shrunk if keeps else _reshaped
    return grid.points(search(grid, grid.offset(points), does))


@dataclass(frozen=True, eq=False)
class _Does:
    """Tells which images still do what the points of an attack do.

    Attributes:
        model: The model, frozen.
        grid: The images that there are.
        classes: What the predictions are compared with, shape `(n,)`.
        equal: Whether they are to be equal.
        free: Of which examples nothing is asked, shape `(n,)`.
    """

    model: Model
    grid: "_Grid"
    classes: Tensor
    equal: bool
    free: Tensor

    @classmethod
    def of(
        cls, model: Model, grid: "_Grid", points: Tensor, labels: Tensor | None, targeted: bool
    ) -> "_Does":
        """Ask for the prediction at the points; with labels only for what the attack reached."""
        said = logits_at(model, points).argmax(dim=1)
        if labels is None:
            return cls(model, grid, said, True, torch.zeros_like(said, dtype=torch.bool))
        return cls(model, grid, labels, targeted, (said == labels) != targeted)

    def __call__(self, levels: Tensor) -> Tensor:
        """Look at images in whole levels, shape `(n, d)`; return which do, shape `(n,)`."""
        said = logits_at(self.model, self.grid.points(levels)).argmax(dim=1)
        return self.free | ((said == self.classes) == self.equal)


# --- where to look for points that still do --------------------------------------------------


def _nearest(grid: "_Grid", offset: Tensor, does: _Does) -> Tensor:
    """Bisect the line from the inputs through the points, for the nearest image that does."""
    share = grid.each(1)
    low, high, least = grid.each(0), grid.each(torch.inf), grid.each(torch.inf)
    found = grid.at(offset, share)
    for _ in range(_PASSES):
        there = grid.at(offset, share)
        good, length = does(there), grid.length(there)
        found = torch.where((good & (length < least))[:, None], there, found)
        least = torch.where(good, torch.minimum(length, least), least)
        low, high = torch.where(good, low, share), torch.where(good, share, high)
        share = torch.where(high.isinf(), 2 * share, (low + high) / 2)
    return found


def _shrunk(grid: "_Grid", offset: Tensor, does: _Does) -> Tensor:
    """Bisect the line from the inputs to the points, for the furthest image that does."""
    share, low, high = grid.each(1), grid.each(0), grid.each(1)
    found = grid.at(offset, grid.each(0))
    for tried in range(_PASSES):
        there = grid.furthest(offset, share)
        good = does(there)
        found = torch.where((good & (share > low))[:, None], there, found)
        if tried == 0 and good.all():
            break
        low, high = torch.where(good, share, low), torch.where(good, high, share)
        share = (low + high) / 2
    return found


def _reshaped(grid: "_Grid", offset: Tensor, does: _Does) -> Tensor:
    """Try ever other shares of changes, each as far as the ball goes, until the image does."""
    found = grid.furthest(offset, grid.each(1))
    done = does(found)
    largest = offset.abs().amax(dim=1, keepdim=True).clamp_min(torch.finfo(offset.dtype).tiny)
    for power in _SHAPES:
        if done.all():
            break
        shape = offset.sign() * largest * (offset.abs() / largest) ** power
        there = grid.furthest(shape, grid.each(8))
        found = torch.where(done[:, None], found, there)
        done = done | does(there)
    return found


# --- the images that there are ---------------------------------------------------------------


@dataclass(frozen=True, eq=False)
class _Grid:
    """Images of whole levels, as rows `(n, d)` of numbers of levels, in float64.

    Attributes:
        region: The balls around the inputs; only their norm counts if not `within`.
        within: Whether images must be in the balls.
        order: The order of the norm.
        top: The highest level; the lowest is 0.
        low: The value of the lowest level, of the shape of the inputs and of float32 or wider.
        width: How much higher the value of the highest is, likewise.
        centre: The inputs, in levels.
    """

    region: Ball
    within: bool
    order: float
    top: int
    low: Tensor
    width: Tensor
    centre: Tensor

    @classmethod
    def of(cls, region: Ball, levels: int, *, within: bool, order: float) -> "_Grid":
        """Lay the grid from the lowest to the highest bound."""
        x, top = lift(region.centre), levels - 1
        low, high = (torch.as_tensor(end).to(x).expand(x.shape) for end in region.bounds)
        width, precision = high - low, torch.finfo(region.centre.dtype).eps / 2
        if not bool(width.isfinite().all()):
            raise ValueError("expected finite bounds for levels, got none or infinite ones")
        if bool(((width > 0) & (width <= top * precision * high.maximum(-low))).any()):
            found = f"{levels} in {region.centre.dtype}"
            raise ValueError(f"expected levels that differ in the dtype of the inputs, got {found}")
        grid = cls(region, within, order, top, low, width, x)
        centre = grid.counted(wide(x) - wide(low))
        on = (grid.points(centre.round()) - region.centre).abs() <= 4 * precision * width
        centre = torch.where(on.flatten(1), centre.round(), centre)
        grid = replace(grid, centre=centre)
        if within and not bool(grid.inside(grid.at(centre, grid.each(0))).all()):
            told = "expected eps of half a level or more for inputs that are between levels"
            raise ValueError(f"{told}, got {region.radius}, within which there is no image")
        return grid

    @property
    def radius(self) -> float | Tensor:
        """The radius, in `linf` of a whole number of levels if the inputs are on them."""
        radius, width = self.region.radius, wide(self.width.max())
        even = ((self.width == self.width.max()) | (self.width == 0)).all() & (width > 0)
        on = (self.centre == self.centre.round()).all()
        if self.region.order != torch.inf or not bool(even & on):
            return radius
        whole = (radius * self.top / width + _ROUNDING).floor() * width / self.top
        return whole if isinstance(radius, Tensor) else float(whole)

    def points(self, levels: Tensor) -> Tensor:
        """Return images as inputs, divided as readers of 8-bit images do."""
        share = levels.reshape(self.low.shape).to(self.low.dtype) / self.top
        points = (self.low + share * self.width).to(self.region.centre.dtype)
        return points.clamp(*self.region.bounds)

    def counted(self, offset: Tensor) -> Tensor:
        """Return how many levels an offset is, 0 where the bounds meet."""
        levels = offset / wide(torch.where(self.width > 0, self.width, torch.inf)) * self.top
        return levels.flatten(1)

    def offset(self, points: Tensor) -> Tensor:
        """Return how many levels points are from the inputs."""
        return self.counted(wide(points) - wide(self.region.centre))

    def each(self, value: float) -> Tensor:
        """Return a number for each example, shape `(n,)`."""
        return torch.full_like(self.centre[:, 0], value)

    def length(self, levels: Tensor) -> Tensor:
        """Measure how far images are from the inputs, in units of the inputs, shape `(n,)`."""
        sizes = (levels - self.centre) / self.top * wide(self.width.flatten(1))
        lengths: Tensor = torch.linalg.vector_norm(sizes, self.order, dim=1)
        return lengths

    def inside(self, levels: Tensor) -> Tensor:
        """Tell which images are in the balls, judged in whole levels, shape `(n,)`."""
        slack = _ROUNDING / self.top * wide(self.width.max())
        return self.length(levels) <= self.region.radius + slack

    def at(self, offset: Tensor, share: Tensor) -> Tensor:
        """Round points on the lines from the inputs, at shares `(n,)` of the offsets."""
        rounded = (self.centre + share[:, None] * offset).round().clamp(0, self.top)
        if not self.within or self.region.order != torch.inf:
            return rounded
        radius = per_example(self.region.radius, self.centre)
        reach = self.counted(torch.ones_like(wide(self.width))) * radius + _ROUNDING
        return rounded.clamp((self.centre - reach).ceil(), (self.centre + reach).floor())

    def furthest(self, offset: Tensor, share: Tensor) -> Tensor:
        """Round as far along the lines as the balls go, but no further than a share."""
        if not self.within or bool(self.inside(self.at(offset, share)).all()):
            return self.at(offset, share)
        low, high, share = self.each(0), share, share
        for _ in range(24):
            good = self.inside(self.at(offset, share))
            low, high = torch.where(good, share, low), torch.where(good, high, share)
            share = (low + high) / 2
        return self.at(offset, low)
