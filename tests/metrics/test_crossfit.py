"""The calibration error by a map fitted to other examples."""

import numpy as np
import pytest
import torch

from advcal import metrics


def drawn(n, gap=0.0, seed=0):
    rng = np.random.default_rng(seed)
    confidence = 0.55 + 0.4 * rng.random(n)
    labels = (rng.random(n) >= confidence - gap).astype(np.int64)
    return np.stack([confidence, 1 - confidence], axis=1), labels


def estimates(n, gap, runs=60):
    source = torch.Generator().manual_seed(0)
    data = (drawn(n, gap, seed) for seed in range(runs))
    return np.array([metrics.crossfit_ece(*each, generator=source) for each in data])


def test_a_calibrated_model_has_no_error_on_average():
    found = estimates(300, 0.0)
    assert abs(found[:, 0].mean()) < 0.006
    assert np.mean([metrics.ece(*drawn(300, 0.0, seed)) for seed in range(60)]) > 0.04


@pytest.mark.parametrize("gap", [0.1, -0.04])
def test_the_error_and_its_side(gap):
    found = estimates(1000, gap)
    assert 0.6 * abs(gap) < found[:, 0].mean() < abs(gap) + 0.005
    one, other = (1, 2) if gap > 0 else (2, 1)
    assert found[:, one].mean() > 0.7 * abs(gap) > 0.02 > abs(found[:, other].mean())
    np.testing.assert_allclose(found[:, 0], found[:, 1] + found[:, 2], atol=1e-15)


def test_kinds_and_few_examples():
    probs, labels = drawn(50)
    seeds = [torch.Generator().manual_seed(1) for _ in range(2)]
    arrays = metrics.crossfit_ece(probs, labels, generator=seeds[0])
    tensors = metrics.crossfit_ece(
        torch.from_numpy(probs), torch.from_numpy(labels), generator=seeds[1]
    )
    assert isinstance(arrays.value, np.float64)
    np.testing.assert_allclose(torch.stack(list(tensors)), np.stack(arrays), rtol=1e-12)
    metrics.crossfit_ece(probs[:2], labels[:2])
    with pytest.raises(ValueError, match="expected two examples or more, got one"):
        metrics.crossfit_ece(probs[:1], labels[:1])
