"""Temperature scaling, fitted to the optimum."""

import dataclasses
import math
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor

from advcal import _checks, _probs
from advcal._typing import Array
from advcal.calibrators._calibrator import Calibrator, calibration_data

PRIOR = 0.5  # standard deviation of the logarithm of the temperature before corrections
_TOLERANCE = 1e-12  # of the NLL
_MAX_STEPS = 200


@dataclasses.dataclass(frozen=True, eq=False)
class Temperature(Calibrator):
    r"""Softmax of the logits over one temperature, $\mathrm{softmax}(z / T)$.

    The order of the classes stays, so the predictions do. Differentiable in the logits.

    Attributes:
        temperature: $T$; above 1 if the model was overconfident.
    """

    temperature: float

    @property
    def _keeps(self) -> bool:
        return True

    def _log_probs(self, z: Tensor) -> Tensor:
        # The highest logit is 0 before the division, so that no temperature overflows.
        return ((z - z.detach().amax(dim=1, keepdim=True)) / self.temperature).log_softmax(dim=1)


def fit_temperature(logits: Array, labels: Array, *, prior: float | None = None) -> Temperature:
    r"""Fit temperature scaling: divide the logits by the one number of the lowest NLL.

    $\min_T \frac{1}{n} \sum_i -\log \mathrm{softmax}(z_i / T)_{y_i}$, which is convex in $1/T$, by
    Newton's method on $\log T$ in float64 within a bracket. The NLL reached is within 1e-12 of the
    infimum, whatever the scale of the logits.

    The infimum lies at no temperature in two cases; one within 1e-12 of it is returned then, so
    that the order of the classes stays. If every label has the highest logit of its row the NLL
    falls as $T \to 0$. If the logits tell nothing of the labels, or the contrary of them, it
    falls as $T \to \infty$. A warning says so. If all logits of a row are equal, in every row,
    $T = 1$.

    A prior, $\log T \sim N(0, \sigma^2)$, adds $\frac{(\log T)^2}{2 n \sigma^2}$ to the mean NLL:
    of 10 or 20 examples the temperature without it can cost several nats on others, with
    $\sigma = .5$ a hundredth of one, and at 200 examples it makes no difference.

    Args:
        logits: Logits, shape `(n, classes)`, of examples that the model was not trained on; minus
            infinity masks a class. A tensor or a NumPy array.
        labels: Integer labels of the same kind, shape `(n,)`.
        prior: $\sigma$; no prior if None.

    Returns:
        The calibrator.

    Raises:
        TypeError: If `logits` or `labels` is of another kind or dtype.
        ValueError: If a shape or value is wrong.

    Example:
        >>> logits = torch.tensor([[2.0, 0.0], [2.0, 0.0], [0.0, 2.0], [0.0, 2.0]])
        >>> calibrator = fit_temperature(logits, torch.tensor([0, 0, 1, 0]))
        >>> calibrator.temperature  # 3 of 4 are right: 2 / log(3)
        1.8204
        >>> calibrator(logits[:1])
        tensor([[0.7500, 0.2500]])

    References:
        Guo et al., On Calibration of Modern Neural Networks, ICML 2017, section 4.2.
    """
    z, y = calibration_data(logits, labels, prior=prior)
    if prior is not None:
        return Temperature(z.shape[1], likeliest_temperature(z, y, prior))
    temperature = best_temperature(z, y)
    warn_if_one_sided(z, y, temperature)
    return Temperature(z.shape[1], temperature)


def warn_if_one_sided(z: Tensor, y: Tensor, temperature: float) -> None:
    """Warn if the best temperature is the end of a range."""
    if not _finite(z, y):
        _checks.warn(
            f"expected labels of which some contradict the logits and most do not, got a "
            f"temperature of {temperature:g} of {len(z)} examples; pass prior=0.5 to "
            "fit_temperature to fit fewer or one-sided ones"
        )


def likeliest_temperature(z: Tensor, y: Tensor, prior: float) -> float:
    """Return the temperature of the lowest NLL with a prior on its logarithm.

    By Newton's method on the logarithm, within a bracket that each step narrows.
    """
    pull = 1 / (len(z) * prior**2)
    low, high, u = -30.0, 30.0, 0.0  # of the logarithm of 1/T
    for _ in range(_MAX_STEPS):
        slope, curvature = _slopes(z, y, math.exp(u))
        slope, curvature = slope + u * pull, curvature + slope + pull
        low, high = (u, high) if slope < 0 else (low, u)
        step = -slope / curvature if curvature > 0 else math.inf
        proposal = u + step if low < u + step < high else (low + high) / 2
        if abs(proposal - u) <= _TOLERANCE:
            break
        u = proposal
    return math.exp(-u)


def _finite(z: Tensor, y: Tensor) -> bool:
    """Tell whether the lowest NLL is at a temperature, or the logits are all equal."""
    greatest, separable, slope, _ = _survey(z, y)
    return greatest == 0 or not (separable or slope >= 0)


def best_temperature(z: Tensor, y: Tensor) -> float:
    """Return the temperature of the lowest NLL of checked logits and labels."""
    greatest, separable, slope, curvature = _survey(z, y)
    if greatest == 0:
        return 1.0
    if separable:  # (K - 1) exp(-gap / T) bounds the NLL above its infimum
        least = min(float(torch.where(d < 0, -d, torch.inf).amin()) for d, _ in _gaps(z, y))
        return max(least / math.log((z.shape[1] - 1) / _TOLERANCE), 1e-300)
    if slope >= 0:  # slope / T + (greatest / T)^2 / 8 bounds the NLL above its infimum
        return 2 * max(slope / _TOLERANCE, greatest / math.sqrt(8 * _TOLERANCE))
    beta, low, high = -slope / curvature, 0.0, math.inf
    for _ in range(_MAX_STEPS):
        slope, curvature = _slopes(z, y, beta)
        low, high = (beta, high) if slope < 0 else (low, beta)
        step = -slope / curvature if curvature > 0 else math.copysign(math.inf, -slope)
        # On the way the curvature changes by a factor of exp(|step| * beta * greatest) at most.
        done = -slope * step <= _TOLERANCE and abs(step) * beta * greatest <= 0.1
        proposal = beta * math.exp(max(-2.0, min(step, 2.0)))
        if not low < proposal < high:
            proposal = math.sqrt(low * high) if low > 0 and high < math.inf else beta
        if done or proposal == beta:
            return 1 / proposal
        beta = proposal
    return 1 / beta


def _gaps(z: Tensor, y: Tensor) -> Iterator[tuple[Tensor, Tensor]]:
    """Yield the logits less the highest of their row, `(classes, rows)`, and those of the labels.

    In float64, in parts that fit a processor's cache; sums over classes run over whole vectors.
    """
    for rows in _probs.row_chunks(z):
        d = z[rows].t().to(torch.float64, memory_format=torch.contiguous_format)
        d = d - d.amax(dim=0)
        yield d, d.gather(0, y[None, rows])[0]


def _survey(z: Tensor, y: Tensor) -> tuple[float, bool, float, float]:
    """Return the greatest gap, whether no label has one, and slope and curvature at 1/T = 0."""
    greatest, separable, slope, curvature = 0.0, True, 0.0, 0.0
    for d, own in _gaps(z, y):
        least = float(d.amin())
        count: Any = len(d)
        if least == -math.inf:  # of the classes that are not masked
            count = (d > -math.inf).sum(dim=0)
            least = float(d.masked_fill_(d.isneginf(), 0.0).amin())
        greatest = max(greatest, -least)
        separable = separable and not bool(own.any())
        mean = d.sum(dim=0) / count
        slope += float((mean - own).sum())
        curvature += float((d.square_().sum(dim=0) / count - mean.square()).sum())
    return greatest, separable, slope / len(z), curvature / len(z)


def _slopes(z: Tensor, y: Tensor, beta: float) -> tuple[float, float]:
    """Return the slope of the mean NLL in 1/T, times 1/T, and its curvature, times 1/T squared."""
    slope = curvature = 0.0
    for d, own in _gaps(z, y):
        x = d.mul_(beta)
        if float(x.amin()) == -math.inf:
            x = x.clamp_(min=-1e300)  # of no probability, without 0 times infinity
        p = x.exp()
        total = p.sum(dim=0)
        first = p.mul_(x).sum(dim=0).div_(total)
        second = p.mul_(x).sum(dim=0).div_(total)
        slope += float((first - own * beta).sum())
        curvature += float((second - first.square_()).sum())
    return slope / len(z), curvature / len(z)
