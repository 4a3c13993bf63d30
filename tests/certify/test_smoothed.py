"""The smoothed classifier as a model."""

import pytest
import torch

from advcal.attacks import pgd
from advcal.certify import smoothed
from tests.certify.cases import Line, mean_sigmoid, perceptron, points, seeded


def test_it_is_the_mean_over_noise():
    model, inputs = Line([2.0, 1.0]), torch.tensor([[0.3, 0.2]])
    probs = smoothed(model, sigma=0.5, n=4000, generator=seeded())(inputs).exp()
    assert float(probs[0, 0]) == pytest.approx(mean_sigmoid(0.8, 5**0.5 / 2), abs=0.02)
    assert float(probs.sum()) == pytest.approx(1, abs=1e-6)


def test_the_noise_is_one_or_another():
    model, inputs = perceptron(), points(3)
    fixed = smoothed(model, sigma=0.5, n=2)
    assert torch.equal(fixed(inputs), fixed(inputs))
    moving = smoothed(model, sigma=0.5, n=2, generator=seeded())
    assert not torch.equal(moving(inputs), moving(inputs))


def test_attacks_go_through_it():
    model, inputs = smoothed(perceptron(), sigma=0.25, n=8), points(5)
    labels = model(inputs).argmax(dim=1)
    found = pgd(model, inputs, labels, eps=0.2, norm="l2", bounds=(-9, 9), generator=seeded())
    before, after = (model(rows).gather(1, labels[:, None]) for rows in (inputs, found))
    assert (after < before).all()


def test_bad_arguments_are_named():
    with pytest.raises(ValueError, match="sigma > 0"):
        smoothed(perceptron(), sigma=0)
    with pytest.raises(TypeError, match="n as an int"):
        smoothed(perceptron(), sigma=1, n=1.0)
