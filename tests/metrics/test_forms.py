"""One class against the rest, class by class; what remains wrong; what an ensemble is unsure of."""

import numpy as np
import pytest
import torch

from advcal import metrics

kinds = pytest.mark.parametrize("kind", [np.asarray, torch.as_tensor])


def data(n=500, n_classes=3, seed=0, sharpness=1.5):
    rng = np.random.default_rng(seed)
    probs = rng.dirichlet(np.full(n_classes, 0.5), n)
    labels = (probs.cumsum(axis=1) > rng.random((n, 1))).argmax(axis=1)
    probs = probs**sharpness
    return probs / probs.sum(axis=1, keepdims=True), labels


# --- one class -------------------------------------------------------------------------------


@kinds
@pytest.mark.parametrize("binning", ["uniform", "quantile"])
@pytest.mark.parametrize("n", [500, 6000])
def test_the_table_of_a_positive_class(kind, binning, n):
    probs, labels = data(n, 2)
    bins = metrics.reliability_bins(kind(probs), kind(labels), binning=binning, positive=1)
    edges = np.asarray(bins.edges)
    index = np.searchsorted(edges[1:-1], probs[:, 1])
    np.testing.assert_array_equal(bins.counts, np.bincount(index, minlength=15))
    np.testing.assert_array_equal(bins.corrects, np.bincount(index, labels, 15))
    np.testing.assert_allclose(bins.confidences, np.bincount(index, probs[:, 1], 15))
    assert float(bins.accuracy) == pytest.approx(labels.mean())
    found = metrics.ece(kind(probs), kind(labels), binning=binning, positive=1)
    assert found == bins.ece
    assert float(found) > float(metrics.ece(kind(probs), kind(labels), binning=binning)) - 0.02
    around = bins.interval("ece", generator=torch.Generator().manual_seed(0))
    assert around.low < around.value < around.high


def test_the_positive_class_is_scikit_learns():
    calibration = pytest.importorskip("sklearn.calibration")
    probs, labels = data(800, 2)
    shares, means = calibration.calibration_curve(labels, probs[:, 1], n_bins=15)
    bins = metrics.reliability_bins(probs, labels, positive=1)
    occupied = bins.counts > 0
    np.testing.assert_allclose(bins.bin_accuracy[occupied], shares)
    np.testing.assert_allclose(bins.bin_confidence[occupied], means)


def test_the_positive_class_is_torchmetrics():
    classification = pytest.importorskip("torchmetrics.functional.classification")
    probs, labels = map(torch.from_numpy, data(800, 2))
    wanted = classification.binary_calibration_error(probs[:, 1].contiguous(), labels, n_bins=15)
    found = metrics.ece(probs, labels, positive=1)
    assert float(found) == pytest.approx(float(wanted), abs=1e-6)


def test_the_two_classes_of_a_binary_model_have_the_same_gaps():
    probs, labels = data(300, 2)
    one, other = (metrics.reliability_bins(probs, labels, positive=k) for k in (0, 1))
    np.testing.assert_allclose(one.counts, other.counts[::-1])
    np.testing.assert_allclose(one.gaps, -other.gaps[::-1], atol=1e-12)


# --- class by class --------------------------------------------------------------------------


@kinds
@pytest.mark.parametrize("binning", ["uniform", "quantile"])
def test_class_by_class(kind, binning):
    probs, labels = map(kind, data())
    tables = metrics.classwise_bins(probs, labels, binning=binning)
    assert len(tables) == 3
    for k, bins in enumerate(tables):
        one = metrics.reliability_bins(probs, labels, binning=binning, positive=k)
        for field in ("edges", "counts", "confidences", "corrects"):
            np.testing.assert_allclose(getattr(bins, field), getattr(one, field), rtol=1e-12)
    mean = metrics.classwise_ece(probs, labels, binning=binning)
    assert float(mean) == pytest.approx(np.mean([float(bins.ece) for bins in tables]))
    logits = metrics.classwise_bins(kind(np.log(data()[0])), labels, from_logits=True)
    assert float(logits[0].ece) == pytest.approx(
        float(metrics.reliability_bins(probs, labels, positive=0).ece)
    )


def test_adaptive_calibration_error_by_hand():
    probs = np.array([[0.9, 0.1], [0.8, 0.2], [0.7, 0.3], [0.6, 0.4]])
    found = metrics.classwise_ece(probs, np.array([0, 0, 1, 0]), n_bins=2, binning="quantile")
    # Of class 0: .7 and .6 with one of two right, .9 and .8 with both; class 1 mirrors it.
    assert found == pytest.approx(abs(0.65 - 0.5) / 2 + abs(0.85 - 1) / 2)


def test_debiased_class_by_class():
    found = [float(metrics.debiased_classwise_rmsce(*data(400, seed=s))) for s in range(20)]
    biased = [
        np.sqrt(np.mean([bins.rmsce**2 for bins in metrics.classwise_bins(*data(400, seed=s))]))
        for s in range(20)
    ]
    truth = metrics.debiased_classwise_rmsce(*data(200_000, seed=99))
    assert abs(np.mean(found) - truth) < 0.01 < np.mean(biased) - truth
    calibrated = [
        metrics.debiased_classwise_rmsce(*data(400, seed=s, sharpness=1)) ** 2 for s in range(20)
    ]
    assert np.mean(calibrated) < 1e-3


# --- selective prediction --------------------------------------------------------------------


@kinds
def test_the_generalized_risk_by_hand_and_over_all_orders_of_ties(kind):
    tops = np.array([0.9, 0.8, 0.8, 0.8, 0.6])
    right = np.array([True, False, True, False, True])
    probs = np.stack([tops, 1 - tops], axis=1)
    found = metrics.augrc(kind(probs), kind(1 - right.astype(np.int64)))
    # Two of three ties are wrong: on average 2/3 of an error enters with each.
    assert float(found) == pytest.approx((0 + 2 / 3 + 4 / 3 + 2 + 2) / 25)
    errors = ~right
    weights = [5, 3, 3, 3, 1]  # n - j + 1 at the mean position of ties
    assert float(found) == pytest.approx((errors * weights).sum() / 25)


def test_the_generalized_risk_is_torch_uncertaintys():
    classification = pytest.importorskip("torch_uncertainty.metrics.classification")
    probs, labels = map(torch.from_numpy, data(300))
    metric = classification.AUGRC()
    metric.update(probs, labels)
    # Its trapezoids are over (1/n, 1), and divided by 1 - 1/n.
    assert float(metrics.augrc(probs, labels)) == pytest.approx(float(metric.compute()), abs=4e-3)


# --- ensembles -------------------------------------------------------------------------------


@kinds
def test_uncertainty_adds_up(kind):
    runs = [kind(data(100, seed=0, sharpness=s)[0]) for s in (1, 2, 3)]
    found = metrics.uncertainty(runs)
    np.testing.assert_allclose(
        found.total, np.asarray(found.aleatoric) + np.asarray(found.epistemic)
    )
    np.testing.assert_allclose(found.total, metrics.entropy(kind(np.mean(runs, axis=0))))
    assert (np.asarray(found.epistemic) > 0).all()
    assert type(found.epistemic) is type(runs[0])


def test_members_that_agree_are_not_unsure_of_themselves():
    probs = data(50)[0]
    found = metrics.uncertainty([probs, probs, probs])
    assert (found.epistemic >= 0).all()
    assert found.epistemic.max() < 1e-14
    certain = np.eye(3)[[0, 1]]
    found = metrics.uncertainty([certain, certain[::-1].copy()])
    np.testing.assert_allclose(found.epistemic, np.log(2))
    np.testing.assert_allclose(found.aleatoric, 0)


@kinds
def test_disagreement_is_not_infinite_however_small(kind):
    logits = np.array([[0.0, -744.4]]), np.array([[0.0, -np.inf]])  # 5e-324 and half of it, 0
    assert float(metrics.uncertainty(list(map(kind, logits)), from_logits=True).epistemic[0]) == 0


# --- what has no label -----------------------------------------------------------------------


@kinds
@pytest.mark.parametrize("shape", [(), (4, 5)])
def test_rows_that_have_a_label(kind, shape):
    rng = np.random.default_rng(0)
    probs = rng.dirichlet(np.ones(3), (6, *shape))
    labels = rng.integers(0, 3, (6, *shape))
    labels[rng.random(labels.shape) < 0.4] = 255
    images = kind(np.ascontiguousarray(np.moveaxis(probs, -1, 1)))
    rows, kept = metrics.labelled(images, kind(labels), ignore_index=255)
    assert type(rows) is type(images)
    np.testing.assert_array_equal(rows, probs[labels != 255])
    np.testing.assert_array_equal(kept, labels[labels != 255])
    assert 0 <= float(metrics.ece(rows, kept)) <= 1


@kinds
@pytest.mark.parametrize("dtype", ["uint8", "int16", "uint16", "int64"])
def test_no_class_is_taken_for_what_has_no_label(kind, dtype):
    """-100 as an 8-bit number is 156, of which a class may be."""
    labels = kind(np.array([156, 3, 199], dtype=dtype))
    probs = kind(np.full((3, 200), 1 / 200))
    np.testing.assert_array_equal(metrics.labelled(probs, labels)[1], labels)
    rows, kept = metrics.labelled(probs, labels, ignore_index=156)
    assert (len(rows), kept.tolist()) == (2, [3, 199])


def test_labels_that_do_not_fit():
    probs = torch.full((2, 3, 4), 1 / 3)
    for bad in (torch.zeros(2, 5), torch.zeros(2), torch.zeros(2, 3, 4)):
        with pytest.raises(ValueError, match=r"labels of shape \(n, \.\.\.\), got"):
            metrics.labelled(probs, bad.long())
    with pytest.raises(ValueError, match="a label other than -100, got none"):
        metrics.labelled(probs, torch.full((2, 4), -100))
    with pytest.raises(TypeError, match="labels of an integer dtype, got a tensor"):
        metrics.labelled(probs, torch.zeros(2, 4))
    with pytest.raises(TypeError, match="labels of the kind of probs, got an array"):
        metrics.labelled(probs, np.zeros((2, 4), dtype=np.int64))
