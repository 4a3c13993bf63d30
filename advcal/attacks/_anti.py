"""Anti-adversaries: inputs moved to where their label is likelier."""

from typing import Literal

import torch
from torch import Tensor

from advcal import _checks
from advcal._frozen import frozen
from advcal._typing import Model, Norm
from advcal.attacks._gradient import logits_at
from advcal.attacks._pgd import pgd


def anti_adversary(
    model: Model,
    inputs: Tensor,
    labels: Tensor,
    *,
    eps: float,
    norm: Norm = "linf",
    steps: int = 10,
    step_size: float | None = None,
    random_start: bool = False,
    label: Literal["true", "predicted"] = "true",
    bounds: tuple[float, float] = (0.0, 1.0),
    generator: torch.Generator | None = None,
) -> Tensor:
    r"""Raise the likelihood of the label: the opposite of an attack on accuracy.

    Minimises $\mathrm{CE}(f(x + \delta), y)$ over $\|\delta\| \le \varepsilon$. Dong et al. call
    the result an *inverse adversarial example*; here that name is for what `iaa` makes, the same
    label with *lower* confidence. With the true label mistakes are corrected where the ball allows;
    with `label="predicted"`, as with Alfarra et al., every prediction stays and becomes surer. It
    is `pgd` towards the label, and returns the best of all points seen.

    Args:
        model: Inputs `(n, ...)` to logits `(n, classes)`.
        inputs: The inputs within `bounds`, shape `(n, ...)`.
        labels: The true integer labels, shape `(n,)`; with `label="predicted"` only checked.
        eps: The radius, in units of `inputs`.
        norm: `"linf"`, `"l2"` or `"l1"`.
        steps: The number of steps.
        step_size: The length of a step in `norm`; `2.5 * eps / steps` if None.
        random_start: Whether to start at a random point of the ball instead of at the input.
        label: Which label becomes likelier, `"true"` or `"predicted"`.
        bounds: The lowest and the highest valid value of an input.
        generator: Where a random start comes from; a copy of the global one if None.

    Returns:
        Inputs of higher likelihood, of the shape, dtype and device of `inputs`.

    Raises:
        TypeError: If an argument is of the wrong kind or dtype.
        ValueError: If a shape, value or device is wrong, or the model returns NaN.

    Example:
        >>> model = lambda inputs: inputs @ torch.tensor([[1.0, -1.0], [0.0, 0.0]])
        >>> anti_adversary(model, torch.tensor([[0.5, 0.5]]), torch.tensor([0]), eps=0.25)
        tensor([[0.7500, 0.5000]])

    References:
        Alfarra et al., Combating Adversaries with Anti-Adversaries, AAAI 2022; Dong et al., The
        Enemy of My Enemy is My Friend, CVPR 2023.
    """
    inputs, labels, bounds = _checks.attack_inputs(inputs, labels, bounds)
    _checks.choice("label", label, ("true", "predicted"))
    with frozen(model, grad=True):
        if label == "predicted":
            clean = logits_at(model, inputs.detach().clone())
            _checks.label_range(labels, clean.shape[1])
            labels = clean.argmax(dim=1)
        return pgd(
            *(model, inputs, labels),
            eps=eps,
            norm=norm,
            steps=steps,
            step_size=step_size,
            random_start=random_start,
            targeted=True,
            bounds=bounds,
            generator=generator,
        )
