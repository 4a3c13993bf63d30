"""Ten million float32 predictions, most of them confident, to 1e-12: sums do not stop growing."""

import numpy as np
import pytest
import torch

from advcal import metrics

N = 10_000_000


@pytest.fixture(scope="module", params=[2, 3], ids=["two classes", "three classes"])
def data(request):
    n_classes = request.param
    generator = torch.Generator().manual_seed(n_classes)
    top = 0.9999 - 0.06 * torch.rand(N, generator=generator)
    top[::10] -= 0.3
    probs = torch.empty(N, n_classes)
    probs[:, 0] = top
    for k in range(1, n_classes):
        probs[:, k] = (1 - top) / (n_classes - 1)
    labels = (torch.rand(N, generator=generator) > 0.9).long()
    return probs, labels


@pytest.fixture(scope="module")
def reference(data):
    """The figures from NumPy's float64 sums, which add in pairs."""
    probs, labels = (part.numpy() for part in data)
    top = probs[:, 0].astype(np.float64)
    right = labels == 0
    index = np.ceil(top * 15).astype(np.int8) - 1
    gaps = [abs(top[index == m].sum() - right[index == m].sum()) for m in range(15)]
    label = np.where(right, probs[:, 0], probs[:, 1]).astype(np.float64)
    squares = sum((probs[:, k].astype(np.float64) ** 2).sum() for k in range(probs.shape[1]))
    return {
        "ece": sum(gaps) / N,
        "mcs": (top.sum() - right.sum()) / N,
        "nll": -np.log(label).sum() / N,
        "brier": (squares - 2 * label.sum()) / N + 1,
        "accuracy": right.sum() / N,
        "confidence": top.sum() / N,
    }


def test_most_confidences_lie_in_the_last_bin(data):
    bins = metrics.reliability_bins(*data)
    assert bins.n == N
    assert bins.counts[-1] > 0.85 * N


@pytest.mark.parametrize("name", ["ece", "mcs", "nll", "brier", "accuracy", "confidence"])
def test_exact(name, data, reference):
    assert float(getattr(metrics, name)(*data)) == pytest.approx(reference[name], rel=0, abs=1e-12)
