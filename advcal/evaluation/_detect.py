"""Tell what is out of distribution by how unsure a model is of it."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor

from advcal import _checks, _probs
from advcal._pass import Way, check_source, one_pass
from advcal._typing import Batch, Forward, Model, Progress
from advcal.metrics import aupr, auroc, entropy, fpr95

Score = Callable[[Tensor], Tensor]

_SCORES: dict[str, Score] = {
    "entropy": lambda logits: entropy(logits, from_logits=True),
    "confidence": lambda logits: -logits.double().softmax(dim=1).amax(dim=1),
    "energy": lambda logits: -logits.double().logsumexp(dim=1),
}


@dataclasses.dataclass(frozen=True, eq=False)
class Detection:
    """How well a score of a model tells two data sets apart.

    Attributes:
        auroc: The probability that an example from outside scores higher than one from within.
        aupr_in: Average precision with the examples from within as positives.
        aupr_out: Average precision with the examples from outside as positives.
        fpr95: The share of the examples from outside that are taken for within at the threshold
            that keeps 95 % of those from within.
        scores: Higher for what looks out of distribution: float64 on the CPU, `(n,)`.
        labels: 0 for within and 1 for outside: int64, `(n,)`.
    """

    auroc: float
    aupr_in: float
    aupr_out: float
    fpr95: float
    scores: Tensor
    labels: Tensor

    def as_dict(self) -> dict[str, Any]:
        """Return plain numbers and the two sizes, ready for JSON."""
        names = ("auroc", "aupr_in", "aupr_out", "fpr95")
        n_out = int(self.labels.sum())
        sizes = {"n_in": len(self.labels) - n_out, "n_out": n_out}
        return sizes | {name: getattr(self, name) for name in names}


def detection(
    model: Model,
    in_batches: Iterable[Batch],
    out_batches: Iterable[Batch],
    *,
    score: str | Score = "entropy",
    autocast: torch.dtype | None = None,
    channels_last: bool = False,
    device: torch.device | str | None = None,
    forward: Forward | None = None,
    progress: Progress | None = None,
) -> Detection:
    r"""Score a data set from within the distribution and one from outside, and tell them apart.

    Scores are the predictive entropy, $-\max_k p_k$ (`"confidence"`), the energy
    $-\log \sum_k e^{z_k}$, or a function of your own, higher for what looks out of distribution.
    The model runs as in `evaluate`. What is kept is one score per example.

    Args:
        model: Inputs `(n, ...)` to logits `(n, classes)`.
        in_batches: An iterable of `(inputs,)` or `(inputs, labels, *rest)`; labels are not used.
        out_batches: The same from outside.
        score: `"entropy"`, `"confidence"`, `"energy"` or a function of logits `(n, classes)` to
            finite scores `(n,)`.
        autocast: `torch.bfloat16` to run the model in mixed precision.
        channels_last: Whether to lay out four-dimensional inputs channels last.
        device: Where batches go; to the device of the model if None.
        forward: `(model, batch) -> logits` for a model that takes more of a batch than the inputs.
        progress: A wrapper of an iterable that shows progress, such as `tqdm.tqdm`; of each set.

    Returns:
        A `Detection`.

    Raises:
        TypeError: If an argument or a batch is of the wrong kind.
        ValueError: If there are no batches, or a shape or value is wrong.

    Example:
        >>> within, outside = 5 * torch.eye(3), torch.tensor([[1.0, 0.0, 0.0]])
        >>> detection(torch.nn.Identity(), [(within,)], [(outside,)]).auroc
        1.0

    References:
        Hendrycks & Gimpel, A Baseline for Detecting Misclassified and Out-of-Distribution Examples,
        ICLR 2017; Liu et al., Energy-based Out-of-distribution Detection, NeurIPS 2020.
    """
    way = Way(autocast, channels_last, device, forward, progress)
    if not callable(score):
        _checks.choice("score", score, _SCORES)
        score = _SCORES[score]
    for batches in (in_batches, out_batches):
        check_source(batches, progress)
    parts = []
    for batches in (in_batches, out_batches):
        with one_pass([model], batches, way, labelled=False) as each:
            parts.append(torch.cat([_scores(score, part.logits(model)) for part in each]))
    scores = torch.cat(parts)
    labels = torch.cat([torch.full((len(part),), i) for i, part in enumerate(parts)])
    return Detection(
        auroc=float(auroc(scores, labels)),
        aupr_in=float(aupr(-scores, 1 - labels)),
        aupr_out=float(aupr(scores, labels)),
        fpr95=float(fpr95(-scores, 1 - labels)),
        scores=scores,
        labels=labels,
    )


def _scores(function: Score, logits: Tensor) -> Tensor:
    scores = function(logits)
    if not isinstance(scores, Tensor) or scores.shape != (len(logits),):
        raise ValueError(f"expected scores of shape ({len(logits)},), got {_checks.kind(scores)}")
    return _probs.vector("scores", scores)[0].cpu()
