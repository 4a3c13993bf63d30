"""The losses that keep a classifier from being too sure, by their formulas and limits."""

from functools import partial

import numpy as np
import pytest
import torch
from scipy.special import log_softmax
from torch.nn.functional import cross_entropy
from torch.testing import assert_close

from advcal.losses import confidence_penalty, flsd53, focal, label_relaxation, mbls


def draw(seed=0, n=40, n_classes=5, scale=4.0):
    generator = torch.Generator().manual_seed(seed)
    logits = scale * torch.randn(n, n_classes, generator=generator, dtype=torch.float64)
    return logits, torch.randint(n_classes, (n,), generator=generator)


def label_probs(logits, labels):
    log_p = log_softmax(logits.numpy(), axis=1)
    return np.exp(log_p[np.arange(len(labels)), labels.numpy()])


LOGITS, LABELS = draw()
P = label_probs(LOGITS, LABELS)
CE = cross_entropy(LOGITS, LABELS, reduction="none")


@pytest.mark.parametrize("gamma", [0, 0.5, 1, 3, 5])
def test_focal_by_its_formula(gamma):
    wanted = torch.tensor((1 - P) ** gamma * -np.log(P))
    assert_close(focal(LOGITS, LABELS, gamma=gamma, reduction="none"), wanted)


def test_flsd53_is_focal_with_a_gamma_per_example():
    wanted = torch.tensor((1 - P) ** np.where(P < 0.2, 5, 3) * -np.log(P))
    assert_close(flsd53(LOGITS, LABELS, reduction="none"), wanted)
    assert 0 < (P < 0.2).sum() < len(P)
    at_the_edge = torch.tensor([[0.2, 0.8]], dtype=torch.float64).log()
    label = torch.tensor([0])
    above = at_the_edge + torch.tensor([[1e-9, 0.0]])
    assert_close(flsd53(above, label), focal(above, label, gamma=3))
    below = at_the_edge - torch.tensor([[1e-9, 0.0]])
    assert_close(flsd53(below, label), focal(below, label, gamma=5))


def test_focal_is_exact_where_the_label_is_all_but_certain():
    logits = torch.tensor([[0.0, -40.0]], dtype=torch.float64)
    value = float(focal(logits, torch.tensor([0]), gamma=1.0))
    assert value == pytest.approx(np.exp(-80), rel=1e-12)
    logits.requires_grad_()
    (gradient,) = torch.autograd.grad(focal(logits, torch.tensor([0]), gamma=1.0), logits)
    assert gradient[0].tolist() == pytest.approx([-2 * np.exp(-80), 2 * np.exp(-80)], rel=1e-12)


def test_mbls_by_its_formula():
    z = LOGITS.numpy()
    for margin, alpha in ((10.0, 0.1), (3.0, 0.5), (0.0, 1.0)):
        beyond = np.maximum(z.max(axis=1, keepdims=True) - z - margin, 0).mean(axis=1)
        wanted = CE + torch.tensor(alpha * beyond)
        found = mbls(LOGITS, LABELS, margin=margin, alpha=alpha, reduction="none")
        assert_close(found, wanted)
    default = mbls(LOGITS, LABELS)
    assert default == mbls(LOGITS, LABELS, margin=10.0, alpha=0.1)


def test_mbls_costs_nothing_within_the_margin():
    assert_close(mbls(LOGITS / 10, LABELS), cross_entropy(LOGITS / 10, LABELS))
    assert mbls(LOGITS * 10, LABELS) > cross_entropy(LOGITS * 10, LABELS)


@pytest.mark.parametrize("alpha", [0.05, 0.1, 0.4])
def test_label_relaxation_is_the_divergence_from_the_nearest_acceptable_distribution(alpha):
    p = np.exp(log_softmax(LOGITS.numpy(), axis=1))
    onehot = np.eye(5)[LABELS.numpy()]
    others = p * (1 - onehot)
    nearest = (1 - alpha) * onehot + alpha * others / others.sum(axis=1, keepdims=True)
    kl = (nearest * np.log(nearest / p)).sum(axis=1)
    wanted = torch.tensor(np.where(1 - alpha <= P, 0.0, kl))
    found = label_relaxation(LOGITS, LABELS, alpha=alpha, reduction="none")
    assert_close(found, wanted)
    assert 0 < (found == 0).sum() < len(found)


def test_no_distribution_of_the_set_is_nearer():
    alpha, generator = 0.2, np.random.default_rng(0)
    p = np.array([0.3, 0.5, 0.2])
    least = float(label_relaxation(torch.tensor(p).log()[None], torch.tensor([0]), alpha=alpha))
    for _ in range(300):
        label = generator.uniform(1 - alpha, 1)
        other = (1 - label) * generator.dirichlet([1, 1])
        q = np.array([label, *other])
        assert (q * np.log(q / p)).sum() >= least - 1e-12


def test_label_relaxation_ends_without_a_step():
    label = torch.tensor([0])
    at_the_edge = torch.tensor([[0.9, 0.1]], dtype=torch.float64).log()
    outside = (at_the_edge - torch.tensor([[1e-6, 0.0]])).requires_grad_()
    value = label_relaxation(outside, label, alpha=0.1)
    (gradient,) = torch.autograd.grad(value, outside)
    assert 0 <= value < 1e-12
    assert gradient.abs().max() < 1e-6


def test_confidence_penalty_by_its_formula():
    log_p = log_softmax(LOGITS.numpy(), axis=1)
    entropy = torch.tensor(-(np.exp(log_p) * log_p).sum(axis=1))
    for beta in (0.1, 1.0, 3.0):
        found = confidence_penalty(LOGITS, LABELS, beta=beta, reduction="none")
        assert_close(found, CE - beta * entropy)


def test_a_class_that_is_ruled_out_adds_no_entropy():
    logits = torch.tensor([[1.0, 0.0, -torch.inf]], requires_grad=True)
    value = confidence_penalty(logits, torch.tensor([0]), beta=0.5)
    (gradient,) = torch.autograd.grad(value, logits)
    assert_close(value, confidence_penalty(logits[:, :2], torch.tensor([0]), beta=0.5))
    assert gradient.isfinite().all()


LIMITS = {
    "focal": partial(focal, gamma=0),
    "mbls": partial(mbls, alpha=0),
    "label_relaxation": partial(label_relaxation, alpha=0),
    "confidence_penalty": partial(confidence_penalty, beta=0),
}
NEAR = {
    "focal": partial(focal, gamma=1e-9),
    "mbls": partial(mbls, alpha=1e-9),
    "label_relaxation": partial(label_relaxation, alpha=1e-12),
    "confidence_penalty": partial(confidence_penalty, beta=1e-9),
}


@pytest.mark.parametrize("name", LIMITS)
def test_the_limit_is_cross_entropy(name):
    logits = LOGITS.clone().requires_grad_()
    wanted = torch.autograd.grad(cross_entropy(logits, LABELS), logits)
    for loss, tolerance in ((LIMITS[name], 1e-12), (NEAR[name], 1e-6)):
        found = loss(logits, LABELS)
        assert_close(found, CE.mean(), rtol=0, atol=tolerance)
        assert_close(torch.autograd.grad(found, logits), wanted, rtol=0, atol=tolerance)


def test_all_of_the_probability_may_be_elsewhere():
    assert float(label_relaxation(LOGITS, LABELS, alpha=1.0)) == 0


BAD = {
    "focal-gamma": (focal, "gamma", [-1, np.nan, np.inf, "3", True, None]),
    "mbls-margin": (mbls, "margin", [-1, np.nan, np.inf, "3", True, None]),
    "mbls-alpha": (mbls, "alpha", [-1, np.nan, np.inf, "3", True, None]),
    "label_relaxation-alpha": (label_relaxation, "alpha", [-0.1, 1.1, np.nan, "3", True, None]),
    "confidence_penalty-beta": (confidence_penalty, "beta", [-1, np.nan, np.inf, "3", True, None]),
}


@pytest.mark.parametrize("case", BAD)
def test_bad_options_are_refused(case):
    loss, name, values = BAD[case]
    for value in values:
        with pytest.raises((TypeError, ValueError), match=f"expected {name} .*got"):
            loss(LOGITS, LABELS, **{name: value})
