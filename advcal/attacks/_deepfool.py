"""DeepFool: step by step to the nearest boundary of the linearised model."""

from collections.abc import Callable

import torch
from torch import Tensor

from advcal import _checks
from advcal._frozen import frozen, logits_of
from advcal._logits import lift, without_label
from advcal._typing import Model, Norm
from advcal.attacks._balls import per_example
from advcal.attacks._best import select
from advcal.attacks._gradient import logits_at
from advcal.attacks._nearest import dual_lengths, unit

_BEYOND = 1e-4  # of the width of the bounds, so that steps that the box cuts do not creep


def deepfool(
    model: Model,
    inputs: Tensor,
    labels: Tensor,
    *,
    norm: Norm = "linf",
    steps: int = 50,
    candidates: int = 10,
    overshoot: float = 0.02,
    bounds: tuple[float, float] = (0.0, 1.0),
) -> Tensor:
    r"""Find a small perturbation that changes the prediction by stepping to linearised boundaries.

    With $m_k = z_y - z_k$, each step makes $1 + \eta$ times the smallest move that reaches
    $m_k = 0$ of the linearised model for the nearest class, that of the least
    $|m_k| / \|\nabla m_k\|_*$, and is clamped to `bounds`. An example is finished and leaves the
    batch at the first point that fools the model; one that is never fooled comes back unchanged. A
    step makes one forward pass and a backward pass for each candidate but the
    label. Fast and rough: `foot`, `ddn` and `fmn` come nearer. Uses the labels that it is given:
    the true ones make it an attack on accuracy.

    Args:
        model: Inputs `(n, ...)` to logits `(n, classes)`.
        inputs: The inputs within `bounds`, shape `(n, ...)`.
        labels: Integer labels, shape `(n,)`.
        norm: `"linf"` or `"l2"`.
        steps: The most steps.
        candidates: Of how many classes boundaries are tried, the label's own counted: those of the
            highest logits at the inputs.
        overshoot: $\eta$, how much further to go than to the boundary.
        bounds: The lowest and the highest valid value of an input.

    Returns:
        Adversarial inputs, of the shape, dtype and device of `inputs`.

    Raises:
        TypeError: If an argument is of the wrong kind or dtype.
        ValueError: If a shape, value or device is wrong, or the model returns NaN.

    Example:
        >>> model = lambda inputs: (inputs - 0.25) @ torch.tensor([[1.0, -1.0], [0.0, 0.0]])
        >>> adversarial = deepfool(model, torch.tensor([[0.5, 0.5]]), torch.tensor([0]))
        >>> print(f"{(adversarial - torch.tensor([[0.5, 0.5]])).abs().max():.3f}")
        0.255

    References:
        Moosavi-Dezfooli et al., DeepFool: a simple and accurate method to fool deep neural
        networks, CVPR 2016, algorithm 2 and section 3.3.
    """
    inputs, labels, bounds = _checks.attack_inputs(inputs, labels, bounds)
    _checks.choice("norm", norm, _DIRECTIONS)
    _checks.count("steps", steps)
    _checks.count("candidates", candidates, least=2)
    _checks.number("overshoot", overshoot, least=0)
    with frozen(model, grad=True):
        inputs, labels = inputs.detach().clone(), labels.clone()
        found, points = inputs.clone(), inputs
        left = torch.arange(len(inputs), device=inputs.device)  # the examples in the batch
        rivals, beyond = None, _BEYOND * (bounds[1] - bounds[0])
        for _ in range(steps):
            points = points.detach().requires_grad_()
            output = logits_of(model, points)
            logits = lift(output.detach())
            if rivals is None:
                _checks.label_range(labels, logits.shape[1])
                ranking = without_label(logits, labels).argsort(dim=1, descending=True)
                rivals = ranking[:, : min(candidates, logits.shape[1]) - 1]
            missed = logits.argmax(dim=1) == labels[left]
            found[left[~missed]] = points.detach()[~missed]
            if not missed.any():
                return found
            _checks.differentiable("logits", output, "the inputs")
            move = _to_boundary(points, output, labels[left], rivals[left], norm, beyond)
            moved = (lift(points.detach()) + (1 + overshoot) * move).clamp(*bounds)
            left, points = left[missed], moved.to(inputs.dtype)[missed]
        fooled = logits_at(model, points).argmax(dim=1) != labels[left]
        found[left[fooled]] = points[fooled]
        return found


_DIRECTIONS: dict[str, Callable[[Tensor], Tensor]] = {"linf": torch.sign, "l2": unit}


def _to_boundary(
    points: Tensor, output: Tensor, labels: Tensor, rivals: Tensor, norm: Norm, beyond: float
) -> Tensor:
    """Return the smallest moves to a boundary of the linearised model and a little beyond."""
    logits = lift(output.detach())
    least = torch.full_like(labels, torch.inf, dtype=torch.float64)
    nearest = torch.zeros_like(lift(points.detach()))
    last = rivals.shape[1] - 1
    for i in range(last + 1):
        rival = rivals[:, i : i + 1]
        upstream = torch.zeros_like(output).scatter_(1, rival, 1.0)
        upstream.scatter_(1, labels[:, None], -1.0)
        (gradient,) = torch.autograd.grad(output, points, upstream, retain_graph=i < last)
        gradient = lift(gradient.nan_to_num())
        gap = (logits.gather(1, labels[:, None]) - logits.gather(1, rival))[:, 0]
        distance = gap.abs() / dual_lengths(gradient, norm)
        nearer = distance < least
        least = torch.where(nearer, distance, least)
        nearest = select(nearer, gradient, nearest)
    least = torch.where(least < torch.finfo(nearest.dtype).max, least + beyond, 0.0)
    return per_example(least, nearest).to(nearest.dtype) * _DIRECTIONS[norm](nearest)
