"""The decoupled direction and norm attack: gradient steps on a sphere that shrinks and grows."""

import torch
from torch import Tensor

from advcal import _checks
from advcal._logits import lift
from advcal._typing import Bounds, Model, Progress
from advcal.attacks._balls import free, norm, per_example
from advcal.attacks._gradient import goal_of, gradient_at, logits_at
from advcal.attacks._nearest import Box, Nearest, corner, cosine, steady, unit
from advcal.attacks._shown import shown


def ddn(
    model: Model,
    inputs: Tensor,
    labels: Tensor,
    *,
    steps: int = 100,
    initial_eps: float = 1.0,
    gamma: float = 0.05,
    targeted: bool = False,
    bounds: Bounds = (0.0, 1.0),
    progress: Progress | None = None,
) -> Tensor:
    r"""Find a small L2 perturbation that changes the prediction, adjusting its norm step by step.

    $\delta \leftarrow \delta + \alpha_t\,g / \|g\|_2$ with $g$ the gradient of the cross-entropy
    and $\alpha_t$ annealed from 1 to .01 by a cosine; then $\delta$ is scaled to the norm
    $\varepsilon$, which is multiplied by $1 - \gamma$ if the last point fooled the model and by
    $1 + \gamma$ if it did not. Nothing is quantised. Returns, per example, the nearest of all
    points that fooled the model, the last one among them; an example that is never fooled comes
    back unchanged. Makes `steps + 1` forward and `steps` backward passes.

    Args:
        model: Inputs `(n, ...)` to logits `(n, classes)`.
        inputs: The inputs within `bounds`, shape `(n, ...)`.
        labels: Integer labels, shape `(n,)`; the classes to reach if `targeted`.
        steps: The number of steps.
        initial_eps: The first norm, in units of `inputs`.
        gamma: By which share the norm changes at each step, at most 1.
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
        >>> from advcal.attacks import ddn
        >>> model = lambda inputs: (inputs - 0.25) @ torch.tensor([[1.0, -1.0], [0.0, 0.0]])
        >>> adversarial = ddn(model, torch.tensor([[0.5, 0.5]]), torch.tensor([0]))
        >>> print(f"{(adversarial - torch.tensor([[0.5, 0.5]])).norm():.2f}")
        0.25

    References:
        Rony et al., Decoupling Direction and Norm for Efficient Gradient-Based L2 Adversarial
        Attacks and Defenses, CVPR 2019, algorithm 1.
    """
    _checks.number("gamma", gamma, above=0, most=1)
    with shown(model, progress, len(inputs), steps + 1) as model:
        goal = goal_of("cross_entropy", model, inputs, labels, targeted)
        nearest = Nearest(inputs, labels, targeted=targeted)
        box: Box = bounds
        origin = lift(inputs)
        furthest = norm(corner(origin, box))
        eps = torch.full_like(furthest, initial_eps)
        points = inputs
        for step in range(steps):
            logits, _, gradient = gradient_at(model, points, goal.slope)
            fooled, _ = nearest.see(points, logits)
            move = cosine(1.0, 0.01, step / steps) * unit(free(steady(gradient), box))
            share = torch.full_like(eps, 1 + gamma, dtype=torch.float32)
            share.masked_fill_(fooled, 1 - gamma)
            eps = torch.minimum(eps * share, furthest)
            offset = unit(lift(points) - origin + move)
            offset = per_example(eps, offset).to(offset.dtype) * offset
            points = (origin + offset).clamp(*box).to(inputs.dtype)
        nearest.see(points, logits_at(model, points))
        return nearest.points
