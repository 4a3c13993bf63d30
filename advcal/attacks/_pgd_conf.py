"""The attack of confidence-calibrated adversarial training: PGD for the most confident mistake."""

import torch
from torch import Tensor

from advcal import _checks
from advcal._logits import log_odds, without_label
from advcal._random import draw
from advcal._sums import wide, widest
from advcal._typing import Bounds, Model, Norm
from advcal.attacks._balls import ball, each_of, per_example
from advcal.attacks._gradient import gradient_at, logits_at, select, slope_of
from advcal.attacks._pgd import first_step

_LR_FACTOR = 1.5


def pgd_conf(
    model: Model,
    inputs: Tensor,
    labels: Tensor,
    *,
    eps: float | Tensor,
    norm: Norm = "linf",
    steps: int = 40,
    step_size: float | None = None,
    momentum: float = 0.9,
    random_start: bool = True,
    bounds: Bounds = (0.0, 1.0),
    generator: torch.Generator | None = None,
) -> Tensor:
    r"""Raise the confidence in a wrong class, so that rejecting unsure predictions does not help.

    Maximises $\max_{k \ne y} p_k(x')$: the attack that rejection by confidence has to withstand,
    and that CCAT trains on (PGD-Conf). Steps are $\alpha_t\,g_t$ with
    $g_t = \mu g_{t-1} + (1 - \mu)\,s(\nabla)$, $s$ the sign for `linf` and the unit vector for
    `l2`. A step is taken if the point that it leads to is not worse; if it is, the example stays
    and its $\alpha$ is divided by 1.5. So the last point is the best one. The gradient is that of
    the log-odds of the rival class, which does not go flat. Costs `steps + 1` forward and `steps`
    backward passes. Uses the labels that it is given: the true ones, as published.

    The random start has a uniformly drawn share of the length of a random point, so that small
    perturbations are seen as well.

    Args:
        model: Inputs `(n, ...)` to logits `(n, classes)`.
        inputs: The inputs within `bounds`, shape `(n, ...)`.
        labels: Integer labels, shape `(n,)`.
        eps: The radius, in units of `inputs`: a number, or one for each example, shape `(n,)`.
        norm: `"linf"`, as published, `"l2"` or `"l1"`.
        steps: The number of steps.
        step_size: The first $\alpha$; `eps / 6` if None, the published .005 at .03.
        momentum: $\mu$ in `[0, 1)`.
        random_start: Whether to start at a random point of the ball instead of at the input.
        bounds: The lowest and highest valid value: numbers, tensors that broadcast, or None.
        generator: The source of the random start; a copy of the global one if None.

    Returns:
        Adversarial inputs, of the shape, dtype and device of `inputs`.

    Raises:
        TypeError: If an argument is of the wrong kind or dtype.
        ValueError: If a shape, value or device is wrong, or the model returns NaN.

    Example:
        >>> from advcal.attacks import pgd_conf
        >>> model = lambda inputs: inputs @ torch.tensor([[1.0, -1.0], [0.0, 0.0]])
        >>> inputs, labels = torch.tensor([[0.5, 0.5]]), torch.tensor([0])
        >>> pgd_conf(model, inputs, labels, eps=0.25, random_start=False)
        tensor([[0.2500, 0.5000]])

    References:
        Stutz, Hein & Schiele, Confidence-Calibrated Adversarial Training: Generalizing to Unseen
        Attacks, ICML 2020, section 4 and the appendix on attacks.
    """
    region = ball(norm, inputs, eps, bounds)
    if momentum >= 1:
        raise ValueError(f"expected momentum < 1, got {momentum}")

    def confidence(logits: Tensor) -> Tensor:
        """Log-odds of the likeliest class other than the label."""
        _checks.label_range(labels, logits.shape[1])
        rivals = without_label(logits.detach(), labels).argmax(dim=1)
        return -log_odds(logits, rivals)

    here = inputs
    size = first_step(step_size, region, steps, spans=steps / 6)
    size = each_of(size, inputs, widest(inputs.device))
    if random_start:
        offset = region.random_point(generator) - inputs
        share = per_example(draw(torch.rand, size.float(), generator), inputs)
        here = region.project((inputs + share * offset).to(inputs.dtype))
    _, losses, gradient = gradient_at(model, here, slope_of(confidence))
    value, velocity = _comparable(losses), torch.zeros_like(here)
    for step in range(1, steps + 1):
        velocity = momentum * velocity + (1 - momentum) * region.steepest(gradient, here)
        tried = region.project((here + per_example(size, here) * velocity).to(here.dtype))
        if step < steps:
            _, losses, slope = gradient_at(model, tried, slope_of(confidence))
        else:
            losses, slope = confidence(logits_at(model, tried)), gradient
        reached = _comparable(losses)
        better = reached >= value
        here, gradient = select(better, tried, here), select(better, slope, gradient)
        value = torch.where(better, reached, value)
        size = torch.where(better, size, size / _LR_FACTOR)
    return here


def _comparable(losses: Tensor) -> Tensor:
    """Let NaN lose every comparison, and equal itself."""
    return wide(losses).nan_to_num(nan=-torch.inf, posinf=torch.inf, neginf=-torch.inf)
