"""The loss of the inverse adversarial attack, in its closed forms."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn.functional import cross_entropy, one_hot

from advcal.losses import inverse_adversarial, smooth_labels

LAMS = [0.0, 0.5, 1.0, 5.0, 10.0]


def draw(seed, n=5, n_classes=7):
    generator = torch.Generator().manual_seed(seed)
    logits = torch.randn(n, n_classes, generator=generator, dtype=torch.float64) * 3
    return logits, torch.randint(n_classes, (n,), generator=generator)


def optimum(n_classes, lam):
    """Return logits at the minimum for label 0, and the probabilities there."""
    probs = torch.full((1, n_classes), lam / (n_classes * (1 + lam)), dtype=torch.float64)
    probs[0, 0] += 1 / (1 + lam)
    return probs.log(), probs


def test_by_hand():
    logits = torch.tensor([[0.0, 0.0]], dtype=torch.float64)
    value = inverse_adversarial(logits, torch.tensor([1]), lam=3.0)
    assert float(value) == pytest.approx(4 * np.log(2))
    logits = torch.tensor([[0.8, 0.2]], dtype=torch.float64).log()
    value = inverse_adversarial(logits, torch.tensor([0]), lam=2.0)
    assert float(value) == pytest.approx(-np.log(0.8) - np.log(0.8) - np.log(0.2))


@pytest.mark.parametrize("lam", LAMS)
@pytest.mark.parametrize("reduction", ["none", "mean", "sum"])
def test_is_two_cross_entropies(lam, reduction):
    logits, labels = draw(0)
    uniform = torch.full_like(logits, 1 / 7)
    wanted = cross_entropy(logits, labels, reduction=reduction) + lam * cross_entropy(
        logits, uniform, reduction=reduction
    )
    got = inverse_adversarial(logits, labels, lam=lam, reduction=reduction)
    torch.testing.assert_close(got, wanted)


@pytest.mark.parametrize("lam", LAMS)
def test_is_the_cross_entropy_to_a_smoothed_label(lam):
    logits, labels = draw(1)
    smoothing = torch.full((5,), lam / (1 + lam), dtype=torch.float64)
    wanted = (1 + lam) * cross_entropy(logits, smooth_labels(labels, 7, smoothing))
    torch.testing.assert_close(inverse_adversarial(logits, labels, lam=lam), wanted)
    of_torch = cross_entropy(logits, labels, label_smoothing=lam / (1 + lam))
    torch.testing.assert_close(wanted, (1 + lam) * of_torch)


def test_five_is_the_default():
    logits, labels = draw(2)
    assert inverse_adversarial(logits, labels) == inverse_adversarial(logits, labels, lam=5)


@pytest.mark.parametrize("reduction", ["none", "mean", "sum"])
def test_without_the_uniform_term_it_is_cross_entropy(reduction):
    logits, labels = draw(3)
    got = inverse_adversarial(logits, labels, lam=0, reduction=reduction)
    torch.testing.assert_close(got, cross_entropy(logits, labels, reduction=reduction))


@pytest.mark.parametrize("lam", LAMS)
def test_gradient(lam):
    logits, labels = draw(4)
    logits.requires_grad_()
    loss = inverse_adversarial(logits, labels, lam=lam, reduction="sum")
    (gradient,) = torch.autograd.grad(loss, logits)
    wanted = (1 + lam) * logits.detach().softmax(dim=1) - (one_hot(labels, 7) + lam / 7)
    torch.testing.assert_close(gradient, wanted)


@pytest.mark.parametrize("lam", [lam for lam in LAMS if lam])
@pytest.mark.parametrize("n_classes", [2, 10, 200, 1000])
def test_optimum(lam, n_classes):
    logits, probs = optimum(n_classes, lam)
    label = torch.tensor([0])
    assert float(probs[0, 0]) == pytest.approx((1 + lam / n_classes) / (1 + lam))
    assert float(probs[0, 0] - probs[0, 1]) == pytest.approx(1 / (1 + lam))
    logits.requires_grad_()
    least = inverse_adversarial(logits, label, lam=lam)
    (gradient,) = torch.autograd.grad(least, logits)
    assert gradient.abs().max() < 1e-12
    for seed in range(20):
        step = draw(seed, 1, n_classes)[0] / 10
        step -= step.mean()
        assert inverse_adversarial(logits + step, label, lam=lam) > least


@pytest.mark.parametrize(("n_classes", "label_prob"), [(10, 0.25), (200, 0.1708), (1000, 0.1675)])
def test_descent_ends_at_the_published_probability(n_classes, label_prob):
    logits = torch.zeros(1, n_classes, dtype=torch.float64, requires_grad=True)
    optimizer = torch.optim.LBFGS(
        [logits], max_iter=200, tolerance_grad=1e-12, line_search_fn="strong_wolfe"
    )

    def closure():
        optimizer.zero_grad()
        loss = inverse_adversarial(logits, torch.tensor([0]), lam=5.0)
        loss.backward()
        return loss

    optimizer.step(closure)
    probs = logits.detach().softmax(dim=1)[0]
    assert float(probs[0]) == pytest.approx(label_prob, abs=5e-5)
    assert float(probs[0] - probs[1:].max()) == pytest.approx(1 / 6, abs=1e-4)


@settings(max_examples=100, deadline=None, derandomize=True)
@given(
    seed=st.integers(0, 10**6),
    lam=st.floats(0, 20),
    share=st.floats(0, 1),
    scale=st.sampled_from([0.1, 1.0, 30.0]),
)
def test_convex_in_the_logits(seed, lam, share, scale):
    a, labels = draw(seed)
    b, _ = draw(seed + 1)
    a, b = a * scale, b * scale

    def loss(logits):
        return inverse_adversarial(logits, labels, lam=lam, reduction="none")

    between = loss(share * a + (1 - share) * b)
    chord = share * loss(a) + (1 - share) * loss(b)
    assert (between <= chord + 1e-9 * (1 + chord.abs())).all()


def test_larger_lam_means_less_confidence_at_the_optimum():
    top = [float(optimum(10, lam)[1][0, 0]) for lam in (0.5, 1, 3, 5, 7, 10)]
    assert top == sorted(top, reverse=True)


@pytest.mark.parametrize("lam", [-1, -1e-9, float("nan"), float("inf")])
def test_lam_out_of_range(lam):
    with pytest.raises(ValueError, match="expected lam >= 0, got"):
        inverse_adversarial(*draw(0), lam=lam)


@pytest.mark.parametrize("lam", ["5", None, True, [5.0]])
def test_lam_of_the_wrong_kind(lam):
    with pytest.raises(TypeError, match="expected lam as a number, got"):
        inverse_adversarial(*draw(0), lam=lam)
