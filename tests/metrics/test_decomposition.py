"""Scores in two parts: sums, optima found by other means, and what the truth is."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.optimize import LinearConstraint, minimize
from sklearn.isotonic import IsotonicRegression

from advcal import metrics

SCORES = {"nll": metrics.decompose_nll, "brier": metrics.decompose_brier}
every_score = pytest.mark.parametrize("name", SCORES)


def draw(seed, n=40, n_classes=4, levels=None):
    rng = np.random.default_rng(seed)
    probs = rng.dirichlet(np.full(n_classes, 0.7), n)
    if levels:
        probs = probs[rng.integers(0, min(levels, n), n)]  # ties
    return probs, rng.integers(0, n_classes, n)


def recalibrated(probs, confidences):
    """Give the top class this probability; the others keep their proportions."""
    top = probs.argmax(axis=1)
    rows = np.arange(len(probs))
    others = probs.copy()
    others[rows, top] = 0
    new = others / others.sum(axis=1, keepdims=True) * (1 - confidences)[:, None]
    new[rows, top] = confidences
    return new


@every_score
@settings(max_examples=200, deadline=None, derandomize=True)
@given(st.integers(0, 10**6), st.integers(1, 60), st.integers(2, 6), st.sampled_from([None, 3]))
def test_the_parts_are_the_score(name, seed, n, n_classes, levels):
    data = draw(seed, n, n_classes, levels)
    parts = SCORES[name](*data)
    assert parts.score == getattr(metrics, name)(*data)
    assert parts.calibration + parts.refinement == pytest.approx(parts.score, rel=1e-12)
    assert parts.calibration >= -1e-12
    assert parts.refinement >= -1e-12


@settings(max_examples=100, deadline=None, derandomize=True)
@given(st.integers(0, 10**6), st.integers(1, 60), st.sampled_from([None, 3]))
def test_refinement_is_the_score_after_isotonic_regression(seed, n, levels):
    probs, labels = draw(seed, n, 4, levels)
    confidence, right = probs.max(axis=1), probs.argmax(axis=1) == labels
    fitted = IsotonicRegression(y_min=0, y_max=1).fit_transform(confidence, right)
    each = -np.log(recalibrated(probs, fitted)[np.arange(n), labels])
    assert metrics.decompose_nll(probs, labels).refinement == pytest.approx(each.mean(), abs=1e-10)
    # Of two classes both scores have the same best map.
    two = np.stack([confidence * 0.5 + 0.5, 0.5 - confidence * 0.5], axis=1)
    fitted = IsotonicRegression(y_min=0, y_max=1).fit_transform(two[:, 0], right)
    wanted = 2 * np.mean((fitted - right) ** 2)
    found = metrics.decompose_brier(two, np.where(right, 0, 1)).refinement
    assert found == pytest.approx(wanted, abs=1e-12)


@pytest.mark.parametrize("seed", range(8))
def test_no_rising_map_has_a_lower_brier_score(seed):
    probs, labels = draw(seed, 12)
    probs = probs[probs.max(axis=1).argsort()]

    def score(confidences):
        return metrics.brier(recalibrated(probs, confidences.clip(0, 1)), labels)

    rising = LinearConstraint(np.diff(np.eye(12), axis=0), lb=0)
    start = np.linspace(0.3, 0.7, 12)
    found = minimize(
        score, start, method="SLSQP", bounds=[(0, 1)] * 12, constraints=[rising], tol=1e-12
    )
    refinement = metrics.decompose_brier(probs, labels).refinement
    assert refinement == pytest.approx(found.fun, abs=1e-6)
    assert refinement <= found.fun + 1e-9


def test_by_hand():
    # Right in 1 of 2 at .6 and in 1 of 4 at .9: one block of 2 of 6.
    confidences, right = [0.6] * 2 + [0.9] * 4, [1, 0, 1, 0, 0, 0]
    probs = np.stack([confidences, 1 - np.array(confidences)], axis=1)
    labels = 1 - np.array(right)
    parts = metrics.decompose_nll(probs, labels)
    entropy = -(math.log(1 / 3) + 2 * math.log(2 / 3)) / 3
    assert parts.refinement == pytest.approx(entropy)
    score = -(math.log(0.6) + math.log(0.4) + math.log(0.9) + 3 * math.log(0.1)) / 6
    assert parts.calibration == pytest.approx(score - entropy)
    assert metrics.decompose_brier(probs, labels).refinement == pytest.approx(2 * 2 / 9)


@every_score
def test_where_the_truth_is_known(name):
    # Accuracy is confidence - .2: the divergence between the two is what recalibration saves.
    rng = np.random.default_rng(0)
    confidences = rng.uniform(0.7, 0.95, 200_000)
    accuracies = confidences - 0.2
    probs = np.stack([confidences, 1 - confidences], axis=1)
    parts = SCORES[name](probs, (rng.random(200_000) >= accuracies) * 1)
    truth = 2 * 0.2**2
    if name == "nll":
        c, a = confidences, accuracies
        truth = np.mean(a * np.log(a / c) + (1 - a) * np.log((1 - a) / (1 - c)))
    assert parts.calibration == pytest.approx(truth, rel=0.03)
    calibrated = SCORES[name](probs, (rng.random(200_000) >= confidences) * 1)
    assert calibrated.calibration < 0.001


def test_infinite_scores_are_split():
    certain = torch.eye(3)[[0, 0, 1]]
    parts = metrics.decompose_nll(certain, torch.tensor([0, 1, 1]))  # wrong and certain
    assert float(parts.score) == float(parts.calibration) == math.inf
    assert math.isfinite(parts.refinement)
    # A class that has no share of the rest: no map of the confidence gives it one.
    parts = metrics.decompose_nll(torch.tensor([[0.75, 0.25, 0]]), torch.tensor([2]))
    assert float(parts.score) == float(parts.refinement) == math.inf
    assert math.isfinite(parts.calibration)
    parts = metrics.decompose_brier(certain, torch.tensor([0, 1, 1]))
    assert float(sum(parts[1:])) == pytest.approx(float(parts.score))


def test_far_logits():
    logits = torch.tensor([[1000.0, 0.0], [0.0, 1.0]], dtype=torch.float64)
    parts = metrics.decompose_nll(logits, torch.tensor([1, 1]), from_logits=True)
    assert float(parts.score) == pytest.approx(500 + math.log1p(math.exp(-1)) / 2)
    assert float(parts.calibration + parts.refinement) == pytest.approx(float(parts.score))


@every_score
def test_one_example(name):
    right, wrong = (SCORES[name](np.array([[0.75, 0.25]]), np.array([label])) for label in (0, 1))
    assert right.refinement == wrong.refinement == 0
