"""Isotonic regression, IRM, IROvA and histogram binning against hand-made values and peers."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.isotonic import IsotonicRegression

from advcal import calibrators, metrics

pytestmark = pytest.mark.filterwarnings("ignore:expected examples of all labels along the curve")


def draw(n, k, seed, digits=None):
    rng = np.random.default_rng(seed)
    logits = 2 * rng.standard_normal((n, k))
    logits = torch.tensor(logits if digits is None else logits.round(digits))
    return logits, torch.tensor(rng.integers(0, k, n))


def theirs(x, y, at):
    return IsotonicRegression(y_min=0, y_max=1, out_of_bounds="clip").fit(x, y).predict(at)


cases = given(
    seed=st.integers(0, 10**6), n=st.integers(2, 50), digits=st.sampled_from([0, 1, None])
)


@settings(max_examples=40, deadline=None)
@cases
def test_isotonic_is_scikit_learn_s(seed, n, digits):
    logits, labels = draw(n, 2, seed, digits)
    p, new = logits.softmax(dim=1)[:, 1], draw(50, 2, seed + 1)[0]
    wanted = theirs(p, labels, new.softmax(dim=1)[:, 1])
    got = calibrators.fit_isotonic(logits, labels)(new)
    np.testing.assert_allclose(got[:, 1], wanted, atol=1e-9)


@settings(max_examples=40, deadline=None)
@cases
def test_irm_and_irova_are_scikit_learn_s_renormalised(seed, n, digits):
    logits, labels = draw(n, 3, seed, digits)
    p, new = logits.softmax(dim=1).numpy(), draw(50, 3, seed + 1)[0]
    q, hits = new.softmax(dim=1).numpy(), np.eye(3)[labels]
    together = theirs(p.ravel(), hits.ravel(), q.ravel()).reshape(q.shape) + 1e-9 * q
    apart = np.stack([theirs(p[:, k], hits[:, k], q[:, k]) for k in range(3)], 1) + 1e-9 * q
    for fit, wanted in ((calibrators.fit_irm, together), (calibrators.fit_irova, apart)):
        got = fit(logits, labels)(new)
        wanted = wanted / wanted.sum(axis=1, keepdims=True)
        np.testing.assert_allclose(got, wanted, atol=1e-6)


def test_top_label_isotonic_keeps_the_proportions_of_the_others():
    logits, labels = draw(200, 4, 0)
    before, after = logits.softmax(dim=1), calibrators.fit_isotonic(logits, labels)(logits)
    top = before.argmax(dim=1, keepdim=True)
    correct = (top[:, 0] == labels).double()
    wanted = theirs(before.gather(1, top)[:, 0], correct, before.gather(1, top)[:, 0])
    np.testing.assert_allclose(after.gather(1, top)[:, 0], wanted, atol=1e-12)
    rest = before.scatter(1, top, 0.0)
    others = rest / rest.sum(dim=1, keepdim=True) * (1 - after.gather(1, top))
    torch.testing.assert_close(after.scatter(1, top, 0.0), others)


def test_a_saturated_confidence_leaves_the_others_equal_shares():
    logits = torch.tensor([[1000.0, 0.0, 1.0], [1000.0, 0.0, 1.0]]).double()
    fitted = calibrators.fit_isotonic(logits, torch.tensor([0, 1]))
    torch.testing.assert_close(fitted(logits)[0], torch.tensor([0.5, 0.25, 0.25]).double())


# --- histogram binning -----------------------------------------------------------------------


def binary(p):
    return torch.tensor(p, dtype=torch.float64).logit()[:, None] * torch.tensor([0.0, 1.0])


def test_a_histogram_by_hand():
    logits = binary([0.1, 0.2, 0.3, 0.9])
    fitted = calibrators.fit_histogram(logits, torch.tensor([0, 1, 1, 1]), n_bins=4)
    assert fitted.y.tolist() == [0.5, 0.5, 1, 1, 0.625, 0.625, 1, 1]  # the third is empty
    got = fitted(binary([0.01, 0.249, 0.26, 0.5, 0.51, 0.74, 0.76, 0.99]))[:, 1]
    torch.testing.assert_close(got, torch.tensor([0.5, 0.5, 1, 1, 0.625, 0.625, 1, 1]).double())


def test_bins_are_right_closed():
    logits = torch.zeros(1, 2)  # a probability of exactly one half
    fitted = calibrators.fit_histogram(logits, torch.tensor([1]), n_bins=2)
    assert fitted.y.tolist() == [1, 1, 0.75, 0.75]
    assert fitted(logits).tolist() == [[0, 1]]


def test_quantile_bins_hold_equally_many():
    logits, labels = draw(300, 2, 1)
    fitted = calibrators.fit_histogram(logits, labels, n_bins=10, binning="quantile")
    p = logits.softmax(dim=1)[:, 1]
    counts = np.histogram(p, bins=[*fitted.x[::2].tolist(), 1.0])[0]
    assert counts.tolist() == [30] * 10
    for low, high, value in zip(fitted.x[::2], fitted.x[1::2], fitted.y[::2], strict=True):
        assert float(value) == pytest.approx(float(labels[(p > low) & (p <= high)].double().mean()))


def test_equal_values_share_a_quantile_bin():
    logits = binary([0.3] * 5 + [0.6] * 5)
    labels = torch.tensor([0, 0, 0, 0, 1] + [1] * 5)
    fitted = calibrators.fit_histogram(logits, labels, n_bins=5, binning="quantile")
    torch.testing.assert_close(fitted(logits)[:, 1], torch.tensor([0.2] * 5 + [1.0] * 5).double())


def test_binned_with_its_own_bins_nothing_is_miscalibrated():
    logits, labels = draw(500, 2, 2)
    fitted = calibrators.fit_histogram(logits, labels, n_bins=5)
    p, shown = logits.softmax(dim=1)[:, 1], fitted(logits)[:, 1]
    for bin_value in shown.unique():
        assert float(labels[shown == bin_value].double().mean()) == pytest.approx(float(bin_value))
    assert float(metrics.brier(fitted(logits), labels)) <= float(
        metrics.brier(torch.stack([1 - p, p], dim=1), labels)
    )
