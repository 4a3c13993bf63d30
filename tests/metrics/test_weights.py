"""Weighted examples: as often as they are repeated, whatever the unit of the weights."""

from functools import partial

import numpy as np
import pytest
import torch

from advcal import metrics

MEANS = ["accuracy", "brier", "confidence", "mcs", "nll"]
WEIGHTED = [*MEANS, "ece", "reliability_bins", "summary"]
FIELDS = ["edges", "counts", "confidences", "corrects"]
kinds = pytest.mark.parametrize("kind", [np.asarray, torch.as_tensor], ids=["array", "tensor"])
binnings = pytest.mark.parametrize("binning", ["uniform", "quantile"])


def data(n=150, seed=0):
    """Draw predictions, labels and whole weights, some of them 0."""
    rng = np.random.default_rng(seed)
    probs = rng.dirichlet(np.full(4, 0.4), n)
    return probs, rng.integers(0, 4, n), rng.integers(0, 4, n)


def repeated(probs, labels, weights):
    return probs.repeat(weights, axis=0), labels.repeat(weights)


@kinds
@pytest.mark.parametrize("unit", [1, 0.1])
@pytest.mark.parametrize("name", [*MEANS, "ece"])
def test_a_weight_is_worth_so_many_repeats_in_any_unit(kind, unit, name):
    probs, labels, weights = data()
    function = getattr(metrics, name)
    found = function(kind(probs), kind(labels), weights=kind(unit * weights))
    assert type(found) is type(function(kind(probs), kind(labels)))
    assert float(found) == pytest.approx(float(function(*repeated(*data()))), rel=1e-12)


@kinds
@binnings
def test_tables_are_those_of_repeats_and_add(kind, binning):
    probs, labels, weights = data()
    make = partial(metrics.reliability_bins, binning=binning)
    wanted = make(*repeated(probs, labels, weights))
    table = make(kind(probs), kind(labels), weights=kind(weights))
    for field in FIELDS:
        np.testing.assert_allclose(getattr(table, field), getattr(wanted, field), rtol=1e-12)
    for figure in ("accuracy", "confidence", "ece", "mce", "mcs", "rmsce"):
        assert float(getattr(table, figure)) == pytest.approx(float(getattr(wanted, figure)))
    assert float(table.effective_n) == pytest.approx(weights.sum() ** 2 / (weights**2).sum())
    both = table + table
    assert float(both.effective_n) == pytest.approx(2 * float(table.effective_n))
    assert float(both.ece) == pytest.approx(float(table.ece))


def test_what_has_weights_adds_to_what_has_none():
    probs, labels, weights = data()
    ones = np.ones(150)
    for name in ("reliability_bins", "summary"):
        function = getattr(metrics, name)
        mixed = function(probs, labels, weights=weights) + function(probs, labels)
        wanted = function(probs, labels, weights=weights) + function(probs, labels, weights=ones)
        assert repr(mixed) == repr(wanted)
        table = getattr(mixed, "bins", mixed)
        assert table.effective_n == getattr(wanted, "bins", wanted).effective_n


@pytest.mark.parametrize("unit", [0.1, 1, 3])
@binnings
def test_equal_weights_of_any_unit_have_the_intervals_and_tests_of_none(unit, binning):
    probs, labels, _ = data()
    plain = metrics.reliability_bins(probs, labels, binning=binning)
    table = metrics.reliability_bins(probs, labels, binning=binning, weights=np.full(150, unit))
    for figure in ("accuracy", "mcs", "ece", "mce"):
        for found, wanted in zip(table.interval(figure), plain.interval(figure), strict=True):
            assert float(found) == pytest.approx(float(wanted), abs=1e-7)
    assert tuple(table.calibration_test()) == pytest.approx(tuple(plain.calibration_test()))
    assert table.debiased_rmsce == pytest.approx(plain.debiased_rmsce)
    bands = zip(table.consistency_bands(), plain.consistency_bands(), strict=True)
    assert all(np.allclose(a, b, equal_nan=True) for a, b in bands)


def test_unequal_weights_tell_less():
    probs, labels, weights = data(1000)
    plain = metrics.summary(probs, labels)
    total = metrics.summary(probs, labels, weights=weights)
    for figure in (*MEANS, "ece", "mce"):
        found, other = total.interval(figure), plain.interval(figure)
        assert found.low < found.value < found.high
        assert found.high - found.low > 1.1 * (other.high - other.low)
    assert float(total.nll) == pytest.approx(float(metrics.nll(probs, labels, weights=weights)))


def test_an_infinite_value_of_no_weight_is_nothing():
    probs, labels = np.array([[0.0, 1.0], [0.5, 0.5]]), np.array([0, 0])
    weights = np.array([0.0, 2.0])
    assert metrics.nll(probs, labels, weights=weights) == pytest.approx(np.log(2))
    assert metrics.summary(probs, labels, weights=weights).nll == pytest.approx(np.log(2))
    assert metrics.nll(probs, labels, reduction="sum", weights=weights) == pytest.approx(
        2 * np.log(2)
    )


@kinds
def test_a_bin_of_next_to_no_weight_is_no_trouble(kind):
    probs, labels = np.array([[0.9, 0.1]] * 3 + [[0.6, 0.4]]), np.array([0, 0, 1, 1])
    table, without = (
        metrics.reliability_bins(kind(probs), kind(labels), weights=kind(np.array([1, 1, 1, w])))
        for w in (1e-12, 0.0)
    )
    for figure in ("accuracy", "ece", "mcs"):
        found, wanted = (list(map(float, each.interval(figure))) for each in (table, without))
        assert found[0] == pytest.approx(wanted[0], abs=1e-9)
        assert found == pytest.approx(wanted, abs=0.1)  # which is exact, of whole examples
    assert table.interval("mce").high > without.interval("mce").high  # of one bin more
    for statistic in ("ece", "rmsce", "chi2", "mcs", "ks", "kuiper"):
        found, wanted = (
            each.calibration_test(statistic=statistic, generator=torch.Generator().manual_seed(0))
            for each in (table, without)
        )
        assert float(found.value) == pytest.approx(float(wanted.value), rel=1e-6)
        assert float(found.p_value) == pytest.approx(float(wanted.p_value), abs=0.05)


@kinds
@pytest.mark.parametrize("unit", [1e-170, 1e170])
def test_weights_whose_squares_are_no_numbers_are_refused(kind, unit):
    probs, labels, weights = data()
    weights = kind(unit * weights)
    assert metrics.nll(kind(probs), kind(labels), weights=weights) < 10
    for name in ("ece", "reliability_bins", "summary"):
        with pytest.raises(ValueError, match=r"weights up to 3e.*; divide them by their mean"):
            getattr(metrics, name)(kind(probs), kind(labels), weights=weights)


def test_weighted_intervals_cover():
    rng, inside = np.random.default_rng(0), {"accuracy": 0, "brier": 0}
    truth = {"accuracy": 0.9, "brier": 2 * (0.9 * 0.05**2 + 0.1 * 0.95**2)}
    for _ in range(200):
        wrong, weights = rng.random(100) >= 0.9, np.exp(rng.normal(size=100))
        total = metrics.summary(np.full((100, 2), [0.95, 0.05]), wrong * 1, weights=weights)
        for name, value in truth.items():
            _, low, high = total.interval(name)
            inside[name] += low <= value <= high
    assert min(inside.values()) >= 181  # of a coverage of .95 one time in a thousand less


@kinds
@pytest.mark.parametrize("name", WEIGHTED)
def test_bad_weights_are_refused(kind, name):
    probs, labels, _ = map(kind, data())
    function = partial(getattr(metrics, name), probs, labels)
    with pytest.raises(TypeError, match=r"expected weights as a .* like probs, got list"):
        function(weights=[1.0] * 150)
    for bad, told in [
        (np.ones(149), r"shape \(150,\) on cpu, got a.* \(149,\)"),
        (np.full(150, np.nan), "weights that are numbers, got nan"),
        (np.r_[np.ones(149), -1], "weights >= 0, one of them above, got -1"),
        (np.zeros(150), "weights >= 0, one of them above, got 0"),
    ]:
        with pytest.raises(ValueError, match=told):
            function(weights=kind(bad))


def test_the_bootstrap_takes_no_weights():
    probs, labels, weights = data()
    with pytest.raises(ValueError, match=r"without weights.*interval\(figure\)"):
        metrics.bootstrap(partial(metrics.ece, weights=weights), probs, labels)


@pytest.mark.parametrize("seed", range(8))
def test_an_interval_holds_what_that_of_the_accuracy_holds(seed):
    """All predictions in one bin: MCS is their confidence less the accuracy."""
    generator = np.random.default_rng(seed)
    weights = generator.lognormal(size=60)
    confidence, labels = 0.97, np.eye(60, dtype=int)[0]  # one mistake, of less than one example
    probs = np.tile([confidence, 1 - confidence], (60, 1))
    table = metrics.reliability_bins(probs, labels, weights=weights)
    accuracy, mcs = table.interval("accuracy"), table.interval("mcs")
    assert mcs.low <= confidence - accuracy.high + 1e-6
    assert mcs.high >= confidence - accuracy.low - 1e-6
