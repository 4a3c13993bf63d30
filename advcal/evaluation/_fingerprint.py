"""What a model or an attack is, in a few words that change when it does."""

import dataclasses
import functools
import inspect
import itertools
import logging
import os
import re
import sysconfig
from collections.abc import Mapping
from types import CodeType
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from advcal import _digest
from advcal._frozen import bare

_ATOMS = (bool, int, float, complex, str, bytes, torch.dtype, torch.device, torch.Size)
_INSTALLED = tuple(sysconfig.get_path(each) + os.sep for each in ("stdlib", "purelib", "platlib"))
_INTERNAL = vars(nn.Module()).keys()  # what every module has: parameters, hooks, the mode


def fingerprint(value: Any) -> str:
    """Describe a model by its weights and settings, a function by what it does and refers to.

    A function of this library or of another one that is installed is known by its name. Random
    generators are described as such, without their state.
    """
    return _Reader().described(value)


class _Reader:
    """Describes values, each function and object once."""

    def __init__(self) -> None:
        self._seen: dict[int, tuple[str, Any]] = {}  # by identity, with the value to keep it alive

    def described(self, value: Any) -> str:
        if value is None or isinstance(value, _ATOMS):
            return repr(value)
        if id(value) not in self._seen:
            self._seen[id(value)] = f"...{len(self._seen)}", value  # for what refers to itself
            self._seen[id(value)] = self._read(value), value
        return self._seen[id(value)][0]

    def _read(self, value: Any) -> str:
        if isinstance(value, (Tensor, np.ndarray)):
            return f"array {_digest.of(_digest.content(torch.as_tensor(value)))}"
        if isinstance(value, nn.Module):
            return self._module(bare(value))
        if isinstance(value, functools.partial):
            words = [self.described(each) for each in value.args]
            words += [
                f"{key}={self.described(each)}"
                for key, each in sorted(value.keywords.items())
                if key != "progress"  # which changes no result
            ]
            return f"{self.described(value.func)}({', '.join(words)})"
        if isinstance(value, Mapping):
            return f"{{{', '.join(f'{key!r}: {self.described(value[key])}' for key in value)}}}"
        if isinstance(value, (list, tuple)):
            return f"[{', '.join(self.described(each) for each in value)}]"
        if isinstance(value, (set, frozenset)):
            return f"{{{', '.join(sorted(self.described(each) for each in value))}}}"
        if inspect.ismethod(value):
            return f"{self.described(value.__self__)}.{value.__name__}"
        if inspect.isfunction(value):
            return self._function(value)
        if inspect.ismodule(value) or inspect.isclass(value) or inspect.isbuiltin(value):
            return str(value.__name__)
        return self._object(value)

    def _function(self, function: Any) -> str:
        name = f"{function.__module__}.{function.__qualname__}"
        installed = function.__code__.co_filename.startswith(_INSTALLED)
        installed |= str(function.__module__).partition(".")[0] == "advcal"
        if installed and "<" not in name:
            return name
        kept = [_content(cell) for cell in function.__closure__ or ()]
        kept += [function.__defaults__, function.__kwdefaults__]
        code = function.__code__
        if not installed:
            kept += [function.__globals__.get(word) for word in _names(code)]
        held = _digest.of([self.described(kept).encode()])
        return f"{name} {_digest.code(code, self.described)} of {held}"

    def _module(self, module: nn.Module) -> str:
        parts = [repr(module).encode()]
        for name, tensor in (*module.named_parameters(), *module.named_buffers()):
            parts.append(f"{name} {tuple(tensor.shape)}".encode())
            parts += _digest.content(tensor)
        for name, each in module.named_modules():
            own = {key: own for key, own in vars(each).items() if key not in _INTERNAL}
            parts.append(f"{name} {self.described(own)}".encode())
            parts.append(self.described(type(each).forward).encode())
        return f"{type(module).__qualname__} {_digest.of(parts)}"

    def _object(self, value: Any) -> str:
        """Describe an object by its attributes, else by what it prints without its address."""
        if isinstance(value, logging.Logger):  # which knows all others
            return f"logger {value.name}"
        own = getattr(value, "__dict__", None)
        if dataclasses.is_dataclass(value):  # which may have slots
            own = {each.name: getattr(value, each.name) for each in dataclasses.fields(value)}
        if own:
            return f"{type(value).__qualname__}{self.described(own)}"
        return re.sub(r" at 0x[0-9a-fA-F]+", "", repr(value))


def _names(code: CodeType) -> list[str]:
    """List the names that code and the code inside it refer to."""
    inner = (_names(each) for each in code.co_consts if inspect.iscode(each))
    return [*code.co_names, *itertools.chain(*inner)]


def _content(cell: Any) -> Any:
    try:
        return cell.cell_contents
    except ValueError:  # a name that is bound later
        return None
