"""The fast gradient sign method and its forms with a random start."""

import torch
from torch import Tensor

from advcal import _checks
from advcal._typing import Bounds, Loss, Model, Norm
from advcal.attacks._balls import ball
from advcal.attacks._gradient import climb, goal_of
from advcal.attacks._pgd import Steepest, first_step


def fgsm(
    model: Model,
    inputs: Tensor,
    labels: Tensor,
    *,
    eps: float | Tensor,
    norm: Norm = "linf",
    step_size: float | None = None,
    random_start: bool = False,
    loss: str | Loss = "cross_entropy",
    targeted: bool = False,
    bounds: Bounds = (0.0, 1.0),
    generator: torch.Generator | None = None,
) -> Tensor:
    r"""Take one step along the steepest direction of the loss.

    $x' = \Pi(x + \varepsilon\,\mathrm{sign}\,\nabla_x L(f(x), y))$ for `linf`. With `random_start`
    it is FGSM-RS, the attack of fast adversarial training: a step of $1.25\,\varepsilon$ from a
    random point of the ball, projected back into the ball.

    Args:
        model: Inputs `(n, ...)` to logits `(n, classes)`.
        inputs: The inputs within `bounds`, shape `(n, ...)`.
        labels: Integer labels, shape `(n,)`; the classes to reach if `targeted`.
        eps: The radius, in units of `inputs`: a number, or one for each example, shape `(n,)`.
        norm: `"linf"`, `"l2"` or `"l1"`.
        step_size: The length of the step in `norm`; if None `eps`, from a random start 1.25 times.
        random_start: Whether to start at a random point of the ball instead of at the input.
        loss: What `pgd` takes: `"cross_entropy"`, `"margin"`, `"dlr"`, `"kl"`, or a callable
            `(logits, labels) -> (n,)`.
        targeted: Whether to move towards `labels` instead of away from them.
        bounds: The lowest and highest valid value: numbers, tensors that broadcast, or None.
        generator: The source of the random start; a copy of the global one if None.

    Returns:
        Adversarial inputs, of the shape, dtype and device of `inputs`.

    Raises:
        TypeError: If an argument is of the wrong kind or dtype.
        ValueError: If a shape, value or device is wrong, or the model returns NaN.

    Example:
        >>> from advcal.attacks import fgsm
        >>> model = lambda inputs: inputs @ torch.tensor([[1.0, -1.0], [0.0, 0.0]])
        >>> fgsm(model, torch.tensor([[0.5, 0.5]]), torch.tensor([0]), eps=0.25)
        tensor([[0.2500, 0.5000]])

    References:
        Goodfellow et al., Explaining and Harnessing Adversarial Examples, ICLR 2015, section 4.
        Wong et al., Fast is Better than Free: Revisiting Adversarial Training, ICLR 2020 (FGSM-RS).
    """
    region = ball(norm, inputs, eps, bounds)
    goal = goal_of(loss, model, inputs, labels, targeted)
    start = region.random_point(generator) if random_start else inputs
    size = first_step(step_size, region, 1, spans=1.25 if random_start else 1.0)
    return climb(model, start, goal, Steepest(region, size), 1)


def n_fgsm(
    model: Model,
    inputs: Tensor,
    labels: Tensor,
    *,
    eps: float | Tensor,
    noise: float = 2.0,
    step_size: float | None = None,
    loss: str | Loss = "cross_entropy",
    bounds: Bounds = (0.0, 1.0),
    generator: torch.Generator | None = None,
) -> Tensor:
    r"""Take one step from a noisy input and do not project: for training, not for evaluation.

    $x' = \mathrm{clip}(x + \eta + \varepsilon\,\mathrm{sign}\,\nabla_x L(f(x + \eta), y))$ with
    $\eta$ uniform in $\pm k\varepsilon$. **It leaves the ball**, whose radius is `eps`, on purpose,
    and goes up to `noise * eps + step_size` far: that is what keeps fast adversarial training from
    catastrophic overfitting.

    Args:
        model: Inputs `(n, ...)` to logits `(n, classes)`.
        inputs: The inputs within `bounds`, shape `(n, ...)`.
        labels: Integer labels, shape `(n,)`.
        eps: The radius in `linf` to train for: a number, or one for each example, shape `(n,)`.
        noise: $k$, the reach of the noise in units of `eps`.
        step_size: The length of the step; `eps` if None.
        loss: What `pgd` takes: `"cross_entropy"`, `"margin"`, `"dlr"`, `"kl"`, or a callable
            `(logits, labels) -> (n,)`.
        bounds: The lowest and highest valid value: numbers, tensors that broadcast, or None.
        generator: The source of the noise; a copy of the global one if None.

    Returns:
        Adversarial inputs, of the shape, dtype and device of `inputs`.

    Raises:
        TypeError: If an argument is of the wrong kind or dtype.
        ValueError: If a shape, value or device is wrong, or the model returns NaN.

    Example:
        >>> from advcal.attacks import n_fgsm
        >>> model = lambda inputs: inputs @ torch.tensor([[1.0, -1.0], [0.0, 0.0]])
        >>> inputs, labels = torch.tensor([[0.5, 0.5]]), torch.tensor([0])
        >>> found = n_fgsm(model, inputs, labels, eps=0.1)
        >>> bool((found - inputs).abs().max() <= 0.3)
        True

    References:
        de Jorge et al., Make Some Noise: Reliable and Efficient Single-Step Adversarial Training,
        NeurIPS 2022, algorithm 1.
    """
    _checks.number("noise", noise, least=0)
    size = eps if step_size is None else float(step_size)
    region = ball("linf", inputs, noise * eps + size, bounds)
    noisy = ball("linf", inputs, noise * eps, bounds)
    start = noisy.random_point(generator)
    goal = goal_of(loss, model, inputs, labels)
    return climb(model, start, goal, Steepest(region, size), 1)
