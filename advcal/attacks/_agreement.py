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

_FACTOR = 2.0  # by which a distance may be off the linear estimate

_search = public(from_the_input)


@dataclass(frozen=True)
class Agreement:
    """When the distance of an example is believed.

    Attributes:
        slack: By which share a distance may be too long, as far as it shows, and still be believed.
        within: How far apart distances that agree may be, relative to the least.
        needed: How many have to agree with the least, itself among them; one more for those in
            doubt by `doubted`.
        searches: How many searches an example has at most, beside the attacks that all have.
        steps: The steps of each.
    """

    slack: float
    within: float
    needed: int
    searches: int
    steps: int

    def sought(
        self,
        model: Model,
        inputs: Tensor,
        logits: Tensor,
        box: Box,
        found: Tensor,
        rough: Tensor,
    ) -> Tensor:
        """Search towards one other class after another; return all distances, `(n, attacks)`.

        Args:
            model: The model.
            inputs: The inputs.
            logits: What it says of them.
            box: Their bounds.
            found: The distances that there are, shape `(n, attacks)`; in doubt if they differ.
            rough: For which examples they are in doubt anyway, shape `(n,)`.
        """
        predicted, n_others = logits.argmax(dim=1), (~masked(logits)).sum(dim=1) - 1
        doubtful = rough | (found.amax(dim=1) > (1 + self.slack) * found.amin(dim=1))
        for rank in range(self.searches):
            rows = (doubtful & (rank < n_others)).nonzero()[:, 0]
            if not len(rows):
                break
            part, labels, bounds = of_rows((inputs, predicted, box), rows)
            attack = partial(_search, rank=rank, steps=self.steps, bounds=bounds)
            column = torch.full_like(found[:, 0], torch.inf)
            column[rows] = reached(attack, _answers.rows_of(model, rows), part, labels)
            found = torch.cat([found, column[:, None]], dim=1)
            agreeing = found <= (1 + self.within) * found.amin(dim=1, keepdim=True)
            agreeing = (agreeing & found.isfinite()).sum(dim=1)
            doubtful = doubtful & (agreeing < self.needed + rough.int())
        return found


def reached(attack: Attack, model: Model, inputs: Tensor, predicted: Tensor) -> Tensor:
    """Return how far an attack goes, infinite if it changes no prediction."""
    points = attacked(attack, model, inputs, predicted)
    output = logits_at(_answers.answering(model), points)
    return _lengths(points, output, inputs, predicted)


def attempt(
    attack: Attack, model: Model, inputs: Tensor, predicted: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    """Return how far an attack goes, its points and the normals there, of any length."""
    points = attacked(attack, model, inputs, predicted)
    output, back = linearised(partial(_answers.logits_of, model), points, "the inputs")
    slope = torch.zeros_like(output).scatter_(1, output.argmax(dim=1, keepdim=True), 1)
    gradient = back(slope.scatter_(1, predicted[:, None], -1)).nan_to_num()
    distances = _lengths(points, lift(output.detach()), inputs, predicted)
    return distances, points, lift(steady(gradient))


def _lengths(points: Tensor, output: Tensor, inputs: Tensor, predicted: Tensor) -> Tensor:
    changed = _answers.with_softmax(output).argmax(dim=1) != predicted
    return torch.where(changed, norm(wide(points) - wide(inputs)), torch.inf)


def doubted(
    inputs: Tensor, points: Tensor, normal: Tensor, box: Box, ratio: Tensor, slack: float
) -> Tensor:
    """Tell which distances are in doubt, shape `(n,)`.

    The nearest point of a boundary is the foot of a perpendicular: a perturbation at an angle to
    the normal where it ends is longer than a flat boundary there allows, by one over the cosine.
    One whose length is another than the linear estimate by far has come to a boundary of which the
    gradient at the input says little.

    Args:
        inputs: The inputs.
        points: The nearest points that were found.
        normal: The normals of the boundary there, of any length.
        box: The bounds of the inputs.
        ratio: The distances relative to the linear estimate.
        slack: By which share a perturbation may be too long by its angle.
    """
    normal = free(normal, box)
    stuck = ((normal > 0) & (points >= box[1])) | ((normal < 0) & (points <= box[0]))
    offset = (lift(points) - lift(inputs)).masked_fill(stuck, 0)
    aligned = dot(unit(offset), unit(normal.masked_fill(stuck, 0))) >= 1 - slack
    return ~(aligned & (ratio > 1 / _FACTOR) & (ratio < _FACTOR))
