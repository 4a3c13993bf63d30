"""Rows of words as Markdown or LaTeX, whatever is in the words."""

import re
from collections.abc import Sequence

_LATEX = {letter: f"\\{letter}" for letter in "&%$#_{}"}
_LATEX |= {
    "±": r"$\pm$",
    "≤": r"$\leq$",
    "≥": r"$\geq$",
    "\\": r"\textbackslash{}",
    "~": r"\textasciitilde{}",
    "^": r"\textasciicircum{}",
    "<": r"\textless{}",
    ">": r"\textgreater{}",
    "|": r"\textbar{}",
}
# What means something to Markdown, and no more, so that a table reads as plain text too: a
# backslash, marks of code, formulas, emphasis and cells, tags, entities, links, and _ at the end of
# a word.
_MARKS = re.compile(r"[\\`*|~$]|<(?=[A-Za-z/!?])|&(?=#?\w+;)|(?<=\])[(\[]|(?<![^\W_])_|_(?![^\W_])")


def aligned(rows: Sequence[Sequence[str]], n_names: int) -> str:
    """Lay out rows as a Markdown table: the first is the heading, the first cells are words."""
    rows = [[_MARKS.sub(r"\\\g<0>", _one_line(cell)) for cell in row] for row in rows]
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    sides = "<" * n_names + ">" * (len(widths) - n_names)
    form = "| " + " | ".join(map("{{:{}{}}}".format, sides, widths)) + " |"
    heading, *lines = (form.format(*row) for row in rows)
    rules = {"<": ":{}-", ">": "-{}:"}
    rule = (rules[side].format("-" * width) for side, width in zip(sides, widths, strict=True))
    return "\n".join([heading, f"|{'|'.join(rule)}|", *lines])


def latex(rows: Sequence[Sequence[str]], n_names: int) -> str:
    """Lay out rows as a LaTeX tabular: words to the left, figures to the right."""
    heading, *lines = (" & ".join(map(_in_latex, row)) + r" \\" for row in rows)
    columns = "l" * n_names + "r" * (len(rows[0]) - n_names)
    start, end = rf"\begin{{tabular}}{{{columns}}}", r"\end{tabular}"
    # A rule or the end of a row would take a bracket or a star that follows for its own.
    heading, *lines = ("{}" * line.startswith(("[", "*")) + line for line in (heading, *lines))
    return "\n".join([start, r"\toprule", heading, r"\midrule", *lines, r"\bottomrule", end])


def _in_latex(cell: str) -> str:
    return "".join(_LATEX.get(letter, letter) for letter in _one_line(cell))


def _one_line(cell: str) -> str:
    """Turn breaks of lines and other controls into spaces."""
    return " ".join("".join(" " if ord(each) in _CONTROLS else each for each in cell).split())


_CONTROLS = {*range(32), *range(127, 160)}
