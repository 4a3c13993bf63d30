"""Adaptive label smoothing, algorithm 1 of AR-AdaLS, by hand."""

import dataclasses

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from advcal.losses import SmoothingState, adaptive_smoothing


def float64(*values):
    return torch.tensor(values, dtype=torch.float64)


def test_starts_from_hard_labels():
    state = adaptive_smoothing(4, n_levels=3)
    assert isinstance(state, SmoothingState)
    assert (state.n_classes, state.n_levels) == (4, 3)
    assert state.label_probs.tolist() == [1, 1, 1]
    assert state.label_probs.dtype == torch.float64
    assert state.smoothing.tolist() == [0, 0, 0]
    targets = state.targets(torch.tensor([2, 0]), torch.tensor([0, 2]))
    assert torch.equal(targets, torch.eye(4)[[2, 0]])


def test_several_epochs_by_hand():
    state = adaptive_smoothing(10, n_levels=3, step_size=0.5)
    # Overconfident by .2, calibrated, underconfident by .1 (clipped at 1).
    state = state.update(float64(0.9, 0.8, 0.7), float64(0.7, 0.8, 0.8))
    torch.testing.assert_close(state.label_probs, float64(0.9, 1.0, 1.0))
    state = state.update(float64(0.8, 0.9, 0.9), float64(0.8, 0.7, 0.5))
    torch.testing.assert_close(state.label_probs, float64(0.9, 0.9, 0.8))
    state = state.update(float64(0.6, 0.9, 0.7), float64(0.7, 0.5, 0.9))
    torch.testing.assert_close(state.label_probs, float64(0.95, 0.7, 0.9))
    for _ in range(3):  # .7 - 3 * .5, clipped just above 1 / 10
        state = state.update(float64(0.5, 1.0, 0.5), float64(0.5, 0.0, 0.5))
    assert 0.1 < state.label_probs[1] < 0.1 + 1e-5
    torch.testing.assert_close(state.label_probs[[0, 2]], float64(0.95, 0.9))
    # What is left at the floor climbs from there: the clip leaves nothing to work off.
    state = state.update(float64(0.5, 0.5, 0.5), float64(0.5, 0.7, 0.5))
    assert float(state.label_probs[1]) == pytest.approx(0.2, abs=1e-5)


@settings(max_examples=100, deadline=None, derandomize=True)
@given(
    n_classes=st.integers(2, 20),
    step_size=st.floats(1e-4, 2),
    gaps=st.lists(st.tuples(st.floats(0, 1), st.floats(0, 1)), min_size=1, max_size=8),
)
def test_algorithm_1(n_classes, step_size, gaps):
    state = adaptive_smoothing(n_classes, step_size=step_size)
    p = 1.0
    for confidence, accuracy in gaps:
        state = state.update(confidence, accuracy)
        p = min(max(p - step_size * (confidence - accuracy), 1 / n_classes), 1.0)
        assert float(state.label_probs[0]) == pytest.approx(p, abs=1e-5)
        eps = (state.label_probs[0] - 1) * n_classes / (1 - n_classes)
        assert float(state.smoothing[0]) == pytest.approx(float(eps), abs=1e-12)
        target = state.targets(torch.tensor([0]))[0]
        assert float(target[0]) == pytest.approx(float(state.label_probs[0]), abs=1e-7)
        rest = (1 - float(target[0])) / (n_classes - 1)
        np.testing.assert_allclose(target[1:], rest, atol=1e-6)
        assert float(target.sum()) == pytest.approx(1, abs=1e-6)


def test_a_mean_a_rounding_above_one_is_one():
    state = adaptive_smoothing(10, step_size=0.1)
    above = state.update(torch.tensor(1 + 1.2e-7), torch.tensor(-1e-8))
    assert torch.equal(above.label_probs, state.update(1.0, 0.0).label_probs)


def test_one_level_is_adals():
    shared = adaptive_smoothing(10, step_size=0.1)
    levels = adaptive_smoothing(10, n_levels=4, step_size=0.1)
    labels = torch.arange(10).repeat(3)
    for confidence, accuracy in ((0.9, 0.6), (0.8, 0.9), (1.0, 0.2)):
        shared = shared.update(confidence, accuracy)
        levels = levels.update(torch.full((4,), confidence), torch.full((4,), accuracy))
        torch.testing.assert_close(
            shared.label_probs.expand(4), levels.label_probs, rtol=0, atol=1e-7
        )
        torch.testing.assert_close(
            shared.targets(labels), levels.targets(labels, torch.arange(30) % 4)
        )
    assert torch.equal(shared.targets(labels), shared.targets(labels, torch.zeros_like(labels)))


def test_numbers_and_tensors_say_the_same():
    state = adaptive_smoothing(10, step_size=0.1)
    wanted = state.update(0.9, 0.5).label_probs
    for kind in (np.float64, float64, lambda value: torch.tensor(value, dtype=torch.float64)):
        assert torch.equal(state.update(kind(0.9), kind(0.5)).label_probs, wanted)
    assert torch.equal(state.update(1, 0).label_probs, state.update(1.0, 0.0).label_probs)


def test_each_example_gets_the_probability_of_its_level():
    state = adaptive_smoothing(5, n_levels=3, step_size=1.0)
    state = state.update(float64(0.9, 0.7, 0.5), float64(0.5, 0.6, 0.5))
    labels, levels = torch.tensor([4, 3, 2, 1, 0, 1]), torch.tensor([0, 1, 2, 2, 1, 0])
    targets = state.targets(labels, levels)
    assert targets.shape == (6, 5)
    assert targets.dtype == torch.float32
    of_label = targets.gather(1, labels[:, None])[:, 0]
    assert torch.equal(of_label, state.label_probs[levels].float())  # p_r itself
    torch.testing.assert_close(of_label, torch.tensor([0.6, 0.9, 1.0, 1.0, 0.9, 0.6]))
    torch.testing.assert_close(targets.sum(dim=1), torch.ones(6))


@pytest.mark.parametrize("n_classes", [2, 3, 10, 100, 1000, 20_000])
def test_the_label_stays_the_most_probable_class(n_classes):
    state = adaptive_smoothing(n_classes, step_size=1.0)
    for _ in range(3):
        state = state.update(1.0, 0.0)
    assert state.label_probs[0] > 1 / n_classes
    labels = torch.tensor([0, 1, n_classes - 1])
    targets = state.targets(labels)
    assert torch.equal(targets.argmax(dim=1), labels)
    others = targets.clone()
    others[range(3), labels] = 0
    assert (targets[range(3), labels] > others.amax(dim=1)).all()


def test_never_above_one():
    state = adaptive_smoothing(10, step_size=1.0).update(0.0, 1.0)
    assert state.label_probs.tolist() == [1.0]
    assert torch.equal(state.targets(torch.tensor([3])), torch.eye(10)[[3]])


def test_immutable():
    state = adaptive_smoothing(10, n_levels=2, step_size=0.5)
    new = state.update(float64(0.9, 0.9), float64(0.5, 0.5))
    assert state.label_probs.tolist() == [1, 1]
    assert new is not state
    assert (new.n_classes, new.step_size) == (10, 0.5)
    for name in ("n_classes", "step_size", "label_probs", "n_levels", "new"):
        with pytest.raises((dataclasses.FrozenInstanceError, AttributeError)):
            setattr(state, name, 1)


def test_arguments_are_not_modified_and_carry_no_graph():
    confidence = float64(0.9, 0.8).requires_grad_()
    state = adaptive_smoothing(10, n_levels=2).update(confidence, float64(0.5, 0.5))
    assert not state.label_probs.requires_grad
    assert confidence.tolist() == [0.9, 0.8]


ONE, TWO = adaptive_smoothing(3), adaptive_smoothing(3, n_levels=2)
LABELS = torch.tensor([0, 1, 2])
BAD = {
    "one class": (lambda: adaptive_smoothing(1), ValueError, "n_classes >= 2, got 1"),
    "floating classes": (lambda: adaptive_smoothing(2.0), TypeError, "n_classes as an int"),
    "no level": (lambda: adaptive_smoothing(3, n_levels=0), ValueError, "n_levels >= 1, got 0"),
    "true levels": (lambda: adaptive_smoothing(3, n_levels=True), TypeError, "n_levels as an int"),
    "no step": (lambda: adaptive_smoothing(3, step_size=0), ValueError, "step_size > 0, got 0"),
    "NaN step": (
        lambda: adaptive_smoothing(3, step_size=float("nan")),
        ValueError,
        "step_size > 0, got nan",
    ),
    "word step": (lambda: adaptive_smoothing(3, step_size="1"), TypeError, "step_size as a number"),
    "above one": (lambda: ONE.update(1.1, 0.5), ValueError, "confidence from 0 to 1, got"),
    "below zero": (lambda: ONE.update(0.5, -0.1), ValueError, "accuracy from 0 to 1, got"),
    "NaN": (lambda: ONE.update(float("nan"), 0.5), ValueError, "confidence .*got nan"),
    "NaN tensor": (
        lambda: ONE.update(torch.tensor([torch.nan]), 0.5),
        ValueError,
        r"confidence from 0 to 1, got \[nan\]",
    ),
    "list": (lambda: ONE.update([0.5], 0.5), TypeError, "confidence as a number, got list"),
    "bool": (lambda: ONE.update(True, 0.5), TypeError, "confidence as a number, got bool"),
    "integers": (
        lambda: ONE.update(0.5, torch.tensor([1])),
        TypeError,
        "accuracy of a floating dtype, got .*int64",
    ),
    "a number for two levels": (
        lambda: TWO.update(0.5, 0.5),
        ValueError,
        r"confidence of shape \(2,\), got .*\(\)",
    ),
    "two values for one level": (
        lambda: ONE.update(float64(0.5, 0.5), 0.5),
        ValueError,
        r"confidence of shape \(1,\), got .*\(2,\)",
    ),
    "no levels": (
        lambda: TWO.targets(LABELS),
        ValueError,
        "levels, one of 2 per example, got None",
    ),
    "level too high": (
        lambda: TWO.targets(LABELS, LABELS),
        ValueError,
        "levels from 0 to 1, got 2",
    ),
    "level negative": (lambda: TWO.targets(LABELS, LABELS - 1), ValueError, "levels .*got -1"),
    "too few levels": (lambda: TWO.targets(LABELS, LABELS[:2]), ValueError, "levels of shape"),
    "floating levels": (
        lambda: TWO.targets(LABELS, LABELS * 0.0),
        TypeError,
        "levels of an integer",
    ),
    "label too high": (lambda: ONE.targets(LABELS + 1), ValueError, "labels from 0 to 2, got 3"),
    "floating labels": (lambda: ONE.targets(LABELS * 1.0), TypeError, "labels of an integer"),
    "list of labels": (lambda: ONE.targets([0, 1]), TypeError, "labels .*got list"),
    "array of labels": (lambda: ONE.targets(LABELS.numpy()), TypeError, "labels .*got an array"),
    "empty": (lambda: ONE.targets(LABELS[:0]), ValueError, "labels of shape"),
}


@pytest.mark.parametrize("case", BAD)
def test_bad_inputs_are_refused(case):
    call, error, match = BAD[case]
    with pytest.raises(error, match=f"expected {match}"):
        call()
