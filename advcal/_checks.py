"""Every check of what users pass, worded `expected X, got Y`. NaN never passes."""

import contextlib
import math
import os
import sys
import warnings
from collections.abc import Callable, Iterable, Iterator
from contextvars import ContextVar
from functools import partial
from math import inf
from typing import Any, TypeAlias

import numpy as np
import torch
from torch import Tensor

from advcal import _sums

SUM_TOLERANCE = {torch.float16: 1e-2, torch.bfloat16: 2e-2}


def kind(value: object) -> str:
    """Describe a value in a few words for the end of an error message."""
    if isinstance(value, Tensor):
        return f"a tensor of {value.dtype} and shape {tuple(value.shape)}"
    if isinstance(value, np.ndarray):
        return f"an array of {value.dtype} and shape {value.shape}"
    return type(value).__name__


def is_integer(dtype: torch.dtype) -> bool:
    """Tell whether a dtype is of whole numbers; bool is not."""
    return not (dtype.is_floating_point or dtype.is_complex or dtype == torch.bool)


# --- arguments -------------------------------------------------------------------------------

Check: TypeAlias = Callable[[str, Any], object]

# What an argument of each name must be, in whatever function it stands: declared beside the check.
# What is narrower in one function than in the others is checked there.
_ARGUMENTS: dict[str, Check] = {}


def arguments(**values: Any) -> None:
    """Check arguments by what is declared of their names."""
    for name, value in values.items():
        _ARGUMENTS[name](name, value)


def declares(name: str) -> bool:
    """Tell whether a check is declared of a name."""
    return name in _ARGUMENTS


def _declare(names: str, check: Check) -> None:
    _ARGUMENTS.update(dict.fromkeys(names.split(), check))


def optional(check: Check) -> Check:
    """Let None pass a check."""
    return lambda name, value: None if value is None else check(name, value)


# --- numbers ---------------------------------------------------------------------------------


def number(
    name: str, value: Any, *, least: float = -inf, above: float = -inf, most: float = inf
) -> float:
    """Check a finite real number within `[least, most]` and strictly above `above`."""
    if isinstance(value, bool) or not isinstance(value, (int, float, np.integer, np.floating)):
        raise TypeError(f"expected {name} as a number, got {kind(value)}")
    if math.isfinite(value) and least <= value <= most and value > above:
        return float(value)
    limits = ((">", above), (">=", least), ("<=", most))
    told = " and ".join(f"{sign} {end:g}" for sign, end in limits if math.isfinite(end))
    raise ValueError(f"expected {name} {told or 'finite'}, got {value}")


def figure(name: str, value: Any) -> float:
    """Check a figure of a record: a finite number, or a tensor or an array of one."""
    one = isinstance(value, (Tensor, np.ndarray)) and value.ndim == 0
    return number(name, value.item() if one else value)


_declare("threshold", number)
_declare("alpha beta gamma kappa lam margin", partial(number, least=0))
_declare("l2_bias l2_off_diagonal", optional(partial(number, least=0)))
_declare("momentum overshoot penalty tol", partial(number, least=0))
_declare("rho", partial(number, least=0, most=1))
_declare("initial_c initial_eps sigma", partial(number, above=0))
_declare("delta", partial(number, above=0, most=0.5))
_declare("coverage initial_p tpr", partial(number, above=0, most=1))
_declare("level", partial(number, above=0, most=0.999999))
_declare("max_norm prior step_size", optional(partial(number, above=0)))
_declare("strength", optional(partial(number, least=0)))
_declare("bandwidth", optional(partial(number, least=2**-13)))


def count(name: str, value: Any, *, least: int = 1) -> int:
    """Check a whole number."""
    if isinstance(value, bool) or not isinstance(value, (int, np.integer)):
        raise TypeError(f"expected {name} as an int, got {kind(value)}")
    if value < least:
        raise ValueError(f"expected {name} >= {least}, got {value}")
    return int(value)


_declare("accumulate candidates n n_bins n_levels resamples restarts", count)
_declare("n_pilot search_steps size steps", count)
_declare("denominator every schedule_steps", optional(count))
_declare("digits", optional(partial(count, least=0)))
_declare("n_classes", partial(count, least=2))
_declare("levels", optional(partial(count, least=2)))
_declare("n_free n_targets", partial(count, least=0))


# --- words and other kinds -------------------------------------------------------------------


def choice(name: str, value: Any, options: Any) -> None:
    """Check that a value is one of a few words."""
    if not isinstance(value, str) or value not in options:
        known = ", ".join(repr(option) for option in options)
        raise ValueError(f"expected {name} to be one of {known}, got {value!r}")


_declare("binning", partial(choice, options=("uniform", "quantile")))
_declare("label", partial(choice, options=("true", "predicted")))
_declare("method", partial(choice, options=("gradient", "random_search")))
_declare("norm", partial(choice, options=("linf", "l2", "l1")))
_declare("reduction", partial(choice, options=("mean", "sum", "none")))
_STATISTICS = ("ece", "rmsce", "chi2", "mcs", "ks", "kuiper", "spiegelhalter")
_declare("statistic", partial(choice, options=_STATISTICS))


def of_type(what: str, *types: Any) -> Callable[[str, object], None]:
    """Make the check of a value of some types, in words `what`."""

    def check(name: str, value: object) -> None:
        if not isinstance(value, types):
            raise TypeError(f"expected {name} as {what}, got {kind(value)}")

    return check


function = of_type("a callable", Callable)
generator = of_type("a torch.Generator or None", torch.Generator, type(None))
sequence = of_type("a list or tuple", list, tuple)
several = of_type("several, in a list or the like", Iterable)
_declare("attack loss metric model objective reference", function)
_declare("backward forward map progress", optional(function))
_declare("generator", generator)
_declare("against figure", of_type("a str", str))
_declare("by title", optional(of_type("a str", str)))
_declare("all_reduce channels_last from_logits joint percent", of_type("True or False", bool))
_declare("random_start ranked stacked stop_early targeted votes", of_type("True or False", bool))


def _precision(name: str, value: object) -> None:
    """Check a floating dtype or None."""
    if value is not None and not (isinstance(value, torch.dtype) and value.is_floating_point):
        raise TypeError(f"expected {name} as a floating torch.dtype or None, got {value!r}")


def _device(name: str, value: Any) -> None:
    """Check what torch takes for a device."""
    try:
        torch.device(value)
    except (RuntimeError, TypeError) as error:
        raise TypeError(f"expected {name} as a torch.device, got {value!r}") from error


_declare("autocast", _precision)
_declare("device", optional(_device))


# --- paths -----------------------------------------------------------------------------------


def path(name: str, value: Any) -> None:
    """Check the path of a file to write, as far as its folder goes."""
    if not isinstance(value, (str, os.PathLike)):
        raise TypeError(f"expected {name} as the path of a file, got {kind(value)}")
    if not os.fspath(value) or os.path.isdir(value):
        raise ValueError(f"expected {name} as the path of a file, got {os.fspath(value)!r}")
    if not os.path.isdir(os.path.dirname(os.fspath(value)) or "."):
        raise ValueError(f"expected {name} in a folder that exists, got {os.fspath(value)!r}")


# --- tensors ---------------------------------------------------------------------------------


def recording() -> bool:
    """Tell whether torch.compile or a CUDA graph records what is done: no value can be read then.

    The one exception of all checks, besides `trusted`: kinds and shapes are checked as ever, values
    are not.
    """
    if torch.compiler.is_compiling() or _trusted.get():
        return True
    return torch.cuda.is_initialized() and torch.cuda.is_current_stream_capturing()


@contextlib.contextmanager
def trusted() -> Iterator[None]:
    """Read no values inside, where they are our own: reading makes the host wait for a device."""
    before = _trusted.set(True)
    try:
        yield
    finally:
        _trusted.reset(before)


_trusted = ContextVar("_trusted", default=False)


def read(*values: Tensor) -> list[float]:
    """Read several numbers, for which the host waits once if they are on one device."""
    devices = {value.device for value in values}
    if len(devices) != 1 or devices == {torch.device("cpu")}:
        return [value.item() for value in values]
    wide = _sums.widest(values[0].device)
    return torch.stack([value.to(wide) for value in values]).tolist()


def tensor(
    name: str, value: Any, *, integer: bool = False, given: Any = None, hint: str = ""
) -> Tensor:
    """Check a tensor of a floating dtype, or of an integer one.

    Args:
        name: What it is.
        value: The tensor.
        integer: Whether its numbers are to be whole.
        given: What the tensor was made from, for the message; the tensor if None.
        hint: The end of the message for another dtype.
    """
    if isinstance(value, Tensor):
        dense(name, value)
        if value.is_meta and not integer:
            raise ValueError(f"expected {name} with data, got a tensor on the device 'meta'")
        floating = value.is_floating_point()
        if is_integer(value.dtype) if integer else floating and value.dtype.itemsize > 1:
            return value
        wanted = f"of {'an integer' if integer else 'a floating'} dtype"
        if floating and not integer:  # eight bits, in which torch computes nothing
            hint = "; pass value.float()"
    else:
        wanted, hint = "as a torch.Tensor", ""
    found = kind(value if given is None else given)
    raise TypeError(f"expected {name} {wanted}, got {found}{hint}")


def like_inputs(inputs: Tensor, **given: Any) -> None:
    """Check floating tensors of the shape of inputs on their device, but for their values.

    A device would be waited for to read these.
    """
    for name, value in given.items():
        at = tensor(name, value).device
        if value.shape != inputs.shape or at != inputs.device:
            wanted = f"{tuple(inputs.shape)} on {inputs.device} like the inputs"
            raise ValueError(f"expected {name} of shape {wanted}, got {kind(value)} on {at}")


def dense(name: str, value: Tensor) -> None:
    """Check that a tensor has an entry for each place, in memory."""
    if value.layout != torch.strided or value.is_nested:
        found = "a nested one" if value.is_nested else f"one of {value.layout}"
        raise TypeError(f"expected {name} as a dense torch.Tensor, got {found}")


def plain(value: Tensor) -> Tensor:
    """Take off a subclass that marks a tensor and computes as any other, lest results are of it."""
    if type(value) is Tensor or type(value).__torch_dispatch__ is not Tensor.__torch_dispatch__:
        return value
    return value.as_subclass(Tensor)


def labels(
    value: Any, n: int, n_classes: int | None = None, device: Any = None, name: str = "labels"
) -> Tensor:
    """Check integer labels `(n,)` in `[0, n_classes)` and return them as int64."""
    tensor(name, value, integer=True)
    if value.shape != (n,) or n == 0:
        raise ValueError(f"expected {name} of shape ({n or 'n >= 1'},), got {kind(value)}")
    if device is not None and value.device != device:
        raise ValueError(f"expected {name} on {device} like the rest, got {value.device}")
    if value.is_meta:
        raise ValueError(f"expected {name} with data, got a tensor on the device 'meta'")
    whole: Tensor = plain(value if value.dtype == torch.int64 else value.to(torch.int64))
    if n_classes is not None:
        label_range(whole, n_classes, name)
    return whole


def label_range(value: Tensor, n_classes: int, name: str = "labels") -> None:
    """Check that int64 labels lie in `[0, n_classes)`."""
    if recording():
        return
    low, high = map(int, noted(value).get("ends") or read(*value.aminmax()))
    if low < 0 or high >= n_classes:
        worst = low if low < 0 else high
        raise ValueError(f"expected {name} from 0 to {n_classes - 1}, got {worst}")


def note(value: Tensor, **notes: Any) -> Tensor:
    """Note something of values, which holds until somebody writes to them.

    Noted are `ends`, between which they lie, so that no check waits for a device, and `true`, of
    labels that are the true ones, which an attack must lead away from.
    """
    value.notes = noted(value) | notes, _version(value)  # type: ignore[attr-defined]
    return value


def noted(value: Tensor) -> dict[str, Any]:
    """Return what was noted of values, if nobody wrote to them since."""
    notes, version = getattr(value, "notes", ({}, None))
    return notes if version in (None, _version(value)) else {}


def _version(value: Tensor) -> int | None:
    return None if recording() or value.is_inference() else value._version


INSTEAD = "pass targets=, the classes to reach"


def aim(value: Tensor, *, targeted: bool) -> None:
    """Refuse to lead to labels that came as the true ones, in a call that did not show it."""
    if targeted and noted(value).get("true"):
        raise leads_to(INSTEAD)


def leads_to(instead: str) -> ValueError:
    """Say that an attack leads to the true labels, and what to do instead."""
    return ValueError(
        "expected an attack that leads away from the labels, got one with targeted=True, which "
        f"leads to them and can only raise the accuracy; {instead}"
    )


def class_rows(name: str, value: Any, n: int | None = None, given: Any = None) -> None:
    """Check logits or probabilities `(n, classes)` of two classes or more.

    Args:
        name: What they are: `"logits"` or `"probs"`.
        value: The tensor.
        n: The number of rows; any but 0 if None.
        given: What the tensor was made from, for the message; the tensor if None.
    """
    tensor(name, value, given=given)
    shape = value.shape if value.ndim == 2 else (0, 0)
    if shape[0] == 0 or shape[1] < 2 or n not in (None, shape[0]):
        rows, found = "n >= 1" if n is None else n, kind(value if given is None else given)
        hint = _to_rows(name, value, array=isinstance(given, np.ndarray))
        raise ValueError(f"expected {name} of shape ({rows}, classes >= 2), got {found}{hint}")


def _to_rows(name: str, value: Tensor, *, array: bool) -> str:
    """Say how one column becomes two, and how dense outputs become rows."""
    if value.ndim == 1 or value.shape[1:] == (1,):
        two, last = "1 - p, p" if name == "probs" else "0 * p, p", ", p of shape (n,)"
        made = f"torch.stack([{two}], dim=1){'' if value.ndim == 1 else last}"
        model = ", or a model by attacks.two_columns(model)" if name == "logits" else ""
        return f"; pass p of the second of two classes as {made}{model}"
    if value.ndim < 3:
        return ""
    made = f"{name}.movedim(1, -1).flatten(0, -2) and labels.flatten()"
    if array:
        made = f"np.moveaxis({name}, 1, -1).reshape(-1, classes) and labels.ravel()"
    return f"; flatten dense ones: {made}"


def like_probabilities(value: Tensor) -> Tensor:
    """Tell which rows `(n, classes)` are not negative and sum to one, shape `(n,)`."""
    wide = _sums.wide(value.detach())
    tolerance = SUM_TOLERANCE.get(value.dtype, 1e-5)
    return ((wide.sum(dim=1) - 1).abs() <= tolerance) & (wide >= 0).all(dim=1)


def all_like_probabilities(rows: Tensor) -> Tensor:
    """Tell whether logits look like probabilities, all of them, but not like zeros and ones."""
    return like_probabilities(rows).all() & (rows != rows.round()).any()


def warn_of_probabilities(rows: Tensor) -> None:
    """Warn of what is passed as logits and looks like probabilities, but for zeros and ones."""
    if bool(all_like_probabilities(rows[:1000].detach())):
        warn("expected logits, got rows that are not negative and sum to one; pass probs.log()")


def warn(message: str) -> None:
    """Warn at the line that called into the package."""
    frame, level = sys._getframe(1), 3
    within = os.path.dirname(__file__), contextlib.__file__  # what exits our context managers
    while frame.f_back is not None and frame.f_back.f_code.co_filename.startswith(within):
        frame, level = frame.f_back, level + 1
    warnings.warn(message, stacklevel=level)


def differentiable(value: Tensor, of: str) -> None:
    """Check that a gradient can run back from logits to inputs, or from losses to what else."""
    if not value.requires_grad:
        name, hint = "losses", ""
        if of == "the inputs":
            name, hint = "logits", " attacks.square needs no gradient, attacks.through lends one"
        raise ValueError(
            f"expected {name} that depend on {of} by a gradient, got none; is there a detach, a "
            f"no_grad or a quantised layer on the way?{hint}"
        )


def losses(value: Any, n: int) -> Tensor:
    """Check that a loss gave one value per example."""
    if not isinstance(value, Tensor) or value.shape != (n,) or value.is_complex():
        raise ValueError(
            f"expected the loss to give one value per example, shape ({n},), got {kind(value)}; "
            "a torch loss does so with reduction='none'"
        )
    return value
