"""What the fields of a calibrator may be, so that a file of another hand is not believed."""

import dataclasses
import math
import types
from collections.abc import Callable, Mapping
from typing import Any, Union, get_args, get_origin, get_type_hints

import torch
from torch import Tensor

from advcal import _checks
from advcal.calibrators._calibrator import Calibrator

_MOST = 100_000  # classes that a trial is made of


def check(kind: type[Calibrator], fields: Mapping[str, Any]) -> Calibrator:
    """Make a calibrator of fields that are checked; ValueError says which one is wrong.

    Each field is checked by what the class declares of it and by `_RULES`. A trial then shows that
    they go together, so a new class needs no line here.
    """
    hints = get_type_hints(kind)
    known = {field.name: field for field in dataclasses.fields(kind)}
    if not isinstance(fields, Mapping) or not fields.keys() <= known.keys():
        raise ValueError(f"expected fields {', '.join(known)}, got {_checks.kind(fields)}")
    for name, field in known.items():
        if name not in fields:
            if field.default is dataclasses.MISSING:
                raise ValueError(f"expected {kind.__name__} with {name}, got none")
            continue
        value = fields[name]
        rules = [_RULES[key] for key in (name, f"{kind.__name__}.{name}") if key in _RULES]
        if not _is(hints[name], value) or not all(rule(value, fields) for rule in rules):
            shown = _checks.kind(value) if isinstance(value, (Tensor, tuple)) else repr(value)
            raise ValueError(f"expected {kind.__name__} with a sound {name}, got {shown}")
    calibrator = kind(**fields)
    if calibrator.n_classes <= _MOST and not _works(calibrator):
        raise ValueError(f"expected {kind.__name__} of fields that go together, got others")
    return calibrator


def _is(hint: Any, value: Any) -> bool:
    """Tell whether a value is of a declared type; numbers are finite, and tensors have no NaN."""
    if get_origin(hint) in (Union, types.UnionType):
        return any(_is(each, value) for each in get_args(hint))
    if get_origin(hint) is tuple:
        return type(value) is tuple and all(_is(get_args(hint)[0], each) for each in value)
    if hint is float:
        return type(value) in (int, float) and math.isfinite(value)
    if hint is Tensor:
        right = isinstance(value, Tensor) and value.layout == torch.strided
        return right and value.dtype == torch.float64 and not bool(value.isnan().any())
    return type(value) is hint


def _works(calibrator: Calibrator) -> bool:
    """Try a calibrator on a few logits."""
    k = calibrator.n_classes
    logits = (
        torch.linspace(-3.0, 3.0, 5 * k, dtype=torch.float64, device="cpu").view(5, k).sin() * 3
    )
    try:
        probs = calibrator(logits)
    except Exception:  # whatever torch makes of fields that do not go together
        return False
    sums = probs.sum(dim=1)
    return probs.shape == logits.shape and bool(
        ((probs >= 0).all(dim=1) & ((sums - 1).abs() < 1e-6)).all()
    )


Rule = Callable[[Any, Mapping[str, Any]], bool]


def _shapes(*shapes: str) -> Rule:
    """Make the rule of finite tensors of one of some shapes, `"k, k"` for `(classes, classes)`."""

    def rule(value: Tensor, fields: Mapping[str, Any]) -> bool:
        sizes = {"k": fields["n_classes"]}
        allowed = [tuple(sizes.get(n) or int(n) for n in shape.split(", ")) for shape in shapes]
        return tuple(value.shape) in allowed and bool(value.isfinite().all())

    return rule


def _curves(value: Any, fields: Mapping[str, Any]) -> bool:
    """Tell whether there are probabilities at knots, as many curves and knots as the others are."""
    several = isinstance(value, tuple)
    parts = value if several else (value,)
    others = fields.get("x") if several else (fields.get("x"),)
    if several and len(parts) not in (1, fields["n_classes"]):
        return False
    if not isinstance(others, tuple) or len(others) != len(parts):
        return False
    return all(
        isinstance(x, Tensor)
        and part.ndim == 1
        and len(part) > 0
        and part.shape == x.shape
        and bool(((part >= 0) & (part <= 1)).all())
        for part, x in zip(parts, others, strict=True)
    )


def _rising(value: Any, fields: Mapping[str, Any]) -> bool:
    parts = value if isinstance(value, tuple) else (value,)
    return _curves(value, fields) and all(bool((part.diff() >= 0).all()) for part in parts)


def _predictors(value: Any, fields: Mapping[str, Any]) -> bool:
    """Tell whether there is a rising tensor for each class, or one for two classes.

    It is empty of a class that was masked in all rows of the fit.
    """
    k = fields["n_classes"]
    return len(value) == (1 if k == 2 else k) and all(
        part.ndim == 1 and bool((part.diff() >= 0).all()) for part in value
    )


def _shares(value: Any, fields: Mapping[str, Any]) -> bool:
    return _predictors(value, fields) and all(
        bool(((part >= 0) & (part <= 1)).all()) for part in value
    )


def _paired(other: str, rule: Rule) -> Rule:
    """Make a rule hold, and the sizes be those of another field."""

    def both(value: Any, fields: Mapping[str, Any]) -> bool:
        sizes = [[len(part) for part in each] for each in (value, fields.get(other) or ())]
        return rule(value, fields) and sizes[0] == sizes[1]

    return both


def _of_curves(value: Tensor | None, fields: Mapping[str, Any]) -> bool:
    """Tell whether there are finite numbers for each curve, as many as there are slopes."""
    k, slopes = fields["n_classes"], fields.get("slopes")
    return value is None or (
        isinstance(slopes, Tensor)
        and value.ndim == slopes.ndim == 2
        and value.shape == slopes.shape
        and len(value) == (1 if k == 2 else k)
        and bool(value.isfinite().all())
    )


# By the name of a field, or that of the class and the field.
_RULES: dict[str, Rule] = {
    "n_classes": lambda value, _: 2 <= value < 2**31,
    "temperature": lambda value, _: value > 0,
    "Affine.weight": _shapes("k", "k, k"),
    "Affine.bias": _shapes("k"),
    "Ensemble.weights": _shapes("3"),
    "TopLabel.x": _rising,
    "TopLabel.y": _curves,
    "TopLabel.of_class": lambda value, fields: value is None or 0 <= value < fields["n_classes"],
    "LogOdds.slopes": lambda value, fields: _of_curves(value, fields) and bool((value >= 0).all()),
    "LogOdds.knots": lambda value, fields: (
        _of_curves(value, fields) and (value is None or bool((value.diff(dim=1) >= 0).all()))
    ),
    "LogOdds.bias": lambda value, fields: value.shape == (len(fields.get("slopes", ())),),
    "VennAbers.low_from": _predictors,
    "VennAbers.low": _paired("low_from", _shares),
    "VennAbers.high_to": _predictors,
    "VennAbers.high": _paired("high_to", _shares),
    "OneVsAll.x": _rising,
    "OneVsAll.y": _curves,
}
