"""Intervals and tests from tables: exact for one bin, never without a width, covering."""

import itertools

import numpy as np
import pytest
import torch
from scipy.stats import beta, binom, kstest

from advcal import metrics
from advcal.metrics import _intervals, _significance

kinds = pytest.mark.parametrize("kind", [np.asarray, torch.as_tensor])
STATISTICS = ["ece", "rmsce", "chi2", "mcs", "ks", "kuiper", "spiegelhalter"]


def seeded(seed=0):
    return torch.Generator().manual_seed(seed)


def binary(confidences, right, kind=np.asarray):
    confidences = np.asarray(confidences, dtype=np.float64)
    probs = np.stack([confidences, 1 - confidences], axis=1)
    return kind(probs), kind(1 - np.asarray(right, dtype=np.int64))


def table(confidences, right, n_bins=15, kind=np.asarray):
    return metrics.reliability_bins(*binary(confidences, right, kind), n_bins=n_bins)


def drawn(n, gap=0.0, seed=0, shape=(2.5, 0.6)):
    rng = np.random.default_rng(seed)
    confidences = 0.5 + 0.5 * rng.beta(*shape, n)
    return confidences, rng.random(n) < confidences - gap


# --- shares and one bin ----------------------------------------------------------------------


@kinds
@pytest.mark.parametrize(
    ("confidence", "n", "right", "high"),
    [
        (0.9, 10, 9, 0.3450), (0.9, 5, 5, 0.4218), (0.99, 100, 100, 0.0262),
        (0.9, 1000, 900, 0.0203), (0.9, 1, 1, 0.875), (1.0, 100, 100, 0.0362),
        (0.5, 100, 50, 0.1017),
    ],
)  # fmt: skip
def test_one_bin_has_the_interval_of_clopper_and_pearson(confidence, n, right, high, kind):
    data = np.full(n, confidence), np.arange(n) < right
    found = metrics.ece_interval(*binary(*data, kind), generator=seeded())
    assert type(found.low) is type(found.high) is type(found.value)
    assert float(found.low) == 0
    assert float(found.high) == pytest.approx(high, abs=6e-5)


@pytest.mark.parametrize(("n", "right"), [(20, 3), (200, 111), (60, 60), (1000, 20)])
def test_one_bin_at_both_ends(n, right):
    bins = table(np.full(n, 0.99), np.arange(n) < right)
    signed, found = bins.interval("mcs"), bins.interval("ece", resamples=4000, generator=seeded())
    low = beta.ppf(0.025, right, n - right + 1)
    high = beta.ppf(0.975, right + 1, n - right) if right < n else 1.0
    assert signed.value == bins.mcs == pytest.approx(0.99 - right / n)
    assert signed.low == pytest.approx(0.99 - high, abs=2e-4)
    assert signed.high == pytest.approx(0.99 - low, abs=2e-4)
    assert found.high == pytest.approx(max(0.99 - low, high - 0.99), abs=2e-4)
    if right < n:
        assert found.low == pytest.approx(0.99 - high, abs=0.02)


def test_accuracy_has_the_exact_interval():
    data = drawn(300)
    bins = table(*data)
    found = bins.interval("accuracy", level=0.9)
    assert found == metrics.bootstrap(metrics.accuracy, *binary(*data), level=0.9)
    assert bins.interval("accuracy").low < found.low < found.value < found.high


# --- the law of sums -------------------------------------------------------------------------


def exact_tail(counts, rates, total):
    law = np.ones(1)
    for n, p in zip(counts, rates, strict=True):
        law = np.convolve(law, binom.pmf(np.arange(n + 1), n, p))
    return law[: int(total) + 1].sum()


def test_the_tail_of_a_sum_of_binomials():
    rng = np.random.default_rng(0)
    for n_bins, most in itertools.product((1, 2, 7), (8, 25, 400)):
        counts = rng.integers(1, most, n_bins).astype(float)
        rates = rng.beta(0.5, 0.5, (6, n_bins))
        rates[0, 0], rates[1, 0], rates[2] = 0.0, 0.5, 1e-9
        total = np.minimum((counts * rates).sum(axis=1).round(), counts.sum() - 1).clip(0)
        wanted = [exact_tail(counts, *row) for row in zip(rates, total, strict=True)]
        np.testing.assert_allclose(_intervals._tail(counts, rates, total), wanted, atol=0.01)
        near = _intervals._saddlepoint(counts, rates, total)
        if counts.sum() >= 20:
            np.testing.assert_allclose(near, wanted, atol=0.02)
        if counts.sum() <= 200:
            exact = _intervals._tail(counts, rates, total)
            np.testing.assert_allclose(exact, wanted, atol=1e-12)


def test_the_likeliest_rates_of_a_sum():
    found = np.array([0.0, 0.2, 0.7, 1.0])
    for mu in (-30.0, -1.0, -0.5, -1e-3, 1e-3, 0.5, 30.0):
        rates = _intervals._tilted(found, mu)
        np.testing.assert_allclose(mu * rates**2 - (1 + mu) * rates + found, 0, atol=1e-9)
        assert ((rates >= found - 1e-9) if mu < 0 else (rates <= found + 1e-9)).all()
        assert ((rates >= 0) & (rates <= 1)).all()


# --- any table -------------------------------------------------------------------------------


@pytest.mark.parametrize("n", [1, 2, 7, 40, 300])
@pytest.mark.parametrize("seed", range(6))
def test_no_interval_is_without_width_and_none_excludes_what_a_test_does_not(n, seed):
    gap = (0.0, 0.05, 0.4)[seed % 3]
    confidences, right = drawn(n, gap, seed)
    if seed == 5:
        confidences, right = np.full(n, 0.999), np.ones(n, dtype=bool)
    bins = table(confidences, right)
    options = {"resamples": 300, "generator": seeded(seed)}
    for level in (0.5, 0.95):
        found = bins.interval("ece", level=level, **options)
        assert 0 <= found.low < found.high <= 1
        assert found.low <= found.value == bins.ece <= found.high
        signed = bins.interval("mcs", level=level)
        assert -1 <= signed.low < signed.high <= 1
        assert signed.low <= signed.value <= signed.high
        again = {"resamples": 300, "generator": seeded(seed)}
        test = bins.calibration_test(**again)
        again["generator"] = seeded(seed)
        around = bins.interval("ece", level=level, **again)
        assert (around.low == 0) == (test.p_value > (1 - level) / 2) or around.low == 0


def test_a_table_has_what_the_examples_have_and_sums_have_it_too():
    confidences, right = drawn(240, 0.1)
    whole, halves = table(confidences, right), [
        table(confidences[rows], right[rows]) for rows in (slice(100), slice(100, 240))
    ]  # fmt: skip
    sketch = metrics.reliability_sketch(*binary(confidences, right))
    for function in (metrics.ece_interval, metrics.calibration_test, metrics.consistency_bands):
        name = "interval" if function is metrics.ece_interval else function.__name__
        wanted = function(*binary(confidences, right), generator=seeded())
        for bins in (whole, halves[0] + halves[1]):
            found = getattr(bins, name)(generator=seeded())
            np.testing.assert_allclose(np.stack(found), np.stack(wanted), rtol=1e-9)
        tensors = function(*binary(confidences, right, torch.as_tensor), generator=seeded())
        np.testing.assert_allclose(torch.stack(list(tensors)), np.stack(wanted), rtol=1e-9)
    mass = sketch.quantile_bins(n_bins=5).interval("ece", generator=seeded())
    assert mass.low < mass.value < mass.high
    fine = sketch.bins.interval("ece", resamples=50, generator=seeded())  # 240 bins of one example
    assert 0 <= fine.low < fine.high <= 1
    empty = metrics.ReliabilityBins(np.linspace(0, 1, 3), *np.zeros((3, 2), dtype=np.int64))
    for call in (empty.interval, empty.calibration_test, empty.consistency_bands):
        with pytest.raises(ValueError, match="expected a table of one prediction or more, got"):
            call()
    with pytest.raises(
        ValueError, match="figure to be one of 'accuracy', 'mcs', 'ece', 'mce', got 'nll'"
    ):
        whole.interval("nll")


# Of 100 intervals that cover in 95 %, as few as 86 do so one time in a thousand.
@pytest.mark.parametrize("n", [20, 100])
@pytest.mark.parametrize(
    ("confidence", "accuracy"), [(0.9, 0.9), (0.97, 0.99), (0.99, 0.99), (0.999, 0.99)]
)
def test_accurate_models_are_covered(n, confidence, accuracy):
    rng, source, covered, signed = np.random.default_rng(0), seeded(), 0, 0
    for _ in range(100):
        bins = table(np.full(n, confidence), rng.random(n) < accuracy)
        found = bins.interval("ece", resamples=200, generator=source)
        covered += found.low <= abs(confidence - accuracy) + 1e-12 <= found.high + 2e-12
        found = bins.interval("mcs")
        signed += found.low - 1e-12 <= confidence - accuracy <= found.high + 1e-12
    assert covered >= 86
    assert signed >= 86


@pytest.mark.parametrize(("n", "gap"), [(60, 0.0), (300, 0.05)])
def test_networks_are_covered(n, gap):
    source, covered = seeded(), 0
    population = 0.5 + 0.5 * np.random.default_rng(1).beta(2.5, 0.6, 400_000)
    shares = np.histogram(population, np.arange(16) / 15)[0] / len(population)
    truth = gap * shares.sum()
    for seed in range(100):
        bins = table(*drawn(n, gap, seed + 10))
        found = bins.interval("ece", resamples=200, generator=source)
        covered += found.low <= truth <= found.high
    assert covered >= 86


# --- tests -----------------------------------------------------------------------------------


@pytest.mark.parametrize("statistic", STATISTICS)
@pytest.mark.parametrize("n", [40, 250])
def test_p_values_are_uniform_if_calibrated(statistic, n):
    source, found = seeded(), []
    for seed in range(150):
        data = binary(*drawn(n, seed=seed + 500, shape=(1, 1)))
        options = {"statistic": statistic, "resamples": 199, "generator": source}
        found.append(float(metrics.calibration_test(*data, **options).p_value))
    assert kstest(found, "uniform").pvalue > 1e-3
    assert np.mean(np.array(found) <= 0.05) < 0.12


@pytest.mark.parametrize("statistic", STATISTICS)
@kinds
def test_every_statistic_finds_overconfidence(statistic, kind):
    for n in (60, 400):
        options = {"statistic": statistic, "generator": seeded()}
        found = metrics.calibration_test(*binary(*drawn(n, 0.25), kind), **options)
        assert isinstance(found, metrics.CalibrationTest)
        assert float(found.p_value) < 0.01
        if statistic in ("ece", "mcs", "rmsce"):
            assert found.value == getattr(table(*drawn(n, 0.25), kind=kind), statistic)
    if statistic == "ks":
        error = metrics.ks_error(*binary(*drawn(400, 0.25), kind))
        assert float(found.value) == pytest.approx(float(error), rel=1e-12)
    assert type(found.value) is type(found.p_value)


def test_statistics_of_a_table_and_of_its_examples():
    data = drawn(500, 0.1)
    bins = table(*data)
    for statistic in ("ks", "kuiper"):
        binned = bins.calibration_test(statistic=statistic, generator=seeded())
        full = metrics.calibration_test(*binary(*data), statistic=statistic)
        assert 0 < binned.value <= full.value + 1e-12
        assert binned.p_value < 0.01
    with pytest.raises(ValueError, match="statistic to be one of"):
        bins.calibration_test(statistic="spiegelhalter")


def test_the_laws_at_their_quantiles():
    assert _significance._ks_law(2.2414) == pytest.approx(0.05, abs=2e-5)
    assert _significance._kuiper_law(2.4977) == pytest.approx(0.05, abs=2e-5)
    for law in (_significance._ks_law, _significance._kuiper_law):
        values = [law(x) for x in np.linspace(0, 8, 200)]
        assert values[0] == 1
        assert values[-1] < 1e-9
        assert all(a >= b - 1e-12 for a, b in itertools.pairwise(values))


@pytest.mark.parametrize("statistic", STATISTICS)
def test_certain_predictions_are_no_trouble(statistic):
    right = metrics.calibration_test(*binary(np.ones(150), np.ones(150)), statistic=statistic)
    assert right.p_value == 1
    assert right.value == 0
    wrong = metrics.calibration_test(*binary(np.ones(150), np.arange(150) > 0), statistic=statistic)
    assert wrong.p_value < 0.01
    assert wrong.value > 0
