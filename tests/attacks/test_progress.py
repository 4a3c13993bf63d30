"""Attacks that show how far they have come: over the examples times the calls of the model."""

import inspect

import pytest
import torch

from advcal import attacks
from tests.attacks.cases import ROWS, N, configured, delicate, examples, mlp, seeded, state

LONG = [
    *(
        "autoattack",
        "cw_l2",
        "ddn",
        "deepfool",
        "fmn",
        "foot",
        "hopskipjump",
        "minimum_norm",
        "square",
    ),
]
NAMES = [name for name in ROWS if name.split("-")[0] in LONG and "levels" not in name]


class Bar:
    """What shows progress."""

    n = total = 0
    ended = closed = False

    def __call__(self, units):
        self.total = len(units)
        try:
            for self.n, each in enumerate(units, 1):
                yield each
            self.ended = True
        finally:
            self.closed = True


def test_the_long_ones_show_progress():
    for name in LONG:
        assert "progress" in inspect.signature(getattr(attacks, name)).parameters


@pytest.mark.parametrize("name", NAMES)
def test_progress_goes_over_examples_times_calls_to_the_end(name):
    bar, row = Bar(), ROWS[name]
    found = row.make(generator=seeded(), progress=bar)(mlp(), *examples())
    assert torch.equal(found, row.make(generator=seeded())(mlp(), *examples()))
    calls = row.forwards - 4 * (name == "autoattack")  # which looks for doubts first
    assert bar.n == bar.total == N * calls
    assert bar.ended
    assert bar.closed


def test_an_example_that_leaves_takes_its_calls_with_it():
    model, (inputs, labels) = mlp(), examples(6)
    labels[:4] = (model(inputs[:4]).argmax(dim=1) + 1) % 3
    labels[4:] = model(inputs[4:]).argmax(dim=1)
    bar, seen = Bar(), []

    def watched(points):
        seen.append((len(points), bar.n))
        return model(points)

    attacks.square(watched, inputs, labels, eps=1e-6, steps=5, generator=seeded(), progress=bar)
    assert seen == [(6, 0), (2, 6), (2, 30 - 2 * 3), (2, 30 - 2 * 2), (2, 30 - 2)]
    assert bar.n == 30


def test_what_stops_early_goes_to_the_end():
    model, (inputs, _) = mlp(), examples()
    wrong = (model(inputs).argmax(dim=1) + 1) % 3
    for attack in (configured(attacks.autoattack), configured(attacks.cw_l2)):
        bar = Bar()
        attack(progress=bar)(model, inputs, wrong)
        assert bar.n == bar.total > 100
        assert bar.ended


@pytest.mark.parametrize("name", ["autoattack", "square", "ddn"])
def test_a_stop_closes_what_shows_progress_and_leaves_the_model(name):
    bar, model, (inputs, _) = Bar(), delicate(fail_at=6), examples()
    right = delicate().eval()(inputs).argmax(dim=1)
    before = state(model)
    with pytest.raises(InterruptedError):
        ROWS[name].make(eps=1e-6, progress=bar)(model, inputs, right)
    assert bar.closed
    assert not bar.ended
    assert bar.n < bar.total
    assert state(model) == before


@pytest.mark.parametrize("name", LONG)
def test_progress_must_be_a_callable(name):
    with pytest.raises(TypeError, match="expected progress as a callable, got bool"):
        configured(getattr(attacks, name))(progress=True)(mlp(), *examples())
