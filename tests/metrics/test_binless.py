"""Calibration errors without bins: by hand, by quadrature, and what they do not depend on."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import norm

from advcal import metrics


def two_class(confidences, corrects):
    confidences = np.asarray(confidences, dtype=np.float64)
    return np.stack([confidences, 1 - confidences], axis=1), np.where(corrects, 0, 1)


def draw(seed, n):
    rng = np.random.default_rng(seed)
    confidences = rng.uniform(0.5, 1, n)
    return confidences, rng.random(n) < confidences - 0.1


def test_ks_by_hand():
    # Running sums of confidence minus right: .6, .3, 1.1, .1.
    data = two_class([0.8, 0.6, 1.0, 0.7], [0, 0, 1, 1])
    assert metrics.ks_error(*data) == pytest.approx(1.1 / 4)


def test_equal_confidences_enter_the_ks_error_together():
    for corrects in ([1, 0, 1, 0], [0, 0, 1, 1], [1, 1, 0, 0]):
        assert metrics.ks_error(*two_class([0.5] * 4, corrects)) == metrics.mcs(
            *two_class([0.5] * 4, [1, 1, 0, 0])
        )


@settings(max_examples=50, deadline=None, derandomize=True)
@given(st.integers(0, 10**6), st.integers(1, 60))
def test_ks_is_a_bound_of_the_score_and_at_most_its_range(seed, n):
    confidences, corrects = draw(seed, n)
    order = np.argsort(confidences)
    sums = np.cumsum((confidences - corrects)[order]) / n
    data = two_class(confidences, corrects)
    assert metrics.ks_error(*data) == pytest.approx(abs(sums).max(), abs=1e-12)
    assert metrics.ks_error(*data) >= abs(metrics.mcs(*data)) - 1e-12


@pytest.mark.parametrize("seed", range(4))
def test_smooth_error_by_quadrature(seed):
    confidences, corrects = draw(seed, 50)
    width = metrics.smooth_ece(*two_class(confidences, corrects))
    t = (np.arange(20_000) + 0.5) / 20_000
    smoothed = np.zeros_like(t)
    for confidence, residual in zip(confidences, corrects - confidences, strict=True):
        for image in range(-6, 7, 2):  # the reflections at 0 and 1
            smoothed += residual * norm.pdf(t, image + confidence, width) / 50
            smoothed += residual * norm.pdf(t, image - confidence, width) / 50
    assert width == pytest.approx(np.abs(smoothed).mean(), rel=1e-5)


def test_one_confidence_has_its_own_error():
    for right in range(11):
        data = two_class([0.7] * 10, np.arange(10) < right)
        assert metrics.smooth_ece(*data) == pytest.approx(abs(0.7 - right / 10), abs=1e-9)


def test_the_ends_keep_their_mass():
    assert metrics.smooth_ece(*two_class([1.0] * 4, [1, 1, 1, 0])) == pytest.approx(0.25)
    assert metrics.smooth_ece(*two_class([1.0] * 4, [1] * 4)) == 0


def test_smooth_error_is_near_a_known_gap():
    rng = np.random.default_rng(0)
    confidences = rng.uniform(0.6, 0.9, 200_000)
    data = two_class(confidences, rng.random(200_000) < confidences - 0.1)
    assert metrics.smooth_ece(*data) == pytest.approx(0.1, abs=0.005)


# --- kernel density --------------------------------------------------------------------------


def by_quadrature(confidences, corrects, h):
    """Compute the integral by the letter, from every pair of a point and a confidence."""
    t = (np.arange(20_000) + 0.5) / 20_000
    density, right = np.zeros_like(t), np.zeros_like(t)
    for confidence, correct in zip(confidences, corrects, strict=True):
        kernel = sum(
            norm.pdf(t, image + sign * confidence, h)
            for image in range(-4, 5, 2)
            for sign in (1, -1)
        )
        density += kernel / len(confidences)
        right += correct * kernel / len(confidences)
    with np.errstate(invalid="ignore"):
        accuracy = right / density
    return float(np.nan_to_num(np.abs(t - accuracy) * density).mean())


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("h", [0.01, 0.05, 0.3])
def test_kernel_error_by_quadrature(seed, h):
    confidences, corrects = draw(seed, 50)
    confidences[:2] = 1.0, 0.5
    found = metrics.kde_ece(*two_class(confidences, corrects), bandwidth=h)
    assert found == pytest.approx(by_quadrature(confidences, corrects, h), abs=2e-6)


def test_the_bandwidth_is_silvermans():
    confidences, corrects = draw(0, 50)
    data = two_class(confidences, corrects)
    h = 1.06 * confidences.std() * 50**-0.2
    assert metrics.kde_ece(*data) == pytest.approx(metrics.kde_ece(*data, bandwidth=h), abs=1e-12)


def test_kernel_error_of_one_confidence_and_of_certainty():
    for right in range(11):
        data = two_class([0.7] * 10, np.arange(10) < right)
        assert metrics.kde_ece(*data) == pytest.approx(abs(0.7 - right / 10), abs=2e-4)
    certain = two_class([1.0] * 4, [1] * 4)
    h = 0.01
    assert metrics.kde_ece(*certain, bandwidth=h) == pytest.approx(h * np.sqrt(2 / np.pi), rel=1e-3)


@settings(max_examples=50, deadline=None, derandomize=True)
@given(st.integers(0, 10**6), st.integers(1, 60), st.floats(2**-13, 2))
def test_kernel_error_is_at_most_one(seed, n, h):
    assert 0 <= metrics.kde_ece(*two_class(*draw(seed, n)), bandwidth=h) <= 1


def test_kernel_error_is_near_a_known_gap():
    rng = np.random.default_rng(0)
    confidences = rng.uniform(0.6, 0.9, 200_000)
    data = two_class(confidences, rng.random(200_000) < confidences - 0.1)
    assert metrics.kde_ece(*data) == pytest.approx(0.1, abs=0.005)


@pytest.mark.parametrize("bandwidth", [0.0, -1.0, 1e-5, np.nan, np.inf])
def test_bad_bandwidths_are_refused(bandwidth):
    with pytest.raises(ValueError, match=r"expected bandwidth >= 0\.00012207, got"):
        metrics.kde_ece(*two_class([0.7], [1]), bandwidth=bandwidth)
    with pytest.raises(TypeError, match="expected bandwidth as a number, got str"):
        metrics.kde_ece(*two_class([0.7], [1]), bandwidth="0.1")
