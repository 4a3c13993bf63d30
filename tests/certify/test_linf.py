"""Interval and CROWN bounds: closed forms, brute force, attacks, and every layer."""

import itertools

import numpy as np
import pytest
import torch
from scipy import optimize
from torch import nn

from advcal.attacks import oca, pgd, uca
from advcal.certify import Reach, crown, figures, interval
from advcal.certify._affine import affine_maps
from advcal.certify._linf import _pairs
from advcal.certify._relax import Box, crown_margins, interval_margins
from tests.attacks.cases import state
from tests.certify.cases import perceptron, points, seeded

METHODS = pytest.mark.parametrize("method", [interval, crown])
SLACK = 1e-4


def linear(size=6, n_classes=3, seed=0):
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return nn.Sequential(nn.Linear(size, n_classes)).double()


def inside(inputs, eps, n, seed=0):
    """Yield points of the ball and of [0, 1], corners first of all."""
    generator = seeded(seed)
    for i in range(n):
        step = 2 * torch.rand(inputs.shape, generator=generator, dtype=inputs.dtype) - 1
        yield (inputs + eps * (step.sign() if i % 2 else step)).clamp(0, 1)


def holds(reach, probs):
    slack = 1e-6
    return bool(((reach.lower <= probs + slack) & (probs <= reach.upper + slack)).all())


@METHODS
@pytest.mark.parametrize("eps", [0.0, 0.05, 0.3])
def test_two_classes_of_a_linear_model_are_exact(method, eps):
    model, inputs = linear(n_classes=2), points(20, dtype=torch.float64)
    reach = method(model, inputs, eps=eps)
    weight = (model[0].weight[0] - model[0].weight[1]).detach()
    bias = (model[0].bias[0] - model[0].bias[1]).detach()
    for sign, found in ((-1, reach.lower), (1, reach.upper)):
        end = (inputs + sign * eps * weight.sign()).clamp(0, 1)
        exact = torch.sigmoid(end @ weight + bias)
        assert torch.allclose(found[:, 0], exact, atol=SLACK)
    assert ((reach.lower[:, 0] <= 0.5) & (reach.upper[:, 0] >= 0.5))[reach.labels == -1].all()


@METHODS
def test_the_margins_of_a_linear_model_are_exact(method):
    model, inputs = linear(n_classes=4), torch.full((1, 6), 0.5, dtype=torch.float64)
    eps = 0.1
    reach = method(model, inputs, eps=eps)
    weight, z = model[0].weight.detach(), model(inputs)[0].detach()
    for k in range(4):
        least = z[k] - z - eps * (weight[k] - weight).abs().sum(dim=1)
        least[k] = 0.0
        expected = 1 / (-least).exp().sum()
        assert float(reach.lower[0, k]) >= float(expected) - SLACK
        assert float(reach.lower[0, k]) <= float(z.softmax(dim=0)[k])


@METHODS
@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("eps", [0.01, 0.1, 0.5])
def test_no_point_of_the_ball_is_outside(method, seed, eps):
    model, inputs = perceptron(seed), points(10, seed=seed)
    reach = method(model, inputs, eps=eps)
    with torch.no_grad():
        for each in (inputs, *inside(inputs, eps, 200, seed)):
            probs = model(each).double().softmax(dim=1)
            assert holds(reach, probs)
            certain = reach.labels >= 0
            assert (probs.argmax(dim=1) == reach.labels)[certain].all()


def test_a_tiny_network_is_bounded_closely():
    # One input: a fine grid is brute force.
    model = perceptron(3, sizes=(1, 5, 3), gain=3.0, dtype=torch.float64)
    inputs = torch.tensor([[0.2], [0.5], [0.7]], dtype=torch.float64)
    grid = torch.linspace(-0.05, 0.05, 2001, dtype=torch.float64)
    with torch.no_grad():
        every = torch.stack([model(inputs + step).softmax(dim=1) for step in grid])
    reach = crown(model, inputs, eps=0.05)
    loose = interval(model, inputs, eps=0.05)
    assert (reach.lower <= every.amin(dim=0) + 1e-9).all()
    assert (reach.upper >= every.amax(dim=0) - 1e-9).all()
    truth = every.amax(dim=0) - every.amin(dim=0)
    assert ((reach.upper - reach.lower) - truth).mean() < 1.2 * truth.mean()
    assert (reach.upper - reach.lower).mean() <= (loose.upper - loose.lower).mean() + 1e-9


def exact_margins(model, low, high):
    """Minimise every margin over a box, by a linear program for each pattern of the ReLUs."""
    first, last = model[1], model[3]
    w, b, v, c = (
        part.detach().double().numpy()
        for part in (first.weight, first.bias, last.weight, last.bias)
    )
    least = np.full((len(v), len(v)), np.inf)
    for pattern in itertools.product([0.0, 1.0], repeat=len(w)):
        on = np.array(pattern)
        sides = ((1 - 2 * on)[:, None] * w, (2 * on - 1) * b)  # z >= 0 where on, else z <= 0
        for k, j in itertools.permutations(range(len(v)), 2):
            slope = ((v[k] - v[j]) * on) @ w
            found = optimize.linprog(slope, *sides, bounds=list(zip(low, high, strict=True)))
            if found.success:
                value = found.fun + ((v[k] - v[j]) * on) @ b + c[k] - c[j]
                least[k, j] = min(least[k, j], value)
    return least


def test_bounds_are_below_the_exact_minimum_and_close_to_it():
    model = perceptron(3, sizes=(3, 4, 3), gain=3.0, dtype=torch.float64)
    point = torch.tensor([[0.3, 0.5, 0.6]], dtype=torch.float64)
    for eps in (0.05, 0.2):
        low, high = point - eps, point + eps
        exact = exact_margins(model, low[0].tolist(), high[0].tolist())
        maps = affine_maps(model, point, ())
        rows, places = _pairs(3, point.device)
        truth = torch.tensor(exact)[places[:, 0], places[:, 1]]
        tight, loose = (f(Box(low, high), maps, rows)[0] for f in (crown_margins, interval_margins))
        assert (tight <= truth + 1e-9).all()
        assert (loose <= tight + 1e-9).all()
        assert (truth - tight).mean() < 0.6 * (truth - loose).mean()
        reach = crown(model, point, eps=eps)
        for k in range(3):  # the label is kept exactly if its margins are positive
            if reach.labels[0] == k:
                assert (np.delete(exact[k], k) > 0).all()


def test_attacks_stay_inside_and_crown_is_tighter():
    model, inputs = perceptron(1), points(100, seed=5)
    labels = model(inputs).argmax(dim=1)
    for eps in (0.02, 0.1):
        reach, loose = crown(model, inputs, eps=eps), interval(model, inputs, eps=eps)
        for attack in (pgd, uca, oca):
            found = attack(model, inputs, labels, eps=eps, generator=seeded())
            probs = model(found).detach().double().softmax(dim=1)
            assert holds(reach, probs)
            assert holds(loose, probs)
            confidence = probs.amax(dim=1)
            low, high = reach.confidence
            assert ((low <= confidence + 1e-6) & (confidence <= high + 1e-6)).all()
        assert (reach.upper - reach.lower).mean() < (loose.upper - loose.lower).mean()
        assert (reach.labels >= 0).sum() >= (loose.labels >= 0).sum()
        assert figures(reach, labels).accuracy_low >= figures(loose, labels).accuracy_low


@METHODS
def test_bounds_widen_with_the_radius(method):
    model, inputs = perceptron(2), points(10)
    before = method(model, inputs, eps=0.0)
    clean = model(inputs).detach().double().softmax(dim=1)
    assert torch.allclose(before.lower, clean, atol=SLACK)
    assert torch.allclose(before.upper, clean, atol=SLACK)
    for eps in (0.01, 0.1, 1.0):
        reach = method(model, inputs, eps=eps)
        assert (reach.lower <= before.lower).all()
        assert (reach.upper >= before.upper).all()
        before = reach


class Normalise(nn.Module):
    def forward(self, inputs):
        return (inputs - 0.3) / 0.4


class Squared(nn.Module):
    def forward(self, inputs):
        return inputs.square()


def convolutional():
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = nn.Sequential(
            Normalise(),
            nn.Sequential(nn.Conv2d(2, 4, 3, padding=1), nn.BatchNorm2d(4), nn.ReLU()),
            nn.AvgPool2d(2),
            nn.Dropout(0.5),
            nn.Conv2d(4, 3, 2, stride=1, padding_mode="reflect", padding=1),
            nn.ReLU(),
            nn.Identity(),
            nn.Flatten(),
            nn.Linear(75, 8),
            nn.BatchNorm1d(8),
            nn.ReLU(),
            nn.ReLU(),
            nn.Linear(8, 3),
        )
        model[1][1].running_var.uniform_(0.2, 2)
        model[1][1].running_mean.uniform_(-1, 1)
        model[9].running_var.uniform_(0.01, 0.1)
        return model


@METHODS
def test_every_layer_is_known(method):
    model = convolutional()
    before = state(model)
    inputs = torch.rand(4, 2, 8, 8, generator=seeded())
    reach = method(model, inputs, eps=0.01, affine=(Normalise,))
    assert state(model) == before
    model.eval()
    with torch.no_grad():
        for each in inside(inputs, 0.01, 100):
            assert holds(reach, model(each).double().softmax(dim=1))
    if method is crown:
        assert (reach.upper - reach.lower).mean() < 0.3


@METHODS
def test_examples_do_not_depend_on_each_other(method):
    model, inputs = perceptron(), points(7)
    whole = method(model, inputs, eps=0.1)
    for i in range(7):
        one = method(model, inputs[i : i + 1], eps=0.1)
        assert torch.allclose(one.lower[0], whole.lower[i], atol=1e-12)
        assert torch.allclose(one.upper[0], whole.upper[i], atol=1e-12)


@METHODS
def test_it_works_in_any_mode_and_on_wider_bounds(method):
    model, inputs = perceptron(), points(3)
    plain = method(model, inputs, eps=0.1)
    with torch.inference_mode():
        again = method(model, inputs, eps=0.1)
    assert torch.equal(plain.lower, again.lower)
    assert not again.lower.requires_grad
    free = method(model, inputs, eps=0.1, bounds=(-9, 9))
    assert (free.lower <= plain.lower + 1e-12).all()
    assert isinstance(free, Reach)
    assert free.alpha == 0


@METHODS
def test_bounds_of_all_forms(method):
    model, inputs = perceptron(), points(3)
    plain = method(model, inputs, eps=0.1)
    each = torch.zeros(6), torch.ones(6)
    assert torch.equal(method(model, inputs, eps=0.1, bounds=each).lower, plain.lower)
    assert torch.equal(
        method(model, inputs, eps=0.1, bounds=(0.0, torch.ones(()))).lower, plain.lower
    )
    free = method(model, inputs, eps=0.1, bounds=None)
    assert torch.equal(free.lower, method(model, inputs, eps=0.1, bounds=(-9, 9)).lower)
    fixed = method(model, inputs, eps=0.1, bounds=(inputs, inputs))  # nothing may move
    assert torch.allclose(fixed.lower, model(inputs).detach().double().softmax(dim=1), atol=SLACK)


@METHODS
def test_bad_arguments_are_named(method):
    model, inputs = perceptron(), points(2)
    for options, error, words in [
        ({"eps": -1}, ValueError, "eps >= 0"),
        ({"eps": 0.1, "bounds": (0, 0.1)}, ValueError, "inputs within bounds .*certify images"),
        ({"eps": 0.1, "affine": nn.Tanh}, TypeError, "affine as a tuple of types"),
    ]:
        with pytest.raises(error, match=words):
            method(model, inputs, **options)
    with pytest.raises(ValueError, match=r"take the rounding off by inputs.clamp\(0, 1\)"):
        method(model, torch.full((2, 6), 1 + 1e-6), eps=0.1)
    with pytest.raises(TypeError, match="got Tanh"):
        method(nn.Sequential(model, nn.Tanh()), inputs, eps=0.1)
    with pytest.raises(TypeError, match="Sequential"):
        method(lambda rows: rows, inputs, eps=0.1)
    with pytest.raises(ValueError, match="together are not"):
        method(nn.Sequential(Squared(), *model), inputs, eps=0.1, affine=(Squared,))
    norm = nn.BatchNorm1d(6, track_running_stats=False)
    with pytest.raises(ValueError, match="running statistics"):
        method(nn.Sequential(norm, *model), inputs, eps=0.1)
    with pytest.raises(TypeError, match="inputs"):
        method(model, np.zeros((2, 6)), eps=0.1)


@METHODS
@pytest.mark.parametrize("where", [0, 1], ids=["container", "relu"])
def test_a_hook_that_matrices_do_not_know_is_refused(method, where):
    model = nn.Sequential(nn.Linear(6, 4), nn.ReLU(), nn.Linear(4, 3))
    hooked = (model, model[1])[where]
    hooked.register_forward_hook(lambda module, inputs, output: -5 * output)
    with pytest.raises(ValueError, match="without hooks"):
        method(model, points(2), eps=0.0)


@METHODS
@pytest.mark.parametrize("normed", [nn.utils.spectral_norm, nn.utils.weight_norm])
@pytest.mark.filterwarnings("ignore:`torch.nn.utils:FutureWarning")
def test_norms_of_weights_by_hooks_are_read_after_training_too(method, normed):
    model, inputs = nn.Sequential(normed(nn.Linear(6, 4)), nn.ReLU(), nn.Linear(4, 3)), points(2)
    model.train()
    model(inputs).sum().backward()
    model.eval()
    reach = method(model, inputs, eps=0.0)
    assert torch.allclose(reach.lower, model(inputs).double().softmax(dim=1), atol=1e-5)


@METHODS
def test_a_hook_of_an_affine_layer_counts(method):
    model = perceptron()
    layer = next(each for each in model.modules() if isinstance(each, nn.Linear))
    layer.register_forward_hook(lambda module, inputs, output: -output)
    inputs = points(4)
    assert holds(method(model, inputs, eps=0.0), model(inputs).detach().double().softmax(dim=1))


@METHODS
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_rounds_more(method, dtype):
    model, inputs = perceptron(sizes=(64, 64, 64, 10)).to(dtype), points(20, 64).to(dtype)
    reach = method(model, inputs, eps=0.0)
    assert holds(reach, model(inputs).detach().double().softmax(dim=1))


@METHODS
@pytest.mark.parametrize(
    ("model", "words"),
    [
        (nn.Sequential(nn.Linear(6, 1)), "classes >= 2"),
        (nn.Sequential(nn.Unflatten(1, (1, 2, 3)), nn.Conv2d(1, 2, 1)), "logits of shape"),
        (nn.Sequential(nn.Linear(6, 2), nn.Identity(), nn.BatchNorm1d(2)), "finite weights"),
    ],
    ids=["one logit", "dense", "NaN"],
)
def test_networks_that_give_no_logits_are_named(method, model, words):
    if isinstance(model[-1], nn.BatchNorm1d):
        model[-1].running_var.fill_(torch.nan)
    with pytest.raises(ValueError, match=words):
        method(model, points(2), eps=0.1, affine=(nn.Unflatten,))


@METHODS
def test_of_a_ball_too_large_to_compute_in_nothing_is_known(method):
    reach = method(perceptron(), points(2), eps=1e308, bounds=None)
    assert bool(
        (reach.lower == 0).all() and (reach.upper == 1).all() and (reach.labels == -1).all()
    )
