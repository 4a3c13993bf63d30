"""Records as aligned text."""

import dataclasses

import pytest
import torch

from advcal.evaluation import evaluate, table


def record(scale=1.0, n=2):
    labels = torch.arange(n) % 2
    return evaluate(torch.nn.Identity(), [(scale * torch.eye(2)[labels], labels)])


RECORDS = {
    ("small", "none"): record(),
    ("a much longer name", "PGD-100"): record(-900.0, 12_345),
    ("ε", "é"): record(5.0),
}


def test_by_hand():
    got = table(RECORDS, names=("training", "attack"), figures=("n", "clean_accuracy", "nll"))
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
    figures.remove("bins")
    heading = table(RECORDS, figures=figures).splitlines()[0]
    assert all(figure.replace("_", " ") in heading for figure in figures)


def test_accuracy_under_attack_never_stands_alone():
    heading = table(RECORDS).splitlines()[0]
    assert {"clean accuracy", "accuracy", "ece", "mcs"} <= {
        cell.strip() for cell in heading.split("|")
    }


def test_one_word_or_three():
    one, (first, *_) = record(), RECORDS.values()
    lines = table({("x",): one}, names=["model"], figures=["n"]).splitlines()
    assert lines == ["| model | n |", "|:------|--:|", "| x     | 2 |"]
    assert "| c |" in table({("a", "b", "c"): first}, names=["m", "n", "o"], figures=["n"])


BAD = {
    "no records": ({}, {}, ValueError, "one record or more, got none"),
    "too few words": ({("x",): record()}, {}, ValueError, r"2 words to name a row, got \('x',\)"),
    "too many words": ({("x", "y", "z"): record()}, {}, ValueError, "2 words to name a row, got"),
    "one word for two": ({"ab": record()}, {}, (TypeError, ValueError), ".*'ab'"),
    "a list": ([record()], {}, TypeError, "records as .*, got list"),
    "no record": ({("x", "y"): 0.5}, {}, TypeError, ".*got float"),
    "unknown figure": (RECORDS, {"figures": ["auroc"]}, ValueError, "figure.* 'auroc'"),
}


@pytest.mark.parametrize("case", BAD)
def test_bad_arguments_are_refused(case):
    records, options, error, match = BAD[case]
    with pytest.raises(error, match=f"expected {match}"):
        table(records, **options)
