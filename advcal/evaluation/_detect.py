"""Tell what is out of distribution by how unsure a model is of it."""

import dataclasses
from collections.abc import Callable, Iterable
from typing import Any, Literal

import torch
from torch import Tensor

from advcal import _checks, _logits, _probs
from advcal._frozen import Around, attacked, logits_of
from advcal._pass import Part, Way, check_source, one_pass
from advcal._sums import exact, wide
from advcal._typing import Attack, Batch, Forward, Model, Progress
from advcal.metrics import aupr, auroc, entropy, fpr95

Score = Callable[[Tensor], Tensor]

_SCORES: dict[str, Score] = {
    "entropy": lambda logits: entropy(logits, from_logits=True),
    "confidence": lambda logits: -exact(logits).softmax(dim=1).amax(dim=1),
    "energy": lambda logits: -exact(logits).logsumexp(dim=1),
}
# What an attack climbs in their place: it rises and falls with the score and does not go flat.
_STEEP: dict[str, Score] = {
    "entropy": lambda logits: _log_entropy(wide(logits)),
    "confidence": lambda logits: _logits.log_odds(wide(logits), logits.argmax(dim=1)),
    "energy": lambda logits: -wide(logits).logsumexp(dim=1),
}
Side = Literal["in", "out", "both"]


@dataclasses.dataclass(frozen=True, eq=False)
class Detection:
    """How well a score of a model tells two data sets apart.

    Attributes:
        auroc: The probability that an example from outside scores higher than one from within.
        aupr_in: Average precision with the examples from within as positives.
        aupr_out: Average precision with the examples from outside as positives.
        fpr95: The share of the examples from outside that are taken for within at the threshold
            that keeps 95 % of those from within, before any attack.
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
    attack: Attack | None = None,
    side: Side = "both",
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

    Under attack the score and its limit are a classifier of two classes, within (0) and outside
    (1), with the log-odds of its own, and the attack is told the true one: it raises the scores of
    what is within and lowers those of what is outside, on one side or on both. Whatever attack
    there is can do that, those on confidence too. Of each example the worse of the clean and the
    attacked score counts.

    Args:
        model: Inputs `(n, ...)` to logits `(n, classes)`.
        in_batches: An iterable of `(inputs,)` or `(inputs, labels, *rest)`; labels are not used.
        out_batches: The same from outside.
        score: `"entropy"`, `"confidence"`, `"energy"` or a function of logits `(n, classes)` to
            finite scores `(n,)`.
        attack: `(model, inputs, labels) -> inputs`, such as `partial(pgd, eps=8 / 255)`, or None.
        side: What is attacked: `"in"`, `"out"` or `"both"`.
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
        ICLR 2017; Liu et al., Energy-based Out-of-distribution Detection, NeurIPS 2020;
        Azizmalayeri et al., Your Out-of-Distribution Detection Method is Not Robust!, NeurIPS 2022.
    """
    way = Way(autocast, channels_last, device, forward, progress)
    _checks.choice("side", side, ("in", "out", "both"))
    if attack is not None:
        _checks.arguments(attack=attack)
    if not callable(score):
        _checks.choice("score", score, _SCORES)
    steep = score if callable(score) else _STEEP[score]
    score = score if callable(score) else _SCORES[score]
    for batches in (in_batches, out_batches):
        check_source(batches, progress)
    detector, clean, parts = _Detector(model, steep), [], []
    for outside, batches in enumerate((in_batches, out_batches)):
        rows, worst = [], []
        with one_pass([model], batches, way, labelled=False) as each:
            for part in each:
                logits = part.logits(model)
                rows.append(_scores(score, logits))
                if attack is not None and detector.limit is None:
                    detector.limit = steep(logits).median()
                worst.append(rows[-1])
                if attack is not None and side in ("both", ("in", "out")[outside]):
                    points = _attacked(attack, detector, part, outside)
                    pick = torch.minimum if outside else torch.maximum
                    worst[-1] = pick(rows[-1], _scores(score, part.logits(model, points)))
        clean.append(torch.cat(rows))
        parts.append(torch.cat(worst))
    scores = torch.cat(parts)
    threshold = torch.cat([clean[0], parts[1]])
    labels = torch.cat([torch.full((len(part),), i, device="cpu") for i, part in enumerate(parts)])
    return Detection(
        auroc=float(auroc(scores, labels)),
        aupr_in=float(aupr(-scores, 1 - labels)),
        aupr_out=float(aupr(scores, labels)),
        fpr95=float(fpr95(-threshold, 1 - labels)),
        scores=scores,
        labels=labels,
    )


def _log_entropy(logits: Tensor) -> Tensor:
    least = max(1e-300, torch.finfo(logits.dtype).tiny)
    return _logits.entropy(logits.log_softmax(dim=1)).clamp_min(least).log()


def _scores(function: Score, logits: Tensor) -> Tensor:
    scores = function(logits)
    if not isinstance(scores, Tensor) or scores.shape != (len(logits),):
        raise ValueError(f"expected scores of shape ({len(logits)},), got {_checks.kind(scores)}")
    return _probs.vector("scores", scores)[0].cpu()


class _Detector(Around):
    """A score as a model of two classes, within and outside, that are even at the limit."""

    def __init__(self, model: Model, score: Any) -> None:
        super().__init__()
        self.model, self.score = model, score
        self._around = (model,)
        self.limit: Tensor | None = None  # the median score of the first examples from within

    def of(self, part: Part) -> "_Detector":
        """Return the detector of one batch, of which the model may know the rest."""
        found = _Detector(part.taking(self.model), self.score)
        found.limit = self.limit
        return found

    def forward(self, inputs: Tensor) -> Tensor:
        score = self.score(logits_of(self.model, inputs))
        half = (score - (0 if self.limit is None else self.limit)) / 2
        return torch.stack([-half, half], dim=1)


def _attacked(attack: Attack, detector: _Detector, part: Part, outside: int) -> Tensor:
    """Attack the detector from the inputs of a batch, all of which are within or outside."""
    labels = torch.full((len(part.inputs),), outside, device=part.inputs.device)
    with part.casting():
        return attacked(attack, detector.of(part), part.floats, labels)
