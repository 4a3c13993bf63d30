"""What a model or an attack is, in a few words that change when it does."""

import dataclasses
import functools
import inspect
import io
import itertools
import logging
import os
import re
import sysconfig
import zipfile
from collections.abc import Mapping
from types import CodeType, ModuleType
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from advcal import _digest
from advcal._frozen import bare

_ATOMS = (bool, int, float, complex, str, bytes, torch.dtype, torch.device, torch.Size)
_INSTALLED = tuple(sysconfig.get_path(each) + os.sep for each in ("stdlib", "purelib", "platlib"))
_MANGLED = re.compile(rb"[./]?___torch_mangle_\d+")  # of classes of the same name
_INTERNAL = vars(nn.Module()).keys()  # what every module has: parameters, hooks, the mode


def fingerprint(value: Any) -> str:
    """Describe a model by its weights and settings, a function by what it does and refers to.

    An object is described by its attributes and methods, a module by those that `forward` leads to.
    What is of this library or of another one that is installed is known by its name. Random
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
            array = value if isinstance(value, Tensor) else torch.as_tensor(value, device="cpu")
            return f"array {_digest.of(_digest.content(array))}"
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
            name, kind = value.__name__, type(value.__self__)
            return f"{self.described(value.__self__)}.{name}{self._methods(kind, name)}"
        if inspect.isfunction(value):
            return self._function(value)
        if inspect.isclass(value):
            return f"{value.__name__}{self._methods(value, init=True)}"
        if inspect.ismodule(value) or inspect.isbuiltin(value):
            return str(value.__name__)
        return self._object(value)

    def _function(self, function: Any) -> str:
        name = f"{function.__module__}.{function.__qualname__}"
        installed, inner = _installed(function), inspect.unwrap(function)
        if installed and not _installed(inner):  # a decorator, such as torch.no_grad
            return f"{name} around {self.described(inner)}"
        if installed and "<" not in name:
            return name
        kept = [_content(cell) for cell in function.__closure__ or ()]
        kept += [function.__defaults__, function.__kwdefaults__]
        code = function.__code__
        if not installed:
            words = _names(code)
            kept += [function.__globals__.get(word) for word in words]
            modules = [each for each in kept if _is_own(each)]
            kept += [vars(module).get(word) for module in modules for word in words]
        held = _digest.of([self.described(kept).encode()])
        return f"{name} {_digest.code(code, self.described)} of {held}"

    def _module(self, module: nn.Module) -> str:
        parts = [repr(module).encode()]
        for name, tensor in (*module.named_parameters(), *module.named_buffers()):
            parts.append(f"{name} {tuple(tensor.shape)}".encode())
            parts += _digest.content(tensor)
        scripts: list[str] = []  # whose parts are in them
        for name, each in module.named_modules():
            if any(name.startswith(within) for within in scripts):
                continue
            if isinstance(each, torch.jit.ScriptModule):
                scripts.append(f"{name}." if name else "")
                parts += [name.encode(), *_saved(each)]
                continue
            own = {key: own for key, own in vars(each).items() if key not in _INTERNAL}
            parts.append(f"{name} {self.described(own)}".encode())
            parts.append(self.described(type(each).forward).encode())
            parts.append(self._methods(type(each), "forward", "__call__").encode())
        return f"{type(module).__qualname__} {_digest.of(parts)}"

    def _object(self, value: Any) -> str:
        """Describe an object by its attributes, else by what it prints without its address."""
        if isinstance(value, logging.Logger):  # which knows all others
            return f"logger {value.name}"
        own = getattr(value, "__dict__", None)
        if dataclasses.is_dataclass(value):  # which may have slots
            own = {each.name: getattr(value, each.name) for each in dataclasses.fields(value)}
        does = self._methods(type(value))
        if own:
            return f"{type(value).__qualname__}{self.described(own)}{does}"
        return re.sub(r" at 0x[0-9a-fA-F]+", "", repr(value)) + does

    def _methods(self, kind: type, *first: str, init: bool = False) -> str:
        """Describe what a class of yours does: all methods, or the first and those that they name.

        `forward` of the class itself is known already. Of an installed class there is nothing.
        """
        methods: dict[str, list[Any]] = {}
        for parent in kind.__mro__:
            for name, each in vars(parent).items():
                function = _function_of(each)
                if function and not _made(function) and (init or name != "__init__"):
                    methods.setdefault(name, []).append(function)
        names, own = list(first or methods), {}
        while names:
            name = names.pop()
            if name in methods and name not in own:
                own[name] = methods[name]
                for each in own[name] if first else []:
                    names += _names(inspect.unwrap(each).__code__)
        known = getattr(kind, "forward", None) if first else None
        told = {name: [each for each in own[name] if each is not known] for name in sorted(own)}
        return self.described(told) if any(told.values()) else ""


def _saved(script: Any) -> list[bytes]:
    """Return what a TorchScript module is saved as, but for names that depend on other modules."""
    with zipfile.ZipFile(io.BytesIO(script.save_to_buffer())) as saved:
        read = {name: saved.read(name) for name in saved.namelist()}
    told = ("debug_pkl", "serialization_id")  # places in files, and a random number
    kept = sorted(
        (_MANGLED.sub(b"", name.encode()), _MANGLED.sub(b"", content))
        for name, content in read.items()
        if not name.endswith(told)
    )
    return [part for pair in kept for part in pair]


def _function_of(value: Any) -> Any:
    """Return the function of a method, a property and so on; None if it is not yours."""
    for inside in ("__func__", "fget", "func"):
        value = getattr(value, inside, value)
    return value if inspect.isfunction(value) and not _installed(inspect.unwrap(value)) else None


def _made(function: Any) -> bool:
    """Tell whether `dataclass` made a method."""
    name, file = str(function.__name__), inspect.unwrap(function).__code__.co_filename
    return name.startswith("__") and name != "__call__" and file == "<string>"


def _installed(function: Any) -> bool:
    """Tell whether a function is of this library or of another one that is installed."""
    if not inspect.isfunction(function):
        return True
    ours = str(function.__module__).partition(".")[0] == "advcal"
    return ours or str(function.__code__.co_filename).startswith(_INSTALLED)


def _is_own(value: object) -> bool:
    """Tell whether a value is a module of yours."""
    if not isinstance(value, ModuleType) or value.__name__.partition(".")[0] == "advcal":
        return False
    return not (getattr(value, "__file__", None) or _INSTALLED[0]).startswith(_INSTALLED)


def _names(code: CodeType) -> list[str]:
    """List the names that code and the code inside it refer to."""
    inner = (_names(each) for each in code.co_consts if inspect.iscode(each))
    return [*code.co_names, *itertools.chain(*inner)]


def _content(cell: Any) -> Any:
    try:
        return cell.cell_contents
    except ValueError:  # a name that is bound later
        return None
