"""Clean accuracy, robust accuracy and calibration in one picture."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from advcal import _checks
from advcal.plots._style import Axes, finish, mapping, one, row


def pareto_front(
    records: Mapping[str, Sequence[float]], *, ax: Axes | None = None, title: str | None = None
) -> Axes:
    """Draw models by clean accuracy, robust accuracy and calibration error, and the Pareto front.

    Across and up are the accuracies, the colour is the error, dark for small. A model is on the
    front, a disc, if no other is at least as good in all three and better in one; the others are
    small squares. The line joins the models that are on the front of the two accuracies alone.

    Args:
        records: From the name of a model to its clean accuracy, robust accuracy and ECE.
        ax: The axes to draw on; a new figure if None.
        title: A title; none if None.

    Returns:
        The axes.

    Raises:
        TypeError: If an argument is of the wrong kind.
        ValueError: If a model has not three finite values.

    Example:
        >>> ax = pareto_front({"standard": (0.95, 0.1, 0.3), "AT": (0.9, 0.6, 0.1)})
        >>> sorted(text.get_text() for text in ax.texts)
        ['AT', 'standard']
    """
    _checks.arguments(title=title)
    points = np.stack(
        [row(f"{name!r}", values, 3) for name, values in mapping("records", records).items()]
    )
    gains = points * [1, 1, -1]
    on_front, on_line = _front(gains), _front(gains[:, :2])
    ax = one(ax, 2.8)
    line = points[on_line][points[on_line][:, 0].argsort()]
    ax.plot(line[:, 0], line[:, 1], color="0.5", linewidth=1, linestyle="--", zorder=1)
    look: dict[str, Any] = {"cmap": "cividis", "edgecolors": "black", "linewidths": 0.8}
    look |= {"vmin": 0.0, "vmax": max(0.1, float(points[:, 2].max())), "zorder": 2}
    for chosen, marker, size in ((on_front, "o", 55), (~on_front, "s", 25)):
        clean, robust, error = points[chosen].T
        drawn = ax.scatter(clean, robust, size, error, marker=marker, **look)
    ax.margins(0.2)
    ax.set(xlabel="clean accuracy", ylabel="robust accuracy")
    ax.grid(alpha=0.3)
    bar = ax.figure.colorbar(drawn, ax=ax, pad=0.02)
    bar.set_label("ECE", fontsize="small")
    bar.ax.tick_params(labelsize="small")
    finish(ax, title)
    _annotate(ax, [str(name) for name in records], points)
    return ax


def _front(gains: Any) -> Any:
    """Tell which rows no other row is as good as everywhere and better than somewhere."""
    no_worse = (gains[:, None] >= gains[None]).all(axis=2)
    better = (gains[:, None] > gains[None]).any(axis=2)
    return ~(no_worse & better).any(axis=0)


_SIDES = ((1, 1), (-1, 1), (1, -1), (-1, -1), (0, 1), (0, -1))  # across and up


def _annotate(ax: Axes, names: list[str], points: Any) -> None:
    """Write each name beside its point, where it covers no other name and no point, if it can."""
    ax.figure.canvas.figure.draw_without_rendering()  # fixes what is where
    places, edges = ax.transData.transform(points[:, :2]), ax.get_window_extent()
    inch = ax.figure.dpi
    high, letter, gap = 0.12 * inch, 0.065 * inch, 0.07 * inch
    taken = [(x - gap, y - gap, x + gap, y + gap) for x, y in places]
    for i, (name, point, (x, y)) in enumerate(zip(names, points, places, strict=True)):
        wide = letter * len(name)
        boxes = []
        for across, up in _SIDES:
            middle, low = x + across * (gap + wide / 2), y + gap if up > 0 else y - gap - high
            boxes.append((middle - wide / 2, low, middle + wide / 2, low + high))
        others = [*taken[:i], *taken[i + 1 :]]
        costs = [
            sum(_overlap(box, other) for other in others)
            + 10 * (box[0] < edges.x0 or box[2] > edges.x1)
            for box in boxes
        ]
        best = int(np.argmin(costs))
        taken.append(boxes[best])
        across, up = _SIDES[best]
        ax.annotate(
            name,
            point[:2],
            (5 * across, 5 * up),
            textcoords="offset points",
            fontsize="x-small",
            horizontalalignment=("right", "center", "left")[across + 1],
            verticalalignment="bottom" if up > 0 else "top",
        )


def _overlap(box: Any, other: Any) -> bool:
    return bool(box[0] < other[2] and other[0] < box[2] and box[1] < other[3] and other[1] < box[3])
