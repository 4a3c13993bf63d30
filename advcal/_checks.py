"""Every check of what users pass, worded `expected X, got Y`. NaN never passes."""

import math
import os
import sys
import warnings
from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import Tensor

_INF = math.inf
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


# --- numbers and choices ---------------------------------------------------------------------


def number(
    name: str, value: Any, *, least: float = -_INF, above: float = -_INF, most: float = _INF
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


def text(name: str, value: object) -> None:
    """Check a word or a sentence."""
    if not isinstance(value, str):
        raise TypeError(f"expected {name} as a str, got {kind(value)}")


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
    name: check
    for check, names in (
        (
            count,
            "accumulate candidates n n_bins n_levels resamples restarts search_steps size steps",
        ),
        (partial(count, least=0), "n_targets"),
        (partial(number, least=0), "alpha beta gamma kappa l2_bias l2_off_diagonal lam margin"),
        (partial(number, least=0), "momentum overshoot tol"),
        (partial(number, least=0, most=1), "rho"),
        (partial(number, above=0), "initial_c initial_eps"),
        (partial(number, above=0, most=1), "coverage initial_p tpr"),
        (partial(number, above=0, most=0.999999), "level"),
        (optional(partial(number, above=0)), "prior step_size"),
        (partial(number, above=0), "strength"),
        (optional(partial(number, least=2**-13)), "bandwidth"),
        (number, "threshold"),
        (switch, "from_logits joint random_start stop_early targeted"),
        (function, "attack loss metric model objective"),
        (optional(function), "progress"),
        (text, "against figure"),
        (optional(text), "by title"),
        (one_of("uniform", "quantile"), "binning"),
        (one_of("true", "predicted"), "label"),
        (one_of("gradient", "random_search"), "method"),
        (one_of("linf", "l2", "l1"), "norm"),
        (one_of("mean", "sum", "none"), "reduction"),
        (one_of("ece", "rmsce", "chi2", "mcs", "ks", "kuiper", "spiegelhalter"), "statistic"),
        (lambda _, value: generator(value), "generator"),
    )
    for name in names.split()
}


def arguments(**values: Any) -> None:
    """Check arguments by what `_ARGUMENTS` says of their names."""
    for name, value in values.items():
        _ARGUMENTS[name](name, value)


# --- tensors ---------------------------------------------------------------------------------


def labels(
    value: Any, n: int, n_classes: int | None = None, device: Any = None, name: str = "labels"
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


def class_rows(name: str, value: Tensor, n: int | None = None, given: Any = None) -> None:
    """Check logits or probabilities `(n, classes)` of two classes or more.

    Args:
        name: What they are: `"logits"` or `"probs"`.
        value: The tensor.
        n: The number of rows; any but 0 if None.
        given: What the tensor was made from, for the message; the tensor if None.
    """
    shape = value.shape if value.ndim == 2 else (0, 0)
    if value.is_floating_point() and shape[0] > 0 and shape[1] > 1 and n in (None, shape[0]):
        return
    found = kind(value if given is None else given)
    if not value.is_floating_point():
        raise TypeError(f"expected {name} of a floating dtype, got {found}")
    rows, one_column = "n >= 1" if n is None else n, value.shape[1:] in ((), (1,))
    other = "1 - p, p" if name == "probs" else "0 * p, p"
    hint = f"; pass p of the second of two classes as torch.stack([{other}], dim=1)"
    hint = hint if value.ndim and one_column else ""
    raise ValueError(f"expected {name} of shape ({rows}, classes >= 2), got {found}{hint}")


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
    class_rows("logits", value, n)
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
    tolerance = SUM_TOLERANCE.get(value.dtype, 1e-5)
    return ((wide.sum(dim=1) - 1).abs() <= tolerance) & (wide >= 0).all(dim=1)


def warn_of_probabilities(rows: Tensor) -> None:
    """Warn of what is passed as logits and looks like probabilities, but for zeros and ones."""
    some = rows[:1000].detach()
    if bool(like_probabilities(some).all()) and not bool((some == some.round()).all()):
        warn("expected logits, got rows that are not negative and sum to one; pass probs.log()")


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
