"""What all pictures share: axes, colours, lines and checks."""

import itertools
import math
import textwrap
from collections.abc import Iterable, Mapping, Sequence, Set, Sized
from typing import TYPE_CHECKING, Any, NewType

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from advcal import _checks

if TYPE_CHECKING:
    from matplotlib.axes import Axes as Axes
else:
    Axes = NewType("Axes", object)  # for annotations, without an import of matplotlib

# Okabe and Ito's colours, told apart by people with colour-blindness; in order of use.
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")
MARKERS = ("o", "s", "^", "D", "v", "P", "X")
DASHES = ("-", "--", ":", "-.")
HATCHES = (None, "////", "....", "xxxx", "----", "||||", "++++", "oooo")
WIDTH = 3.3  # a column of print, in inches

WORDS = {"ece": "ECE", "mce": "MCE", "mcs": "MCS", "nll": "NLL", "brier": "Brier score"}
WORDS |= {"eps": r"$\varepsilon$", "lam": r"$\lambda$"}
WORDS |= {"n_levels": "number of robustness levels $R$"}
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


def finish(ax: Axes, title: str | None, *, legend: bool = False, own: bool = False) -> Axes:
    """Set small type, a title and a legend, if there is anything to name.

    In a figure of our `own`, a legend that would cover the picture goes above it.
    """
    ax.tick_params(labelsize="small")
    for label in (ax.xaxis.label, ax.yaxis.label):
        label.set_fontsize("small")
    if title is not None:
        ax.set_title(title, fontsize="medium")
    if legend and ax.get_legend_handles_labels()[1]:
        # To look for the best place takes long where there is much; the size is the same anywhere.
        drawn = ax.legend(frameon=False, fontsize="x-small", loc="upper left")
        _show_names(drawn)
        size, room = drawn.get_window_extent(), ax.get_window_extent()
        if own and (size.height > room.height / 2 or size.width > room.width):
            drawn.remove()
            legend_above(ax)
        else:
            drawn.set_loc()
    return ax


def legend_above(ax: Axes, title: str | None = None) -> None:
    """Name what is drawn above all axes of a figure of our own, which grows by as much.

    A title of the whole figure stands where the empty one of the legend leaves room.
    """
    handles, labels = ax.get_legend_handles_labels()
    labels = [textwrap.fill(label, 42) if len(label) > 42 else label for label in labels]
    longest = max(len(line) for label in labels for line in label.splitlines())
    drawn = ax.figure.legend(
        handles,
        labels,
        loc="outside upper center",
        frameon=False,
        fontsize="x-small",
        ncols=max(1, min(len(labels), int(50 / (8 + longest)))),
        title=None if title is None else " \n" * title.count("\n") + " ",
        title_fontsize="medium",
    )
    _show_names(drawn)
    figure: Any = ax.figure
    line = 0.25  # inches, of a legend of one line
    grown = max(0.0, drawn.get_window_extent().height / figure.dpi - line)
    figure.set_figheight(figure.get_figheight() + grown)
    if title is not None:
        figure.suptitle(title, fontsize="medium")


def named(name: Any) -> str:
    """Return a label that matplotlib shows: not one that is empty or starts with `_`."""
    return f" {name}" if str(name)[:1] in ("", "_") else str(name)


def _show_names(legend: Any) -> None:
    for text in legend.get_texts():
        text.set_text(text.get_text().removeprefix(" "))


def limit(ax: Axes, low: float, high: float) -> None:
    """Set the limits upwards, or leave them to the data if some lie outside."""
    drawn = [each.dataLim for each in ax.get_shared_y_axes().get_siblings(ax)]
    if all(low <= box.y0 and box.y1 <= high for box in drawn):
        ax.set_ylim(low, high)
    else:
        ax.autoscale(axis="y")


def crowded(rows: Iterable[Iterable[Any]], figure: Any) -> bool:
    """Tell whether texts, rows from left to right, touch their neighbours or leave the figure."""
    figure.canvas.figure.draw_without_rendering()  # fixes what is where
    gap, edge = figure.dpi / 50, figure.canvas.figure.bbox.x1
    for texts in rows:
        seen = [text for text in texts if text.get_visible() and text.get_text()]
        boxes = [text.get_window_extent() for text in seen]
        if any(box.x0 < 0 or box.x1 > edge for box in boxes):
            return True
        if any(one.x1 + gap > next_.x0 for one, next_ in itertools.pairwise(boxes)):
            return True
    return False


def style(i: int) -> dict[str, Any]:
    """Return the colour, the marker and the dashes of line `i`: the first 196 differ."""
    round_ = i // len(COLOURS)
    return {
        "color": COLOURS[i % len(COLOURS)],
        "marker": MARKERS[(i + round_) % len(MARKERS)],
        "linestyle": DASHES[round_ % len(DASHES)],
    }


def fill(i: int) -> dict[str, Any]:
    """Return the colour and the hatch of area `i`: the first 56 differ."""
    return {
        "color": COLOURS[i % len(COLOURS)],
        "hatch": HATCHES[i // len(COLOURS) % len(HATCHES)],
    }


def word(figure: str) -> str:
    """Return the name of a figure or a setting as an axis says it."""
    return WORDS.get(figure, figure.replace("_", " "))


# --- checks ----------------------------------------------------------------------------------


def array(values: Any) -> Any:
    """Return numbers, a tensor on any device or a list of tensors too, as an array."""
    if isinstance(values, (list, tuple)):
        values = [array(each) if isinstance(each, Tensor) else each for each in values]
    if not isinstance(values, Tensor):
        return np.asarray(values)
    kept = values.detach().cpu()
    return (kept.float() if kept.dtype == torch.bfloat16 else kept).numpy()


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


def listed(name: str, value: Any) -> list[str]:
    """Check a list or tuple of words."""
    _checks.sequence(name, value)
    for each in value:
        _checks.of_type("words", str)(name, each)
    return [*value]


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
        plain = isinstance(record, (int, float, Sequence, np.ndarray, np.number, Tensor))
        hint = f"; to draw numbers say figures={figure!r}" if plain else ""
        raise ValueError(f"expected {figure!r} in each record, got {_checks.kind(record)}{hint}")
    return _checks.figure(figure, value)


def spread(name: str, values: Any, n: int) -> tuple[Any, Any]:
    """Check one number, or one list of runs, for each of `n` points; return means and deviations.

    The deviation is that of a sample, NaN if there is one run.
    """
    if isinstance(values, (str, Mapping, Set)) or not (
        isinstance(values, (Iterable, Tensor)) and isinstance(values, Sized)
    ):
        raise TypeError(f"expected {name!r} as a list of values, got {_checks.kind(values)}")
    if len(values) != n:
        raise ValueError(f"expected {n} values for {name!r}, got {len(values)}")
    each = [row(repr(name), value if np.ndim(value) else [value]) for value in values]
    means = np.array([runs.mean() for runs in each])
    return means, np.array([runs.std(ddof=1) if len(runs) > 1 else math.nan for runs in each])
