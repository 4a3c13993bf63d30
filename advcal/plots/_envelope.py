"""The confidence envelope."""

from collections.abc import Mapping
from typing import Any

from advcal import _checks
from advcal.plots._style import Axes, entry, fill, finish, limit, mapping, named, one, row, style


def confidence_envelope(
    curves: Mapping[str, Any], *, ax: Axes | None = None, title: str | None = None
) -> Axes:
    """Draw how far attacks move the mean confidence at each radius while no prediction changes.

    A band per model from the lowest to the highest confidence, and its accuracy as a dashed line:
    the band above the line is overconfidence, below it underconfidence. If there are certified
    ends, a lighter band goes out to them: what attacks found is the inner band, and how far they
    can get lies between the two.

    Args:
        curves: From the name of a model to what `evaluation.confidence_envelope` returns, or to
            anything with its `eps`, `lowest`, `highest`, `accuracy` and `confidence`, and with
            `certified_lowest` and `certified_highest` if there are any.
        ax: The axes to draw on; a new figure if None.
        title: A title; none if None.

    Returns:
        The axes.

    Raises:
        TypeError: If an argument is of the wrong kind.
        ValueError: If there is not one end per radius, or a value is not finite.

    Example:
        >>> from types import SimpleNamespace
        >>> found = SimpleNamespace(
        ...     eps=[0.1, 0.2], lowest=[0.8, 0.5], highest=[0.95, 1.0], accuracy=0.9, confidence=0.9
        ... )
        >>> confidence_envelope({"standard": found}).get_ylabel()
        'mean confidence'
    """
    _checks.arguments(title=title)
    checked = []
    for name, found in mapping("curves", curves).items():
        if not all(hasattr(found, part) for part in ("eps", *_ENDS)):
            raise TypeError(f"expected curves with eps, lowest and highest, got {found!r}")
        eps = row(f"eps of {name!r}", found.eps)
        order = eps.argsort(kind="stable")
        ends = _ends_of(name, found, _ENDS, order)
        clean, eps = _checks.number("confidence", entry(found, "confidence")), eps[order]
        lines = [[clean, *end] if eps[0] > 0 else end for end in ends]
        places = [0, *eps] if eps[0] > 0 else eps
        outer = []
        if getattr(found, _CERTIFIED[0], ()):
            ends = _ends_of(name, found, _CERTIFIED, order)
            outer = [[clean, *end] if eps[0] > 0 else end for end in ends]
        checked.append((name, places, *lines, entry(found, "accuracy"), outer))
    own = ax is None
    ax = one(ax)
    for i, (name, places, lowest, highest, accuracy, outer) in enumerate(checked):
        band: Any = {"alpha": 0.2, "linewidth": 0, "label": named(name)}
        ax.fill_between(places, lowest, highest, **fill(i), **band)
        look = style(i) | {"linestyle": "-", "markersize": 3, "linewidth": 1}
        for end in (lowest, highest):
            ax.plot(places, end, **look)
        if outer:
            least, most = outer
            faint: Any = band | {"alpha": 0.1, "label": None}
            ax.fill_between(places, least, most, **fill(i), **faint)
            for end in outer:
                ax.plot(places, end, **look | {"linestyle": ":", "marker": ""})
        ax.axhline(accuracy, color=look["color"], linewidth=1.2, linestyle="--")
    ax.plot([], [], color="black", linewidth=1.2, linestyle="--", label="accuracy")
    if any(outer for *_, outer in checked):
        ax.plot([], [], color="black", linewidth=1, linestyle=":", label="certified")
    ax.set(xlabel=r"$\varepsilon$", ylabel="mean confidence")
    limit(ax, 0, 1.03)
    ax.grid(alpha=0.3)
    return finish(ax, title, legend=True, own=own)


_ENDS = ("lowest", "highest")
_CERTIFIED = ("certified_lowest", "certified_highest")


def _ends_of(name: str, found: Any, parts: tuple[str, str], order: Any) -> list[Any]:
    """Check both ends of a band, in the order of the radii."""
    ends = ((f"{part} of {name!r}", getattr(found, part)) for part in parts)
    return [row(words, values, len(order))[order] for words, values in ends]
