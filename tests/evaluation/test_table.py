"""Records as aligned text."""

import csv
import dataclasses
import io
import pickle
import re

import numpy as np
import pytest
import torch

from advcal.evaluation import evaluate, rows, table


def record(scale=1.0, n=2):
    labels = torch.arange(n) % 2
    return evaluate(torch.nn.Identity(), [(scale * torch.eye(2)[labels], labels)])


RECORDS = {
    ("small", "none"): record(),
    ("a much longer name", "PGD-100"): record(-900.0, 12_345),
    ("ε", "é"): record(5.0),
}


def test_by_hand():
    got = table(RECORDS, columns=("training", "attack"), figures=("n", "clean_accuracy", "nll"))
    assert got.splitlines() == [
        "| training           | attack  |     n | clean accuracy |      nll |",
        "|:-------------------|:--------|------:|---------------:|---------:|",
        "| small              | none    |     2 |         1.0000 |   0.3133 |",
        "| a much longer name | PGD-100 | 12345 |         0.0000 | 900.0000 |",
        "| ε                  | é       |     2 |         1.0000 |   0.0067 |",
    ]


@pytest.mark.parametrize("figures", [None, ["n"], ["ece", "mce", "mcs", "unchanged"]])
def test_every_line_is_as_long(figures):
    lines = table(RECORDS, **({"figures": figures} if figures else {})).splitlines()
    assert len(lines) == 2 + len(RECORDS)
    assert len({len(line) for line in lines}) == 1
    positions = {tuple(i for i, char in enumerate(line) if char == "|") for line in lines}
    assert len(positions) == 1


def test_the_order_is_that_of_the_records_and_figures():
    lines = table(RECORDS, figures=("ece", "n")).splitlines()
    assert [line.split("|")[1].strip() for line in lines[2:]] == [key[0] for key in RECORDS]
    assert lines[0].index("ece") < lines[0].index(" n ")


def test_every_figure_can_be_shown():
    figures = [field.name for field in dataclasses.fields(RECORDS["small", "none"])]
    for name in ("bins", "intervals"):
        figures.remove(name)
    heading = table(RECORDS, figures=figures).splitlines()[0]
    assert all(figure.replace("_", " ") in heading for figure in figures)


def test_accuracy_under_attack_never_stands_alone():
    heading = table(RECORDS).splitlines()[0]
    assert {"clean accuracy", "accuracy", "ece", "mcs"} <= {
        cell.strip() for cell in heading.split("|")
    }


def test_one_word_or_three():
    one, (first, *_) = record(), RECORDS.values()
    lines = table({("x",): one}, columns=["model"], figures=["n"]).splitlines()
    assert lines == ["| model | n |", "|:------|--:|", "| x     | 2 |"]
    assert "| c |" in table({("a", "b", "c"): first}, columns=["m", "n", "o"], figures=["n"])


def test_runs_are_shown_as_mean_and_standard_deviation():
    runs = [record(), record(5.0), record(-900.0)]
    values = np.array([run.nll for run in runs])
    expected = f"{values.mean():.3f} ± {values.std(ddof=1):.3f}"
    for found in (runs, tuple(runs)):
        lines = table({("x", "y"): found}, figures=("n", "nll")).splitlines()
        assert [cell.strip() for cell in lines[2].split("|")[3:5]] == ["2", expected]


def test_runs_of_other_sizes_and_one_run():
    sizes = table({("x", "y"): [record(n=2), record(n=4)]}, figures=("n",)).splitlines()[2]
    assert "3.000 ± 1.414" in sizes
    alone, listed = ({("x", "y"): each} for each in (record(), [record()]))
    assert table(alone) == table(listed)


def test_runs_in_latex_and_csv():
    records = {("a", "b"): [record(), record(5.0)], ("c", "d"): record()}
    assert r"0.160 $\pm$ 0.217" in table(records, figures=("nll",), format="latex")
    heading, many, alone = table(records, figures=("n", "nll"), format="csv").splitlines()
    assert heading == "model,attack,n,nll,nll_std"
    values = [run.nll for run in records["a", "b"]]
    assert [float(cell) for cell in many.split(",")[2:]] == pytest.approx(
        [2, np.mean(values), np.std(values, ddof=1)]
    )
    assert alone == f"c,d,2,{record().nll},"


# fmt: off
BAD = {
    "no runs": ({("x", "y"): []}, {}, ValueError, r"one run or more for \('x', 'y'\), got none"),
    "runs of numbers": ({("x", "y"): [record(), 0.5]}, {}, TypeError, ".*got float"),
    "no records": ({}, {}, ValueError, "one record or more, got none"),
    "too few words": (
        {("x", "y"): record(), "x": record()}, {}, ValueError, "2 words to name a row, got 'x'"
    ),
    "too many words": ({("x", "y", "z"): record()}, {}, ValueError, "2 words to name a row, got"),
    "one word for two": (
        {"ab": record()}, {"columns": ["m", "a"]}, ValueError, "2 words to name a row, got 'ab'"
    ),
    "a number": ({3: record()}, {}, ValueError, "2 words to name a row, got 3"),
    "across nothing": (RECORDS, {"across": "eps"}, ValueError, "across to be one of .*'eps'"),
    "best of nothing": (RECORDS, {"best": "eps"}, ValueError, "best to be one of .*'eps'"),
    "part of a digit": (RECORDS, {"digits": 0.5}, TypeError, "digits .*"),
    "no denominator": (RECORDS, {"denominator": 0}, ValueError, "denominator .*"),
    "a number of percent": (RECORDS, {"percent": 1}, TypeError, "percent .*"),
    "a number of stacked": (RECORDS, {"stacked": 1}, TypeError, "stacked .*"),
    "headings alike": (RECORDS, {"figures": {"n": "x", "ece": "x"}}, ValueError, ".*'x' twice"),
    "two in one place": (
        [{"m": "a", "eps": 1, "data": d, "ece": 0.5} for d in "ab"],
        {"columns": ["m", "eps"], "across": "eps", "figures": ["ece"]},
        ValueError,
        r"one record for \['a', '1'\], got two",
    ),
    "a list": ([record()], {}, TypeError, "records as .*, got list"),
    "no record": ({("x", "y"): 0.5}, {}, TypeError, ".*got float"),
    "unknown figure": (RECORDS, {"figures": ["auroc"]}, ValueError, "figure.* 'auroc'"),
}
# fmt: on


@pytest.mark.parametrize("case", BAD)
def test_bad_arguments_are_refused(case):
    records, options, error, match = BAD[case]
    with pytest.raises(error, match=f"expected {match}"):
        table(records, **options)


def test_runs_of_infinite_nll():
    masked = torch.tensor([0.0, -float("inf")])
    record = evaluate(lambda inputs: inputs + masked, [(torch.eye(2), torch.tensor([0, 1]))])
    assert "inf ± nan" in table(
        {("model",): [record, record]}, columns=("model",), figures=("nll",)
    )


def test_every_figure_of_a_record_has_an_interval_and_the_table_shows_it():
    one = record(n=50)
    figures = [name for name in one.intervals if name != "mce"]
    assert {*figures, "mce"} == set(one.as_dict()) - {"n", "bins", "intervals"}
    for name, (low, high) in one.intervals.items():
        assert low <= getattr(one, name) <= high
        assert low < high
    low, high = one.intervals["accuracy"]
    shown = {
        "brackets": f"1.000 [{low:.3f}, {high:.3f}]",
        "plus_minus": f"1.000 ± {(high - low) / 2:.3f}",
    }
    for intervals, wanted in shown.items():
        for records in ({("x", "y"): one}, [{"model": "x", "attack": "y", **one.as_dict()}]):
            options = {"columns": ("model", "attack"), "figures": ("n", "accuracy")}
            lines = table(records, intervals=intervals, **options).splitlines()
            assert [cell.strip() for cell in lines[2].split("|")[3:5]] == ["50", wanted]
            heading, row = table(records, intervals=intervals, format="csv", **options).splitlines()
            assert heading == "model,attack,n,accuracy,accuracy_low,accuracy_high"
            assert row == f"x,y,50,1.0,{low},{high}"
    runs = {("x", "y"): [one, record(5.0, n=50)], ("x", "z"): one}
    lines = table(runs, figures=["nll"], intervals="brackets").splitlines()
    assert "±" in lines[2]
    assert "[" in lines[3]
    old = {name: value for name, value in one.as_dict().items() if name != "intervals"}
    assert "1.0000" in table([old | {"m": "x"}], columns=["m"], intervals="brackets")
    with pytest.raises(ValueError, match="intervals to be one of 'brackets', 'plus_minus', got"):
        table(RECORDS, intervals="std")


# --- names of any kind -----------------------------------------------------------------------

NAMES = [
    "[a] b", "*", "[1em]", "a\nb", "a\r\n\tb", "a\u2028b", "a | b", "|", "\\|", "a\\",
    "<b>bold</b>",
    "<!-- x -->", "a < b > c", "x & y", "&lt;", "&amp", "50 %", "a_b", "_a_", "__a__", "a__b",
    "*a*",
    "`code`", "~~a~~", "$x$", "[a](b)", "[a][b]", "![a](b)", "# a", "- a", "a^2 {b} ~c", "ε ± 1",
    "", " ", "\x00a\x1b", "https://example.org/a_b",
]  # fmt: skip


def one_line(name):
    return " ".join("".join(each if each.isprintable() else " " for each in name).split())


@pytest.mark.parametrize("name", NAMES)
def test_any_name_is_itself_in_markdown(name):
    parser = pytest.importorskip("markdown_it").MarkdownIt("commonmark").enable("table")
    parser.enable("strikethrough")
    text = table({(name, "none"): record(), ("b", name): record()}, figures=["n"])
    assert len(text.splitlines()) == 4
    tokens = parser.parse(text)
    cells = [token for token in tokens if token.type == "inline"]
    assert len(cells) == 9
    for cell, wanted in zip(cells[3:], [name, "none", "2", "b", name, "2"], strict=True):
        assert [part.type for part in cell.children] in ([], ["text"]), wanted
        assert cell.content == "" or cell.children[0].content == one_line(wanted)


PLAIN = ["PGD-20", "clean_accuracy", "λ = 5", "a [3, 5]", "x >= 0.1", "x <= 0.1", "R & D", "(a, b)"]


@pytest.mark.parametrize("name", PLAIN)
def test_a_plain_name_stays_plain_in_markdown(name):
    assert f"| {name} | none " in table({(name, "none"): record()}, figures=["n"])


@pytest.mark.parametrize("name", NAMES)
def test_any_name_is_one_cell_of_latex(name):
    text = table({(name, "none"): record(), ("b", name): record()}, figures=["n"], format="latex")
    lines = text.splitlines()
    assert len(lines) == 8
    for line in lines[4:6]:
        assert line.endswith(r" \\")
        assert not line.lstrip().startswith(("[", "*"))
        assert len(re.findall(r"(?<!\\)&", line)) == 2
        assert not re.search(r"(?<!\\)[%#_]|[<>|~^]", line[:-3])
        assert line.count("{") - line.count(r"\{") == line.count("}") - line.count(r"\}")
    heading = table({("a",): record()}, columns=["[x]"], figures=["n"], format="latex")
    assert heading.splitlines()[2] == r"{}[x] & n \\"


@pytest.mark.parametrize("name", NAMES)
def test_any_name_is_itself_in_csv(name):
    text = table({(name, "none"): record()}, figures=["n"], format="csv")
    rows = list(csv.reader(io.StringIO(text, newline="")))
    assert rows == [["model", "attack", "n"], [name, "none", "2"]]


def test_radii_keep_all_digits_in_csv():
    given = [{"model": "m", "eps": eps, "ece": 1 / 3} for eps in (0.5 / 255, 1 / 3, None)]
    options = {"columns": ["model", "eps"], "figures": ["ece"]}
    rows = list(csv.reader(io.StringIO(table(given, format="csv", **options))))
    assert [row[1] for row in rows[1:]] == [repr(0.5 / 255), repr(1 / 3), ""]
    assert {float(row[2]) for row in rows[1:]} == {1 / 3}
    assert "| m     | 0.001961 |" in table(given, **options)


def test_a_figure_of_some_records_alone():
    aimed = evaluate(
        torch.nn.Identity(),
        [(torch.eye(2), torch.tensor([0, 1]))],
        lambda model, inputs, labels: inputs,
        targets=lambda labels: 1 - labels,
    )
    assert aimed.reached == 0
    given = {("a", "x"): aimed, ("b", "x"): record(), ("c", "x"): [record(), record()]}
    lines = table(given, figures=["n", "reached"]).splitlines()
    assert [line.split("|")[4].strip() for line in lines[2:]] == ["0.0000", "", ""]
    brackets = table(given, figures=["reached"], intervals="brackets").splitlines()
    assert brackets[2].split("|")[3].strip() == "0.000 [0.000, 0.842]"


# --- tables to publish -----------------------------------------------------------------------


MINUS = "\N{MINUS SIGN}"


def cells_of(line):
    return [cell.strip() for cell in line.split("|")[1:-1]]


def swept(values, **others):
    """Records as `sweep` returns them, from (model, attack, eps) to figures."""
    return [
        {"model": model, "data": "test", "attack": attack, "eps": eps} | others | figures
        for (model, attack, eps), figures in values.items()
    ]


GRID = swept(
    {
        ("plain", "PGD", 4 / 255): {"accuracy": 0.25, "mcs": 0.5, "confidence": 0.75, "nll": 2.0},
        ("plain", "PGD", 8 / 255): {"accuracy": 0.0, "mcs": 0.9, "confidence": 0.9, "nll": 9.0},
        ("AT", "PGD", 4 / 255): {"accuracy": 0.5, "mcs": -0.25, "confidence": 0.25, "nll": 1.0},
        ("AT", "PGD", 8 / 255): {"accuracy": 0.375, "mcs": -0.00001, "confidence": 0.375, "nll": 1},
    }
)


def test_one_word_names_a_row():
    one, two = record(), record(5.0)
    lines = table({"a": one, ("b",): two}, figures=["n"]).splitlines()
    assert lines == ["| model | n |", "|:------|--:|", "| a     | 2 |", "| b     | 2 |"]
    assert table({"a": one}) == table({("a",): one}, columns=["model"])


def test_columns_and_figures_are_renamed_in_every_format():
    options = {"columns": {"model": "Network", "eps": "ε"}, "figures": {"accuracy": "Acc. ↑"}}
    assert cells_of(table(GRID, **options).splitlines()[0]) == ["Network", "ε", "Acc. ↑"]
    heading = table(GRID, format="latex", **options).splitlines()[2]
    assert heading == r"Network & $\varepsilon$ & Acc. $\uparrow$ \\"
    assert table(GRID, format="csv", **options).startswith("Network,ε,Acc. ↑\n")
    assert [*rows(GRID, **options)[0]] == ["Network", "ε", "Acc. ↑"]


@pytest.mark.parametrize(
    ("eps", "shown"),
    [(8 / 255, "8/255"), (0.5 / 255, "0.5/255"), (0.0, "0"), (None, ""), (1, "255/255")],
)
def test_radii_as_fractions(eps, shown):
    [line] = table(
        [{"eps": eps, "n": 2}], columns=["eps"], figures=["n"], denominator=255
    ).splitlines()[2:]
    assert cells_of(line)[0] == shown


def test_percent_is_of_shares_alone():
    figures = ["accuracy", "mcs", "nll"]
    heading, _, *lines = table(GRID, figures=figures, percent=True).splitlines()
    assert cells_of(heading)[4:] == ["accuracy (%)", "mcs (%)", "nll"]
    assert [cells_of(line)[4:] for line in lines] == [
        ["25.00", "50.00", "2.0000"],
        ["0.00", "90.00", "9.0000"],
        ["50.00", MINUS + "25.00", "1.0000"],
        ["37.50", "0.00", "1"],
    ]
    few = table(GRID, figures=figures, percent=True, digits=0).splitlines()
    assert cells_of(few[4])[4:] == ["50", MINUS + "25", "1"]
    one = record(n=50)
    low, high = one.intervals["accuracy"]
    shown = table({"x": one}, figures=["accuracy"], percent=True, intervals="brackets")
    assert f"100.0 [{100 * low:.1f}, {100 * high:.1f}]" in shown
    plain = table(GRID, figures=figures, format="csv")
    assert table(GRID, figures=figures, percent=True, digits=0, format="csv") == plain


def test_a_figure_has_a_row_if_stacked():
    figures = ["accuracy", "nll"]
    plain = table(GRID, figures=figures, best="model").splitlines()
    heading, _, *lines = table(GRID, figures=figures, best="model", stacked=True).splitlines()
    assert cells_of(heading) == [*cells_of(plain[0])[:4], "figure", "value"]
    wide = [cells_of(line) for line in plain[2:]]
    assert [cells_of(line) for line in lines] == [
        [*names, figure, cell]
        for *names, accuracy, nll in wide
        for figure, cell in (("accuracy", accuracy), ("nll", nll))
    ]


@pytest.mark.parametrize("format", ["markdown", "latex"])
def test_stacked_figures_stand_beside_each_other_across_a_column(format):
    options = {"figures": ["accuracy", "mcs"], "across": "model", "percent": True}
    found = table(GRID, columns=["model", "eps"], stacked=True, format=format, **options)
    split = {"markdown": cells_of, "latex": lambda line: line.removesuffix(r" \\").split(" & ")}
    lines = [
        split[format](line) for line in found.splitlines() if "0.03" in line or "plain" in line
    ]
    assert lines[0] == ["eps", "figure", "plain", "AT"]
    percent = r"(\%)" if format == "latex" else "(%)"
    assert lines[1] == ["0.03137", f"accuracy {percent}", "0.00", "37.50"]
    assert lines[2] == ["0.03137", f"mcs {percent}", "90.00", "0.00"]


def test_a_stacked_table_with_intervals_fits_into_a_terminal():
    found = table({("small_cnn", "pgd"): record(n=50)}, intervals="brackets", stacked=True)
    assert max(map(len, found.splitlines())) < 80
    low, high = record(n=50).intervals["ece"]
    assert f"[{low:.3f}, {high:.3f}]" in found


def test_minus_signs_are_real_ones():
    lines = table(GRID, figures=["mcs"], format="latex").splitlines()
    assert [line.split(" & ")[-1] for line in lines[4:8]] == [
        *(r"0.5000 \\", r"0.9000 \\", r"$-$0.2500 \\", r"0.0000 \\")
    ]
    assert "-0.25" in table(GRID, figures=["mcs"], format="csv")


def test_the_best_of_each_radius_is_bold():
    figures = ["accuracy", "mcs", "confidence", "nll"]
    lines = table(GRID, columns=["model", "eps"], figures=figures, best="model").splitlines()[2:]
    bold = [["**" in cell for cell in cells_of(line)[2:]] for line in lines]
    assert bold == [[False] * 4, [False] * 4, [True, True, False, True], [True, True, False, False]]
    tex = table(GRID, columns=["model", "eps"], figures=["mcs"], best="model", format="latex")
    assert r"AT & 0.01569 & \textbf{$-$0.2500} \\" in tex
    shown = table(GRID, columns=["model", "eps"], figures=["mcs"], best="model")._repr_html_()
    assert shown.count("<strong>") == 2


def test_equal_ones_are_bold_together_and_none_if_all_are_equal():
    given = {"a": 0.50004, "b": 0.50001, "c": 0.4}
    records = swept({(name, "", 0): {"accuracy": value} for name, value in given.items()})
    for digits, n in ((None, 2), (5, 1), (0, 2)):
        lines = table(records, figures=["accuracy"], best="model", digits=digits).splitlines()
        assert ["**" in line for line in lines[2:]] == [True, n == 2, False]
    assert "**" not in table(records[:2], figures=["accuracy"], best="model")
    unknown = swept({(name, "", 0): {"nll": float("nan")} for name in "ab"})
    assert "**" not in table(unknown, figures=["nll"], best="model")


def test_columns_beside_each_other():
    options = {"columns": ["model", "eps"], "figures": ["accuracy", "mcs"], "across": "eps"}
    options |= {"denominator": 255, "best": "model"}
    tex = table(GRID, format="latex", **options).splitlines()
    assert tex == [
        r"\begin{tabular}{lrrrr}",
        r"\toprule",
        r"& \multicolumn{2}{c}{eps 4/255} & \multicolumn{2}{c}{eps 8/255} \\",
        r"\cmidrule(lr){2-3} \cmidrule(lr){4-5}",
        r"model & accuracy & mcs & accuracy & mcs \\",
        r"\midrule",
        r"plain & 0.2500 & 0.5000 & 0.0000 & 0.9000 \\",
        r"AT & \textbf{0.5000} & \textbf{$-$0.2500} & \textbf{0.3750} & \textbf{0.0000} \\",
        r"\bottomrule",
        r"\end{tabular}",
    ]
    heading, _, *lines = table(GRID, **options).splitlines()
    assert cells_of(heading) == [
        *("model", "eps 4/255 accuracy", "eps 4/255 mcs", "eps 8/255 accuracy", "eps 8/255 mcs")
    ]
    assert len(lines) == 2
    shown = table(GRID, **options)._repr_html_()
    assert shown.count('colspan="2"') == 2
    tidy = {**options, "format": "csv"}
    assert len(table(GRID, **tidy).splitlines()) == 1 + len(GRID)


def test_what_is_not_there_is_an_empty_place():
    options = {"columns": ["model", "eps"], "figures": ["mcs"], "across": "model"}
    lines = table(GRID[:3], **options).splitlines()
    assert cells_of(lines[0]) == ["eps", "plain mcs", "AT mcs"]
    assert cells_of(lines[3]) == ["0.03137", "0.9000", ""]


def test_rows_are_flat_and_have_all_digits():
    pair = {("a", "x"): record(n=50), ("b", "x"): [record(), record(5.0)]}
    first, second = rows(pair, figures=["n", "nll"])
    assert (
        [*first] == [*second] == ["model", "attack", "n", "nll", "nll_low", "nll_high", "nll_std"]
    )
    one = pair["a", "x"]
    assert [*first.values()] == ["a", "x", 50, one.nll, *one.intervals["nll"], None]
    values = [run.nll for run in pair["b", "x"]]
    assert second["nll"], second["nll_std"] == (np.mean(values), np.std(values, ddof=1))
    assert second["nll_low"] is None
    text = table(pair, figures=["n", "nll"], intervals="plus_minus", format="csv")
    [*lines] = csv.DictReader(io.StringIO(text))
    for line, row in zip(lines, rows(pair, figures=["n", "nll"]), strict=True):
        assert line == {name: "" if cell is None else str(cell) for name, cell in row.items()}


def test_rows_of_records_that_sweep_returns_make_a_frame():
    pandas = pytest.importorskip("pandas")
    frame = pandas.DataFrame(rows(GRID, figures=["accuracy"]))
    assert frame.pivot(index="model", columns="eps", values="accuracy").loc["AT", 4 / 255] == 0.5


# --- notebooks -------------------------------------------------------------------------------


def test_notebooks_show_tables_records_and_bins():
    one = record()
    for shown in (one, one.bins, table({"<b>": one})):
        text = shown._repr_html_()
        assert text.startswith("<table><tr><th>")
        assert text.endswith("</td></tr></table>")
    assert "&lt;b&gt;" in text
    assert "<td>accuracy</td><td>1.0000</td><td>[0.1581,\u00a01.0000]</td>" in one._repr_html_()
    assert one.bins._repr_html_().count("<tr>") == 1 + one.bins.n_bins
    assert "nan" not in one.bins._repr_html_()
    again = pickle.loads(pickle.dumps(table({"x": one})))
    assert again._repr_html_() == table({"x": one})._repr_html_()
    assert type(table({"x": one}, format="latex")) is str
