"""Rows of words as Markdown, LaTeX or HTML, whatever is in the words."""

import re
from collections.abc import Callable, Sequence
from html import escape

Rows = Sequence[Sequence[str]]  # the heading first
Groups = Sequence[tuple[str, int]]  # a heading above the heading, and how many columns it is above

_LATEX = {letter: f"\\{letter}" for letter in "&%$#_{}"}
_LATEX |= {
    "±": r"$\pm$",
    "≤": r"$\leq$",
    "≥": r"$\geq$",
    "\N{MINUS SIGN}": "$-$",
    "∞": r"$\infty$",
    "↑": r"$\uparrow$",
    "↓": r"$\downarrow$",
    "α": r"$\alpha$",  # noqa: RUF001
    "β": r"$\beta$",
    "δ": r"$\delta$",
    "ε": r"$\varepsilon$",
    "λ": r"$\lambda$",
    "σ": r"$\sigma$",  # noqa: RUF001
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


class Strong(str):
    """A cell in bold."""

    __slots__ = ()


class Text(str):
    """A text that notebooks show as HTML."""

    __slots__ = ("shown",)
    shown: str

    def __new__(cls, text: str, shown: str = "") -> "Text":
        """Take the text and how notebooks show it."""
        made = super().__new__(cls, text)
        made.shown = shown
        return made

    def _repr_html_(self) -> str:
        return self.shown


def decimal(value: float, digits: int) -> str:
    """Write a number with a real minus sign, and none in front of what rounds to zero."""
    shown = f"{value:.{digits}f}"
    if not any(each not in "-0." for each in shown):
        shown = shown.lstrip("-")
    return shown.replace("-", "\N{MINUS SIGN}")


def aligned(rows: Rows, n_names: int, groups: Groups = ()) -> str:
    """Lay out rows as a Markdown table: the first is the heading, the first cells are words.

    Markdown has no headings above headings: a group is named in each of its own.
    """
    above = [""] * n_names + [word for word, width in groups for _ in range(width)]
    if groups:
        heading = [" ".join(words).strip() for words in zip(above, rows[0], strict=True)]
        rows = [heading, *rows[1:]]
    rows = [[_marked(cell, _in_markdown, "**{}**") for cell in row] for row in rows]
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    sides = "<" * n_names + ">" * (len(widths) - n_names)
    form = "| " + " | ".join(map("{{:{}{}}}".format, sides, widths)) + " |"
    heading_line, *lines = (form.format(*row) for row in rows)
    rules = {"<": ":{}-", ">": "-{}:"}
    rule = (rules[side].format("-" * width) for side, width in zip(sides, widths, strict=True))
    return "\n".join([heading_line, f"|{'|'.join(rule)}|", *lines])


def latex(rows: Rows, n_names: int, groups: Groups = ()) -> str:
    """Lay out rows as a LaTeX tabular: words to the left, figures to the right."""
    cells = [[_marked(cell, _in_latex, r"\textbf{{{}}}") for cell in row] for row in rows]
    heading, *lines = (" & ".join(row) + r" \\" for row in cells)
    columns = "l" * n_names + "r" * (len(rows[0]) - n_names)
    start, end = rf"\begin{{tabular}}{{{columns}}}", r"\end{tabular}"
    # A rule or the end of a row would take a bracket or a star that follows for its own.
    heading, *lines = ("{}" * line.startswith(("[", "*")) + line for line in (heading, *lines))
    top = [r"\toprule", *_above(n_names, groups), heading, r"\midrule"]
    return "\n".join([start, *top, *lines, r"\bottomrule", end])


def _above(n_names: int, groups: Groups) -> list[str]:
    """Return the headings of groups, each centred above a rule as wide as its columns."""
    if not groups:
        return []
    cells, rules, first = [""] * n_names, [], n_names + 1
    for word, width in groups:
        cells.append(rf"\multicolumn{{{width}}}{{c}}{{{_in_latex(word)}}}")
        if word:
            rules.append(rf"\cmidrule(lr){{{first}-{first + width - 1}}}")
        first += width
    return [" & ".join(cells).strip() + r" \\", " ".join(rules)]


def html(rows: Rows, n_names: int = 1, groups: Groups = ()) -> str:
    """Lay out rows as an HTML table, in the colours of the page around it."""
    heading, *rest = (
        [_marked(cell, _in_html, "<strong>{}</strong>") for cell in row] for row in rows
    )
    lines = ["".join(f"<td>{cell}</td>" for cell in row) for row in rest]
    above = "<th></th>" * n_names
    above += "".join(f'<th colspan="{n}">{_in_html(word)}</th>' for word, n in groups)
    tops = [above] if groups else []
    tops.append("".join(f"<th>{cell}</th>" for cell in heading))
    return f"<table>{''.join(f'<tr>{line}</tr>' for line in (*tops, *lines))}</table>"


def _marked(cell: str, write: Callable[[str], str], bold: str) -> str:
    return bold.format(write(cell)) if isinstance(cell, Strong) else write(cell)


def _in_markdown(cell: str) -> str:
    return _MARKS.sub(r"\\\g<0>", _one_line(cell))


def _in_latex(cell: str) -> str:
    return "".join(_LATEX.get(letter, letter) for letter in _one_line(cell))


def _in_html(cell: str) -> str:
    """Escape what HTML would read, and keep an interval on one line."""
    return re.sub(r"\[(\S+), (\S+)\]", "[\\1,\N{NO-BREAK SPACE}\\2]", escape(_one_line(cell)))


def _one_line(cell: str) -> str:
    """Turn breaks of lines and other controls into spaces."""
    return " ".join("".join(" " if ord(each) in _CONTROLS else each for each in cell).split())


_CONTROLS = {*range(32), *range(127, 160)}
