"""The transfer matrix as a heat map."""

from collections.abc import Mapping
from typing import Any

import numpy as np
from torch import Tensor

from advcal import _checks
from advcal.plots._style import SIGNED, Axes, crowded, entry, finish, mapping, one, word


def transfer_matrix(
    records: Mapping[tuple[str, str], Any],
    *,
    figure: str = "accuracy",
    ax: Axes | None = None,
    title: str | None = None,
) -> Axes:
    """Draw a figure for every pair of a model that was attacked and a model that was scored.

    Args:
        records: `(source, target)` to a number or a record, as from `evaluation.transfer`; one for
            each pair.
        figure: Which figure of the records to draw; MCS gets colours that part at 0.
        ax: The axes to draw on; a new figure if None.
        title: A title; none if None.

    Returns:
        The axes: sources from top to bottom, targets from left to right.

    Raises:
        TypeError: If an argument is of the wrong kind.
        ValueError: If a pair or a figure is missing, or a value is not finite.

    Example:
        >>> found = {("a", "a"): 0.1, ("a", "b"): 0.6, ("b", "a"): 0.5, ("b", "b"): 0.0}
        >>> [text.get_text() for text in transfer_matrix(found).texts]
        ['0.10', '0.60', '0.50', '0.00']

    References:
        Cheng et al., Towards Calibration Enhanced Network by Inverse Adversarial Attack, arXiv
        2504.06358, table 3.
    """
    _checks.arguments(figure=figure, title=title)
    for key in mapping("records", records):
        if not isinstance(key, tuple) or len(key) != 2:
            raise TypeError(f"expected records by (source, target), got {key!r}")
    sources, targets = (list(dict.fromkeys(names)) for names in zip(*records, strict=True))
    values = np.empty((len(sources), len(targets)))
    for i, source in enumerate(sources):
        for j, target in enumerate(targets):
            if (source, target) not in records:
                raise ValueError(f"expected a record of every pair, got none of {source, target}")
            found = records[source, target]
            plain = isinstance(found, (int, float, np.number, np.ndarray, Tensor))
            values[i, j] = _checks.figure(figure, found) if plain else entry(found, figure)
    signed = figure in SIGNED
    most = max(1e-12, float(np.abs(values).max())) if signed else max(1.0, float(values.max()))
    least = -most if signed else min(0.0, float(values.min()))
    own = ax is None
    ax = one(ax, 0.8 + 0.55 * len(sources))
    shown = ax.imshow(
        values, cmap="PuOr_r" if signed else "cividis", vmin=least, vmax=most, aspect="auto",
    )  # fmt: skip
    cells = np.empty(values.shape, dtype=object)
    for (i, j), value in np.ndenumerate(values):
        red, green, blue, _ = shown.to_rgba(np.array([value]))[0]
        dark = 0.299 * red + 0.587 * green + 0.114 * blue < 0.45
        rounded = round(float(value), 2) + 0.0  # no -0.00
        text = f"{rounded:+.2f}" if signed else f"{rounded:.2f}"
        cells[i, j] = ax.text(
            j, i, text, color="white" if dark else "black", fontsize="small",
            horizontalalignment="center", verticalalignment="center",
        )  # fmt: skip
    ax.set_xticks(range(len(targets)), targets)
    ax.set_yticks(range(len(sources)), sources)
    ax.set(xlabel=f"scored on ({word(figure)})", ylabel="crafted on")
    ax.spines[:].set_visible(False)
    ax.tick_params(length=0)
    finish(ax, title)
    if crowded([ax.get_xticklabels()], ax.figure):
        ax.tick_params(axis="x", labelrotation=90)
        if own:
            whole: Any = ax.figure
            longest = max(label.get_window_extent().height for label in ax.get_xticklabels())
            whole.set_figheight(whole.get_figheight() + longest / whole.dpi - 0.1)
    if crowded(cells, ax.figure):
        for cell in cells.flat:
            cell.set_rotation(90)
    return ax
