"""Images side by side with what a model says of them."""

import textwrap
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from advcal import _checks, _probs
from advcal.plots._style import (
    COLOURS,
    WIDTH,
    Axes,
    array,
    crowded,
    finish,
    listed,
    mapping,
    several,
)


def image_grid(
    inputs: Mapping[str, Any],
    probs: Mapping[str, Any],
    labels: Any,
    *,
    names: Sequence[str] | None = None,
    axes: Any = None,
    title: str | None = None,
) -> list[Axes]:
    """Draw clean and attacked images side by side with predictions and confidences.

    A row per example and a column per kind. The prediction stands in blue if it is the label and
    in vermilion, with a cross, if it is not; on several lines if one is too short.

    Args:
        inputs: From the name of a column to images in `[0, 1]`, `(n, channels, height, width)` with
            one or three channels, or `(n, height, width)`; tensors or NumPy arrays.
        probs: From the same names to probabilities, `(n, classes)`.
        labels: Integer labels, `(n,)`.
        names: The name of each class; its number if None.
        axes: The axes to draw on, `n` times the number of columns, row by row; new if None.
        title: A title; none if None.

    Returns:
        The axes, row by row.

    Raises:
        TypeError: If an argument is of the wrong kind or dtype.
        ValueError: If names, shapes or values do not fit.

    Example:
        >>> import torch
        >>> images, probs = torch.rand(1, 1, 8, 8), torch.tensor([[0.25, 0.75]])
        >>> (ax,) = image_grid({"clean": images}, {"clean": probs}, torch.tensor([1]))
        >>> ax.get_xlabel()
        '1, 75 %'

    References:
        Cheng et al., Towards Calibration Enhanced Network by Inverse Adversarial Attack, arXiv
        2504.06358, figures 1 and 8.
    """
    _checks.arguments(title=title)
    columns = list(mapping("inputs", inputs))
    if set(mapping("probs", probs)) != set(columns):
        raise ValueError(f"expected probs of {columns}, got {list(probs)}")
    truth = _probs.as_tensor("labels", labels)[0]
    y = array(_checks.labels(truth, len(truth) if truth.ndim else 0))
    images = {name: _images(name, inputs[name], len(y)) for name in columns}
    rows = {name: _rows(name, probs[name], len(y)) for name in columns}
    n_classes = next(iter(rows.values())).shape[1]
    words = [str(i) for i in range(n_classes)] if names is None else listed("names", names)
    if len(words) != n_classes:
        raise ValueError(f"expected {n_classes} names, got {words}")
    _checks.label_range(_checks.labels(truth, len(truth)), n_classes)
    side = WIDTH / max(3, len(columns))
    above = 0.25 if title is None else 0.5
    size = (side * len(columns), (side + 0.22) * len(y) + above)
    grid = several(axes, len(y), len(columns), size)
    for i, label in enumerate(y):
        for ax, name in zip(grid[i], columns, strict=True):
            ax.imshow(images[name][i], cmap="gray", vmin=0, vmax=1, interpolation="nearest")
            ax.set(xticks=[], yticks=[])
            predicted = int(rows[name][i].argmax())
            right = predicted == label
            mark = "" if right else "\N{MULTIPLICATION SIGN} "
            text = f"{mark}{words[predicted]}, {rows[name][i][predicted]:.0%}".replace("%", " %")
            finish(ax, name if i == 0 else None)
            ax.set_xlabel(text, fontsize="x-small", color=COLOURS[0 if right else 1], labelpad=2)
    _fit(grid, own=axes is None)
    if title is not None:
        grid.flat[0].figure.suptitle(title, fontsize="medium")
    return list(grid.flat)


def _fit(grid: Any, *, own: bool) -> None:
    """Break what is written above and below the images if it does not fit side by side."""
    figure, more = grid.flat[0].figure, 0
    wide = figure.bbox.width / figure.dpi * 72 / grid.shape[1]  # of a column, in points
    if crowded([[ax.title for ax in grid[0]]], figure):
        for ax in grid[0]:
            words = textwrap.fill(ax.get_title(), max(1, int(wide / 4)), break_long_words=False)
            ax.set_title(words, fontsize="x-small")
            more = max(more, words.count("\n"))
    if crowded([[ax.xaxis.label for ax in line] for line in grid], figure):
        for ax in grid.flat:
            word, share = ax.get_xlabel().rsplit(", ", 1)
            lines = textwrap.wrap(word, max(1, int(wide / 4)), break_long_words=False)
            ax.set_xlabel("\n".join([*lines, share]))
        more += sum(max(ax.get_xlabel().count("\n") for ax in line) for line in grid)
    if own:
        figure.set_figheight(figure.get_figheight() + 0.12 * more)


def _images(name: str, value: Any, n: int) -> Any:
    found = _probs.as_tensor(f"inputs[{name!r}]", value)[0].detach().float().cpu()
    if found.ndim == 3:
        found = found[:, None]
    if found.ndim != 4 or len(found) != n or found.shape[1] not in (1, 3):
        raise ValueError(
            f"expected inputs[{name!r}] of shape ({n}, 1 or 3, height, width), got "
            f"{_checks.kind(value)}"
        )
    least, most = (float(end) for end in found.aminmax())
    if not -1e-3 <= least <= most <= 1 + 1e-3:
        raise ValueError(
            f"expected inputs[{name!r}] in [0, 1], got values from {least:g} to {most:g}"
        )
    images = found.clamp(0, 1).permute(0, 2, 3, 1).numpy()
    return np.squeeze(images, axis=3) if images.shape[3] == 1 else images


def _rows(name: str, value: Any, n: int) -> Any:
    found = _probs.matrix(value)[0]
    if len(found) != n:
        raise ValueError(f"expected probs[{name!r}] of {n} examples, got {len(found)}")
    return array(_probs.sound(found).float())
