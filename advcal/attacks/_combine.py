"""Attacks made of attacks."""

import torch
from torch import Tensor

from advcal import _checks
from advcal._frozen import attacked, frozen
from advcal._typing import Attack, Model
from advcal.attacks._best import Best
from advcal.attacks._gradient import log_odds, logits_at


def worst_case(*attacks: Attack) -> Attack:
    """Run several attacks and keep, per example, the outcome that is worst for the model.

    An outcome that fools the model is worse than one that does not, and of two alike the one of
    higher cross-entropy is. The inputs themselves compete, so that accuracy is never above clean.

    Args:
        *attacks: One attack or more, `(model, inputs, labels) -> inputs`.

    Returns:
        An attack.

    Raises:
        TypeError: If an attack is not a callable.
        ValueError: If there is none.

    Example:
        >>> from functools import partial
        >>> from advcal.attacks import fgsm, pgd
        >>> attack = worst_case(partial(fgsm, eps=0.1), partial(pgd, eps=0.1, loss="margin"))
    """
    if not attacks:
        raise ValueError("expected one attack or more, got none")
    for each in attacks:
        _checks.function("attack", each)

    def attack(model: Model, inputs: Tensor, labels: Tensor) -> Tensor:
        inputs, labels = _checks.examples(inputs, labels)
        with frozen(model, grad=False):
            inputs, labels = inputs.detach().clone(), labels.clone()
            best = Best(inputs)
            for candidate in (lambda *_: inputs, *attacks):
                points = attacked(candidate, model, inputs, labels)
                logits = logits_at(model, points)
                _checks.label_range(labels, logits.shape[1])
                best.offer(points, logits.argmax(dim=1) != labels, log_odds(logits, labels))
            return best.points

    return attack


def batched(attack: Attack, size: int) -> Attack:
    """Run an attack on `size` examples at a time, where memory does not hold them all.

    Args:
        attack: `(model, inputs, labels) -> inputs`.
        size: The number of examples at a time.

    Returns:
        An attack.

    Raises:
        TypeError: If `attack` is not a callable or `size` not an int.
        ValueError: If `size` is not positive.

    Example:
        >>> from functools import partial
        >>> from advcal.attacks import pgd
        >>> attack = batched(partial(pgd, eps=0.1), 128)
    """
    _checks.function("attack", attack)
    size = _checks.count("size", size)

    def in_parts(model: Model, inputs: Tensor, labels: Tensor) -> Tensor:
        inputs, labels = _checks.examples(inputs, labels)
        parts = zip(inputs.split(size), labels.split(size), strict=True)
        return torch.cat([attacked(attack, model, *part) for part in parts])

    return in_parts
