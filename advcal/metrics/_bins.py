"""Predictions sorted into bins of confidence, and the expected calibration error of the bins."""

import functools
import math
from collections.abc import Iterable
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor

from advcal import _checks, _probs, _sums
from advcal._typing import Array

Binning = Literal["uniform", "quantile"]


def ece(
    probs: Array,
    labels: Array,
    *,
    n_bins: int = 15,
    binning: Binning = "uniform",
    positive: int | None = None,
    weights: Array | None = None,
    from_logits: bool = False,
) -> Array:
    r"""Compute the expected calibration error: the mean gap of confidence and accuracy over bins.

    $\sum_m \frac{|B_m|}{n} \, |\mathrm{acc}(B_m) - \mathrm{conf}(B_m)|$. Bins are right-closed; see
    `reliability_bins` for the edges.

    Args:
        probs: Probabilities, shape `(n, classes)`; a tensor or a NumPy array.
        labels: Integer labels of the same kind, shape `(n,)`.
        n_bins: The number of bins.
        binning: `"uniform"` for bins of equal width or `"quantile"` for bins of equal mass.
        positive: The class whose probability is compared with how often it is the label, such as 1
            of two classes; the highest probability and whether it is the label's if None.
        weights: What each example counts for, `(n,)` of the kind of `probs`, not negative; all the
            same if None.
        from_logits: Whether `probs` are logits, whose softmax is taken in float64.

    Returns:
        A scalar in `[0, 1]`, float64, of the kind of `probs`.

    Raises:
        TypeError: If `probs` or `labels` is of another kind or dtype.
        ValueError: If a shape or value is wrong, a row does not sum to one, or `n` is 0.

    Example:
        >>> import torch
        >>> probs = torch.tensor([[0.9, 0.1], [0.4, 0.6]])
        >>> round(float(ece(probs, torch.tensor([0, 0]), n_bins=10)), 4)
        0.35

    References:
        Guo et al., On Calibration of Modern Neural Networks, ICML 2017, eq. 3.
    """
    sums = binned(probs, labels, n_bins, binning, from_logits, positive, weights)
    return expected_gap(*sums[1:4])


def expected_gap(counts: Any, confidences: Any, corrects: Any) -> Any:
    """Return the expected calibration error of sums per bin, tensors or arrays."""
    return abs(confidences - corrects).sum() / counts.sum()


def binned(
    probs: Array,
    labels: Array,
    n_bins: int,
    binning: Binning,
    from_logits: bool,
    positive: int | None = None,
    weights: Array | None = None,
) -> tuple[Array, ...]:
    """Return edges, and per bin counts, summed confidence and how many are right.

    With weights the counts are sums of them, and the sum of their squares is a fifth.
    """
    p, y, own_kind = _probs.probabilities(
        probs, labels, n_bins=n_bins, binning=binning, from_logits=from_logits
    )
    if positive is not None and _checks.count("positive", positive, least=0) >= p.shape[1]:
        raise ValueError(f"expected positive from 0 to {p.shape[1] - 1}, got {positive}")
    w: Tensor | None = None if weights is None else _probs.example_weights(probs, weights, y)
    if w is None and binning == "uniform" and not from_logits and _probs.small(p):
        arrays = _in_numpy(p.numpy(), y.numpy(), n_bins, positive)
        return tuple([own_kind(torch.from_numpy(each)) for each in arrays])
    rows = _probs.checked_rows(p, y, from_logits)
    chunks: Iterable[Any] = (_probs.top_label(*each, positive) for each in rows)
    edges: Tensor = uniform_edges(n_bins, p.device)
    sums: tuple[Tensor, ...]
    sums = summed(chunks, edges, binning) if w is None else _weighted(chunks, edges, binning, w)
    return tuple([own_kind(each) for each in (edges, *sums)])


def summed(
    chunks: Iterable[tuple[Tensor, Tensor]], edges: Tensor, binning: Binning
) -> tuple[Tensor, ...]:
    """Return counts, summed confidence and the right per bin; set the edges of equal mass."""
    n_bins = len(edges) - 1
    if binning == "quantile":
        confidence, correct = (torch.cat(parts) for parts in zip(*chunks, strict=True))
        edges[1:-1] = quantile_edges(*confidence.sort(), n_bins)
        chunks = [(confidence, correct)]
    cells = torch.zeros(2 * n_bins, dtype=torch.int64, device=edges.device)  # the wrong, the right
    confidences = torch.zeros(n_bins, dtype=torch.float64, device=edges.device)
    for confidence, correct in chunks:
        if binning == "uniform":
            index = uniform_bin(confidence, n_bins)
        else:
            index = torch.bucketize(confidence, edges[1:-1])
        cells += _sums.per_cell(2 * index + correct, 2 * n_bins)
        confidences += _sums.per_cell(index, n_bins, confidence)
    return cells[::2] + cells[1::2], confidences, cells[1::2].clone()


def _weighted(
    chunks: Iterable[tuple[Tensor, Tensor]], edges: Tensor, binning: Binning, weights: Tensor
) -> tuple[Tensor, ...]:
    """Return sums of weights in the place of numbers, and the sum of their squares; set edges."""
    n_bins = len(edges) - 1
    confidence, correct = (torch.cat(parts) for parts in zip(*chunks, strict=True))
    if binning == "quantile":
        edges[1:-1] = quantile_edges(*confidence.sort(), n_bins, weights)
    index = torch.bucketize(confidence, edges[1:-1])
    terms = (weights, weights * confidence, weights * correct)
    squares = weights.square().sum()
    if not _checks.recording() and not 0 < float(squares) < math.inf:
        raise ValueError(
            "expected weights whose squares have a sum in float64, got weights up to "
            f"{float(weights.max()):g}; divide them by their mean"
        )
    return *(_sums.per_cell(index, n_bins, each) for each in terms), squares


def _in_numpy(p: Any, y: Any, n_bins: int, positive: int | None) -> tuple[Any, ...]:
    """Return edges and sums of arrays, which for a small batch is the faster."""
    rows, edges = _probs.sound(p), _edges(n_bins).copy()
    top = rows.argmax(axis=1) if positive is None else positive
    confidence = rows[np.arange(len(rows)), top].astype(np.float64)
    index = edges[1:-1].searchsorted(confidence)
    counts = np.bincount(index, minlength=n_bins)
    corrects = np.bincount(index[top == y], minlength=n_bins)
    return edges, counts, np.bincount(index, confidence, minlength=n_bins), corrects


def uniform_edges(n_bins: int, device: torch.device) -> Tensor:
    """Return the `n_bins + 1` edges of equal-width bins, each rounded once, in float64."""
    if _sums.eager_device(device):
        return torch.from_numpy(_edges(n_bins).copy())
    whole = torch.arange(n_bins + 1, dtype=torch.float64, device=device)
    return whole / torch.full_like(whole, n_bins)  # a number would become its reciprocal on CUDA


@functools.cache
def _edges(n_bins: int) -> Any:
    return np.arange(n_bins + 1) / n_bins


def uniform_bin(confidence: Tensor, n_bins: int) -> Tensor:
    """Return the equal-width bin of each float64 confidence, as a search of the edges would."""
    n = confidence.new_full((), n_bins)  # on the device: see `uniform_edges`
    edge = (confidence * (n * (1 - 2**-50))).ceil_()  # its right edge or, by rounding, its left one
    edge += confidence > edge / n
    return edge.sub_(1).clamp_(0, n_bins - 1).to(torch.int32)


def quantile_edges(
    ascending: Tensor, order: Tensor, n_bins: int, weights: Tensor | None = None
) -> Tensor:
    """Return the inner edges of equal-mass bins: the values of rank `ceil(i n / n_bins)`."""
    numbers = torch.arange(1, n_bins, device=ascending.device)
    if weights is None:
        return ascending[(numbers * len(ascending) + n_bins - 1) // n_bins - 1]
    mass = _sums.running(weights[order])
    goals = numbers * mass[-1] / n_bins * (1 - 1e-12)  # so that rounding keeps no mass out
    return ascending[torch.searchsorted(mass, goals)]
