"""Every check of what users pass, worded `expected X, got Y`. NaN never passes."""

import math
import os
import sys
import warnings
from collections.abc import Callable
from functools import partial
from typing import Any, cast

import numpy as np
import torch
from torch import Tensor

from advcal._typing import Array

_SUM_TOLERANCE = {torch.float16: 1e-2, torch.bfloat16: 2e-2}


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


# --- numbers and choices ---------------------------------------------------------------------


def number(
    name: str,
    value: Any,
    *,
    least: float = -math.inf,
    above: float = -math.inf,
    most: float = math.inf,
) -> float:
    """Check a finite real number within `[least, most]` and strictly above `above`."""
    if isinstance(value, bool) or not isinstance(value, (int, float, np.integer, np.floating)):
        raise TypeError(f"expected {name} as a number, got {kind(value)}")
    if math.isfinite(value) and least <= value <= most and value > above:
        return float(value)
    limits = [f"> {above:g}"] if above > -math.inf else []
    limits += [f">= {least:g}"] if least > -math.inf else []
    limits += [f"<= {most:g}"] if most < math.inf else []
    raise ValueError(f"expected {name} {' and '.join(limits) or 'finite'}, got {value}")


def count(name: str, value: Any, *, least: int = 1) -> int:
    """Check a whole number."""
    if isinstance(value, bool) or not isinstance(value, (int, np.integer)):
        raise TypeError(f"expected {name} as an int, got {kind(value)}")
    if value < least:
        raise ValueError(f"expected {name} >= {least}, got {value}")
    return int(value)


def choice(name: str, value: Any, options: Any) -> None:
    """Check that a value is one of a few words."""
    if not isinstance(value, str) or value not in options:
        known = ", ".join(repr(option) for option in options)
        raise ValueError(f"expected {name} to be one of {known}, got {value!r}")


def function(name: str, value: object) -> None:
    """Check a callable."""
    if not callable(value):
        raise TypeError(f"expected {name} as a callable, got {kind(value)}")


def switch(name: str, value: object) -> None:
    """Check True or False."""
    if not isinstance(value, bool):
        raise TypeError(f"expected {name} as True or False, got {kind(value)}")


def generator(value: object) -> None:
    """Check a random generator or None."""
    if value is not None and not isinstance(value, torch.Generator):
        raise TypeError(f"expected generator as a torch.Generator or None, got {kind(value)}")


def optional(check: Callable[[str, Any], object]) -> Callable[[str, Any], object]:
    """Let None pass a check."""
    return lambda name, value: None if value is None else check(name, value)


def one_of(*options: str) -> Callable[[str, Any], object]:
    """Make the check of one of a few words."""
    return lambda name, value: choice(name, value, options)


# What an argument of each name must be, in whatever function it stands. What is narrower in one
# function than in the others is checked there.
_ARGUMENTS: dict[str, Callable[[str, Any], object]] = {
    "accumulate": count,
    "attack": function,
    "backward": optional(function),
    "beta": partial(number, least=0),
    "candidates": count,
    "channels_last": switch,
    "delta": partial(number, above=0, most=0.5),
    "every": optional(count),
    "generator": lambda _, value: generator(value),
    "initial_c": partial(number, above=0),
    "initial_eps": partial(number, above=0),
    "initial_p": partial(number, above=0, most=1),
    "joint": switch,
    "kappa": partial(number, least=0),
    "label": one_of("true", "predicted"),
    "lam": partial(number, least=0),
    "level": partial(number, above=0, most=1),
    "loss": function,
    "max_norm": optional(partial(number, above=0)),
    "method": one_of("gradient", "random_search"),
    "model": function,
    "momentum": partial(number, least=0),
    "n": count,
    "n_bins": count,
    "n_free": partial(count, least=0),
    "n_pilot": count,
    "n_targets": partial(count, least=0),
    "norm": one_of("linf", "l2", "l1"),
    "objective": function,
    "overshoot": partial(number, least=0),
    "penalty": partial(number, least=0),
    "progress": optional(function),
    "random_start": switch,
    "reference": function,
    "resamples": count,
    "restarts": count,
    "rho": partial(number, least=0, most=1),
    "search_steps": count,
    "sigma": partial(number, above=0),
    "size": count,
    "step_size": optional(partial(number, above=0)),
    "steps": count,
    "stop_early": switch,
    "targeted": switch,
    "tol": partial(number, least=0),
    "votes": switch,
}


def arguments(**values: Any) -> None:
    """Check arguments by what `_ARGUMENTS` says of their names."""
    for name, value in values.items():
        _ARGUMENTS[name](name, value)


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


def labels(
    value: Any,
    n: int,
    n_classes: int | None = None,
    device: torch.device | None = None,
    name: str = "labels",
) -> Tensor:
    """Check integer labels `(n,)` in `[0, n_classes)` and return them as int64."""
    if not isinstance(value, Tensor):
        raise TypeError(f"expected {name} as a torch.Tensor of integers, got {kind(value)}")
    if not is_integer(value.dtype):
        raise TypeError(f"expected {name} of an integer dtype, got {kind(value)}")
    if value.shape != (n,) or n == 0:
        raise ValueError(f"expected {name} of shape ({n or 'n >= 1'},), got {kind(value)}")
    if device is not None and value.device != device:
        raise ValueError(f"expected {name} on {device} like the rest, got {value.device}")
    whole: Tensor = value.detach().to(torch.int64)
    if n_classes is not None:
        label_range(whole, n_classes, name)
    return whole


def label_range(value: Tensor, n_classes: int, name: str = "labels") -> None:
    """Check that int64 labels lie in `[0, n_classes)`."""
    low, high = (int(end) for end in value.aminmax())
    if low < 0 or high >= n_classes:
        worst = low if low < 0 else high
        raise ValueError(f"expected {name} from 0 to {n_classes - 1}, got {worst}")


def with_softmax(value: Tensor) -> Tensor:
    """Check that logits have a softmax, which takes a finite highest one in each row."""
    highest = value.detach().amax(dim=1)
    bad = ~highest.isfinite()
    if bad.any():
        first = int(bad.nonzero()[0])
        raise ValueError(
            f"expected logits of finite maximum, got {float(highest[first])} at example {first} of "
            f"the {len(value)} that the model was called with"
        )
    return value


def logits(value: Any, n: int) -> Tensor:
    """Check that a model returned logits `(n, classes)` without NaN."""
    if not isinstance(value, Tensor):
        raise TypeError(f"expected the model to return a tensor of logits, got {kind(value)}")
    if not value.is_floating_point():
        raise TypeError(f"expected logits of a floating dtype, got {kind(value)}")
    if value.ndim != 2 or value.shape[0] != n or value.shape[1] < 2:
        raise ValueError(f"expected logits of shape ({n}, classes >= 2), got {kind(value)}")
    bad = value.detach().isnan().any(dim=1)
    if bad.any():
        raise ValueError(
            "expected logits without NaN, got NaN at example "
            f"{int(bad.nonzero()[0])} of the {n} that the model was called with"
        )
    return value


def like_probabilities(value: Tensor) -> Tensor:
    """Tell which rows `(n, classes)` are not negative and sum to one, shape `(n,)`."""
    wide = value.detach().double()
    tolerance = _SUM_TOLERANCE.get(value.dtype, 1e-5)
    return ((wide.sum(dim=1) - 1).abs() <= tolerance) & (wide >= 0).all(dim=1)


def warn(message: str) -> None:
    """Warn at the line that called into the package."""
    frame, level, package = sys._getframe(1), 3, os.path.dirname(__file__)
    while frame.f_back is not None and frame.f_back.f_code.co_filename.startswith(package):
        frame, level = frame.f_back, level + 1
    warnings.warn(message, stacklevel=level)


def differentiable(name: str, value: Tensor, of: str) -> None:
    """Check that a gradient can run back from a value."""
    if not value.requires_grad:
        raise ValueError(
            f"expected {name} that depend on {of} by a gradient, got none; "
            "is there a detach or a no_grad on the way?"
        )


def losses(value: Any, n: int) -> Tensor:
    """Check that a loss gave one value per example."""
    if not isinstance(value, Tensor) or value.shape != (n,):
        raise ValueError(
            f"expected the loss to give one value per example, shape ({n},), got {kind(value)}; "
            "a torch loss does so with reduction='none'"
        )
    return value


def inputs(value: Any) -> Tensor:
    """Check floating inputs `(n, ...)`."""
    if not isinstance(value, Tensor):
        raise TypeError(f"expected inputs as a torch.Tensor, got {kind(value)}")
    if not value.is_floating_point():
        raise TypeError(
            f"expected inputs of a floating dtype, got {kind(value)}; "
            "divide 8-bit images by 255 first"
        )
    if value.ndim < 2 or value.numel() == 0:
        raise ValueError(f"expected inputs of shape (n >= 1, ...), got {kind(value)}")
    return value


def examples(inputs_: Any, labels_: Any) -> tuple[Tensor, Tensor]:
    """Check finite inputs `(n, ...)` and integer labels `(n,)` on one device."""
    checked = inputs(inputs_)
    least, most = (float(end) for end in checked.detach().aminmax())
    if not -math.inf < least <= most < math.inf:
        raise ValueError(f"expected finite inputs, got values from {least:g} to {most:g}")
    return checked, labels(labels_, len(checked), device=checked.device)


def attacked(value: Any, inputs_: Tensor) -> Tensor:
    """Check what an attack returned for inputs and detach it."""
    if not isinstance(value, Tensor):
        raise TypeError(f"expected the attack to return a torch.Tensor, got {kind(value)}")
    if value.shape != inputs_.shape or value.dtype != inputs_.dtype:
        raise ValueError(f"expected the attack to return {kind(inputs_)}, got {kind(value)}")
    return value.detach()


def attack_inputs(
    inputs_: Any, labels_: Any, bounds: Any
) -> tuple[Tensor, Tensor, tuple[float, float]]:
    """Check what every attack takes: examples, the inputs within `bounds`."""
    points = inputs(inputs_)
    targets = labels(labels_, len(points), device=points.device)
    # What the bounds are in the inputs' own precision: a pixel of 0.7 is not above a bound of 0.7.
    low, high = torch.tensor(bounds_pair(bounds), dtype=points.dtype).tolist()
    least, most = (float(end) for end in points.detach().aminmax())
    if not (low <= least and most <= high):
        raise ValueError(
            f"expected inputs within bounds ({low:g}, {high:g}), got values from {least:g} to "
            f"{most:g}; attack images before they are normalised, or pass bounds="
        )
    return points, targets, (low, high)


def bounds_pair(bounds: Any) -> tuple[float, float]:
    """Check `(low, high)` with low < high."""
    if not isinstance(bounds, (tuple, list)) or len(bounds) != 2:
        raise TypeError(f"expected bounds as a pair (low, high), got {bounds!r}")
    low, high = number("bounds[0]", bounds[0]), number("bounds[1]", bounds[1])
    if not low < high:
        raise ValueError(f"expected bounds with low < high, got ({low:g}, {high:g})")
    return low, high


# --- logits to calibrate ---------------------------------------------------------------------


def finite_logits(value: Any, n_classes: int | None = None) -> Tensor:
    """Check finite logits `(n, classes)`."""
    if not isinstance(value, Tensor):
        raise TypeError(f"expected logits as a torch.Tensor, got {kind(value)}")
    if not value.is_floating_point():
        raise TypeError(f"expected logits of a floating dtype, got {kind(value)}")
    if value.ndim != 2 or value.shape[0] == 0 or value.shape[1] < 2:
        raise ValueError(f"expected logits of shape (n >= 1, classes >= 2), got {kind(value)}")
    if n_classes is not None and value.shape[1] != n_classes:
        raise ValueError(f"expected logits of {n_classes} classes, got {kind(value)}")
    least, most = (float(end) for end in value.detach().aminmax())
    if not -math.inf < least <= most < math.inf:
        raise ValueError(f"expected finite logits, got values from {least:g} to {most:g}")
    return value


def calibration_data(logits_: Any, labels_: Any) -> tuple[Tensor, Tensor]:
    """Check finite logits `(n, classes)` and labels `(n,)` to fit a calibrator to."""
    z = finite_logits(logits_).detach()
    return z, labels(labels_, len(z), z.shape[1], device=z.device)


# --- probabilities ---------------------------------------------------------------------------


def probabilities(probs: Array, labels_: Array) -> tuple[Tensor, Tensor, Callable[[Tensor], Array]]:
    """Check probabilities `(n, classes)` and labels `(n,)` of the same kind.

    Returns:
        Both as tensors (a view where possible) and a function that gives a tensor back as the
        kind that came in.
    """
    p, own_kind = as_tensor("probs", probs)
    y = _labels_like("probs", probs, labels_)
    _probability_shape(p, probs)
    return p, labels(y, len(p), p.shape[1], device=p.device), own_kind


def probability_matrix(probs: Array) -> tuple[Tensor, Callable[[Tensor], Array]]:
    """Check probabilities `(n, classes)` alone; return them as a tensor and the way back."""
    p, own_kind = as_tensor("probs", probs)
    _probability_shape(p, probs)
    return p, own_kind


def scores(scores_: Array, labels_: Array) -> tuple[Tensor, Tensor, Callable[[Tensor], Array]]:
    """Check finite scores `(n,)` and labels of both kinds, 0 and 1, of the same kind.

    Returns:
        The scores in float64, the labels in int64 and the way back.
    """
    s, own_kind = vector("scores", scores_)
    y = labels(_labels_like("scores", scores_, labels_), len(s), 2, device=s.device)
    if int(y.sum()) in (0, len(y)):
        raise ValueError(f"expected labels 0 and 1, got {int(y[0])} only")
    return s, y, own_kind


def vector(name: str, value: Array, *, finite: bool = True) -> tuple[Tensor, Any]:
    """Check numbers `(n,)`; return them in float64 and the way back. NaN never passes."""
    v, own_kind = as_tensor(name, value)
    if v.is_complex() or v.dtype == torch.bool:
        raise TypeError(f"expected {name} of real numbers, got {kind(value)}")
    if v.ndim != 1 or len(v) == 0:
        raise ValueError(f"expected {name} of shape (n >= 1,), got {kind(value)}")
    v = v.double()
    bad = ~v.isfinite() if finite else v.isnan()
    if bad.any():
        raise ValueError(f"expected {name} that are numbers, got {float(v[bad][0]):g}")
    return v, own_kind


def _labels_like(name: str, value: Any, labels_: Any) -> Tensor:
    if not isinstance(labels_, Tensor if isinstance(value, Tensor) else np.ndarray):
        wanted = "a torch.Tensor" if isinstance(value, Tensor) else "a numpy.ndarray"
        raise TypeError(f"expected labels as {wanted} like {name}, got {kind(labels_)}")
    return as_tensor("labels", labels_)[0]


def _probability_shape(p: Tensor, probs: Any) -> None:
    if not p.is_floating_point():
        raise TypeError(f"expected probs of a floating dtype, got {kind(probs)}")
    if p.ndim == 1:
        raise ValueError(
            f"expected probs of shape (n, classes), got {kind(probs)}; pass the probability p of "
            "the second of two classes as torch.stack([1 - p, p], dim=1)"
        )
    if p.ndim != 2 or p.shape[0] == 0 or p.shape[1] == 0:
        raise ValueError(f"expected probs of shape (n >= 1, classes >= 1), got {kind(probs)}")


def probability_rows(rows: Tensor, first: int = 0) -> None:
    """Check that rows of probabilities are not negative and sum to one.

    Args:
        rows: Probabilities, shape `(n, classes)`.
        first: The number of the first row, for the message.
    """
    tolerance = _SUM_TOLERANCE.get(rows.dtype, 1e-3)
    wide = rows.float() if rows.dtype in _SUM_TOLERANCE else rows
    least = float(wide.amin())  # reads the rows into the cache
    sums = wide.sum(dim=1)
    low, high = (float(end) for end in sums.aminmax())
    if least >= 0 and 1 - tolerance <= low <= high <= 1 + tolerance:
        return
    bad = ~(((sums - 1).abs() <= tolerance) & (wide >= 0).all(dim=1))
    row = int(bad.nonzero()[0])
    least = float(wide[row].amin())
    found = f"a probability of {least:g}" if least < 0 else f"a sum of {float(sums[row]):g}"
    raise ValueError(
        f"expected each row of probs to be >= 0 and to sum to 1, got {found} in row {first + row}; "
        "pass logits through softmax first, or say from_logits=True"
    )


def logit_rows(rows: Tensor, first: int = 0) -> None:
    """Check that rows of logits have a softmax: no NaN, no infinity but -inf beside a number.

    Args:
        rows: Logits, shape `(n, classes)`.
        first: The number of the first row, for the message.
    """
    highest = rows.amax(dim=1)
    if not bool(highest.isfinite().all()):
        row = int((~highest.isfinite()).nonzero()[0])
        raise ValueError(
            f"expected a finite highest logit in each row, got {float(highest[row]):g} in row "
            f"{first + row}"
        )


def row_chunks(p: Tensor) -> list[slice]:
    """Cut `(n, classes)` into runs of rows that fit a processor's cache: 2048 or so."""
    entries = min(max(2048 * p.shape[1], 1 << 18), 1 << 21)
    size = max(1, entries // p.shape[1])
    return [slice(start, start + size) for start in range(0, len(p), size)]


def as_tensor(name: str, value: Any) -> tuple[Tensor, Callable[[Tensor], Any]]:
    """View a tensor or a NumPy array as a tensor; return it and the way back."""
    if isinstance(value, Tensor):
        return value.detach(), lambda result: result
    if not isinstance(value, np.ndarray):
        raise TypeError(f"expected {name} as a torch.Tensor or a numpy.ndarray, got {kind(value)}")
    if isinstance(value, np.ma.MaskedArray):
        raise TypeError(f"expected {name} without a mask, got {type(value).__name__}")
    if value.dtype.kind not in "fiu":
        raise TypeError(f"expected {name} of numbers, got {kind(value)}")
    native = value.astype(value.dtype.newbyteorder("="), copy=False)
    if native.dtype == np.longdouble and native.dtype.itemsize > 8:
        native = native.astype(np.float64)
    if any(stride < 0 or stride % native.itemsize for stride in native.strides):
        native = np.ascontiguousarray(native)
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="The given NumPy array is not writable")
        return torch.from_numpy(native), _to_numpy


def _to_numpy(result: Tensor) -> Any:
    array = result.numpy()
    return cast(Any, array[()] if array.ndim == 0 else array)
