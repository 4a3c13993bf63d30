"""Figures against a setting: the radius of an attack, a weight, a number of levels."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from advcal import _checks
from advcal.plots._style import (
    SIGNED,
    WIDTH,
    array,
    entry,
    finish,
    legend_above,
    limit,
    mapping,
    named,
    one,
    pyplot,
    row,
    several,
    spread,
    style,
    word,
)

if TYPE_CHECKING:
    from matplotlib.axes import Axes

_EPS = r"$\varepsilon$"


def against_eps(
    eps: Sequence[float],
    curves: Mapping[str, Sequence[Any]],
    *,
    ax: Axes | None = None,
    figure: str = "MCS",
    title: str | None = None,
) -> Axes:
    """Draw a figure of merit against the radius of the attack, one line per name.

    Args:
        eps: The radii, in units of the inputs.
        curves: From the name of a line to one value per radius, or to one list of values, of
            independent runs, per radius: then the line is their mean and the shade one standard
            deviation.
        ax: Where to draw; a new figure if None.
        figure: What the values are, for the axis; a line marks 0.
        title: A title; none if None.

    Returns:
        The axes.

    Raises:
        TypeError: If an argument is of the wrong kind.
        ValueError: If a line has not one value per radius, or a value is not finite.
        ImportError: If matplotlib is missing.

    Example:
        >>> against_eps([0.0, 0.1], {"PGD": [0.01, 0.4]}).get_ylabel()
        'MCS'
    """
    own = ax is None
    ax = _lines(row("eps", eps), mapping("curves", curves), ax, figure)
    ax.set_xlabel(_EPS)
    return finish(ax, title, legend=True, own=own)


def against_levels(
    n_levels: Sequence[int],
    curves: Mapping[str, Sequence[Any]],
    *,
    ax: Axes | None = None,
    figure: str = "ECE",
    title: str | None = None,
) -> Axes:
    """Draw a figure against the number R of robustness levels of adaptive smoothing.

    Args:
        n_levels: The numbers of levels.
        curves: From the name of a line to one value, or one list of values of independent runs, per
            number of levels.
        ax: Where to draw; a new figure if None.
        figure: What the values are, for the axis.
        title: A title; none if None.

    Returns:
        The axes.

    Raises:
        TypeError: If an argument is of the wrong kind.
        ValueError: If a line has not one value per number of levels, or a value is not finite.
        ImportError: If matplotlib is missing.

    Example:
        >>> against_levels([1, 10], {"AR-AdaLS": [0.02, 0.01]}).get_ylabel()
        'ECE'

    References:
        Qin et al., Improving Calibration through the Relationship with Adversarial Robustness,
        NeurIPS 2021, figure 5.
    """
    places, own = row("n_levels", n_levels), ax is None
    ax = _lines(places, mapping("curves", curves), ax, figure)
    ax.set(xlabel="number of robustness levels $R$", xticks=np.unique(places))
    ax.autoscale(axis="y")
    shown = [line.get_ydata() for line in ax.get_lines()]
    runs = [array(value) for values in curves.values() for value in values]
    if figure not in SIGNED and all(np.min(values, initial=0) == 0 for values in (*shown, *runs)):
        ax.set_ylim(bottom=max(0, ax.get_ylim()[0]))  # the shade alone may go below
    return finish(ax, title, legend=True, own=own)


def figures_against_eps(
    eps: Sequence[float],
    records: Mapping[str, Sequence[Any]],
    *,
    figures: Sequence[str] = ("accuracy", "confidence", "mcs", "ece"),
    axes: Any = None,
    title: str | None = None,
) -> list[Axes]:
    """Draw accuracy, confidence, MCS and ECE against the radius of the attack, a panel for each.

    Args:
        eps: The radii, in units of the inputs.
        records: From the name of a line to one record per radius: what `evaluation.evaluate`
            returns, a dict of `evaluation.sweep`, or anything with these figures.
        figures: Which figures to draw.
        axes: Where to draw, one for each figure; a new figure if None.
        title: A title; none if None.

    Returns:
        The axes, one per figure.

    Raises:
        TypeError: If an argument is of the wrong kind.
        ValueError: If a line has not one record per radius, a record lacks a figure, or there are
            too few or too many axes.
        ImportError: If matplotlib is missing.

    Example:
        >>> records = {"PGD": [{"accuracy": 0.9, "mcs": 0.0}, {"accuracy": 0.1, "mcs": 0.8}]}
        >>> panels = figures_against_eps([0.0, 0.1], records, figures=["accuracy", "mcs"])
        >>> [ax.get_ylabel() for ax in panels]
        ['accuracy', 'MCS']
    """
    styles = [style(i) for i in range(len(mapping("records", records)))]
    return _panels(row("eps", eps), records, figures, axes, title, styles, str)


def against_lam(
    eps: Sequence[float],
    records: Mapping[float, Sequence[Any]],
    *,
    figures: Sequence[str] = ("accuracy", "confidence", "mcs"),
    axes: Any = None,
    title: str | None = None,
) -> list[Axes]:
    r"""Draw accuracy, confidence and MCS under `iaa` against its radius, a line for each $\lambda$.

    The lines go from dark to light as $\lambda$ grows.

    Args:
        eps: The radii, in units of the inputs.
        records: From $\lambda$ to one record per radius; see `figures_against_eps`.
        figures: Which figures to draw.
        axes: Where to draw, one for each figure; a new figure if None.
        title: A title; none if None.

    Returns:
        The axes, one per figure.

    Raises:
        TypeError: If an argument is of the wrong kind.
        ValueError: If a line has not one record per radius, a record lacks a figure, or there are
            too few or too many axes.
        ImportError: If matplotlib is missing.

    Example:
        >>> records = {lam: [{"mcs": 0.0}, {"mcs": -0.1 * lam}] for lam in (1, 5)}
        >>> (ax,) = against_lam([0.0, 0.1], records, figures=["mcs"])
        >>> [line.get_label() for line in ax.get_lines()][1:]
        ['$\\lambda$ = 1', '$\\lambda$ = 5']

    References:
        Cheng et al., Towards Calibration Enhanced Network by Inverse Adversarial Attack, arXiv
        2504.06358, figures 2 and 4.
    """
    ordered = sorted(mapping("records", records), key=lambda lam: _checks.number("lam", lam))
    shades = pyplot().get_cmap("viridis")(np.linspace(0, 0.85, len(ordered)))
    styles = [style(i) | {"color": shade} for i, shade in enumerate(shades)]
    by_lam = {lam: records[lam] for lam in ordered}
    name = r"$\lambda$ = {:g}".format
    return _panels(row("eps", eps), by_lam, figures, axes, title, styles, name)


def _panels(
    eps: Any,
    records: Mapping[Any, Sequence[Any]],
    figures: Sequence[str],
    axes: Any,
    title: str | None,
    styles: Sequence[Mapping[str, Any]],
    name: Any,
) -> list[Axes]:
    for key, of_key in records.items():
        if not isinstance(of_key, (list, tuple)):
            raise TypeError(f"expected records of {key!r} as a list, got {_checks.kind(of_key)}")
        if len(of_key) != len(eps):
            raise ValueError(f"expected {len(eps)} records for {key!r}, got {len(of_key)}")
    if isinstance(figures, str) or not figures:
        raise ValueError(f"expected one figure or more in a list, got {figures!r}")
    values = {
        figure: {key: [entry(record, figure) for record in records[key]] for key in records}
        for figure in figures
    }
    n = len(figures)
    rows, columns = (n, 1) if n < 4 else (-(-n // 2), 2)
    if axes is None:
        size = (WIDTH, (1.5 if columns == 1 else 1.75) * rows + 0.4)
        grid = several(None, rows, columns, size, sharex=True)
        for ax in grid.flat[n:]:
            ax.set_visible(False)
    else:
        grid = several(axes, 1, n, (0, 0))
    for i, (ax, figure) in enumerate(zip(grid.flat, figures, strict=False)):
        if figure in SIGNED:
            ax.axhline(0, color="0.5", linewidth=1, linestyle="--")
        for (key, line), look in zip(values[figure].items(), styles, strict=True):
            ax.plot(eps, line, markersize=3, linewidth=1.2, label=named(name(key)), **look)
        ax.set_ylabel(word(figure))
        if axes is not None or i >= n - columns:
            ax.set_xlabel(_EPS)
            ax.tick_params(labelbottom=True)
        ax.grid(alpha=0.3)
        finish(ax, None)
    for ax, figure in zip(grid.flat, figures, strict=False):  # all drawn: axes may be shared
        if figure not in (*SIGNED, "nll"):
            limit(ax, -0.03, 1.03)
    if axes is None:
        legend_above(grid.flat[0], title)
    else:
        finish(grid.flat[0], title, legend=True)
    return list(grid.flat[:n])


def _lines(places: Any, curves: Mapping[Any, Any], ax: Axes | None, figure: str) -> Axes:
    """Draw one line per name, with a shade of one standard deviation where there are runs."""
    found = {name: spread(name, values, len(places)) for name, values in curves.items()}
    ax = one(ax)
    ax.axhline(0, color="0.5", linewidth=1, linestyle="--")
    for i, (name, (means, deviations)) in enumerate(found.items()):
        look = style(i)
        ax.plot(places, means, markersize=4, label=named(name), **look)
        if np.isfinite(array(deviations)).any():
            ax.fill_between(
                places,
                means - deviations,
                means + deviations,
                color=look["color"],
                alpha=0.2,
                linewidth=0,
            )
    ax.set_ylabel(word(figure))
    ax.grid(alpha=0.3)
    return ax
