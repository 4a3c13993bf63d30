"""Calibration of every class, not of the predicted one alone."""

from typing import Any

import torch

from advcal import _probs, _sums
from advcal._typing import Array
from advcal.metrics._bins import Binning, summed, uniform_bin, uniform_edges
from advcal.metrics._table import ReliabilityBins, excess


def classwise_ece(
    probs: Array,
    labels: Array,
    *,
    n_bins: int = 15,
    binning: Binning = "uniform",
    from_logits: bool = False,
) -> Array:
    r"""Compute the expected calibration error of each class against the rest, on average.

    $\frac{1}{K} \sum_k \sum_m \frac{|B_{mk}|}{n} \, |\mathrm{freq}_k(B_{mk}) -
    \overline{p}_k(B_{mk})|$, the bins of class `k` being those of its probability: equal width,
    right-closed, as in `reliability_bins`. Streaming, without a copy. With `binning="quantile"` it
    is the adaptive calibration error (ACE), but for weights by the counts of the bins, which differ
    if probabilities are equal. `classwise_bins` has the value of each class.

    Args:
        probs: Probabilities, shape `(n, classes)`; a tensor or a NumPy array.
        labels: Integer labels of the same kind, shape `(n,)`.
        n_bins: The number of bins.
        binning: `"uniform"` for bins of equal width or `"quantile"` for bins of equal mass.
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
        Kull et al., Beyond temperature scaling, NeurIPS 2019. Nixon et al., Measuring Calibration
        in Deep Learning, CVPR Workshops 2019.
    """
    if binning == "quantile":
        options: dict[str, Any] = {"n_bins": n_bins, "binning": binning, "from_logits": from_logits}
        tables = classwise_bins(probs, labels, **options)
        total: Any = sum(bins.ece for bins in tables)
        mean: Array = total / len(tables)
        return mean
    options = {"n_bins": n_bins, "binning": binning, "from_logits": from_logits}
    p, y, own_kind = _probs.probabilities(probs, labels, **options)
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


def classwise_bins(
    probs: Array,
    labels: Array,
    *,
    n_bins: int = 15,
    binning: Binning = "uniform",
    from_logits: bool = False,
) -> list[ReliabilityBins[Array]]:
    """Compute the reliability table of each class against the rest.

    They are those of `reliability_bins(..., positive=k)`, and have the value of any error, its
    interval and its test, class by class.

    Args:
        probs: Probabilities, shape `(n, classes)`; a tensor or a NumPy array.
        labels: Integer labels of the same kind, shape `(n,)`.
        n_bins: The number of bins.
        binning: `"uniform"` for bins of equal width or `"quantile"` for bins of equal mass.
        from_logits: Whether `probs` are logits, whose softmax is taken in float64.

    Returns:
        One table per class, in order.

    Raises:
        TypeError: If `probs` or `labels` is of another kind or dtype.
        ValueError: If a shape or value is wrong, a row does not sum to one, or `n` is 0.

    Example:
        >>> import torch
        >>> probs = torch.tensor([[0.9, 0.1], [0.4, 0.6]])
        >>> tables = classwise_bins(probs, torch.tensor([0, 0]), n_bins=10)
        >>> [round(float(bins.ece), 4) for bins in tables]
        [0.35, 0.35]
    """
    p, y, own_kind = _probs.probabilities(
        probs, labels, n_bins=n_bins, binning=binning, from_logits=from_logits
    )
    rows = torch.cat([each for each, _ in _probs.checked_rows(p, y, from_logits)])
    edges = uniform_edges(n_bins, p.device)
    found = []
    for k in range(p.shape[1]):
        own = edges.clone()
        counts, confidences, corrects = summed([(rows[:, k].double(), y == k)], own, binning)
        fields = [own_kind(each) for each in (own, counts, confidences, corrects)]
        found.append(ReliabilityBins(*fields))
    return found


def debiased_classwise_rmsce(
    probs: Array,
    labels: Array,
    *,
    n_bins: int = 15,
    binning: Binning = "quantile",
    from_logits: bool = False,
) -> Array:
    r"""Compute the root mean square error of all classes, corrected for the size of the sample.

    $\sqrt{\max(0, \frac{1}{K} \sum_k \sum_m \frac{b_{mk}}{n} [(\overline{p}_{mk} - a_{mk})^2
    - a_{mk} (1 - a_{mk}) / (b_{mk} - 1)])}$ for bins of `b` predictions, of which a share `a` has
    the label; those of one prediction count as 0. The source cuts off at 0 class by class, which
    leaves a bias upwards, and has bins of equal mass.

    Args:
        probs: Probabilities, shape `(n, classes)`; a tensor or a NumPy array.
        labels: Integer labels of the same kind, shape `(n,)`.
        n_bins: The number of bins.
        binning: `"uniform"` for bins of equal width or `"quantile"` for bins of equal mass.
        from_logits: Whether `probs` are logits, whose softmax is taken in float64.

    Returns:
        A scalar in `[0, 1]`, float64, of the kind of `probs`.

    Raises:
        TypeError: If `probs` or `labels` is of another kind or dtype.
        ValueError: If a shape or value is wrong, a row does not sum to one, or `n` is 0.

    Example:
        >>> import torch
        >>> probs = torch.tensor([[0.75, 0.25]]).expand(4, 2)
        >>> float(debiased_classwise_rmsce(probs, torch.tensor([0, 0, 1, 1])))
        0.0

    References:
        Kumar, Liang & Ma, Verified Uncertainty Calibration, NeurIPS 2019, appendix.
    """
    tables = classwise_bins(probs, labels, n_bins=n_bins, binning=binning, from_logits=from_logits)
    mean: Any = sum(excess(bins.counts, bins.confidences, bins.corrects) for bins in tables)
    value: Array = (mean / len(tables)).clip(min=0) ** 0.5
    return value


def classwise_mcs(probs: Array, labels: Array, *, from_logits: bool = False) -> Array:
    r"""Compute the miscalibration score of each class: mean probability minus frequency, signed.

    $\frac{1}{n} \sum_i (p_{ik} - [y_i = k])$ for class `k`, over all examples, whatever their label
    or prediction. Positive if the class is given too much probability. The scores of all classes
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
