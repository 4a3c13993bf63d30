"""One pass over the data, in memory that does not grow with it."""

import dataclasses
from collections.abc import Callable, Generator, Iterable, Iterator, Mapping
from typing import Any, NamedTuple

import torch
from torch import Tensor, distributed

from advcal import _checks, _processes, _targets
from advcal._markup import decimal, html
from advcal._pass import Part, Way, one_pass
from advcal._sums import exact
from advcal._targets import Targets
from advcal._typing import Attack, Batch, Forward, Model, Progress
from advcal.metrics import ReliabilityBins, Summary, brier, clopper_pearson, reliability_bins

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
        intervals: From the name of each figure to the ends, low and high, of its interval of level
            .95 over the examples, under attack given this attack; see `Summary.interval`. Shares
            have exact ones, as `metrics.clopper_pearson`.
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
    intervals: Mapping[str, tuple[float, float]]

    def as_dict(self) -> dict[str, Any]:
        """Return plain numbers and lists, ready for JSON."""
        names = ("edges", "counts", "confidences", "corrects")
        bins = {name: getattr(self.bins, name).tolist() for name in names}
        intervals = {name: list(ends) for name, ends in self.intervals.items()}
        return vars(self) | {"bins": bins, "intervals": intervals}

    def _repr_html_(self) -> str:
        lines = [["figure", "value", "95 % interval"]]
        for name, value in vars(self).items():
            if isinstance(value, (int, float)):
                words = str(value) if isinstance(value, int) else decimal(value, 4)
                ends = ", ".join(decimal(end, 4) for end in self.intervals.get(name, ()))
                lines.append([name.replace("_", " "), words, f"[{ends}]" if ends else ""])
        return html(lines)


@dataclasses.dataclass(frozen=True, eq=False)
class TargetedEvaluation(Evaluation):
    """An `Evaluation` under an attack that has targets, and the share that it led to them.

    Attributes:
        reached: The share of examples whose predicted class is the target.
    """

    reached: float


def evaluate(
    model: Model,
    batches: Iterable[Batch],
    attack: Attack | None = None,
    *,
    targets: Targets | None = None,
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
        targets: The classes that a targeted attack is to reach, which it gets instead of the
            labels: a function of the labels of a batch, or a tensor, one for each example in the
            order of the data. An attack with `targeted=True` is refused without.
        n_bins: The number of equal-width bins of the reliability table.
        autocast: `torch.bfloat16` to run model and attack in mixed precision.
        channels_last: Whether to lay out four-dimensional inputs channels last.
        device: The device to compute on; that of the model if None. With a function for a model,
            None leaves the batches where they are.
        forward: `(model, batch) -> logits` for a model that takes more of a batch than the inputs.
        all_reduce: Whether to sum over all processes of `torch.distributed`, so that each returns
            the record of all data. Give each its own part, which may be empty: what
            `DistributedSampler` repeats to make parts equal would count twice.
        progress: A wrapper of an iterable that shows progress, such as `tqdm.tqdm`.

    Returns:
        An `Evaluation`; a `TargetedEvaluation` if there are targets.

    Raises:
        TypeError: If an argument or a batch is of the wrong kind.
        ValueError: If there are no batches, a shape or value is wrong, an attack is targeted and
            has no targets, or it has targets and is not.

    Example:
        >>> batches = [(torch.eye(2), torch.tensor([0, 1]))]
        >>> evaluate(torch.nn.Identity(), batches).accuracy
        1.0
    """
    way = Way(autocast, channels_last, device, forward, progress)
    _checks.arguments(n_bins=n_bins, all_reduce=all_reduce)
    if attack is not None:
        _checks.arguments(attack=attack)
    toward = _targets.given(attack, targets)
    work = evaluating(model, batches, attack, toward, way, n_bins, all_reduce)
    while True:
        try:
            next(work)
        except StopIteration as end:
            found: Evaluation = end.value
            return found


def evaluating(
    model: Model,
    batches: Iterable[Batch],
    attack: Attack | None,
    toward: Callable[[Tensor], Tensor] | None,
    way: Way,
    n_bins: int,
    all_reduce: bool,
) -> Generator[None, None, Evaluation]:
    """Evaluate batch by batch, with a stop before each; from labels `toward` gives targets."""
    tallies: dict[tuple[str, str], Tally] = {}
    with one_pass([model], batches, way, empty=all_reduce) as parts:
        for _ in tallied(tallies, parts, {"": model}, {"": model}, attack, n_bins, toward):
            yield
    counted = tallies.get(("", ""))
    if all_reduce:
        counted = _over_processes(counted, n_bins, way.place(model))
    if counted is None:
        raise ValueError("expected one batch or more, got none")
    _targets.end(toward)
    return counted.evaluation(aimed=toward is not None)


class Tally(NamedTuple):
    """What has been counted so far: a summary, and how many were right, are the same, hit."""

    summary: Summary[Tensor]
    counts: Tensor

    def plus(self, other: "Tally") -> "Tally":
        """Count two sets of examples together."""
        with _checks.trusted():  # that the edges are the same
            return Tally(self.summary + other.summary, self.counts + other.counts)

    def evaluation(self, *, aimed: bool = False) -> Evaluation:
        """Return every figure and its interval, which is a function of what was counted alone.

        With the share that reached its target if the attack was `aimed` at one.
        """
        total, n = self.summary, int(self.summary.n)
        names: tuple[Any, ...] = ("accuracy", "confidence", "ece", "mce", "mcs", "nll", "brier")
        found: dict[str, Any] = {
            name: total.interval(name, generator=torch.Generator().manual_seed(0)) for name in names
        }
        shares = ["clean_accuracy", "unchanged", *["reached"] * aimed]
        counts = zip(shares, self.counts.tolist(), strict=False)
        found |= {name: clopper_pearson(round(count), n=n) for name, count in counts}
        figures: dict[str, Any] = {name: float(each.value) for name, each in found.items()}
        intervals = {name: (float(low), float(high)) for name, (_, low, high) in found.items()}
        kind = TargetedEvaluation if aimed else Evaluation
        return kind(n=n, bins=total.bins, intervals=intervals, **figures)


def _over_processes(
    counted: Tally | None, n_bins: int, device: torch.device | None
) -> Tally | None:
    """Sum what all processes counted, in one exchange; None if there is nothing in any."""
    if not (distributed.is_available() and distributed.is_initialized()):
        return counted
    _processes.same({"n_bins": n_bins}, distributed.group.WORLD)
    zero = torch.zeros(1, 2, device=device)  # what stands here for nothing, and does not count
    mine = counted or _tally(zero, zero, zero[:, 0].long(), n_bins)
    bins, sums = mine.summary.bins, mine.summary.sums
    fields = [bins.counts.double(), bins.confidences, bins.corrects.double()]
    parts = [*fields, sums, mine.counts]
    whole = torch.cat(parts) * (counted is not None)
    if distributed.get_backend() == "nccl" and not whole.is_cuda:
        whole = whole.cuda()
    distributed.all_reduce(whole)
    if not whole[:n_bins].any():
        return None
    sizes = [n_bins] * 3 + [len(sums), len(mine.counts)]
    counts, confidences, corrects, sums, others = whole.to(bins.edges.device).split(sizes)
    table = ReliabilityBins(bins.edges, counts.long(), confidences, corrects.long())
    return Tally(Summary(table, sums), others)


def tallied(
    tallies: dict[tuple[str, str], Tally],
    parts: Iterable[Part],
    sources: Mapping[str, Model],
    scored: Mapping[str, Model],
    attack: Attack | None,
    n_bins: int,
    toward: Callable[[Tensor], Tensor] | None = None,
) -> Iterator[None]:
    """Attack each source in each batch and add to the tallies what each model makes of it.

    With a stop before each batch.
    """
    for part in parts:
        yield
        labels = part.labels
        aims = None if toward is None else toward(labels)
        clean = {name: part.logits(model) for name, model in scored.items()}
        for source_name, source in sources.items():
            points = None if attack is None else part.attacked(attack, source, aims)
            for name, before in clean.items():
                after = before if points is None else part.logits(scored[name], points)
                counted, key = _tally(before, after, labels, n_bins, aims), (source_name, name)
                tallies[key] = tallies[key].plus(counted) if key in tallies else counted


def _tally(
    clean: Tensor, logits: Tensor, labels: Tensor, n_bins: int, aims: Tensor | None = None
) -> Tally:
    """Count one batch, from the logits before and after an attack, which have a softmax."""
    clean, logits = exact(clean), exact(logits)
    labels = labels.to(logits.device)
    log_probs = logits.log_softmax(dim=1)
    probs = log_probs.exp()
    _checks.label_range(labels, probs.shape[1])
    with _checks.trusted():
        table = reliability_bins(probs, labels, n_bins=n_bins)
        squares = brier(probs, labels, reduction="none")
    predicted, now = clean.softmax(dim=1).argmax(dim=1), probs.argmax(dim=1)
    summary = Summary.of_scores(
        table, probs.amax(dim=1), -log_probs.gather(1, labels[:, None])[:, 0], squares
    )
    reached = now == (-1 if aims is None else aims.to(now.device))
    shares = [predicted == labels, predicted == now, reached]
    return Tally(summary, torch.stack(shares).double().sum(dim=1))
