"""Venn-Abers predictors are those of the definition, and hold what they promise."""

import io

import numpy as np
import pytest
import torch
from scipy import optimize

from advcal import calibrators, metrics

pytestmark = pytest.mark.filterwarnings("ignore:expected enough examples to mend more")


def binary(f):
    return torch.stack([torch.zeros(len(f)), torch.as_tensor(f)], dim=1).double()


def by_definition(x, y, at):
    """Fit isotonic regression with the example as 0 and as 1."""
    found = []
    for label in (0, 1):
        _, inverse = np.unique(np.append(x, at), return_inverse=True)
        counts = np.bincount(inverse)
        means = np.bincount(inverse, np.append(y, label)) / counts
        found.append(optimize.isotonic_regression(means, weights=counts).x[inverse[-1]])
    return found


@pytest.mark.parametrize("seed", range(60))
def test_it_is_what_the_definition_says(seed):
    rng = np.random.default_rng(seed)
    n = int(rng.integers(1, 25))
    x = rng.integers(0, rng.integers(2, 15), n).astype(float)
    y = (rng.random(n) < rng.choice([0.1, 0.5, 0.9, 0, 1])).astype(int)
    calibrator = calibrators.fit_venn_abers(binary(x), torch.tensor(y))
    at = np.concatenate([np.unique(x), np.unique(x) + 0.5, [-1.0]])
    for value, p in zip(at, calibrator(binary(at))[:, 1].tolist(), strict=True):
        low, high = by_definition(x, y, value)
        assert p == pytest.approx(high / (1 - low + high), abs=1e-12)


def test_against_the_example_of_one_group():
    # One value: of 3 examples with 2 ones, p0 = 2/4 and p1 = 3/4.
    calibrator = calibrators.fit_venn_abers(binary([1.0, 1.0, 1.0]), torch.tensor([0, 1, 1]))
    assert float(calibrator(binary([1.0]))[0, 1]) == pytest.approx(0.75 / (1 - 0.5 + 0.75))


def test_no_probability_is_0_and_the_nll_of_others_is_finite():
    generator = torch.Generator().manual_seed(0)
    logits = 3 * torch.randn(3000, 5, generator=generator, dtype=torch.float64)
    labels = torch.multinomial(logits.softmax(dim=1), 1, generator=generator)[:, 0]
    calibrator = calibrators.fit_venn_abers(logits[:300], labels[:300])
    assert float(calibrator(logits).min()) > 1e-4
    after = float(metrics.nll(calibrator(logits[300:]), labels[300:]))
    before = float(metrics.nll(logits[300:].softmax(1), labels[300:]))
    assert after - before < 0.2


def test_many_classes_are_each_against_the_rest():
    generator = torch.Generator().manual_seed(1)
    logits = torch.randn(200, 3, generator=generator, dtype=torch.float64)
    labels = torch.multinomial(logits.softmax(dim=1), 1, generator=generator)[:, 0]
    calibrator = calibrators.fit_venn_abers(logits, labels)
    parts = []
    for k in range(3):
        others = logits[:, [j for j in range(3) if j != k]].logsumexp(dim=1)
        one = torch.stack([others, logits[:, k]], dim=1)
        parts.append(calibrators.fit_venn_abers(one, (labels == k).long())(one)[:, 1])
    wanted = torch.stack(parts, dim=1)
    torch.testing.assert_close(calibrator(logits), wanted / wanted.sum(dim=1, keepdim=True))


def test_predictors_of_masked_classes_are_saved_too():
    generator = torch.Generator().manual_seed(2)
    logits = torch.randn(60, 5, generator=generator)
    labels = torch.randint(1, 3, (60,), generator=generator)
    logits[:, [0, 3]] = -torch.inf
    calibrator, file = calibrators.fit_venn_abers(logits, labels), io.BytesIO()
    calibrators.save(calibrator, file)
    file.seek(0)
    assert torch.equal(calibrators.load(file)(logits), calibrator(logits))
