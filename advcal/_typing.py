"""The shapes of the functions that advcal composes."""

from collections.abc import Callable, Iterable
from typing import Any, Literal, Protocol, TypeAlias, TypeVar

import numpy as np
import numpy.typing as npt
from torch import Tensor

Model: TypeAlias = Callable[[Tensor], Tensor]
"""Inputs `(n, ...)` to logits `(n, classes)`: an `nn.Module` or any other callable."""

Norm = Literal["linf", "l2", "l1"]

Loss: TypeAlias = Callable[[Tensor, Tensor], Tensor]
"""Logits `(n, classes)` and targets to a loss. An attack takes one value per example, and asks for
it with `reduction="none"` if the loss has that argument; an objective takes the loss as it is."""

Batch: TypeAlias = tuple[Any, ...] | list[Any]
"""`(inputs, labels, *rest)`."""

Array = TypeVar("Array", Tensor, npt.NDArray[Any])
"""A tensor or a NumPy array: what comes out is of the kind that went in."""

Number: TypeAlias = float | Tensor | np.floating[Any]

Progress: TypeAlias = Callable[[Iterable[Any]], Iterable[Any]]
"""A wrapper of an iterable that shows how far it has come, such as `tqdm.tqdm`."""


# Both take a model of any type, so that a function of yours may ask for an `nn.Module`; likewise a
# batch.
class Attack(Protocol):
    """`attack(model, inputs, labels) -> adversarial inputs` of the same shape, dtype and device."""

    def __call__(self, model: Any, inputs: Tensor, labels: Tensor, /) -> Tensor:
        """Attack a batch."""
        ...


class Objective(Protocol):
    """`objective(model, batch) -> loss`, a scalar."""

    def __call__(self, model: Any, batch: Any, /) -> Tensor:
        """Take the loss of a batch."""
        ...
