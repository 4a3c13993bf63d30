"""Batches as users pass them: inputs, labels, the bounds of inputs and radii around them."""

import math
from math import inf
from typing import Any

import numpy as np
import torch
from torch import Tensor

from advcal import _checks, _sums

_LARGEST = 1e18  # of radii, whose squares float32 holds


def inputs(value: Any) -> Tensor:
    """Check floating inputs `(n, ...)`."""
    checked = _checks.tensor("inputs", value, hint="; divide 8-bit images by 255 first")
    if checked.ndim < 2 or checked.numel() == 0:
        raise ValueError(f"expected inputs of shape (n >= 1, ...), got {_checks.kind(value)}")
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
        raise TypeError(f"expected the attack to return a torch.Tensor, got {_checks.kind(value)}")
    if value.shape != inputs_.shape or value.dtype != inputs_.dtype:
        raise ValueError(
            f"expected the attack to return {_checks.kind(inputs_)}, got {_checks.kind(value)}"
        )
    return value.detach()


def attack_inputs(
    inputs_: Any, labels_: Any, bounds: Any
) -> tuple[Tensor, Tensor, tuple[Any, Any]]:
    """Check what every attack takes, inputs within `bounds`, and copy it; bounds become a `box`.

    The values are read all at once. The copies know their ends: an attack that is called with them
    by another one reads nothing.
    """
    points = inputs(inputs_)
    targets = copied(_checks.labels(labels_, len(points), device=points.device))
    targets = _checks.note(targets, **_checks.noted(labels_))
    low, high = _ends(bounds, points)
    points = _checks.note(copied(points), **_checks.noted(inputs_))
    if _checks.recording():
        return points, targets, (low, high)
    values, within = [*points.aminmax(), *targets.aminmax()], isinstance(low, Tensor)
    if within:
        values.append(((low <= points) & (points <= high)).all())
    ends = [end for each in (points, targets) for end in _checks.noted(each).get("ends", ())]
    all_noted = len(ends) == 4 and not within
    least, most, first, last, *inside = ends if all_noted else _checks.read(*values)
    inside = inside or [low <= least and most <= high]
    if not (inside[0] and -inf < least <= most < inf):
        box(bounds, points)
        raise outside(low, high, least, most)
    points = _checks.note(points, ends=(least, most))
    targets = _checks.note(targets, ends=(first, last))
    return points, targets, (low, high)


def outside(low: Any, high: Any, least: float, most: float, *, do: str = "attack") -> ValueError:
    """Say of inputs from `least` to `most` that they are not within bounds, and when to `do` it."""
    told, hint = " within bounds of tensors", f"; {do} images before they are normalised, or pass "
    values, hint = f"{least:g} to {most:g}", f"{hint}bounds="
    if not isinstance(low, Tensor):
        told = f" within bounds ({low:g}, {high:g})"
        if (low, high) == (-inf, inf):
            told = hint = ""
        else:
            values, rounded = beyond(low, high, least, most)
            hint = rounded or hint
    return ValueError(f"expected finite inputs{told}, got values from {values}{hint}")


def beyond(low: float, high: float, least: float, most: float) -> tuple[str, str]:
    """Show from where to where values lie, and how to mend what is beyond bounds by rounding."""
    if 0 < max(low - least, most - high) <= 1e-3 * (high - low) < inf:  # also in half precision
        hint = f"; take the rounding off by inputs.clamp({low:g}, {high:g})"
        return f"{least:.9g} to {most:.9g}", hint
    return f"{least:g} to {most:g}", ""


def box(bounds: Any, points: Tensor) -> tuple[Any, Any]:
    """Check bounds, which are numbers, tensors that broadcast to the points, or None for no bounds.

    Returns:
        Two floats, or two tensors of the shape of the points, to be given to `torch.clamp`. They
        have the precision of the points: a pixel of 0.7 is not above a bound of 0.7.
    """
    low, high = _ends(bounds, points)
    if isinstance(low, Tensor) and not _checks.recording() and not bool((low <= high).all()):
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


def below_width(eps: float, norm: str, bounds: tuple[float, float]) -> None:
    """Check that a cube does not hold the whole box: what is said of it would be of any inputs."""
    low, high = bounds
    if norm == "linf" and eps >= high - low:
        told = f"expected eps below {high - low:g}, the width of bounds ({low:g}, {high:g})"
        hint = f"; pass {eps:g} / 255 if it is in steps of 8-bit images" if high - low == 1 else ""
        raise ValueError(f"{told}, got {eps:g}{hint}")


def bounds_pair(bounds: Any, *, finite: bool = False) -> tuple[float, float]:
    """Check `(low, high)` with low < high; either may be infinite unless both must be finite."""
    end_of = _checks.number if finite else _end
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
    return float(value) if infinite else _checks.number(name, value)


def _bound(name: str, value: Any, points: Tensor) -> Tensor:
    wide = _reals(name, value, points) if isinstance(value, Tensor) else _end(name, value)
    with torch.inference_mode(False):
        end = torch.as_tensor(wide, dtype=points.dtype, device=points.device)
        try:
            return end.expand(points.shape)
        except RuntimeError:
            shapes = f"inputs of shape {tuple(points.shape)}, got {_checks.kind(value)}"
            raise ValueError(f"expected {name} that broadcasts to {shapes}") from None


def _reals(name: str, value: Tensor, points: Tensor) -> Tensor:
    """Copy a tensor of real numbers on the device of the points to float64."""
    if value.is_complex() or value.dtype == torch.bool:
        raise TypeError(f"expected {name} of real numbers, got {_checks.kind(value)}")
    if value.device != points.device:
        raise ValueError(f"expected {name} on {points.device} like the inputs, got {value.device}")
    _checks.dense(name, value)
    with torch.inference_mode(False):
        return _checks.plain(value.detach()).to(_sums.widest(value.device), copy=True)


def radius(value: Any, points: Tensor, name: str = "eps") -> float | Tensor:
    """Check a finite number >= 0, or one for each of the points, which come back in float64.

    A radius may not be so large that steps of its length leave the numbers of the points.
    """
    most = min(torch.finfo(points.dtype).max / 4, _LARGEST)
    beyond = f"expected {name} up to {most:.4g} for {points.dtype}, got {{:g}}"
    if not isinstance(value, Tensor):
        found = _checks.number(name, value, least=0)
        if found > most:
            raise ValueError(beyond.format(found))
        return found
    radii = _reals(name, value, points)
    if radii.shape != (len(points),):
        raise ValueError(f"expected {name} of shape ({len(points)},), got {_checks.kind(value)}")
    if not _checks.recording():
        for bad in _checks.read(*radii.aminmax()):
            if not 0 <= bad < inf:
                raise ValueError(f"expected {name} >= 0, got {bad}")
            if bad > most:
                raise ValueError(beyond.format(bad))
    return radii
