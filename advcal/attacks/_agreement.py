"""Searching on for the examples whose distances are in doubt, until several searches agree."""

from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor

from advcal import _answers
from advcal._frozen import attacked
from advcal._logits import lift, masked, rivals
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
        needed: How many have to agree with the least, itself among them, if the attacks that all
            have differ; one more for those in doubt by `doubted`.
        estimated: Of how many other classes a linear estimate tells which to search for first.
        margin: By which share the estimate of another class than the one that was reached may be
            longer than the distance to that, so that a search for it is worthwhile; -1 if never.
        searches: How many searches an example has at most, beside the attacks that all have.
        steps: The steps of each.
    """

    slack: float
    within: float
    needed: int
    estimated: int
    margin: float
    searches: int
    steps: int

    def sought(
        self,
        model: Model,
        inputs: Tensor,
        predicted: Tensor,
        box: Box,
        found: Tensor,
        plan: tuple[Tensor, Tensor, Tensor],
    ) -> Tensor:
        """Search towards one other class after another; return all distances, `(n, attacks)`.

        Args:
            model: The model.
            inputs: The inputs.
            predicted: Their classes.
            box: Their bounds.
            found: The distances that there are, shape `(n, attacks)`.
            plan: What `plan` returns.
        """
        others, needed, near = plan
        doubtful = needed > 0
        for rank, towards in enumerate(others.unbind(dim=1)):
            rows = (doubtful & (towards >= 0)).nonzero()[:, 0]
            if not len(rows):
                break
            part, labels, bounds, aims = of_rows((inputs, predicted, box, towards), rows)
            attack = partial(_search, towards=aims, steps=self.steps, bounds=bounds)
            column = torch.full_like(found[:, 0], torch.inf)
            column[rows] = reached(attack, _answers.rows_of(model, rows), part, labels)
            found = torch.cat([found, column[:, None]], dim=1)
            agreeing = found <= (1 + self.within) * found.amin(dim=1, keepdim=True)
            agreeing = (agreeing & found.isfinite()).sum(dim=1)
            doubtful = doubtful & ((agreeing < needed) | (rank + 1 < near))
        return found

    def plan(
        self, logits: Tensor, found: Tensor, rough: Tensor, estimates: Tensor, there: Tensor
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Tell which classes to search for, until how many distances agree, how often at least.

        If the distances differ, the class that seems nearest comes first; if they are in doubt
        anyway, gradients may say little, and that of the highest logit does. If neither is so, all
        that is in doubt is whether another class than the one that was reached is nearer: each that
        seems to be about as near is searched for, and no more distances have to agree than there
        are.

        Args:
            logits: What the model says of the inputs.
            found: The distances, shape `(n, attacks)`; in doubt if they differ.
            rough: For which examples they are in doubt anyway, shape `(n,)`.
            estimates: How far the classes of the highest other logits seem, shape `(n, classes)`.
            there: The classes that were reached, shape `(n,)`.

        Returns:
            The classes in their order, below 0 if masked, shape `(n, classes)`; how many distances
            have to agree, 0 if there is no doubt, and how many searches to make at least, `(n,)`.
        """
        others = rivals(logits, logits.argmax(dim=1), self.searches)
        seems = torch.full_like(others, torch.inf, dtype=estimates.dtype)
        seems[:, : estimates.shape[1]] = estimates
        besides = seems.masked_fill(others == there[:, None], torch.inf)
        least = found.amin(dim=1)
        differing = found.amax(dim=1) > (1 + self.slack) * least
        near = (besides < (1 + self.margin) * least[:, None]).sum(dim=1)
        near = near.masked_fill(differing | rough, 0)
        needed = torch.where(near > 0, found.shape[1], 0)
        needed = torch.where(differing | rough, self.needed + rough.int(), needed)
        seems = torch.where(differing[:, None], seems, besides)
        order = seems.masked_fill(rough[:, None], torch.inf).argsort(dim=1, stable=True)
        others = others.masked_fill(masked(logits).gather(1, others), -1)
        return others.gather(1, order), needed, near


def reached(attack: Attack, model: Model, inputs: Tensor, predicted: Tensor) -> Tensor:
    """Return how far an attack goes, infinite if it changes no prediction."""
    points = attacked(attack, model, inputs, predicted)
    output = logits_at(_answers.answering(model), points)
    return _lengths(points, output, inputs, predicted)


def attempt(
    attack: Attack, model: Model, inputs: Tensor, predicted: Tensor
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Return how far an attack goes, its points, their classes and the normals, of any length."""
    points = attacked(attack, model, inputs, predicted)
    output, back = linearised(partial(_answers.logits_of, model), points, "the inputs")
    there = output.argmax(dim=1)
    slope = torch.zeros_like(output).scatter_(1, there[:, None], 1)
    gradient = back(slope.scatter_(1, predicted[:, None], -1)).nan_to_num()
    distances = _lengths(points, lift(output.detach()), inputs, predicted)
    return distances, points, there, lift(steady(gradient))


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
