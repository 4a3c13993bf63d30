"""Estimators of the calibration error beside the plain one, by hand, by the letter and by peers."""

import inspect
import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torchmetrics.functional.classification import (
    binary_calibration_error,
    multiclass_calibration_error,
)

from advcal import metrics

seeds = st.integers(0, 10**6)


def draw(seed, n=60, n_classes=4):
    rng = np.random.default_rng(seed)
    probs = rng.dirichlet(np.full(n_classes, 0.5), n)
    labels = np.array([rng.choice(n_classes, p=row) for row in probs])
    return probs, labels


def two_class(confidences, corrects):
    confidences = np.asarray(confidences, dtype=np.float64)
    return np.stack([confidences, 1 - confidences], axis=1), np.where(corrects, 0, 1)


# --- equal mass ------------------------------------------------------------------------------


def test_equal_mass_by_hand():
    data = two_class([0.95, 0.6, 0.7, 0.8, 0.9], [1, 0, 1, 0, 1])
    bins = metrics.reliability_bins(*data, n_bins=2, binning="quantile")
    assert bins.edges.tolist() == [0, 0.8, 1]
    assert bins.counts.tolist() == [3, 2]
    assert bins.corrects.tolist() == [1, 2]
    wanted = (abs(2.1 - 1) + abs(1.85 - 2)) / 5
    assert metrics.ece(*data, n_bins=2, binning="quantile") == pytest.approx(wanted)
    assert metrics.mce(*data, n_bins=2, binning="quantile") == pytest.approx(1.1 / 3)


@settings(max_examples=50, deadline=None, derandomize=True)
@given(seeds, st.integers(1, 70), st.integers(1, 20))
def test_equal_mass_without_ties(seed, n, n_bins):
    bins = metrics.reliability_bins(*draw(seed, n), n_bins=n_bins, binning="quantile")
    assert bins.counts.max() - bins.counts.min() <= 1
    assert bins.n == n


def test_equal_confidences_stay_together():
    data = two_class([0.6] * 7 + [0.9], [1] * 8)
    bins = metrics.reliability_bins(*data, n_bins=4, binning="quantile")
    assert sorted(bins.counts.tolist()) == [0, 0, 1, 7]
    assert metrics.ece(*data, n_bins=4, binning="quantile") == pytest.approx((2.8 + 0.1) / 8)


def test_unknown_binnings_are_refused():
    for name in ("ece", "mce", "rmsce", "debiased_rmsce", "reliability_bins"):
        with pytest.raises(ValueError, match="binning to be one of 'uniform', 'quantile', got"):
            getattr(metrics, name)(*draw(0), binning="equal")


# --- parts and powers ------------------------------------------------------------------------


@settings(max_examples=50, deadline=None, derandomize=True)
@given(seeds, st.integers(1, 20))
def test_over_and_under_are_the_parts_of_the_error(seed, n_bins):
    bins = metrics.reliability_bins(*draw(seed), n_bins=n_bins)
    gaps = np.nan_to_num(bins.gaps) * bins.counts / bins.n
    assert bins.overconfidence == pytest.approx(gaps[gaps > 0].sum(), abs=1e-12)
    assert bins.underconfidence == pytest.approx(-gaps[gaps < 0].sum(), abs=1e-12)
    assert bins.overconfidence + bins.underconfidence == pytest.approx(bins.ece)
    assert bins.ece <= bins.rmsce + 1e-12 <= bins.mce + 2e-12
    assert bins.debiased_rmsce <= bins.rmsce + 1e-12


@settings(max_examples=100, deadline=None, derandomize=True)
@given(seeds, st.integers(1, 20))
def test_parity_of_rmsce_with_torchmetrics(seed, n_bins):
    probs, labels = map(torch.from_numpy, draw(seed))
    theirs = multiclass_calibration_error(probs, labels, 4, n_bins=n_bins, norm="l2")
    assert float(metrics.rmsce(probs, labels, n_bins=n_bins)) == pytest.approx(
        float(theirs),
        rel=1e-5,
        abs=1e-6,  # theirs adds in float32
    )


def test_debiased_by_hand():
    data = two_class([0.75] * 4 + [0.9], [1, 0, 0, 0, 0])  # a bin of one counts as 0
    wanted = math.sqrt(4 / 5 * (0.25 - 0.25 * 0.75 / 3))
    assert metrics.debiased_rmsce(*data, n_bins=10) == pytest.approx(wanted)
    assert metrics.debiased_rmsce(*two_class([0.75] * 4, [1, 1, 1, 0])) == 0


@pytest.mark.parametrize("kind", [np.asarray, torch.as_tensor])
@pytest.mark.parametrize("n", [10**3, 10**10, 10**15])
def test_debiased_of_any_number(kind, n):
    counts, corrects = np.array([n, n]), np.array([n * 4 // 5, n // 2])
    confidences = np.array([0.9 * n, 0.6 * n])
    table = metrics.ReliabilityBins(*map(kind, (np.arange(3) / 2, counts, confidences, corrects)))
    wanted = max(0.0, 0.01 - (0.16 + 0.25) / 2 / (n - 1)) ** 0.5
    assert float(table.debiased_rmsce) == pytest.approx(wanted, rel=1e-9)


def test_debiased_is_less_biased_where_the_truth_is_known():
    # Confidence .8 and accuracy .7 in each of five bins: the truth is a gap of .1.
    rng = np.random.default_rng(0)
    plain, debiased = [], []
    for _ in range(200):
        confidences = np.repeat([0.55, 0.65, 0.75, 0.85, 0.95], 30)
        data = two_class(confidences, rng.random(150) < confidences - 0.1)
        bins = metrics.reliability_bins(*data, n_bins=10)
        plain.append(bins.rmsce**2)
        debiased.append(bins.debiased_rmsce**2)
    assert np.mean(plain) > 0.0145
    assert np.mean(debiased) == pytest.approx(0.01, abs=0.001)


# --- the sweep -------------------------------------------------------------------------------


def plain_sweep(probs, labels):
    """Compute the sweep by its definition, from the tables."""
    best = None
    for n_bins in range(1, len(labels) + 1):
        bins = metrics.reliability_bins(probs, labels, n_bins=n_bins, binning="quantile")
        heights = bins.bin_accuracy[bins.counts > 0]
        if (np.diff(heights) < 0).any():
            break
        best = bins.ece
    return best


@settings(max_examples=60, deadline=None, derandomize=True)
@given(seeds, st.integers(1, 40), st.sampled_from([2, 4, 100]))
def test_the_sweep_is_its_definition(seed, n, grid):
    rng = np.random.default_rng(seed)
    confidences = 0.5 + rng.integers(0, grid, n) / (2 * grid)  # with ties
    data = two_class(confidences, rng.random(n) < confidences)
    assert metrics.ece_sweep(*data) == pytest.approx(plain_sweep(*data), abs=1e-12)


def test_the_sweep_of_many_right_predictions_ends():
    confidences = np.linspace(0.5, 1, 100_000)
    assert metrics.ece_sweep(*two_class(confidences, confidences > 0)) == pytest.approx(0.25)


# --- every class -----------------------------------------------------------------------------


@settings(max_examples=60, deadline=None, derandomize=True)
@given(seeds, st.integers(1, 20))
def test_classwise_is_the_mean_of_one_class_against_the_rest(seed, n_bins):
    probs, labels = map(torch.from_numpy, draw(seed))
    each = [
        float(
            binary_calibration_error(probs[:, k].contiguous(), (labels == k).long(), n_bins, "l1")
        )
        for k in range(4)
    ]
    ours = float(metrics.classwise_ece(probs, labels, n_bins=n_bins))
    assert ours == pytest.approx(np.mean(each), rel=1e-6, abs=1e-7)


def test_classwise_edges_are_right_closed():
    probs, labels = (
        np.array([[0.1, 0.2, 0.7], [0.05, 0.2, 0.75]]),
        np.array([0, 2]),
    )
    # Class 0: .1 and .05 share a bin, 1 of 2; class 1: none of 2; class 2: .7 and .75 apart.
    wanted = (abs(0.15 - 1) + 0.4 + 0.7 + 0.25) / 6
    assert float(metrics.classwise_ece(probs, labels, n_bins=10)) == pytest.approx(wanted)


def test_classwise_scores_are_signed_and_cancel():
    probs, labels = draw(1)
    scores = metrics.classwise_mcs(probs, labels)
    for k in range(4):
        assert scores[k] == pytest.approx(probs[:, k].mean() - (labels == k).mean())
    assert scores.sum() == pytest.approx(0, abs=1e-12)


# --- logits ----------------------------------------------------------------------------------

FROM_LOGITS = [
    name
    for name in metrics.__all__
    if inspect.isfunction(getattr(metrics, name))
    and list(inspect.signature(getattr(metrics, name)).parameters)[:2] == ["probs", "labels"]
    and name not in ("calibration_test", "consistency_bands", "ece_interval")  # not a number
    and name != "labelled"  # takes logits as they are
]


@pytest.mark.parametrize("name", FROM_LOGITS)
@pytest.mark.parametrize("kind", [np.asarray, torch.as_tensor])
def test_logits_give_what_their_softmax_gives(name, kind):
    logits = torch.randn(100, 5, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    labels = torch.arange(100) % 5
    metric = getattr(metrics, name)
    got = metric(kind(logits), kind(labels), from_logits=True)
    wanted = metric(kind(logits.softmax(dim=1)), kind(labels))
    if name == "reliability_bins":
        got, wanted = got.confidences, wanted.confidences
    if name == "summary":
        got, wanted = got.sums, wanted.sums
    if name == "classwise_bins":
        got, wanted = ([bins.ece for bins in tables] for tables in (got, wanted))
    if name == "reliability_sketch":
        got, wanted = got.bins.confidences, wanted.bins.confidences
    if name.startswith("decompose"):
        got, wanted = list(got), list(wanted)
    np.testing.assert_allclose(got, wanted, rtol=1e-12, atol=1e-12)


def test_the_log_likelihood_of_far_logits_is_finite():
    logits = torch.tensor([[1000.0, 0.0], [0.0, -torch.inf]])
    each = metrics.nll(logits, torch.tensor([1, 0]), from_logits=True, reduction="none")
    assert each.tolist() == [1000, 0]


@pytest.mark.parametrize("name", FROM_LOGITS)
@pytest.mark.parametrize("bad", [torch.nan, torch.inf])
def test_logits_without_a_softmax_are_refused(name, bad):
    logits = torch.zeros(3, 2)
    logits[1, 0] = bad
    match = f"expected a finite highest logit in each row, got {bad} in row 1"
    with pytest.raises(ValueError, match=match):
        getattr(metrics, name)(logits, torch.zeros(3, dtype=torch.int64), from_logits=True)
    with pytest.raises(ValueError, match="got -inf in row 0"):
        getattr(metrics, name)(
            torch.full((3, 2), -torch.inf), torch.tensor([0, 0, 1]), from_logits=True
        )
