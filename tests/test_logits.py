"""Arithmetic on logits: masked classes, rivals of the label, and what is computed of them."""

import itertools
import math

import pytest
import torch

from advcal import _logits

MASKS = [-math.inf, -1e4, -1e30, -65504.0]


def example(n=30, n_classes=5, dtype=torch.float64):
    generator = torch.Generator().manual_seed(0)
    logits = 3 * torch.randn(n, n_classes, generator=generator, dtype=torch.float64)
    return logits.to(dtype), torch.randint(n_classes, (n,), generator=generator)


@pytest.mark.parametrize("mask", MASKS)
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float32, torch.float64])
def test_masked_classes_are_seen(mask, dtype):
    logits, _ = example(dtype=dtype)
    for scale, offset in itertools.product((0, 1, 20), (-100, 0, 100)):
        wide = torch.cat([scale * logits + offset, torch.full((30, 2), mask).to(dtype)], dim=1)
        assert torch.equal(_logits.masked(wide), (torch.arange(7) >= 5).expand(30, 7))
    # Added to logits, as some code does.
    assert _logits.masked(torch.cat([logits, logits + mask], dim=1))[:, 5:].all()


def test_what_is_not_masked():
    for row in ([5.0, -900.0, -4000.0], [2e4, 1e4, -1e5], [-3e3, -4e3, -9e3], [1e6, 0.0, -1e7]):
        assert not _logits.masked(torch.tensor([row])).any()
    # Two classes are left, unless all but one are at minus infinity.
    assert not _logits.masked(torch.tensor([[5.0, -1e30]])).any()
    assert _logits.masked(torch.tensor([[5.0, -math.inf]])).tolist() == [[False, True]]


def test_rivals_are_the_other_classes_in_order():
    logits, labels = example()
    for n in (1, 2, 4, 9):
        found = _logits.rivals(logits, labels, n)
        for row, label, wanted in zip(logits, labels, found, strict=True):
            order = [k for k in row.argsort(descending=True).tolist() if k != label]
            assert wanted.tolist() == order[:n]


@pytest.mark.parametrize("mask", [*MASKS, 0.0])
def test_the_label_is_never_its_own_rival(mask):
    for label, left in itertools.product(range(4), range(4)):
        logits = torch.full((1, 4), mask)
        logits[0, left] = logits[0, label] = 0.0
        found = _logits.rivals(logits, torch.tensor([label]), 3)[0].tolist()
        assert sorted([label, *found]) == [0, 1, 2, 3]
        assert found[0] == left or left == label or mask == 0


@pytest.mark.parametrize("mask", MASKS)
def test_what_is_computed_of_logits_is_as_if_masks_were_sliced_off(mask):
    logits, labels = example()
    other = logits.flip(0)
    results = []
    for beside in (0, 3):
        off = torch.full((30, beside), mask, dtype=torch.float64)
        z, w = (torch.cat([off, each], dim=1).requires_grad_() for each in (logits, other))
        y, log_p, log_q = labels + beside, z.log_softmax(dim=1), w.log_softmax(dim=1)
        values = [
            _logits.log_odds(z, y),
            _logits.divergence(log_p, log_q),
            _logits.entropy(log_p),
            _logits.log_mean_probs([z, w])[:, beside:].square().sum(dim=1),
            _logits.mean_of_unmasked(log_p, z),
            *[_logits.renyi(z, y, order) for order in (0.25, 1.0, 8.0)],
        ]
        gradients = [
            torch.autograd.grad(value.sum(), z, retain_graph=True)[0][:, beside:]
            for value in values
        ]
        results.append((torch.stack(values), torch.stack(gradients)))
    torch.testing.assert_close(*results)
    assert results[0][1].isfinite().all()


def test_the_mean_of_probabilities_has_a_gradient_beside_a_mask():
    """Of a class that no pass gives a probability, all derivatives are 0."""
    logits = torch.tensor([[1.0, 2.0, -math.inf]], requires_grad=True)
    mean = _logits.log_mean_probs([logits, 2 * logits])
    (gradient,) = torch.autograd.grad(_logits.log_odds(mean, torch.tensor([0])).sum(), logits)
    assert gradient.isfinite().all()
    assert gradient[0, :2].all()
    assert gradient[0, 2] == 0
