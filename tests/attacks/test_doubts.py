"""AutoAttack is never silent: six sabotages of one network, which it breaks or warns of."""

import warnings
from functools import partial

import pytest
import torch
from sklearn.datasets import load_digits
from torch import nn

from advcal.attacks import autoattack, through
from tests.attacks.cases import seeded

EPS = 0.08
DOUBT = "expected a model that an attack can follow, got one whose {}.*evaluation.diagnose"
attacked = partial(autoattack, eps=EPS, steps=20, queries=200)


@pytest.fixture(scope="module")
def network():
    images, classes = load_digits(return_X_y=True)
    inputs = torch.tensor(images / 16, dtype=torch.float32)
    labels = torch.tensor(classes)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = nn.Sequential(nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 10))
    optimizer = torch.optim.Adam(model.parameters(), lr=0.01)
    for _ in range(60):
        optimizer.zero_grad()
        nn.functional.cross_entropy(model(inputs[:1400]), labels[:1400]).backward()
        optimizer.step()
    return model.eval(), inputs[1500:1600], labels[1500:1600]


def robust(model, judge, inputs, labels):
    points = attacked(model, inputs, labels, generator=seeded())
    return float((judge(points).argmax(dim=1) == labels).double().mean())


class Flipped(torch.autograd.Function):
    @staticmethod
    def forward(ctx, values):
        return values.clone()

    @staticmethod
    def backward(ctx, gradient):
        return -gradient


def random_noise(network):
    generator = torch.Generator().manual_seed(3)
    return lambda x: network(x + 0.1 * torch.randn(x.shape, generator=generator))


SABOTAGES = {
    "random": (random_noise, "outputs are random"),
    "rounded": (
        lambda network: lambda x: network((x * 4).round() / 4 + 0 * x),
        "outputs are rounded .* and whose gradients are zero",
    ),
    "zero gradient": (
        lambda network: through(network, lambda x: 0 * network(x)),
        "gradients are zero",
    ),
    "shattered": (
        lambda network: lambda x: network(Flipped.apply(x)),
        "gradients mislead",
    ),
    "saturated": (lambda network: lambda x: 1e3 * network(x), None),  # is broken in silence
    "probabilities": (lambda network: lambda x: network(x).softmax(dim=1), ""),
}


@pytest.mark.parametrize("name", SABOTAGES)
def test_sabotages_are_broken_or_warned_of(network, name):
    model, inputs, labels = network
    make, words = SABOTAGES[name]
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        found = robust(make(model), model, inputs, labels)
    said = [str(each.message) for each in caught]
    assert all(each.filename == __file__ for each in caught)
    assert all("evaluation.diagnose" in each for each in said)
    if words is None:
        assert not said
        assert abs(found - robust(model, model, inputs, labels)) <= 0.02
    else:
        assert len(said) == 1
        match = DOUBT.format(words) if words else "probabilities"
        with pytest.warns(UserWarning, match=match):
            attacked(make(model), inputs, labels, steps=1, queries=0)


def test_an_honest_network_is_not_doubted(network):
    model, inputs, labels = network
    for norm, eps in (("linf", 0.02), ("linf", 0.3), ("l2", 0.5), ("l1", 2.0), ("linf", 0)):
        attacked(model, inputs, labels, norm=norm, eps=eps, steps=1, queries=0)
    for dtype in (torch.float64, torch.bfloat16):
        half = nn.Sequential(*model).to(dtype)
        attacked(half, inputs.to(dtype), labels, steps=1, queries=0)
        model.float()
    attacked(lambda x: 1e-30 * model(x), inputs, labels, steps=1, queries=0)


def test_what_is_already_wrong_does_not_count(network):
    model, inputs, _ = network
    wrong = (model(inputs).argmax(dim=1) + 1) % 10
    attacked(lambda x: model(x.detach()) + 0 * x[:, :1], inputs, wrong, steps=1, queries=0)
