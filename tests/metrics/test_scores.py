"""Scores that are means over the examples, against closed forms and scikit-learn."""

import math

import numpy as np
import pytest
import torch
from sklearn.metrics import accuracy_score, brier_score_loss, log_loss

from advcal import metrics

SCORES = {
    "accuracy": metrics.accuracy,
    "brier": metrics.brier,
    "confidence": metrics.confidence,
    "nll": metrics.nll,
}


def draw(seed, n=400, n_classes=2):
    rng = np.random.default_rng(seed)
    return rng.dirichlet(np.full(n_classes, 0.7), n), rng.integers(0, n_classes, n)


@pytest.mark.parametrize("n_classes", [2, 3, 10, 1000])
def test_uniform_probabilities(n_classes):
    probs = np.full((3, n_classes), 1 / n_classes)
    labels = np.array([0, 1, n_classes - 1])
    assert metrics.nll(probs, labels) == pytest.approx(math.log(n_classes), abs=1e-13)
    assert metrics.brier(probs, labels) == pytest.approx(1 - 1 / n_classes, abs=1e-13)
    assert metrics.confidence(probs, labels) == pytest.approx(1 / n_classes, abs=1e-15)
    assert metrics.accuracy(probs, labels) == pytest.approx(1 / 3)  # the first class wins


def test_right_and_certain_and_wrong_and_certain():
    probs, right, wrong = torch.eye(3), torch.tensor([0, 1, 2]), torch.tensor([1, 2, 0])
    assert [float(score(probs, right)) for score in SCORES.values()] == [1, 0, 1, 0]
    assert [float(score(probs, wrong)) for score in SCORES.values()] == [0, 2, 1, math.inf]
    assert metrics.mcs(probs, right) == 0
    assert metrics.mcs(probs, wrong) == 1  # overconfident is positive


def test_each_example_by_hand():
    probs = torch.tensor([[0.5, 0.25, 0.25], [0.125, 0.75, 0.125]])
    labels = torch.tensor([1, 1])
    each = {name: score(probs, labels, reduction="none") for name, score in SCORES.items()}
    assert each["accuracy"].tolist() == [0, 1]
    assert each["confidence"].tolist() == [0.5, 0.75]
    np.testing.assert_allclose(each["nll"], [math.log(4), math.log(4 / 3)], rtol=1e-15)
    np.testing.assert_allclose(each["brier"], [0.875, 0.09375], rtol=1e-15)


def test_small_scores_keep_their_digits():
    p = 1e-7
    probs, labels = np.array([[1 - p, p]]), np.array([0])
    assert metrics.brier(probs, labels) == pytest.approx(2 * p * p, rel=1e-2)
    assert metrics.nll(probs, labels) == pytest.approx(-math.log1p(-p), rel=1e-8)


def test_mcs_is_confidence_minus_accuracy():
    probs, labels = draw(3, n_classes=4)
    wanted = metrics.confidence(probs, labels) - metrics.accuracy(probs, labels)
    assert metrics.mcs(probs, labels) == pytest.approx(wanted, abs=1e-15)


@pytest.mark.parametrize("name", SCORES)
@pytest.mark.parametrize("n", [1, 7, 200_000])
def test_reductions_agree(name, n):
    probs, labels = draw(0, n, 3)
    each = SCORES[name](probs, labels, reduction="none")
    total = SCORES[name](probs, labels, reduction="sum")
    mean = SCORES[name](probs, labels, reduction="mean")
    assert each.shape == (n,)
    assert total == pytest.approx(math.fsum(each), rel=1e-13)
    assert mean == pytest.approx(total / n, rel=1e-14)
    assert SCORES[name](probs, labels) == mean


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("n_classes", [2, 3, 10])
def test_parity_with_scikit_learn(seed, n_classes):
    probs, labels = draw(seed, n_classes=n_classes)
    classes = range(n_classes)
    assert metrics.nll(probs, labels) == pytest.approx(
        log_loss(labels, probs, labels=classes), rel=1e-12
    )
    assert metrics.accuracy(probs, labels) == accuracy_score(labels, probs.argmax(axis=1))
    one_class_each = [brier_score_loss(labels == k, probs[:, k]) for k in classes]
    assert metrics.brier(probs, labels) == pytest.approx(sum(one_class_each), rel=1e-12)


def test_with_two_classes_the_brier_score_is_twice_that_of_one_of_them():
    probs, labels = draw(0)
    theirs = brier_score_loss(labels, probs[:, 1])
    assert metrics.brier(probs, labels) == pytest.approx(2 * theirs, rel=1e-12)


def test_a_proper_score_is_best_at_the_truth():
    labels = torch.tensor([0] * 7 + [1] * 3)
    grid = torch.linspace(0.01, 0.99, 99, dtype=torch.float64)
    for score in (metrics.nll, metrics.brier):
        values = [score(torch.stack([p, 1 - p]).expand(10, 2), labels) for p in grid]
        assert grid[torch.stack(values).argmin()] == pytest.approx(0.7)
