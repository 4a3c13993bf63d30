"""What remains wrong when a classifier answers only when it is confident."""

import math
from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from advcal import _checks, _probs, _sums
from advcal._typing import Array


def _falling_errors(
    probs: Array, labels: Array, from_logits: bool
) -> tuple[Tensor, Callable[[Tensor], Array]]:
    """Return the errors (0 or 1) by falling confidence, their mean if it is equal."""
    confidence, correct, own_kind = _probs.top_labels(probs, labels, from_logits)
    falling, order = confidence.sort(descending=True)
    errors = (~correct)[order].double()
    group = (falling.diff(prepend=falling[:1]) < 0).cumsum(0)  # equal confidences
    n = int(group[-1]) + 1 if _sums.eager(group) else len(group)
    if n < len(group) or not _sums.eager(group):
        errors = (_sums.per_cell(group, n, errors) / _sums.per_cell(group, n))[group]
    return errors, own_kind


def _share(share: float, n: int) -> int:
    """Return `ceil(share * n)`; a product that rounding takes above a whole number is that."""
    return math.ceil(share * n * (1 - 2**-40))


def _area(errors: Tensor) -> Tensor:
    ranks = torch.arange(1, len(errors) + 1, dtype=torch.float64, device=errors.device)
    return (_sums.running(errors) / ranks).mean()


def aurc(probs: Array, labels: Array, *, from_logits: bool = False) -> Array:
    r"""Compute the area under the risk-coverage curve: how well confidence tells mistakes apart.

    $\frac{1}{n} \sum_{k=1}^n r_k$, where $r_k$ is the error rate of the `k` most confident
    predictions. Equal confidences enter in random order, on average.

    Args:
        probs: Probabilities, shape `(n, classes)`; a tensor or a NumPy array.
        labels: Integer labels of the same kind, shape `(n,)`.
        from_logits: Whether `probs` are logits, whose softmax is taken in float64.

    Returns:
        A scalar in `[0, 1]`, float64, of the kind of `probs`.

    Raises:
        TypeError: If `probs` or `labels` is of another kind or dtype.
        ValueError: If a shape or value is wrong, a row does not sum to one, or `n` is 0.

    Example:
        >>> import torch
        >>> probs = torch.tensor([[0.9, 0.1], [0.4, 0.6]])
        >>> float(aurc(probs, torch.tensor([0, 0])))  # risks 0 and 1/2
        0.25

    References:
        Geifman, Uziel & El-Yaniv, Bias-Reduced Uncertainty Estimation, ICLR 2019.
    """
    errors, own_kind = _falling_errors(probs, labels, from_logits)
    return own_kind(_area(errors))


def e_aurc(probs: Array, labels: Array, *, from_logits: bool = False) -> Array:
    """Compute the excess of the area under the risk-coverage curve over the best order's.

    The best order puts every right prediction before every wrong one; its area is computed exactly
    for the `n` examples, while the source approximates it by an integral.

    Args:
        probs: Probabilities, shape `(n, classes)`; a tensor or a NumPy array.
        labels: Integer labels of the same kind, shape `(n,)`.
        from_logits: Whether `probs` are logits, whose softmax is taken in float64.

    Returns:
        A scalar in `[0, 1]`, float64, of the kind of `probs`; 0 if no order is better.

    Raises:
        TypeError: If `probs` or `labels` is of another kind or dtype.
        ValueError: If a shape or value is wrong, a row does not sum to one, or `n` is 0.

    Example:
        >>> import torch
        >>> probs = torch.tensor([[0.9, 0.1], [0.4, 0.6]])
        >>> float(e_aurc(probs, torch.tensor([1, 1])))  # risks 1 and 1/2 instead of 0 and 1/2
        0.5

    References:
        Geifman, Uziel & El-Yaniv, Bias-Reduced Uncertainty Estimation, ICLR 2019.
    """
    errors, own_kind = _falling_errors(probs, labels, from_logits)
    wrong = int(errors.sum().round())
    best = torch.zeros_like(errors)
    best[len(errors) - wrong :] = 1
    return own_kind((_area(errors) - _area(best)).clamp(min=0))


def augrc(probs: Array, labels: Array, *, from_logits: bool = False) -> Array:
    r"""Compute the area under the generalized risk-coverage curve of the confidence.

    $\frac{1}{n} \sum_{k=1}^n \frac{e_k}{n}$, where $e_k$ is the number of errors among the `k` most
    confident predictions: the probability that a prediction is wrong and not rejected, on average
    over all thresholds. Equal confidences enter in random order, on average.

    Args:
        probs: Probabilities, shape `(n, classes)`; a tensor or a NumPy array.
        labels: Integer labels of the same kind, shape `(n,)`.
        from_logits: Whether `probs` are logits, whose softmax is taken in float64.

    Returns:
        A scalar in `[0, 1]`, float64, of the kind of `probs`.

    Raises:
        TypeError: If `probs` or `labels` is of another kind or dtype.
        ValueError: If a shape or value is wrong, a row does not sum to one, or `n` is 0.

    Example:
        >>> import torch
        >>> probs = torch.tensor([[0.9, 0.1], [0.4, 0.6]])
        >>> float(augrc(probs, torch.tensor([0, 0])))  # no error, then one of two
        0.25

    References:
        Traub et al., Overcoming Common Flaws in the Evaluation of Selective Classification Systems,
        NeurIPS 2024.
    """
    errors, own_kind = _falling_errors(probs, labels, from_logits)
    return own_kind(_sums.running(errors).mean() / len(errors))


def selective_risk(
    probs: Array, labels: Array, *, coverage: float = 0.8, from_logits: bool = False
) -> Array:
    """Compute the error rate of the most confident predictions.

    They are the first `ceil(coverage n)`; equal confidences enter in random order, on average.

    Args:
        probs: Probabilities, shape `(n, classes)`; a tensor or a NumPy array.
        labels: Integer labels of the same kind, shape `(n,)`.
        coverage: The share of predictions that are kept, in `(0, 1]`.
        from_logits: Whether `probs` are logits, whose softmax is taken in float64.

    Returns:
        A scalar in `[0, 1]`, float64, of the kind of `probs`.

    Raises:
        TypeError: If `probs` or `labels` is of another kind or dtype.
        ValueError: If a shape or value is wrong, a row does not sum to one, or `n` is 0.

    Example:
        >>> import torch
        >>> probs = torch.tensor([[0.9, 0.1], [0.4, 0.6]])
        >>> float(selective_risk(probs, torch.tensor([0, 0]), coverage=0.5))
        0.0

    References:
        Geifman & El-Yaniv, Selective Classification for Deep Neural Networks, NeurIPS 2017.
    """
    _checks.arguments(coverage=coverage)
    errors, own_kind = _falling_errors(probs, labels, from_logits)
    return own_kind(errors[: _share(coverage, len(errors))].mean())


def rejection_threshold(
    probs: Array, labels: Array, *, tpr: float = 0.99, from_logits: bool = False
) -> Array:
    """Compute the confidence that this share of the right predictions reaches.

    The highest `t` such that at least `tpr` of the rightly classified examples have a confidence of
    `t` or more. Examples should be clean and held out, so that no attack moves the threshold.

    Args:
        probs: Probabilities, shape `(n, classes)`; a tensor or a NumPy array.
        labels: Integer labels of the same kind, shape `(n,)`.
        tpr: The share of right predictions that are not rejected, in `(0, 1]`.
        from_logits: Whether `probs` are logits, whose softmax is taken in float64.

    Returns:
        A scalar in `[0, 1]`, float64, of the kind of `probs`.

    Raises:
        TypeError: If `probs` or `labels` is of another kind or dtype.
        ValueError: If a shape or value is wrong, a row does not sum to one, `n` is 0, or no
            prediction is right.

    Example:
        >>> import torch
        >>> probs = torch.tensor([[0.75, 0.25], [0.5, 0.5], [0.25, 0.75]])
        >>> float(rejection_threshold(probs, torch.tensor([0, 0, 0])))
        0.5

    References:
        Stutz, Hein & Schiele, Confidence-Calibrated Adversarial Training, ICML 2020.
    """
    _checks.arguments(tpr=tpr)
    confidence, correct, own_kind = _probs.top_labels(probs, labels, from_logits)
    falling = confidence[correct].sort(descending=True).values
    if not len(falling):
        raise ValueError("expected at least one right prediction, got none")
    return own_kind(falling[_share(tpr, len(falling)) - 1])


def robust_error(
    probs: Array,
    labels: Array,
    *,
    attacked: Sequence[Array] = (),
    threshold: float = 0.0,
    from_logits: bool = False,
) -> Array:
    r"""Compute the robust error with rejection below a confidence, in the worst case per example.

    $\frac{\sum_i \max_j [\hat y_{ij} \ne y_i] [c_{ij} \ge t]}{\sum_i \max_j [c_{ij} \ge t]}$ over
    the clean prediction and those under each attack: the share that is wrong and not rejected, of
    the examples that are not always rejected. With `threshold=0` it is the robust error; 0 if
    everything is rejected. The authors' code computes the same with one attack.

    Args:
        probs: Probabilities of the clean inputs, `(n, classes)`; a tensor or a NumPy array.
        labels: Integer labels of the same kind, shape `(n,)`.
        attacked: Probabilities of the same examples under each attack, each `(n, classes)`.
        threshold: The confidence below which a prediction is rejected; see `rejection_threshold`.
        from_logits: Whether `probs` are logits, whose softmax is taken in float64.

    Returns:
        A scalar in `[0, 1]`, float64, of the kind of `probs`.

    Raises:
        TypeError: If `probs` or `labels` is of another kind or dtype.
        ValueError: If a shape or value is wrong, a row does not sum to one, or `n` is 0.

    Example:
        >>> import torch
        >>> probs, labels = torch.tensor([[0.9, 0.1], [0.9, 0.1]]), torch.tensor([0, 0])
        >>> under_attack = torch.tensor([[0.2, 0.8], [0.4, 0.6]])
        >>> float(robust_error(probs, labels, attacked=[under_attack], threshold=0.7))
        0.5

    References:
        Stutz, Hein & Schiele, Confidence-Calibrated Adversarial Training, ICML 2020.
    """
    _checks.arguments(threshold=threshold)
    _checks.several("attacked", attacked)
    confidence, correct, own_kind = _probs.top_labels(probs, labels, from_logits)
    kept = confidence >= threshold
    wrong = kept & ~correct
    for each in attacked:
        confidence, correct, _ = _probs.top_labels(each, labels, from_logits)
        kept |= confidence >= threshold
        wrong |= (confidence >= threshold) & ~correct
    return own_kind(wrong.sum() / kept.sum().clamp(min=1).double())
