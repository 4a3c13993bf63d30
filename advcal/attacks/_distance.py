"""How far each input is from the decision boundary."""

from collections.abc import Callable
from functools import partial
from typing import Literal

import torch
from torch import Tensor

from advcal import _answers, _batches, _checks
from advcal._frozen import attacked, frozen
from advcal._sums import wide
from advcal._typing import Attack, Bounds, Model
from advcal.attacks._balls import norm
from advcal.attacks._foot import foot
from advcal.attacks._gradient import logits_at
from advcal.attacks._linear import linear_distance
from advcal.attacks._minimum import minimum_norm
from advcal.attacks._public import public

_foot, _search = public(foot), partial(public(minimum_norm), norm="l2")
# One attack is enough for ranks. The two fail at different examples: `foot` at the first of many
# facets, the other at a class that is not the nearest.
SETTINGS: dict[str, list[Callable[..., Tensor]]] = {
    "fast": [partial(_search, steps=17)],
    "precise": [partial(_foot, steps=16), partial(_search, steps=29)],
}
ESTIMATES: dict[str, Callable[..., Tensor]] = {
    "linear": partial(linear_distance, candidates=2, steps=0),
    "quick": partial(linear_distance, candidates=3, steps=3),
}


def adversarial_distance(
    model: Model,
    inputs: Tensor,
    *,
    attack: Attack | Literal["linear", "quick", "fast", "precise"] = "precise",
    bounds: Bounds = (0.0, 1.0),
) -> Tensor:
    r"""Measure the L2 norm of the perturbation by which an attack changes each prediction.

    $\min \|\delta\|_2$ such that $\arg\max f(x + \delta) \ne \arg\max f(x)$, as far as the attack
    finds it: an upper bound of the distance to the decision boundary. It starts from the predicted
    class, so a wrong prediction has a distance too.

    Two settings are budgets: `"fast"` is 17 steps of `minimum_norm`, `"precise"` the nearer of what
    `foot` finds in 16 steps and `minimum_norm` in 29. They call the model 20 and 50 times, all but
    three and five times with a backward pass. Networks whose gradients at the inputs say little,
    robust ones of MNIST or saturated ones, take more: `partial(minimum_norm, norm="l2", steps=300)`
    comes nearer there.

    Two more are estimates, to rank examples during training; no attack confirms them, and they can
    be below the distance. `"linear"` takes the shortest move within `bounds` to where the model,
    linearised at the input, has the boundary of one of the two next likeliest classes,
    $|m_k| / \|\nabla m_k\|_2$ if no bound is in the way: one forward and two backward passes.
    `"quick"` does so for three classes and linearises anew three times on the way: four forward and
    six backward passes.

    Args:
        model: Inputs `(n, ...)` to logits `(n, classes)`.
        inputs: The inputs, shape `(n, ...)`, within the bounds of the attack.
        attack: `"precise"`, `"fast"`, `"quick"`, `"linear"`, or an attack that looks for small
            perturbations: `ddn`, `cw_l2` or another, with the budget and the bounds that it is to
            have.
        bounds: The lowest and the highest valid value of an input, for the settings by name:
            numbers, tensors that broadcast to `inputs`, or None for no bounds.

    Returns:
        Distances in units of `inputs`, float64, shape `(n,)`; infinite if the attack failed, and
        if an estimate finds no boundary within `bounds`.

    Raises:
        TypeError: If an argument is of the wrong kind or dtype.
        ValueError: If a shape or value is wrong, or the model returns NaN.

    Example:
        >>> model = lambda inputs: (inputs - 0.25) @ torch.tensor([[1.0, -1.0], [0.0, 0.0]])
        >>> inputs = torch.tensor([[0.5, 0.5], [0.125, 0.5]])
        >>> print([f"{d:.2f}" for d in adversarial_distance(model, inputs)])
        ['0.25', '0.13']

    References:
        Qin et al., Improving Calibration through the Relationship with Adversarial Robustness,
        NeurIPS 2021, section 3.
    """
    if isinstance(attack, str):
        _checks.choice("attack", attack, ESTIMATES | SETTINGS)
        if attack in ESTIMATES:
            return ESTIMATES[attack](model, _batches.inputs(inputs), bounds=bounds)
        tried: list[Attack] = [partial(each, bounds=bounds) for each in SETTINGS[attack]]
    else:
        _checks.function("attack", attack)
        tried = [attack]
    _batches.inputs(inputs)
    with frozen(model, grad=False):
        answers, inputs = _answers.answering(model), inputs.detach().clone()
        predicted = _answers.with_softmax(logits_at(answers, inputs)).argmax(dim=1)

        def measured(attack: Attack) -> Tensor:
            points = attacked(attack, model, inputs, predicted)
            changed = _answers.with_softmax(logits_at(answers, points)).argmax(dim=1) != predicted
            return torch.where(changed, norm(wide(points) - wide(inputs)), torch.inf)

        return torch.stack([measured(each) for each in tried]).amin(dim=0)
