"""DeepFool: step by step to the nearest boundary of the linearised model."""

from collections.abc import Callable
from typing import Literal

import torch
from torch import Tensor

from advcal import _checks
from advcal._logits import lift, masked, rivals
from advcal._sums import widest
from advcal._typing import Bounds, Model, Progress
from advcal.attacks._balls import free, of_rows, per_example
from advcal.attacks._gradient import Best, logits_at, select, to_be_sorted_out
from advcal.attacks._nearest import Box, behind, lengths, unit
from advcal.attacks._norms import DUAL_ORDERS
from advcal.attacks._shown import shown

# How much further than to the boundary, so that rounding does not keep a point before it and steps
# that the box cuts do not creep: of the move and of the whole way so far, and of the numbers moved.
_BEYOND, _ROUNDING, _LEAST = 5e-4, 4 * torch.finfo(torch.float32).eps, 1e-20


def deepfool(
    model: Model,
    inputs: Tensor,
    labels: Tensor,
    *,
    norm: Literal["linf", "l2"] = "linf",
    steps: int = 50,
    candidates: int = 9,
    overshoot: float = 0.02,
    bounds: Bounds = (0.0, 1.0),
    progress: Progress | None = None,
) -> Tensor:
    r"""Find a small perturbation that changes the prediction by stepping to linearised boundaries.

    With $m_k = z_y - z_k$, each step makes $1 + \eta$ times the smallest move to $m_k = 0$ of the
    linearised model for the nearest class, that of the least $|m_k| / \|\nabla m_k\|_*$, and is
    clamped to `bounds`. An example is finished and leaves the batch at the first point that fools
    the model; one that is never fooled comes back unchanged. A step makes one forward pass and a
    backward pass for each candidate. Fast and rough: `foot`, `ddn` and `fmn` come nearer.

    Args:
        model: Inputs `(n, ...)` to logits `(n, classes)`.
        inputs: The inputs within `bounds`, shape `(n, ...)`.
        labels: Integer labels, shape `(n,)`.
        norm: `"linf"` or `"l2"`.
        steps: The most steps.
        candidates: The boundaries of how many other classes are tried: those of the highest logits
            at the inputs.
        overshoot: $\eta$, how much further to go than to the boundary.
        bounds: The lowest and highest valid value: numbers, tensors that broadcast, or None.
        progress: A wrapper of an iterable that shows progress, such as `tqdm.tqdm`: over the
            examples times the calls of the model.

    Returns:
        Adversarial inputs, of the shape, dtype and device of `inputs`.

    Raises:
        TypeError: If an argument is of the wrong kind or dtype.
        ValueError: If a shape, value or device is wrong, or the model returns NaN.

    Example:
        >>> from advcal.attacks import deepfool
        >>> model = lambda inputs: (inputs - 0.25) @ torch.tensor([[1.0, -1.0], [0.0, 0.0]])
        >>> adversarial = deepfool(model, torch.tensor([[0.5, 0.5]]), torch.tensor([0]))
        >>> print(f"{(adversarial - torch.tensor([[0.5, 0.5]])).abs().max():.3f}")
        0.255

    References:
        Moosavi-Dezfooli et al., DeepFool: a simple and accurate method to fool deep neural
        networks, CVPR 2016, algorithm 2 and section 3.3.
    """
    with shown(model, progress, len(inputs), steps + 1) as model:
        best, points, others = Best(inputs, stop=True), inputs, None
        rows = torch.arange(len(inputs), device=inputs.device)  # the examples in the batch
        for step in range(1, steps + 1):
            points = points.detach().requires_grad_()
            output = model(points)
            logits = lift(output.detach())
            if others is None:
                _checks.label_range(labels, logits.shape[1])
                others = rivals(logits, labels, candidates)
            missed = logits.argmax(dim=1) == labels[rows]
            best.offer(points.detach(), ~missed, torch.zeros_like(logits[:, 0]), rows)
            left = best.left(rows) if to_be_sorted_out(step, inputs) else slice(None)
            if not len(rows[left]):
                return best.points
            _checks.differentiable(output, "the inputs")
            here, walls = lift(points.detach()), of_rows(bounds, rows)
            distance, direction = _boundary(points, output, labels[rows], others[rows], norm, walls)
            way = torch.maximum(distance, lengths(here - inputs[rows], norm))
            moving = lengths(here.masked_fill(direction == 0, 0.0), norm).clamp_min(_LEAST)
            distance = distance + _BEYOND * way + _ROUNDING * moving
            size = torch.where(distance < torch.finfo(here.dtype).max, distance, 0.0)
            move = per_example(size, here).to(here.dtype) * direction
            moved = (here + (1 + overshoot) * move).clamp(*walls)
            moved = select(missed, moved.to(inputs.dtype), points.detach())  # what is done stays
            rows, points, model = of_rows((rows, moved, model), left)
        logits = logits_at(model, points)
        best.offer(points, logits.argmax(dim=1) != labels[rows], logits[:, 0] * 0, rows)
        return best.points


_DIRECTIONS: dict[str, Callable[[Tensor], Tensor]] = {"linf": torch.sign, "l2": unit}


def _boundary(
    points: Tensor, output: Tensor, labels: Tensor, others: Tensor, norm: str, bounds: Box
) -> tuple[Tensor, Tensor]:
    """Return how far the nearest boundary of the linearised model is, and the direction there."""
    least = torch.full_like(labels, torch.inf, dtype=widest(labels.device))
    nearest = torch.zeros_like(lift(points.detach()))
    off, last = masked(output).gather(1, others), others.shape[1] - 1
    for i in range(last + 1):
        gap, gradient = behind(points, output, others[:, i], labels, retain=i < last)
        gradient = free(gradient, bounds)
        distance = gap.abs() / lengths(gradient, norm, DUAL_ORDERS)
        nearer = (distance < least) & ~off[:, i]
        least = torch.where(nearer, distance, least)
        nearest = select(nearer, gradient, nearest)
    return least, _DIRECTIONS[norm](nearest)
