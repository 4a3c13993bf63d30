"""What a configured value prints as, and digests of what of it no print shows."""

import contextlib
import dis
import inspect
from collections.abc import Iterator
from functools import partial
from types import CodeType
from typing import Any

from torch import nn

from advcal import _digest
from advcal._values import Value, compared, shown

_Found = Iterator[tuple[str, str]]  # "code" or "values", and what is digested

_OWN = vars(nn.Module()).keys()  # what every module has: parameters, hooks, the mode
VALUES = " values"  # ends the name of what may differ between processes, such as a rank


def told(name: str, value: Any) -> dict[str, str]:
    """Print a value, and digest the code and the settings in users' functions, by their names.

    Settings are numbers, words, and what is configured by a call, in defaults and losses of torch.
    In closures whole numbers, words and None are not, which may be ranks or places. Nor are
    lists, tensors, and what a function binds anew: a run may move them.
    """
    held = [*_held(compared(value), [])]
    code, values = ([word for each, word in held if each == kind] for kind in ("code", "values"))
    found = {name: shown(value) + (f" (code {_digest.of([repr(code).encode()])})" if code else "")}
    return found | ({name + VALUES: _digest.of([repr(values).encode()])} if values else {})


def _held(value: Any, seen: list[Any]) -> _Found:
    """Yield code and settings in what `compared` returns, each function once."""
    if isinstance(value, tuple):
        for each in value:
            yield from _held(each, seen)
    elif isinstance(value, nn.Module):
        yield from _of_module(value, seen)
    elif not isinstance(value, type):
        function = getattr(value, "__func__", value)
        if callable(function) and not inspect.isfunction(function):
            function = type(function).__call__
        if inspect.isfunction(function) and not any(each is function for each in seen):
            seen.append(function)
            yield from _of_function(function, seen)


def _of_function(function: Any, seen: list[Any]) -> _Found:
    if str(function.__module__).split(".")[0] in ("advcal", "torch"):
        return
    yield "code", _digest.code(function.__code__)
    kept = function.__kwdefaults__ or {}
    for each in (function.__defaults__, *kept.values()):
        yield from _setting(each, seen)
    for each in _closed_over(function):
        if not isinstance(each, (int, str, type(None))):
            yield from _setting(each, seen)


def _closed_over(function: Any) -> Iterator[Any]:
    bound = _bound(function.__code__)
    cells = zip(function.__code__.co_freevars, function.__closure__ or (), strict=True)
    for name, cell in cells:
        if name not in bound:
            with contextlib.suppress(ValueError):  # it has nothing in it yet
                yield cell.cell_contents


def _bound(code: CodeType) -> set[str]:
    """Name what a function binds anew of what is around it, as a counter."""
    found = {each.argval for each in dis.get_instructions(code) if each.opname == "STORE_DEREF"}
    return found.union(*(_bound(each) for each in code.co_consts if isinstance(each, CodeType)))


def _setting(value: Any, seen: list[Any]) -> _Found:
    if isinstance(value, tuple):
        for each in value:
            yield from _setting(each, seen)
    elif isinstance(value, (bool, int, float, str, type(None))):
        yield "values", repr(value)
    elif isinstance(value, (partial, Value)) or inspect.isroutine(value):
        yield "values", shown(value)
        yield from _held(compared(value), seen)
    elif isinstance(value, nn.Module):
        yield from _of_module(value, seen)


def _of_module(module: nn.Module, seen: list[Any]) -> _Found:
    """Yield the settings of a module of torch, such as a loss, which do not all print."""
    if type(module).__module__.split(".")[0] != "torch":
        return
    for name, each in sorted(vars(module).items()):
        if name not in _OWN:
            yield from _setting(each, seen)
    if next(module.parameters(), None) is None:
        for _, tensor in module.named_buffers():
            yield "values", _digest.of(_digest.content(tensor))
