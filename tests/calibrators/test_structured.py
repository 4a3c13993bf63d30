"""Structured scaling is at its optimum, holds back where data are few, and the choice is safe."""

import pytest
import torch

from advcal import calibrators, metrics

pytestmark = pytest.mark.filterwarnings("ignore:expected enough examples to mend more")


def draw(n, seed=0, n_classes=6, biased=True):
    """Draw logits, and labels from another scale and offset of each class if biased."""
    generator = torch.Generator().manual_seed(seed)
    logits = 3 * torch.randn(n, n_classes, generator=generator, dtype=torch.float64)
    truth = logits
    if biased:
        truth = logits * torch.linspace(0.3, 1.1, n_classes) + torch.linspace(-1, 1, n_classes)
    return logits, torch.multinomial(truth.softmax(dim=1), 1, generator=generator)[:, 0]


def nll(calibrator, logits, labels):
    return float(metrics.nll(calibrator.log_probs(logits), labels, from_logits=True))


@pytest.mark.parametrize("strength", [0.3, 1.0, 10.0])
@pytest.mark.parametrize("fit", [calibrators.fit_svs, calibrators.fit_sms])
def test_the_penalised_loss_is_at_its_optimum(fit, strength):
    logits, labels = draw(80)
    n, k = logits.shape
    found = fit(logits, labels, strength=strength)
    x = (logits / found.temperature).log_softmax(dim=1)
    start = torch.eye(k, dtype=torch.float64) if fit is calibrators.fit_sms else torch.ones(k)
    shift = (found.weight - start.double()).requires_grad_()
    bias = found.bias.clone().requires_grad_()
    if shift.ndim == 1:
        scores, penalty = x + x * shift + bias, k * shift.square().sum()
    else:
        scores, diagonal = x + x @ shift.T + bias, shift.diagonal()
        rest = shift.square().sum() - diagonal.square().sum()
        penalty = k * diagonal.square().sum() + k * (k - 1) * rest
    loss = torch.nn.functional.cross_entropy(scores, labels)
    loss = loss + strength / n * (penalty + k * bias.square().sum())
    for gradient in torch.autograd.grad(loss, [shift, bias]):
        assert float(gradient.abs().max()) < 1e-7
    prior = calibrators.fit_temperature(logits, labels, prior=0.5)
    assert found.temperature == prior.temperature


@pytest.mark.parametrize("fit", [calibrators.fit_svs, calibrators.fit_sms])
def test_few_examples_cost_little_and_many_gain(fit):
    others = draw(4000, seed=99)
    none = nll(calibrators.Temperature(6, 1.0), *others)
    assert nll(fit(*draw(30)), *others) < none
    few, many = (nll(fit(*draw(n)), *others) for n in (200, 3000))
    assert many < few < nll(calibrators.fit_temperature(*draw(200)), *others) < none


def test_the_choice_is_the_best_where_there_is_something_to_gain():
    found = calibrators.fit_best(*draw(600))
    assert list(found.losses) == ["none", "temperature", "spline", "svs", "sms"]
    assert min(found.losses, key=found.losses.get) in found.reason
    assert isinstance(found.calibrator, calibrators.Affine)
    assert found.losses["svs"] < found.losses["temperature"] < found.losses["none"]
    again = calibrators.fit_best(*draw(600))
    assert again.losses == found.losses  # nothing is drawn


@pytest.mark.parametrize("n", [9, 20, 60])
def test_the_choice_costs_next_to_nothing_where_there_is_nothing_to_gain(n):
    others, costs = draw(3000, seed=99, biased=False), []
    for seed in range(3):
        found = calibrators.fit_best(*draw(n, seed, biased=False))
        costs.append(nll(found.calibrator, *others))
        few = {9: [], 20: ["none", "temperature"]}
        assert list(found.losses) == few.get(n, ["none", "temperature", "spline", "svs", "sms"])
    none = nll(calibrators.Temperature(6, 1.0), *others)
    assert sum(costs) / len(costs) - none < 0.06


def test_a_class_without_examples_is_no_trouble():
    logits, labels = draw(100)
    labels = labels.clamp(max=3)
    for fit in (calibrators.fit_svs, calibrators.fit_sms, calibrators.fit_best):
        found = fit(logits, labels)
        calibrator = found.calibrator if fit is calibrators.fit_best else found
        assert calibrator(logits).isfinite().all()


def test_the_strength_that_cross_validation_chooses_is_that_of_the_lowest_loss():
    weak = calibrators.fit_svs(*draw(2000), strength=None)
    shift = (weak.weight - 1).abs().max()
    strengths = {c: calibrators.fit_svs(*draw(2000), strength=c) for c in (0.3, 1.0, 3.0, 10.0)}
    assert any(torch.equal(weak.weight, each.weight) for each in strengths.values())
    held = calibrators.fit_svs(*draw(60, biased=False), strength=None)
    assert (held.weight - 1).abs().max() < shift / 10
    few = calibrators.fit_svs(*draw(9), strength=None)
    assert torch.equal(few.weight, calibrators.fit_svs(*draw(9), strength=100.0).weight)


@pytest.mark.parametrize("n", [40, 400])
def test_the_choice_for_two_classes(n):
    found = calibrators.fit_best(*draw(n, n_classes=2))
    curves = ["beta", "quadratic", "spline"] if n == 400 else []
    assert list(found.losses) == ["none", "temperature", *curves]
    others = draw(4000, seed=99, n_classes=2)
    assert nll(found.calibrator, *others) < nll(calibrators.Temperature(2, 1.0), *others)
