"""The sketch: what it keeps, how far it is from the exact figures, and that it adds."""

import dataclasses
import itertools

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.optimize import brentq
from scipy.stats import norm

from advcal import metrics
from advcal.metrics import reliability_sketch

kinds = pytest.mark.parametrize("kind", [np.asarray, torch.as_tensor])
FIELDS = ("edges", "counts", "confidences", "corrects")
GRID = 2**15


def two_class(confidences, corrects):
    confidences = np.asarray(confidences, dtype=np.float64)
    return np.stack([confidences, 1 - confidences], axis=1), np.where(corrects, 0, 1)


def draw(seed, n, crowd=None):
    """Draw predictions; a crowd of them shares few fine bins."""
    rng = np.random.default_rng(seed)
    confidences = rng.uniform(0.5, 1, n)
    if crowd == "near one":
        confidences = 1 - rng.exponential(1 / GRID, n).clip(0, 0.5)
    if crowd == "in one bin":
        confidences = (20_000 + rng.random(n)) / GRID
    return two_class(confidences, rng.random(n) < confidences - 0.1)


@settings(max_examples=80, deadline=None, derandomize=True)
@given(
    st.integers(0, 10**6),
    st.integers(1, 300),
    st.integers(1, 20),
    st.sampled_from([None, "near one", "in one bin"]),
)
def test_equal_mass_bins_are_within_the_stated_bound(seed, n, n_bins, crowd):
    probs, labels = draw(seed, n, crowd)
    exact = metrics.reliability_bins(probs, labels, n_bins=n_bins, binning="quantile")
    sketch = reliability_sketch(probs, labels)
    found = sketch.quantile_bins(n_bins=n_bins)
    assert found.n == n
    assert found.corrects.sum() == exact.corrects.sum()
    assert found.confidences.sum() == pytest.approx(exact.confidences.sum(), rel=1e-13)
    assert (found.edges - exact.edges >= 0).all()
    assert (found.edges - exact.edges <= 1 / GRID).all()
    fine = np.ceil(probs.max(axis=1) * GRID)
    shared = np.isin(fine, np.ceil(exact.edges[1:-1] * GRID))
    residuals = abs((labels == 0) - probs[:, 0])
    assert abs(found.ece - exact.ece) <= 2 * residuals[shared].sum() / n + 1e-12
    if len(set(fine[shared])) == len(fine[shared]):  # alone in its bin: nothing moves
        np.testing.assert_array_equal(found.counts, exact.counts)
        assert found.ece == pytest.approx(exact.ece, abs=1e-12)


def test_the_bound_is_reached_up_to_a_half():
    # Both in one fine bin: the exact table parts the two, the sketch cannot.
    data = two_class([(20_000 + 0.2) / GRID, (20_000 + 0.8) / GRID], [1, 0])
    sketch = reliability_sketch(*data)
    assert metrics.ece(*data, n_bins=2, binning="quantile") == pytest.approx(0.5, abs=1e-4)
    assert sketch.quantile_bins(n_bins=2).ece == pytest.approx(abs(20_000 / GRID - 0.5), abs=1e-4)


def smooth_error(confidences, corrects, width):
    """Integrate the size of the smoothed residual exactly: by its roots and its antiderivative."""
    shifts = range(-10, 11, 2)
    images = [sign * confidences + shift for shift in shifts for sign in (1, -1)]
    images = np.concatenate(images)[:, None]
    weights = np.tile((corrects - confidences) / len(confidences), 2 * len(shifts))

    def density(t):
        return weights @ norm.pdf(t, images, width)

    t = np.linspace(0, 1, 1001)
    values = density(t)
    turns = np.flatnonzero(values[1:] * values[:-1] < 0)
    roots = [brentq(lambda at: density(np.array([at]))[0], t[i], t[i + 1]) for i in turns]
    ends = np.array([0, *roots, 1])
    return abs(np.diff(weights @ norm.cdf(ends, images, width))).sum()


@settings(max_examples=10, deadline=None, derandomize=True)
@given(st.integers(0, 10**6), st.integers(1, 12))
def test_the_smooth_error_is_within_the_stated_bound(seed, n):
    probs, labels = draw(seed, n)
    found = float(reliability_sketch(probs, labels).smooth_ece)
    exact = brentq(
        lambda width: smooth_error(probs[:, 0], labels == 0, width) - width, 1e-3, 1, xtol=1e-13
    )
    assert abs(found - exact) <= GRID**-2 / (8 * exact**2) + 1e-9  # and the sum for the integral


@kinds
@settings(max_examples=6, deadline=None, derandomize=True)
@given(
    seed=st.integers(0, 10**6),
    n=st.integers(2, 200),
    cuts=st.lists(st.integers(1, 199), max_size=5),
)
def test_any_split_of_the_data_adds_up(kind, seed, n, cuts):
    probs, labels = map(kind, draw(seed, n))
    whole = reliability_sketch(probs, labels)
    bounds = sorted({0, n, *(cut for cut in cuts if cut < n)})
    parts = [
        reliability_sketch(probs[start:stop], labels[start:stop])
        for start, stop in itertools.pairwise(bounds)
    ]
    for merged in (sum(parts), sum(reversed(parts))):
        for field in ("edges", "counts", "corrects"):
            np.testing.assert_array_equal(getattr(merged.bins, field), getattr(whole.bins, field))
        np.testing.assert_allclose(merged.bins.confidences, whole.bins.confidences, rtol=1e-14)
        assert float(merged.smooth_ece) == pytest.approx(float(whole.smooth_ece), abs=1e-11)
        wanted = metrics.smooth_ece(probs, labels)
        assert float(merged.smooth_ece) == pytest.approx(float(wanted), abs=1e-11)
        assert float(merged.quantile_bins().ece) == pytest.approx(
            float(whole.quantile_bins().ece), abs=1e-14
        )


@kinds
def test_of_the_kind_that_came_in(kind):
    sketch = reliability_sketch(*map(kind, draw(0, 50)))
    table = sketch.quantile_bins(n_bins=4)
    for array in (sketch.residuals, *(getattr(table, field) for field in FIELDS)):
        assert isinstance(array, torch.Tensor if kind is torch.as_tensor else np.ndarray)
    assert table.counts.dtype in (torch.int64, np.int64)
    assert isinstance(sketch.smooth_ece, torch.Tensor if kind is torch.as_tensor else np.floating)
    assert repr(sketch).startswith("ReliabilitySketch(n=50, accuracy=0.")


def test_immutable_and_adds_to_nothing_else():
    sketch = reliability_sketch(*draw(0, 50))
    with pytest.raises(dataclasses.FrozenInstanceError):
        sketch.residuals = None
    for other in (1, None, sketch.bins, np.zeros(GRID)):
        with pytest.raises(TypeError):
            sketch + other
    with pytest.raises(ValueError, match="expected n_bins >= 1, got 0"):
        sketch.quantile_bins(n_bins=0)


def test_fine_bins_are_those_of_the_table():
    data = draw(0, 500)
    table, sketch = metrics.reliability_bins(*data, n_bins=GRID), reliability_sketch(*data)
    for field in FIELDS:
        np.testing.assert_array_equal(getattr(sketch.bins, field), getattr(table, field))
    assert sum([sketch]) is sketch
