"""Tell what is out of distribution by how unsure a model is of it."""

import dataclasses
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, Literal

import torch
from torch import Tensor

from advcal import _checks, _logits, _probs
from advcal._answers import logits_of
from advcal._frozen import Around, attacked
from advcal._pass import Part, Way, check_source, one_pass
from advcal._sums import exact, wide
from advcal._targets import away
from advcal._typing import Attack, Batch, Forward, Model, Progress
from advcal.metrics import detection_interval, entropy

Score = Callable[[Tensor], Tensor]

_SCORES: dict[str, Score] = {
    "entropy": lambda logits: entropy(logits, from_logits=True),
    "confidence": lambda logits: _top_odds(exact(logits)).clamp(-1e300, 1e300),
    "energy": lambda logits: -exact(logits).logsumexp(dim=1),
}
# What has another name than what is ranked: rounding takes confidences to 1 and log-odds nowhere.
_SHOWN: dict[str, Score] = {"confidence": lambda log_odds: -(-log_odds).sigmoid()}
# What an attack climbs in their place: it rises and falls with the score and does not go flat.
_STEEP: dict[str, Score] = {
    "entropy": lambda logits: _log_entropy(wide(logits)),
    "confidence": lambda logits: _top_odds(wide(logits)),
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
        intervals: From the name of each figure to the ends of its interval of level .95; see
            `metrics.detection_interval`.
        scores: Higher for what looks out of distribution: float64 on the CPU, `(n,)`. Confidences
            are ranked before they are rounded to these.
        labels: 0 for within and 1 for outside: int64, `(n,)`.
    """

    auroc: float
    aupr_in: float
    aupr_out: float
    fpr95: float
    intervals: Mapping[str, tuple[float, float]]
    scores: Tensor
    labels: Tensor

    def as_dict(self) -> dict[str, Any]:
        """Return plain numbers and the two sizes, ready for JSON."""
        names = ("auroc", "aupr_in", "aupr_out", "fpr95")
        n_out = int(self.labels.sum())
        sizes = {"n_in": len(self.labels) - n_out, "n_out": n_out}
        found = sizes | {name: getattr(self, name) for name in names}
        return found | {"intervals": {name: list(self.intervals[name]) for name in names}}


def detection(
    model: Model,
    in_batches: Iterable[Batch],
    out_batches: Iterable[Batch],
    *,
    score: str | Score = "entropy",
    attack: Attack | None = None,
    side: Side = "both",
    others: Sequence[str | Score] = (),
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
    there is can do that, those on confidence too. Of each example the worst counts, of the clean
    score and of what attacks on this score and on the `others` found.

    A score may be of features, if the model is the network without its head, or of an ensemble, if
    the model returns what its members say side by side.

    Args:
        model: Inputs `(n, ...)` to logits `(n, classes)`.
        in_batches: An iterable of `(inputs,)` or `(inputs, labels, *rest)`; labels are not used.
        out_batches: The same from outside.
        score: `"entropy"`, `"confidence"`, `"energy"` or a function of logits `(n, classes)` to
            finite scores `(n,)`.
        attack: `(model, inputs, labels) -> inputs`, such as `partial(pgd, eps=8 / 255)`, or None.
        side: What is attacked: `"in"`, `"out"` or `"both"`.
        others: Further scores, the attacks on which count too.
        autocast: `torch.bfloat16` to run the model in mixed precision.
        channels_last: Whether to lay out four-dimensional inputs channels last.
        device: The device to compute on; that of the model if None.
        forward: `(model, batch) -> logits` for a model that takes more of a batch than the inputs.
        progress: A wrapper of an iterable that shows progress, such as `tqdm.tqdm`; of each set.

    Returns:
        A `Detection`.

    Raises:
        TypeError: If an argument or a batch is of the wrong kind.
        ValueError: If there are no batches, a shape or value is wrong, or the attack is targeted.

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
        away(attack, "detection tells it which side each example is of")
    shown = _SHOWN.get(score) if isinstance(score, str) else None
    _checks.sequence("others", others)
    function, steep = _score("score", score)
    detectors = [
        _Detector(model, each) for each in (steep, *(_score("others", o)[1] for o in others))
    ]
    for batches in (in_batches, out_batches):
        check_source(batches, progress)
    clean, parts = [], []
    for outside, batches in enumerate((in_batches, out_batches)):
        rows, worst = [], []
        attacking = side in ("both", ("in", "out")[outside])
        with one_pass([model], batches, way, labelled=False) as each_part:
            for part in each_part:
                logits = part.logits(model)
                rows.append(_scores(function, logits))
                worst.append(rows[-1])
                if attack is None:
                    continue
                for detector in detectors:
                    detector.look(logits)
                    if attacking:
                        points = _attacked(attack, detector, part, outside)
                        pick = torch.minimum if outside else torch.maximum
                        worst[-1] = pick(worst[-1], _scores(function, part.logits(model, points)))
        clean.append(torch.cat(rows))
        parts.append(torch.cat(worst))
    scores = torch.cat(parts)
    threshold = torch.cat([clean[0], parts[1]])
    labels = torch.cat([torch.full((len(part),), i, device="cpu") for i, part in enumerate(parts)])
    found = {
        "auroc": _interval(scores, labels, "auroc"),
        "aupr_in": _interval(-scores, 1 - labels, "aupr"),
        "aupr_out": _interval(scores, labels, "aupr"),
        "fpr95": _interval(-threshold, 1 - labels, "fpr95"),
    }
    figures = {name: each[0] for name, each in found.items()}
    ends = {name: each[1:] for name, each in found.items()}
    scores = scores if shown is None else shown(scores)
    return Detection(**figures, intervals=ends, scores=scores, labels=labels)


def _interval(scores: Tensor, labels: Tensor, figure: Any) -> tuple[float, float, float]:
    """Return a figure and the ends of its interval, from the same draws each time."""
    source = torch.Generator("cpu").manual_seed(0)
    found = detection_interval(scores, labels, figure=figure, generator=source)
    return float(found.value), float(found.low), float(found.high)


def _score(name: str, score: str | Score) -> tuple[Score, Score]:
    """Return a score, and what an attack on it climbs."""
    if callable(score):
        return score, score
    _checks.choice(name, score, _SCORES)
    return _SCORES[score], _STEEP[score]


def _top_odds(logits: Tensor) -> Tensor:
    return _logits.log_odds(logits, logits.argmax(dim=1))


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

    def look(self, logits: Tensor) -> None:
        """Take the limit from the first examples."""
        if self.limit is None:
            self.limit = self.score(logits).median()

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
    labels = _checks.note(labels, true=True)
    with part.casting():
        return attacked(attack, detector.of(part), part.floats, labels)
