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
from typing import Any, TypeAlias, cast

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
_declare("denominator every", optional(count))
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
        if value.is_meta and not integer:
            raise ValueError(f"expected {name} with data, got a tensor on the device 'meta'")
        if is_integer(value.dtype) if integer else value.is_floating_point():
            return value
        wanted = f"of {'an integer' if integer else 'a floating'} dtype"
    else:
        wanted, hint = "as a torch.Tensor", ""
    found = kind(value if given is None else given)
    raise TypeError(f"expected {name} {wanted}, got {found}{hint}")


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
    whole: Tensor = value if value.dtype == torch.int64 else value.to(torch.int64)
    if n_classes is not None:
        label_range(whole, n_classes, name)
    return whole


def label_range(value: Tensor, n_classes: int, name: str = "labels") -> None:
    """Check that int64 labels lie in `[0, n_classes)`."""
    if recording():
        return
    low, high = map(int, ends_of(value) or read(*value.aminmax()))
    if low < 0 or high >= n_classes:
        worst = low if low < 0 else high
        raise ValueError(f"expected {name} from 0 to {n_classes - 1}, got {worst}")


def known(value: Tensor, low: float, high: float) -> Tensor:
    """Note of values that they lie in `[low, high]`, so that no check waits for a device."""
    written = None if recording() or value.is_inference() else value._version
    value.ends = low, high, written  # type: ignore[attr-defined]
    return value


def ends_of(value: Tensor) -> tuple[float, float] | None:
    """Return between what values lie, if that was noted and nobody wrote to them since."""
    *ends, written = getattr(value, "ends", (0.0, 0.0, -1))
    old = written is not None and (value.is_inference() or written != value._version)
    return None if old else (ends[0], ends[1])


def true_labels(value: Tensor) -> Tensor:
    """Note of labels that they are the true ones, which an attack must lead away from."""
    value.true = value._version  # type: ignore[attr-defined]
    return value


def are_true(value: Tensor) -> bool:
    """Tell whether that was noted of labels and nobody wrote to them since."""
    written = getattr(value, "true", None)
    return written is not None and written == value._version


INSTEAD = "pass targets=, the classes to reach"


def aim(value: Tensor, *, targeted: bool) -> None:
    """Refuse to lead to labels that came as the true ones, in a call that did not show it."""
    if targeted and are_true(value):
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


def with_softmax(value: Tensor) -> Tensor:
    """Check that logits have a softmax, which takes a finite highest one in each row."""
    highest = value.detach().amax(dim=1)
    if not bool(highest.isfinite().all()):
        highest_logits(highest)
    return value


def highest_logits(value: Tensor) -> None:
    """Check the highest logit of each example `(n,)`, which is NaN if one of the logits is."""
    for bad, wanted in (
        (value.isnan(), "without NaN, got NaN"),
        (~value.isfinite(), "of finite maximum, got {}"),
    ):
        if bad.any():
            first = int(bad.nonzero()[0])
            raise ValueError(
                f"expected logits {wanted.format(float(value[first]))} at example {first} of the "
                f"{len(value)} that the model was called with"
            )


def answer(value: Any) -> Tensor:
    """Check that a model returned a floating tensor."""
    if not isinstance(value, Tensor):
        hint = ""
        if isinstance(value, (tuple, list)) and value and isinstance(value[0], Tensor):
            hint = "; pass lambda x: model(x)[0] if they come first"
        elif isinstance(value, dict) or hasattr(value, "logits"):
            said = f"[{next(iter(value), 'logits')!r}]" if isinstance(value, dict) else ".logits"
            hint = f"; pass lambda x: model(x){said}"
        raise TypeError(f"expected the model to return a tensor of logits, got {kind(value)}{hint}")
    return tensor("logits", value)


def logits(value: Any, n: int) -> Tensor:
    """Check that a model returned logits `(n, classes)`."""
    checked = answer(value)
    class_rows("logits", checked, n)
    return checked


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


def differentiable(name: str, value: Tensor, of: str) -> None:
    """Check that a gradient can run back from a value."""
    if not value.requires_grad:
        other = (
            " attacks.square needs no gradient, attacks.through lends one"
            if of == "the inputs"
            else ""
        )
        raise ValueError(
            f"expected {name} that depend on {of} by a gradient, got none; is there a detach, a "
            f"no_grad or a quantised layer on the way?{other if of == 'the inputs' else ''}"
        )


def losses(value: Any, n: int) -> Tensor:
    """Check that a loss gave one value per example."""
    if not isinstance(value, Tensor) or value.shape != (n,) or value.is_complex():
        raise ValueError(
            f"expected the loss to give one value per example, shape ({n},), got {kind(value)}; "
            "a torch loss does so with reduction='none'"
        )
    return value


def no_start(values: Tensor, logits: Tensor) -> Tensor:
    """Tell which losses of an attack at its start are NaN or -inf, from where there is no way on.

    Not those that come of the model, which has no softmax there.
    """
    bad = values.isnan() | values.isneginf()
    return bad & logits.amax(dim=1).isfinite()


def at_start(values: Tensor, bad: Tensor) -> None:
    """Check that an attack can start from its losses."""
    if bad.any():
        first = int(bad.nonzero()[0])
        raise ValueError(
            f"expected a loss that is a number where the attack starts, got "
            f"{float(values[first])} at example {first}"
        )


def inputs(value: Any) -> Tensor:
    """Check floating inputs `(n, ...)`."""
    checked = tensor("inputs", value, hint="; divide 8-bit images by 255 first")
    if checked.ndim < 2 or checked.numel() == 0:
        raise ValueError(f"expected inputs of shape (n >= 1, ...), got {kind(value)}")
    return checked


def examples(inputs_: Any, labels_: Any) -> tuple[Tensor, Tensor]:
    """Check finite inputs `(n, ...)` and integer labels `(n,)` on one device, and copy them."""
    return attack_inputs(inputs_, labels_, None)[:2]


def copied(value: Tensor) -> Tensor:
    """Copy a tensor to one that nobody else writes to, and that gradients may use."""
    with torch.inference_mode(False):
        return value.detach().clone()


def attacked(value: Any, inputs_: Tensor) -> Tensor:
    """Check what an attack returned for inputs and detach it."""
    if not isinstance(value, Tensor):
        raise TypeError(f"expected the attack to return a torch.Tensor, got {kind(value)}")
    if value.shape != inputs_.shape or value.dtype != inputs_.dtype:
        raise ValueError(f"expected the attack to return {kind(inputs_)}, got {kind(value)}")
    return value.detach()


def attack_inputs(
    inputs_: Any, labels_: Any, bounds: Any
) -> tuple[Tensor, Tensor, tuple[Any, Any]]:
    """Check what every attack takes, inputs within `bounds`, and copy it; bounds become a `box`.

    The values are read all at once. The copies know their ends: an attack that is called with them
    by another one reads nothing.
    """
    points = inputs(inputs_)
    targets = copied(labels(labels_, len(points), device=points.device))
    targets = true_labels(targets) if are_true(labels_) else targets
    low, high = _ends(bounds, points)
    points = copied(points)
    if recording():
        return points, targets, (low, high)
    values, within = [*points.aminmax(), *targets.aminmax()], isinstance(low, Tensor)
    if within:
        values.append(((low <= points) & (points <= high)).all())
    noted = [*(ends_of(inputs_) or ()), *(ends_of(labels_) or ())]
    all_noted = len(noted) == 4 and not within
    least, most, first, last, *inside = noted if all_noted else read(*values)
    inside = inside or [low <= least and most <= high]
    if not (inside[0] and -inf < least <= most < inf):
        box(bounds, points)
        raise outside(low, high, least, most)
    return known(points, least, most), known(targets, first, last), (low, high)


def outside(low: Any, high: Any, least: float, most: float) -> ValueError:
    """Say of inputs from `least` to `most` that they are not within bounds."""
    told, hint = " within bounds of tensors", "; attack images before they are normalised, or pass "
    values, hint = f"{least:g} to {most:g}", f"{hint}bounds="
    if not isinstance(low, Tensor):
        told, beyond = f" within bounds ({low:g}, {high:g})", max(low - least, most - high)
        if (low, high) == (-inf, inf):
            told = hint = ""
        elif 0 < beyond <= 1e-3 * (high - low) < inf:  # by rounding, also in half precision
            values = f"{least:.9g} to {most:.9g}"
            hint = f"; take the rounding off by inputs.clamp({low:g}, {high:g})"
    return ValueError(f"expected finite inputs{told}, got values from {values}{hint}")


def box(bounds: Any, points: Tensor) -> tuple[Any, Any]:
    """Check bounds, which are numbers, tensors that broadcast to the points, or None for no bounds.

    Returns:
        Two floats, or two tensors of the shape of the points, to be given to `torch.clamp`. They
        have the precision of the points: a pixel of 0.7 is not above a bound of 0.7.
    """
    low, high = _ends(bounds, points)
    if isinstance(low, Tensor) and not recording() and not bool((low <= high).all()):
        raise ValueError("expected bounds with low <= high everywhere, got others")
    return low, high


def _ends(bounds: Any, points: Tensor) -> tuple[Any, Any]:
    """Check bounds but for the values of tensors."""
    ends = _pair(bounds)
    if not any(isinstance(end, Tensor) for end in ends):
        pair = bounds_pair(ends)
        if torch.compiler.is_compiling():
            return pair
        return tuple(torch.tensor(pair, dtype=points.dtype, device="cpu").tolist())
    low, high = (_bound(f"bounds[{i}]", end, points) for i, end in enumerate(ends))
    return low, high


def narrow(eps: float, norm: str, bounds: tuple[float, float]) -> None:
    """Check that a cube does not hold the whole box: what is said of it would be of any inputs."""
    low, high = bounds
    if norm == "linf" and eps >= high - low:
        told = f"expected eps below {high - low:g}, the width of bounds ({low:g}, {high:g})"
        hint = f"; pass {eps:g} / 255 if it is in steps of 8-bit images" if high - low == 1 else ""
        raise ValueError(f"{told}, got {eps:g}{hint}")


def bounds_pair(bounds: Any, *, finite: bool = False) -> tuple[float, float]:
    """Check `(low, high)` with low < high; either may be infinite unless both must be finite."""
    end_of = number if finite else _end
    low, high = (end_of(f"bounds[{i}]", end) for i, end in enumerate(_pair(bounds, finite)))
    if not low < high:
        raise ValueError(f"expected bounds with low < high, got ({low:g}, {high:g})")
    return low, high


def _pair(bounds: Any, finite: bool = False) -> tuple[Any, Any]:
    if bounds is None and not finite:
        return -inf, inf
    if not isinstance(bounds, (tuple, list)) or len(bounds) != 2:
        none = "" if finite else " or None"
        raise TypeError(f"expected bounds as a pair (low, high){none}, got {bounds!r}")
    return bounds[0], bounds[1]


def _end(name: str, value: Any) -> float:
    infinite = isinstance(value, (float, np.floating)) and math.isinf(value)
    return float(value) if infinite else number(name, value)


def _bound(name: str, value: Any, points: Tensor) -> Tensor:
    wide = _reals(name, value, points) if isinstance(value, Tensor) else _end(name, value)
    with torch.inference_mode(False):
        end = torch.as_tensor(wide, dtype=points.dtype, device=points.device)
        try:
            return end.expand(points.shape)
        except RuntimeError:
            shapes = f"inputs of shape {tuple(points.shape)}, got {kind(value)}"
            raise ValueError(f"expected {name} that broadcasts to {shapes}") from None


def _reals(name: str, value: Tensor, points: Tensor) -> Tensor:
    """Copy a tensor of real numbers on the device of the points to float64."""
    if value.is_complex() or value.dtype == torch.bool:
        raise TypeError(f"expected {name} of real numbers, got {kind(value)}")
    if value.device != points.device:
        raise ValueError(f"expected {name} on {points.device} like the inputs, got {value.device}")
    with torch.inference_mode(False):
        return value.detach().to(_sums.widest(value.device), copy=True)


def radius(value: Any, points: Tensor, name: str = "eps") -> float | Tensor:
    """Check a finite number >= 0, or one for each of the points, which come back in float64."""
    if not isinstance(value, Tensor):
        return number(name, value, least=0)
    radii = _reals(name, value, points)
    if radii.shape != (len(points),):
        raise ValueError(f"expected {name} of shape ({len(points)},), got {kind(value)}")
    if not recording():
        for bad in read(*radii.aminmax()):
            if not 0 <= bad < inf:
                raise ValueError(f"expected {name} >= 0, got {bad}")
    return radii


def resolve(value: torch.Generator | None, device: torch.device) -> torch.Generator:
    """Check a generator; None stands for a copy of the global one.

    The copy starts where the global generator of the device stands, so that `torch.manual_seed`
    governs it, and leaves the original where it was: a second call draws the same numbers. Where no
    state can be read, None stands for the global one itself.
    """
    generator("generator", value)
    if value is not None or recording():
        return cast(torch.Generator, value)
    if device.type == "cuda":
        return torch.Generator(device).set_state(torch.cuda.get_rng_state(device))
    return torch.Generator().set_state(torch.get_rng_state())
