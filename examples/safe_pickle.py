"""Plain values and uint8 arrays from a pickle, executing nothing.

Read are ``None``, bools, ints, text, bytes, lists, dicts keyed by text or bytes, and uint8 arrays
in C or Fortran order, as Python 2 pickled them at protocol 2 and as Python 3 pickles them at
protocols 2 to 5 with NumPy 1 or 2. Python 2's strings become text (Latin-1), a bytearray bytes.

Anything else is refused. The opcodes are walked and not run: names are compared as strings and
never imported, calls and states are matched as patterns and never made.
"""

from __future__ import annotations

import enum
import functools
import pickle
import pickletools
from collections.abc import Callable
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

_PLAIN = (int, str, bytes, list, dict, np.ndarray, type(None))


class _Global(enum.Enum):
    """The only names that these pickles need, spelled as NumPy 1 wrote them."""

    BYTES = "__builtin__ bytes"
    ENCODE = "_codecs encode"
    NDARRAY = "numpy ndarray"
    DTYPE = "numpy dtype"
    RECONSTRUCT = "numpy.core.multiarray _reconstruct"
    FROMBUFFER = "numpy.core.numeric _frombuffer"


class _Made(enum.Enum):
    """Stand-ins for what is not yet a value, so that nothing is called."""

    EMPTY_ARRAY = "an unfinished array"
    UINT8 = "a dtype"


def loads(data: bytes) -> object:
    """Rebuild the plain values and uint8 arrays of a pickle; arrays may be read-only.

    Raises:
        pickle.UnpicklingError: the pickle is damaged or asks for anything but plain data.
    """
    try:
        return _walk(data)
    except (ValueError, LookupError, TypeError, AttributeError) as error:
        raise pickle.UnpicklingError(f"damaged pickle ({error})") from error


def _walk(data: bytes) -> object:
    walk = _Walk()
    for opcode, argument, _ in pickletools.genops(data):
        walk.take(opcode.name, argument)
    (value,) = _plain([walk.stack.pop()])
    return value


class _Walk:
    """What is on the stack of a pickle, and in its memo, after the opcodes so far."""

    def __init__(self) -> None:
        self.stack: list[Any] = []
        self.marks: list[int] = []
        self.memo: dict[int, Any] = {}
        # Cached, as a small file may ask for the same long string again and again.
        self.encode = functools.cache(lambda text: text.encode("latin-1"))

    def take(self, name: str, argument: Any) -> None:
        """Take the next opcode."""
        if name in _VALUES:
            self.stack.append(_VALUES[name](argument))
            return
        match name:
            case "PROTO" | "FRAME" | "STOP":
                pass
            case "MARK":
                self.marks.append(len(self.stack))
            case "TUPLE":
                self.stack.append(tuple(self._pop_from(self.marks.pop())))
            case "TUPLE1" | "TUPLE2" | "TUPLE3":
                self.stack.append(tuple(self._pop_from(-int(name[-1]))))
            case "APPEND" | "APPENDS":
                items = self._pop_from(-1 if name == "APPEND" else self.marks.pop())
                self.stack[-1].extend(_plain(items))
            case "SETITEM" | "SETITEMS":
                items = self._pop_from(-2 if name == "SETITEM" else self.marks.pop())
                self.stack[-1].update(zip(_keys(items[::2]), _plain(items[1::2]), strict=True))
            case "BINPUT" | "LONG_BINPUT":
                self.memo[argument] = self.stack[-1]
            case "MEMOIZE":
                self.memo[len(self.memo)] = self.stack[-1]
            case "BINGET" | "LONG_BINGET":
                self.stack.append(self.memo[argument])
            case "STACK_GLOBAL":
                self.stack.append(_found(" ".join(self._pop_pair())))
            case "REDUCE":
                self.stack.append(_made(*self._pop_pair(), self.encode))
            case "BUILD":
                self.stack.append(_built(*self._pop_pair(), self.encode))
            case "INST":
                raise pickle.UnpicklingError(f"refused global {_dotted(argument)}")
            case _:
                raise pickle.UnpicklingError(f"refused opcode {name}")

    def _pop_from(self, start: int) -> list[Any]:
        items = self.stack[start:]
        del self.stack[start:]
        return items

    def _pop_pair(self) -> tuple[Any, Any]:
        first, second = self._pop_from(-2)
        return first, second


def _found(name: str) -> _Global:
    try:
        return _Global(name.replace("numpy._core.", "numpy.core."))
    except ValueError:
        raise pickle.UnpicklingError(f"refused global {_dotted(name)}") from None


# What an opcode puts onto the stack if that follows from its argument alone.
_VALUES: dict[str, Callable[[Any], Any]] = {
    **dict.fromkeys(("BININT", "BININT1", "BININT2", "LONG1"), lambda number: number),
    **dict.fromkeys(("BINSTRING", "SHORT_BINSTRING"), lambda text: text),
    **dict.fromkeys(("BINUNICODE", "SHORT_BINUNICODE", "BINUNICODE8"), lambda text: text),
    **dict.fromkeys(("BINBYTES", "SHORT_BINBYTES", "BINBYTES8", "BYTEARRAY8"), bytes),
    "NONE": lambda _: None,
    "NEWFALSE": lambda _: False,
    "NEWTRUE": lambda _: True,
    "EMPTY_TUPLE": lambda _: (),
    "EMPTY_LIST": lambda _: [],
    "EMPTY_DICT": lambda _: {},
    "GLOBAL": _found,
}


def _plain(values: list[Any]) -> list[Any]:
    for value in values:
        if not isinstance(value, _PLAIN):
            raise pickle.UnpicklingError(f"refused {_described(value)} as a value")
    return values


def _keys(values: list[Any]) -> list[str | bytes]:
    if not all(isinstance(key, (str, bytes)) for key in values):
        raise pickle.UnpicklingError("refused a key that is not a string")
    return values


def _made(
    callee: object, arguments: object, encode: Callable[[str], bytes]
) -> _Made | bytes | NDArray[np.uint8]:
    match callee, arguments:
        case _Global.BYTES, ():
            return b""
        case _Global.ENCODE, (str(text), str("latin1")):
            return encode(text)
        case _Global.DTYPE, (str("u1"), int(0), int(1)):
            return _Made.UINT8
        case _Global.RECONSTRUCT, (_Global.NDARRAY, (int(0),), str("b") | bytes(b"b")):
            return _Made.EMPTY_ARRAY
        case _Global.FROMBUFFER, (bytes(pixels), _Made.UINT8, tuple(shape), "C" | "F" as order):
            return _array(pixels, shape, order)
    raise pickle.UnpicklingError(f"refused a call of {_described(callee)}")


def _built(
    instance: object, state: object, encode: Callable[[str], bytes]
) -> _Made | NDArray[np.uint8]:
    match instance, state:
        case _Made.UINT8, (int(3), str("|"), None, None, None, int(-1), int(-1), int(0)):
            return _Made.UINT8
        case _Made.EMPTY_ARRAY, (int(1), tuple(shape), _Made.UINT8, bool(fortran), bytes(pixels)):
            return _array(pixels, shape, "F" if fortran else "C")
        case _Made.EMPTY_ARRAY, (int(1), tuple(shape), _Made.UINT8, bool(fortran), str(pixels)):
            return _array(encode(pixels), shape, "F" if fortran else "C")
    raise pickle.UnpicklingError(f"refused a state of {_described(instance)}")


def _array(pixels: bytes, shape: tuple[Any, ...], order: Literal["C", "F"]) -> NDArray[np.uint8]:
    if not all(type(n) is int and n >= 0 for n in shape):
        raise pickle.UnpicklingError("refused a shape of anything but sizes")
    return np.frombuffer(pixels, np.uint8).reshape(shape, order=order)


def _described(thing: object) -> str:
    match thing:
        case _Global(value=name):
            return _dotted(name)
        case _Made(value=words):
            return words
    return type(thing).__name__


def _dotted(name: str) -> str:
    return name.replace(" ", ".")
