"""Vector, matrix, Dirichlet, Platt and class-wise temperature scaling are at their optima."""

import math
from functools import partial

import numpy as np
import pytest
import torch
from scipy import optimize
from sklearn.calibration import _sigmoid_calibration
from sklearn.linear_model import LogisticRegression

from advcal import calibrators

pytestmark = pytest.mark.filterwarnings("ignore:expected enough examples to mend more")


def draw(n=400, k=3, seed=0):
    generator = torch.Generator().manual_seed(seed)
    logits = 2 * torch.randn(n, k, generator=generator, dtype=torch.float64)
    weight = torch.eye(k).double() + 0.3 * torch.randn(k, k, generator=generator).double()
    bias = torch.linspace(-1, 1, k).double()
    probs = (logits @ weight.T + bias).softmax(dim=1)
    return logits, torch.multinomial(probs, 1, generator=generator)[:, 0]


def nll(scores, labels):
    return torch.nn.functional.cross_entropy(scores, labels)


def objective(name, weight, bias, logits, labels, off=1e-3, intercept=1e-3):
    """Compute what a fit minimises, from the formula in its docstring."""
    k = len(bias)
    if name == "vector":
        return nll(logits * weight + bias, labels)
    x = logits.log_softmax(dim=1) if name == "dirichlet" else logits
    penalty = off * (weight.square().sum() - weight.diag().square().sum()) / (k * (k - 1))
    return nll(x @ weight.T + bias, labels) + penalty + intercept * bias.square().sum() / k


odir = {"l2_off_diagonal": 1e-3, "l2_bias": 1e-3}
FITS = {
    "vector": partial(calibrators.fit_vector, strength=0),
    "matrix": partial(calibrators.fit_matrix, **odir),
    "dirichlet": partial(calibrators.fit_dirichlet, **odir),
}


@pytest.mark.parametrize(
    ("name", "scale"),
    [
        *[("vector", scale) for scale in (1e-3, 1.0, 1e3)],
        *[("matrix", scale) for scale in (1e-3, 1.0, 1e3)],
        *[("dirichlet", scale) for scale in (1.0, 10.0)],  # its penalties do not follow the scale
    ],
)
def test_the_gradient_is_zero_at_the_solution(name, scale):
    logits, labels = draw()
    fitted = FITS[name](logits * scale, labels)
    parameters = [fitted.weight.clone().requires_grad_(), fitted.bias.clone().requires_grad_()]
    value = objective(name, *parameters, logits * scale, labels)
    by_weight, by_bias = torch.autograd.grad(value, parameters)
    assert float((by_weight / scale).abs().max()) < 1e-6
    assert float(by_bias.abs().max()) < 1e-6


@pytest.mark.parametrize("name", FITS)
def test_no_other_point_is_lower(name):
    logits, labels = draw(n=60, seed=1)
    fitted = FITS[name](logits, labels)
    here = float(objective(name, fitted.weight, fitted.bias, logits, labels))
    generator = torch.Generator().manual_seed(0)
    for size in (1e-3, 1e-1, 1.0):
        for _ in range(20):
            weight, bias = (
                p + size * torch.randn(p.shape, generator=generator)
                for p in (fitted.weight, fitted.bias)
            )
            assert here <= float(objective(name, weight, bias, logits, labels)) + 1e-13


@pytest.mark.parametrize("name", FITS)
def test_never_worse_than_temperature_scaling(name):
    logits, labels = draw(n=40, k=5, seed=2)
    fitted, plain = FITS[name](logits, labels), calibrators.fit_temperature(logits, labels)
    assert nll(fitted.log_probs(logits), labels) <= nll(plain.log_probs(logits), labels) + 1e-12


def test_matrix_scaling_is_multinomial_logistic_regression():
    logits, labels = draw(seed=3)
    theirs = LogisticRegression(C=np.inf, tol=1e-10, max_iter=10_000).fit(logits, labels)
    ours = calibrators.fit_matrix(logits, labels, l2_off_diagonal=0.0, l2_bias=0.0)
    np.testing.assert_allclose(ours(logits), theirs.predict_proba(logits), atol=1e-6)


def test_great_penalties_leave_vector_and_no_bias():
    logits, labels = draw(seed=4)
    fitted = calibrators.fit_matrix(logits, labels, l2_off_diagonal=1e2, l2_bias=1e2)
    assert float((fitted.weight - fitted.weight.diag().diag()).abs().max()) < 1e-2
    assert float(fitted.bias.abs().max()) < 1e-2
    assert float(fitted.weight.diag().min()) > 0.1


def test_the_parameters_are_those_of_least_penalty_of_equal_maps():
    logits, labels = draw(seed=5)
    fitted = FITS["matrix"](logits, labels)
    off = fitted.weight - fitted.weight.diag().diag()
    assert float(off.sum(dim=0).abs().max()) < 1e-12
    assert abs(float(fitted.bias.sum())) < 1e-12


def test_a_class_without_examples_gets_little():
    logits, labels = draw(k=4, seed=6)
    labels[labels == 3] = 0
    for fit in (FITS["vector"], FITS["matrix"]):
        assert float(fit(logits, labels)(logits)[:, 3].max()) < 0.02


@pytest.mark.parametrize("strength", [0.3, 3.0])
def test_vector_scaling_is_held_by_a_prior_that_scales_with_n(strength):
    logits, labels = draw(n=90)
    found = calibrators.fit_vector(logits, labels, strength=strength)
    temperature = calibrators.fit_temperature(logits, labels, prior=0.5).temperature
    shift = (found.weight * temperature - 1).requires_grad_()
    bias = found.bias.clone().requires_grad_()
    penalty = strength * 3 / 90 * (shift.square().sum() + bias.square().sum())
    loss = nll(logits / temperature * (1 + shift) + bias, labels) + penalty
    for gradient in torch.autograd.grad(loss, [shift, bias]):
        assert float(gradient.abs().max()) < 1e-7


def test_by_default_the_penalties_of_matrices_scale_with_n():
    logits, labels = draw(n=90)
    wanted = calibrators.fit_sms(logits, labels)
    torch.testing.assert_close(
        calibrators.fit_dirichlet(logits, labels).log_probs(logits), wanted.log_probs(logits)
    )
    found = calibrators.fit_matrix(logits, labels)
    temperature = calibrators.fit_temperature(logits, labels, prior=0.5).temperature
    shift = (found.weight * temperature - torch.eye(3)).requires_grad_()
    bias = found.bias.clone().requires_grad_()
    off = shift.square().sum() - shift.diagonal().square().sum()
    penalty = 3 * (shift.diagonal().square().sum() + bias.square().sum()) + 6 * off
    x = logits / temperature
    loss = nll(x + x @ shift.T + bias, labels) + penalty / 90
    for gradient in torch.autograd.grad(loss, [shift, bias]):
        assert float(gradient.abs().max()) < 1e-6


# --- Platt -----------------------------------------------------------------------------------


@pytest.mark.parametrize("scale", [1e-3, 1.0, 1e3])
def test_platt_is_scikit_learn_s(scale):
    logits, labels = draw(k=2, seed=7)
    f = scale * (logits[:, 1] - logits[:, 0])
    a, b = _sigmoid_calibration(f.numpy(), labels.numpy())
    fitted = calibrators.fit_platt(scale * logits, labels)
    wanted = torch.sigmoid(-(a * f + b))
    np.testing.assert_allclose(fitted(scale * logits)[:, 1], wanted, atol=1e-5)


def test_platt_is_logistic_regression_with_each_example_of_both_classes():
    logits, labels = draw(k=2, seed=8)
    f, ones = (logits[:, 1] - logits[:, 0]).numpy()[:, None], int(labels.sum())
    targets = np.where(labels == 1, (ones + 1) / (ones + 2), 1 / (len(labels) - ones + 2))
    theirs = LogisticRegression(C=np.inf, tol=1e-10).fit(
        np.concatenate([f, f]),
        np.repeat([1, 0], len(f)),
        sample_weight=np.concatenate([targets, 1 - targets]),
    )
    fitted = calibrators.fit_platt(logits, labels)
    np.testing.assert_allclose(float(fitted.weight[1, 1]), theirs.coef_[0, 0], rtol=1e-5)
    np.testing.assert_allclose(float(fitted.bias[1]), theirs.intercept_[0], atol=1e-5)


def test_platt_stays_finite_on_separable_data():
    logits, labels = torch.tensor([[1.0, 0.0], [0.0, 1.0]]), torch.tensor([0, 1])
    fitted = calibrators.fit_platt(logits, labels)
    assert float(fitted(logits)[1, 1]) == pytest.approx(2 / 3, abs=1e-6)
    assert float(fitted.weight[1, 1]) == pytest.approx(math.log(2), abs=1e-6)


# --- class-wise temperature and the ensemble -------------------------------------------------


def test_class_temperatures_are_those_of_the_scores():
    logits, labels = draw(n=300, k=3, seed=9)
    temperature = calibrators.fit_temperature(logits, labels).temperature
    confidence, predicted = (logits / temperature).softmax(dim=1).max(dim=1)
    gaps = confidence - (predicted == labels).double()
    scores = torch.stack([gaps[labels == k].mean() for k in range(3)])  # three lie in the fences

    def loss(gamma):
        return float(nll(logits * (1 - gamma * scores) / temperature, labels))

    best = optimize.minimize_scalar(loss, bounds=(-2, 2), method="bounded")
    weight = calibrators.fit_class_temperature(logits, labels).weight
    wanted = (1 - best.x * scores) / temperature
    torch.testing.assert_close(weight, wanted, rtol=1e-4, atol=0)
    assert abs(best.x) > 0.01


@pytest.mark.parametrize("seed", range(5))
def test_the_weights_of_the_ensemble_are_optimal(seed):
    logits, labels = draw(n=100, k=4, seed=seed)
    logits[:20] *= 10
    fitted = calibrators.fit_ensemble(logits, labels)
    assert float(fitted.weights.sum()) == pytest.approx(1)
    assert float(fitted.weights.min()) >= 0
    members = [logits / fitted.temperature, logits, torch.zeros_like(logits)]
    probs = torch.stack([m.softmax(1).gather(1, labels[:, None])[:, 0] for m in members])
    # The NLL is above its minimum by no more than the greatest of these slopes less one.
    slopes = (probs / (fitted.weights @ probs)).mean(dim=1)
    assert float(slopes.max()) - 1 < 1e-6


def test_the_ensemble_takes_in_labels_of_no_probability():
    logits = torch.tensor([[2000.0, 0.0, 0.0]] * 9 + [[2000.0, 0.0, -1.0]]).double()
    labels = torch.tensor([0] * 9 + [2])
    fitted = calibrators.fit_ensemble(logits, labels)
    temperature = calibrators.fit_temperature(logits, labels)
    assert nll(fitted.log_probs(logits), labels) <= nll(temperature.log_probs(logits), labels)
