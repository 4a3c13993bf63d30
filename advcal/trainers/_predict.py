"""Run a model over data."""

from collections.abc import Iterable
from typing import NamedTuple

import torch
from torch import Tensor

from advcal import _checks
from advcal._batches import casting, prepared
from advcal._frozen import attacked, frozen, logits_of
from advcal._typing import Attack, Batch, Model, Progress


class Predictions(NamedTuple):
    """What a model said about each example.

    Attributes:
        logits: Logits, float32 or wider, shape `(n, classes)`.
        labels: The labels that came with the inputs, int64, shape `(n,)`.
    """

    logits: Tensor
    labels: Tensor

    @property
    def probs(self) -> Tensor:
        """The softmax of the logits, float64, shape `(n, classes)`."""
        return self.logits.double().softmax(dim=1)


def predict(
    model: Model,
    batches: Iterable[Batch],
    attack: Attack | None = None,
    *,
    autocast: torch.dtype | None = None,
    channels_last: bool = False,
    progress: Progress | None = None,
) -> Predictions:
    """Collect the logits and labels of all batches, in eval mode and without gradients.

    Args:
        model: Inputs `(n, ...)` to logits `(n, classes)`; left as it was found.
        batches: An iterable of `(inputs, labels, *rest)`; they go to the device of the model.
        attack: Where given, `(model, inputs, labels) -> inputs`; the model then predicts on its
            outputs.
        autocast: `torch.bfloat16` to run in mixed precision.
        channels_last: Whether to lay out four-dimensional inputs channels last.
        progress: A wrapper of an iterable that shows progress, such as `tqdm.tqdm`.

    Returns:
        `Predictions(logits, labels)` with the property `probs`.

    Raises:
        TypeError: If an argument or a batch is of the wrong kind.
        ValueError: If there are no batches, or a shape or value is wrong.

    Example:
        >>> batches = [(torch.eye(2), torch.tensor([0, 1]))]
        >>> predict(torch.nn.Identity(), batches).probs.argmax(dim=1)
        tensor([0, 1])
    """
    _checks.function("model", model)
    casts = casting(model, autocast)
    if attack is not None:
        _checks.function("attack", attack)
    logits: list[Tensor] = []
    labels: list[Tensor] = []
    with frozen(model, grad=False):
        for batch in prepared(batches, model, channels_last=channels_last, progress=progress):
            inputs, batch_labels = batch[:2]
            labels.append(_checks.labels(batch_labels, len(inputs)))
            with casts():
                if attack is not None:
                    inputs = attacked(attack, model, inputs, batch_labels)
                output = _checks.with_softmax(logits_of(model, inputs))
            _checks.label_range(labels[-1], output.shape[1])
            logits.append(output.float() if output.dtype.itemsize < 4 else output)
    if not logits:
        raise ValueError("expected one batch or more, got none")
    return Predictions(torch.cat(logits), torch.cat(labels))
