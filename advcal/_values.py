"""Configured things are values: called like `functools.partial`, compared, pickled, printed."""

import re
from dataclasses import fields
from functools import partial
from inspect import Parameter, isroutine, signature
from typing import Any, cast

import numpy as np
import torch
from torch import Tensor


class Value:
    """What a frozen dataclass that is called has besides its fields.

    Derive with `@dataclass(frozen=True, slots=True, eq=False, repr=False)`: with slots a function
    that is a default does not become a method. One that takes `*arguments` has an `__init__` of its
    own, which sets its fields by `object.__setattr__`. Two are equal if they were made by equal
    calls, `partial`s in them included; a generator equals itself alone. Each prints as that call,
    without its defaults and without addresses, so the same in each process.
    """

    def __eq__(self, other: object) -> bool:
        return type(self) is type(other) and compared(self) == compared(other)

    def __hash__(self) -> int:
        return hash(compared(self))

    def __repr__(self) -> str:
        words: list[str] = []
        for name, each in signature(type(self)).parameters.items():
            value = getattr(self, name)
            if each.kind is Parameter.VAR_POSITIONAL:
                words += map(shown, value)
            elif compared(value) != compared(each.default):
                named = each.kind is Parameter.KEYWORD_ONLY
                words.append(f"{name}={shown(value)}" if named else shown(value))
        return f"{type(self).__name__}({', '.join(words)})"


def shown(value: object) -> str:
    """Print a value as the call that made it, without addresses."""
    if isinstance(value, partial):
        words = [shown(each) for each in (value.func, *value.args)]
        words += [f"{name}={shown(each)}" for name, each in value.keywords.items()]
        return f"partial({', '.join(words)})"
    if isroutine(value) or isinstance(value, type):
        return value.__qualname__
    if isinstance(value, torch.Generator):
        return f"torch.Generator({value.device.type!r})"
    return re.sub(r" at 0x[0-9a-f]+", "", repr(value))


def compared(value: Any) -> Any:
    """Return what stands for a value in comparisons."""
    if isinstance(value, Value):
        names = (field.name for field in fields(cast(Any, value)))
        return type(value), *(compared(getattr(value, name)) for name in names)
    if isinstance(value, partial):
        return partial, compared(value.func), compared(value.args), compared(value.keywords)
    if isinstance(value, dict):
        return dict, *sorted(((name, compared(each)) for name, each in value.items()), key=repr)
    if isinstance(value, (set, frozenset)):
        return frozenset, frozenset(map(compared, value))
    if isinstance(value, (tuple, list)):
        return type(value), *map(compared, value)
    if isinstance(value, (Tensor, np.ndarray)):
        return (
            str(value.dtype),
            value.shape,
            str(getattr(value, "device", None)),
            *value.flatten().tolist(),
        )
    return value
