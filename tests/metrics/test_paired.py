"""Two models on the same examples."""

import numpy as np
import pytest
import torch
from scipy.stats import binomtest

from advcal import metrics

FIGURES = ["accuracy", "brier", "confidence", "ece", "nll"]
kinds = pytest.mark.parametrize("kind", [np.asarray, torch.as_tensor])


def pair(n=300, gap=0.0, noise=0.05, seed=0):
    """Draw two models of two classes; the second is less accurate than it is confident."""
    rng = np.random.default_rng(seed)
    confidence = 0.5 + 0.499 * rng.beta(2.5, 0.6, n)
    other = np.clip(confidence + noise * rng.normal(size=n), 0.5, 0.999)
    chance = rng.random(n)
    right = chance < confidence, chance < other - gap
    # The label is class 0 for all: a model that is wrong is confident of class 1.
    tops = np.where(right, (confidence, other), 1 - np.stack([confidence, other]))
    return *(np.stack([top, 1 - top], axis=1) for top in tops), np.zeros(n, dtype=np.int64)


def seeded(seed=0):
    return torch.Generator().manual_seed(seed)


@kinds
@pytest.mark.parametrize("figure", FIGURES)
def test_the_difference_of_two_figures(figure, kind):
    first, second, labels = map(kind, pair(gap=0.15))
    metric = getattr(metrics, figure)
    found = metrics.paired_test(first, second, labels, figure=figure, generator=seeded())
    assert type(found.value) is type(found.low) is type(metric(first, labels))
    wanted = float(metric(first, labels) - metric(second, labels))
    assert float(found.value) == pytest.approx(wanted)
    assert found.low < found.value < found.high
    if figure in ("ece", "accuracy", "brier", "nll"):
        assert found.p_value < 0.05
    back = metrics.paired_test(second, first, labels, figure=figure, generator=seeded())
    assert float(back.value) == pytest.approx(-float(found.value))
    assert float(back.low) == pytest.approx(-float(found.high), abs=0.02)
    assert float(back.p_value) == pytest.approx(float(found.p_value), abs=0.05)


def test_mcnemars_exact_test_and_tangos_interval():
    first = np.arange(200) < 43 + 100
    second = np.append(np.zeros(43, dtype=bool), np.arange(157) < 100 + 9)
    labels = np.zeros(200, dtype=np.int64)
    probs = [np.where(hit[:, None], [0.9, 0.1], [0.2, 0.8]) for hit in (first, second)]
    found = metrics.paired_test(*probs, labels)
    assert found.value == pytest.approx(34 / 200)
    assert found.p_value == pytest.approx(binomtest(9, 52).pvalue)
    for end in (found.low, found.high):  # each end is z standard errors away
        b, c, n = (43, 9, 200) if end == found.high else (9, 43, 200)
        delta = end if end == found.high else -end
        roots = np.roots([2 * n, -b - c + (2 * n - b + c) * delta, -c * delta * (1 - delta)])
        variance = n * (2 * roots.max() + delta * (1 - delta))
        assert (n * delta - (b - c)) / np.sqrt(variance) == pytest.approx(1.959964, abs=1e-4)


@pytest.mark.parametrize("figure", FIGURES)
def test_a_model_and_itself(figure):
    probs, _, labels = pair(50)
    found = metrics.paired_test(probs, probs, labels, figure=figure)
    assert found.value == 0
    assert found.p_value == 1
    assert found.low <= 0 <= found.high
    if figure in ("accuracy", "ece"):
        assert found.low < found.high


def test_labels_of_probability_zero():
    first = np.array([[1.0, 0.0], [0.5, 0.5], [0.4, 0.6]])
    second = np.array([[0.9, 0.1], [0.6, 0.4], [0.4, 0.6]])
    found = metrics.paired_test(first, second, np.array([1, 0, 0]), figure="nll")
    assert tuple(found) == (np.inf, -np.inf, np.inf, 1)
    found = metrics.paired_test(first, first, np.array([1, 0, 0]), figure="nll")
    assert found.value == 0


# Of 200 p-values that are uniform more than 20 are below .05 one time in a thousand.
@pytest.mark.parametrize("figure", FIGURES)
def test_models_that_are_alike_are_rarely_told_apart(figure):
    source, found = seeded(), []
    for seed in range(200):
        rng, (first, second, labels) = np.random.default_rng(seed), pair(80, seed=seed + 100)
        swap = rng.random((80, 1)) < 0.5
        models = np.where(swap, second, first), np.where(swap, first, second)
        options = {"figure": figure, "resamples": 199, "generator": source}
        found.append(metrics.paired_test(*models, labels, **options).p_value)
    assert np.mean(np.array(found) <= 0.05) < 0.105
    assert np.mean(found) > 0.4


@pytest.mark.parametrize(("figure", "truth"), [("accuracy", 0.1), ("ece", -0.1)])
def test_intervals_cover(figure, truth):
    source, covered = seeded(), 0
    for seed in range(100):
        data = pair(300, 0.1, noise=0.0, seed=seed)
        options = {"figure": figure, "resamples": 200, "generator": source}
        found = metrics.paired_test(*data, **options)
        covered += found.low <= truth <= found.high
    assert covered >= 88


@pytest.mark.parametrize(("figure", "cost"), [("nll", lambda p: -np.log(p)), ("brier", None)])
def test_mistakes_that_were_not_seen_are_allowed_for(figure, cost):
    # In one sample of five none of the 50 examples tells the two apart by a mistake.
    cost = cost or (lambda p: 2 * (1 - p) ** 2)
    sure, right, rng, covered = (0.95, 0.9), (0.99, 0.97), np.random.default_rng(0), 0
    means = [r * cost(s) + (1 - r) * cost(1 - s) for s, r in zip(sure, right, strict=True)]
    for _ in range(200):
        drawn, probs = rng.random(50), []
        for s, r in zip(sure, right, strict=True):
            own = np.where(drawn < r, s, 1 - s)
            probs.append(np.stack([own, 1 - own], axis=1))
        labels, options = np.zeros(50, dtype=np.int64), {"figure": figure, "resamples": 1}
        found = metrics.paired_test(*probs, labels, **options)
        covered += found.low <= means[0] - means[1] <= found.high
    assert covered >= 181


def test_what_cannot_be_compared():
    first, second, labels = pair(20)
    with pytest.raises(ValueError, match=r"expected labels of shape \(19,\), got"):
        metrics.paired_test(first, second[1:], labels)
    with pytest.raises(TypeError, match=r"expected labels as a torch\.Tensor like probs"):
        metrics.paired_test(first, torch.from_numpy(second), labels)
    with pytest.raises(ValueError, match=r"figure to be one of 'accuracy', 'brier', .* got 'aurc'"):
        metrics.paired_test(first, second, labels, figure="aurc")
    with pytest.raises(ValueError, match="of as many classes"):
        metrics.paired_test(first, np.full((20, 3), 1 / 3), labels)
