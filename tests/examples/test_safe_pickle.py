"""Plain values and arrays survive any protocol; hostile pickles run nothing and are named."""

import codecs
import contextlib
import os
import pickle
import pickletools
import re
import subprocess

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from safe_pickle import loads

PROTOCOLS = (2, 3, 4, 5)
UINT8 = np.dtype("u1")
RECONSTRUCT = np.empty(0).__reduce__()[0]
FROMBUFFER = np.zeros(1, np.uint8).__reduce_ex__(5)[0]

every_protocol = pytest.mark.parametrize("protocol", PROTOCOLS)
plain_values = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**80), 2**80) | st.text() | st.binary(),
    lambda of: st.lists(of) | st.dictionaries(st.text() | st.binary(), of),
    max_leaves=8,
)


def spelled(content, core):
    """Write NumPy's private module as another version of NumPy does."""

    def other(match):
        module = b"numpy." + core + match[2]
        return (b"c" if match[1] == b"c" else b"\x8c" + bytes([len(module)])) + module

    pattern = rb"(c|\x8c.)numpy\._?core(\.multiarray|\.numeric)"
    return pickletools.optimize(re.sub(pattern, other, content, flags=re.DOTALL))


# --- What is read ---


@given(plain_values, st.sampled_from(PROTOCOLS))
def test_plain_values_survive_with_their_types(value, protocol):
    read = loads(pickle.dumps(value, protocol))
    assert read == value
    assert repr(read) == repr(value)


@every_protocol
@pytest.mark.parametrize("length", [0, 1, 255, 256, 70_000])
def test_strings_of_every_length_survive(protocol, length):
    value = ["é" * length, b"\xe9" * length, "é" * length]
    assert loads(pickle.dumps(value, protocol)) == value


@every_protocol
@pytest.mark.parametrize("core", [b"core", b"_core"])
@pytest.mark.parametrize("shape", [(2, 3072), (0, 3072), (1, 1), (5,), (2, 3, 4), ()])
@pytest.mark.parametrize("layout", ["C", "F", "strided", "read-only"])
def test_arrays_survive_under_either_name(protocol, core, shape, layout):
    array = np.random.default_rng(0).integers(0, 256, shape, dtype=np.uint8)
    if layout == "strided":
        array = np.repeat(array, 2, axis=-1)[..., ::2] if shape else array
    array = np.asarray(array, order="F" if layout == "F" else None)
    array.flags.writeable = layout != "read-only"
    read = loads(spelled(pickle.dumps({"a": array, "b": [b"b", "b"]}, protocol), core))
    assert read["b"] == [b"b", "b"]
    assert read["a"].dtype == np.uint8
    np.testing.assert_array_equal(read["a"], array, strict=True)


def test_both_spellings_are_different_files():
    content = pickle.dumps(np.zeros(3, np.uint8), 2)
    assert spelled(content, b"core") != spelled(content, b"_core")


@every_protocol
def test_several_arrays_share_their_dtype(protocol):
    arrays = [np.full((2, 2), k, np.uint8) for k in range(3)]
    np.testing.assert_array_equal(loads(pickle.dumps(arrays, protocol)), arrays)


def test_a_long_string_is_encoded_once():
    once = b"c_codecs\nencode\nq\x00X\x10\x27\x00\x00" + b"x" * 10_000 + b"q\x01X\x06\x00\x00\x00"
    content = b"\x80\x02](" + once + b"latin1q\x02\x86R" + b"h\x00h\x01h\x02\x86R" * 500 + b"e."
    read = loads(content)
    assert read == pickle.loads(content) == [b"x" * 10_000] * 501
    assert len({id(value) for value in read}) == 1


# --- Hostile pickles: those with a canary would touch it if they ran ---


class Call:
    """Pickles to a call of any function, and to a state."""

    def __init__(self, function, *arguments, state=None):
        self.call = function, arguments, state

    def __reduce__(self):
        return self.call


def command(canary):
    return f"touch '{canary}'"


def touch(canary):
    return Call(os.system, command(canary))


def unfinished(pixels, shape, fortran=False):
    state = (1, shape, UINT8, fortran, pixels)
    return Call(RECONSTRUCT, np.ndarray, (0,), b"b", state=state)


SYSTEM = rf"refused global {os.system.__module__}\.system"
BUILTIN = r"refused global (__builtin__|builtins)\."
RUNNING = {
    "alone": (touch, SYSTEM),
    "in a list": (lambda c: [1, touch(c)], SYSTEM),
    "as a value": (lambda c: {"data": touch(c)}, SYSTEM),
    "before the data": (lambda c: {"a": touch(c), "data": np.zeros(2, np.uint8)}, SYSTEM),
    "subprocess": (
        lambda c: Call(subprocess.getoutput, command(c)),
        r"(subprocess|commands)\.getoutput",
    ),
    "eval": (lambda c: Call(eval, f"open({str(c)!r}, 'w').close()"), BUILTIN + "eval"),
    "exec": (lambda c: Call(exec, f"open({str(c)!r}, 'w').close()"), BUILTIN + "exec"),
    "mkdir": (lambda c: Call(os.mkdir, str(c)), r"refused global \w+\.mkdir"),
    "object array": (lambda c: np.array([touch(c), 1]), r"refused a call of numpy\.dtype"),
    "as text to encode": (lambda c: Call(codecs.encode, touch(c), "latin1"), SYSTEM),
    "as an encoding": (lambda c: Call(codecs.encode, "x", touch(c)), SYSTEM),
    "as pixels of a buffer": (lambda c: Call(FROMBUFFER, touch(c), UINT8, (1,), "C"), SYSTEM),
    "as a subtype": (lambda c: Call(RECONSTRUCT, touch(c), (0,), b"b"), SYSTEM),
    "as a dtype": (lambda c: Call(np.dtype, touch(c), False, True), SYSTEM),
    "as a state": (lambda c: Call(np.dtype, "u1", False, True, state=touch(c)), SYSTEM),
    "as pixels of a state": (lambda c: unfinished(touch(c), (1,)), SYSTEM),
    "as a shape": (lambda c: unfinished(b"x", touch(c)), SYSTEM),
}
REFUSED = {
    "another encoding": (Call(codecs.encode, "x", "rot13"), r"call of _codecs\.encode"),
    "an encoding's alias": (Call(codecs.encode, "x", "latin-1"), r"call of _codecs\.encode"),
    "no encoding": (Call(codecs.encode, "x"), r"call of _codecs\.encode"),
    "error handling": (Call(codecs.encode, "x", "latin1", "x"), r"call of _codecs\.encode"),
    "number to encode": (Call(codecs.encode, 1, "latin1"), r"call of _codecs\.encode"),
    "decoding": (Call(codecs.decode, b"x", "latin1"), r"global _codecs\.decode"),
    "many zero bytes": (
        Call(bytes, 10**15),
        r"call of __builtin__\.bytes|global builtins\.bytes",
    ),
    "object dtype": (Call(np.dtype, "O", False, True), r"call of numpy\.dtype"),
    "dtype with fields": (np.dtype([("a", "u1")]), r"call of numpy\.dtype"),
    "dtype of two bytes": (np.zeros(2, "u2"), r"call of numpy\.dtype"),
    "dtype given as a list": (Call(np.dtype, ["u1"], False, True), r"call of numpy\.dtype"),
    "state of a dtype": (Call(np.dtype, "u1", False, True, state=(3, "|")), "state of a dtype"),
    "call of ndarray": (Call(np.ndarray, (2**50,)), r"call of numpy\.ndarray"),
    "matrix": (Call(RECONSTRUCT, np.matrix, (0,), b"b"), r"global numpy\.matrix"),
    "size": (Call(RECONSTRUCT, np.ndarray, (2**50,), b"b"), "multiarray._reconstruct"),
    "kind": (Call(RECONSTRUCT, np.ndarray, (0,), b"O"), "multiarray._reconstruct"),
    "order": (Call(FROMBUFFER, b"xy", UINT8, (2,), "K"), "numeric._frombuffer"),
    "axes": (Call(FROMBUFFER, b"xy", UINT8, (2,), "C", (0,)), "numeric._frombuffer"),
    "text for pixels": (Call(FROMBUFFER, "xy", UINT8, (2,), "C"), "numeric._frombuffer"),
    "name for dtype": (Call(FROMBUFFER, b"xy", "O", (2,), "C"), "numeric._frombuffer"),
    "pixels in a list": (unfinished([b"x"], (1,)), "state of an unfinished array"),
    "number as order": (unfinished(b"x", (1,), 1), "state of an unfinished array"),
    "list as shape": (unfinished(b"x", [1]), "state of an unfinished array"),
    "NumPy scalar": (np.int64(1), r"global numpy\._?core\.multiarray\.scalar"),
    "float": (1.0, "opcode BINFLOAT"),
    "set": ({1}, r"opcode EMPTY_SET|global (__builtin__|builtins)\.set"),
    "tuple": ((1, 2), "tuple as a value"),
    "name": (np.ndarray, r"numpy\.ndarray as a value"),
    "dtype": (UINT8, "a dtype as a value"),
    "numeric key": ({1: 2}, "a key that is not a string"),
    "tuple key": ({(1, 2): 2}, "a key that is not a string"),
}


@every_protocol
@pytest.mark.parametrize("attempt", RUNNING)
def test_hostile_pickles_are_named_and_run_nothing(protocol, attempt, tmp_path):
    hostile, message = RUNNING[attempt]
    canary = tmp_path / "canary"
    with pytest.raises(pickle.UnpicklingError, match=message):
        loads(pickle.dumps(hostile(canary), protocol))
    assert not canary.exists()
    with contextlib.suppress(Exception):
        pickle.loads(pickle.dumps(hostile(canary), protocol))
    assert canary.exists(), "the attempt is harmless and proves nothing"


@every_protocol
@pytest.mark.parametrize("attempt", REFUSED)
def test_odd_arguments_of_admitted_names_are_refused(protocol, attempt):
    value, message = REFUSED[attempt]
    with pytest.raises(pickle.UnpicklingError, match=f"refused .*({message})"):
        loads(pickle.dumps([value], protocol))


@every_protocol
@pytest.mark.parametrize(
    "shape",
    [
        *((-1,), (-1, 2), (-2, -1), (1,), (3,), (2, 2), (2**50,), (2**80,), (0,), (0, 2**80), ()),
        *((True, 2), ("2",), (b"2",), (None,), ((2,),), ([2],), (UINT8,), (np.ndarray,)),
        *((2,) * 100, (1,) * 100 + (2,), (2**32, 2**32), (0, -1)),
    ],
)
def test_a_shape_must_fit_its_pixels(protocol, shape):
    for value in (unfinished(b"xy", shape), Call(FROMBUFFER, b"xy", UINT8, shape, "C")):
        with pytest.raises(pickle.UnpicklingError, match=r"damaged|refused a shape"):
            loads(pickle.dumps(value, protocol))


def short(text):
    return b"\x8c" + bytes([len(text)]) + text.encode()


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (short("os") + short("system") + b"\x93", r"refused global os\.system"),
        (short("numpy") + short("f2py.os.system") + b"\x93", r"refused global numpy\.f2py\.os"),
        (short("numpy.f2py.os") + short("system") + b"\x93", r"refused global numpy\.f2py\.os"),
        (
            short("numpy._core.multiarray") + short("fromfile") + b"\x93",
            "refused global .*fromfile",
        ),
        (short("numpy._core._core.multiarray") + short("_reconstruct") + b"\x93", "refused global"),
        (short("numpy ndarray") + short("") + b"\x93", "refused global"),
        (short("") + short("numpy ndarray") + b"\x93", "refused global"),
        (short("numpy ndarray") + b"\x93", "damaged"),
        (b"C\x05numpy" + short("ndarray") + b"\x93", "damaged"),
        (short("numpy") + b"]\x93", "damaged"),
        (short("numpy") + short("ndarray") + b"\x93)\x81", "refused opcode NEWOBJ"),
        (short("numpy") + short("ndarray") + b"\x93)}\x92", "refused opcode NEWOBJ_EX"),
        (b"\x97", "refused opcode NEXT_BUFFER"),
        (b"]\x94K\x01\x98", "refused opcode READONLY_BUFFER"),
        (b"(l", "refused opcode LIST"),
        (b"cos\nsystem\n", r"refused global os\.system"),
        (b"(ios\nsystem\n", r"refused global os\.system"),
        (b"B\xff\xff\xff\x7fx", "damaged"),
        (b"\x8e" + b"\xff" * 7 + b"\x7fx", "damaged"),
        (b"\x96" + b"\xff" * 7 + b"\x7fx", "damaged"),
        (b"\x96" + b"\xff" * 8 + b"x", "damaged"),
        (b"r\xff\xff\xff\xff", "damaged"),
    ],
)
def test_opcodes_that_no_data_set_needs_are_refused(content, message):
    with pytest.raises(pickle.UnpicklingError, match=message):
        loads(b"\x80\x05" + content + b".")
