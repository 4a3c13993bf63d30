"""Means of one score per example: no bins."""

from collections.abc import Callable, Iterator
from typing import Literal

import torch
from torch import Tensor

from advcal import _probs
from advcal._typing import Array

Reduction = Literal["mean", "sum", "none"]


def accuracy(
    probs: Array,
    labels: Array,
    *,
    reduction: Reduction = "mean",
    weights: Array | None = None,
    from_logits: bool = False,
) -> Array:
    """Compute the share of examples whose most probable class is the label.

    Of equal highest probabilities the first class is the prediction.

    Args:
        probs: Probabilities, shape `(n, classes)`; a tensor or a NumPy array.
        labels: Integer labels of the same kind, shape `(n,)`.
        reduction: `"mean"`, `"sum"`, or `"none"` for one value (0 or 1) per example.
        weights: What each example counts for, `(n,)` of the kind of `probs`, not negative; all the
            same if None. They are in the values of `"sum"` and `"none"` too.
        from_logits: Whether `probs` are logits, whose softmax is taken in float64.

    Returns:
        A scalar, or shape `(n,)` with `reduction="none"`; float64, of the kind of `probs`.

    Raises:
        TypeError: If `probs` or `labels` is of another kind or dtype.
        ValueError: If a shape or value is wrong, a row does not sum to one, or `n` is 0.

    Example:
        >>> import torch
        >>> float(accuracy(torch.tensor([[0.9, 0.1], [0.4, 0.6]]), torch.tensor([0, 0])))
        0.5
    """
    return _reduce(
        lambda p, y: _probs.top_label(p, y)[1].double(),
        probs,
        labels,
        reduction,
        weights,
        from_logits,
    )


def confidence(
    probs: Array,
    labels: Array,
    *,
    reduction: Reduction = "mean",
    weights: Array | None = None,
    from_logits: bool = False,
) -> Array:
    """Compute the mean probability of the predicted class.

    Args:
        probs: Probabilities, shape `(n, classes)`; a tensor or a NumPy array.
        labels: Integer labels of the same kind, shape `(n,)`; checked, and used for nothing else.
        reduction: `"mean"`, `"sum"`, or `"none"` for one value per example.
        weights: What each example counts for, `(n,)` of the kind of `probs`, not negative; all the
            same if None. They are in the values of `"sum"` and `"none"` too.
        from_logits: Whether `probs` are logits, whose softmax is taken in float64.

    Returns:
        A scalar, or shape `(n,)` with `reduction="none"`; float64, of the kind of `probs`.

    Raises:
        TypeError: If `probs` or `labels` is of another kind or dtype.
        ValueError: If a shape or value is wrong, a row does not sum to one, or `n` is 0.

    Example:
        >>> import torch
        >>> float(confidence(torch.tensor([[0.75, 0.25], [0.5, 0.5]]), torch.tensor([0, 0])))
        0.625
    """
    highest = lambda p, y: p.amax(dim=1).double()  # noqa: E731
    return _reduce(highest, probs, labels, reduction, weights, from_logits)


def mcs(
    probs: Array, labels: Array, *, weights: Array | None = None, from_logits: bool = False
) -> Array:
    r"""Compute the miscalibration score: mean confidence minus accuracy, signed.

    $\sum_m \frac{|B_m|}{n} \, (\mathrm{conf}(B_m) - \mathrm{acc}(B_m))$, in which the bins cancel.
    Positive is overconfident, negative underconfident. One source prints the opposite sign in its
    formula and uses this one in its text and tables.

    Args:
        probs: Probabilities, shape `(n, classes)`; a tensor or a NumPy array.
        labels: Integer labels of the same kind, shape `(n,)`.
        weights: What each example counts for, `(n,)` of the kind of `probs`, not negative; all the
            same if None.
        from_logits: Whether `probs` are logits, whose softmax is taken in float64.

    Returns:
        A scalar in `[-1, 1]`, float64, of the kind of `probs`.

    Raises:
        TypeError: If `probs` or `labels` is of another kind or dtype.
        ValueError: If a shape or value is wrong, a row does not sum to one, or `n` is 0.

    Example:
        >>> import torch
        >>> float(mcs(torch.tensor([[0.75, 0.25], [0.5, 0.5]]), torch.tensor([0, 0])))
        -0.375

    References:
        Ao et al., Two Sides of Miscalibration, UAI 2023. Cheng et al., Towards Calibration
        Enhanced Network by Inverse Adversarial Attack, arXiv 2504.06358, eq. 14 (sign corrected).
    """

    def gap(p: Tensor, y: Tensor) -> Tensor:
        highest, correct = _probs.top_label(p, y)
        return highest - correct.double()

    return _reduce(gap, probs, labels, "mean", weights, from_logits)


def nll(
    probs: Array,
    labels: Array,
    *,
    reduction: Reduction = "mean",
    weights: Array | None = None,
    from_logits: bool = False,
) -> Array:
    r"""Compute the negative log-likelihood $-\log p_y$ in nats.

    A label of probability 0 costs infinity; nothing is clipped.

    Args:
        probs: Probabilities, shape `(n, classes)`; a tensor or a NumPy array.
        labels: Integer labels of the same kind, shape `(n,)`.
        reduction: `"mean"`, `"sum"`, or `"none"` for one value per example.
        weights: What each example counts for, `(n,)` of the kind of `probs`, not negative; all the
            same if None. They are in the values of `"sum"` and `"none"` too.
        from_logits: Whether `probs` are logits, whose softmax is taken in float64.

    Returns:
        A scalar, or shape `(n,)` with `reduction="none"`; float64, of the kind of `probs`.

    Raises:
        TypeError: If `probs` or `labels` is of another kind or dtype.
        ValueError: If a shape or value is wrong, a row does not sum to one, or `n` is 0.

    Example:
        >>> import torch
        >>> round(float(nll(torch.tensor([[0.5, 0.5]]), torch.tensor([1]))), 4)
        0.6931
    """

    def loss(rows: Tensor, y: Tensor) -> Tensor:
        if from_logits:  # less the highest logit, so that no digit is lost to it
            return -_label_entry(rows.double().log_softmax(dim=1), y)
        return -_label_entry(rows, y).log()

    rows = _probs.checked_logits if from_logits is True else None
    return _reduce(loss, probs, labels, reduction, weights, from_logits, rows)


def brier(
    probs: Array,
    labels: Array,
    *,
    reduction: Reduction = "mean",
    weights: Array | None = None,
    from_logits: bool = False,
) -> Array:
    r"""Compute the Brier score $\sum_k (p_k - [k = y])^2$, summed over the classes.

    From 0 (right and certain) to 2 (wrong and certain), as Brier defined it; with two classes it
    is twice the score that is computed from the probability of one of them.

    Args:
        probs: Probabilities, shape `(n, classes)`; a tensor or a NumPy array.
        labels: Integer labels of the same kind, shape `(n,)`.
        reduction: `"mean"`, `"sum"`, or `"none"` for one value per example.
        weights: What each example counts for, `(n,)` of the kind of `probs`, not negative; all the
            same if None. They are in the values of `"sum"` and `"none"` too.
        from_logits: Whether `probs` are logits, whose softmax is taken in float64.

    Returns:
        A scalar, or shape `(n,)` with `reduction="none"`; float64, of the kind of `probs`.

    Raises:
        TypeError: If `probs` or `labels` is of another kind or dtype.
        ValueError: If a shape or value is wrong, a row does not sum to one, or `n` is 0.

    Example:
        >>> import torch
        >>> float(brier(torch.tensor([[0.5, 0.5]]), torch.tensor([1])))
        0.5

    References:
        Brier, Verification of forecasts expressed in terms of probability, 1950, eq. 2.
    """
    return _reduce(squares, probs, labels, reduction, weights, from_logits)


def squares(p: Tensor, y: Tensor) -> Tensor:
    """Return the Brier score of each row."""
    few = p.split(max(1, (1 << 16) // p.shape[1]))  # float64 rows that stay in the cache
    sums = torch.cat([rows.double().square().sum(dim=1) for rows in few])
    label = _label_entry(p, y)
    return sums - label.square() + (1 - label).square()


def scored(p: Tensor, y: Tensor, from_logits: bool) -> Iterator[tuple[Tensor, Tensor, Tensor]]:
    """Yield, for runs of checked rows, confidence, NLL and Brier score."""
    for rows, labels in (_probs.checked_logits if from_logits else _probs.checked_rows)(p, y):
        if from_logits:
            log_probs = rows.double().log_softmax(dim=1)
            rows, costs = log_probs.exp(), -_label_entry(log_probs, labels)
        else:
            costs = -_label_entry(rows, labels).log()
        yield rows.amax(dim=1).double(), costs, squares(rows, labels)


def _label_entry(p: Tensor, y: Tensor) -> Tensor:
    return p.gather(1, y[:, None])[:, 0].double()


def _reduce(
    score: Callable[[Tensor, Tensor], Tensor],
    probs: Array,
    labels: Array,
    reduction: Reduction,
    weights: Array | None,
    from_logits: bool,
    rows: Callable[..., Iterator[tuple[Tensor, Tensor]]] | None = None,
) -> Array:
    p, y, own_kind = _probs.probabilities(
        probs, labels, reduction=reduction, from_logits=from_logits
    )
    chunks = rows(p, y) if rows else _probs.checked_rows(p, y, from_logits)
    scores = (score(*chunk) for chunk in chunks)
    n: Tensor | int = len(p)
    if weights is not None:
        w = _probs.example_weights(probs, weights, y)
        scores, n = (part for part in [weighted(torch.cat(list(scores)), w)]), w.sum()
    if reduction == "none":
        return own_kind(torch.cat(list(scores)))
    total = torch.stack([part.sum() for part in scores]).sum()
    return own_kind(total / n if reduction == "mean" else total)


def mistake_cost(confidence: Tensor) -> Tensor:
    """Return the NLL of a mistake at each confidence, at least: what is unseen may cost so much."""
    return -(1 - confidence).clamp_min(2**-53).log()


def weighted(values: Tensor, weights: Tensor) -> Tensor:
    """Return values times weights, in which an infinite one of weight 0 is nothing."""
    return torch.where(weights > 0, weights * values, 0)
