"""The margin of a prediction, in logits."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from advcal.losses import margin


def test_by_hand():
    logits = torch.tensor([[3.0, 1.0, 0.0], [3.0, 1.0, 0.0], [2.0, 2.0, 0.0], [-1.0, -5.0, -2.0]])
    labels = torch.tensor([0, 2, 1, 0])
    assert margin(logits, labels, reduction="none").tolist() == [-2, 3, 0, -1]
    assert margin(logits, labels, reduction="sum") == 0


@settings(max_examples=60, deadline=None, derandomize=True)
@given(st.integers(0, 10**6), st.integers(2, 8))
def test_positive_where_wrong_and_negative_where_right(seed, n_classes):
    generator = torch.Generator().manual_seed(seed)
    logits = torch.randn(9, n_classes, generator=generator)
    labels = torch.randint(n_classes, (9,), generator=generator)
    each = margin(logits, labels, reduction="none")
    assert torch.equal(each > 0, logits.argmax(dim=1) != labels)
    for row, label, value in zip(logits.tolist(), labels.tolist(), each.tolist(), strict=True):
        others = [z for k, z in enumerate(row) if k != label]
        assert value == pytest.approx(max(others) - row[label], abs=1e-5)


def test_gradient_touches_the_label_and_its_rival_only():
    logits = torch.tensor([[3.0, 1.0, 0.0]], requires_grad=True)
    (gradient,) = torch.autograd.grad(margin(logits, torch.tensor([0])), logits)
    assert gradient.tolist() == [[-1, 1, 0]]
