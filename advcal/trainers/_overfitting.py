"""Catastrophic overfitting: a model learns to withstand one attack and no other."""

import math
from collections.abc import Sequence
from typing import NamedTuple

from advcal import _checks

_APART = 0.25  # the least distance of the two accuracies; less is the noise of an untrained model


class Overfitting(NamedTuple):
    """Where catastrophic overfitting set in.

    Attributes:
        epoch: The first epoch at which it shows, from 1.
        evidence: The reason, one sentence with its numbers.
    """

    epoch: int
    evidence: str


def catastrophic_overfitting(
    records: Sequence[tuple[float, float]], *, threshold: float = 0.25
) -> Overfitting | None:
    """Look for catastrophic overfitting in the accuracies of the epochs so far.

    Training on attacks of one step can end, often within one epoch, in a model that withstands
    them alone: the accuracy under FGSM goes up while the one under PGD falls to about zero. The
    sign looked for is an epoch whose accuracy under PGD is at most `threshold` of the best before,
    while the one under FGSM is no lower than it was then, and the two are at least 0.25 apart. A
    model whose accuracies fall together has another problem, and one that never withstood PGD has
    nothing to lose.

    Measure both on the same few hundred validation examples, PGD with ten steps or more. What
    helps is to go back to the best weights (`EarlyStopping` on the accuracy under PGD), and a
    larger random step, a smaller `eps`, or PGD in training.

    Args:
        records: The accuracy under FGSM and under PGD of each epoch, in `[0, 1]`.
        threshold: The share of the best accuracy under PGD at which it counts as collapsed.

    Returns:
        What was found, or None.

    Raises:
        TypeError: If an argument is of the wrong kind.
        ValueError: If an accuracy or `threshold` is out of range, or a record is no pair.

    Example:
        >>> records = [(0.50, 0.42), (0.55, 0.45)]
        >>> catastrophic_overfitting(records)
        >>> catastrophic_overfitting([*records, (0.91, 0.02)]).evidence
        'PGD accuracy 0.450 in epoch 2, 0.020 in epoch 3; FGSM accuracy 0.550, then 0.910'

    References:
        Wong et al., Fast Is Better than Free: Revisiting Adversarial Training, ICLR 2020,
        section 5.
    """
    if not isinstance(records, Sequence) or isinstance(records, str):
        raise TypeError(f"expected records as a sequence of pairs, got {_checks.kind(records)}")
    threshold = _checks.number("threshold", threshold, above=0, most=1)
    best, at, fgsm_then = 0.0, 0, math.inf
    for epoch, record in enumerate(records, 1):
        fgsm, pgd = _pair(record, epoch)
        if pgd <= threshold * best and fgsm >= max(fgsm_then, pgd + _APART):
            return Overfitting(
                epoch,
                f"PGD accuracy {best:.3f} in epoch {at}, {pgd:.3f} in epoch {epoch}; "
                f"FGSM accuracy {fgsm_then:.3f}, then {fgsm:.3f}",
            )
        if pgd > best:
            best, at, fgsm_then = pgd, epoch, fgsm
    return None


def _pair(record: object, epoch: int) -> tuple[float, float]:
    if not isinstance(record, (tuple, list)):
        raise TypeError(f"expected records of (FGSM, PGD), got {_checks.kind(record)}")
    if len(record) != 2:
        raise ValueError(f"expected records of (FGSM, PGD), got {len(record)} at epoch {epoch}")
    name = f"the accuracies of epoch {epoch}"
    fgsm, pgd = (_checks.number(name, each, least=0, most=1) for each in record)
    return fgsm, pgd
