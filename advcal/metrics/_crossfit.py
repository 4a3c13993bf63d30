"""The calibration error by a map fitted to other examples: no bins, and no bias upwards."""

from typing import Any, Generic, NamedTuple

import numpy as np
import torch
from scipy.optimize import isotonic_regression

from advcal import _probs
from advcal._random import resolve
from advcal._typing import Array

_FOLDS = 5


class CrossfitError(NamedTuple, Generic[Array]):
    """The calibration error and its two parts, which add up; each may be a little below 0.

    Attributes:
        value: The estimate of the L1 calibration error of the top label.
        overconfidence: The part of it from confidence above the accuracy.
        underconfidence: The part of it from confidence below the accuracy.
    """

    value: Array
    overconfidence: Array
    underconfidence: Array


def crossfit_ece(
    probs: Array,
    labels: Array,
    *,
    from_logits: bool = False,
    generator: torch.Generator | None = None,
) -> CrossfitError[Array]:
    r"""Estimate the calibration error of the top label, without bins and without a bias upwards.

    In each of five folds an isotonic regression of being right on the confidence, fitted to the
    other four, says on which side of the confidence the accuracy is; the held-out examples say how
    far: $\frac{1}{n} \sum_i \mathrm{sign}(\hat g(c_i) - c_i) (a_i - c_i)$, with `a` 1 if the
    prediction is right. A wrong side takes away, so what is expected is at most the error of the
    population: 0 of a calibrated model, for which `ece` is positive, and .022 at 300 and .038 at
    1,000 examples with a gap of .05 everywhere. No interval comes with it: for that see
    `ece_interval`.

    Args:
        probs: Probabilities, shape `(n, classes)`; a tensor or a NumPy array.
        labels: Integer labels of the same kind, shape `(n,)`, of two examples or more.
        from_logits: Whether `probs` are logits, whose softmax is taken in float64.
        generator: What draws the folds; a copy of the global one by default.

    Returns:
        The error and its parts, each a float64 scalar of the kind of `probs`.

    Raises:
        TypeError: If `probs` or `labels` is of another kind or dtype.
        ValueError: If a shape or value is wrong, a row does not sum to one, or there is one
            example.

    Example:
        >>> import torch
        >>> probs = torch.tensor([[0.9, 0.1]]).expand(100, 2)
        >>> labels = torch.arange(100) % 5 // 4  # 80 right, 20 wrong
        >>> [round(float(part), 3) for part in crossfit_ece(probs, labels)]
        [0.1, 0.1, 0.0]

    References:
        Berta et al., arXiv 2602.24230.
    """
    confidence, correct, own_kind = _probs.top_labels(probs, labels, from_logits)
    n = len(confidence)
    if n < 2:
        raise ValueError("expected two examples or more, got one")
    source = resolve(generator, torch.device("cpu"))
    fold = torch.randperm(n, generator=source, device=source.device).cpu().numpy() % min(_FOLDS, n)
    c, a = confidence.cpu().numpy(), correct.double().cpu().numpy()
    sides = np.zeros(n)
    for k in range(fold.max() + 1):
        fitted, values = _rising(c[fold != k], a[fold != k])
        sides[fold == k] = np.sign(np.interp(c[fold == k], fitted, values) - c[fold == k])
    terms = sides * (a - c)
    parts = terms.mean(), terms[sides < 0].sum() / n, terms[sides > 0].sum() / n
    value, over, under = (own_kind(confidence.new_tensor(float(part))) for part in parts)
    return CrossfitError(value, over, under)


def _rising(x: Any, y: Any) -> tuple[Any, Any]:
    """Return the distinct values of x and the rising function of them that is nearest to y."""
    distinct, group = np.unique(x, return_inverse=True)
    counts = np.bincount(group)
    return distinct, isotonic_regression(np.bincount(group, y) / counts, weights=counts).x
