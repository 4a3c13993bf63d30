"""Intervals of AUROC, AUPR and FPR95."""

import numpy as np
import pytest
import torch
from scipy.special import ndtr, ndtri

from advcal import metrics

FIGURES = ["auroc", "aupr", "fpr95"]


def drawn(m=60, n=90, distance=1.5, seed=0):
    rng = np.random.default_rng(seed)
    scores = np.append(rng.normal(size=m) + distance, rng.normal(size=n))
    return scores, np.repeat([1, 0], [m, n])


def seeded(seed=0):
    return torch.Generator().manual_seed(seed)


@pytest.mark.parametrize("figure", FIGURES)
@pytest.mark.parametrize("kind", [np.asarray, torch.as_tensor])
def test_the_value_is_that_of_the_metric_and_within(figure, kind):
    scores, labels = map(kind, drawn())
    found = metrics.detection_interval(scores, labels, figure=figure, generator=seeded())
    wanted = getattr(metrics, figure)(scores, labels)
    assert found.value == wanted
    assert found.low < found.value < found.high
    assert type(found.low) is type(wanted)
    narrow = metrics.detection_interval(
        scores, labels, figure=figure, level=0.5, generator=seeded()
    )
    assert found.low < narrow.low < narrow.high < found.high


@pytest.mark.parametrize("figure", FIGURES)
@pytest.mark.parametrize(("m", "n"), [(1, 1), (5, 40), (200, 30)])
def test_no_interval_of_a_perfect_detector_is_without_width(figure, m, n):
    scores, labels = np.repeat([np.inf, -np.inf], [m, n]), np.repeat([1, 0], [m, n])
    found = metrics.detection_interval(scores, labels, figure=figure)
    assert found.value == (0 if figure == "fpr95" else 1)
    assert found.low < found.high
    worst = metrics.detection_interval(-scores, labels, figure=figure)
    assert worst.low < worst.high


def test_draws_have_the_values_of_the_metric():
    scores, labels = drawn(20, 30)
    scores = scores.round()  # ties
    order = np.argsort(-scores, kind="stable")
    found = metrics._ranked._drawn(scores[order], labels[order], 30, seeded())
    source = seeded()
    positives = torch.randint(20, (30, 20), generator=source)
    negatives = torch.randint(30, (30, 30), generator=source)
    for row, value in enumerate(found):
        parts = (
            scores[order][labels[order] == 1][positives[row]],
            scores[order][labels[order] == 0][negatives[row]],
        )
        wanted = metrics.aupr(np.concatenate(parts), np.repeat([1, 0], [20, 30]))
        assert value == pytest.approx(wanted)


# Of 200 intervals that cover in 95 %, as few as 181 do so one time in a thousand.
@pytest.mark.parametrize("area", [0.7, 0.99])
def test_areas_are_covered(area):
    covered = 0
    for seed in range(200):
        scores, labels = drawn(25, 60, 2**0.5 * ndtri(area), seed)
        found = metrics.detection_interval(scores, labels)
        covered += found.low <= area <= found.high
    assert covered >= 181


@pytest.mark.parametrize("figure", ["aupr", "fpr95"])
def test_curves_are_covered(figure):
    distance, covered, source = 2.0, 0, seeded()
    grid = np.linspace(-8, 10, 20_001)
    hits, false = ndtr(distance - grid), ndtr(-grid)
    precision = 60 * hits / np.maximum(60 * hits + 90 * false, 1e-300)
    truth = {"aupr": -(precision[:-1] * np.diff(hits)).sum(), "fpr95": ndtr(ndtri(0.95) - distance)}
    for seed in range(100):
        options = {"figure": figure, "resamples": 200, "generator": source}
        found = metrics.detection_interval(*drawn(60, 90, distance, seed), **options)
        covered += found.low <= truth[figure] <= found.high
    assert covered >= 86


# Where the percentiles of draws cover .69: few positives say little of their lowest 5 %.
@pytest.mark.parametrize(("m", "n", "area"), [(20, 200, 0.7), (100, 100, 0.999)])
def test_rates_of_few_positives_are_covered(m, n, area):
    distance, covered = 2**0.5 * ndtri(area), 0
    for seed in range(200):
        found = metrics.detection_interval(*drawn(m, n, distance, seed), figure="fpr95")
        covered += found.low <= ndtr(ndtri(0.95) - distance) <= found.high
    assert covered >= 181


def test_rates_at_the_exact_limits_of_the_threshold():
    # Of 100 positives, 1 at least and 10 at most are below the threshold at the level of .95.
    scores, labels = np.r_[np.arange(100), [-1.0, 0.5, 9.5, 200]], np.repeat([1, 0], [100, 4])
    found = metrics.detection_interval(scores, labels, figure="fpr95")
    low, high = metrics._ranked.clopper_pearson(np.array([1.0, 3.0]), np.full(2, 4.0), 0.025)
    assert found.value == 0.5
    assert found.low == pytest.approx(0.5 - np.hypot(0.25, 0.25 - low[0]))
    assert found.high == pytest.approx(min(1, 0.5 + np.hypot(0.25, high[1] - 0.75)))
