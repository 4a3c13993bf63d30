"""Intervals, tests and bands against the binomial law, and where their randomness comes from."""

import functools

import numpy as np
import pytest
import torch
from scipy.stats import beta, binom

from advcal import metrics

kinds = pytest.mark.parametrize("kind", [np.asarray, torch.as_tensor])


def seeded(seed=0):
    return torch.Generator().manual_seed(seed)


def constant(confidence, right, n, kind=np.asarray):
    return kind(np.tile([confidence, 1 - confidence], (n, 1))), kind((np.arange(n) >= right) * 1)


DRAWS = {
    "bootstrap": functools.partial(metrics.bootstrap, metrics.brier),
    "calibration_test": metrics.calibration_test,
    "consistency_bands": metrics.consistency_bands,
    "ece_interval": metrics.ece_interval,
}


@kinds
def test_a_metric_may_give_a_plain_number(kind):
    data = constant(0.9, 80, 100, kind)
    found, wanted = (
        metrics.bootstrap(metric, *data, resamples=20, generator=seeded())
        for metric in (lambda *data: float(metrics.mcs(*data)), metrics.mcs)
    )
    assert tuple(map(float, found)) == tuple(map(float, wanted))
    assert type(found.low) is type(wanted.low)


@kinds
def test_the_interval_of_an_accuracy_is_binomial(kind):
    found = metrics.bootstrap(
        metrics.accuracy, *constant(0.9, 80, 100, kind), level=0.9, generator=seeded()
    )
    assert isinstance(found.low, type(found.value))
    assert float(found.value) == 0.8
    low, high = binom.ppf([0.05, 0.95], 100, 0.8) / 100
    assert float(found.low) == pytest.approx(low, abs=0.011)
    assert float(found.high) == pytest.approx(high, abs=0.011)


def test_any_metric_can_be_resampled():
    ece = functools.partial(metrics.ece, n_bins=5)
    data = constant(0.9, 80, 100)
    found = metrics.bootstrap(ece, *data, resamples=50, generator=seeded())
    assert found.value == ece(*data)
    assert found.low < found.value < found.high
    vector = metrics.bootstrap(metrics.classwise_mcs, *data, resamples=50, generator=seeded())
    assert vector.low.shape == vector.high.shape == (2,)


def test_p_values_are_uniform_if_the_model_is_calibrated():
    rng = np.random.default_rng(0)
    source, found = seeded(), []
    for _ in range(200):
        confidences = rng.uniform(0.5, 1, 100)
        labels = (rng.random(100) >= confidences) * 1
        probs = np.stack([confidences, 1 - confidences], axis=1)
        found.append(
            metrics.calibration_test(probs, labels, resamples=59, generator=source).p_value
        )
    for level in (0.1, 0.3, 0.5, 0.8):
        assert np.mean(np.array(found) <= level) == pytest.approx(level, abs=0.1)


@kinds
def test_p_values_of_one_confidence(kind):
    for right in (70, 80, 82, 90):
        found = metrics.calibration_test(*constant(0.8, right, 100, kind), generator=seeded())
        distance = abs(right - 80)
        wanted = binom.cdf(80 - distance, 100, 0.8) + binom.sf(79 + distance, 100, 0.8)
        assert float(found.value) == pytest.approx(distance / 100)
        assert float(found.p_value) == pytest.approx(min(wanted, 1), abs=0.04)


@kinds
def test_bands_are_binomial(kind):
    data = constant(0.7, 70, 200, kind)
    low, high = metrics.consistency_bands(*data, n_bins=10, level=0.9, generator=seeded())
    assert type(low) is type(data[0])
    low, high = np.asarray(low), np.asarray(high)
    filled = ~np.isnan(low)
    assert (
        filled.tolist()
        == (np.asarray(metrics.reliability_bins(*data, n_bins=10).counts) > 0).tolist()
    )
    assert low[filled][0] == pytest.approx(binom.ppf(0.05, 200, 0.7) / 200, abs=0.011)
    assert high[filled][0] == pytest.approx(binom.ppf(0.95, 200, 0.7) / 200, abs=0.011)


@pytest.mark.parametrize("name", DRAWS)
def test_randomness_comes_from_the_generator_and_leaves_the_global_state(name):
    draw = functools.partial(DRAWS[name], *constant(0.7, 60, 100), resamples=20)

    def figures(**options):
        return [np.asarray(each).tolist() for each in draw(**options)]

    torch.manual_seed(0)
    before = torch.get_rng_state()
    assert str(figures()) == str(figures())
    assert torch.equal(torch.get_rng_state(), before)
    assert str(figures(generator=seeded(1))) == str(figures(generator=seeded(1)))
    source = seeded(1)
    figures(generator=source)
    assert not torch.equal(source.get_state(), seeded(1).get_state())


@pytest.mark.parametrize("name", DRAWS)
def test_bad_input_is_refused(name):
    data = constant(0.7, 60, 100)
    with pytest.raises(ValueError, match="expected resamples >= 1, got 0"):
        DRAWS[name](*data, resamples=0)
    with pytest.raises(TypeError, match=r"expected generator as a torch\.Generator"):
        DRAWS[name](*data, generator=0)
    with pytest.raises(ValueError, match="sum to 1"):
        DRAWS[name](data[0] * 2, data[1])
    if name != "calibration_test":
        for level in (0, 1, 1.5):
            with pytest.raises(ValueError, match="expected level"):
                DRAWS[name](*data, level=level)


# --- the interval of the calibration error ---------------------------------------------------


@kinds
def test_the_interval_of_one_bin_is_binomial(kind):
    found = metrics.ece_interval(
        *constant(0.9, 400, 500, kind), resamples=5_000, generator=seeded()
    )
    assert type(found.low) is type(found.value)
    assert float(found.value) == pytest.approx(0.1)
    low, high = 0.9 - beta.ppf(0.975, 401, 100), 0.9 - beta.ppf(0.025, 400, 101)
    assert float(found.low) == pytest.approx(low, abs=4e-3)
    assert float(found.high) == pytest.approx(high, abs=2e-4)


@kinds
@pytest.mark.parametrize("binning", ["uniform", "quantile"])
def test_the_interval_of_a_calibrated_model_reaches_zero(kind, binning):
    rng = np.random.default_rng(1)
    confidences = rng.uniform(0.5, 1, 2000)
    probs = np.stack([confidences, 1 - confidences], axis=1)
    labels = (rng.random(2000) >= confidences) * 1
    found = metrics.ece_interval(kind(probs), kind(labels), binning=binning, generator=seeded())
    assert float(found.value) == metrics.ece(probs, labels, binning=binning) > 0.01
    assert float(found.low) == 0
    assert float(found.high) < 0.05


@pytest.mark.parametrize("gap", [0.0, 0.02, 0.1])
def test_the_interval_covers_the_truth(gap):
    # Of 80 intervals that cover in 93 %, as few as 66 do so one time in a thousand.
    rng = np.random.default_rng(0)
    source, covered = seeded(), 0
    for _ in range(80):
        confidences = rng.uniform(0.5, 1, 500)
        labels = (rng.random(500) >= confidences - gap) * 1
        probs = np.stack([confidences, 1 - confidences], axis=1)
        found = metrics.ece_interval(probs, labels, resamples=300, generator=source)
        covered += found.low <= gap <= found.high
    assert covered >= 66


@kinds
def test_no_gap_and_only_wrong(kind):
    found = metrics.ece_interval(*constant(1.0, 20, 20, kind), generator=seeded())
    assert [float(each) for each in found] == pytest.approx([0, 0, 1 - 0.025 ** (1 / 20)], abs=1e-5)
    found = metrics.ece_interval(*constant(1.0, 0, 20, kind), generator=seeded())
    assert [float(each) for each in found] == pytest.approx([1, 0.025 ** (1 / 20), 1], abs=1e-2)


# --- equal mass ------------------------------------------------------------------------------


def test_bands_and_tests_of_equal_mass():
    rng = np.random.default_rng(0)
    confidences = rng.uniform(0.5, 1, 3000)
    probs = np.stack([confidences, 1 - confidences], axis=1)
    labels = (rng.random(3000) >= confidences) * 1
    options = {"n_bins": 6, "binning": "quantile", "generator": seeded()}
    bins = metrics.reliability_bins(probs, labels, n_bins=6, binning="quantile")
    low, high = metrics.consistency_bands(probs, labels, **options)
    each = np.sort(confidences).reshape(6, 500)
    spread = np.sqrt((each * (1 - each)).mean(axis=1) / 500)
    np.testing.assert_allclose(high - low, 2 * 1.96 * spread, rtol=0.1)
    np.testing.assert_allclose((high + low) / 2, bins.bin_confidence, atol=0.004)
    found = metrics.calibration_test(probs, labels, **options)
    assert found.value == bins.ece
    assert found.p_value > 0.01
    shifted = (rng.random(3000) >= confidences - 0.1) * 1
    assert metrics.calibration_test(probs, shifted, **options).p_value < 0.01
    for function in (metrics.consistency_bands, metrics.calibration_test, metrics.ece_interval):
        with pytest.raises(ValueError, match="binning to be one of"):
            function(probs, labels, binning="equal")
