"""The figures of `summary` as metrics of torchmetrics, for Lightning's `self.log` and DDP.

Not imported by `advcal.metrics`: `pip install advcal[torchmetrics]`, and import it from here.
"""

from typing import Any, Literal

import torch
from torch import Tensor
from torchmetrics import Metric

from advcal import _checks
from advcal.metrics._bins import uniform_edges
from advcal.metrics._summary import Summary, summary
from advcal.metrics._table import ReliabilityBins

Figure = Literal["accuracy", "confidence", "nll", "brier", "ece", "mce", "mcs"]
_FIGURES = ("accuracy", "confidence", "nll", "brier", "ece", "mce", "mcs")
_STATES = ("counts", "confidences", "corrects", "sums")


class Calibration(Metric):
    """A figure of all predictions since the last reset, in memory that does not grow with them.

    A thin class over `metrics.summary`: `update(probs, labels)`, `compute()`, `reset()`. Processes
    are summed as torchmetrics does. Several figures in a `MetricCollection` share their sums.

    Args:
        figure: `"accuracy"`, `"confidence"`, `"nll"`, `"brier"`, `"ece"`, `"mce"` or `"mcs"`.
        n_bins: The number of equal-width bins.
        from_logits: Whether what is passed are logits.
        **options: What `torchmetrics.Metric` takes.

    Example:
        >>> metric = Calibration("ece")
        >>> metric.update(torch.tensor([[0.9, 0.1]]), torch.tensor([0]))
        >>> metric.update(torch.tensor([[0.4, 0.6]]), torch.tensor([0]))
        >>> round(float(metric.compute()), 4)
        0.35
    """

    is_differentiable = False
    full_state_update = False
    higher_is_better = None
    counts: Tensor
    confidences: Tensor
    corrects: Tensor
    sums: Tensor

    def __init__(
        self, figure: Figure = "ece", *, n_bins: int = 15, from_logits: bool = False, **options: Any
    ) -> None:
        super().__init__(**options)
        _checks.choice("figure", figure, _FIGURES)
        _checks.arguments(n_bins=n_bins, from_logits=from_logits)
        self.figure, self.n_bins, self.from_logits = figure, n_bins, from_logits
        self.add_state("counts", torch.zeros(n_bins, dtype=torch.int64), "sum")
        self.add_state("confidences", torch.zeros(n_bins, dtype=torch.float64), "sum")
        self.add_state("corrects", torch.zeros(n_bins, dtype=torch.int64), "sum")
        self.add_state("sums", torch.zeros(6, dtype=torch.float64), "sum")

    def update(self, probs: Tensor, labels: Tensor) -> None:
        """Add a batch of probabilities, or logits, `(n, classes)`, and labels `(n,)`."""
        _checks.tensor("probs", probs)
        found = summary(probs, labels, n_bins=self.n_bins, from_logits=self.from_logits)
        self.counts += found.bins.counts
        self.confidences += found.bins.confidences
        self.corrects += found.bins.corrects
        self.sums += found.sums

    def compute(self) -> Tensor:
        """Return the figure, a float64 scalar."""
        value: Tensor = getattr(self.summary(), self.figure)
        return value

    def summary(self) -> Summary[Tensor]:
        """Return the sums of this process, for intervals: `metric.summary().interval("ece")`."""
        edges = uniform_edges(self.n_bins, self.counts.device)
        fields = [getattr(self, name).clone() for name in _STATES]
        return Summary(ReliabilityBins(edges, *fields[:3]), fields[3])
