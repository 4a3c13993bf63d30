"""The shapes of the functions that advcal composes."""

from collections.abc import Callable, Iterable
from typing import Any, Protocol, TypeAlias, TypeVar

import numpy as np
import numpy.typing as npt
from torch import Tensor

Model: TypeAlias = Callable[[Tensor], Tensor]
"""Inputs `(n, ...)` to logits `(n, classes)`: an `nn.Module` or any other callable."""

Loss: TypeAlias = Callable[[Tensor, Tensor], Tensor]
"""Logits `(n, classes)` and targets to a loss."""

Batch: TypeAlias = tuple[Any, ...] | list[Any]
"""`(inputs, labels, *rest)`."""

Objective: TypeAlias = Callable[[Model, Batch], Tensor]
"""A model and a batch to a scalar loss."""

Array = TypeVar("Array", Tensor, npt.NDArray[Any])
"""A tensor or a NumPy array: what comes out is of the kind that went in."""

Number: TypeAlias = float | Tensor | np.floating[Any]

Progress: TypeAlias = Callable[[Iterable[Any]], Iterable[Any]]
"""A wrapper of an iterable that shows how far it has come, such as `tqdm.tqdm`."""


class Attack(Protocol):
    """`attack(model, inputs, labels) -> adversarial inputs` of the same shape, dtype and device."""

    def __call__(self, model: Model, inputs: Tensor, labels: Tensor, /) -> Tensor: ...
