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

_CONSTANTS = {"NONE": None, "NEWFALSE": False, "NEWTRUE": True, "EMPTY_TUPLE": ()}
_LITERALS = {
    *("BININT", "BININT1", "BININT2", "LONG1"),
    *("BINSTRING", "SHORT_BINSTRING"),
    *("BINUNICODE", "SHORT_BINUNICODE", "BINUNICODE8"),
    *("BINBYTES", "SHORT_BINBYTES", "BINBYTES8"),
}
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
    stack: list[Any] = []
    marks: list[int] = []
    memo: dict[int, Any] = {}
    # Cached, as a small file may ask for the same long string again and again.
    encode = functools.cache(lambda text: text.encode("latin-1"))
    argument: Any

    def pop_from(start: int) -> list[Any]:
        items = stack[start:]
        del stack[start:]
        return items

    for opcode, argument, _ in pickletools.genops(data):
        match opcode.name:
            case "PROTO" | "FRAME" | "STOP":
                pass
            case name if name in _LITERALS:
                stack.append(argument)
            case name if name in _CONSTANTS:
                stack.append(_CONSTANTS[name])
            case "BYTEARRAY8":
                stack.append(bytes(argument))
            case "EMPTY_LIST":
                stack.append([])
            case "EMPTY_DICT":
                stack.append({})
            case "MARK":
                marks.append(len(stack))
            case "TUPLE":
                stack.append(tuple(pop_from(marks.pop())))
            case "TUPLE1" | "TUPLE2" | "TUPLE3" as name:
                stack.append(tuple(pop_from(-int(name[-1]))))
            case "APPEND" | "APPENDS" as name:
                items = pop_from(-1 if name == "APPEND" else marks.pop())
                stack[-1].extend(_plain(items))
            case "SETITEM" | "SETITEMS" as name:
                items = pop_from(-2 if name == "SETITEM" else marks.pop())
                if not all(isinstance(key, (str, bytes)) for key in items[::2]):
                    raise pickle.UnpicklingError("refused a key that is not a string")
                stack[-1].update(zip(items[::2], _plain(items[1::2]), strict=True))
            case "BINPUT" | "LONG_BINPUT":
                memo[argument] = stack[-1]
            case "MEMOIZE":
                memo[len(memo)] = stack[-1]
            case "BINGET" | "LONG_BINGET":
                stack.append(memo[argument])
            case "GLOBAL":
                stack.append(_found(argument))
            case "STACK_GLOBAL":
                module, qualname = pop_from(-2)
                stack.append(_found(" ".join((module, qualname))))
            case "REDUCE":
                callee, arguments = pop_from(-2)
                stack.append(_made(callee, arguments, encode))
            case "BUILD":
                instance, state = pop_from(-2)
                stack.append(_built(instance, state, encode))
            case "INST":
                raise pickle.UnpicklingError(f"refused global {_dotted(argument)}")
            case name:
                raise pickle.UnpicklingError(f"refused opcode {name}")
    (value,) = _plain([stack.pop()])
    return value


def _found(name: str) -> _Global:
    try:
        return _Global(name.replace("numpy._core.", "numpy.core."))
    except ValueError:
        raise pickle.UnpicklingError(f"refused global {_dotted(name)}") from None


def _plain(values: list[Any]) -> list[Any]:
    for value in values:
        if not isinstance(value, _PLAIN):
            raise pickle.UnpicklingError(f"refused {_described(value)} as a value")
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
