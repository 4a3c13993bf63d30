"""Figures against a setting: the radius of an attack, a weight, a number of levels."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from advcal import _checks
from advcal.plots import _style
from advcal.plots._style import Axes


def curves(
    settings: Sequence[float],
    curves: Mapping[Any, Sequence[Any]],
    *,
    figures: str | Sequence[str] = ("accuracy", "confidence", "mcs", "ece"),
    against: str = "eps",
    by: str | None = None,
    axes: Any = None,
    title: str | None = None,
) -> list[Axes]:
    r"""Draw figures of merit against a setting, a panel for each figure and a line for each name.

    Lines of numbers make one panel, in which a line marks 0; if there is a list of independent
    runs for each setting, the line is their mean and the shade one standard deviation. Lines of
    records make a panel for each figure.

    Args:
        settings: The radii of an attack, in units of the inputs, or values of what `against` says,
            in any order.
        curves: From the name of a line to one record per setting (what `evaluation.evaluate`
            returns, a dict of `evaluation.sweep`, or anything with these figures), or to one number
            or one list of runs per setting.
        figures: Which figures of the records to draw; or, a word alone, what the numbers are.
        against: What the settings are: `"eps"`, `"n_levels"` or another word for the axis.
        by: What the names of the lines are, if they are numbers, such as `"lam"`: the lines then go
            from dark to light as it grows.
        axes: The axes to draw on, one for each figure; a new figure if None.
        title: A title; none if None.

    Returns:
        The axes, one per figure.

    Raises:
        TypeError: If an argument is of the wrong kind.
        ValueError: If a line has not one value per setting, a record lacks a figure, a value is not
            finite, or there are too few or too many axes.

    Example:
        >>> records = {"PGD": [{"accuracy": 0.9, "mcs": 0.0}, {"accuracy": 0.1, "mcs": 0.8}]}
        >>> panels = curves([0.0, 0.1], records, figures=["accuracy", "mcs"])
        >>> [ax.get_ylabel() for ax in panels]
        ['accuracy', 'MCS']
        >>> (ax,) = curves([1, 10], {"AR-AdaLS": [0.02, 0.01]}, figures="ece", against="n_levels")
        >>> ax.get_ylabel()
        'ECE'

    References:
        Cheng et al., Towards Calibration Enhanced Network by Inverse Adversarial Attack, arXiv
        2504.06358, figures 2 and 4, by $\lambda$. Qin et al., Improving Calibration through the
        Relationship with Adversarial Robustness, NeurIPS 2021, figure 5, over the levels.
    """
    _checks.arguments(against=against, by=by, title=title)
    places = _style.row(against, settings)
    looks = _looks(_style.mapping("curves", curves), by)
    if isinstance(figures, str):
        ax = _one_panel(places, curves, looks, figures, axes)
        ax.set_xlabel(_style.word(against))
        if against == "n_levels":
            ax.set_xticks(np.unique(places))
        return [_style.finish(ax, title, legend=True, own=axes is None)]
    figures = _style.listed("figures", figures)
    grid = _panels(places, curves, looks, figures, axes)
    shown = list(grid.flat[: len(figures)])
    for i, ax in enumerate(shown):
        if axes is not None or i >= len(figures) - grid.shape[1]:
            ax.set_xlabel(_style.word(against))
            ax.tick_params(labelbottom=True)
        _style.finish(ax, None)
    if axes is None:
        _style.legend_above(shown[0], title)
    else:
        _style.finish(shown[0], title, legend=True)
    return shown


def _looks(curves: Mapping[Any, Any], by: str | None) -> dict[Any, dict[str, Any]]:
    """Return the colour, the marker and the label of each line, in the order of drawing."""
    if by is None:
        return {key: _style.style(i) | {"label": _style.named(key)} for i, key in enumerate(curves)}
    ordered = sorted(curves, key=lambda key: _checks.number(by, key))
    shades = _style.pyplot().get_cmap("viridis")(np.linspace(0, 0.85, len(ordered)))
    return {
        key: _style.style(i) | {"color": shade, "label": f"{_style.word(by)} = {key:g}"}
        for i, (key, shade) in enumerate(zip(ordered, shades, strict=True))
    }


def _one_panel(places: Any, curves: Any, looks: Any, figure: str, axes: Any) -> Axes:
    """Draw lines of numbers, with a shade of one standard deviation if there are runs."""
    found = {key: _style.spread(key, curves[key], len(places)) for key in looks}
    ax = _style.one(None) if axes is None else _style.several(axes, 1, 1, (0, 0))[0, 0]
    ax.axhline(0, color="0.5", linewidth=1, linestyle="--")
    order = np.argsort(places, kind="stable")
    for key, (means, deviations) in found.items():
        ax.plot(places[order], means[order], markersize=4, **looks[key])
        if np.isfinite(_style.array(deviations)).any():
            ends = ((means - deviations)[order], (means + deviations)[order])
            ax.fill_between(places[order], *ends, color=looks[key]["color"], alpha=0.2, linewidth=0)
    ax.autoscale(axis="y")
    shown = [_style.array(value) for values in curves.values() for value in values]
    if figure not in _style.SIGNED and all(np.min(value) >= 0 for value in shown):
        ax.set_ylim(bottom=max(0, ax.get_ylim()[0]))  # the shade alone may go below
    ax.set_ylabel(_style.word(figure))
    ax.grid(alpha=0.3)
    return ax


def _panels(places: Any, curves: Any, looks: Any, figures: Sequence[str], axes: Any) -> Any:
    """Draw lines of records, a panel for each figure; return the array of axes."""
    if not figures:
        raise ValueError(f"expected one figure or more in a list, got {figures!r}")
    for key, records in curves.items():
        if not isinstance(records, (list, tuple)):
            raise TypeError(f"expected records of {key!r} as a list, got {_checks.kind(records)}")
        if len(records) != len(places):
            raise ValueError(f"expected {len(places)} records for {key!r}, got {len(records)}")
    lines = {
        figure: {key: [_style.entry(record, figure) for record in curves[key]] for key in looks}
        for figure in figures
    }
    n, order = len(figures), np.argsort(places, kind="stable")
    rows, columns = (n, 1) if n < 4 else (-(-n // 2), 2)
    size = (_style.WIDTH, (1.5 if columns == 1 else 1.75) * rows + 0.4)
    shape = (rows, columns) if axes is None else (1, n)
    grid = _style.several(axes, *shape, size, sharex=True)
    for ax in grid.flat[n:]:
        ax.set_visible(False)
    for ax, figure in zip(grid.flat, figures, strict=False):
        if figure in _style.SIGNED:
            ax.axhline(0, color="0.5", linewidth=1, linestyle="--")
        for key, line in lines[figure].items():
            values = np.array(line)[order]
            ax.plot(places[order], values, markersize=3, linewidth=1.2, **looks[key])
        ax.set_ylabel(_style.word(figure))
        ax.grid(alpha=0.3)
    for ax, figure in zip(grid.flat, figures, strict=False):  # all drawn: axes may be shared
        if figure not in (*_style.SIGNED, "nll"):
            _style.limit(ax, -0.03, 1.03)
    return grid
