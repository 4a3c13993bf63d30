"""Curves from probability to probability: isotonic regression, IRM, IROvA, histogram binning."""

import dataclasses
from typing import Any, Literal

import numpy as np
import torch
from scipy import optimize
from torch import Tensor

from advcal import _checks
from advcal._typing import Array
from advcal.calibrators._calibrator import Calibrator, calibration_data, parameter, unmasked

_SLOPE = 1e-9  # what is added of the original probabilities, so that their order stays
_SAME = 1e-13  # relative difference of probabilities that rounding makes


@dataclasses.dataclass(frozen=True, eq=False)
class TopLabel(Calibrator):
    """A curve that maps the probability of one class; the others keep their proportions.

    The class is the second of two, or the predicted one of more. The curve is linear between its
    knots, constant beyond them, and of two knots at one place the first holds there. A prediction
    changes if the curve puts another class above it.

    Attributes:
        x: Probabilities at the knots, rising, float64, shape `(knots,)`.
        y: What they map to, of the same shape.
        of_class: The class whose probability is mapped, if it is always the same of more than two:
            the second of the two that were not masked in the fit.
    """

    x: Tensor
    y: Tensor
    of_class: int | None = None

    def _probs(self, z: Tensor) -> Tensor:
        p, there = z.softmax(dim=1), ~z.isneginf()
        index = _mapped_class(p, self.of_class)
        rivals = there.scatter(1, index, False).sum(dim=1, keepdim=True)
        mapped = _interpolate(self.x, self.y, p.gather(1, index))
        mapped = torch.where(rivals > 0, mapped, 1.0) * there.gather(1, index)
        rest = p.scatter(1, index, 0.0)
        total = rest.sum(dim=1, keepdim=True)
        even = there.to(p.dtype).scatter(1, index, 0.0) / rivals.clamp(min=1)
        # What is too small for a quotient has its proportions from the logits.
        others = torch.where(rivals > 0, z.scatter(1, index, -torch.inf), 0.0)
        few = torch.where(total > 0, others.softmax(dim=1), even)
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

    @property
    def _keeps(self) -> bool:
        return len(self.x) == 1  # one rising curve for all classes

    def _probs(self, z: Tensor) -> Tensor:
        p = z.softmax(dim=1)
        parts = p.split(self.n_classes // len(self.x), dim=1)
        mapped = [_interpolate(x, y, v) for x, y, v in zip(self.x, self.y, parts, strict=True)]
        raised = (torch.cat(mapped, dim=1) + _SLOPE * p).masked_fill(z.isneginf(), 0.0)
        return raised / raised.sum(dim=1, keepdim=True)


def fit_irm(logits: Array, labels: Array) -> OneVsAll:
    """Fit isotonic regression of all classes together (IRM): one rising curve for all.

    One curve $f$, the isotonic regression of all `n * classes` indicators of the label on their
    probabilities; the result is $f(p_k) + 10^{-9} p_k$, renormalised. It rises strictly, so the
    order of the classes stays and the predictions do; in dtypes narrower than float64, classes that
    share a step of $f$ can tie. The authors' released code does not renormalise.

    Args:
        logits: Logits, shape `(n, classes)`, of examples that the model was not trained on; minus
            infinity masks a class. A tensor or a NumPy array.
        labels: Integer labels of the same kind, shape `(n,)`.

    Returns:
        The calibrator.

    Raises:
        TypeError: If `logits` or `labels` is of another kind or dtype.
        ValueError: If a shape or value is wrong.

    Example:
        >>> logits = torch.tensor([[2.0, 0.0]] * 3 + [[0.0, 2.0]] * 3)
        >>> fit_irm(logits, torch.tensor([0, 0, 1, 1, 1, 0]))(logits[:1])
        tensor([[0.6667, 0.3333]])

    References:
        Zhang et al., Mix-n-Match, ICML 2020, section 4.3.
    """
    z, y = calibration_data(logits, labels)
    is_label, there = torch.nn.functional.one_hot(y, z.shape[1]), ~z.isneginf()
    knots = _isotonic(z.double().softmax(dim=1)[there], is_label[there])
    _warn_of_zeros(len(z), knots[1])
    return OneVsAll(z.shape[1], (knots[0],), (knots[1],))


def fit_irova(logits: Array, labels: Array) -> OneVsAll:
    """Fit isotonic regression of each class against all others (IROvA): a rising curve for each.

    A curve $f_k$ for each class, the isotonic regression of the indicator of the label on the
    probability of the class; the result is $f_k(p_k) + 10^{-9} p_k$, renormalised, which the
    authors' released code does not do.

    Args:
        logits: Logits, shape `(n, classes)`, of examples that the model was not trained on; minus
            infinity masks a class. A tensor or a NumPy array.
        labels: Integer labels of the same kind, shape `(n,)`.

    Returns:
        The calibrator. It can change predictions.

    Raises:
        TypeError: If `logits` or `labels` is of another kind or dtype.
        ValueError: If a shape or value is wrong.

    Example:
        >>> logits = torch.tensor([[2.0, 0.0]] * 3 + [[0.0, 2.0]] * 3)
        >>> fit_irova(logits, torch.tensor([0, 0, 1, 1, 1, 0]))(logits[2:4])
        tensor([[0.6667, 0.3333],
                [0.3333, 0.6667]])

    References:
        Zadrozny & Elkan, Transforming classifier scores into accurate multiclass probability
        estimates, KDD 2002. Zhang et al., Mix-n-Match, ICML 2020, section 4.3.
    """
    z, y = calibration_data(logits, labels)
    probs, there = z.double().softmax(dim=1).unbind(dim=1), (~z.isneginf()).unbind(dim=1)
    curves = [_isotonic(probs[k][rows], y[rows] == k) for k, rows in enumerate(there)]
    found = OneVsAll(z.shape[1], *zip(*curves, strict=True))
    _warn_of_zeros(len(z), *found.y)
    return found


def fit_isotonic(logits: Array, labels: Array) -> TopLabel:
    """Fit isotonic regression of one probability: the best rising step function.

    With two classes, the regression of the label on the probability of the second; it minimises
    the NLL and the Brier score of all rising curves. With more, the regression of being right on
    the confidence; the other classes keep their proportions.

    Args:
        logits: Logits, shape `(n, classes)`, of examples that the model was not trained on; minus
            infinity masks a class. A tensor or a NumPy array.
        labels: Integer labels of the same kind, shape `(n,)`.

    Returns:
        The calibrator. It can change predictions, and gives probabilities of 0 and 1.

    Raises:
        TypeError: If `logits` or `labels` is of another kind or dtype.
        ValueError: If a shape or value is wrong.

    Example:
        >>> logits = torch.tensor([[2.0, 0.0]] * 3 + [[0.0, 2.0]] * 3)
        >>> fit_isotonic(logits, torch.tensor([0, 0, 1, 1, 1, 0]))(logits[2:4])
        tensor([[0.6667, 0.3333],
                [0.3333, 0.6667]])

    References:
        Zadrozny & Elkan, Transforming classifier scores into accurate multiclass probability
        estimates, KDD 2002.
    """
    z, y = calibration_data(logits, labels)
    values, hits, of_class = _one_probability(z, y)
    x, mapped = _isotonic(values, hits)
    _warn_of_zeros(len(z), mapped, 1 - mapped)
    return TopLabel(z.shape[1], x, mapped, of_class)


def fit_histogram(
    logits: Array,
    labels: Array,
    *,
    n_bins: int = 15,
    binning: Literal["uniform", "quantile"] = "uniform",
) -> TopLabel:
    """Fit histogram binning: a probability becomes the share of right examples in its bin.

    With two classes, the probability of the second becomes the share of that class in its bin. With
    more, the confidence becomes the accuracy of its bin; the other classes keep their proportions.
    Bins are right-closed. An empty bin keeps its middle. The result is a step function: its
    gradient by the mapped probability is zero.

    Args:
        logits: Logits, shape `(n, classes)`, of examples that the model was not trained on; minus
            infinity masks a class. A tensor or a NumPy array.
        labels: Integer labels of the same kind, shape `(n,)`.
        n_bins: The number of bins; with `"quantile"` fewer if many probabilities are equal.
        binning: `"uniform"` for bins of equal width, `"quantile"` for bins of equally many
            examples.

    Returns:
        The calibrator. It can change predictions, and gives probabilities of 0 and 1.

    Raises:
        TypeError: If an argument is of another kind or dtype.
        ValueError: If a shape or value is wrong.

    Example:
        >>> logits = torch.tensor([[2.0, 0.0]] * 3 + [[0.0, 2.0]] * 3)
        >>> fit_histogram(logits, torch.tensor([0, 0, 1, 1, 1, 0]))(logits[2:4])
        tensor([[0.6667, 0.3333],
                [0.3333, 0.6667]])

    References:
        Zadrozny & Elkan, Obtaining calibrated probability estimates from decision trees and naive
        Bayesian classifiers, ICML 2001. Guo et al., On Calibration of Modern Neural Networks, ICML
        2017, section 4.1.
    """
    z, y = calibration_data(logits, labels, n_bins=n_bins, binning=binning)
    *parts, of_class = _one_probability(z, y)
    values, hits = (part.cpu().double().numpy() for part in parts)
    edges = np.arange(n_bins + 1) / n_bins
    if binning == "quantile":
        edges = np.unique(np.concatenate([[0.0], np.quantile(values, edges[1:-1]), [1.0]]))
    index = np.searchsorted(edges[1:-1], values)
    counts = np.bincount(index, minlength=len(edges) - 1)
    means = np.bincount(index, hits, minlength=len(counts)) / np.maximum(counts, 1)
    means = np.where(counts > 0, means, (edges[:-1] + edges[1:]) / 2)
    x = np.stack([edges[:-1], edges[1:]], axis=1).ravel()
    mapped = parameter(means.repeat(2))
    _warn_of_zeros(len(z), mapped, 1 - mapped)
    return TopLabel(z.shape[1], parameter(x), mapped, of_class)


def _mapped_class(p: Tensor, of_class: int | None) -> Tensor:
    """Return the class whose probability is mapped, shape `(n, 1)`."""
    if of_class is None and p.shape[1] > 2:
        return p.argmax(dim=1, keepdim=True)
    always = 1 if of_class is None else of_class
    return torch.full((len(p), 1), always, dtype=torch.int64, device=p.device)


def _one_probability(z: Tensor, y: Tensor) -> tuple[Tensor, Tensor, int | None]:
    """Return the probability that is mapped, whether its class is the label, each `(n,)`, and it.

    Rows of which all classes but one are masked say nothing.
    """
    stay = unmasked(z, y)[2]
    of_class = int(stay[1]) if len(stay) == 2 < z.shape[1] else None
    there = ~z.isneginf()
    rows = there.sum(dim=1) > 1
    p, y = z[rows].double().softmax(dim=1), y[rows]
    index = _mapped_class(p, of_class)
    return p.gather(1, index)[:, 0], index[:, 0] == y, of_class


def _warn_of_zeros(n: int, *curves: Tensor) -> None:
    """Warn if a curve gives a class no probability."""
    if any(float(curve.min()) == 0 for curve in curves):
        _checks.warn(
            f"expected examples of all labels along the curve, got {n} that leave a class without "
            "any probability somewhere, so that the NLL of others can be infinite; fit_venn_abers "
            "and fit_spline never do"
        )


def _isotonic(values: Tensor, hits: Tensor) -> tuple[Tensor, Tensor]:
    """Regress 0 or 1 on values, rising; return the ends of the pieces.

    Values that are equal but for the rounding of a softmax are pooled.
    """
    if not len(values):
        return parameter([0.0, 1.0]), parameter([0.0, 1.0])
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
