"""Models of several inputs as models of the first alone."""

from torch import Tensor, nn

from advcal import _checks
from advcal._pass import Bound
from advcal._typing import Batch, Model
from advcal._values import shown


def alongside(model: Model, *others: Tensor) -> nn.Module:
    """Hold all inputs of a model but the first, row by row, so that the first can be attacked.

    What comes back takes the first inputs of the same batch, in the same order, and calls
    `model(inputs, *others)`. Each example keeps its own rows: an attack of the library that leaves
    out examples which are done, or takes a few at a time, has the rows of those that are left. An
    attack of yours that leaves examples out goes through `batched(attack, 1)`.

    In `evaluate` and its like `forward=` does the same for each batch.

    Args:
        model: `(inputs, *others)` to logits `(n, classes)`.
        *others: The other inputs, each of shape `(n, ...)` and on the model's device. They are not
            attacked, and the model gets copies. What has no row for each example, such as a number,
            goes into a function around the model.

    Returns:
        A module of the first inputs. It holds the model, so that an attack guards it as ever.

    Raises:
        TypeError: If `model` is not a callable, or another input not a tensor.
        ValueError: If there are no others, or they differ in length; if, when called, it gets
            another number of inputs.

    Example:
        >>> from advcal.attacks import alongside, cascade, fgsm, pgd
        >>> from functools import partial
        >>> import torch
        >>> model = lambda inputs, shift: (inputs + shift) @ torch.tensor([[1.0, -1.0], [0.0, 0.0]])
        >>> inputs, labels = torch.full((2, 2), 0.5), torch.tensor([0, 0])
        >>> shift = torch.tensor([[-0.4, 0.0], [-0.1, 0.0]])
        >>> attack = cascade(partial(fgsm, eps=0.2), partial(pgd, eps=0.3))
        >>> points = attack(alongside(model, shift), inputs, labels)
        >>> model(points, shift).argmax(dim=1)
        tensor([1, 0])
    """
    _checks.arguments(model=model)
    for i, other in enumerate(others):
        _checks.of_type("a torch.Tensor", Tensor)(f"others[{i}]", other)
        if other.ndim == 0 or len(other) == 0:
            raise ValueError(f"expected others of shape (n >= 1, ...), got {_checks.kind(other)}")
    lengths = [len(other) for other in others]
    if len(set(lengths)) != 1:
        raise ValueError(f"expected one or more others of one length, got {lengths or 'none'}")
    return _Alongside(model, _called, lengths[0], [(True, other) for other in others])


class _Alongside(Bound):
    def __repr__(self) -> str:
        held = [self.model, *(rows for _, rows in self._others)]
        return f"alongside({', '.join(map(shown, held))})"


def _called(model: Model, batch: Batch) -> Tensor:
    logits: Tensor = model(*batch)
    return logits
