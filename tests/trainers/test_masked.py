"""Masked classes: every objective gives what it gives with these classes sliced off."""

import math

import pytest
import torch
from torch import nn

from advcal import losses, trainers
from tests.trainers.test_objectives import MAKERS, OBJECTIVES

MASKS = [-math.inf, -1e4, -1e30, torch.finfo(torch.float32).min]
OFF = torch.tensor([False, True, False, False, True, True])
KEPT = (~OFF).nonzero()[:, 0]
# Torch's label smoothing gives probability to all classes, as its user asks of it.
NAMES = sorted(set(OBJECTIVES) - {"smoothed"})


class Masked(nn.Module):
    """Six classes; three of them are masked, or with None sliced off."""

    def __init__(self, mask):
        super().__init__()
        torch.manual_seed(0)
        self.layers = nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 6))
        self.mask = mask

    def forward(self, inputs):
        logits = self.layers(inputs)
        return logits[:, KEPT] if self.mask is None else logits.masked_fill(OFF, self.mask)


def loss_and_gradients(objective, mask, n=9):
    model = Masked(mask)
    inputs, labels = torch.rand(n, 4), torch.randint(len(KEPT), (n,))
    labels = labels if mask is None else KEPT[labels]
    torch.manual_seed(1)
    loss = objective(model, (inputs, labels, torch.arange(n)))
    loss.backward()
    return loss.detach(), *(each.grad for each in model.parameters())


def assert_same(got, wanted):
    assert all(each.isfinite().all() for each in wanted)
    torch.testing.assert_close(got, wanted, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("mask", MASKS)
@pytest.mark.parametrize("name", NAMES)
def test_objectives(name, mask):
    wanted = loss_and_gradients(MAKERS[name](), None)
    assert_same(loss_and_gradients(MAKERS[name](), mask), wanted)


def smoothing(n_classes, n_levels, probs):
    torch.manual_seed(2)
    splits = []
    for _ in range(2):
        labels = torch.arange(9) % len(KEPT)
        labels = labels if n_classes == len(KEPT) else KEPT[labels]
        splits.append([(torch.rand(9, 4), labels, torch.arange(9))])
    made = trainers.adaptive_smoothing(*splits, n_classes, n_levels=n_levels)
    made.rank_by(torch.arange(9.0), torch.arange(9.0))
    made.load_state_dict(made.state_dict() | {"label_probs": torch.tensor(probs)})
    return made


@pytest.mark.parametrize("mask", MASKS)
@pytest.mark.parametrize("probs", [[1.0], [0.75], [1.0, 0.75, 0.5]], ids=str)
def test_adaptive_smoothing(probs, mask):
    sliced, masked = (smoothing(k, len(probs), probs) for k in (len(KEPT), len(OFF)))
    wanted = loss_and_gradients(sliced, None)
    assert_same(loss_and_gradients(masked, mask), wanted)
    assert_same(masked.update(Masked(mask)), sliced.update(Masked(None)))
    assert_same(masked.state.label_probs, sliced.state.label_probs)


@pytest.mark.parametrize("mask", MASKS)
@pytest.mark.parametrize("smooth", [0.0, 0.3, 1.2, torch.linspace(0, 1.2, 9)], ids=str)
def test_soft_labels(smooth, mask):
    labels = torch.arange(9) % len(KEPT)
    targets = losses.smooth_labels(KEPT[labels], len(OFF), smooth, Masked(mask)(torch.rand(9, 4)))
    assert (targets[:, OFF] == 0).all()
    assert_same(targets[:, KEPT], losses.smooth_labels(labels, len(KEPT), smooth))


def test_the_label_has_what_it_should_whatever_is_masked():
    logits = torch.zeros(5, 5)
    for i in range(5):
        logits[i, :i] = -math.inf
    state = losses.adaptive_smoothing(5, step_size=0.7).update(1.0, 0.0)
    targets = state.targets(torch.full((5,), 4), logits=logits)
    wanted = [[0.175] * 4 + [0.3], *([0] * i + [1 / (5 - i)] * (5 - i) for i in range(1, 5))]
    wanted[1] = [0, *[0.7 / 3] * 3, 0.3]
    torch.testing.assert_close(targets, torch.tensor(wanted))


@pytest.mark.parametrize("logits", [torch.zeros(3, 5), torch.zeros(2, 6), [[0.0] * 6] * 3])
def test_logits_of_another_shape(logits):
    with pytest.raises(ValueError, match=r"expected logits of shape \(3, 6\), got"):
        losses.smooth_labels(torch.arange(3), 6, 0.1, logits)
    with pytest.raises(ValueError, match=r"expected logits of shape \(3, 6\), got"):
        losses.adaptive_smoothing(6).targets(torch.arange(3), logits=logits)
