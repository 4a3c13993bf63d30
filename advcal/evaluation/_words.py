"""Numbers of a table as words: digits, percent, radii, intervals, and which is best."""

import dataclasses
import math
from collections.abc import Callable, Sequence
from typing import Any

from advcal._markup import Strong, decimal
from advcal.evaluation._rows import Row, Spread
from advcal.metrics import Interval

_SHARES = (
    *("accuracy", "confidence", "ece", "mce", "mcs"),
    *("clean_accuracy", "unchanged", "reached"),
)
# What is least for the best of several models. No confidence is better than another.
_BADNESS: dict[str, Callable[[float], float]] = {
    **dict.fromkeys(("accuracy", "clean_accuracy", "unchanged"), lambda value: -value),
    **dict.fromkeys(("ece", "mce", "nll", "brier"), lambda value: value),
    "mcs": abs,
}


@dataclasses.dataclass(frozen=True)
class Style:
    """How numbers are written."""

    intervals: str | None = None
    percent: bool = False
    digits: int | None = None
    denominator: int | None = None

    def heading(self, figure: str, heading: str) -> str:
        """Write the name of a figure, which says percent unless it was renamed."""
        if heading != figure:
            return heading
        return figure.replace("_", " ") + " (%)" * (self.percent and figure in _SHARES)

    def name(self, column: str, value: Any) -> str:
        """Write what names a row; a radius as a fraction if there is a denominator."""
        if column == "eps" and self.denominator is not None and isinstance(value, (float, int)):
            return f"{value * self.denominator:.4g}/{self.denominator}" if value else "0"
        return f"{value:.4g}" if isinstance(value, float) else "" if value is None else str(value)

    def figure(self, figure: str, value: Any) -> str:
        """Write a figure, with its interval or spread if it is to be shown."""
        if isinstance(value, Interval):
            if self.intervals is None:
                value = value.value
            elif self.intervals == "brackets":
                middle, low, high = (self._number(figure, each, 3) for each in value)
                return f"{middle} [{low}, {high}]"
            else:
                value = Spread(value.value, (value.high - value.low) / 2)
        if isinstance(value, Spread):
            return " ± ".join(self._number(figure, each, 3) for each in value)
        if isinstance(value, float):
            return self._number(figure, value, 4)
        return "" if value is None else str(value)

    def _number(self, figure: str, value: float, digits: int) -> str:
        if self.percent and figure in _SHARES:
            value, digits = 100 * value, digits - 2
        return decimal(value, digits if self.digits is None else self.digits)

    def best(self, found: Sequence[Row], column: str) -> set[tuple[int, str]]:
        """Return the places and the figures of the best of rows that differ in one column alone.

        Those that look the same as it are the best too; if all do, none is.
        """
        groups: dict[Any, list[int]] = {}
        for place, row in enumerate(found):
            key = tuple(value for name, value in row.names.items() if name != column)
            groups.setdefault(key, []).append(place)
        return {
            (place, figure)
            for group in groups.values()
            for figure in found[0].values
            for place in self._least([(i, found[i].values[figure]) for i in group], figure)
        }

    def _least(self, values: Sequence[tuple[int, Any]], figure: str) -> list[int]:
        seen: dict[int, float] = {}
        for place, value in values:
            middle = value[0] if isinstance(value, tuple) else value
            if figure in _BADNESS and isinstance(middle, float) and not math.isnan(middle):
                words = self.figure(figure, value).split()[0].replace("\N{MINUS SIGN}", "-")
                seen[place] = _BADNESS[figure](float(words))
        least = [place for place, badness in seen.items() if badness == min(seen.values())]
        return least if len(least) < len(seen) else []


def cells(
    found: Sequence[Row], columns: Sequence[str], style: Style, best: str | None
) -> list[tuple[list[str], list[str]]]:
    """Write rows: of each the words that name it and its figures, the best of them in bold."""
    chosen = set() if best is None else style.best(found, best)
    lines = []
    for place, row in enumerate(found):
        words = {figure: style.figure(figure, value) for figure, value in row.values.items()}
        lines.append(
            (
                [style.name(column, row.names[column]) for column in columns],
                [Strong(word) if (place, f) in chosen else word for f, word in words.items()],
            )
        )
    return lines
