"""Objectives: what a model is trained on, as functions `(model, batch) -> scalar loss`."""

from collections.abc import Sequence

from torch import Tensor
from torch.nn.functional import cross_entropy

from advcal import _checks
from advcal._typing import Attack, Batch, Loss, Model, Objective
from advcal.trainers._passes import craft, examples


def standard(*, loss: Loss = cross_entropy) -> Objective:
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
    _checks.function("loss", loss)

    def objective(model: Model, batch: Batch) -> Tensor:
        inputs, labels = examples(batch)
        return loss(model(inputs), labels)

    return objective


def adversarial(attack: Attack, *, loss: Loss = cross_entropy) -> Objective:
    r"""Train on attacked inputs only: minimise $L(f(x'), y)$ with $x' = \mathrm{attack}(f, x, y)$.

    The attack crafts against the weights of the moment, in eval mode, so that the statistics of
    BatchNorm never see it; the loss is then taken in the mode that the model is in.

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
        Towards Deep Learning Models Resistant to Adversarial Attacks, ICLR 2018, eq. 2.1.
    """
    _checks.function("attack", attack)
    _checks.function("loss", loss)

    def objective(model: Model, batch: Batch) -> Tensor:
        inputs, labels = examples(batch)
        return loss(model(craft(attack, model, inputs, labels)), labels)

    return objective


def inverse_adversarial(attack: Attack, *, loss: Loss = cross_entropy) -> Objective:
    r"""Train on inverse adversarial inputs (IAT): minimise $L(f(x + N), y)$.

    $N$ lowers the confidence and keeps the label; training on it with the true label teaches the
    model to stay confident where it is right. The examples are made anew for each batch.

    Args:
        attack: An attack on confidence, for instance
            `functools.partial(advcal.attacks.iaa, eps=8 / 255)`.
        loss: `(logits, labels) -> scalar`.

    Returns:
        An objective.

    Raises:
        TypeError: If an argument is not a callable.

    Example:
        >>> import functools
        >>> from advcal.attacks import iaa
        >>> objective = inverse_adversarial(functools.partial(iaa, eps=0.1, steps=5))

    References:
        Cheng et al., Towards Calibration Enhanced Network by Inverse Adversarial Attack,
        arXiv 2504.06358, section 3.3.
    """
    return adversarial(attack, loss=loss)


def mixed(*objectives: Objective, weights: Sequence[float] | None = None) -> Objective:
    r"""Minimise a weighted sum of objectives on the same batch: $\sum_i w_i L_i$.

    `mixed(adversarial(pgd), inverse_adversarial(iaa))` is AT+IAT. Its authors publish no ratio;
    equal weights are the default here.

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
    """
    if not objectives:
        raise ValueError("expected one objective or more, got none")
    for each in objectives:
        _checks.function("objective", each)
    if weights is None:
        weights = [1 / len(objectives)] * len(objectives)
    if not isinstance(weights, Sequence):
        raise TypeError(f"expected weights as a sequence of numbers, got {_checks.kind(weights)}")
    if len(weights) != len(objectives):
        raise ValueError(f"expected {len(objectives)} weights, got {len(weights)}")
    weights = [_checks.number("weights", weight, least=0) for weight in weights]

    def objective(model: Model, batch: Batch) -> Tensor:
        losses = [w * each(model, batch) for w, each in zip(weights, objectives, strict=True)]
        return sum(losses[1:], start=losses[0])

    return objective
