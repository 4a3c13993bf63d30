"""What all pictures share: axes, colours, lines and checks."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
from torch import Tensor

from advcal import _checks

if TYPE_CHECKING:
    from matplotlib.axes import Axes

# Okabe and Ito's colours, told apart by people with colour-blindness; in order of use.
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")
MARKERS = ("o", "s", "^", "D", "v", "P", "X")
WIDTH = 3.3  # a column of print, in inches

WORDS = {"ece": "ECE", "mce": "MCE", "mcs": "MCS", "nll": "NLL", "brier": "Brier score"}
SIGNED = ("mcs", "MCS")


def pyplot() -> Any:
    """Import matplotlib's pyplot, or say how to install it."""
    try:
        import matplotlib.pyplot as plt
    except ImportError as error:
        raise ImportError("expected matplotlib, got none: pip install advcal[plots]") from error
    return plt


def one(ax: Axes | None, height: float = 2.5) -> Axes:
    """Return the axes given, or those of a new figure of a column's width."""
    if ax is not None:
        _checked(ax, "ax")
        return ax
    new: Axes = pyplot().subplots(figsize=(WIDTH, height), layout="constrained")[1]
    return new


def several(axes: Any, rows: int, columns: int, size: tuple[float, float], **options: Any) -> Any:
    """Return an array of the axes given, checked, or of a new figure."""
    if axes is None:
        return pyplot().subplots(
            rows, columns, figsize=size, squeeze=False, layout="constrained", **options
        )[1]
    found = np.asarray(axes, dtype=object)
    if found.size != rows * columns:
        raise ValueError(f"expected {rows * columns} axes, got {found.size}")
    for ax in found.flat:
        _checked(ax, "axes")
    return found.reshape(rows, columns)


def _checked(ax: Any, name: str) -> None:
    if not hasattr(ax, "plot") or not hasattr(ax, "set_xlabel"):
        raise TypeError(f"expected {name} as matplotlib Axes, got {_checks.kind(ax)}")


def finish(ax: Axes, title: str | None, *, legend: bool = False, **options: Any) -> Axes:
    """Set small type, a title and a legend, if there is anything to name."""
    ax.tick_params(labelsize="small")
    for label in (ax.xaxis.label, ax.yaxis.label):
        label.set_fontsize("small")
    if title is not None:
        ax.set_title(title, fontsize="medium")
    if legend and ax.get_legend_handles_labels()[1]:
        ax.legend(**{"frameon": False, "fontsize": "x-small"} | options)
    return ax


def style(i: int) -> dict[str, Any]:
    """Return the colour and the marker of line `i`."""
    return {"color": COLOURS[i % len(COLOURS)], "marker": MARKERS[i % len(MARKERS)]}


def word(figure: str) -> str:
    """Return the name of a figure as an axis says it."""
    return WORDS.get(figure, figure.replace("_", " "))


# --- checks ----------------------------------------------------------------------------------


def array(values: Any) -> Any:
    """Return numbers, a tensor on any device too, as an array."""
    return values.detach().cpu().numpy() if isinstance(values, Tensor) else np.asarray(values)


def row(name: str, values: Any, n: int | None = None) -> npt.NDArray[np.float64]:
    """Check finite numbers `(n,)`."""
    if isinstance(values, (str, Mapping)) or not isinstance(values, (Iterable, Tensor)):
        raise TypeError(f"expected {name} as a list of numbers, got {_checks.kind(values)}")
    try:
        plain = array(values if isinstance(values, Tensor) else list(values))
        found: npt.NDArray[np.float64] = plain.astype(np.float64)
    except (TypeError, ValueError) as error:
        raise TypeError(f"expected {name} as a list of numbers, got {values!r}") from error
    if found.ndim != 1 or len(found) == 0 or (n is not None and len(found) != n):
        raise ValueError(f"expected {n or 'one or more'} values for {name}, got {found.shape}")
    if not np.isfinite(found).all():
        bad = float(found[~np.isfinite(found)][0])
        raise ValueError(f"expected finite values for {name}, got {bad:g}")
    return found


def mapping(name: str, value: Any) -> Mapping[Any, Any]:
    """Check a mapping with one entry or more."""
    if not isinstance(value, Mapping):
        raise TypeError(f"expected {name} as a mapping, got {_checks.kind(value)}")
    if not value:
        raise ValueError(f"expected one or more in {name}, got none")
    return value


def entry(record: Any, figure: str) -> float:
    """Read a figure off a record: an attribute, or the entry of a dict."""
    value = record.get(figure) if isinstance(record, Mapping) else getattr(record, figure, None)
    if value is None:
        raise ValueError(f"expected {figure!r} in each record, got {_checks.kind(record)}")
    number = _checks.number(figure, value)
    return number


def spread(name: str, values: Any, n: int) -> tuple[Any, Any]:
    """Check one number, or one list of runs, for each of `n` points; return means and deviations.

    The deviation is that of a sample, NaN where there is one run.
    """
    if isinstance(values, (str, Mapping)) or not isinstance(values, (Sequence, Tensor, np.ndarray)):
        raise TypeError(f"expected {name!r} as a list of values, got {_checks.kind(values)}")
    if len(values) != n:
        raise ValueError(f"expected {n} values for {name!r}, got {len(values)}")
    each = [row(repr(name), value if np.ndim(value) else [value]) for value in values]
    means = np.array([runs.mean() for runs in each])
    return means, np.array([runs.std(ddof=1) if len(runs) > 1 else math.nan for runs in each])
