"""Projected gradient descent."""

from dataclasses import dataclass, replace
from typing import Self

import torch
from torch import Tensor

from advcal._typing import Bounds, Loss, Model, Norm
from advcal.attacks._balls import Ball, ball, per_example
from advcal.attacks._gradient import Best, Point, climb, goal_of


def pgd(
    model: Model,
    inputs: Tensor,
    labels: Tensor,
    *,
    eps: float | Tensor,
    norm: Norm = "linf",
    steps: int = 10,
    step_size: float | None = None,
    momentum: float = 0.0,
    restarts: int = 1,
    random_start: bool = True,
    loss: str | Loss = "cross_entropy",
    targeted: bool = False,
    stop_early: bool = False,
    bounds: Bounds = (0.0, 1.0),
    generator: torch.Generator | None = None,
) -> Tensor:
    r"""Climb the loss by steepest steps, projected back into the ball.

    $x_{t+1} = \Pi(x_t + \alpha\,s(\nabla_x L(f(x_t), y)))$, with $s$ the sign for `linf` and the
    unit vector for `l2`; with `momentum` $\mu$, $g_t = \mu g_{t-1} + \nabla / \|\nabla\|_1$ stands
    for the gradient. Returns, per example, the best of all points seen, the start and the last
    among them: one that fools the model before one that does not, then the one of higher loss. A
    restart makes `steps + 1` forward and `steps` backward passes.

    With `stop_early` an example that is fooled leaves the batch at once. Whether each example is
    fooled stays the same, in a small part of the time on a model that is easily fooled; the point
    is then the first that fools it instead of the one of highest loss.

    Args:
        model: Inputs `(n, ...)` to logits `(n, classes)`.
        inputs: The inputs within `bounds`, shape `(n, ...)`.
        labels: Integer labels, shape `(n,)`; the classes to reach if `targeted`.
        eps: The radius, in units of `inputs`: a number, or one for each example, shape `(n,)`.
        norm: `"linf"`, `"l2"` or `"l1"`.
        steps: The number of steps.
        step_size: The length of a step in `norm`; `2.5 * eps / steps` if None.
        momentum: $\mu \ge 0$; 0 is plain PGD, 1 the published MI-FGSM.
        restarts: How many times to start; more than one needs `random_start`.
        random_start: Whether to start at a random point of the ball instead of at the input.
        loss: `"cross_entropy"`, `"margin"`, `"dlr"`, or a callable `(logits, labels) -> (n,)`,
            such as a library loss as it is, which is raised (lowered if `targeted`); `"kl"` is the
            divergence from what the model says of the inputs, one more forward pass; it needs a
            random start, since it has no slope at the inputs.
        targeted: Whether to move towards `labels` instead of away from them.
        stop_early: Whether an example leaves the batch once it is fooled.
        bounds: The lowest and highest valid value: numbers, tensors that broadcast, or None.
        generator: The source of the random start; a copy of the global one if None.

    Returns:
        Adversarial inputs, of the shape, dtype and device of `inputs`.

    Raises:
        TypeError: If an argument is of the wrong kind or dtype.
        ValueError: If a shape, value or device is wrong, or the model returns NaN.

    Example:
        >>> from advcal.attacks import pgd
        >>> model = lambda inputs: inputs @ torch.tensor([[1.0, -1.0], [0.0, 0.0]])
        >>> pgd(model, torch.tensor([[0.5, 0.5]]), torch.tensor([0]), eps=0.25, random_start=False)
        tensor([[0.2500, 0.5000]])

    References:
        Madry et al., Towards Deep Learning Models Resistant to Adversarial Attacks, ICLR 2018.
        Dong et al., Boosting Adversarial Attacks with Momentum, CVPR 2018, algorithm 1.
    """
    region = ball(norm, inputs, eps, bounds)
    if restarts > 1 and not random_start:
        raise ValueError(f"expected random_start with restarts > 1, got restarts={restarts}")
    goal = goal_of(loss, model, inputs, labels, targeted)
    rule = Steepest(region, first_step(step_size, region, steps, spans=2.5), momentum)
    best = Best(inputs, stop=stop_early)
    for _ in range(restarts):
        start = region.random_point(generator) if random_start else inputs
        climb(model, start, goal, rule, steps, best)
    return best.points


@dataclass(frozen=True, eq=False)
class Steepest:
    """The rule of steepest steps, of the gradient or of its momentum."""

    region: Ball
    size: float | Tensor
    momentum: float = 0.0
    velocity: float | Tensor = 0.0

    def step(self, points: Tensor, seen: Point) -> tuple[Tensor, Self]:
        """Take a step of the size and project."""
        gradient, rule = seen.gradient, self
        if self.momentum:
            length = gradient.flatten(1).abs().sum(dim=1).clamp_max(torch.finfo(gradient.dtype).max)
            length = per_example(length, gradient)
            unit = gradient / torch.where(length > 0, length, 1.0)
            gradient = self.momentum * self.velocity + unit
            rule = replace(self, velocity=gradient)
        return self.region.project(self.region.ascend(points, gradient, self.size)), rule


def first_step(size: float | None, region: Ball, steps: int, *, spans: float) -> float | Tensor:
    """Return a step size; by default the steps together are `spans` radii long."""
    return spans * region.radius / steps if size is None else float(size)
