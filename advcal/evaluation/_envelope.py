"""How far the confidence of a model can be moved while it answers as before."""

import dataclasses
from collections.abc import Callable, Iterable, Sequence
from functools import partial
from typing import Any

import torch
from torch import Tensor

from advcal import _batches, _checks
from advcal._pass import Part, Way, one_pass
from advcal._sums import exact
from advcal._typing import Batch, Forward, Model, Norm, Progress
from advcal.attacks import ace, generalised_ace, iaa, oca, uca
from advcal.certify import Reach


@dataclasses.dataclass(frozen=True)
class Envelope:
    """The lowest and the highest confidence that attacks reached at each radius.

    Attributes:
        n: The number of examples.
        eps: The radii, from small to large.
        accuracy: The share of correct predictions: the same at every radius, as none changes.
        confidence: Mean clean confidence.
        lowest: The lowest mean confidence at each radius.
        highest: The highest mean confidence at each radius.
        certified_lowest: What no attack gets below, at each radius; empty if nothing certifies.
        certified_highest: What no attack gets above.
    """

    n: int
    eps: tuple[float, ...]
    accuracy: float
    confidence: float
    lowest: tuple[float, ...]
    highest: tuple[float, ...]
    certified_lowest: tuple[float, ...] = ()
    certified_highest: tuple[float, ...] = ()

    @property
    def lowest_mcs(self) -> tuple[float, ...]:
        """Lowest mean confidence minus accuracy, at each radius."""
        return tuple(confidence - self.accuracy for confidence in self.lowest)

    @property
    def highest_mcs(self) -> tuple[float, ...]:
        """Highest mean confidence minus accuracy, at each radius."""
        return tuple(confidence - self.accuracy for confidence in self.highest)

    def as_dict(self) -> dict[str, Any]:
        """Return plain numbers and lists, ready for JSON."""
        scores = {"lowest_mcs": self.lowest_mcs, "highest_mcs": self.highest_mcs}
        return {
            name: list(value) if isinstance(value, tuple) else value
            for name, value in (vars(self) | scores).items()
        }


def confidence_envelope(
    model: Model,
    batches: Iterable[Batch],
    *,
    eps: Sequence[float],
    norm: Norm = "linf",
    steps: int = 150,
    bounds: tuple[float, float] = (0.0, 1.0),
    attacks: Sequence[Callable[..., Tensor]] = (),
    certified: Callable[..., Reach] | None = None,
    generator: torch.Generator | None = None,
    autocast: torch.dtype | None = None,
    channels_last: bool = False,
    device: torch.device | str | None = None,
    forward: Forward | None = None,
    progress: Progress | None = None,
) -> Envelope:
    """Find the lowest and the highest miscalibration score at unchanged predictions.

    Runs at each radius `uca`, `iaa(label="predicted")` and `generalised_ace` to the uniform
    distribution downwards, `oca` upwards, `ace` both ways, and `uca` and `oca` by random search,
    which gets on when gradients vanish. Takes, per example, the lowest and the highest confidence
    that any of them reached there or at a smaller radius, or that the input has: the envelope opens
    monotonically. It is what these attacks find, not a certificate: `certified` gives one, from
    outside, so that how far confidence can be moved lies between the two. `mma` and `rca` go the
    ways of `uca` and `oca` and add nothing.

    Args:
        model: Inputs `(n, ...)` to logits `(n, classes)`; it runs as in `evaluate`.
        batches: An iterable of `(inputs, labels, *rest)`, as in `evaluate`.
        eps: The radii, in units of the inputs, in any order.
        norm: `"linf"`, `"l2"` or `"l1"`.
        steps: The number of steps of each attack; with a tenth of the 150 the ends are found to
            about .01 at small radii, and missed by .1 and more at large ones.
        bounds: The lowest and the highest valid value of an input.
        attacks: Others beside these, `(model, inputs, predicted labels, eps=...) -> inputs`. What
            changes a prediction does not count.
        certified: `(model, inputs, eps=...) -> Reach`, such as `advcal.certify.crown`, for the norm
            and the bounds of the attacks. Of each example it bounds the probability of the clean
            prediction while that stays the prediction.
        generator: What the random searches draw from; each from a copy of the global one if None.
        autocast: `torch.bfloat16` to run model and attacks in mixed precision.
        channels_last: Whether to lay out four-dimensional inputs channels last.
        device: The device to compute on; that of the model if None.
        forward: `(model, batch) -> logits` for a model that takes more of a batch than the inputs.
        progress: A wrapper of an iterable that shows progress, such as `tqdm.tqdm`.

    Returns:
        An `Envelope`.

    Raises:
        TypeError: If an argument or a batch is of the wrong kind.
        ValueError: If there are no batches or radii, a shape or value is wrong, or in `linf` a
            radius is as large as the whole range of `bounds`.

    Example:
        >>> model = lambda inputs: inputs @ torch.tensor([[2.0, -2.0], [0.0, 0.0]])
        >>> batches = [(torch.full((2, 2), 0.5), torch.tensor([0, 1]))]
        >>> envelope = confidence_envelope(model, batches, eps=[0.125, 0.25])
        >>> [round(mcs, 2) for mcs in (*envelope.lowest_mcs, *envelope.highest_mcs)]
        [0.32, 0.23, 0.42, 0.45]
    """
    _checks.sequence("eps", eps)
    radii = tuple(sorted(_checks.number("eps", radius, least=0) for radius in eps))
    if not radii:
        raise ValueError("expected one eps or more, got none")
    way = Way(autocast, channels_last, device, forward, progress)
    _checks.arguments(steps=steps, norm=norm, generator=generator)
    _batches.below_width(radii[-1], norm, _batches.bounds_pair(bounds))
    _checks.sequence("attacks", attacks)
    for attack in attacks:
        _checks.arguments(attack=attack)
    if certified is not None:
        _checks.function("certified", certified)
    ours = _attacks({"norm": norm, "bounds": bounds}, steps, generator)
    n, sums = 0, torch.zeros(2 + 4 * len(radii), dtype=torch.float64, device="cpu")
    with one_pass([model], batches, way) as parts:
        for part in parts:
            columns = torch.stack(_columns(part, model, radii, [*ours, *attacks], certified))
            n, sums = n + len(part.inputs), sums + columns.sum(dim=1).cpu()
    accuracy, clean_confidence, *rest = (sums / n).tolist()
    ends = tuple(tuple(rest[i::4]) for i in range(2 if certified is None else 4))
    return Envelope(n, radii, accuracy, clean_confidence, *ends)


def _attacks(
    common: dict[str, Any], steps: int, generator: torch.Generator | None
) -> list[Callable[..., Tensor]]:
    stepping: dict[str, Any] = {**common, "steps": steps}
    searching: dict[str, Any] = {**stepping, "method": "random_search", "generator": generator}
    return [
        partial(uca, **stepping),
        partial(iaa, label="predicted", **stepping),
        partial(_to_uniform, **stepping),
        partial(oca, **stepping),
        partial(uca, **searching),
        partial(oca, **searching),
        partial(ace, **common),  # down, as it is told the predicted labels
        partial(_ace_up, **common),
    ]


def _columns(
    part: Part,
    model: Model,
    radii: Sequence[float],
    attacks: Sequence[Callable[..., Tensor]],
    certified: Callable[..., Reach] | None,
) -> list[Tensor]:
    """Return what is to be summed over the examples of a batch, float64 `(n,)` each."""
    logits = exact(part.logits(model))
    labels = part.labels.to(logits.device)
    _checks.label_range(labels, logits.shape[1])
    clean, predicted = _confidence(logits)
    lowest = highest = clean
    columns = [(predicted == labels).to(clean.dtype), clean]
    for radius in radii:
        for attack in attacks:
            points = part.attacked(partial(attack, eps=radius), model, predicted)
            confidence, answer = _confidence(exact(part.logits(model, points)))
            confidence = torch.where(answer == predicted, confidence, clean)
            lowest = torch.minimum(lowest, confidence)
            highest = torch.maximum(highest, confidence)
        ends = [torch.zeros_like(clean), torch.ones_like(clean)]
        if certified is not None:
            ends = _kept(certified(part.taking(model), part.floats, eps=radius), predicted)
        columns += [lowest, highest, *(end.to(clean) for end in ends)]
    return columns


def _kept(reach: Reach, predicted: Tensor) -> list[Tensor]:
    """Bound the confidence in a prediction while it is the prediction, each end `(n,)`."""
    if not isinstance(reach, Reach):
        raise TypeError(f"expected certified to return a Reach, got {_checks.kind(reach)}")
    own = reach.upper.gather(1, predicted.to(reach.upper.device)[:, None])[:, 0]
    return [torch.minimum(reach.confidence[0], own), own]


def _ace_up(model: Model, inputs: Tensor, predicted: Tensor, **options: Any) -> Tensor:
    """Take ACE's step upwards, as it does when it is told that the prediction is wrong."""
    return ace(model, inputs, (predicted == 0).long(), **options)


def _to_uniform(model: Model, inputs: Tensor, predicted: Tensor, **options: Any) -> Tensor:
    """Take the ACE attack towards the uniform distribution."""
    with torch.no_grad():
        n_classes = model(inputs.clone()).shape[1]
    omega = torch.full((n_classes,), 1 / n_classes, dtype=torch.float32, device=inputs.device)
    return generalised_ace(model, inputs, predicted, eta=-1.0, omega=omega, **options)


def _confidence(logits: Tensor) -> tuple[Tensor, Tensor]:
    """Return the confidence and the predicted class, each `(n,)`."""
    return logits.softmax(dim=1).amax(dim=1), logits.argmax(dim=1)
