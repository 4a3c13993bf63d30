"""The Pareto front, its volume by inclusion and exclusion, and the search that fills it."""

import itertools
import math
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from advcal.evaluation import hypervolume, pareto, pareto_search
from advcal.metrics import reliability_bins


def records(values, names):
    return {i: dict(zip(names, row, strict=True)) for i, row in enumerate(values)}


def test_the_front_by_definition():
    rng = np.random.default_rng(0)
    for d in (1, 2, 3, 4):
        names = [f"f{i}" for i in range(d)]
        values = rng.integers(0, 5, (30, d)).tolist()
        found = pareto(records(values, names), maximise=names[:1], minimise=names[1:])
        signed = [[-row[0], *row[1:]] for row in values]
        wanted = [
            i
            for i, row in enumerate(signed)
            if not any(
                all(a <= b for a, b in zip(other, row, strict=True)) and other != row
                for other in signed
            )
        ]
        assert list(found) == wanted


def test_equal_records_stay_together_and_names_are_kept():
    same = {"a": SimpleNamespace(x=1.0), "b": SimpleNamespace(x=1.0), "c": SimpleNamespace(x=2.0)}
    assert list(pareto(same, minimise=["x"])) == ["a", "b"]
    assert pareto(same, minimise=["x"])["a"] is same["a"]


def by_inclusion(costs, corner):
    total = 0.0
    for size in range(1, len(costs) + 1):
        for some in itertools.combinations(costs, size):
            sides = [r - max(c) for r, c in zip(corner, zip(*some, strict=True), strict=True)]
            total += (-1) ** (size + 1) * math.prod(max(side, 0.0) for side in sides)
    return total


@pytest.mark.parametrize("d", [1, 2, 3, 4])
def test_the_volume_is_that_of_inclusion_and_exclusion(d):
    rng = np.random.default_rng(d)
    names = [f"f{i}" for i in range(d)]
    for _ in range(5):
        values = rng.random((8, d)).round(1)
        corner = dict.fromkeys(names, 0.8)
        found = hypervolume(records(values.tolist(), names), reference=corner, minimise=names)
        inside = [row for row in values.tolist() if max(row) < 0.8]
        assert found == pytest.approx(by_inclusion(inside, [0.8] * d), abs=1e-12)
        flipped = records((1 - values).tolist(), names)
        other = hypervolume(flipped, reference=dict.fromkeys(names, 0.2), maximise=names)
        assert other == pytest.approx(found, abs=1e-12)


def test_what_is_dominated_adds_nothing_and_what_is_better_adds():
    some = {"a": {"x": 0.5, "y": 0.5}}
    options = {"reference": {"x": 1.0, "y": 1.0}, "minimise": ["x", "y"]}
    base = hypervolume(some, **options)
    assert hypervolume({**some, "b": {"x": 0.6, "y": 0.5}}, **options) == base == 0.25
    assert hypervolume({**some, "b": {"x": 0.6, "y": 0.4}}, **options) > base
    assert hypervolume({"c": {"x": 1.0, "y": 0.0}}, **options) == 0


def test_the_search_looks_where_the_gap_is():
    seen = []

    def run(value):
        seen.append(value)
        return {"clean": 1.0 if value < 0.6 else 0.0, "robust": value}

    found = pareto_search(run, [1.0, 0.0], n=4, maximise=["clean", "robust"])
    assert list(found) == sorted(seen)
    assert seen[:2] == [0.0, 1.0]
    assert all(0.5 <= value <= 0.75 for value in seen[2:])
    before = len(seen)
    again = pareto_search(run, [0.0, 1.0], n=4, maximise=["clean", "robust"], records=found)
    assert again == found
    assert len(seen) == before
    more = pareto_search(run, [0.0, 1.0], n=5, maximise=["clean", "robust"], records=found)
    assert len(more) == 7
    assert len(seen) == before + 1


def record_of(value):
    return {"clean": 1 - value**2, "robust": value}


def test_a_killed_search_goes_on(tmp_path):
    path = tmp_path / "search.json"

    class Killed:
        """Runs three values and no more."""

        seen: list[float] = []  # noqa: RUF012 - of the class, for what a run refers to tells it

        def __call__(self, value):
            if len(self.seen) == 3:
                raise KeyboardInterrupt
            self.seen.append(value)
            return record_of(value)

    options = {"n": 3, "maximise": ["clean", "robust"], "path": path}
    with pytest.raises(KeyboardInterrupt):
        pareto_search(Killed(), [0.0, 1.0], **options)
    del Killed.seen[:2]  # room for two more, and no more
    found = pareto_search(Killed(), [0.0, 1.0], **options)
    assert found == pareto_search(record_of, [0.0, 1.0], **options | {"path": None})
    assert pareto_search(Killed(), [0.0, 1.0], **options) == found
    with pytest.raises(ValueError, match="of another run"):
        pareto_search(record_of, [0.0, 1.0], **options)
    path.write_text("[]")
    with pytest.raises(ValueError, match="to hold a search"):
        pareto_search(record_of, [0.0, 1.0], **options)
    path.unlink()
    with pytest.raises(TypeError, match="records as mappings"):
        pareto_search(lambda value: 3, [0.0, 1.0], **options)


@pytest.mark.parametrize("kind", [torch.as_tensor, np.asarray, np.float32])
def test_figures_are_numbers_of_any_kind(kind, tmp_path):
    plain = {value: record_of(value) for value in (0.0, 0.25, 1.0)}
    given = {v: {name: kind(x) for name, x in each.items()} for v, each in plain.items()}
    names = {"maximise": ["clean", "robust"]}
    assert list(pareto(given, **names)) == list(pareto(plain, **names))
    worst = {"clean": -1.0, "robust": -1.0}
    wanted = hypervolume(plain, reference=worst, **names)
    assert hypervolume(given, reference=worst, **names) == pytest.approx(wanted, rel=1e-6)
    options = {"n": 0, "path": tmp_path / "search.json", **names}
    pareto_search(given.get, [0.0, 1.0], **options)
    found = pareto_search(given.get, [0.0, 1.0], **options)
    assert found[0.0] == pytest.approx(plain[0.0], rel=1e-6)


def test_tables_are_records():
    tables = {
        accuracy: reliability_bins(np.array([[0.75, 0.25]] * 4), np.arange(4) // accuracy)
        for accuracy in (2, 3)
    }
    assert list(pareto(tables, maximise=["accuracy"], minimise=["ece"])) == [3]


def test_bad_arguments_are_named():
    good = {"a": {"x": 1.0}}
    for call, error, words in [
        (lambda: pareto([], minimise=["x"]), TypeError, "records as a mapping"),
        (lambda: pareto({}, minimise=["x"]), ValueError, "one record or more"),
        (lambda: pareto(good), ValueError, "a figure to maximise"),
        (lambda: pareto(good, minimise="x"), TypeError, "minimise as a list"),
        (lambda: pareto(good, minimise=["y"]), ValueError, "'y' in each record"),
        (lambda: pareto({"a": {"x": math.nan}}, minimise=["x"]), ValueError, "x of 'a'"),
        (lambda: hypervolume(good, reference={}, minimise=["x"]), ValueError, "reference"),
        (lambda: pareto_search(3, [0, 1], n=1, minimise=["x"]), TypeError, "run as a callable"),
        (lambda: pareto_search(dict, [0], n=1, minimise=["x"]), ValueError, "two values"),
        (lambda: pareto_search(dict, [0, 1], n=-1, minimise=["x"]), ValueError, "n >= 0"),
    ]:
        with pytest.raises(error, match=words):
            call()
