"""What a model or an attack is, in a few words that change when it does."""

from __future__ import annotations

import functools
import hashlib
import inspect
from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn


def fingerprint(value: Any) -> str:
    """Describe a model by its weights and a function by its name and settings.

    Random generators are described as such, without their state.
    """
    return _described(value, ())


def _described(value: Any, above: tuple[int, ...]) -> str:
    if value is None or isinstance(value, (bool, int, float, complex, str, bytes, torch.dtype)):
        return repr(value)
    if id(value) in above:  # a function that knows itself
        return "..."
    above = (*above, id(value))
    if isinstance(value, (Tensor, np.ndarray)):
        return f"array {_digest(_bytes(torch.as_tensor(value)))}"
    if isinstance(value, nn.Module):
        return _module(value)
    if isinstance(value, functools.partial):
        words = [_described(each, above) for each in value.args]
        words += [
            f"{key}={_described(value.keywords[key], above)}" for key in sorted(value.keywords)
        ]
        return f"{_described(value.func, above)}({', '.join(words)})"
    if isinstance(value, Mapping):
        return f"{{{', '.join(f'{key!r}: {_described(value[key], above)}' for key in value)}}}"
    if isinstance(value, (list, tuple)):
        return f"[{', '.join(_described(each, above) for each in value)}]"
    if isinstance(value, (set, frozenset)):
        return f"{{{', '.join(sorted(_described(each, above) for each in value))}}}"
    if inspect.ismethod(value):
        return f"{_described(value.__self__, above)}.{value.__name__}"
    if inspect.isfunction(value):
        return _function(value, above)
    own = getattr(value, "__dict__", None) if callable(value) else None
    name = str(getattr(value, "__qualname__", type(value).__qualname__))
    return f"{name}{_described(own, above)}" if own and not inspect.isclass(value) else name


def _function(function: Any, above: tuple[int, ...]) -> str:
    """Name a function; of a nested one or a lambda, which has no name of its own, tell the code."""
    name = f"{function.__module__}.{function.__qualname__}"
    if "<" not in name:
        return name
    code = function.__code__
    written = [code.co_code, *(name.encode() for name in code.co_names)]
    for constant in code.co_consts:
        known = constant.co_code if inspect.iscode(constant) else _described(constant, ()).encode()
        written.append(known)
    kept = [cell.cell_contents for cell in function.__closure__ or ()]
    kept += [function.__defaults__, function.__kwdefaults__]
    kept += [function.__globals__.get(name) for name in code.co_names]
    return f"{name} {_digest(written)} of {_described(kept, above)}"


def _module(module: nn.Module) -> str:
    parts = [repr(module).encode()]
    for name, tensor in module.state_dict().items():
        parts.append(f"{name} {tuple(tensor.shape)}".encode())
        parts += _bytes(tensor)
    return f"{type(module).__qualname__} {_digest(parts)}"


def _bytes(tensor: Tensor) -> list[bytes]:
    flat = tensor.detach().cpu().contiguous().flatten()
    return [str(tensor.dtype).encode(), flat.view(torch.uint8).numpy().tobytes()]


def _digest(parts: list[bytes]) -> str:
    digest = hashlib.sha256()
    for part in parts:
        digest.update(part)
    return digest.hexdigest()[:16]
