"""Box plots over shifts."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from advcal import _checks
from advcal.plots._style import Axes, fill, finish, mapping, named, one, row, word


def shift_boxes(
    curves: Mapping[str, Mapping[Any, Sequence[float]]],
    *,
    ax: Axes | None = None,
    figure: str = "ECE",
    title: str | None = None,
) -> Axes:
    """Draw how a figure is spread over data shifts, a box per severity and model.

    A box goes from the first to the third quartile of the shifts, with a line at the median; the
    whiskers reach the most extreme values.

    Args:
        curves: From the name of a model to a mapping from a severity to one value per shift; the
            severities of all models are the same.
        ax: The axes to draw on; a new figure if None.
        figure: What the values are, for the axis.
        title: A title; none if None.

    Returns:
        The axes.

    Raises:
        TypeError: If an argument is of the wrong kind.
        ValueError: If the models have other severities, or a value is not finite.

    Example:
        >>> found = {"standard": {1: [0.1, 0.2], 5: [0.2, 0.5]}}
        >>> [tick.get_text() for tick in shift_boxes(found).get_xticklabels()]
        ['1', '5']

    References:
        Qin et al., Improving Calibration through the Relationship with Adversarial Robustness,
        NeurIPS 2021, figure 3.
    """
    _checks.arguments(figure=figure, title=title)
    severities = list(next(iter(mapping("curves", curves).values()), {}))
    found = {}
    for name, boxes in curves.items():
        if set(mapping(f"curves[{name!r}]", boxes)) != set(severities):
            raise ValueError(f"expected severities {severities} for {name!r}, got {list(boxes)}")
        found[name] = [row(f"{name!r} at {key}", boxes[key]) for key in severities]
    if not severities:
        raise ValueError("expected one or more severities, got none")
    own = ax is None
    ax = one(ax)
    width = 0.8 / len(found)
    places = np.arange(len(severities))
    for i, (name, values) in enumerate(found.items()):
        look = fill(i)
        colour = look["color"]
        drawn = ax.boxplot(
            values,
            positions=places + (i - (len(found) - 1) / 2) * width,
            widths=0.8 * width,
            whis=(0, 100),
            patch_artist=True,
            manage_ticks=False,
            medianprops={"color": "black", "linewidth": 1.2},
            whiskerprops={"color": colour},
            capprops={"color": colour},
            boxprops={"hatch": look["hatch"]}
            | {"facecolor": colour, "edgecolor": colour, "alpha": 0.6},
        )
        drawn["boxes"][0].set_label(named(name))
    ax.set_xticks(places, [str(key) for key in severities])
    ax.set(xlabel="severity of the shift", ylabel=word(figure))
    ax.grid(axis="y", alpha=0.3)
    return finish(ax, title, legend=True, own=own)
