"""The Carlini-Wagner attack: the smallest perturbation, by penalty and bisection."""

import torch
from torch import Tensor

from advcal import _checks
from advcal._frozen import frozen
from advcal._typing import Model
from advcal.attacks._balls import norm
from advcal.attacks._best import Best
from advcal.attacks._gradient import lift, logits_at
from advcal.losses import margin

_STEEPEST = 1e15  # keeps Adam's squares finite where a model's gradient is not
_SHRINK = 0.999999  # keeps arctanh finite at the bounds, as published


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
    Adam starts afresh at each of these search steps. The published budget is `steps=10_000`.

    Every decision is taken per example. An example that is never fooled comes back unchanged: it
    has no adversarial input within this budget, which is not a perturbation of size 0;
    `adversarial_distance` reports it as infinite. Uses the labels that it is given: the true ones
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
        inputs, labels = inputs.detach().clone(), labels.clone()
        middle, half = sum(bounds) / 2, (bounds[1] - bounds[0]) / 2
        lifted = inputs if inputs.dtype.itemsize >= 4 else inputs.float()
        start = torch.atanh((lifted - middle) / half * _SHRINK)

        def slack(logits: Tensor) -> Tensor:
            """By how much an example falls short of being fooled; above 0 where it does."""
            _checks.label_range(labels, logits.shape[1])
            ahead = margin(logits, labels, reduction="none")
            return (ahead if targeted else -ahead) + kappa

        def fools(logits: Tensor) -> Tensor:
            return ((logits.argmax(dim=1) == labels) == targeted) & (slack(logits) <= 0)

        best = Best(inputs)
        best.offer(inputs, fools(logits_at(model, inputs)), torch.zeros_like(best.second))

        def minimise(c: Tensor) -> Tensor:
            """Run Adam for one factor per example, keep the nearest successes, say who had one."""
            w = start.clone().requires_grad_()
            adam = torch.optim.Adam([w], lr=step_size)
            ever = torch.zeros_like(labels, dtype=torch.bool)
            for step in range(steps + 1):
                points = (middle + half * w.tanh()).clamp(*bounds)
                there = points.to(inputs.dtype)
                logits = lift(_checks.logits(model(there), len(there)))
                _checks.differentiable("logits", logits, "the inputs")
                fooled = fools(logits.detach())
                distance = norm(there.detach() - inputs)
                best.offer(there.detach(), fooled, torch.where(fooled, -distance, -torch.inf))
                ever |= fooled
                if step == steps:
                    break
                squared = (points - lifted).flatten(1).square().sum(dim=1)
                penalised = squared + c * slack(logits).clamp_min(0)
                (gradient,) = torch.autograd.grad(penalised.sum(), w)
                w.grad = gradient.nan_to_num().clamp(-_STEEPEST, _STEEPEST)
                adam.step()
            return ever

        c = torch.full_like(best.first, initial_c)
        low, high = torch.zeros_like(c), torch.full_like(c, torch.inf)
        for _ in range(search_steps):
            fooled = minimise(c.to(start.dtype))
            low, high = torch.where(fooled, low, c), torch.where(fooled, c, high)
            c = torch.where(high.isfinite(), (low + high) / 2, c * 10)
        return best.points
