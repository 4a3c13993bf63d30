"""Run a model over data."""

from collections.abc import Iterable
from typing import NamedTuple

import torch
from torch import Tensor

from advcal import _checks, _targets
from advcal._logits import lift
from advcal._pass import Way, one_pass
from advcal._sums import exact
from advcal._targets import Targets
from advcal._typing import Attack, Batch, Forward, Model, Progress


class Predictions(NamedTuple):
    """What a model said about each example.

    Attributes:
        logits: Logits, float32 or wider, shape `(n, classes)`.
        labels: The labels that came with the inputs, int64, shape `(n,)`; -1 if none came.
    """

    logits: Tensor
    labels: Tensor

    @property
    def probs(self) -> Tensor:
        """The softmax of the logits, float64, shape `(n, classes)`."""
        return exact(self.logits).softmax(dim=1)


def predict(
    model: Model,
    batches: Iterable[Batch],
    attack: Attack | None = None,
    *,
    targets: Targets | None = None,
    autocast: torch.dtype | None = None,
    channels_last: bool = False,
    device: torch.device | str | None = None,
    forward: Forward | None = None,
    progress: Progress | None = None,
) -> Predictions:
    """Collect the logits and labels of all batches, without gradients.

    A model in train mode runs in eval mode, one in eval mode as it is, as in `evaluate`.

    Args:
        model: Inputs `(n, ...)` to logits `(n, classes)`; left as it was found.
        batches: An iterable of `(inputs, labels, *rest)`, as in `evaluate`; without an attack
            `(inputs,)` will do.
        attack: `(model, inputs, labels) -> inputs`, on whose outputs the model predicts, or None.
        targets: The classes that a targeted attack is to reach, as in `evaluate`; it is refused
            without.
        autocast: `torch.bfloat16` to run in mixed precision.
        channels_last: Whether to lay out four-dimensional inputs channels last.
        device: The device to compute on; that of the model if None.
        forward: `(model, batch) -> logits` for a model that takes more of a batch than the inputs.
        progress: A wrapper of an iterable that shows progress, such as `tqdm.tqdm`.

    Returns:
        `Predictions(logits, labels)` with the property `probs`.

    Raises:
        TypeError: If an argument or a batch is of the wrong kind.
        ValueError: If there are no batches, a shape or value is wrong, or an attack is targeted
            and has no targets.

    Example:
        >>> batches = [(torch.eye(2), torch.tensor([0, 1]))]
        >>> predict(torch.nn.Identity(), batches).probs.argmax(dim=1)
        tensor([0, 1])
    """
    way = Way(autocast, channels_last, device, forward, progress)
    if attack is not None:
        _checks.arguments(attack=attack)
    toward = _targets.given(attack, targets)
    logits: list[Tensor] = []
    labels: list[Tensor] = []
    with one_pass([model], batches, way, labelled=attack is not None) as parts:
        for part in parts:
            labels.append(part.labels)
            aims = None if toward is None else toward(part.labels)
            points = None if attack is None else part.attacked(attack, model, aims)
            logits.append(lift(part.logits(model, points)))
            if part.labelled:
                _checks.label_range(labels[-1], logits[-1].shape[1])
    _targets.end(toward)
    return Predictions(torch.cat(logits), torch.cat(labels))
