"""How far each input is from the decision boundary."""

from collections.abc import Callable
from functools import partial
from typing import Literal

import torch
from torch import Tensor

from advcal import _answers, _batches, _checks
from advcal._frozen import frozen
from advcal._targets import away
from advcal._typing import Attack, Bounds, Model
from advcal.attacks._agreement import Agreement, attempt, doubted, reached
from advcal.attacks._foot import foot
from advcal.attacks._gradient import logits_at
from advcal.attacks._linear import linear_distance, linear_distances
from advcal.attacks._minimum import minimum_norm
from advcal.attacks._public import public

_foot, _search = public(foot), partial(public(minimum_norm), norm="l2")
# Of all examples; the two of "precise" fail at different ones: `foot` at the first of many facets,
# the other at a class that is not the nearest.
SETTINGS: dict[str, tuple[list[Callable[..., Tensor]], Agreement]] = {
    "fast": (
        [partial(_search, steps=17)],
        Agreement(slack=0.02, within=0.02, needed=1, estimated=1, margin=-1, searches=9, steps=40),
    ),
    "precise": (
        [partial(_foot, steps=16), partial(_search, steps=29)],
        Agreement(
            slack=0.01, within=0.005, needed=3, estimated=9, margin=0.1, searches=9, steps=60
        ),
    ),
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

    Two settings look for the nearest mistake. `"fast"`, for ranks, takes 17 steps of
    `minimum_norm`; `"precise"`, for distances, the nearer of what `foot` finds in 16 steps and
    `minimum_norm` in 29. Where that is in doubt they search on, for each example by itself: towards
    up to nine other classes in turn, in 40 steps each until two distances agree within 2 %
    (`"fast"`), or in 60 until three or four agree within 0.5 % (`"precise"`). In doubt are
    distances of perturbations that end at an angle to the normal of the boundary, of a cosine below
    0.98 or 0.99, those that are less than half or more than twice the linear estimate, and those
    that `foot` and `minimum_norm` differ on by more than 1 %, and those of examples that no attack
    has reached. `"precise"` also searches once, in all other cases, for each class that was not
    reached and whose linear estimate is less than 1.1 times the distance found.

    So the cost depends on the network. On smooth ones `"fast"` takes some 20 to 40 passes forward
    per example, and about as many backward, and `"precise"` 100 to 270; on robust ones of MNIST and
    on steep or saturated ones, whose gradients at the inputs say little, 90 to 180 and 350 to 530.

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
        ValueError: If a shape or value is wrong, the attack is targeted, or the model returns NaN.

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
    else:
        _checks.function("attack", attack)
        away(attack, "adversarial_distance gives it the predictions")
    _batches.inputs(inputs)
    with frozen(model, grad=False):
        inputs = inputs.detach().clone()
        logits = _answers.with_softmax(logits_at(_answers.answering(model), inputs))
        if isinstance(attack, str):
            with _answers.uncast_but(model, inputs.device) as answers:
                return _by_setting(attack, answers, inputs, logits, bounds)
        return reached(attack, model, inputs, logits.argmax(dim=1))


def _by_setting(name: str, model: Model, inputs: Tensor, logits: Tensor, bounds: Bounds) -> Tensor:
    """Attack all examples, and search on for those whose distances are in doubt."""
    attacks, agreement = SETTINGS[name]
    predicted = logits.argmax(dim=1)
    every = [attempt(partial(a, bounds=bounds), model, inputs, predicted) for a in attacks]
    found = torch.stack([distances for distances, *_ in every], dim=1)
    nearest = found.argmin(dim=1), torch.arange(len(found), device=found.device)
    _, points, there, normal = (torch.stack(each)[nearest] for each in zip(*every, strict=True))
    n = agreement.estimated
    estimates = linear_distances(model, inputs, candidates=n, bounds=bounds)
    box = _batches.attack_inputs(inputs, predicted, bounds)[2]
    ratio = found.amin(dim=1) / estimates[:, 0]
    rough = doubted(inputs, points, normal, box, ratio, agreement.slack)
    plan = agreement.plan(logits, found, rough, estimates, there)
    return agreement.sought(model, inputs, predicted, box, found, plan).amin(dim=1)
