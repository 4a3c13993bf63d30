"""Tests of whether the top label is calibrated: what a statistic would be if it were."""

import math
from typing import Generic, Literal, NamedTuple

import numpy as np
import torch
from scipy.special import ndtr
from torch import Tensor

from advcal._typing import Array
from advcal.metrics._intervals import Sums, Vector, drawn_corrects

Statistic = Literal["ece", "rmsce", "chi2", "mcs", "ks", "kuiper", "spiegelhalter"]
BINNED = ("ece", "rmsce", "chi2", "mcs")  # what bins have all of
_FEW = 100  # examples below which the law of a statistic is drawn
_EQUAL = 1 - 1e-12  # statistics that are equal but for rounding are equal


class CalibrationTest(NamedTuple, Generic[Array]):
    """What a test of calibration found.

    Attributes:
        value: The statistic of the examples.
        p_value: The probability of at least this statistic if the top label is calibrated.
    """

    value: Array
    p_value: Array


def of_bins(
    sums: Sums, statistic: str, resamples: int, source: torch.Generator
) -> tuple[float, float]:
    """Return a statistic of sums and the share of calibrated draws, ours among them, beyond it."""
    drawn = drawn_corrects(sums, sums.means, resamples, source)
    all_of_them = _of_bins(np.concatenate([sums.corrects[None], drawn]), sums, statistic)
    sizes = np.abs(all_of_them)
    # The absolute part is for errors that are 0 but for rounding.
    return float(all_of_them[0]), float((sizes >= sizes[0] * _EQUAL - 1e-12).mean())


def _of_bins(corrects: Vector, sums: Sums, statistic: str) -> Vector:
    """Return the statistic of each row of `(draws, bins)`."""
    gaps, n = sums.confidences - corrects, sums.n
    if statistic == "ece":
        found = np.abs(gaps).sum(axis=1) / n
    elif statistic == "mcs":
        found = gaps.sum(axis=1) / n
    elif statistic == "rmsce":
        found = np.sqrt((gaps**2 / sums.counts).sum(axis=1) / n)
    elif statistic == "chi2":
        variances = sums.counts * sums.means * (1 - sums.means)
        found = (gaps**2 / np.maximum(variances, 1e-12)).sum(axis=1)
    else:
        found = _excursion(np.cumsum(gaps, axis=1) / n, statistic)
    return np.asarray(found, dtype=np.float64)


def _excursion(sums: Vector, statistic: str) -> Vector:
    """Return how far running sums go from 0, or, of Kuiper's statistic, from their other end."""
    high, low = sums.max(axis=-1, initial=0), sums.min(axis=-1, initial=0)
    return np.asarray(np.maximum(high, -low) if statistic == "ks" else high - low)


def of_examples(
    confidence: Tensor, correct: Tensor, statistic: str, resamples: int, source: torch.Generator
) -> tuple[float, float]:
    """Return a statistic that looks at each example, and its p-value."""
    ascending, order = confidence.clamp(0, 1).sort()
    p, hits = ascending.cpu().numpy(), correct[order].double().cpu().numpy()
    variance, n = float((p * (1 - p)).sum()), len(p)
    found = float(_of_examples(p, hits, statistic))
    if n < _FEW or variance == 0:
        uniform = torch.rand(
            resamples, n, dtype=torch.float64, generator=source, device=source.device
        )
        drawn = (uniform.cpu().numpy() < p).astype(np.float64)
        sizes = np.abs(_of_examples(p, drawn, statistic))
        beyond = (sizes >= abs(found) * _EQUAL - 1e-12).sum()
        return found, float((1 + beyond) / (1 + resamples))
    if statistic == "spiegelhalter":
        return found, 2 * float(ndtr(-abs(found)))
    law = _ks_law if statistic == "ks" else _kuiper_law
    return found, law(found * n / math.sqrt(variance))


def _of_examples(p: Vector, hits: Vector, statistic: str) -> Vector:
    """Return the statistic of each row of hits, at ascending confidences `p`."""
    if statistic == "spiegelhalter":
        scale = math.sqrt(float(((1 - 2 * p) ** 2 * p * (1 - p)).sum()))
        sums = ((hits - p) * (1 - 2 * p)).sum(axis=-1)
        if scale == 0:  # confidences of 0, 1/2 and 1: what is not 0 cannot be
            return np.where(sums == 0, 0.0, np.copysign(np.inf, sums))
        return np.asarray(sums / scale)
    ends = np.append(p[1:] > p[:-1], True)  # equal confidences enter together
    return _excursion((np.cumsum(p - hits, axis=-1) / len(p))[..., ends], statistic)


def _ks_law(x: float) -> float:
    """Return the probability that the absolute value of a Brownian motion on [0, 1] passes `x`."""
    if x < 0.1:
        return 1.0
    # By the reflection principle the path stays within x with the probability
    # 4/pi sum_k (-1)^k / (2k + 1) exp(-(2k + 1)^2 pi^2 / (8 x^2)).
    odd = 2 * np.arange(50) + 1
    signs = 1 - 2 * (np.arange(50) % 2)
    inside = (signs / odd * np.exp(-(odd**2) * np.pi**2 / (8 * x**2))).sum() * 4 / np.pi
    return float(min(1.0, max(0.0, 1 - inside)))


def _kuiper_law(x: float) -> float:
    """Return the probability that a Brownian motion on [0, 1] has a range above `x`."""
    if x < 0.2:
        return 1.0
    # Feller, The asymptotic distribution of the range of sums of independent random variables,
    # 1951: with o_k = (2k + 1) pi it is at most x with the probability
    # 8 sum_k (1 / x^2 + 1 / o_k^2) exp(-o_k^2 / (2 x^2)).
    odd = (2 * np.arange(200) + 1) * np.pi
    inside = 8 * ((x**-2 + odd**-2) * np.exp(-(odd**2) / (2 * x**2))).sum()
    return float(min(1.0, max(0.0, 1 - inside)))
