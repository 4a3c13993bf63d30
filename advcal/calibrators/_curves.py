"""Curves from probability to probability: isotonic regression, IRM, IROvA, histogram binning."""

import dataclasses
from typing import Any, Literal

import numpy as np
import torch
from scipy import optimize
from torch import Tensor

from advcal.calibrators._calibrator import Calibrator, calibration_data, parameter

_SLOPE = 1e-9  # what is added of the original probabilities, so that their order stays
_SAME = 1e-13  # relative difference of probabilities that rounding makes


@dataclasses.dataclass(frozen=True, eq=False)
class TopLabel(Calibrator):
    """A curve that maps the probability of one class; the others keep their proportions.

    The class is the second of two, or the predicted one of more. The curve is linear between its
    knots, constant beyond them, and of two knots at one place the first holds there. A prediction
    changes where the curve puts another class above it.

    Attributes:
        x: Probabilities at the knots, rising, float64, shape `(knots,)`.
        y: What they map to, of the same shape.
    """

    x: Tensor
    y: Tensor

    def _probs(self, z: Tensor) -> Tensor:
        p = z.softmax(dim=1)
        index = _mapped_class(p)
        mapped = _interpolate(self.x, self.y, p.gather(1, index))
        rest = p.scatter(1, index, 0.0)
        total = rest.sum(dim=1, keepdim=True)
        even = torch.ones_like(p).scatter(1, index, 0.0) / (self.n_classes - 1)
        # What is too small for a quotient has its proportions from the logits.
        small = z.scatter(1, index, -torch.inf).softmax(dim=1)
        few = torch.where(total > 0, small, even)
        rest = torch.where(total > 1e-290, rest / total.clamp(min=1e-290), few)
        return (rest * (1 - mapped)).scatter_add(1, index, mapped)


@dataclasses.dataclass(frozen=True, eq=False)
class OneVsAll(Calibrator):
    """Curves that map the probability of every class, renormalised.

    The curves are linear between their knots and constant beyond them; 1e-9 times the probability
    is added to each, which breaks ties and leaves no row without mass.

    Attributes:
        x: Probabilities at the knots, rising, of one curve for all classes or of one for each;
            float64, shape `(knots,)` each.
        y: What they map to, of the same shapes.
    """

    x: tuple[Tensor, ...]
    y: tuple[Tensor, ...]

    def _probs(self, z: Tensor) -> Tensor:
        p = z.softmax(dim=1)
        parts = p.split(self.n_classes // len(self.x), dim=1)
        mapped = [_interpolate(x, y, v) for x, y, v in zip(self.x, self.y, parts, strict=True)]
        raised = torch.cat(mapped, dim=1) + _SLOPE * p
        return raised / raised.sum(dim=1, keepdim=True)


def fit_irm(logits: Tensor, labels: Tensor) -> OneVsAll:
    """Fit isotonic regression of all classes together (IRM).

    One curve $f$, the isotonic regression of all `n * classes` indicators of the label on their
    probabilities; the result is $f(p_k) + 10^{-9} p_k$, renormalised. It rises strictly, so the
    order of the classes stays and the predictions do; in dtypes narrower than float64, classes that
    share a step of $f$ can tie. The authors' released code does not renormalise.

    Args:
        logits: Finite logits, shape `(n, classes)`, of examples that the model was not trained on.
        labels: Integer labels, shape `(n,)`.

    Returns:
        The calibrator.

    Raises:
        TypeError: If `logits` or `labels` is of another kind or dtype.
        ValueError: If a shape or value is wrong.

    Example:
        >>> logits = torch.tensor([[2.0, 0.0], [2.0, 0.0], [0.0, 2.0], [0.0, 2.0]])
        >>> fit_irm(logits, torch.tensor([0, 0, 1, 0]))(logits[:1])
        tensor([[0.7500, 0.2500]])

    References:
        Zhang et al., Mix-n-Match, ICML 2020, section 4.3.
    """
    z, y = calibration_data(logits, labels)
    is_label = torch.nn.functional.one_hot(y, z.shape[1])
    knots = _isotonic(z.double().softmax(dim=1).flatten(), is_label.flatten())
    return OneVsAll(z.shape[1], (knots[0],), (knots[1],))


def fit_irova(logits: Tensor, labels: Tensor) -> OneVsAll:
    """Fit isotonic regression of each class against all others (IROvA).

    A curve $f_k$ for each class, the isotonic regression of the indicator of the label on the
    probability of the class; the result is $f_k(p_k) + 10^{-9} p_k$, renormalised, which the
    authors' released code does not do.

    Args:
        logits: Finite logits, shape `(n, classes)`, of examples that the model was not trained on.
        labels: Integer labels, shape `(n,)`.

    Returns:
        The calibrator. It can change predictions.

    Raises:
        TypeError: If `logits` or `labels` is of another kind or dtype.
        ValueError: If a shape or value is wrong.

    Example:
        >>> logits = torch.tensor([[2.0, 0.0], [2.0, 0.0], [0.0, 2.0], [0.0, 2.0]])
        >>> fit_irova(logits, torch.tensor([0, 0, 1, 0]))(logits)
        tensor([[1.0000, 0.0000],
                [1.0000, 0.0000],
                [0.5000, 0.5000],
                [0.5000, 0.5000]])

    References:
        Zadrozny & Elkan, Transforming classifier scores into accurate multiclass probability
        estimates, KDD 2002. Zhang et al., Mix-n-Match, ICML 2020, section 4.3.
    """
    z, y = calibration_data(logits, labels)
    probs = z.double().softmax(dim=1)
    curves = [_isotonic(probs[:, k], y == k) for k in range(z.shape[1])]
    return OneVsAll(z.shape[1], *zip(*curves, strict=True))


def fit_isotonic(logits: Tensor, labels: Tensor) -> TopLabel:
    """Fit isotonic regression of one probability.

    With two classes, the regression of the label on the probability of the second; it minimises
    the NLL and the Brier score of all rising curves. With more, the regression of being right on
    the confidence; the other classes keep their proportions.

    Args:
        logits: Finite logits, shape `(n, classes)`, of examples that the model was not trained on.
        labels: Integer labels, shape `(n,)`.

    Returns:
        The calibrator. It can change predictions, and gives probabilities of 0 and 1.

    Raises:
        TypeError: If `logits` or `labels` is of another kind or dtype.
        ValueError: If a shape or value is wrong.

    Example:
        >>> logits = torch.tensor([[2.0, 0.0], [2.0, 0.0], [0.0, 2.0], [0.0, 2.0]])
        >>> fit_isotonic(logits, torch.tensor([0, 0, 1, 0]))(logits[2:])
        tensor([[0.5000, 0.5000],
                [0.5000, 0.5000]])

    References:
        Zadrozny & Elkan, Transforming classifier scores into accurate multiclass probability
        estimates, KDD 2002.
    """
    z, y = calibration_data(logits, labels)
    return TopLabel(z.shape[1], *_isotonic(*_one_probability(z, y)))


def fit_histogram(
    logits: Tensor,
    labels: Tensor,
    *,
    n_bins: int = 15,
    binning: Literal["uniform", "quantile"] = "uniform",
) -> TopLabel:
    """Fit histogram binning of one probability.

    With two classes, the probability of the second becomes the share of that class in its bin. With
    more, the confidence becomes the accuracy of its bin; the other classes keep their proportions.
    Bins are right-closed. An empty bin keeps its middle. The result is a step function: its
    gradient by the mapped probability is zero.

    Args:
        logits: Finite logits, shape `(n, classes)`, of examples that the model was not trained on.
        labels: Integer labels, shape `(n,)`.
        n_bins: The number of bins; with `"quantile"` fewer where many probabilities are equal.
        binning: `"uniform"` for bins of equal width, `"quantile"` for bins of equally many
            examples.

    Returns:
        The calibrator. It can change predictions, and gives probabilities of 0 and 1.

    Raises:
        TypeError: If an argument is of another kind or dtype.
        ValueError: If a shape or value is wrong.

    Example:
        >>> logits = torch.tensor([[2.0, 0.0], [2.0, 0.0], [0.0, 2.0], [0.0, 2.0]])
        >>> fit_histogram(logits, torch.tensor([0, 0, 1, 0]))(logits[2:])
        tensor([[0.5000, 0.5000],
                [0.5000, 0.5000]])

    References:
        Zadrozny & Elkan, Obtaining calibrated probability estimates from decision trees and naive
        Bayesian classifiers, ICML 2001. Guo et al., On Calibration of Modern Neural Networks, ICML
        2017, section 4.1.
    """
    z, y = calibration_data(logits, labels, n_bins=n_bins, binning=binning)
    values, hits = (part.cpu().double().numpy() for part in _one_probability(z, y))
    edges = np.arange(n_bins + 1) / n_bins
    if binning == "quantile":
        edges = np.unique(np.concatenate([[0.0], np.quantile(values, edges[1:-1]), [1.0]]))
    index = np.searchsorted(edges[1:-1], values)
    counts = np.bincount(index, minlength=len(edges) - 1)
    means = np.bincount(index, hits, minlength=len(counts)) / np.maximum(counts, 1)
    means = np.where(counts > 0, means, (edges[:-1] + edges[1:]) / 2)
    x = np.stack([edges[:-1], edges[1:]], axis=1).ravel()
    return TopLabel(z.shape[1], parameter(x), parameter(means.repeat(2)))


def _mapped_class(p: Tensor) -> Tensor:
    """Return the class whose probability is mapped, shape `(n, 1)`."""
    if p.shape[1] == 2:
        return torch.ones(len(p), 1, dtype=torch.int64, device=p.device)
    return p.argmax(dim=1, keepdim=True)


def _one_probability(z: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
    """Return the probability that is mapped and whether its class is the label, each `(n,)`."""
    p = z.double().softmax(dim=1)
    index = _mapped_class(p)
    return p.gather(1, index)[:, 0], index[:, 0] == y


def _isotonic(values: Tensor, hits: Tensor) -> tuple[Tensor, Tensor]:
    """Regress 0 or 1 on values, rising; return the ends of the pieces.

    Values that are equal but for the rounding of a softmax are pooled.
    """
    order = torch.argsort(values, stable=True)
    x, sorted_hits = values[order].cpu().numpy(), hits[order].cpu().double().numpy()
    starts = np.flatnonzero(np.diff(x, prepend=-np.inf) > _SAME * x)
    counts = np.diff(starts, append=len(x))
    x, means = x[starts], np.add.reduceat(sorted_hits, starts) / counts
    y: Any = optimize.isotonic_regression(means, weights=counts).x.clip(0, 1)
    inner = np.zeros(len(y), dtype=bool)
    inner[1:-1] = (y[1:-1] == y[:-2]) & (y[1:-1] == y[2:])
    return parameter(x[~inner]), parameter(y[~inner])


def _interpolate(x: Tensor, y: Tensor, at: Tensor) -> Tensor:
    """Map by a curve through knots: linear between them, constant beyond."""
    x, y = x.to(at.device), y.to(at.device)
    if len(x) == 1:
        return torch.zeros_like(at) + y
    right = torch.searchsorted(x, at.detach().contiguous()).clamp(1, len(x) - 1)
    start, width = x[right - 1], x[right] - x[right - 1]
    return torch.lerp(y[right - 1], y[right], ((at - start) / width).clamp(0, 1))
