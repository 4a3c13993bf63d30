"""Catastrophic overfitting: a model learns to withstand one attack and no other."""

from collections.abc import Sequence
from typing import NamedTuple

from advcal import _checks

_APART = 0.25  # the least distance of the two accuracies; less is the noise of a few examples


class Overfitting(NamedTuple):
    """When catastrophic overfitting set in.

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
    them alone: the accuracy under FGSM goes up while the one under PGD falls to about zero. An
    epoch shows it if the accuracy under PGD is at most `threshold` of that under FGSM and at least
    0.25 below it, while the one under FGSM is no lower than in the epoch that was best under PGD
    (if both fall together, training has another problem).

    Measure both with the `eps` of training on the same few hundred validation examples, PGD with
    ten steps or more. What helps is to go back to the best weights (`EarlyStopping` on the accuracy
    under PGD) and to a smaller `eps`, random starts, or PGD in training.

    Args:
        records: The accuracy under FGSM and under PGD of each epoch, in `[0, 1]`.
        threshold: The share of the accuracy under FGSM at which that under PGD has collapsed.

    Returns:
        What was found, or None.

    Raises:
        TypeError: If an argument is of the wrong kind.
        ValueError: If an accuracy or `threshold` is out of range, or a record is no pair.

    Example:
        >>> records = [(0.50, 0.42), (0.55, 0.45)]
        >>> catastrophic_overfitting(records)
        >>> found = catastrophic_overfitting([*records, (0.91, 0.02)])
        >>> found.epoch
        3
        >>> print(found.evidence.split(";")[0])
        in epoch 3 accuracy is 0.910 under FGSM and 0.020 under PGD

    References:
        Wong et al., Fast Is Better than Free: Revisiting Adversarial Training, ICLR 2020,
        section 5.
    """
    if not isinstance(records, Sequence) or isinstance(records, str):
        raise TypeError(f"expected records as a sequence of pairs, got {_checks.kind(records)}")
    threshold = _checks.number("threshold", threshold, above=0, most=1)
    best, fgsm_then = -1.0, 0.0
    for epoch, record in enumerate(records, 1):
        if not isinstance(record, (tuple, list)):
            raise TypeError(f"expected records of (FGSM, PGD), got {_checks.kind(record)}")
        if len(record) != 2:
            raise ValueError(f"expected records of (FGSM, PGD), got {len(record)} at epoch {epoch}")
        name = f"the accuracies of epoch {epoch}"
        fgsm, pgd = (_checks.number(name, each, least=0, most=1) for each in record)
        if pgd <= threshold * fgsm and fgsm >= max(fgsm_then, pgd + _APART):
            return Overfitting(
                epoch,
                f"in epoch {epoch} accuracy is {fgsm:.3f} under FGSM and {pgd:.3f} under PGD; "
                f"before, at best {max(best, 0):.3f} under PGD",
            )
        if pgd > best:
            best, fgsm_then = pgd, fgsm
    return None
