"""What rounding makes of probabilities is taken; what is refused, is refused with good advice."""

import contextlib
import functools
import math

import numpy as np
import pytest
import torch
from scipy.stats import binomtest

from advcal import metrics

# Every metric of probabilities and labels; `probs` alone or in runs, where it takes that.
OF_PROBS = {
    name: getattr(metrics, name)
    for name in (
        "accuracy", "aurc", "brier", "calibration_test", "classwise_ece", "classwise_mcs",
        "confidence", "consistency_bands", "debiased_rmsce", "decompose_brier", "decompose_nll",
        "e_aurc", "ece", "ece_interval", "ece_sweep", "kde_ece", "ks_error", "mce", "mcs", "nll",
        "reliability_bins", "reliability_sketch", "rejection_threshold", "rmsce", "robust_error",
        "selective_risk", "smooth_ece",
    )
}  # fmt: skip
OF_PROBS |= {
    "bootstrap": lambda p, y: metrics.bootstrap(metrics.brier, p, y, resamples=5),
    "entropy": lambda p, _: metrics.entropy(p),
    "variance": lambda p, _: metrics.variance([p, p.flip(1)]),
    "churn": lambda p, _: metrics.churn([p, p.flip(1)]),
}
every = pytest.mark.parametrize("metric", OF_PROBS.values(), ids=OF_PROBS)


def numbers(result):
    """Return all numbers of a result."""
    if isinstance(result, metrics.ReliabilitySketch):
        result = result.bins
    if isinstance(result, metrics.ReliabilityBins):
        result = (result.counts, result.confidences, result.corrects)
    parts = result if isinstance(result, tuple) else (result,)
    return torch.cat([torch.as_tensor(part).double().flatten() for part in parts])


def drawn(n=300, n_classes=10, seed=0):
    generator = torch.Generator().manual_seed(seed)
    logits = 3 * torch.randn(n, n_classes, generator=generator)
    labels = torch.randint(n_classes, (n,), generator=generator)
    labels[0] = logits[0].argmax()
    return logits, labels


def assert_close(got, wanted, atol):
    torch.testing.assert_close(numbers(got), numbers(wanted), atol=atol, rtol=0, equal_nan=True)


@every
@pytest.mark.parametrize("n_classes", [2, 10, 1000])
def test_a_softmax_in_bfloat16_is_taken_in_any_dtype(metric, n_classes):
    logits, labels = drawn(n_classes=n_classes)
    half = logits.bfloat16().softmax(dim=1)
    assert float((half.float().sum(dim=1) - 1).abs().max()) > 1e-3 or n_classes == 2
    for dtype in (torch.float32, torch.float64):
        assert metric(half.to(dtype), labels) is not None


def test_a_sum_at_the_end_of_what_is_taken_is_taken_or_refused():
    rows = torch.rand(500, 1, 10, generator=torch.Generator().manual_seed(0))
    for row in 1.005 * rows / rows.sum(dim=2, keepdim=True):
        with contextlib.suppress(ValueError):  # and no other error
            metrics.ece(row, torch.tensor([0]))


@every
@pytest.mark.parametrize("below", [-1e-17, -1.2e-7])
def test_what_rounding_puts_below_zero_counts_as_zero(metric, below):
    probs = torch.tensor([[1 - below, below], [0.25, 0.75], [0.5, 0.5]], dtype=torch.float64)
    labels = torch.tensor([0, 1, 1])
    assert_close(metric(probs, labels), metric(probs.clip(0, 1), labels), 1e-15)


def test_one_minus_a_probability_above_one():
    p = torch.tensor([1 + 1.2e-7, 0.3])
    assert float(p[0]) > 1
    probs = torch.stack([1 - p, p], dim=1)
    assert float(metrics.nll(probs, torch.tensor([1, 1]))) == pytest.approx(-math.log(0.3) / 2)
    assert float(metrics.nll(probs, torch.tensor([0, 1]))) == math.inf


@pytest.mark.parametrize("kind", [np.asarray, torch.as_tensor])
def test_labels_true_and_false_are_those_of_two_classes(kind):
    scores, right = kind([0.9, 0.8, 0.3, 0.2]), kind([True, False, True, False])
    for metric in (metrics.auroc, metrics.aupr, metrics.fpr95):
        assert metric(scores, right) == metric(scores, kind([1, 0, 1, 0]))
    probs = kind([[0.2, 0.8], [0.6, 0.4], [0.7, 0.3], [0.5, 0.5]])
    assert metrics.nll(probs, right) == metrics.nll(probs, kind([1, 0, 1, 0]))
    with pytest.raises(TypeError, match=r"expected labels of an integer dtype, got .*bool"):
        metrics.ece(kind([[0.2, 0.3, 0.5]]), kind([True]))


@pytest.mark.parametrize("kind", [np.asarray, torch.as_tensor])
def test_infinite_scores_have_ranks(kind):
    labels, inf = kind([0, 1, 0, 1, 1]), math.inf
    for metric in (metrics.auroc, metrics.aupr, metrics.fpr95):
        infinite = metric(kind([-inf, -3.0, 1.0, 2.0, inf]), labels)
        assert infinite == metric(kind([-9.0, -3.0, 1.0, 2.0, 9.0]), labels)
    with pytest.raises(ValueError, match="expected scores that are numbers, got nan"):
        metrics.auroc(kind([0.0, math.nan, 1.0, 2.0, 3.0]), labels)


@pytest.mark.parametrize(
    ("row", "advice"),
    [
        ([2.0, -1.0, 0.0], "pass logits through softmax first, or say from_logits=True"),
        ([5.0, 1.0, 2.0], "pass logits through softmax first"),
        ([0.9, 0.4, 0.3], "if the classes exclude each other, divide each row by its sum"),
        ([0.5, 0.2, 0.2], "if the classes exclude each other, divide each row by its sum"),
    ],
)
def test_the_advice_fits_the_row(row, advice):
    for kind in (torch.tensor, np.array):
        with pytest.raises(ValueError, match=advice):
            metrics.ece(kind([[0.5, 0.25, 0.25], row]), kind([0, 0]))


def test_the_share_that_is_kept_is_not_rounded_up():
    for n in (7, 10, 100, 1000):
        probs = torch.stack([torch.linspace(0.99, 0.51, n), torch.linspace(0.01, 0.49, n)], dim=1)
        labels = torch.zeros(n, dtype=torch.int64)
        for k in range(1, n + 1):
            wrong = (torch.arange(n) >= k).long()  # all but the first k are wrong
            for coverage in (k / n, round(k / n, 12), (k - 1) / n + 1 / n):
                assert float(metrics.selective_risk(probs, wrong, coverage=coverage)) == 0
            if k < n:
                assert float(metrics.selective_risk(probs, wrong, coverage=k / n + 1e-9)) > 0
            found = metrics.rejection_threshold(probs, labels, tpr=k / n)
            assert float(found) == float(probs[k - 1, 0])


@pytest.mark.parametrize("offset", [0.0, 1e8, -1e8, 1e15])
def test_a_constant_added_to_logits_costs_no_digits(offset):
    logits = torch.tensor([[2.0, 0.0], [-1.0, 3.0]], dtype=torch.float64)
    labels = torch.tensor([1, 1])
    wanted = float(metrics.nll(logits, labels, from_logits=True))
    assert wanted == pytest.approx((math.log1p(math.exp(2)) + math.log1p(math.exp(-4))) / 2)
    moved = logits + offset
    assert float(metrics.nll(moved, labels, from_logits=True)) == pytest.approx(wanted, rel=1e-14)
    parts = metrics.decompose_nll(moved, labels, from_logits=True)
    assert_close(parts, metrics.decompose_nll(logits, labels, from_logits=True), 1e-14)


def test_scores_can_be_resampled():
    generator = torch.Generator().manual_seed(0)
    scores = torch.cat([torch.randn(60, generator=generator), torch.randn(9) + 1])
    labels = torch.arange(69) // 60
    for metric in (metrics.auroc, metrics.aupr, metrics.fpr95):
        found = metrics.bootstrap(metric, scores, labels == 1, resamples=50, generator=generator)
        assert found.value == metric(scores, labels)
        assert 0 <= found.low <= found.high <= 1
    few = metrics.bootstrap(metrics.auroc, scores[-10:], labels[-10:], resamples=200)
    assert few.low <= few.value  # one label 0 alone: draws without it are drawn again


@pytest.mark.parametrize("metric", [metrics.nll, metrics.brier, metrics.confidence])
@pytest.mark.parametrize("kind", [np.asarray, torch.as_tensor])
def test_means_are_resampled_by_their_values(metric, kind):
    logits, labels = drawn(n=200)
    data = kind(logits.double().softmax(dim=1)), kind(labels)
    fast, slow = (
        metrics.bootstrap(each, *data, resamples=40, generator=torch.Generator().manual_seed(1))
        for each in (metric, lambda probs, labels: metric(probs, labels))
    )
    assert type(fast.low) is type(slow.low)
    assert_close(fast, slow, 1e-13)


@pytest.mark.parametrize("kind", [np.asarray, torch.as_tensor])
def test_of_infinite_draws_an_end_is_infinite(kind):
    probs = kind(np.array([[1.0, 0.0], [0.5, 0.5], [0.6, 0.4]]))
    found = metrics.bootstrap(metrics.nll, probs, kind(np.array([1, 0, 1])), resamples=200)
    assert (found.value, found.high) == (np.inf, np.inf)
    assert np.log(2) <= found.low < np.log(2.51)


@pytest.mark.parametrize("right", [0, 1, 50, 99, 100])
@pytest.mark.parametrize("level", [0.5, 0.95])
def test_a_share_has_the_exact_interval(right, level):
    probs = torch.tensor([[0.8, 0.2]]).repeat(100, 1)
    labels = (torch.arange(100) >= right).long()
    for metric in (metrics.accuracy, functools.partial(metrics.accuracy, reduction="mean")):
        found = metrics.bootstrap(metric, probs, labels, level=level)
        assert found.low <= found.value == right / 100 <= found.high
        assert 0 <= found.low < found.high <= 1
        exact = binomtest(right, 100).proportion_ci(level)
        assert (found.low, found.high) == pytest.approx((exact.low, exact.high), abs=1e-9)
