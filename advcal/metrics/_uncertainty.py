"""How sure a calibration error is of itself: an interval, a test, bands for diagrams."""

import torch

from advcal import _checks, _probs, _random
from advcal._typing import Array
from advcal.metrics import _significance
from advcal.metrics._bins import Binning
from advcal.metrics._intervals import Interval
from advcal.metrics._significance import CalibrationTest, Statistic
from advcal.metrics._table import reliability_bins


def ece_interval(
    probs: Array,
    labels: Array,
    *,
    n_bins: int = 15,
    binning: Binning = "uniform",
    resamples: int = 1000,
    level: float = 0.95,
    from_logits: bool = False,
    generator: torch.Generator | None = None,
) -> Interval[Array]:
    r"""Compute the expected calibration error with an interval that allows for its bias.

    Sampling makes the error of a calibrated model positive, so neither end comes from resampling
    the error. From above it is bounded by the largest of exact bounds: for signs $s_m$ of the gaps,
    $\sum_m s_m (H_m - S_m)$, with $H_m$ right predictions and confidences that sum to $S_m$, is a
    count less a known number, so that with one bin the end is Clopper and Pearson's. The lower end
    is the least error among populations from which a sample has at least the error found with a
    probability above `(1 - level) / 2`: calibrated but for one bin, or nearest to the accuracies
    found. It is 0 unless `calibration_test`, from the same draws, has a p-value of at most that.

    What is covered is the error of the population in the same bins: in every cell of the
    simulations in the documentation, by 94 % of intervals of level .95 or more. None has a width of
    0.

    Args:
        probs: Probabilities, shape `(n, classes)`; a tensor or a NumPy array.
        labels: Integer labels of the same kind, shape `(n,)`.
        n_bins: The number of bins.
        binning: `"uniform"` for bins of equal width or `"quantile"` for bins of equal mass.
        resamples: The number of draws.
        level: The confidence level of the interval, in `(0, 1)`.
        from_logits: Whether `probs` are logits, whose softmax is taken in float64.
        generator: The source of randomness; a copy of the global one by default.

    Returns:
        The error, as `ece` has it, and the ends, each a float64 scalar of the kind of `probs`.

    Raises:
        TypeError: If `probs` or `labels` is of another kind or dtype.
        ValueError: If a shape or value is wrong, a row does not sum to one, or `n` is 0.

    Example:
        >>> import torch
        >>> probs = torch.tensor([[0.9, 0.1]]).expand(100, 2)
        >>> labels = torch.arange(100) % 5 // 4  # 80 right, 20 wrong
        >>> found = ece_interval(probs, labels, generator=torch.Generator().manual_seed(0))
        >>> bool(0.01 < found.low < 0.04 < 0.16 < found.high < 0.2)
        True

    References:
        Clopper & Pearson, The use of confidence or fiducial limits, Biometrika 26, 1934. Lugannani
        & Rice, Saddle point approximation for the distribution of the sum of independent random
        variables, Advances in Applied Probability 12, 1980.
    """
    table = reliability_bins(probs, labels, n_bins=n_bins, binning=binning, from_logits=from_logits)
    return table.interval("ece", level=level, resamples=resamples, generator=generator)


def calibration_test(
    probs: Array,
    labels: Array,
    *,
    statistic: Statistic = "ece",
    n_bins: int = 15,
    binning: Binning = "uniform",
    resamples: int = 1000,
    from_logits: bool = False,
    generator: torch.Generator | None = None,
) -> CalibrationTest[Array]:
    r"""Test whether the top label is calibrated.

    If it is, each prediction is right with the probability of its confidence. The p-value is that
    of a statistic at least as far from 0:

    - `"ece"`, `"rmsce"`, `"chi2"` (the squared gaps of bins in units of their variance) and `"mcs"`
      by consistency resampling, `(1 + #{draws at least as far}) / (1 + resamples)`, which keeps
      its level at any sample size.
    - `"ks"` and `"kuiper"`, without bins: how far $C_k = \frac{1}{n} \sum_{j \le k} (c_j - a_j)$
      goes from 0, and from its least to its greatest value, with the confidences `c` ascending and
      `a` 1 if the prediction is right. `"spiegelhalter"`:
      $Z = \sum (a - c) (1 - 2c) / \sqrt{\sum (1 - 2c)^2 c (1 - c)}$. By their limiting laws; of
      fewer than 100 examples by draws.

    `"chi2"` finds gaps of any shape and `"spiegelhalter"` a shift of all confidences with the most
    power. Choose before you look.

    Args:
        probs: Probabilities, shape `(n, classes)`; a tensor or a NumPy array.
        labels: Integer labels of the same kind, shape `(n,)`.
        statistic: What is compared.
        n_bins: The number of bins.
        binning: `"uniform"` for bins of equal width or `"quantile"` for bins of equal mass.
        resamples: The number of draws.
        from_logits: Whether `probs` are logits, whose softmax is taken in float64.
        generator: The source of randomness; a copy of the global one by default.

    Returns:
        The statistic and its p-value, each of the kind of `probs`.

    Raises:
        TypeError: If `probs` or `labels` is of another kind or dtype.
        ValueError: If a shape or value is wrong, a row does not sum to one, or `n` is 0.

    Example:
        >>> import torch
        >>> probs = torch.tensor([[0.9, 0.1]]).expand(100, 2)
        >>> labels = torch.arange(100) % 5 // 4  # 80 right, 20 wrong
        >>> found = calibration_test(probs, labels, generator=torch.Generator().manual_seed(0))
        >>> bool(found.p_value < 0.02)
        True

    References:
        Vaicenavicius et al., Evaluating model calibration in classification, AISTATS 2019,
        section 4. Arrieta-Ibarra et al., Metrics of calibration for probabilistic predictions,
        JMLR 23, 2022. Spiegelhalter, Probabilistic prediction in patient management and clinical
        trials, Statistics in Medicine 5, 1986.
    """
    table = reliability_bins(probs, labels, n_bins=n_bins, binning=binning, from_logits=from_logits)
    if statistic in _significance.BINNED:
        return table.calibration_test(statistic=statistic, resamples=resamples, generator=generator)
    _checks.arguments(statistic=statistic, resamples=resamples)
    confidence, correct, own_kind = _probs.top_labels(probs, labels, from_logits)
    source = _random.steady(generator)
    found = _significance.of_examples(confidence, correct, statistic, resamples, source)
    value, p_value = (own_kind(confidence.new_full((), each)) for each in found)
    return CalibrationTest(value, p_value)


def consistency_bands(
    probs: Array,
    labels: Array,
    *,
    n_bins: int = 15,
    binning: Binning = "uniform",
    resamples: int = 1000,
    level: float = 0.95,
    from_logits: bool = False,
    generator: torch.Generator | None = None,
) -> tuple[Array, Array]:
    """Compute where the accuracy of each bin lies if the top label is calibrated.

    Quantiles, bin by bin, of draws in which each prediction is right with the probability of the
    mean confidence of its bin; the confidences stay, which the source draws too. A bin outside its
    band is evidence against calibration; of many bins some leave theirs by chance.

    Args:
        probs: Probabilities, shape `(n, classes)`; a tensor or a NumPy array.
        labels: Integer labels of the same kind, shape `(n,)`; checked, and used for nothing else.
        n_bins: The number of bins.
        binning: `"uniform"` for bins of equal width or `"quantile"` for bins of equal mass.
        resamples: The number of draws.
        level: The share of the draws that lie within the band of a bin, in `(0, 1)`.
        from_logits: Whether `probs` are logits, whose softmax is taken in float64.
        generator: The source of randomness; a copy of the global one by default.

    Returns:
        The lower and the upper ends, each `(n_bins,)`, NaN if a bin is empty.

    Raises:
        TypeError: If `probs` or `labels` is of another kind or dtype.
        ValueError: If a shape or value is wrong, a row does not sum to one, or `n` is 0.

    Example:
        >>> import torch
        >>> probs = torch.tensor([[0.5, 0.5]]).expand(100, 2)
        >>> seed = torch.Generator().manual_seed(0)
        >>> low, high = consistency_bands(probs, torch.arange(100) % 2, n_bins=1, generator=seed)
        >>> bool(0.37 < low < 0.43 < 0.57 < high < 0.63)
        True

    References:
        Bröcker & Smith, Increasing the Reliability of Reliability Diagrams, Weather and
        Forecasting 22, 2007.
    """
    table = reliability_bins(probs, labels, n_bins=n_bins, binning=binning, from_logits=from_logits)
    return table.consistency_bands(level=level, resamples=resamples, generator=generator)
