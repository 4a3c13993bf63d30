"""Images of whole levels, which are all the images that there are, and how far away they are."""

from dataclasses import dataclass, replace

import torch
from torch import Tensor

from advcal._logits import lift
from advcal._sums import wide
from advcal.attacks._balls import Ball, per_example

_ROUNDING = 1e-6  # of a level, by which a point on the grid may seem to be off it


@dataclass(frozen=True, eq=False)
class Grid:
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
    def of(cls, region: Ball, levels: int, *, within: bool, order: float) -> "Grid":
        """Lay the grid from the lowest to the highest bound."""
        x, top = lift(region.centre), levels - 1
        low, high = (
            torch.as_tensor(end, dtype=x.dtype, device=x.device).expand(x.shape)
            for end in region.bounds
        )
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
        inside = grid.inside(grid.at(centre, grid.each(0)))
        if within and not bool(inside.all()):
            first = int((~inside).nonzero()[0])
            each = region.radius[first] if isinstance(region.radius, Tensor) else region.radius
            nearest = grid.length(centre.round().clamp(0, top))[first]
            told = "expected eps of half a level or more in each value of inputs between levels"
            found = f"got {each:g} for example {first}, where no image is nearer than {nearest:g}"
            raise ValueError(f"{told}, {found}")
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
