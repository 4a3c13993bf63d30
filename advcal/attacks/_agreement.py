"""Searching on for the examples whose distances are in doubt, until several searches agree."""

from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor

from advcal import _answers
from advcal._frozen import attacked
from advcal._logits import lift, masked
from advcal._sums import wide
from advcal._typing import Attack, Model
from advcal.attacks._balls import free, norm, of_rows
from advcal.attacks._gradient import linearised, logits_at
from advcal.attacks._minimum import from_the_input
from advcal.attacks._nearest import Box, dot, steady, unit
from advcal.attacks._public import public

_ALIGNED = 0.98  # the least cosine of a perturbation with the normal where it ends, near the foot
_FACTOR = 2.0  # by which a distance may be off the linear estimate

_search = public(from_the_input)


@dataclass(frozen=True)
class Agreement:
    """When the distance of an example is believed.

    Attributes:
        within: How far apart distances that agree may be, relative to the least.
        needed: How many have to agree with the least, itself among them.
        searches: How many searches an example has at most, beside the attacks that all have.
        steps: The steps of each.
    """

    within: float
    needed: int
    searches: int
    steps: int

    def holds(self, found: Tensor) -> Tensor:
        """Tell which rows of distances `(n, attacks)` have enough that agree."""
        least = found.amin(dim=1, keepdim=True)
        return (found <= (1 + self.within) * least).sum(dim=1) >= self.needed

    def sought(
        self,
        model: Model,
        inputs: Tensor,
        logits: Tensor,
        box: Box,
        found: Tensor,
        doubtful: Tensor,
    ) -> Tensor:
        """Search towards one other class after another; return all distances, `(n, attacks)`.

        Args:
            model: The model.
            inputs: The inputs.
            logits: What it says of them.
            box: Their bounds.
            found: The distances that there are, shape `(n, attacks)`.
            doubtful: For which examples they are in doubt, shape `(n,)`.
        """
        predicted, n_others = logits.argmax(dim=1), (~masked(logits)).sum(dim=1) - 1
        for rank in range(self.searches):
            rows = (doubtful & (rank < n_others)).nonzero()[:, 0]
            if not len(rows):
                break
            part, labels, bounds = of_rows((inputs, predicted, box), rows)
            attack = partial(_search, rank=rank, steps=self.steps, bounds=bounds)
            column = torch.full_like(found[:, 0], torch.inf)
            column[rows] = reached(attack, _answers.rows_of(model, rows), part, labels)
            found = torch.cat([found, column[:, None]], dim=1)
            doubtful = doubtful & ~self.holds(found)
        return found


def reached(attack: Attack, model: Model, inputs: Tensor, predicted: Tensor) -> Tensor:
    """Return how far an attack went."""
    points = attacked(attack, model, inputs, predicted)
    output = logits_at(_answers.answering(model), points)
    return lengths(points, output, inputs, predicted)


def lengths(points: Tensor, output: Tensor, inputs: Tensor, predicted: Tensor) -> Tensor:
    """Return how far points are from the inputs, infinite if they changed no prediction."""
    changed = _answers.with_softmax(output).argmax(dim=1) != predicted
    return torch.where(changed, norm(wide(points) - wide(inputs)), torch.inf)


def lead(model: Model, points: Tensor, predicted: Tensor) -> tuple[Tensor, Tensor]:
    """Return the logits at points and the gradient of the highest over the prediction's."""
    output, back = linearised(partial(_answers.logits_of, model), points, "the inputs")
    slope = torch.zeros_like(output).scatter_(1, output.argmax(dim=1, keepdim=True), 1)
    gradient = back(slope.scatter_(1, predicted[:, None], -1)).nan_to_num()
    return lift(output.detach()), lift(steady(gradient))


def doubted(inputs: Tensor, points: Tensor, normal: Tensor, box: Box, ratio: Tensor) -> Tensor:
    """Tell which distances are in doubt, shape `(n,)`.

    The nearest point of a boundary is the foot of a perpendicular, so a perturbation that is not
    along the normal where it ends can be shortened. One whose length is another than the linear
    estimate by far has come to a boundary of which the gradient at the input says little.

    Args:
        inputs: The inputs.
        points: The nearest points that were found.
        normal: The gradients of the lead there, of any length.
        box: The bounds of the inputs.
        ratio: The distances relative to the linear estimate.
    """
    normal = free(normal, box)
    stuck = torch.where(normal > 0, points >= box[1], points <= box[0])
    offset = (lift(points) - lift(inputs)).masked_fill(stuck, 0)
    aligned = dot(unit(offset), unit(normal.masked_fill(stuck, 0))) >= _ALIGNED
    return ~(aligned & (ratio > 1 / _FACTOR) & (ratio < _FACTOR))
