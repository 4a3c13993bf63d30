"""The fast minimum-norm attack: gradient steps in a ball that follows the decision boundary."""

from typing import Literal

import torch
from torch import Tensor

from advcal import _checks
from advcal._logits import lift
from advcal._typing import Bounds, Model, Progress
from advcal.attacks._balls import free, per_example
from advcal.attacks._gradient import goal_of, gradient_at, logits_at
from advcal.attacks._nearest import Box, Nearest, corner, cosine, lengths, steady, unit
from advcal.attacks._norms import DUAL_ORDERS
from advcal.attacks._shown import shown


def fmn(
    model: Model,
    inputs: Tensor,
    labels: Tensor,
    *,
    norm: Literal["linf", "l2"] = "linf",
    steps: int = 100,
    step_size: float = 1.0,
    gamma: float = 0.05,
    targeted: bool = False,
    bounds: Bounds = (0.0, 1.0),
    progress: Progress | None = None,
) -> Tensor:
    r"""Find a small perturbation that changes the prediction, in L2 or linf.

    $\delta \leftarrow \Pi_\varepsilon(\delta + \alpha_t\,g / \|g\|_2)$ with $g$ the gradient of the
    margin $m = \max_{k \ne y} z_k - z_y$. The radius $\varepsilon$ is multiplied by $1 - \gamma_t$
    if the last point fooled the model, and is then never above the smallest norm found, and by
    $1 + \gamma_t$ if it did not; until a first success it is at least the linear estimate of the
    distance, $\|\delta\| + |m| / \|g\|_*$. (Published is the estimate alone, which can stand still
    short of the boundary when the box cuts the steps.) $\alpha_t$ is annealed to a hundredth of
    `step_size` and $\gamma_t$ from `gamma` to a fiftieth of it, by cosines.

    Returns, per example, the nearest of all points that fooled the model, the last one among them;
    an example that is never fooled comes back unchanged. Makes `steps + 1` forward and `steps`
    backward passes.

    Args:
        model: Inputs `(n, ...)` to logits `(n, classes)`.
        inputs: The inputs within `bounds`, shape `(n, ...)`.
        labels: Integer labels, shape `(n,)`; the classes to reach if `targeted`.
        norm: `"linf"` or `"l2"`.
        steps: The number of steps.
        step_size: The first length of a step in L2, whatever the norm.
        gamma: By which share the radius changes at first, at most 1.
        targeted: Whether to reach `labels` instead of leaving them.
        bounds: The lowest and highest valid value: numbers, tensors that broadcast, or None.
        progress: A wrapper of an iterable that shows progress, such as `tqdm.tqdm`: over the
            examples times the calls of the model.

    Returns:
        Adversarial inputs, of the shape, dtype and device of `inputs`.

    Raises:
        TypeError: If an argument is of the wrong kind or dtype.
        ValueError: If a shape, value or device is wrong, or the model returns NaN.

    Example:
        >>> from advcal.attacks import fmn
        >>> model = lambda inputs: (inputs - 0.25) @ torch.tensor([[1.0, -1.0], [0.0, 0.0]])
        >>> adversarial = fmn(model, torch.tensor([[0.5, 0.5]]), torch.tensor([0]))
        >>> print(f"{(adversarial - torch.tensor([[0.5, 0.5]])).abs().max():.2f}")
        0.25

    References:
        Pintor et al., Fast Minimum-norm Adversarial Attacks through Adaptive Norm Constraints,
        NeurIPS 2021, algorithm 1.
    """
    _checks.number("step_size", step_size, above=0)
    _checks.number("gamma", gamma, above=0, most=1)
    with shown(model, progress, len(inputs), steps + 1) as model:
        goal = goal_of("margin", model, inputs, labels, targeted)
        nearest = Nearest(inputs, labels, norm=norm, targeted=targeted)
        box: Box = bounds
        origin = lift(inputs)
        furthest = lengths(corner(origin, box), norm)
        eps = torch.zeros_like(furthest)
        points = inputs
        for step in range(steps):
            logits, leads, gradient = gradient_at(model, points, goal.slope)
            gradient = free(steady(gradient), box)
            fooled, _ = nearest.see(points, logits)
            offset = lift(points) - origin
            share = cosine(gamma, gamma / 50, step / steps)
            grown = eps * (1 + share)
            estimate = lengths(offset, norm) + leads.abs() / lengths(gradient, norm, DUAL_ORDERS)
            first = torch.maximum(grown, estimate.nan_to_num(0))
            grown = torch.where(nearest.distance.isfinite(), grown, first)
            shrunk = torch.minimum(eps * (1 - share), nearest.distance)
            eps = torch.where(fooled, shrunk, grown).minimum(furthest)
            offset = offset + cosine(step_size, step_size / 100, step / steps) * unit(gradient)
            offset = PROJECTIONS[norm](offset, eps)
            points = (origin + offset).clamp(*box).to(inputs.dtype)
        nearest.see(points, logits_at(model, points))
        return nearest.points


def _into_cube(offset: Tensor, eps: Tensor) -> Tensor:
    side = per_example(eps, offset).to(offset.dtype)
    return offset.clamp(-side, side)


def _into_sphere(offset: Tensor, eps: Tensor) -> Tensor:
    shorter = (eps / lengths(offset)).nan_to_num(1.0).clamp_max(1)
    return offset * per_example(shorter, offset).to(offset.dtype)


PROJECTIONS = {"linf": _into_cube, "l2": _into_sphere}
