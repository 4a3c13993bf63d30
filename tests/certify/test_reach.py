"""Bounds of probabilities, and what follows from them."""

import itertools

import pytest
import torch

from advcal.certify import Reach
from advcal.certify._reach import tightened
from tests.certify.test_figures import drawn, members


def test_probabilities_sum_to_one_and_that_is_used():
    lower, upper = torch.tensor([[[0.5, 0.2, 0.0]], [[0.9, 0.3, 1.0]]]).double()
    low, high = tightened(lower, upper)
    torch.testing.assert_close(low, lower)
    torch.testing.assert_close(high, torch.tensor([[0.8, 0.3, 0.3]]).double())


def test_the_confidence_is_that_of_any_class():
    lower, upper = torch.tensor([[[0.1, 0.2, 0.0]], [[0.9, 0.5, 0.3]]]).double()
    low, high = Reach(lower, upper, torch.tensor([-1])).confidence
    assert (float(low), float(high)) == (pytest.approx(1 / 3), pytest.approx(0.9))


@pytest.mark.parametrize("temperature", [0.3, 1.0, 2.5])
def test_bounds_after_a_temperature_hold_and_are_attained(temperature):
    reach, _, probs = drawn(20, 3, 0.1)
    found = reach.tempered(temperature)
    for each in (probs, *members(reach, 40)):
        scaled = (each.log() / temperature).softmax(dim=1)
        assert (found.lower <= scaled + 1e-9).all()
        assert (scaled <= found.upper + 1e-9).all()
    corners = torch.stack(  # of the box, whether they sum to one or not
        [
            (torch.where(torch.tensor(ends), reach.upper, reach.lower).log() / temperature)
            for ends in itertools.product([True, False], repeat=3)
        ]
    ).softmax(dim=2)
    assert (found.lower >= corners.amin(dim=0) - 1e-9).all()
    assert (found.upper <= corners.amax(dim=0) + 1e-9).all()
    assert torch.equal(found.labels, reach.labels)


def test_a_temperature_of_bounds_at_zero_and_one():
    lower, upper = torch.tensor([[[0.0, 0.0]], [[1.0, 1.0]]]).double()
    found = Reach(lower, upper, torch.tensor([-1]), 0.1).tempered(0.5)
    assert found.lower.tolist() == [[0.0, 0.0]]
    assert found.upper.tolist() == [[1.0, 1.0]]
    assert found.alpha == 0.1
    point = torch.tensor([[1.0, 0.0]]).double()
    assert Reach(point, point, torch.tensor([0])).tempered(0.5).lower.tolist() == [[1.0, 0.0]]
    with pytest.raises(ValueError, match="temperature > 0"):
        Reach(lower, upper, torch.tensor([-1])).tempered(0)


def test_batches_are_put_one_after_the_other():
    generator = torch.Generator().manual_seed(0)
    lower = torch.rand(7, 3, generator=generator, dtype=torch.float64) / 3
    whole = Reach(lower, 1 - lower, torch.arange(7) % 3, 0.02)
    parts = [
        Reach(whole.lower[rows], whole.upper[rows], whole.labels[rows], alpha)
        for rows, alpha in ((slice(0, 4), 0.01), (slice(4, 7), 0.02))
    ]
    joined = Reach.joined(iter(parts))
    assert joined.alpha == whole.alpha
    for name in ("lower", "upper", "labels"):
        assert torch.equal(getattr(joined, name), getattr(whole, name))
    with pytest.raises(ValueError, match="one Reach or more"):
        Reach.joined([])
    two = Reach(lower[:, :2], lower[:, :2], whole.labels)
    with pytest.raises(ValueError, match=r"as many classes each, got \[2, 3\]"):
        Reach.joined([whole, two])
    with pytest.raises(TypeError, match="of Reach"):
        Reach.joined([lower])
