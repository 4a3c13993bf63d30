"""Corruption errors and means over severities."""

import csv
import io
import json

import pytest

from advcal.evaluation import corruption_errors, table

KINDS, LEVELS = ("fog", "snow", "jpeg_compression"), range(1, 6)


def records(models=("A", "B", "C")):
    """Make accuracies that follow no rule."""
    found = []
    for i, model in enumerate(models):
        found.append({"model": model, "data": "test", "accuracy": 0.95 - 0.03 * i})
        for j, kind in enumerate(KINDS):
            for level in LEVELS:
                accuracy = 0.9 - 0.03 * i - (0.02 + 0.01 * j) * level * (1 + 0.2 * i)
                found.append({"model": model, "data": f"{kind} {level}", "accuracy": accuracy})
    return [{"attack": "none", "eps": 0.0, "n": 100, "ece": 1 - r["accuracy"], **r} for r in found]


def error(model, data):
    [found] = [r["accuracy"] for r in records() if (r["model"], r["data"]) == (model, data)]
    return 1 - found


def test_mean_corruption_errors_by_their_definition():
    found = corruption_errors(records(), baseline="A", clean="test")
    assert list(found) == ["A", "B", "C"]
    for model, errors in found.items():
        ratios, relative = {}, []
        for kind in KINDS:
            own = [error(model, f"{kind} {level}") for level in LEVELS]
            other = [error("A", f"{kind} {level}") for level in LEVELS]
            ratios[kind] = sum(own) / sum(other)
            grown = sum(own) - 5 * error(model, "test")
            relative.append(grown / (sum(other) - 5 * error("A", "test")))
        assert errors.kinds == pytest.approx(ratios)
        assert errors.mean == pytest.approx(sum(ratios.values()) / 3)
        assert errors.relative == pytest.approx(sum(relative) / 3)
    assert found["A"].mean == pytest.approx(1)
    assert found["A"].relative == pytest.approx(1)
    corrupted = [each for each in records() if each["data"] != "test"]
    assert corruption_errors(corrupted, baseline="C")["A"].relative is None


def test_the_layout_of_mnist_c_has_one_severity():
    accuracies = {("A", "fog"): 0.5, ("A", "zigzag"): 0.75, ("A", "identity"): 0.9}
    accuracies |= {("B", "fog"): 0.75, ("B", "zigzag"): 0.75, ("B", "identity"): 0.8}
    given = [{"model": m, "data": d, "accuracy": a} for (m, d), a in accuracies.items()]
    errors = corruption_errors(given, baseline="A", clean="identity")["B"]
    assert errors.kinds == pytest.approx({"fog": 0.5, "zigzag": 1.0})
    assert errors.relative == pytest.approx((0.05 / 0.4 + 0.05 / 0.15) / 2)


def less(model, data):
    return [each for each in records() if (each["model"], each["data"]) != (model, data)]


def perfect(kind, accuracy):
    return [
        {**each, "accuracy": accuracy} if each["data"].startswith(kind) else each
        for each in records()
    ]


BAD = {
    "twice": (records() * 2, {}, ValueError, "one record of 'A' on 'test', got more"),
    "no baseline": (records(), {"baseline": "alexnet"}, ValueError, "baseline to be one of"),
    "no clean": (
        records(),
        {"clean": "val"},
        ValueError,
        r"same data of .*, got \['val'\]",
    ),
    "a hole": (less("B", "fog 3"), {}, ValueError, r"got \['fog 3'\], not of both 'A' and 'B'"),
    "a hole in it": (less("A", "fog 3"), {}, ValueError, r"got \['fog 3'\]"),
    "no mistakes": (perfect("fog", 1.0), {}, ValueError, "mistakes of the baseline under 'fog'"),
    "as clean": (
        perfect("fog", 0.99),
        {"clean": "test"},
        ValueError,
        "more mistakes than on clean data of the baseline under 'fog'",
    ),
    "percent": (perfect("fog", 80.0), {}, ValueError, "accuracy >= 0 and <= 1, got 80"),
    "a name": ([{"model": "A"}], {}, ValueError, "'data' in each record"),
    "a mapping": ({("A",): 1}, {}, TypeError, "records as a mapping or a list of dicts"),
    "none": ([], {}, ValueError, "baseline to be one of"),
    "clean alone": (records()[:1], {"clean": "test"}, ValueError, "records of corrupted data"),
}


@pytest.mark.parametrize("case", BAD)
def test_what_has_no_corruption_error_is_refused(case):
    given, options, error, match = BAD[case]
    with pytest.raises(error, match=f"expected .*{match}"):
        corruption_errors(given, **{"baseline": "A"} | options)


@pytest.mark.parametrize(
    ("over", "names", "of"),
    [
        ("severity", KINDS, lambda kind, level: kind),
        ("corruption", [f"severity {s}" for s in LEVELS], lambda kind, s: f"severity {s}"),
        ("both", ["corruptions"], lambda kind, level: "corruptions"),
    ],
)
def test_means_over_severities_and_corruptions(over, names, of):
    text = table(records(), figures=["n", "accuracy", "ece"], over=over, format="csv")
    rows = list(csv.DictReader(io.StringIO(text)))
    assert [(row["model"], row["data"]) for row in rows] == [
        (model, data) for model in "ABC" for data in ("test", *names)
    ]
    for row in rows:
        wanted = [
            each["accuracy"]
            for each in records()
            if each["model"] == row["model"]
            and row["data"] == (of(*each["data"].split()) if " " in each["data"] else each["data"])
        ]
        assert row["n"] == "100"
        assert float(row["accuracy"]) == pytest.approx(sum(wanted) / len(wanted))
        assert float(row["ece"]) == pytest.approx(1 - sum(wanted) / len(wanted))


def test_attacks_and_radii_are_averaged_apart():
    attacked = [
        {**each, "attack": "PGD", "eps": eps} for each in records("A") for eps in (0.1, 0.2)
    ]
    lines = table(records("A") + attacked, figures=["ece"], over="both").splitlines()
    assert len(lines) == 2 + 3 * 2


def test_the_word_for_infinity_is_averaged_as_a_number():
    given = [{**each, "nll": "Infinity" if each["data"] == "fog 2" else 1.0} for each in records()]
    given = json.loads(json.dumps(given))
    [fog] = [
        line
        for line in table(given, figures=["nll"], over="severity").splitlines()
        if "| A " in line and "fog" in line
    ]
    assert fog.endswith(" inf |")


def test_means_are_of_what_sweep_returns():
    with pytest.raises(TypeError, match="records as a mapping or a list of dicts, got dict"):
        table({}, over="severity")
    with pytest.raises(ValueError, match=r"expected over to be one of .*, got 'kinds'"):
        table(records(), over="kinds")
