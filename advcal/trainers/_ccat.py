"""Confidence-calibrated adversarial training, and fine-tuning on attacks on confidence."""

from functools import partial

import torch
from torch import Tensor
from torch.nn.functional import cross_entropy

from advcal import _checks, losses
from advcal._random import onward
from advcal._typing import Attack, Batch, Loss, Model, Objective
from advcal.attacks import pgd_conf
from advcal.trainers._objectives import adversarial, mixed
from advcal.trainers._passes import craft, examples


def ccat(
    attack: Attack | None = None,
    *,
    eps: float,
    rho: float = 10.0,
    generator: torch.Generator | None = None,
) -> Objective:
    r"""Train to be unsure of what is far from an input (CCAT), so that attacks can be rejected.

    On attacked inputs $x + \delta$ the target goes from the label to the uniform distribution
    $u$: $g\,e_y + (1 - g)\,u$ with $g = (1 - \min(1, \|\delta\|_\infty / \varepsilon))^\rho$.
    The first half of a batch stays as it is, the second is attacked (the smaller half where the
    number is odd); both go through the model in one pass.

    **The model is meant to be used with rejection**: take `advcal.metrics.rejection_threshold` on
    clean held-out data and report `advcal.metrics.robust_error` above it. Without rejection a model
    so trained has next to no robust accuracy.

    Args:
        attack: `(model, inputs, labels) -> adversarial inputs`; `advcal.attacks.pgd_conf` with its
            defaults if None, the authors' 40 steps.
        eps: The radius in L∞, in units of the inputs, at which the target is uniform.
        rho: $\rho > 0$, how fast the target goes there.
        generator: Where the random starts of the authors' attack come from; the global random
            state, which a checkpoint has, if None. Put your own into the `state` of `epochs`.

    Returns:
        An objective; labels are integers.

    Raises:
        TypeError: If an argument is of the wrong kind.
        ValueError: If `eps` or `rho` is out of range.

    Example:
        >>> objective = ccat(eps=0.03)
        >>> model, batch = torch.nn.Linear(2, 2), (torch.rand(4, 2), torch.tensor([0, 1, 1, 0]))
        >>> objective(model, batch).shape
        torch.Size([])

    References:
        Stutz, Hein & Schiele, Confidence-Calibrated Adversarial Training: Generalizing to Unseen
        Attacks, ICML 2020, algorithm 1.
    """
    eps = _checks.number("eps", eps, above=0)
    rho = _checks.number("rho", rho, above=0)
    _checks.generator(generator)
    if attack is None:
        attack = partial(_confident, eps=eps, generator=generator)
    _checks.function("attack", attack)

    def objective(model: Model, batch: Batch) -> Tensor:
        inputs, labels = examples(batch)
        distances = torch.zeros(len(inputs), dtype=torch.float64, device=inputs.device)
        clean = len(inputs) - len(inputs) // 2
        if clean < len(inputs):
            points = craft(attack, model, inputs[clean:], labels[clean:])
            offsets = (points.double() - inputs[clean:].double()).flatten(1)
            distances[clean:] = offsets.abs().amax(dim=1)
            inputs = torch.cat([inputs[:clean], points])
        kept = (1 - (distances / eps).clamp_max(1)) ** rho
        logits = model(inputs)
        targets = losses.smooth_labels(labels, logits.shape[1], 1 - kept)
        return cross_entropy(logits, targets.to(logits.dtype))

    return objective


def _confident(
    model: Model,
    inputs: Tensor,
    labels: Tensor,
    *,
    eps: float,
    generator: torch.Generator | None,
) -> Tensor:
    return pgd_conf(model, inputs, labels, eps=eps, generator=onward(generator))


def caat(under: Attack, over: Attack, *, loss: Loss = cross_entropy) -> Objective:
    r"""Fine-tune on attacks on confidence (CAAT): minimise $L(f(x_u), y) + L(f(x_o), y)$.

    $x_u$ and $x_o$ are inputs of lower and of higher confidence with unchanged prediction, made
    anew for each batch. Each goes through the model in a pass of its own.

    Args:
        under: An attack that lowers confidence, for instance
            `functools.partial(advcal.attacks.uca, eps=8 / 255)`.
        over: One that raises it, for instance `functools.partial(advcal.attacks.oca, eps=8 / 255)`.
        loss: `(logits, labels) -> scalar`.

    Returns:
        An objective.

    Raises:
        TypeError: If an argument is not a callable.

    Example:
        >>> from advcal.attacks import oca, uca
        >>> objective = caat(partial(uca, eps=0.1), partial(oca, eps=0.1))

    References:
        Obadinma, Zhu & Guo, Calibration Attacks, arXiv 2401.02718.
    """
    _checks.function("under", under)
    _checks.function("over", over)
    both = adversarial(under, loss=loss), adversarial(over, loss=loss)
    return mixed(*both, weights=[1.0, 1.0])
