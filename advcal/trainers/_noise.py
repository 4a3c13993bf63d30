"""Train for randomized smoothing: on noisy inputs, and against attacks on the smoothed model."""

from dataclasses import KW_ONLY, dataclass
from typing import Any, TypeAlias

import torch
from torch import Tensor
from torch.nn.functional import cross_entropy

from advcal import _checks
from advcal._answers import logits_of
from advcal._frozen import Around, unwrapped
from advcal._logits import log_mean_probs
from advcal._random import draw, onward
from advcal._typing import Attack, Batch, Loss, Model, Objective
from advcal.trainers._crafting import Crafting, craft, examples, loss_at, two_steps

Averaged: TypeAlias = tuple[Tensor, Tensor, int]
"""Attacked inputs, labels, and the seed of the noise that the attack saw."""


@dataclass(frozen=True, slots=True, eq=False, repr=False)
class noisy(Crafting):
    r"""Train any objective on inputs with Gaussian noise: minimise $L(f(x + \sigma z), y)$.

    What `advcal.certify.certify` needs of a model. The noise is drawn anew for each batch and not
    clipped, as the certificate has it.

    Args:
        objective: What is trained on the noisy inputs; `standard()` is the method of Cohen et al.
        sigma: The standard deviation of the noise, in units of the inputs.
        generator: The source of the noise; the global random state, which a checkpoint has, if
            None. Put your own into the `state` of `epochs`.

    Returns:
        An objective.

    Raises:
        TypeError: If an argument is of the wrong kind.
        ValueError: If `sigma` is not positive.

    Example:
        >>> from advcal.trainers import standard
        >>> noisy(standard(), sigma=0.25)
        noisy(standard(), sigma=0.25)

    References:
        Cohen, Rosenfeld & Kolter, Certified Adversarial Robustness via Randomized Smoothing, ICML
        2019, section 3.3.
    """

    objective: Objective
    _: KW_ONLY
    sigma: float
    generator: torch.Generator | None = None

    def __post_init__(self) -> None:
        _checks.arguments(objective=self.objective, sigma=self.sigma, generator=self.generator)

    def craft(self, model: Model, batch: Batch) -> Any:
        inputs = _checks.tensor("inputs", examples(batch)[0], hint="; divide 8-bit images by 255")
        points = inputs + _noise(inputs, self.sigma, onward(self.generator))
        return two_steps(self.objective)[0](model, (points, *batch[1:]))

    def loss_of(self, model: Model, crafted: Any) -> Tensor:
        return two_steps(self.objective)[1](model, crafted)


@dataclass(frozen=True, slots=True, eq=False, repr=False)
class smooth_adversarial(Crafting):
    r"""Train against an attack on the smoothed model (SmoothAdv).

    The attack sees $\log \frac1n \sum_i \mathrm{softmax} f(x + \sigma z_i)$ with noise that stays
    the same while it climbs; minimised is $L(f(x' + \sigma z_i), y)$ over the same noise, in one
    pass of `n` times the batch. The authors attack in L2 by `pgd` with `random_start=False`, 2 or
    10 steps of `2 eps / steps`, `n` from 1 to 8, and raise `eps` from 0 in the first epochs.

    Args:
        attack: `(model, inputs, labels) -> adversarial inputs`.
        sigma: The standard deviation of the noise, in units of the inputs.
        n: The number of passes of which the smoothed model is the mean.
        loss: `(logits, labels) -> scalar`.
        generator: The source of the noise; the global random state, which a checkpoint has, if
            None. Put your own into the `state` of `epochs`.

    Returns:
        An objective.

    Raises:
        TypeError: If an argument is of the wrong kind.
        ValueError: If `sigma` or `n` is not positive.

    Example:
        >>> from functools import partial
        >>> from advcal.attacks import pgd
        >>> attack = partial(pgd, eps=0.25, norm="l2", steps=2, random_start=False)
        >>> objective = smooth_adversarial(attack, sigma=0.25, n=2)
        >>> model, batch = torch.nn.Linear(2, 2), (torch.rand(4, 2), torch.tensor([0, 1, 1, 0]))
        >>> bool(objective(model, batch) > 0)
        True

    References:
        Salman et al., Provably Robust Deep Learning via Adversarially Trained Smoothed Classifiers,
        NeurIPS 2019, section 3.
    """

    attack: Attack
    _: KW_ONLY
    sigma: float
    n: int = 4
    loss: Loss = cross_entropy
    generator: torch.Generator | None = None

    def __post_init__(self) -> None:
        _checks.arguments(attack=self.attack, sigma=self.sigma, n=self.n, loss=self.loss)
        _checks.arguments(generator=self.generator)

    def craft(self, model: Model, batch: Batch) -> Averaged:
        inputs, labels = examples(batch)
        source = onward(self.generator)
        seed = int(torch.randint(2**62, (), generator=source, device=source.device))
        average = _Averaged(unwrapped(model), self.sigma, self.n, seed)
        return craft(self.attack, average, inputs, labels), labels, seed

    def loss_of(self, model: Model, crafted: Averaged) -> Tensor:
        points, labels, seed = crafted
        source = torch.Generator(points.device).manual_seed(seed)
        seen = [points + _noise(points, self.sigma, source) for _ in range(self.n)]
        return loss_at(self.loss, model, torch.cat(seen), labels.repeat(self.n))


class _Averaged(Around):
    """The smoothed model with noise that is the same at each call with as many inputs."""

    def __init__(self, model: Model, sigma: float, n: int, seed: int) -> None:
        super().__init__()
        self.model, self.sigma, self.n, self.seed = model, sigma, n, seed
        self._around = (model,)

    def forward(self, inputs: Tensor) -> Tensor:
        source = torch.Generator(inputs.device).manual_seed(self.seed)
        seen = (inputs + _noise(inputs, self.sigma, source) for _ in range(self.n))
        return log_mean_probs([logits_of(self.model, points) for points in seen])


def _noise(like: Tensor, sigma: float, source: torch.Generator) -> Tensor:
    return sigma * draw(torch.randn, like, source, dtype=like.dtype)
