"""Valid images: results on the grid of 8-bit images, or of any number of levels."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from advcal._logits import lift, log_odds
from advcal._sums import wide
from advcal._typing import Model
from advcal.attacks._balls import ball
from advcal.attacks._gradient import logits_at
from advcal.attacks._grid import Grid
from advcal.attacks._nearest import unit
from advcal.losses import margin

_PASSES = 14  # forward passes of a search along a line
_TILTS = 8  # and of a search for how to round
# Powers of the sizes of changes, tried in turn: below 1 they become more alike, above 1 fewer.
_SHAPES = (1.0, 0.7, 1.4, 0.4, 2.0, 0.2, 3.0, 0.0)
_LEANS = (0.25, 0.5, 0.75, 1.0)  # and shares of the gradient in a change

ROW = """levels: 256 for 8-bit images: each value of the result is then one of so many levels,
    evenly from the lowest bound to the highest, which must be finite. The result stays in the
    ball if there is one, and what the attack reached it reaches too if an image there does, with
    rare exceptions. It takes up to 15 more forward passes and 2 backward (35 and 4 if it moves a
    confidence by gradients). None leaves values as they are."""


def on_grid(
    attack: Callable[..., Tensor],
    model: Model,
    inputs: Tensor,
    labels: Tensor,
    options: dict[str, Any],
    levels: int,
    *,
    keeps: bool | None,
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
        keeps: Whether it leaves the prediction as it is; None if it looks at no model.
    """
    near = "eps" not in options
    norm = options.get("norm", "l2" if near else "linf")
    kind = "l1" if norm == "l0" else norm  # no ball in L0, where radii are numbers of entries
    region = ball(kind, inputs, options.get("eps", 0.0), options["bounds"])
    order = 0 if norm == "l0" else region.order
    grid = Grid.of(region, levels, within=not near and "norm" in options, order=order)
    own = options | ({"eps": grid.radius} if grid.within else {})
    points = attack(model, inputs, labels, **own)
    offset = grid.offset(points)
    if keeps is None:
        return grid.points(grid.furthest(offset, grid.each(1)))
    told = None if keeps else labels
    does = _Does.of(model, grid, points, told, options.get("targeted", False))
    search = _nearest if near else _tilted if keeps else _reshaped
    if keeps and options.get("method") == "random_search":  # which takes no gradient
        search = _shrunk
    return grid.points(search(grid, offset, does))


@dataclass(frozen=True, eq=False)
class _Does:
    """Tells which images still do what the points of an attack do.

    Attributes:
        model: The model, frozen.
        grid: The images that there are.
        classes: What the predictions are compared with, shape `(n,)`.
        equal: Whether they are to be equal.
        free: Of which examples nothing is asked, shape `(n,)`.
        points: The points of the attack.
    """

    model: Model
    grid: Grid
    classes: Tensor
    equal: bool
    free: Tensor
    points: Tensor

    @classmethod
    def of(
        cls, model: Model, grid: Grid, points: Tensor, labels: Tensor | None, targeted: bool
    ) -> "_Does":
        """Ask for the prediction at the points; with labels only for what the attack reached."""
        said = logits_at(model, points).argmax(dim=1)
        if labels is None:
            return cls(model, grid, said, True, torch.zeros_like(said, dtype=torch.bool), points)
        return cls(model, grid, labels, targeted, (said == labels) != targeted, points)

    def __call__(self, levels: Tensor) -> Tensor:
        """Look at images in whole levels, shape `(n, d)`; return which do, shape `(n,)`."""
        return self.odds(levels)[0]

    def odds(self, levels: Tensor) -> tuple[Tensor, Tensor]:
        """Return which images do, and the log-odds of the classes there, both of shape `(n,)`."""
        return self.odds_at(self.grid.points(levels))

    def odds_at(self, points: Tensor) -> tuple[Tensor, Tensor]:
        """Return the same of points, on the grid or not."""
        logits = logits_at(self.model, points)
        done = self.free | ((logits.argmax(dim=1) == self.classes) == self.equal)
        return done, wide(-log_odds(logits, self.classes))

    def slopes(self, points: Tensor) -> tuple[Tensor, Tensor]:
        """Return the gradients of these log-odds and of the lead over the next class, `(n, d)`.

        Each is scaled to a length of 1, and 0 for a model that has no gradient.
        """
        with torch.enable_grad():
            points = points.detach().clone().requires_grad_()
            logits = lift(self.model(points * 1))
            lead = -margin(logits, self.classes, reduction="none")
            values = -log_odds(logits, self.classes), lead
            found: list[Tensor | None] = []
            for value in values if lead.requires_grad else ():
                found += torch.autograd.grad(
                    value.sum(), points, retain_graph=True, allow_unused=True
                )
        slopes = [wide(points.detach() * 0 if each is None else each) for each in found]
        slopes = slopes or [wide(torch.zeros_like(points))] * 2
        first, second = (unit(each.nan_to_num()).flatten(1) for each in slopes)
        return first, second


# --- where to look for points that still do --------------------------------------------------


def _nearest(grid: Grid, offset: Tensor, does: _Does) -> Tensor:
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


def _shrunk(grid: Grid, offset: Tensor, does: _Does) -> Tensor:
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


def _tilted(grid: Grid, offset: Tensor, does: _Does) -> Tensor:
    """Round such that the prediction stays and the confidence comes out as it was at the points.

    To round up or down is free: each entry goes where the confidence falls or where the lead of the
    prediction grows, by the sign of a mean of both gradients, and its weights are bisected: first
    with the gradients at the points, then with those at the best image so far.
    """
    wanted = does.odds_at(does.points)[1]
    found, at = _shrunk(grid, offset, does), does.points
    least = (does.odds(found)[1] - wanted).abs()
    for _ in range(2):
        odds, lead = does.slopes(at)
        low, high, share = grid.each(0), grid.each(1), grid.each(0.5)
        for _ in range(_TILTS):
            way = torch.lerp(-odds, lead, share[:, None]).sign()
            there = grid.furthest(offset + way / 2, grid.each(1))
            good, there_odds = does.odds(there)
            miss = (there_odds - wanted).abs()
            better = good & (miss < least)
            found = torch.where(better[:, None], there, found)
            least = torch.where(better, miss, least)
            more = ~good | (there_odds < wanted)
            low, high = torch.where(more, share, low), torch.where(more, high, share)
            share = (low + high) / 2
        at = grid.points(found)
    return found


def _reshaped(grid: Grid, offset: Tensor, does: _Does) -> Tensor:
    """Try ever other shapes of changes, each as far as the ball goes, until the image does."""
    found = grid.furthest(offset, grid.each(1))
    done = does(found)
    if done.all():
        return found
    for shape in _shapes(offset, does):
        there = grid.furthest(shape, grid.each(8 if grid.within else 1))
        good = does(there)
        found = torch.where((good & ~done)[:, None], there, found)
        done = done | good
        if done.all():
            break
    return found


def _shapes(offset: Tensor, does: _Does) -> Iterator[Tensor]:
    """Give changes, `(n, d)`: of sizes in other shares, then some that lean to the gradient."""
    largest = offset.abs().amax(dim=1, keepdim=True).clamp_min(torch.finfo(offset.dtype).tiny)
    for power in _SHAPES:
        yield offset.sign() * largest * (offset.abs() / largest) ** power
    if not torch.is_grad_enabled():  # an attack that takes no gradient
        return
    lead = does.slopes(does.points)[1]
    way = (lead if does.equal else -lead) * offset.norm(dim=1, keepdim=True)
    for share in _LEANS:
        yield torch.lerp(offset, way, share)
