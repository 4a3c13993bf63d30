"""Objectives: what a model is trained on, as values that are called: `(model, batch) -> loss`."""

from collections.abc import Sequence
from dataclasses import KW_ONLY, dataclass
from typing import Any

from torch import Tensor
from torch.nn.functional import cross_entropy

from advcal import _checks
from advcal._typing import Attack, Batch, Loss, Model, Objective
from advcal.trainers._crafting import Crafting, craft, examples, loss_at, two_steps


@dataclass(frozen=True, slots=True, eq=False, repr=False)
class standard(Crafting):
    r"""Train on the inputs as they are: minimise $L(f(x), y)$.

    Args:
        loss: `(logits, labels) -> scalar`.

    Returns:
        An objective.

    Raises:
        TypeError: If `loss` is not a callable.

    Example:
        >>> import torch
        >>> objective = standard()
        >>> objective(torch.nn.Identity(), (torch.tensor([[0.0, 0.0]]), torch.tensor([1])))
        tensor(0.6931)
    """

    _: KW_ONLY
    loss: Loss = cross_entropy

    def craft(self, model: Model, batch: Batch) -> tuple[Tensor, Tensor]:
        return examples(batch)

    def loss_of(self, model: Model, crafted: tuple[Tensor, Tensor]) -> Tensor:
        inputs, labels = crafted
        return loss_at(self.loss, model, inputs, labels)


@dataclass(frozen=True, slots=True, eq=False, repr=False)
class adversarial(Crafting):
    r"""Train on attacked inputs only: minimise $L(f(x'), y)$ with $x' = \mathrm{attack}(f, x, y)$.

    The attack crafts against the weights of the moment, in eval mode, so that the statistics of
    BatchNorm never see it; the loss is then taken in the mode that the model is in. With
    `advcal.attacks.iaa` it is inverse adversarial training (IAT): the model is taught the label on
    inputs of lower confidence in it.

    Args:
        attack: `(model, inputs, labels) -> adversarial inputs`, for instance
            `functools.partial(advcal.attacks.pgd, eps=8 / 255)`.
        loss: `(logits, labels) -> scalar`.

    Returns:
        An objective.

    Raises:
        TypeError: If an argument is not a callable.

    Example:
        >>> import functools, torch
        >>> from advcal.attacks import fgsm
        >>> objective = adversarial(functools.partial(fgsm, eps=0.5))
        >>> objective(torch.nn.Identity(), (torch.tensor([[0.5, 0.6]]), torch.tensor([1])))
        tensor(1.2412)

    References:
        Goodfellow et al., Explaining and Harnessing Adversarial Examples, ICLR 2015; Madry et al.,
        Towards Deep Learning Models Resistant to Adversarial Attacks, ICLR 2018, eq. 2.1; Cheng et
        al., Towards Calibration Enhanced Network by Inverse Adversarial Attack, arXiv 2504.06358.
    """

    attack: Attack
    _: KW_ONLY
    loss: Loss = cross_entropy

    def craft(self, model: Model, batch: Batch) -> tuple[Tensor, Tensor]:
        inputs, labels = examples(batch)
        return craft(self.attack, model, inputs, labels), labels

    def loss_of(self, model: Model, crafted: tuple[Tensor, Tensor]) -> Tensor:
        points, labels = crafted
        return loss_at(self.loss, model, points, labels)


@dataclass(frozen=True, slots=True, eq=False, repr=False, init=False)
class mixed(Crafting):
    r"""Minimise a weighted sum of objectives on the same batch: $\sum_i w_i L_i$.

    `mixed(adversarial(pgd), adversarial(iaa))` is AT+IAT; its authors publish no ratio, and equal
    weights are the default here. With `adversarial(uca)`, `adversarial(oca)` and `weights=[1, 1]`
    it is fine-tuning on attacks on confidence (CAAT).

    Args:
        *objectives: One or more objectives.
        weights: $w_i \ge 0$, one per objective; each `1 / len(objectives)` if None.

    Returns:
        An objective.

    Raises:
        TypeError: If an objective is not a callable.
        ValueError: If there is none, or the weights do not match.

    Example:
        >>> import torch
        >>> twice = mixed(standard(), standard(), weights=[1.0, 1.0])
        >>> twice(torch.nn.Identity(), (torch.tensor([[0.0, 0.0]]), torch.tensor([1])))
        tensor(1.3863)

    References:
        Obadinma, Zhu & Guo, Calibration Attacks, arXiv 2401.02718, for CAAT.
    """

    objectives: tuple[Objective, ...]
    weights: tuple[float, ...] | None

    def __init__(self, *objectives: Objective, weights: Sequence[float] | None = None) -> None:
        if not objectives:
            raise ValueError("expected one objective or more, got none")
        for each in objectives:
            _checks.function("objective", each)
        if weights is not None:
            if not isinstance(weights, Sequence):
                raise TypeError(f"expected weights as a sequence, got {_checks.kind(weights)}")
            if len(weights) != len(objectives):
                raise ValueError(f"expected {len(objectives)} weights, got {len(weights)}")
            weights = tuple(_checks.number("weights", each, least=0) for each in weights)
        object.__setattr__(self, "objectives", objectives)
        object.__setattr__(self, "weights", weights)

    def craft(self, model: Model, batch: Batch) -> list[Any]:
        return [two_steps(each)[0](model, batch) for each in self.objectives]

    def loss_of(self, model: Model, crafted: list[Any]) -> Tensor:
        parts = zip(self.objectives, crafted, strict=True)
        return self._sum([two_steps(each)[1](model, part) for each, part in parts])

    def __call__(self, model: Model, batch: Batch) -> Tensor:
        _checks.arguments(model=model)
        # In turn: what is crafted for the second meets BatchNorm's statistics after the first.
        return self._sum([each(model, batch) for each in self.objectives])

    def _sum(self, losses: list[Tensor]) -> Tensor:
        weights = self.weights or [1 / len(losses)] * len(losses)
        first, *rest = (w * each for w, each in zip(weights, losses, strict=True))
        return sum(rest, start=first)
