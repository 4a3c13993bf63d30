"""The confidence envelope."""

import dataclasses

import pytest
import torch

from advcal.attacks import ace, iaa, mma, oca, rca, uca
from advcal.evaluation import confidence_envelope
from tests.attacks.cases import delicate, examples, mlp, state

RADII = [0.0, 0.02, 0.3]


def mean_confidence(model, inputs):
    with torch.no_grad():
        return float(model(inputs).double().softmax(dim=1).amax(dim=1).mean())


def problem(n=20):
    return mlp(dtype=torch.float64), *examples(n, dtype=torch.float64)


@pytest.mark.parametrize("norm", ["linf", "l2"])
def test_it_opens_and_holds_every_attack(norm):
    model, inputs, labels = problem()
    envelope = confidence_envelope(model, [(inputs, labels)], eps=RADII[::-1], norm=norm)
    assert envelope.eps == tuple(RADII)
    assert envelope.n == 20
    assert envelope.accuracy == float((model(inputs).argmax(dim=1) == labels).double().mean())
    assert envelope.confidence == pytest.approx(mean_confidence(model, inputs), abs=1e-12)
    assert envelope.lowest[0] == envelope.highest[0] == envelope.confidence
    assert list(envelope.lowest) == sorted(envelope.lowest, reverse=True)
    assert list(envelope.highest) == sorted(envelope.highest)
    assert envelope.lowest[-1] < envelope.confidence - 0.1
    assert envelope.highest[-1] > envelope.confidence + 0.01
    for radius, low, high in zip(RADII, envelope.lowest, envelope.highest, strict=True):
        for attack in (uca, oca, mma, rca):
            found = attack(model, inputs, labels, eps=radius, norm=norm)
            assert low - 1e-9 <= mean_confidence(model, found) <= high + 1e-9
        found = ace(model, inputs, labels, eps=radius, norm=norm)
        assert low - 1e-9 <= mean_confidence(model, found) <= high + 1e-9
        found = iaa(model, inputs, labels, eps=radius, norm=norm, label="predicted")
        assert low <= mean_confidence(model, found) + 1e-12


def test_it_opens_where_gradients_vanish():
    smooth, inputs, labels = problem()

    def flat(points):
        return smooth((points * 20).round() / 20)

    envelope = confidence_envelope(flat, [(inputs, labels)], eps=[0.2])
    assert envelope.lowest[0] < envelope.confidence - 0.05
    assert envelope.highest[0] > envelope.confidence + 0.01


def test_scores_are_confidence_minus_accuracy():
    model, inputs, labels = problem()
    envelope = confidence_envelope(model, [(inputs, labels)], eps=RADII)
    assert envelope.lowest_mcs == tuple(low - envelope.accuracy for low in envelope.lowest)
    assert envelope.highest_mcs == tuple(high - envelope.accuracy for high in envelope.highest)


def test_batches_add_up():
    model, inputs, labels = problem()
    whole = confidence_envelope(model, [(inputs, labels)], eps=RADII)
    parts = zip(inputs.split(7), labels.split(7), strict=True)
    other = confidence_envelope(model, parts, eps=tuple(RADII))
    assert dataclasses.astuple(other)[2:4] == pytest.approx(dataclasses.astuple(whole)[2:4])
    assert other.lowest == pytest.approx(whole.lowest, abs=1e-9)
    assert other.highest == pytest.approx(whole.highest, abs=1e-9)


def test_it_is_immutable_and_leaves_the_model_alone():
    model = delicate()
    before = state(model)
    envelope = confidence_envelope(model, [examples()], eps=[0.1], steps=2)
    assert state(model) == before
    with pytest.raises(dataclasses.FrozenInstanceError):
        envelope.accuracy = 1.0


@pytest.mark.parametrize(
    ("options", "error"),
    [
        ({"eps": 0.1}, TypeError),
        ({"eps": []}, ValueError),
        ({"eps": [-0.1]}, ValueError),
        ({"eps": ["0.1"]}, TypeError),
        ({"eps": [0.1], "steps": 0}, ValueError),
        ({"eps": [0.1], "norm": "l7"}, ValueError),
        ({"eps": [0.1], "bounds": (1, 0)}, ValueError),
        ({"eps": [0.1], "batches": []}, ValueError),
        ({"eps": [0.1], "batches": 3}, TypeError),
        ({"eps": [0.1], "model": None}, TypeError),
    ],
)
def test_bad_use_is_refused(options, error):
    model, inputs, labels = problem(3)
    arguments = {"model": model, "batches": [(inputs, labels)], **options}
    with pytest.raises(error, match=r"expected .*, got"):
        confidence_envelope(**arguments)


@pytest.mark.parametrize("label", [-1, 9])
def test_labels_out_of_range_are_refused(label):
    model, inputs, labels = problem(3)
    with pytest.raises(ValueError, match=f"expected labels from 0 to .*, got {label}"):
        confidence_envelope(model, [(inputs, torch.full_like(labels, label))], eps=[0.1])
