"""The confidence envelope."""

import dataclasses
import itertools
import json
from functools import partial

import pytest
import torch

from advcal.attacks import ace, generalised_ace, iaa, mma, oca, rca, uca
from advcal.certify import certify, crown, interval, smoothed
from advcal.evaluation import confidence_envelope
from tests.attacks.cases import UNIFORM, delicate, examples, mlp, state
from tests.certify.cases import perceptron, points

RADII = [0.0, 0.02, 0.3]


def mean_confidence(model, inputs):
    with torch.no_grad():
        return float(model(inputs).double().softmax(dim=1).amax(dim=1).mean())


def problem(n=20):
    return mlp(dtype=torch.float64), *examples(n, dtype=torch.float64)


@pytest.mark.parametrize("norm", ["linf", "l2"])
def test_it_opens_and_holds_every_attack(norm):
    model, inputs, labels = problem()
    envelope = confidence_envelope(model, [(inputs, labels)], eps=RADII[::-1], norm=norm, steps=10)
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
        options = {"eta": -1.0, "omega": UNIFORM, "norm": norm}
        found = generalised_ace(model, inputs, labels, eps=radius, **options)
        assert low <= mean_confidence(model, found) + 1e-12


def every_attack(predicted):
    """All attacks that keep predictions, at their own defaults."""
    here, elsewhere = (torch.nn.functional.one_hot((predicted + i) % 5, 5).double() for i in (0, 1))
    both = itertools.product((1.0, -1.0), (torch.full((5,), 0.2), here, elsewhere))
    yield from (uca, oca, mma, rca, ace)
    for variant in ("accept", "published"):
        yield partial(iaa, label="predicted", variant=variant)
    yield from (partial(generalised_ace, eta=eta, omega=omega) for eta, omega in both)


@pytest.mark.parametrize(("norm", "eps", "seed"), [("linf", 0.12, 4), ("l2", 0.5, 5)])
def test_no_attack_at_its_defaults_lies_outside(norm, eps, seed):
    generator = torch.Generator().manual_seed(seed)
    inputs = torch.rand(10, 8, generator=generator, dtype=torch.float64)
    hidden, out = (torch.randn(n, 16, generator=generator).double() for n in (8, 5))
    model = lambda inputs: ((2 * inputs - 1) @ hidden).relu() @ out.T / 2  # noqa: E731
    predicted = model(inputs).argmax(dim=1)
    labels = torch.where(torch.arange(10) % 3 == 0, (predicted + 1) % 5, predicted)
    options = {"eps": eps, "norm": norm}
    envelope = confidence_envelope(model, [(inputs, labels)], **{**options, "eps": [eps]})
    for attack in every_attack(predicted):
        found = attack(model, inputs, labels, **options)
        kept = (model(found).argmax(dim=1) == predicted)[:, None]  # always, but if published
        mean = mean_confidence(model, torch.where(kept, found, inputs))
        assert envelope.lowest[0] - 1e-9 <= mean <= envelope.highest[0] + 1e-9, attack


def test_it_opens_where_gradients_vanish():
    smooth, inputs, labels = problem()

    def flat(points):
        return smooth((points * 20).round() / 20)

    envelope = confidence_envelope(flat, [(inputs, labels)], eps=[0.2], steps=10)
    assert envelope.lowest[0] < envelope.confidence - 0.05
    assert envelope.highest[0] > envelope.confidence + 0.01


def test_scores_are_confidence_minus_accuracy():
    model, inputs, labels = problem()
    envelope = confidence_envelope(model, [(inputs, labels)], eps=RADII, steps=10)
    assert envelope.lowest_mcs == tuple(low - envelope.accuracy for low in envelope.lowest)
    assert envelope.highest_mcs == tuple(high - envelope.accuracy for high in envelope.highest)


def test_batches_add_up():
    model, inputs, labels = problem()
    whole = confidence_envelope(model, [(inputs, labels)], eps=RADII, steps=10)
    parts = zip(inputs.split(7), labels.split(7), strict=True)
    other = confidence_envelope(model, parts, eps=tuple(RADII), steps=10)
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


# --- certified from outside ----------------------------------------------------------------------


def test_the_attacks_lie_within_what_is_certified():
    model, inputs = perceptron(1), points(40, seed=5)
    labels = model(inputs).argmax(dim=1)
    batches = list(zip(inputs.split(16), labels.split(16), strict=True))
    for method in (interval, crown):
        options = {"eps": [0.0, 0.02, 0.1], "steps": 10}
        found = confidence_envelope(model, batches, certified=method, **options)
        plain = confidence_envelope(model, batches, **options)
        assert (found.lowest, found.highest) == (plain.lowest, plain.highest)
        assert plain.certified_lowest == plain.certified_highest == ()
        ends = zip(
            *(found.certified_lowest, found.lowest, found.highest, found.certified_highest),
            strict=True,
        )
        for certified_low, low, high, certified_high in ends:
            assert certified_low - 1e-6 <= low <= high <= certified_high + 1e-6
        assert found.certified_lowest[0] == pytest.approx(found.confidence, abs=1e-4)
        assert list(found.certified_lowest) == sorted(found.certified_lowest, reverse=True)
        assert json.loads(json.dumps(found.as_dict()))["eps"] == [0.0, 0.02, 0.1]


def test_a_certificate_by_smoothing_holds_attacks_on_the_mean():
    model, inputs = perceptron(1), points(12, seed=5)
    labels = model(inputs).argmax(dim=1)
    found = certify(model, inputs, sigma=0.25, n=2000, generator=torch.Generator().manual_seed(0))
    average = smoothed(model, sigma=0.25, n=400)
    envelope = confidence_envelope(
        average,
        [(inputs, labels)],
        eps=[0.05, 0.1],
        norm="l2",
        steps=3,
        bounds=(-9.0, 9.0),
        certified=lambda model, inputs, eps: found.reach(eps),
    )
    for i in range(2):
        assert envelope.certified_lowest[i] < envelope.lowest[i]
        assert envelope.highest[i] < envelope.certified_highest[i]


def test_what_does_not_certify_is_named():
    model, inputs, labels = problem()
    with pytest.raises(TypeError, match="certified as a callable"):
        confidence_envelope(model, [(inputs, labels)], eps=[0.1], certified=3)
    with pytest.raises(TypeError, match="certified to return a Reach"):
        confidence_envelope(model, [(inputs, labels)], eps=[0.1], certified=lambda *_, eps: 1)
