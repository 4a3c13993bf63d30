"""The form of torchmetrics has the figures of the functions."""

import copy
import pickle

import numpy as np
import pytest
import torch

from advcal import metrics

torchmetrics = pytest.importorskip("torchmetrics")

from advcal.metrics.torchmetrics import Calibration  # noqa: E402

FIGURES = ["accuracy", "confidence", "nll", "brier", "ece", "mce", "mcs"]


def data(n=300):
    generator = torch.Generator().manual_seed(0)
    logits = 2 * torch.randn(n, 5, generator=generator)
    return logits, torch.randint(5, (n,), generator=generator)


@pytest.mark.parametrize("figure", FIGURES)
def test_batches_have_the_figure_of_all(figure):
    logits, labels = data()
    wanted = getattr(metrics, figure)(logits.softmax(1), labels)
    metric = Calibration(figure)
    for rows in torch.arange(300).split(70):
        metric.update(logits[rows].softmax(1), labels[rows])
    assert metric.compute() == pytest.approx(wanted)
    assert metric.compute().dtype == torch.float64
    again = pickle.loads(pickle.dumps(metric))
    assert copy.deepcopy(again).compute() == metric.compute()
    found = metric.summary().interval(figure)
    assert found.low < found.value < found.high
    metric.reset()
    metric.update(logits[:20].softmax(1), labels[:20])
    assert metric.compute() == pytest.approx(
        getattr(metrics, figure)(logits[:20].softmax(1), labels[:20])
    )


def test_a_collection_shares_its_sums_and_logits_are_taken():
    logits, labels = data()
    each = {name: Calibration(name, from_logits=True, n_bins=10) for name in FIGURES}
    together = torchmetrics.MetricCollection(each)
    assert together(logits[:50], labels[:50])["nll"] == pytest.approx(
        metrics.nll(logits[:50], labels[:50], from_logits=True)
    )
    together.update(logits[50:], labels[50:])
    assert len(together.compute_groups) == 1
    found = together.compute()
    assert found["ece"] == pytest.approx(metrics.ece(logits.softmax(1), labels, n_bins=10))


def test_processes_are_summed():
    logits, labels = data()
    halves = []
    for rows in (slice(120), slice(120, 300)):
        halves.append(Calibration("ece"))
        halves[-1].update(logits[rows].softmax(1), labels[rows])
    metric, other = halves
    # What torchmetrics gathers from two processes, one state after the other.
    others = iter([other.counts, other.confidences, other.corrects, other.sums])
    metric.sync(
        dist_sync_fn=lambda state, group=None: [state, next(others)],
        distributed_available=lambda: True,
    )
    wanted = metrics.ece(logits.softmax(1), labels)
    assert metrics.ReliabilityBins.ece.fget(metric.summary().bins) == pytest.approx(wanted)
    metric.unsync()
    assert int(metric.counts.sum()) == 120


@pytest.mark.parametrize("figure", FIGURES)
@pytest.mark.filterwarnings("ignore:The ``compute`` method")
def test_before_the_first_batch_there_is_no_number(figure):
    assert Calibration(figure).compute().isnan()


def test_bad_arguments():
    with pytest.raises(ValueError, match=r"figure to be one of 'accuracy', .*, got 'aurc'"):
        Calibration("aurc")
    with pytest.raises(ValueError, match="n_bins >= 1, got 0"):
        Calibration(n_bins=0)
    with pytest.raises(TypeError, match=r"probs as a torch\.Tensor, got an array"):
        Calibration().update(np.array([[0.9, 0.1]]), np.array([0]))
