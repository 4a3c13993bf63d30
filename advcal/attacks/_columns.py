"""Models of one logit as models of two classes."""

from typing import Any

import torch
from torch import Tensor, nn

from advcal import _answers, _checks
from advcal._answers import rows_of
from advcal._frozen import Around
from advcal._typing import Model


def two_columns(model: Model) -> nn.Module:
    r"""Make a model of one logit, of shape `(n,)` or `(n, 1)`, one of two classes.

    The logit $z$ of the second class against the first, as `binary_cross_entropy_with_logits` takes
    it, becomes $(0, z)$, whose softmax is $(1 - \sigma(z), \sigma(z))$. Labels are 0 and 1,
    integers of shape `(n,)`: `labels.flatten().long()`. Whatever else takes a model takes this:
    attacks, `evaluate`, objectives, `trainers.predict`.

    Args:
        model: Inputs `(n, ...)` to one logit each.

    Returns:
        A module that holds the model, so that an attack guards it as ever.

    Raises:
        TypeError: If `model` is not a callable, or does not return a tensor when called.
        ValueError: If, when called, it returns another shape.

    Example:
        >>> from advcal.attacks import pgd
        >>> one = lambda inputs: inputs.sum(dim=1, keepdim=True) - 1.5
        >>> inputs, labels = torch.tensor([[0.5, 0.5]]), torch.tensor([0])
        >>> two_columns(one)(inputs)
        tensor([[ 0.0000, -0.5000]])
        >>> one(pgd(two_columns(one), inputs, labels, eps=0.5, random_start=False))
        tensor([[0.5000]])
    """
    _checks.arguments(model=model)
    return _TwoColumns(model)


class _TwoColumns(Around):
    def __init__(self, model: Model) -> None:
        super().__init__()
        self.model = model
        self._around = (model,)

    def __repr__(self) -> str:
        return f"two_columns({getattr(self.model, '__qualname__', self.model)})"

    def of_rows(self, rows: Tensor | slice) -> "_TwoColumns":
        """Take the model for some rows of a batch."""
        return _TwoColumns(rows_of(self.model, rows))

    def forward(self, inputs: Tensor) -> Tensor:
        found: Any = self.model(inputs)
        logit = _answers.answer(found)
        if logit.shape not in ((len(inputs),), (len(inputs), 1)):
            wanted = f"one logit each, of shape ({len(inputs)},) or ({len(inputs)}, 1)"
            raise ValueError(f"expected {wanted}, got {_checks.kind(logit)}")
        second = logit.reshape(-1)
        return torch.stack([torch.zeros_like(second), second], dim=1)
