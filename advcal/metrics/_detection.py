"""How well a score tells one kind of example from another, such as what is out of distribution."""

from collections.abc import Callable

import torch
from torch import Tensor

from advcal import _checks, _probs, _sums
from advcal._typing import Array


def entropy(probs: Array, *, from_logits: bool = False) -> Array:
    r"""Compute the predictive entropy $-\sum_k p_k \log p_k$ of each example, in nats.

    Args:
        probs: Probabilities, shape `(n, classes)`; a tensor or a NumPy array.
        from_logits: Whether `probs` are logits, whose softmax is taken in float64.

    Returns:
        Shape `(n,)`, from 0 to the logarithm of the number of classes; float64, of the kind of
        `probs`.

    Raises:
        TypeError: If `probs` is of another kind or dtype.
        ValueError: If a shape or value is wrong, a row does not sum to one, or `n` is 0.

    Example:
        >>> import torch
        >>> entropy(torch.tensor([[1.0, 0.0], [0.5, 0.5]])).tolist()
        [0.0, 0.6931]
    """
    _checks.arguments(from_logits=from_logits)
    p, own_kind = _probs.matrix(probs)
    chunks = _probs.checked_rows(p, p[:, 0], from_logits)
    return own_kind(torch.cat([torch.special.entr(rows.double()).sum(dim=1) for rows, _ in chunks]))


def _curve(scores: Array, labels: Array) -> tuple[Tensor, Tensor, Callable[[Tensor], Array]]:
    """Count positives and negatives at or above each distinct score, from the highest down."""
    s, y, own_kind = _probs.scores(scores, labels)
    ascending, group = s.unique(return_inverse=True)
    counts = _sums.per_cell(2 * group + y, 2 * len(ascending)).view(-1, 2)
    negatives, positives = counts.flip(0).cumsum(0).double().unbind(dim=1)
    return positives, negatives, own_kind


def aupr(scores: Array, labels: Array) -> Array:
    r"""Compute the area under the precision-recall curve as the average precision.

    $\sum_i (R_i - R_{i-1}) P_i$ over the distinct scores, without interpolation.

    Args:
        scores: Scores, shape `(n,)`, higher for positives, infinite ones too; tensor or array.
        labels: 1 for positives and 0 for negatives, integers of the same kind, shape `(n,)`; of
            both at least one.

    Returns:
        A scalar in `[0, 1]`, float64, of the kind of `scores`.

    Raises:
        TypeError: If `scores` or `labels` is of another kind or dtype.
        ValueError: If a shape or value is wrong or there is one kind of label only.

    Example:
        >>> import torch
        >>> scores, labels = torch.tensor([0.1, 0.4, 0.3, 0.8]), torch.tensor([0, 0, 1, 1])
        >>> round(float(aupr(scores, labels)), 4)
        0.8333

    References:
        Davis & Goadrich, The Relationship Between Precision-Recall and ROC Curves, ICML 2006.
    """
    positives, negatives, own_kind = _curve(scores, labels)
    gained = positives.diff(prepend=positives.new_zeros(1))
    return own_kind((gained * positives / (positives + negatives)).sum() / positives[-1])


def auroc(scores: Array, labels: Array) -> Array:
    r"""Compute the area under the receiver operating characteristic.

    The probability that a positive scores higher than a negative, equal scores counting half.

    Args:
        scores: Scores, shape `(n,)`, higher for positives, infinite ones too; tensor or array.
        labels: 1 for positives and 0 for negatives, integers of the same kind, shape `(n,)`; of
            both at least one.

    Returns:
        A scalar in `[0, 1]`, float64, of the kind of `scores`.

    Raises:
        TypeError: If `scores` or `labels` is of another kind or dtype.
        ValueError: If a shape or value is wrong or there is one kind of label only.

    Example:
        >>> import torch
        >>> scores, labels = torch.tensor([0.1, 0.4, 0.3, 0.8]), torch.tensor([0, 0, 1, 1])
        >>> round(float(auroc(scores, labels)), 4)
        0.75

    References:
        Fawcett, An introduction to ROC analysis, Pattern Recognition Letters 27, 2006.
    """
    positives, negatives, own_kind = _curve(scores, labels)
    above = positives - positives.diff(prepend=positives.new_zeros(1)) / 2
    gained = negatives.diff(prepend=negatives.new_zeros(1))
    return own_kind((gained * above).sum() / (positives[-1] * negatives[-1]))


def fpr95(scores: Array, labels: Array) -> Array:
    r"""Compute the false positive rate at the highest threshold of 95 % true positives or more.

    Which examples are positive changes the number: in work on out-of-distribution data it is
    mostly the ones within the distribution, with a confidence as their score.

    Args:
        scores: Scores, shape `(n,)`, higher for positives, infinite ones too; tensor or array.
        labels: 1 for positives and 0 for negatives, integers of the same kind, shape `(n,)`; of
            both at least one.

    Returns:
        A scalar in `[0, 1]`, float64, of the kind of `scores`.

    Raises:
        TypeError: If `scores` or `labels` is of another kind or dtype.
        ValueError: If a shape or value is wrong or there is one kind of label only.

    Example:
        >>> import torch
        >>> scores, labels = torch.tensor([0.1, 0.4, 0.3, 0.8]), torch.tensor([0, 0, 1, 1])
        >>> round(float(fpr95(scores, labels)), 4)
        0.5

    References:
        Liang, Li & Srikant, Reliability of Out-of-distribution Detection, ICLR 2018.
    """
    positives, negatives, own_kind = _curve(scores, labels)
    reached = 20 * positives >= 19 * positives[-1]
    return own_kind(torch.where(reached, negatives, torch.inf).min() / negatives[-1])
