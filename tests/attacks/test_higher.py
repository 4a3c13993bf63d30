"""Attacks that raise a probability: of the label, or of the likeliest other class."""

from functools import partial

import pytest
import torch
from torch import nn
from torch.nn.functional import cross_entropy

from advcal.attacks import pgd, pgd_conf
from tests.attacks.cases import Counted, examples, linear, mlp, seeded


def setting(n=30):
    return mlp(dtype=torch.float64, gain=1.5), *examples(n, dtype=torch.float64)


def rival_probs(model, points, labels):
    return model(points).softmax(dim=1).scatter(1, labels[:, None], 0).amax(dim=1)


def test_pgd_towards_the_label_raises_the_likelihood():
    """The anti-adversary, of the true label or of the predicted one."""
    model, x, y = setting()
    towards = partial(pgd, eps=0.2, targeted=True, random_start=False)

    def loss(points):
        return cross_entropy(model(points), y, reduction="none")

    found = towards(model, x, y)
    assert (loss(found) <= loss(x)).all()
    assert (loss(found) < loss(x) - 0.01).any()
    predicted = model(x).argmax(dim=1)
    kept = towards(model, x, predicted)
    assert torch.equal(model(kept).argmax(dim=1), predicted)
    confidence = [model(each).softmax(dim=1).amax(dim=1) for each in (x, kept)]
    assert (confidence[1] >= confidence[0]).all()


def test_pgd_conf_on_a_linear_model_reaches_the_corner_of_the_best_rival():
    """With two classes the rival is the other one, and the optimum the far corner of the ball."""
    model, (x, y) = linear(n_classes=2), examples(8)
    y = y % 2
    weight = model[1].weight.detach()
    direction = (weight[1 - y] - weight[y]).sign().reshape(x.shape)
    found = pgd_conf(model, x, y, eps=0.1, random_start=False)
    torch.testing.assert_close(found, (x + 0.1 * direction).clamp(0, 1))


@pytest.mark.parametrize("norm", ["linf", "l2"])
def test_every_step_of_pgd_conf_is_at_least_as_good_as_the_one_before(norm):
    model, x, y = setting()
    attack = partial(pgd_conf, eps=0.3, norm=norm, step_size=0.4, momentum=0.5)
    last = torch.zeros(30, dtype=torch.float64)
    for steps in (1, 2, 4, 8, 16):
        found = attack(model, x, y, steps=steps, generator=seeded())
        reached = rival_probs(model, found, y)
        assert (reached >= last - 1e-12).all()
        last = reached
    assert (last > rival_probs(model, x, y) + 0.05).any()


def test_a_step_that_makes_it_worse_is_not_taken_and_the_next_is_shorter():
    """Steps of .8, .8 / 1.5 and .8 / 1.5² from .25 overshoot a top at .5 by less each."""
    tried = []

    def model(inputs):
        tried.append(inputs[0, 0].item())
        bump = -10 * (inputs - 0.5) ** 2
        return torch.cat([torch.zeros_like(bump), bump], dim=1)

    x = torch.tensor([[0.25]], dtype=torch.float64)
    options = {"step_size": 0.8, "momentum": 0.0, "random_start": False, "steps": 3}
    found = pgd_conf(model, x, torch.tensor([0]), eps=0.75, **options)
    wanted = [0.25, 1.0, 0.25 + 0.8 / 1.5, 0.25 + 0.8 / 1.5**2]
    assert tried == pytest.approx(wanted)
    assert float(found) == pytest.approx(0.25 + 0.8 / 1.5**2)


def test_pgd_conf_is_surer_of_its_mistakes_than_pgd():
    model, x, y = setting()
    options = {"eps": 0.2, "generator": seeded()}
    plain = rival_probs(model, pgd(model, x, y, steps=5, **options), y).mean()
    assert rival_probs(model, pgd_conf(model, x, y, **options), y).mean() > plain - 1e-3


def test_pgd_conf_moves_a_saturated_model():
    model = nn.Sequential(linear(dtype=torch.float32), nn.Threshold(-1e9, 0.0))
    sure = lambda inputs: 1e3 * model(inputs)  # noqa: E731
    x, _ = examples(8)
    y = sure(x).argmax(dim=1)
    assert rival_probs(sure, x, y).max() < 1e-6
    found = pgd_conf(sure, x, y, eps=0.3)
    assert (sure(found).argmax(dim=1) != y).double().mean() > 0.5


def test_starts_of_pgd_conf_have_all_lengths():
    x = torch.full((400, 1, 4, 4), 0.5)
    flat = lambda inputs: inputs.flatten(1)[:, :3] * 0  # noqa: E731
    found = pgd_conf(flat, x, torch.zeros(400, dtype=torch.int64), eps=0.1, steps=1)
    lengths = (found - x).abs().flatten(1).amax(dim=1) / 0.1
    assert lengths.min() < 0.05
    assert lengths.max() > 0.9
    assert abs(float(lengths.mean()) - 0.5) < 0.06


def test_defaults_of_pgd_conf_are_the_published_ones():
    counted = Counted(mlp())
    x, y = examples(3)
    wanted = pgd_conf(mlp(), x, y, eps=0.03, step_size=0.005, steps=40, momentum=0.9)
    assert torch.equal(pgd_conf(counted, x, y, eps=0.03), wanted)
    assert (counted.forwards, counted.backwards) == (41, 40)


def test_momentum_must_be_below_one():
    with pytest.raises(ValueError, match=r"expected momentum < 1, got 1"):
        pgd_conf(mlp(), *examples(3), eps=0.1, momentum=1)
