"""How often sets of classes hold the label, and how large they are."""

from __future__ import annotations

import dataclasses

import torch
from scipy import stats
from torch import Tensor

from advcal import _checks
from advcal._sums import wide


@dataclasses.dataclass(frozen=True)
class SetFigures:
    """How well sets of classes cover, and how much they say.

    Attributes:
        n: The number of examples.
        coverage: The share of sets that hold the label.
        coverage_low: The lower end of the exact 95 % interval of the coverage.
        coverage_high: Its upper end.
        size: The mean number of classes in a set.
        single: The share of sets of one class.
        empty: The share of empty sets.
    """

    n: int
    coverage: float
    coverage_low: float
    coverage_high: float
    size: float
    single: float
    empty: float


def set_figures(sets: Tensor, labels: Tensor) -> SetFigures:
    """Count coverage and size of sets of classes.

    The interval is Clopper and Pearson's, over the examples, for sets that were calibrated before.
    Over the draw of n calibration examples the coverage itself varies as a Beta distribution with
    parameters k and n + 1 - k, with k the rank of the threshold.

    Args:
        sets: Which classes each set holds, bool, shape `(n, classes)`.
        labels: Integer labels, shape `(n,)`.

    Returns:
        `SetFigures`.

    Raises:
        TypeError: If an argument is of the wrong kind.
        ValueError: If a shape or value is wrong.

    Example:
        >>> sets = torch.tensor([[True, False], [True, True], [False, True], [True, False]])
        >>> found = set_figures(sets, torch.tensor([0, 1, 0, 0]))
        >>> print(f"{found.coverage}, size {found.size}")
        0.75, size 1.25
    """
    if not isinstance(sets, Tensor) or sets.dtype != torch.bool:
        raise TypeError(f"expected sets as a torch.Tensor of bool, got {_checks.kind(sets)}")
    _checks.dense("sets", sets)
    if sets.ndim != 2 or sets.numel() == 0:
        raise ValueError(f"expected sets of shape (n >= 1, classes), got {_checks.kind(sets)}")
    y = _checks.labels(labels, len(sets), sets.shape[1], sets.device)
    n, sizes = len(sets), sets.sum(dim=1)
    held = int(sets.gather(1, y[:, None]).sum())
    interval = stats.binomtest(held, n).proportion_ci(0.95, method="exact")
    shares = [float(wide(each).mean()) for each in (sizes, sizes == 1, sizes == 0)]
    return SetFigures(n, held / n, float(interval.low), float(interval.high), *shares)
