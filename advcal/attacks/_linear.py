"""How far the boundary of the linearised model is: a few passes, and no attack."""

from collections.abc import Iterator

import torch
from torch import Tensor

from advcal import _batches, _checks
from advcal._answers import logits_of, uncast_but
from advcal._frozen import frozen
from advcal._logits import lift, masked, rivals
from advcal._typing import Bounds, Model
from advcal.attacks._balls import free, free_to_read, norm, per_example
from advcal.attacks._gradient import select
from advcal.attacks._nearest import Box, behind, dot, unit

_NEWTON = 10  # iterations at most along a ray that the box bends: no pass of the model
_TOLERANCE = 1e-4  # of the goal, by which a bent ray may fall short


def linear_distance(
    model: Model, inputs: Tensor, *, candidates: int, steps: int, bounds: Bounds
) -> Tensor:
    r"""Estimate the L2 distance to the decision boundary, shape `(n,)`, without crossing it.

    One forward pass at the inputs and a backward pass for each of the `candidates` classes of the
    highest other logits give their linearised boundaries; the estimate is the length of the
    shortest move within `bounds` to one of them, $|m_k| / \|\nabla m_k\|_2$ if no bound is in
    the way. Each of the further `steps`, a forward and a backward pass, linearises anew where the
    last move led and goes half of the way from that move to the new one.
    """
    inputs, _, box = _batches.attack_inputs(inputs, inputs.new_zeros(len(inputs)).long(), bounds)
    origin = lift(inputs)
    with frozen(model, grad=True), uncast_but(model, inputs.device) as model:
        points, logits, output = _forward(model, inputs)
        predicted = logits.argmax(dim=1)
        for rank, (rival, found, length) in enumerate(
            _to_each(origin, points, logits, output, candidates, box)
        ):
            if rank == 0:
                ahead, move, distance = rival, found, length
            nearer = length < distance
            distance = torch.where(nearer, length, distance)
            move, ahead = select(nearer, found, move), torch.where(nearer, rival, ahead)
        for _ in range(steps):
            points, logits, output = _forward(model, (origin + move).to(inputs.dtype))
            top = logits.argmax(dim=1)
            ahead = torch.where(top != predicted, top, ahead)
            gap, gradient = behind(points, output, ahead, predicted, retain=False)
            found, reached = _to_plane(origin, gradient, gap, move, box)
            move = select(gradient.flatten(1).any(dim=1), (move + found) / 2, move)
            distance = torch.where(reached | distance.isfinite(), norm(move), distance)
    return distance


def linear_distances(model: Model, inputs: Tensor, *, candidates: int, bounds: Bounds) -> Tensor:
    """Estimate how far each of the classes of the highest other logits is, `(n, candidates)`.

    One forward pass, and a backward pass for each class; the highest logit comes first. Infinite
    for a class that is masked, or whose linearised boundary is not within bounds.
    """
    inputs, _, box = _batches.attack_inputs(inputs, inputs.new_zeros(len(inputs)).long(), bounds)
    with frozen(model, grad=True):
        points, logits, output = _forward(model, inputs)
        each = _to_each(lift(inputs), points, logits, output, candidates, box)
        return torch.stack([length for _, _, length in each], dim=1)


def _to_each(
    origin: Tensor, points: Tensor, logits: Tensor, output: Tensor, candidates: int, box: Box
) -> Iterator[tuple[Tensor, Tensor, Tensor]]:
    """Go through other classes: which, the shortest move to its linearised boundary, its length."""
    predicted = logits.argmax(dim=1)
    ranked = rivals(logits, predicted, candidates)
    off = masked(logits).gather(1, ranked)
    for rank, rival in enumerate(ranked.unbind(dim=1)):
        last = rank == ranked.shape[1] - 1
        gap, gradient = behind(points, output, rival, predicted, retain=not last)
        move, reached = _to_plane(origin, gradient, gap, torch.zeros_like(origin), box)
        yield rival, move, torch.where(reached & ~off[:, rank], norm(move), torch.inf)


def _forward(model: Model, points: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Return the points with a gradient, the logits in float32 or wider, and the graph's end."""
    points = points.detach().clone().requires_grad_()
    output = logits_of(model, points, finite=True)  # else no number that follows could be trusted
    _checks.differentiable(output, "the inputs")
    return points, lift(output.detach()), output


def _to_plane(
    origin: Tensor, gradient: Tensor, gap: Tensor, offset: Tensor, bounds: Box
) -> tuple[Tensor, Tensor]:
    """Return the shortest moves within bounds to where a linearised lead is 0, and which get there.

    The lead is `-gap` at the offset. The shortest move is a multiple of the gradient, cut at the
    bounds: what it gains is concave and piecewise linear in the multiple, so Newton climbs to it.
    """
    gradient = free(gradient, bounds)
    normal, slope = unit(gradient), norm(gradient)
    low, high = bounds[0] - origin, bounds[1] - origin
    goal = (gap / slope).to(origin.dtype) + dot(normal, offset)
    goal = goal.nan_to_num(torch.inf, posinf=torch.inf, neginf=0.0).clamp_min(0)
    multiple = torch.zeros_like(goal)
    for _ in range(_NEWTON):
        straight = per_example(multiple, normal) * normal
        move = straight.clamp(low, high)
        short = goal - dot(normal, move)
        reached = short <= _TOLERANCE * goal
        moving = torch.where(normal > 0, straight < high, straight > low)
        gain = dot(normal * moving, normal)
        going = ~reached & goal.isfinite() & (gain > 0)
        if free_to_read(going) and not bool(going.any()):
            break
        multiple = torch.where(going, multiple + short / gain, multiple)
    return move, reached & goal.isfinite()
