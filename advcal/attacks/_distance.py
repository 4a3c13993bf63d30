"""How far each input is from the decision boundary."""

import torch
from torch import Tensor

from advcal import _checks
from advcal._frozen import attacked, frozen
from advcal._typing import Attack, Model
from advcal.attacks._balls import norm
from advcal.attacks._cw import cw_l2
from advcal.attacks._gradient import logits_at


def adversarial_distance(model: Model, inputs: Tensor, *, attack: Attack = cw_l2) -> Tensor:
    r"""Measure the L2 norm of the perturbation by which an attack changes each prediction.

    $\min \|\delta\|_2$ such that $\arg\max f(x + \delta) \ne \arg\max f(x)$, as far as the attack
    finds it: an upper bound of the distance to the decision boundary. It starts from the predicted
    class, so a wrong prediction has a distance too.

    Args:
        model: Inputs `(n, ...)` to logits `(n, classes)`.
        inputs: The inputs, shape `(n, ...)`, within the bounds of the attack.
        attack: An attack that looks for small perturbations, `cw_l2` or another.

    Returns:
        Distances in units of `inputs`, float64, shape `(n,)`; infinite where the attack failed.

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
    _checks.function("attack", attack)
    _checks.inputs(inputs)
    with frozen(model, grad=False):
        inputs = inputs.detach().clone()
        predicted = logits_at(model, inputs).argmax(dim=1)
        points = attacked(attack, model, inputs, predicted)
        changed = logits_at(model, points).argmax(dim=1) != predicted
        return torch.where(changed, norm(points.double() - inputs.double()), torch.inf)
