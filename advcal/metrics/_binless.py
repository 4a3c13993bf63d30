"""Calibration errors of the top label without bins."""

import numpy as np
import numpy.typing as npt
import torch
from scipy.fft import dct, idct
from scipy.optimize import brentq
from torch import Tensor

from advcal import _probs, _sums
from advcal._typing import Array

GRID = 1 << 15
_LEAST_BANDWIDTH = 4 / GRID


def ks_error(probs: Array, labels: Array, *, from_logits: bool = False) -> Array:
    r"""Compute the Kolmogorov-Smirnov calibration error: the largest gap of cumulative sums.

    $\max_t \frac{1}{n} \, \bigl| \sum_{i: c_i \le t} (c_i - a_i) \bigr|$ with confidences `c` and
    `a` 1 if the prediction is right, 0 if not. Equal confidences enter together, so the order
    of the examples does not matter. It sorts, and does not stream.

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
        >>> probs = torch.tensor([[0.75, 0.25], [0.5, 0.5]])
        >>> float(ks_error(probs, torch.tensor([0, 1])))
        0.25

    References:
        Gupta et al., Calibration of Neural Networks using Splines, ICLR 2021.
    """
    confidence, correct, own_kind = _probs.top_labels(probs, labels, from_logits)
    ascending, order = confidence.sort()
    sums = _sums.running(ascending - correct[order].double())
    last = torch.ones_like(correct)
    last[:-1] = ascending[1:] > ascending[:-1]
    return own_kind(torch.where(last, sums.abs(), 0.0).max() / len(sums))


def smooth_ece(probs: Array, labels: Array, *, from_logits: bool = False) -> Array:
    r"""Compute the smooth calibration error of the top label, with the width that it sets itself.

    $\mathrm{smECE}_\sigma = \int_0^1 \bigl| \frac{1}{n} \sum_i K_\sigma(t, c_i) (a_i - c_i)
    \bigr| dt$ with the Gaussian kernel reflected at 0 and 1, at the one width where
    $\mathrm{smECE}_\sigma = \sigma$. The reflected kernel is a product in the cosine basis. The
    residuals are split linearly between neighbours on a grid of width $h = 2^{-15}$, in memory that
    does not grow with the data. At width σ that moves the smoothed residual by at most
    $h^2 / (8 \sigma^2)$ in mean size: 1.2e-6 at σ = .01.

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
        >>> probs = torch.tensor([[0.75, 0.25]]).expand(4, 2)
        >>> round(float(smooth_ece(probs, torch.tensor([0, 0, 0, 1]))), 4)
        0.0
        >>> round(float(smooth_ece(probs, torch.tensor([0, 0, 1, 1]))), 4)
        0.25

    References:
        Błasiok & Nakkiran, Smooth ECE, ICLR 2024, definitions 5 and 6.
    """
    p, y, own_kind = _probs.probabilities(probs, labels, from_logits=from_logits)
    residuals = torch.zeros(GRID, dtype=torch.float64, device=p.device)
    for rows in _probs.checked_rows(p, y, from_logits):
        residuals += spread_residuals(*_probs.top_label(*rows))
    return own_kind(residuals.new_full((), fixed_point(residuals.cpu().numpy() / len(p))))


def kde_ece(
    probs: Array, labels: Array, *, bandwidth: float | None = None, from_logits: bool = False
) -> Array:
    r"""Compute the calibration error with smooth estimates (kernel densities) instead of bins.

    $\int_0^1 |t - \hat a(t)| \, \hat f(t) \, dt$, where $\hat f(t) = \frac{1}{n} \sum_i
    K_h(t, c_i)$ is the density of the confidences and $\hat a(t) = \frac{1}{n} \sum_i a_i
    K_h(t, c_i) / \hat f(t)$ the accuracy, `a` being 1 if the prediction is right. The kernel is
    a Gaussian of standard deviation $h$, reflected at 0 and 1; the source has a triweight one. What
    is integrated is $|t \hat f - \hat a \hat f|$, which divides by nothing. As `t` stands for the
    confidences around it, right predictions of confidence 1 have an error of about $.8 h$, which
    `smooth_ece` does not give them.

    Confidences are split linearly between neighbours on a grid of width $g = 2^{-15}$, in memory
    that does not grow with the data. That moves the value by at most $g^2 / (4 h^2)$: 2.3e-6 at
    $h = .01$.

    Args:
        probs: Probabilities, shape `(n, classes)`; a tensor or a NumPy array.
        labels: Integer labels of the same kind, shape `(n,)`.
        bandwidth: The standard deviation `h` of the kernel, at least `2**-13`; by default
            `1.06 * std * n ** -0.2`, `std` being that of the confidences, and at least `2**-13`.
        from_logits: Whether `probs` are logits, whose softmax is taken in float64.

    Returns:
        A scalar in `[0, 1]`, float64, of the kind of `probs`.

    Raises:
        TypeError: If `probs` or `labels` is of another kind or dtype.
        ValueError: If a shape or value is wrong, a row does not sum to one, or `n` is 0.

    Example:
        >>> import torch
        >>> probs = torch.tensor([[0.75, 0.25]]).expand(4, 2)
        >>> round(float(kde_ece(probs, torch.tensor([0, 0, 1, 1]), bandwidth=0.01)), 4)
        0.25

    References:
        Zhang et al., Mix-n-Match, ICML 2020, section 4. Silverman, Density Estimation for
        Statistics and Data Analysis, 1986, eq. 3.28.
    """
    p, y, own_kind = _probs.probabilities(
        probs, labels, bandwidth=bandwidth, from_logits=from_logits
    )
    shares = torch.zeros(2, GRID, dtype=torch.float64, device=p.device)  # of all and of the right
    mean = square = 0.0
    for rows in _probs.checked_rows(p, y, from_logits):
        confidence, correct = _probs.top_label(*rows)
        shares[0] += _spread(confidence, torch.ones_like(confidence)) / len(p)
        shares[1] += _spread(confidence, correct.double()) / len(p)
        mean += float(confidence.sum()) / len(p)
        square += float(confidence.square().sum()) / len(p)
    if bandwidth is None:
        spread = max(square - mean**2, 0) ** 0.5
        bandwidth = max(1.06 * spread * len(p) ** -0.2, _LEAST_BANDWIDTH)
    density, right = _smooth(dct(shares.cpu().numpy()), bandwidth)
    middles = (np.arange(GRID) + 0.5) / GRID
    return own_kind(shares.new_full((), float(np.abs(middles * density - right).sum())))


def spread_residuals(confidence: Tensor, correct: Tensor) -> Tensor:
    """Sum right minus confidence on the grid, split linearly between neighbours."""
    return _spread(confidence, correct.double() - confidence)


def _spread(confidence: Tensor, weight: Tensor) -> Tensor:
    place = (confidence * GRID - 0.5).clamp_(0, GRID - 1)  # cell centres are whole
    left = place.floor().clamp_(max=GRID - 2)
    above = weight * (place - left)
    index = left.to(torch.int64)
    sums = _sums.per_cell(index, GRID, weight - above)
    return sums + _sums.per_cell(index + 1, GRID, above)


def _smooth(spectrum: npt.NDArray[np.float64], width: float) -> npt.NDArray[np.float64]:
    """Return the grid of these cosines, smoothed by the reflected Gaussian: a product there."""
    decay = (np.pi * np.arange(GRID)) ** 2 / 2
    smoothed: npt.NDArray[np.float64] = idct(spectrum * np.exp(-decay * width**2))
    return smoothed


def fixed_point(residuals: npt.NDArray[np.float64]) -> float:
    """Return the width at which the mean size of the smoothed residuals is that width."""
    spectrum = dct(residuals)

    def excess(width: float) -> float:
        return float(np.abs(_smooth(spectrum, width)).sum()) - width

    return float(brentq(excess, 0, 1, xtol=1e-12)) if excess(0) > 0 else 0.0
