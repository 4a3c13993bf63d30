"""The reliability diagram."""

from typing import Any

import numpy as np

from advcal import _checks
from advcal.metrics import ReliabilityBins
from advcal.plots._style import COLOURS, Axes, array, finish, one


def reliability_diagram(
    bins: ReliabilityBins[Any],
    *,
    ax: Axes | None = None,
    title: str | None = None,
    band: tuple[Any, Any] | None = None,
    interval: Any = None,
    positive: int | None = None,
) -> Axes:
    """Draw accuracy against confidence per bin, with the gaps and the share of predictions.

    A bar is a bin's accuracy; the hatched part is the gap to its mean confidence, in one colour
    if the model is overconfident and in another if it is underconfident. The strip on top
    shows how the predictions are spread. A bin whose bar ends outside the grey band is evidence
    against calibration.

    Args:
        bins: The table.
        ax: The axes to draw on; a new figure if None.
        title: A title; none if None.
        band: The lower and the upper ends, each `(n_bins,)`, of where the accuracies of a
            calibrated model lie, as from `metrics.consistency_bands`; not drawn if None.
        interval: `(low, high)`, or what `metrics.bootstrap` returns: of the accuracy of each bin,
            each `(n_bins,)`, for error bars; or of the ECE, two numbers, for the text.
        positive: The class that the table is of, as in `metrics.reliability_bins`, to name the axes
            by; of the predicted class if None.

    Returns:
        The axes.

    Raises:
        TypeError: If `bins` is not a `ReliabilityBins`, or an argument is of the wrong kind.
        ValueError: If the ends of the band or the interval have another shape.

    Example:
        >>> import torch
        >>> from advcal.metrics import reliability_bins
        >>> bins = reliability_bins(torch.tensor([[0.9, 0.1]]), torch.tensor([0]))
        >>> reliability_diagram(bins).get_xlabel()
        'confidence'

    References:
        Guo et al., On Calibration of Modern Neural Networks, ICML 2017, figure 4; Bröcker & Smith,
        Increasing the Reliability of Reliability Diagrams, Weather and Forecasting 22, 2007.
    """
    if not isinstance(bins, ReliabilityBins):
        raise TypeError(f"expected bins as ReliabilityBins, got {_checks.kind(bins)}")
    _checks.arguments(title=title)
    drawn_band = None if band is None else _ends("band", band, bins.n_bins)
    ends = None if interval is None else _ends("interval", interval, bins.n_bins, scalar=True)
    ax = one(ax, 3.3)
    edges, counts = array(bins.edges), array(bins.counts)
    occupied = counts > 0
    left, width = edges[:-1][occupied], np.diff(edges)[occupied]
    accuracy = array(bins.bin_accuracy)[occupied]
    ax.plot([0, 1], [0, 1], color="0.5", linewidth=1, linestyle="--", zorder=3)
    _bars(ax, left, width, accuracy, array(bins.bin_confidence)[occupied])
    if drawn_band is not None:
        low, high = (end[occupied] for end in drawn_band)
        look: dict[str, Any] = {"color": "black", "alpha": 0.25, "linewidth": 0, "zorder": 2.5}
        ax.bar(left, high - low, width, bottom=low, align="edge", label="if calibrated", **look)
    if ends is not None and ends[0].ndim:
        low, high = (end[occupied] for end in ends)
        reach = [np.clip(accuracy - low, 0, None), np.clip(high - accuracy, 0, None)]
        look = {"fmt": "none", "ecolor": "black", "elinewidth": 1, "capsize": 2, "zorder": 3.5}
        ax.errorbar(left + width / 2, accuracy, reach, label="interval", **look)
    _counts_strip(ax, left, width, counts[occupied] / counts.sum())
    ax.set(xlim=(0, 1), ylim=(0, 1), xlabel="confidence", ylabel="accuracy", aspect="equal")
    if positive is not None:
        _checks.count("positive", positive, least=0)
        ax.set(xlabel=f"probability of class {positive}", ylabel=f"share of class {positive}")
    _figures(ax, bins, None if ends is None or ends[0].ndim else ends)
    return finish(ax, title)


def _bars(ax: Axes, left: Any, width: Any, accuracy: Any, confidence: Any) -> None:
    """Draw the accuracy of each bin, and the gap to its confidence hatched."""
    ax.bar(
        left, accuracy, width, align="edge", color=COLOURS[5], edgecolor="white", label="accuracy"
    )
    over = confidence >= accuracy
    look: dict[str, Any] = {"facecolor": "none", "hatch": "////", "linewidth": 1}
    for label, mask, colour in (
        ("overconfident by", over, COLOURS[1]),
        ("underconfident by", ~over, COLOURS[2]),
    ):
        if mask.any():
            gaps = (confidence - accuracy)[mask]
            base = {"bottom": accuracy[mask], "align": "edge", "edgecolor": colour}
            ax.bar(left[mask], gaps, width[mask], label=label, **base, **look)


def _figures(ax: Axes, bins: ReliabilityBins[Any], ends: Any) -> None:
    """Write the ECE, with its interval if there is one, the MCS and the number of predictions."""
    ece = f"ECE {float(bins.ece):.3f}"
    if ends is not None:
        ece += f"\n[{float(ends[0]):.3f}, {float(ends[1]):.3f}]"
    # Overconfident tables leave the upper left corner free, underconfident ones the lower right.
    x, y, side = (0.04, 0.96, "left") if float(bins.mcs) >= 0 else (0.96, 0.04, "right")
    ax.text(
        x,
        y,
        f"{ece}\nMCS {float(bins.mcs):+.3f}\nn {float(bins.n):,.10g}",
        transform=ax.transAxes,
        horizontalalignment=side,
        verticalalignment="top" if side == "left" else "bottom",
        fontsize="x-small",
        bbox={"facecolor": "white", "edgecolor": "none", "alpha": 0.85, "pad": 2},
        zorder=4,
    )


def _counts_strip(ax: Axes, left: Any, width: Any, shares: Any) -> None:
    """Draw the share of predictions per bin in a strip above the axes, and make room for it."""
    if ax.get_axes_locator() is None:
        ax.set_axes_locator(_BelowStrip(ax))
    strip = ax.inset_axes((0, 1.02, 1, 0.14), sharex=ax)
    strip.bar(left, shares, width, align="edge", color="0.4")
    strip.text(0.02, 0.9, "share of predictions", fontsize="x-small", verticalalignment="top")
    strip.set(ylim=(0, 1), yticks=[])
    strip.tick_params(labelbottom=False, bottom=False)
    strip.spines[:].set_visible(False)


class _BelowStrip:
    """Leave the upper part of the place that a layout gives to axes to the strip."""

    def __init__(self, ax: Axes) -> None:
        self._ax = ax

    def __call__(self, ax: Any, renderer: Any) -> Any:
        return ax.get_position(original=True).shrunk(1, 1 / 1.16)

    def get_subplotspec(self) -> Any:
        """Return the place in a grid, for `tight_layout`."""
        return self._ax.get_subplotspec()


def _ends(name: str, value: Any, n_bins: int, *, scalar: bool = False) -> tuple[Any, Any]:
    """Check `(low, high)`, the last two of an `Interval`, each `(n_bins,)` or a number."""
    if not isinstance(value, (tuple, list)) or len(value) not in (2, 3):
        raise TypeError(f"expected {name} as (low, high), got {_checks.kind(value)}")
    low, high = (array(end) for end in value[-2:])
    shapes = [(n_bins,), ()] if scalar else [(n_bins,)]
    if low.shape != high.shape or low.shape not in shapes:
        raise ValueError(
            f"expected {name} of two ends of shape ({n_bins},){' or ()' if scalar else ''}, got "
            f"{low.shape} and {high.shape}"
        )
    if (low > high).any():
        raise ValueError(f"expected {name} with low <= high, got {low} and {high}")
    return low, high
