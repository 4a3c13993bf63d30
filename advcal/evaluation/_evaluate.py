"""One pass over the data, in memory that does not grow with it."""

import dataclasses
from collections.abc import Iterable, Mapping
from typing import Any, NamedTuple

import torch
from torch import Tensor, distributed

from advcal import _checks
from advcal._pass import Part, Way, one_pass
from advcal._sums import exact
from advcal._typing import Attack, Batch, Forward, Model, Progress
from advcal.metrics import ReliabilityBins, brier, reliability_bins

FIGURES = ("accuracy", "confidence", "ece", "mcs", "nll", "brier")


@dataclasses.dataclass(frozen=True, eq=False)
class Evaluation:
    """What one pass of a model over data, attacked or not, showed.

    Attributes:
        n: The number of examples.
        accuracy: The share of predictions that are the label, under attack if there is one.
        confidence: Mean probability of the predicted class.
        ece: Expected calibration error over the bins of `bins`.
        mce: Maximum calibration error over the bins of `bins`.
        mcs: Confidence minus accuracy; positive is overconfident.
        nll: Negative log-likelihood of the labels, in nats.
        brier: Brier score, from 0 to 2.
        clean_accuracy: Accuracy on the inputs before the attack. An attack that uses the true
            label can raise accuracy above it.
        unchanged: The share of examples whose predicted class is the same before and after the
            attack; exactly 1 under `iaa(label="predicted")`.
        bins: The reliability table.
    """

    n: int
    accuracy: float
    confidence: float
    ece: float
    mce: float
    mcs: float
    nll: float
    brier: float
    clean_accuracy: float
    unchanged: float
    bins: ReliabilityBins[Tensor]

    def as_dict(self) -> dict[str, Any]:
        """Return plain numbers and lists, ready for JSON."""
        names = ("edges", "counts", "confidences", "corrects")
        return vars(self) | {"bins": {name: getattr(self.bins, name).tolist() for name in names}}


def evaluate(
    model: Model,
    batches: Iterable[Batch],
    attack: Attack | None = None,
    *,
    n_bins: int = 15,
    autocast: torch.dtype | None = None,
    channels_last: bool = False,
    device: torch.device | str | None = None,
    forward: Forward | None = None,
    all_reduce: bool = False,
    progress: Progress | None = None,
) -> Evaluation:
    """Attack each batch once, predict before and after, and sum up every figure.

    A model that is in train mode runs in eval mode. One that is in eval mode runs as it is, parts
    of it in train mode included: dropout that samples, BatchNorm that takes the statistics of the
    batch. The model is left as it was found, and so are the batches. Memory does not grow with the
    data. The probabilities are the softmax of the logits in float64. The section "Passes over
    batches" of the conventions says what holds for 8-bit images, and for attacks with `forward=`.

    Args:
        model: Inputs `(n, ...)` to logits `(n, classes)`.
        batches: An iterable of `(inputs, labels, *rest)`.
        attack: `(model, inputs, labels) -> inputs`, or None for the inputs as they are.
        n_bins: The number of equal-width bins of the reliability table.
        autocast: `torch.bfloat16` to run model and attack in mixed precision.
        channels_last: Whether to lay out four-dimensional inputs channels last.
        device: Where batches go; to the device of the model if None, of a function nowhere.
        forward: `(model, batch) -> logits` for a model that takes more of a batch than the inputs.
        all_reduce: Whether to sum over all processes of `torch.distributed`, so that each returns
            the record of all data. Give each its own part, which may be empty: what
            `DistributedSampler` repeats to make parts equal would count twice.
        progress: A wrapper of an iterable that shows progress, such as `tqdm.tqdm`.

    Returns:
        An `Evaluation`.

    Raises:
        TypeError: If an argument or a batch is of the wrong kind.
        ValueError: If there are no batches, or a shape or value is wrong.

    Example:
        >>> batches = [(torch.eye(2), torch.tensor([0, 1]))]
        >>> evaluate(torch.nn.Identity(), batches).accuracy
        1.0
    """
    way = Way(autocast, channels_last, device, forward, progress)
    _checks.arguments(n_bins=n_bins, all_reduce=all_reduce)
    if attack is not None:
        _checks.arguments(attack=attack)
    with one_pass([model], batches, way, empty=all_reduce) as parts:
        counted = tallied(parts, {"": model}, {"": model}, attack, n_bins).get(("", ""))
    if all_reduce:
        counted = _over_processes(counted, n_bins, way.place(model))
    if counted is None:
        raise ValueError("expected one batch or more, got none")
    return counted.evaluation()


class Tally(NamedTuple):
    """What has been counted so far: the reliability table and four more sums over examples."""

    bins: ReliabilityBins[Tensor]
    sums: Tensor

    def plus(self, other: "Tally") -> "Tally":
        """Count two sets of examples together."""
        with _checks.trusted():  # that the edges are the same
            return Tally(self.bins + other.bins, self.sums + other.sums)

    def evaluation(self) -> Evaluation:
        """Return every figure."""
        bins, n = self.bins, int(self.bins.n)
        names = ("nll", "brier", "clean_accuracy", "unchanged")
        figures: dict[str, Any] = dict(zip(names, (self.sums / n).tolist(), strict=True))
        for name in ("accuracy", "confidence", "ece", "mce", "mcs"):
            figures[name] = float(getattr(bins, name))
        return Evaluation(n=n, bins=bins, **figures)


def _over_processes(
    counted: Tally | None, n_bins: int, device: torch.device | None
) -> Tally | None:
    """Sum what all processes counted, in one exchange; None where there is nothing in any."""
    if not (distributed.is_available() and distributed.is_initialized()):
        return counted
    zero = torch.zeros(1, 2, device=device)  # what stands here for nothing, and does not count
    mine = counted or _tally(zero, zero, zero[:, 0].long(), n_bins)
    bins = mine.bins
    parts = [bins.counts.double(), bins.confidences, bins.corrects.double(), mine.sums]
    whole = torch.cat(parts) * (counted is not None)
    if distributed.get_backend() == "nccl" and not whole.is_cuda:
        whole = whole.cuda()
    distributed.all_reduce(whole)
    if not whole[:n_bins].any():
        return None
    counts, confidences, corrects, sums = whole.to(bins.edges.device).split([n_bins] * 3 + [4])
    return Tally(ReliabilityBins(bins.edges, counts.long(), confidences, corrects.long()), sums)


def tallied(
    parts: Iterable[Part],
    sources: Mapping[str, Model],
    targets: Mapping[str, Model],
    attack: Attack | None,
    n_bins: int,
) -> dict[tuple[str, str], Tally]:
    """Attack each source in each batch, and count what each target makes of it."""
    tallies: dict[tuple[str, str], Tally] = {}
    for part in parts:
        labels = part.labels
        clean = {name: part.logits(target) for name, target in targets.items()}
        for source_name, source in sources.items():
            points = None if attack is None else part.attacked(attack, source)
            for name, before in clean.items():
                after = before if points is None else part.logits(targets[name], points)
                counted, key = _tally(before, after, labels, n_bins), (source_name, name)
                tallies[key] = tallies[key].plus(counted) if key in tallies else counted
    return tallies


def _tally(clean: Tensor, logits: Tensor, labels: Tensor, n_bins: int) -> Tally:
    """Count one batch, from the logits before and after an attack, which have a softmax."""
    clean, logits = exact(clean), exact(logits)
    labels = labels.to(logits.device)
    log_probs = logits.log_softmax(dim=1)
    probs = log_probs.exp()
    _checks.label_range(labels, probs.shape[1])
    with _checks.trusted():
        table = reliability_bins(probs, labels, n_bins=n_bins)
        squares = brier(probs, labels, reduction="none")
    predicted = clean.softmax(dim=1).argmax(dim=1)
    per_example = [
        -log_probs.gather(1, labels[:, None])[:, 0],
        squares,
        predicted == labels,
        predicted == probs.argmax(dim=1),
    ]
    return Tally(table, torch.stack([values.double().sum() for values in per_example]))
