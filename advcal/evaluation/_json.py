"""Strict JSON, which every parser reads: numbers that are not finite are words."""

import json
import math
from collections.abc import Callable
from typing import Any

import numpy as np
from torch import Tensor

_WORDS = {"Infinity": math.inf, "-Infinity": -math.inf, "NaN": math.nan}


def strict(value: Any) -> str:
    """Write plain values; JSON has no infinity and no NaN, which become words."""
    return json.dumps(_mapped(value, _word), ensure_ascii=False, allow_nan=False)


def numbers(value: Any) -> Any:
    """Turn these words back into numbers, in lists and dicts too, and leave all else."""
    return _mapped(value, lambda each: _WORDS.get(each, each) if isinstance(each, str) else each)


def _mapped(value: Any, change: Callable[[Any], Any]) -> Any:
    if isinstance(value, (np.generic, np.ndarray, Tensor)):
        value = value.tolist()
    if isinstance(value, dict):
        return {name: _mapped(each, change) for name, each in value.items()}
    if isinstance(value, (list, tuple)):
        return [_mapped(each, change) for each in value]
    return change(value)


def _word(value: Any) -> Any:
    if not isinstance(value, float) or math.isfinite(value):
        return value
    return "NaN" if math.isnan(value) else "Infinity" if value > 0 else "-Infinity"
