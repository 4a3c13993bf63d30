"""Reliability tables: where a confidence falls, what a table says, and that tables add."""

import dataclasses
import functools
import itertools
import warnings

import numpy as np
import pytest
import torch
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from sklearn.calibration import calibration_curve
from torchmetrics.functional.classification import (
    binary_calibration_error,
    multiclass_calibration_error,
)

from advcal import metrics
from advcal.metrics import ReliabilityBins, reliability_bins

FIELDS = ("edges", "counts", "confidences", "corrects")


def two_class(confidences, corrects, kind=np.asarray):
    """Predictions with these confidences (at least one half), right or wrong as said."""
    confidences = np.asarray(confidences, dtype=np.float64)
    probs = np.stack([confidences, 1 - confidences], axis=1)
    return kind(probs), kind(np.where(corrects, 0, 1))


def plain_bins(probs, labels, n_bins):
    """Compute the table in plain Python, bin by bin."""
    counts, confidences, corrects = [0] * n_bins, [0.0] * n_bins, [0] * n_bins
    for row, label in zip(probs.tolist(), labels.tolist(), strict=True):
        confidence = max(row)
        bin_ = next(i for i in range(n_bins) if confidence <= (i + 1) / n_bins or i == n_bins - 1)
        counts[bin_] += 1
        confidences[bin_] += confidence
        corrects[bin_] += row.index(confidence) == label
    return counts, confidences, corrects


def draw(seed, n, n_classes, sharpness):
    rng = np.random.default_rng(seed)
    logits = rng.normal(size=(n, n_classes)) * sharpness
    probs = np.exp(logits - logits.max(axis=1, keepdims=True))
    return probs / probs.sum(axis=1, keepdims=True), rng.integers(0, n_classes, n)


# --- where a confidence falls ----------------------------------------------------------------


@pytest.mark.parametrize("n_bins", [1, 2, 3, 7, 10, 15, 20, 100])
def test_edges(n_bins):
    bins = reliability_bins(*two_class([0.75], [True]), n_bins=n_bins)
    assert bins.edges.tolist() == [i / n_bins for i in range(n_bins + 1)]
    assert bins.n_bins == n_bins
    assert [getattr(bins, field).shape for field in FIELDS[1:]] == [(n_bins,)] * 3


def test_fifteen_bins_unless_said_otherwise():
    assert reliability_bins(*two_class([0.75], [True])).n_bins == 15


@pytest.mark.parametrize("n_bins", [2, 3, 4, 5, 6, 10, 15])
def test_bins_are_right_closed(n_bins):
    for edge in (i / n_bins for i in range(1, n_bins + 1) if i / n_bins >= 0.5):
        bins = reliability_bins(*two_class([edge], [True]), n_bins=n_bins)
        assert bins.counts.argmax() == round(edge * n_bins) - 1
        if edge < 1:
            above = np.nextafter(edge, 2)
            bins = reliability_bins(*two_class([above], [True]), n_bins=n_bins)
            assert bins.counts.argmax() == round(edge * n_bins)


def test_edges_are_float64_also_for_narrower_probabilities():
    # float32(0.6) is 0.60000002, above the edge; float32(0.7) is 0.69999999, below it.
    probs = torch.tensor([[0.6, 0.4], [0.7, 0.3]])
    bins = reliability_bins(probs, torch.tensor([0, 0]), n_bins=10)
    assert bins.counts.tolist() == [0, 0, 0, 0, 0, 0, 2, 0, 0, 0]
    bins = reliability_bins(probs.double().round(decimals=6), torch.tensor([0, 0]), n_bins=10)
    assert bins.counts.tolist() == [0, 0, 0, 0, 0, 1, 1, 0, 0, 0]


def test_confidence_one_is_in_the_last_bin():
    bins = reliability_bins(torch.eye(3), torch.tensor([0, 1, 0]), n_bins=4)
    assert bins.counts.tolist() == [0, 0, 0, 3]
    assert bins.confidences.tolist() == [0, 0, 0, 3]
    assert bins.corrects.tolist() == [0, 0, 0, 2]


def test_confidence_a_little_above_one_by_rounding_is_in_the_last_bin():
    bins = reliability_bins(torch.tensor([[1.0001, 0.0]]), torch.tensor([0]), n_bins=5)
    assert bins.counts.tolist() == [0, 0, 0, 0, 1]


def test_confidence_next_to_zero_is_in_the_first_bin():
    probs = torch.full((2, 4000), 1 / 4000, dtype=torch.float64)
    bins = reliability_bins(probs, torch.tensor([0, 1]), n_bins=10)
    assert bins.counts.tolist() == [2] + [0] * 9
    assert bins.corrects.tolist() == [1] + [0] * 9


def test_of_equal_probabilities_the_first_class_is_the_prediction():
    probs = torch.tensor([[0.4, 0.4, 0.2], [0.2, 0.4, 0.4], [0.25, 0.5, 0.25]])
    for labels, corrects in (([0, 1, 1], 3), ([1, 2, 1], 1), ([0, 2, 0], 1), ([2, 0, 2], 0)):
        labels = torch.tensor(labels)
        assert reliability_bins(probs, labels).corrects.sum() == corrects
        assert metrics.accuracy(probs, labels) == pytest.approx(corrects / 3)
        for row in range(3):  # also without another row that has a tie
            alone = reliability_bins(probs[row : row + 1], labels[row : row + 1])
            assert alone.corrects.sum() == int(probs[row].argmax() == labels[row])


def test_one_example():
    bins = reliability_bins(*two_class([0.75], [False]), n_bins=4)
    assert bins.counts.tolist() == [0, 0, 1, 0]
    assert bins.ece == bins.mce == bins.mcs == bins.confidence == 0.75
    assert bins.accuracy == 0


# --- what a table says -----------------------------------------------------------------------


@pytest.mark.parametrize("kind", [np.asarray, torch.as_tensor])
def test_properties_by_hand(kind):
    confidences = [0.55, 0.6, 0.85, 0.9, 1.0]
    bins = reliability_bins(*two_class(confidences, [1, 0, 1, 1, 0], kind), n_bins=5)
    close = functools.partial(np.testing.assert_allclose, rtol=1e-14, atol=1e-14)
    nan = np.nan
    assert bins.n == 5
    assert bins.counts.tolist() == [0, 0, 2, 0, 3]
    assert bins.corrects.tolist() == [0, 0, 1, 0, 2]
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        close(bins.confidences, [0, 0, 1.15, 0, 2.75])
        close(bins.bin_confidence, [nan, nan, 0.575, nan, 2.75 / 3])
        close(bins.bin_accuracy, [nan, nan, 0.5, nan, 2 / 3])
        close(bins.gaps, [nan, nan, 0.075, nan, 0.25])
    close(bins.accuracy, 0.6)
    close(bins.confidence, 3.9 / 5)
    close(bins.mcs, 3.9 / 5 - 0.6)
    close(bins.ece, (0.15 + 0.75) / 5)
    close(bins.mce, 0.25)


@pytest.mark.parametrize("kind", [np.asarray, torch.as_tensor])
def test_gaps_are_signed_and_errors_are_not(kind):
    bins = reliability_bins(*two_class([0.6, 0.9], [True, False], kind), n_bins=2)
    assert bins.ece == pytest.approx(abs(0.75 - 0.5))
    bins = reliability_bins(*two_class([0.6, 0.9], [True, False], kind), n_bins=10)
    assert bins.gaps[[5, 8]].tolist() == pytest.approx([-0.4, 0.9])
    assert float(bins.ece) == pytest.approx(0.65)
    assert float(bins.mce) == pytest.approx(0.9)
    assert float(bins.mcs) == pytest.approx(0.25)
    under = reliability_bins(*two_class([0.6], [True], kind))
    assert float(under.mcs) == pytest.approx(-0.4)
    assert float(under.mce) == pytest.approx(0.4)


@pytest.mark.parametrize("kind", [np.asarray, torch.as_tensor])
def test_properties_are_of_the_kind_of_the_table(kind):
    bins = reliability_bins(*two_class([0.6, 0.9], [True, False], kind), n_bins=10)
    scalar = torch.Tensor if kind is torch.as_tensor else np.floating
    for name in ("accuracy", "confidence", "mcs", "ece", "mce"):
        value = getattr(bins, name)
        assert isinstance(value, scalar), name
        assert value.dtype in (torch.float64, np.dtype(np.float64)), name
        assert value.shape == ()
    for name in ("bin_accuracy", "bin_confidence", "gaps"):
        assert type(getattr(bins, name)) is type(bins.edges), name
        assert getattr(bins, name).shape == (10,)


def test_the_one_line_forms_are_the_table():
    probs, labels = draw(0, 500, 4, 2.0)
    for n_bins in (1, 10, 15):
        bins = reliability_bins(probs, labels, n_bins=n_bins)
        assert metrics.ece(probs, labels, n_bins=n_bins) == bins.ece
        assert metrics.mce(probs, labels, n_bins=n_bins) == bins.mce
    assert metrics.ece(probs, labels) == bins.ece
    assert metrics.mcs(probs, labels) == pytest.approx(bins.mcs, abs=1e-14)
    assert metrics.accuracy(probs, labels) == bins.accuracy
    assert metrics.confidence(probs, labels) == pytest.approx(bins.confidence, abs=1e-14)


def test_repr_says_what_matters():
    bins = reliability_bins(*two_class([0.6, 0.9], [True, False]), n_bins=10)
    wanted = "ReliabilityBins(n=2, n_bins=10, accuracy=0.5000, confidence=0.7500, ece=0.6500)"
    assert repr(bins) == wanted
    assert repr(reliability_bins(*two_class([0.6, 0.9], [True, False], torch.as_tensor), n_bins=10))


# --- addition --------------------------------------------------------------------------------


def assert_same_table(got, wanted):
    for field in ("edges", "counts", "corrects"):
        np.testing.assert_array_equal(getattr(got, field), getattr(wanted, field))
    np.testing.assert_allclose(got.confidences, wanted.confidences, rtol=1e-12)
    for name in ("ece", "mce", "mcs", "accuracy", "confidence"):
        np.testing.assert_allclose(
            np.asarray(getattr(got, name)), np.asarray(getattr(wanted, name)), atol=1e-12
        )


@pytest.mark.parametrize("kind", [np.asarray, torch.as_tensor])
@settings(max_examples=60, deadline=None, derandomize=True)
@given(
    seed=st.integers(0, 10**6),
    n=st.integers(2, 200),
    cuts=st.lists(st.integers(1, 199), max_size=8),
    n_bins=st.integers(1, 20),
)
def test_any_split_of_the_data_adds_up(kind, seed, n, cuts, n_bins):
    probs, labels = map(kind, draw(seed, n, 3, 2.0))
    whole = reliability_bins(probs, labels, n_bins=n_bins)
    bounds = sorted({0, n, *(cut for cut in cuts if cut < n)})
    parts = [
        reliability_bins(probs[start:stop], labels[start:stop], n_bins=n_bins)
        for start, stop in itertools.pairwise(bounds)
    ]
    assert_same_table(sum(parts), whole)
    assert_same_table(sum(reversed(parts)), whole)
    assert_same_table(functools.reduce(lambda a, b: a + b, parts), whole)
    if len(parts) >= 3:
        a, b, c = parts[:3]
        assert_same_table((a + b) + c, a + (b + c))


def test_addition_is_commutative_and_leaves_its_operands():
    a, b = (reliability_bins(*draw(seed, 50, 3, 2.0)) for seed in (0, 1))
    before = [getattr(table, field).copy() for table in (a, b) for field in FIELDS]
    for field in FIELDS:
        np.testing.assert_array_equal(getattr(a + b, field), getattr(b + a, field))
    assert (a + b).n == 100
    after = [getattr(table, field) for table in (a, b) for field in FIELDS]
    for old, new in zip(before, after, strict=True):
        np.testing.assert_array_equal(old, new)


def test_sum_of_one_table_is_that_table():
    bins = reliability_bins(*draw(0, 50, 3, 2.0))
    assert_same_table(sum([bins]), bins)


def test_in_place_addition_makes_a_new_table():
    a = b = reliability_bins(*draw(0, 50, 3, 2.0))
    b += a
    assert a.n == 50
    assert b.n == 100


def test_tables_of_other_edges_do_not_add():
    a, b = (reliability_bins(*draw(0, 50, 3, 2.0), n_bins=n_bins) for n_bins in (10, 15))
    with pytest.raises(ValueError, match=r"expected .* same edges, got 10 bins and 15 bins"):
        a + b
    moved = dataclasses.replace(a, edges=a.edges**2)
    with pytest.raises(
        ValueError, match=r"expected .* same edges, got 10 bins and 10 bins elsewhere"
    ):
        a + moved


def test_tables_of_another_kind_do_not_add():
    probs, labels = draw(0, 50, 3, 2.0)
    of_tensors = reliability_bins(torch.from_numpy(probs), torch.from_numpy(labels))
    with pytest.raises(TypeError, match=r"expected .* one kind, got"):
        of_tensors + reliability_bins(probs, labels)


@pytest.mark.parametrize(
    "other",
    [1, 0.0, 2.5, None, "bins", [], (), np.zeros(15), torch.zeros(15), torch.tensor(0), object()],
    ids=lambda other: type(other).__name__,
)
def test_nothing_else_adds_to_a_table(other):
    for kind in (np.asarray, torch.as_tensor):
        bins = reliability_bins(*two_class([0.6], [True], kind))
        with pytest.raises(TypeError):
            bins + other
        with pytest.raises(TypeError):
            other + bins


def test_immutable():
    bins = reliability_bins(*draw(0, 50, 3, 2.0))
    for name in (*FIELDS, "ece", "new"):
        with pytest.raises((dataclasses.FrozenInstanceError, AttributeError)):
            setattr(bins, name, None)
    with pytest.raises(dataclasses.FrozenInstanceError):
        del bins.counts


# --- parity ----------------------------------------------------------------------------------


@settings(max_examples=1500, deadline=None, derandomize=True)
@given(
    seed=st.integers(0, 10**6),
    n=st.integers(1, 40),
    n_classes=st.integers(2, 6),
    n_bins=st.integers(1, 25),
    sharpness=st.sampled_from([0.0, 0.1, 1.0, 3.0, 30.0]),
    decimals=st.sampled_from([None, 1, 2]),
)
def test_parity_with_plain_python(seed, n, n_classes, n_bins, sharpness, decimals):
    probs, labels = draw(seed, n, n_classes, sharpness)
    if decimals is not None:  # many ties, many confidences on edges
        probs = probs.round(decimals)
        probs[:, -1] = (1 - probs[:, :-1].sum(axis=1)).round(decimals).clip(0)
        probs = probs[abs(probs.sum(axis=1) - 1) < 1e-9]
        labels = labels[: len(probs)]
        if len(probs) == 0:
            return
    bins = reliability_bins(probs, labels, n_bins=n_bins)
    counts, confidences, corrects = plain_bins(probs, labels, n_bins)
    assert bins.counts.tolist() == counts
    assert bins.corrects.tolist() == corrects
    np.testing.assert_allclose(bins.confidences, confidences, rtol=1e-13, atol=1e-13)
    errors = [abs(a - b) for a, b in zip(confidences, corrects, strict=True)]
    assert bins.ece == pytest.approx(sum(errors) / len(probs), abs=1e-13)
    mce = max(error / count for error, count in zip(errors, counts, strict=True) if count)
    assert bins.mce == pytest.approx(mce, abs=1e-12)


@settings(max_examples=1000, deadline=None, derandomize=True)
@given(
    seed=st.integers(0, 10**6),
    n=st.integers(1, 60),
    n_classes=st.integers(2, 6),
    n_bins=st.integers(1, 25),
    norm=st.sampled_from(["l1", "l2", "max"]),
)
def test_parity_with_torchmetrics_away_from_the_edges(seed, n, n_classes, n_bins, norm):
    # It closes bins on the left, gives confidence 1 a bin of its own, and sums in float32.
    probs, labels = map(torch.from_numpy, draw(seed, n, n_classes, 1.5))
    confidence = probs.amax(dim=1, keepdim=True)
    assume(float((confidence - torch.arange(n_bins + 1) / n_bins).abs().min()) > 1e-6)
    theirs = multiclass_calibration_error(
        probs, labels, num_classes=n_classes, n_bins=n_bins, norm=norm
    )
    metric = {"l1": metrics.ece, "l2": metrics.rmsce, "max": metrics.mce}[norm]
    ours = float(metric(probs, labels, n_bins=n_bins))
    assert ours == pytest.approx(float(theirs), rel=1e-6, abs=2e-6)


@settings(max_examples=1000, deadline=None, derandomize=True)
@given(
    seed=st.integers(0, 10**6),
    n=st.integers(1, 60),
    n_bins=st.integers(1, 25),
    levels=st.sampled_from([4, 10, 1000]),
)
def test_parity_with_scikit_learn(seed, n, n_bins, levels):
    # Its bins are right-closed too, so confidences may lie on edges.
    rng = np.random.default_rng(seed)
    confidences, right = rng.integers(levels, 2 * levels + 1, n) / (2 * levels), rng.random(n) < 0.7
    bins = reliability_bins(*two_class(confidences, right), n_bins=n_bins)
    edges = abs(confidences[:, None] - np.linspace(0, 1, n_bins + 1))
    assume(not ((edges > 0) & (edges < 1e-12)).any())  # its linspace rounds some edges otherwise
    heights, means = calibration_curve(right, confidences, n_bins=n_bins)
    filled = bins.counts > 0
    np.testing.assert_allclose(bins.bin_accuracy[filled], heights, rtol=1e-6)
    np.testing.assert_allclose(bins.bin_confidence[filled], means, rtol=1e-6)


def test_published_vector_of_three_classes():
    # The doctest of torchmetrics' MulticlassCalibrationError.
    probs = torch.tensor(
        [[0.25, 0.20, 0.55], [0.55, 0.05, 0.40], [0.10, 0.30, 0.60], [0.90, 0.05, 0.05]]
    )
    labels = torch.tensor([0, 1, 2, 0])
    assert float(metrics.ece(probs, labels, n_bins=3)) == pytest.approx(0.2, abs=1e-6)
    assert float(metrics.mce(probs, labels, n_bins=3)) == pytest.approx(0.7 / 3, abs=1e-6)
    bins = reliability_bins(probs, labels, n_bins=3)
    assert bins.counts.tolist() == [0, 3, 1]
    assert float((bins.counts / bins.n * bins.gaps.nan_to_num() ** 2).sum().sqrt()) == (
        pytest.approx(0.2082, abs=5e-5)
    )


def test_published_vector_of_two_classes_is_of_another_quantity():
    # torchmetrics' BinaryCalibrationError takes the probability of class 1 for the confidence; the
    # table of the top label folds it at one half.
    p = torch.tensor([0.25, 0.25, 0.55, 0.75, 0.75], dtype=torch.float64)
    labels = torch.tensor([0, 0, 1, 1, 1])
    for norm, published in (("l1", 0.29), ("max", 0.3167)):
        value = float(binary_calibration_error(p, labels, n_bins=2, norm=norm))
        assert value == pytest.approx(published, abs=5e-5)
    probs = torch.stack([1 - p, p], dim=1)
    # Every prediction is right; confidences .75, .75, .55, .75, .75, all in the upper bin.
    assert float(metrics.ece(probs, labels, n_bins=2)) == pytest.approx(0.29, abs=1e-12)
    assert float(metrics.mce(probs, labels, n_bins=2)) == pytest.approx(0.29, abs=1e-12)


def test_published_closed_forms_of_discrete_confidences():
    # verified_calibration: each confidence has a bin of its own, as in any fine bins.
    half, six = [0.5, 0.5], [0.4, 0.6]
    probs = np.array([half, half, half, six, half, six, six, six, six])
    labels = np.array([0, 1, 0, 1, 0, 1, 1, 1, 0])
    # It takes class 1 for the prediction of a tie, here it is class 0: right in 3 of 4 as well.
    for n_bins in (10, 20):
        assert metrics.ece(probs, labels, n_bins=n_bins) == pytest.approx(
            4 / 9 * 0.25 + 5 / 9 * 0.2
        )
        wanted = (4 / 9 * 0.25**2 + 5 / 9 * 0.2**2) ** 0.5
        assert metrics.rmsce(probs, labels, n_bins=n_bins) == pytest.approx(wanted)
        assert metrics.debiased_rmsce(probs, labels, n_bins=n_bins) < wanted
    rows = [[0.6, 0.3, 0.1]] * 6 + [[0.1, 0.8, 0.1]] * 4 + [[0.1, 0.0, 0.9]] * 4
    probs, labels = np.array(rows), np.array([0] * 5 + [1] * 4 + [2] * 5)
    gaps = np.array([5 / 6 - 0.6, 0.05, 0.1])
    weights = np.array([6, 4, 4]) / 14
    assert metrics.ece(probs, labels, n_bins=10) == pytest.approx(weights @ gaps)
    assert metrics.rmsce(probs, labels, n_bins=10) == pytest.approx((weights @ gaps**2) ** 0.5)
    marginal = [4 * 0.1, 6 * (5 / 6 - 0.6), 8 * 0.1, 4 * 0.05, 6 * (0.3 - 1 / 6)]
    assert metrics.classwise_ece(probs, labels, n_bins=20) == pytest.approx(sum(marginal) / 42)


def test_published_equal_mass_and_missing_classes():
    rows = [[0.8, 0.1, 0.1], [0.6, 0.2, 0.2], [0, 0.9, 0.1], [0, 1, 0], [0.3, 0.3, 0.4]]
    probs, labels = np.array([*rows, [0.15, 0.0, 0.85]]), np.array([0, 0, 1, 1, 0, 2])
    wanted = 0.5 * (2 / 3 - 0.6) + 0.5 * (1 - 2.75 / 3)
    assert metrics.ece(probs, labels, n_bins=2, binning="quantile") == pytest.approx(wanted)
    wanted = (0.5 * (2 / 3 - 0.6) ** 2 + 0.5 * (1 - 2.75 / 3) ** 2) ** 0.5
    assert metrics.rmsce(probs, labels, n_bins=2, binning="quantile") == pytest.approx(wanted)
    right = 4 / 6 * (1 - (0.8 + 0.85 + 0.9 + 1.0) / 4)  # published without the bin of .4 and .6
    bins = reliability_bins(probs, labels, n_bins=3)
    assert bins.counts.tolist() == [0, 2, 4]
    assert bins.ece == pytest.approx(right)
    missing = np.array([[0.9, 0.1], [0.8, 0.2]])
    assert metrics.ece(missing, np.array([0, 0])) == pytest.approx(0.15)


def test_published_counts_per_bin():
    # robustness_metrics; no confidence lies on an edge.
    p = np.array([0.51, 0.45, 0.39, 0.66, 0.68, 0.29, 0.81, 0.85])
    labels = np.array([0, 0, 0, 1, 0, 1, 1, 1])
    bins = reliability_bins(np.stack([1 - p, p], axis=1), labels, n_bins=10)
    assert bins.counts.tolist() == [0, 0, 0, 0, 0, 2, 3, 1, 2, 0]
    assert bins.corrects.tolist() == [0, 0, 0, 0, 0, 1, 2, 0, 2, 0]
    assert bins.confidences[5:9] == pytest.approx([1.06, 1.95, 0.71, 1.66])
    assert bins.ece == pytest.approx(0.145)
    probs = [
        [0.35, 0.36, 0.29],  # published as a row that sums to .9, with .32, of the same bin
        [0.37, 0.33, 0.30],
        [0.30, 0.31, 0.39],
        [0.61, 0.38, 0.01],
        [0.10, 0.65, 0.25],
        [0.91, 0.05, 0.04],
    ]
    bins = reliability_bins(np.array(probs), np.array([1, 0, 0, 1, 0, 0]), n_bins=10)
    assert bins.counts.tolist() == [0, 0, 0, 3, 0, 0, 2, 0, 0, 1]
    assert bins.corrects.tolist() == [0, 0, 0, 2, 0, 0, 0, 0, 0, 1]
    # .378333 with the published .32 in the place of .36.
    assert bins.ece == pytest.approx(0.378333 + (0.32 - 0.36) / 6, abs=1e-6)


def test_confidence_one_shares_the_last_bin():
    # (.95, right) and (1.0, wrong) with ten bins: .475; .525 where 1.0 has a bin of its own.
    probs, labels = two_class([0.95, 1.0], [True, False], torch.as_tensor)
    assert float(metrics.ece(probs, labels, n_bins=10)) == pytest.approx(0.475, abs=1e-12)
    theirs = multiclass_calibration_error(probs, labels, num_classes=2, n_bins=10)
    assert float(theirs) == pytest.approx(0.525, abs=1e-6)


def test_perfectly_calibrated_predictions_have_no_error():
    probs = torch.tensor([[0.75, 0.25]], dtype=torch.float64).repeat(4, 1)
    bins = reliability_bins(probs, torch.tensor([0, 0, 0, 1]))
    assert (bins.ece, bins.mce, bins.mcs) == (0, 0, 0)


def test_public_names_of_a_table():
    assert {field.name for field in dataclasses.fields(ReliabilityBins)} == {*FIELDS, "squares"}
