"""The Carlini-Wagner attack: the smallest perturbation, by penalty and bisection."""

from functools import partial

import torch
from torch import Tensor

from advcal import _checks
from advcal._frozen import frozen
from advcal._logits import lift
from advcal._typing import Model
from advcal.attacks._balls import per_example
from advcal.attacks._gradient import goal_of, gradient_at, logits_at
from advcal.attacks._nearest import Nearest

_STEEPEST = 1e15  # keeps Adam's squares finite where a model's gradient is not
_SHRINK = 0.999999  # keeps arctanh finite at the bounds, as published
_HALVINGS = 8  # of the way back from the nearest success to the input
_REACH = 2.0  # how far out in w a pixel may start, plus a quarter of Adam's way


def cw_l2(
    model: Model,
    inputs: Tensor,
    labels: Tensor,
    *,
    search_steps: int = 9,
    steps: int = 1000,
    step_size: float = 1e-2,
    initial_c: float = 1e-3,
    kappa: float = 0.0,
    targeted: bool = False,
    bounds: tuple[float, float] = (0.0, 1.0),
) -> Tensor:
    r"""Find the smallest L2 perturbation that changes the prediction.

    Minimises $\|x' - x\|_2^2 + c\,\max(z_y - \max_{k \ne y} z_k + \kappa, 0)$ over
    $x' = \frac12(\tanh w + 1)$, scaled to `bounds`, by Adam. The factor $c$ is found by bisection:
    times ten until a first success, then halfway between the last failure and the last success.
    Adam starts afresh at each of these search steps. What is nearest after one lies a little beyond
    the boundary and is led back by bisection, in eight forward passes, which the publication does
    not have. The published budget is `steps=10_000`. With a smaller one the search starts a
    little inside the bounds, where the published start would keep pixels at 0 or 1, on the flat of
    the tanh, for hundreds of iterations.

    Every decision is taken per example, and one that is wrong already takes no further part. An
    example that is never fooled comes back unchanged: it has no adversarial input within this
    budget, which is not a perturbation of size 0; `adversarial_distance` reports it as infinite.
    `foot` comes nearer in a tenth of the passes. Uses the labels that it is given: the true ones
    make it an attack on accuracy (wrong predictions need no perturbation), the predicted ones
    measure the distance to the decision boundary.

    Args:
        model: Inputs `(n, ...)` to logits `(n, classes)`.
        inputs: The inputs within `bounds`, shape `(n, ...)`.
        labels: Integer labels, shape `(n,)`; the classes to reach if `targeted`.
        search_steps: How many factors $c$ to try.
        steps: Iterations of Adam for each.
        step_size: Adam's learning rate, in units of $w$.
        initial_c: The first $c$.
        kappa: By how much another logit must lead, $\kappa \ge 0$.
        targeted: Whether to reach `labels` instead of leaving them.
        bounds: The lowest and the highest valid value of an input.

    Returns:
        Adversarial inputs, of the shape, dtype and device of `inputs`.

    Raises:
        TypeError: If an argument is of the wrong kind or dtype.
        ValueError: If a shape, value or device is wrong, or the model returns NaN.

    Example:
        >>> model = lambda inputs: (inputs - 0.25) @ torch.tensor([[1.0, -1.0], [0.0, 0.0]])
        >>> adversarial = cw_l2(model, torch.tensor([[0.5, 0.5]]), torch.tensor([0]), steps=200)
        >>> print(f"{(adversarial - torch.tensor([[0.5, 0.5]])).norm():.2f}")
        0.25

    References:
        Carlini & Wagner, Towards Evaluating the Robustness of Neural Networks, S&P 2017,
        section V and VI.A.
    """
    inputs, labels, bounds = _checks.attack_inputs(inputs, labels, bounds)
    _checks.count("search_steps", search_steps)
    _checks.count("steps", steps)
    _checks.number("step_size", step_size, above=0)
    _checks.number("initial_c", initial_c, above=0)
    _checks.number("kappa", kappa, least=0)
    with frozen(model, grad=True):
        found, labels = inputs.detach().clone(), labels.clone()
        goal = goal_of("margin", model, found, labels, targeted)
        logits = logits_at(model, found)
        lead = goal(logits)
        right = (logits.argmax(dim=1) == labels) != targeted
        left = (right | (lead < kappa)).nonzero()[:, 0]
        if len(left) == 0:
            return found
        inputs, labels, ahead = found[left], labels[left], partial(goal, rows=left)
        nearest = Nearest(inputs, labels, targeted=targeted)
        middle, half = sum(bounds) / 2, (bounds[1] - bounds[0]) / 2
        lifted, reach = lift(inputs), _REACH + steps * step_size / 4
        start = torch.atanh((lifted - middle) / half * _SHRINK).clamp(-reach, reach)

        def succeeded(logits: Tensor, lead: Tensor) -> Tensor:
            return ((logits.argmax(dim=1) == labels) == targeted) & (lead >= kappa)

        def minimise(c: Tensor) -> Tensor:
            """Run Adam for one factor per example, keep the nearest successes, say who had one."""
            w = start.clone().requires_grad_()
            adam = torch.optim.Adam([w], lr=step_size)
            ever = torch.zeros_like(labels, dtype=torch.bool)
            for step in range(steps + 1):
                height = w.detach().tanh()
                points = (middle + half * height).clamp(*bounds)
                there = points.to(inputs.dtype)
                if step < steps:
                    logits, lead, gradient = gradient_at(model, there, ahead)
                else:
                    logits = logits_at(model, there)
                    lead = ahead(logits)
                fooled = succeeded(logits, lead)
                nearest.keep(there, fooled)
                ever |= fooled
                if step < steps:
                    # c stays out of the model's own backward pass, which half precision may run.
                    pull = per_example(torch.where(lead < kappa, c, 0), lifted) * lift(gradient)
                    slope = half * (1 - height.square()) * (2 * (points - lifted) - pull)
                    w.grad = slope.nan_to_num().clamp(-_STEEPEST, _STEEPEST)
                    adam.step()
            return ever

        def lead_back(rows: Tensor) -> None:
            """Bisect between the inputs and the nearest successes, in some rows."""
            offset = lift(nearest.points) - lifted
            short, far = torch.zeros_like(nearest.distance), torch.ones_like(nearest.distance)
            for _ in range(_HALVINGS):
                share = (short + far) / 2
                there = lifted + per_example(share.to(offset.dtype), offset) * offset
                there = there.clamp(*bounds).to(inputs.dtype)
                logits = logits_at(model, there)
                fooled = succeeded(logits, ahead(logits))
                nearest.keep(there, fooled & rows)
                short, far = torch.where(fooled, short, share), torch.where(fooled, share, far)

        c = torch.full_like(nearest.distance, initial_c)
        low, high = torch.zeros_like(c), torch.full_like(c, torch.inf)
        for _ in range(search_steps):
            before = nearest.distance
            fooled = minimise(c.to(start.dtype))
            nearer = nearest.distance < before
            if bool(nearer.any()):
                lead_back(nearer)
            low, high = torch.where(fooled, low, c), torch.where(fooled, c, high)
            c = torch.where(high.isfinite(), (low + high) / 2, c * 10)
        found[left] = nearest.points
        return found
