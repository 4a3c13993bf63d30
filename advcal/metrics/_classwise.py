"""Calibration of every class, not of the predicted one alone."""

import torch

from advcal import _probs, _sums
from advcal._typing import Array
from advcal.metrics._bins import uniform_bin


def classwise_ece(
    probs: Array, labels: Array, *, n_bins: int = 15, from_logits: bool = False
) -> Array:
    r"""Compute the expected calibration error of each class against the rest, on average.

    $\frac{1}{K} \sum_k \sum_m \frac{|B_{mk}|}{n} \, |\mathrm{freq}_k(B_{mk}) -
    \overline{p}_k(B_{mk})|$, the bins of class `k` being those of its probability: equal width,
    right-closed, as in `reliability_bins`. Streaming, without a copy.

    Args:
        probs: Probabilities, shape `(n, classes)`; a tensor or a NumPy array.
        labels: Integer labels of the same kind, shape `(n,)`.
        n_bins: The number of bins.
        from_logits: Whether `probs` are logits, whose softmax is taken in float64.

    Returns:
        A scalar in `[0, 1]`, float64, of the kind of `probs`.

    Raises:
        TypeError: If `probs` or `labels` is of another kind or dtype.
        ValueError: If a shape or value is wrong, a row does not sum to one, or `n` is 0.

    Example:
        >>> import torch
        >>> probs = torch.tensor([[0.9, 0.1], [0.4, 0.6]])
        >>> round(float(classwise_ece(probs, torch.tensor([0, 0]), n_bins=10)), 4)
        0.35

    References:
        Kull et al., Beyond temperature scaling, NeurIPS 2019.
    """
    p, y, own_kind = _probs.probabilities(probs, labels, n_bins=n_bins, from_logits=from_logits)
    n_classes = p.shape[1]
    gaps = torch.zeros(n_classes * n_bins, dtype=torch.float64, device=p.device)
    for rows, row_labels in _probs.checked_rows(p, y, from_logits):
        # Most probabilities are in the first bin: only what may not be is looked at one by one.
        large = (rows > 0.99 / n_bins).nonzero(as_tuple=True)
        values = rows[large].double()
        first = rows.sum(dim=0, dtype=torch.float64)
        first -= _sums.per_cell(large[1], n_classes, values)
        gaps.view(n_classes, n_bins)[:, 0] += first
        cells = large[1] * n_bins + uniform_bin(values, n_bins)
        gaps += _sums.per_cell(cells, len(gaps), values)
        own = rows.gather(1, row_labels[:, None])[:, 0].double()
        cells = row_labels * n_bins + uniform_bin(own, n_bins)
        gaps -= _sums.per_cell(cells, len(gaps))
    return own_kind(gaps.abs().sum() / (len(p) * n_classes))


def classwise_mcs(probs: Array, labels: Array, *, from_logits: bool = False) -> Array:
    r"""Compute the miscalibration score of each class: mean probability minus frequency, signed.

    $\frac{1}{n} \sum_i (p_{ik} - [y_i = k])$ for class `k`, over all examples, whatever their label
    or prediction. Positive where the class is given too much probability. The scores of all classes
    sum to zero. The paper of `mcs` has class-wise scores too; this definition is not taken from it.

    Args:
        probs: Probabilities, shape `(n, classes)`; a tensor or a NumPy array.
        labels: Integer labels of the same kind, shape `(n,)`.
        from_logits: Whether `probs` are logits, whose softmax is taken in float64.

    Returns:
        Shape `(classes,)`, float64, of the kind of `probs`.

    Raises:
        TypeError: If `probs` or `labels` is of another kind or dtype.
        ValueError: If a shape or value is wrong, a row does not sum to one, or `n` is 0.

    Example:
        >>> import torch
        >>> probs = torch.tensor([[0.75, 0.25], [0.5, 0.5]])
        >>> classwise_mcs(probs, torch.tensor([0, 0])).tolist()
        [-0.375, 0.375]
    """
    p, y, own_kind = _probs.probabilities(probs, labels, from_logits=from_logits)
    sums = torch.zeros(p.shape[1], dtype=torch.float64, device=p.device)
    for rows, _ in _probs.checked_rows(p, y, from_logits):
        sums += rows.sum(dim=0, dtype=torch.float64)
    return own_kind((sums - _sums.per_cell(y, p.shape[1])) / len(p))
