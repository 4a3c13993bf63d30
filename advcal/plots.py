"""Pictures: functions that draw on a matplotlib `Axes` and return it.

matplotlib is imported when a picture is drawn: `pip install advcal[plots]`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from torch import Tensor

from advcal import _checks
from advcal.metrics import ReliabilityBins

if TYPE_CHECKING:
    from matplotlib.axes import Axes

__all__ = ["against_eps", "reliability_diagram"]

# Okabe and Ito's colours, told apart by people with colour-blindness; in order of use.
_COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")
_MARKERS = ("o", "s", "^", "D", "v", "P", "X")


def reliability_diagram(
    bins: ReliabilityBins[Any], *, ax: Axes | None = None, title: str | None = None
) -> Axes:
    """Draw accuracy against confidence per bin, with the gaps and the share of predictions.

    A bar is a bin's accuracy; the hatched part is the gap to its mean confidence, in one colour
    where the model is overconfident and in another where it is underconfident. The strip on top
    shows how the predictions are spread.

    Args:
        bins: The table.
        ax: Where to draw; a new figure if None.
        title: A title; none if None.

    Returns:
        The axes.

    Raises:
        TypeError: If `bins` is not a `ReliabilityBins`.
        ImportError: If matplotlib is missing.

    Example:
        >>> import torch
        >>> from advcal.metrics import reliability_bins
        >>> bins = reliability_bins(torch.tensor([[0.9, 0.1]]), torch.tensor([0]))
        >>> reliability_diagram(bins).get_xlabel()
        'confidence'

    References:
        Guo et al., On Calibration of Modern Neural Networks, ICML 2017, figure 4.
    """
    if not isinstance(bins, ReliabilityBins):
        raise TypeError(f"expected bins as ReliabilityBins, got {_checks.kind(bins)}")
    ax = _axes(ax)
    edges, counts = _array(bins.edges), _array(bins.counts)
    occupied = counts > 0
    left, width = edges[:-1][occupied], np.diff(edges)[occupied]
    accuracy = _array(bins.bin_accuracy)[occupied]
    confidence = _array(bins.bin_confidence)[occupied]
    over = confidence >= accuracy
    ax.plot([0, 1], [0, 1], color="0.5", linewidth=1, linestyle="--", zorder=3)
    ax.bar(
        left, accuracy, width, align="edge", color=_COLOURS[5], edgecolor="white", label="accuracy"
    )
    for label, mask, colour in (
        ("overconfident by", over, _COLOURS[1]),
        ("underconfident by", ~over, _COLOURS[2]),
    ):
        if mask.any():
            ax.bar(
                left[mask],
                (confidence - accuracy)[mask],
                width[mask],
                bottom=accuracy[mask],
                align="edge",
                facecolor="none",
                edgecolor=colour,
                hatch="////",
                linewidth=1,
                label=label,
            )
    _counts_strip(ax, left, width, counts[occupied] / counts.sum())
    ax.set(xlim=(0, 1), ylim=(0, 1), xlabel="confidence", ylabel="accuracy", aspect="equal")
    # Overconfident tables leave the upper left corner free, underconfident ones the lower right.
    x, y, side = (0.04, 0.96, "left") if float(bins.mcs) >= 0 else (0.96, 0.04, "right")
    ax.text(
        x,
        y,
        f"ECE {float(bins.ece):.3f}\nMCS {float(bins.mcs):+.3f}\nn {int(bins.n):,}",
        transform=ax.transAxes,
        horizontalalignment=side,
        verticalalignment="top" if side == "left" else "bottom",
        fontsize="small",
        bbox={"facecolor": "white", "edgecolor": "none", "alpha": 0.85, "pad": 2},
        zorder=4,
    )
    if title is not None:
        ax.set_title(title, pad=28)
    return ax


def against_eps(
    eps: Sequence[float],
    curves: Mapping[str, Sequence[float]],
    *,
    ax: Axes | None = None,
    figure: str = "MCS",
    title: str | None = None,
) -> Axes:
    """Draw a figure of merit against the radius of the attack, one line per name.

    Args:
        eps: The radii, in units of the inputs.
        curves: From the name of a line to one value per radius.
        ax: Where to draw; a new figure if None.
        figure: What the values are, for the axis; a line marks 0.
        title: A title; none if None.

    Returns:
        The axes.

    Raises:
        ValueError: If a line has not one value per radius.
        ImportError: If matplotlib is missing.

    Example:
        >>> against_eps([0.0, 0.1], {"PGD": [0.01, 0.4]}).get_ylabel()
        'MCS'
    """
    for name, values in curves.items():
        if len(values) != len(eps):
            raise ValueError(f"expected {len(eps)} values for {name!r}, got {len(values)}")
    ax = _axes(ax)
    ax.axhline(0, color="0.5", linewidth=1, linestyle="--")
    for i, (name, values) in enumerate(curves.items()):
        colour, marker = _COLOURS[i % len(_COLOURS)], _MARKERS[i % len(_MARKERS)]
        ax.plot(eps, values, color=colour, marker=marker, markersize=4, label=name)
    ax.set(xlabel=r"$\varepsilon$", ylabel=figure)
    ax.grid(alpha=0.3)
    ax.legend(frameon=False, fontsize="small")
    if title is not None:
        ax.set_title(title)
    return ax


def _counts_strip(ax: Axes, left: Any, width: Any, shares: Any) -> None:
    """Draw the share of predictions per bin in a strip above the axes."""
    strip = ax.inset_axes((0, 1.02, 1, 0.14), sharex=ax)
    strip.bar(left, shares, width, align="edge", color="0.4")
    strip.text(0.02, 0.9, "share of predictions", fontsize="x-small", verticalalignment="top")
    strip.set(ylim=(0, 1), yticks=[])
    strip.tick_params(labelbottom=False, bottom=False)
    strip.spines[:].set_visible(False)


def _array(values: Any) -> Any:
    return values.cpu().numpy() if isinstance(values, Tensor) else values


def _axes(ax: Axes | None) -> Axes:
    if ax is not None:
        return ax
    try:
        import matplotlib.pyplot as plt
    except ImportError as error:
        raise ImportError("expected matplotlib, got none: pip install advcal[plots]") from error
    return plt.subplots(layout="constrained")[1]
