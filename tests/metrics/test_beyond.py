"""Detection, selection and stability: by hand and against scikit-learn."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.metrics import average_precision_score, roc_auc_score, roc_curve

from advcal import metrics

kinds = pytest.mark.parametrize("kind", [np.asarray, torch.as_tensor])
seeds = st.integers(0, 10**6)


def two_class(confidences, corrects):
    confidences = np.asarray(confidences, dtype=np.float64)
    return np.stack([confidences, 1 - confidences], axis=1), np.where(corrects, 0, 1)


# --- detection -------------------------------------------------------------------------------


@kinds
def test_entropy(kind):
    each = metrics.entropy(kind(np.array([[1.0, 0, 0], [0.5, 0.5, 0], [1 / 3] * 3])))
    np.testing.assert_allclose(each, [0, math.log(2), math.log(3)], rtol=1e-15)
    logits = kind(np.array([[5.0, 5.0], [-np.inf, 3.0]]))
    np.testing.assert_allclose(metrics.entropy(logits, from_logits=True), [math.log(2), 0])


@settings(max_examples=200, deadline=None, derandomize=True)
@given(seeds, st.integers(2, 60), st.sampled_from([2, 5, 1000]))
def test_parity_of_detection_with_scikit_learn(seed, n, grid):
    rng = np.random.default_rng(seed)
    scores, labels = rng.integers(0, grid, n) / grid, rng.integers(0, 2, n)
    labels[:2] = 0, 1
    assert metrics.auroc(scores, labels) == pytest.approx(roc_auc_score(labels, scores))
    assert metrics.aupr(scores, labels) == pytest.approx(average_precision_score(labels, scores))
    false, true, _ = roc_curve(labels, scores, drop_intermediate=False)
    assert metrics.fpr95(scores, labels) == pytest.approx(false[true >= 0.95 - 1e-12][0])


def test_ninety_five_of_a_hundred_is_enough():
    scores, labels = np.arange(200), np.repeat([1, 0], 100)
    scores[:95] += 1000  # 95 positives first, then all negatives
    assert metrics.fpr95(scores, labels) == 0
    scores[94] -= 1000
    assert metrics.fpr95(scores, labels) == 1


@kinds
@pytest.mark.parametrize("name", ["auroc", "aupr", "fpr95"])
def test_bad_scores_are_refused(name, kind):
    metric, good = getattr(metrics, name), kind(np.array([0, 1]))
    for scores, labels, error, match in (
        ([0.1, np.nan], good, ValueError, "scores that are numbers, got nan"),
        ([[0.1, 0.2]], good, ValueError, "scores of shape"),
        ([0.1, 0.2], kind(np.array([1, 1])), ValueError, "labels 0 and 1, got 1 only"),
        ([0.1, 0.2], kind(np.array([0, 2])), ValueError, "labels from 0 to 1, got 2"),
        ([0.1, 0.2], [0, 1], TypeError, "labels as .* like scores, got list"),
        ([0.1, 0.2, 0.3], good, ValueError, "labels of shape"),
    ):
        with pytest.raises(error, match=match):
            metric(kind(np.array(scores)), labels)


# --- selection -------------------------------------------------------------------------------


def test_risk_and_coverage_by_hand():
    data = two_class(
        [0.9, 0.6, 0.8, 0.7], [1, 1, 0, 1]
    )  # by confidence: right, wrong, right, right
    assert metrics.aurc(*data) == pytest.approx((0 + 1 / 2 + 1 / 3 + 1 / 4) / 4)
    assert metrics.e_aurc(*data) == pytest.approx((0 + 1 / 2 + 1 / 3) / 4)
    risks = [metrics.selective_risk(*data, coverage=c) for c in (0.01, 0.25, 0.5, 0.75, 1.0)]
    assert risks == pytest.approx([0, 0, 1 / 2, 1 / 3, 1 / 4])


def test_equal_confidences_are_in_every_order():
    for corrects in ([1, 0], [0, 1]):
        data = two_class([0.7, 0.7], corrects)
        assert metrics.aurc(*data) == 0.5
        assert metrics.selective_risk(*data, coverage=0.5) == 0.5


@settings(max_examples=50, deadline=None, derandomize=True)
@given(seeds, st.integers(1, 50))
def test_the_excess_is_zero_for_the_best_order(seed, n):
    rng = np.random.default_rng(seed)
    confidences = np.sort(rng.uniform(0.5, 1, n))
    wrong = rng.integers(0, n + 1)
    data = two_class(confidences, np.arange(n) >= wrong)
    assert metrics.e_aurc(*data) == pytest.approx(0, abs=1e-12)
    assert metrics.aurc(*data) <= wrong / n + 1e-12


def test_rejection_by_hand():
    clean = two_class([0.9, 0.8, 0.7, 0.6], [1, 1, 1, 0])
    for tpr, wanted in ((1.0, 0.7), (0.67, 0.7), (0.66, 0.8), (0.2, 0.9)):
        assert metrics.rejection_threshold(*clean, tpr=tpr) == wanted
    attacked = [
        two_class([0.95, 0.5, 0.75, 0.6], [0, 0, 1, 0])[0],
        two_class([0.5, 0.85, 0.5, 0.5], [1, 1, 1, 1])[0],
    ]
    attacked[0] = attacked[0].copy()
    attacked[0][0] = attacked[0][0, ::-1]  # the first example is fooled, at .95
    # Of the three kept examples the first is wrong; the fourth, wrong from the start, is rejected.
    assert metrics.robust_error(*clean, attacked=attacked, threshold=0.7) == pytest.approx(1 / 3)
    assert metrics.robust_error(*clean, attacked=attacked) == pytest.approx(2 / 4)
    assert metrics.robust_error(*clean, attacked=[]) == pytest.approx(1 / 4)
    assert metrics.robust_error(*clean, attacked=attacked, threshold=1.5) == 0


def test_a_threshold_needs_a_right_prediction():
    with pytest.raises(ValueError, match="expected at least one right prediction, got none"):
        metrics.rejection_threshold(*two_class([0.9], [0]))
    for option in ({"tpr": 0.0}, {"tpr": 1.1}):
        with pytest.raises(ValueError, match="expected tpr"):
            metrics.rejection_threshold(*two_class([0.9], [1]), **option)
    with pytest.raises(ValueError, match="expected coverage"):
        metrics.selective_risk(*two_class([0.9], [1]), coverage=0)


# --- stability -------------------------------------------------------------------------------


@kinds
def test_variance_and_churn_by_hand(kind):
    runs = [
        kind(np.array([[0.5, 0.3, 0.2], [0.6, 0.4, 0.0]])),
        kind(np.array([[0.7, 0.2, 0.1], [0.2, 0.8, 0.0]])),
        kind(np.array([[0.6, 0.1, 0.3], [0.1, 0.9, 0.0]])),
    ]
    wanted = (np.var([0.5, 0.7, 0.6], ddof=1) + np.var([0.4, 0.8, 0.9], ddof=1)) / 2
    assert float(metrics.variance(runs)) == pytest.approx(wanted)
    assert float(metrics.churn(runs)) == pytest.approx((0 + 2 / 3) / 2)
    assert float(metrics.churn(runs[1:])) == 0
    logits = [torch.as_tensor(run).log() for run in runs]
    assert float(metrics.variance(logits, from_logits=True)) == pytest.approx(wanted)


def test_runs_of_other_shapes_or_one_are_refused():
    run = np.full((2, 2), 0.5)
    for metric in (metrics.variance, metrics.churn):
        for runs in ([], [run], [run, run[:1]]):
            with pytest.raises(ValueError, match="expected two or more runs of one shape, got"):
                metric(runs)


@kinds
@pytest.mark.parametrize(("n", "n_levels"), [(10, 10), (25, 10), (7, 1), (100, 3)])
def test_levels_are_equally_large_and_ordered(kind, n, n_levels):
    distances = np.random.default_rng(0).exponential(size=n)
    distances[-1] = np.inf
    levels = np.asarray(metrics.robustness_levels(kind(distances), n_levels=n_levels))
    counts = np.bincount(levels, minlength=n_levels)
    assert counts.max() - counts.min() <= 1
    assert (np.diff(levels[np.argsort(distances)]) >= 0).all()
    assert levels[-1] == n_levels - 1


def test_bad_distances_are_refused():
    with pytest.raises(ValueError, match="distances that are numbers, got nan"):
        metrics.robustness_levels(np.array([np.nan, 1]), n_levels=2)
    with pytest.raises(ValueError, match="expected n_levels <= 2, got 10"):
        metrics.robustness_levels(np.array([0.5, 1]))
