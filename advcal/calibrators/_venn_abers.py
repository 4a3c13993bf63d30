"""Venn-Abers predictors: isotonic regression that knows how little it has seen."""

import dataclasses

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from advcal._typing import Array
from advcal.calibrators._calibrator import (
    Calibrator,
    calibration_data,
    mean_nll,
    parameter,
    unmasked,
    warn_of_harm,
)
from advcal.calibrators._odds import from_odds, log_odds

Point = tuple[int, int]
Counts = npt.NDArray[np.int64]

_TRACE = 0.7  # by which the NLL of others is above that of the fit, measured from 3 to 500 a class
_SAME = 1e-12  # difference of log-odds that rounding makes, relative or absolute


@dataclasses.dataclass(frozen=True, eq=False)
class VennAbers(Calibrator):
    r"""Venn-Abers predictors of the log-odds of one class against the rest.

    Two classes share one predictor, that of the second. More have one each, and the probabilities
    are divided by their sum. None is ever 0 or 1. They are step functions of the log-odds, so the
    gradient is 0.

    Attributes:
        low_from: Log-odds at which the lower probability steps up, rising; float64, one tensor
            for each predictor.
        low: The lower probability from there on; 0 below the first.
        high_to: Log-odds up to which the higher probability holds, rising.
        high: The higher probability up to there; 1 beyond the last.
    """

    low_from: tuple[Tensor, ...]
    low: tuple[Tensor, ...]
    high_to: tuple[Tensor, ...]
    high: tuple[Tensor, ...]

    def _log_probs(self, z: Tensor) -> Tensor:
        odds, valid = log_odds(z)
        columns = torch.where(valid, odds, 0.0).unbind(dim=1)
        s = [self._odds(k, column.contiguous()) for k, column in enumerate(columns)]
        # A product with zero, so that there is a gradient, of zero.
        return from_odds(torch.stack(s, dim=1), z) + 0.0 * z.masked_fill(z.isneginf(), 0.0)

    def _odds(self, k: int, f: Tensor) -> Tensor:
        """Return the log-odds of the k-th predictor."""
        f = f.detach()
        slack = _SAME * f.abs().clamp(min=1.0)
        from_, to = self.low_from[k].to(f.device), self.high_to[k].to(f.device)
        low = torch.nn.functional.pad(self.low[k].to(f.device), (1, 0))
        high = torch.nn.functional.pad(self.high[k].to(f.device), (0, 1), value=1.0)
        p0 = low[torch.searchsorted(from_, f + slack, right=True)]
        p1 = high[torch.searchsorted(to, f - slack)]
        return p1.log() - torch.log1p(-p0)


def fit_venn_abers(logits: Array, labels: Array) -> VennAbers:
    r"""Fit inductive Venn-Abers predictors: isotonic regression, made safe for few examples.

    Take an example whose probability is asked for into the data, once with label 0 and once with
    label 1, and fit isotonic regression of the labels on the log-odds both times. The two
    probabilities at the example, $p_0 \le p_1$, bracket what can be known: one of them is
    calibrated, whatever the distribution. The result is $p_1 / (1 - p_0 + p_1)$, between them, the
    probability whose log loss is least in the worse case. Both step functions are computed ahead,
    exactly, in one sort and two passes.

    With more than two classes each is set against the rest, and the probabilities are divided by
    their sum; what is said of one of $p_0$, $p_1$ then holds before the division.

    Args:
        logits: Logits, shape `(n, classes)`, of examples that the model was not trained on; minus
            infinity masks a class. A tensor or a NumPy array.
        labels: Integer labels of the same kind, shape `(n,)`.

    Returns:
        The calibrator. It can change predictions, and gives no probability of 0 or 1.

    Raises:
        TypeError: If `logits` or `labels` is of another kind or dtype.
        ValueError: If a shape or value is wrong.

    Example:
        >>> logits = torch.tensor([[9.0, 0.0], [9.0, 0.0], [0.0, 9.0], [0.0, 9.0]])
        >>> fit_venn_abers(logits, torch.tensor([0, 0, 1, 0]))(logits[1:3])  # 1/3 / (1 - 0 + 1/3)
        tensor([[0.7500, 0.2500],
                [0.5000, 0.5000]])

    References:
        Vovk, Petej & Fedorova, Large-scale probabilistic predictors with and without guarantees of
        validity, NeurIPS 2015. Manokhin, Multi-class probabilistic classification using inductive
        and cross Venn-Abers predictors, COPA 2017.
    """
    z_all, y_all = calibration_data(logits, labels)
    n_classes, (z, y, stay) = z_all.shape[1], unmasked(z_all, y_all)
    odds, valid = log_odds(z.double())
    classes = range(z.shape[1])[-odds.shape[1] :]
    found = [_predictor(odds[valid[:, i], i], y[valid[:, i]] == k) for i, k in enumerate(classes)]
    if len(stay) < n_classes:
        if len(found) == 1:  # one predictor becomes two, the first of which mirrors it
            low_from, low, high_to, high = found[0]
            mirrored = -high_to.flip(0), 1 - high.flip(0), -low_from.flip(0), 1 - low.flip(0)
            found = [mirrored, found[0]]
        nothing = (parameter([]),) * 4
        known = dict(zip(stay.tolist(), found, strict=True))
        found = [known.get(k, nothing) for k in range(n_classes)]
    calibrator = VennAbers(n_classes, *zip(*found, strict=True))
    change = mean_nll(calibrator.log_probs(z_all.double()), y_all)
    change -= mean_nll(z_all.double().log_softmax(dim=1), y_all)
    warn_of_harm(change, _TRACE * len(classes) * (len(z) / z.shape[1]) ** 0.5, z_all)
    return calibrator


def _predictor(f: Tensor, hits: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Return where the lower and the higher probability step, and what to."""
    order = f.argsort(stable=True)
    x, ones = f[order].cpu().numpy(), hits[order].cpu().numpy().astype(np.int64)
    gaps = np.diff(x, prepend=-np.inf)
    starts = np.flatnonzero(gaps > _SAME * np.maximum(1, np.abs(x)))
    counts = np.diff(starts, append=len(x))
    sums = np.add.reduceat(ones, starts) if len(x) else ones
    x = x[starts]
    low_from, low = _lower(x, counts, sums)
    # The higher probability is one less the lower of what is left, seen from the other end.
    high_to, high = _lower(-x[::-1], counts[::-1], (counts - sums)[::-1])
    return (
        parameter(low_from),
        parameter(low),
        parameter(np.ascontiguousarray(-high_to[::-1])),
        parameter(np.ascontiguousarray(1 - high[::-1])),
    )


def _lower(
    x: npt.NDArray[np.float64], counts: Counts, sums: Counts
) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.float64]]:
    """Return where the fit with one more 0 steps up, and what to, at the place of that 0.

    A run of groups without a 1 has one value, whatever its place in it, so it is one group.
    """
    first = np.flatnonzero((sums > 0) | (np.concatenate([[1], sums[:-1]])[: len(sums)] > 0))
    if not len(first):
        return x, sums.astype(np.float64)
    counts, sums = np.add.reduceat(counts, first), np.add.reduceat(sums, first)
    values = np.array(_slopes(counts.tolist(), sums.tolist()))
    steps = np.flatnonzero(np.diff(values, prepend=-1.0) > 0)
    return x[first][steps], values[steps]


def _slopes(counts: list[int], sums: list[int]) -> list[float]:
    """Return the isotonic fit at a 0 that is put behind each group in turn.

    The fit is the slope of the greatest convex minorant of the cumulative sums. From the last
    group to the first: as the 0 moves before a group, one point of the diagram moves, and what of
    the minorant lies right of the place is never asked for again (Vovk et al., algorithms 3 and 4).
    """
    points: list[Point] = [(0, 0)]
    for count, hits in zip(counts, sums, strict=True):
        points.append((points[-1][0] + count, points[-1][1] + hits))
    points.append((points[-1][0] + 1, points[-1][1]))
    hull: list[Point] = []
    for point in points:
        while len(hull) > 1 and _turn(hull[-2], hull[-1], point) <= 0:
            hull.pop()
        hull.append(point)
    found = []
    for i in range(len(counts), 0, -1):
        (x0, y0), (x1, y1) = hull[-2:]
        found.append((y1 - y0) / (x1 - x0))
        before, here, after = points[i - 1], points[i], points[i + 1]
        moved = before[0] + after[0] - here[0], before[1] + after[1] - here[1]
        points[i] = moved
        if _turn(hull[-2], hull[-1], moved) >= 0:  # on or above the line
            continue
        hull.pop()
        while len(hull) > 1 and _turn(hull[-2], hull[-1], moved) <= 0:
            hull.pop()
        hull.append(moved)
    return found[::-1]


def _turn(a: Point, b: Point, c: Point) -> int:
    """Return twice the area of a triangle: positive if c lies left of the way from a to b."""
    return (b[0] - a[0]) * (c[1] - a[1]) - (b[1] - a[1]) * (c[0] - a[0])
