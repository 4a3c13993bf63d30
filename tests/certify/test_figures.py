"""Figures that no attack passes: brute force, closed forms, and what random attacks reach."""

import dataclasses
import itertools

import numpy as np
import pytest
import torch

from advcal import metrics
from advcal.certify import CertifiedFigures, Reach, figures
from advcal.certify._binomial import most_failures
from advcal.certify._ece import Outcomes, greatest_ece
from tests.certify.cases import seeded


def drawn(n, n_classes=3, width=0.1, seed=0):
    """Random boxes that hold random probabilities, and labels."""
    generator = seeded(seed)
    logits = 2 * torch.randn(n, n_classes, generator=generator, dtype=torch.float64)
    probs = logits.softmax(dim=1)
    reach = width * torch.rand(2, n, n_classes, generator=generator, dtype=torch.float64)
    labels = torch.multinomial(probs, 1, generator=generator)[:, 0]
    lower, upper = (probs - reach[0]).clamp(0, 1), (probs + reach[1]).clamp(0, 1)
    return Reach(lower, upper, torch.full((n,), -1)), labels, probs


def members(reach, n, seed=0):
    """Yield probabilities in the boxes: mixtures of corners that sum to one."""
    generator = seeded(seed)
    for _ in range(n):
        mix = torch.rand(reach.lower.shape, generator=generator, dtype=torch.float64)
        mix = (10 * mix - 5).sigmoid().round(decimals=0) if torch.rand(1).item() < 0.5 else mix
        p = reach.lower + mix * (reach.upper - reach.lower)
        for _ in range(100):  # to the simplex, along the room that there is
            off = 1 - p.sum(dim=1, keepdim=True)
            room = torch.where(off > 0, reach.upper - p, p - reach.lower)
            share = room / room.sum(dim=1, keepdim=True).clamp_min(1e-300)
            p = (p + share * off).clamp(reach.lower, reach.upper)
        yield p / p.sum(dim=1, keepdim=True)


def check(found, probs, labels):
    slack = 1e-9
    one_hot = torch.nn.functional.one_hot(labels, probs.shape[1])
    confidence, predicted = probs.max(dim=1)
    right = (predicted == labels).double()
    assert found.accuracy_low - slack <= right.mean() <= found.accuracy_high + slack
    mcs = float(metrics.mcs(probs, labels))
    assert found.mcs_low - slack <= mcs <= found.mcs_high + slack
    ece = float(metrics.ece(probs, labels))
    assert found.ece_low - slack <= ece <= found.ece_high + slack
    assert ((probs - one_hot) ** 2).sum(dim=1).mean() <= found.brier_high + slack
    assert ((right - confidence) ** 2).mean() <= found.top_brier_high + slack
    assert float(metrics.nll(probs, labels)) <= found.nll_high + slack


@pytest.mark.parametrize("width", [0.01, 0.1, 0.6])
@pytest.mark.parametrize("n_classes", [2, 3, 10])
def test_nothing_in_the_boxes_passes(width, n_classes):
    reach, labels, probs = drawn(30, n_classes, width)
    found = figures(reach, labels)
    check(found, probs, labels)
    for each in members(reach, 40):
        check(found, each, labels)
    assert found.delta == found.failures == found.nll_delta == 0


def test_boxes_of_no_width_give_the_figures_themselves():
    reach, labels, probs = drawn(200, width=0.0)
    found = figures(reach, labels)
    check(found, probs, labels)
    right = float(metrics.accuracy(probs, labels))
    assert found.accuracy_low == found.accuracy_high == pytest.approx(right)
    assert found.mcs_low == pytest.approx(found.mcs_high)
    assert found.ece_high == pytest.approx(float(metrics.ece(probs, labels)), abs=1e-12)
    assert found.brier_high == pytest.approx(float(metrics.brier(probs, labels)))
    assert found.nll_high == pytest.approx(float(metrics.nll(probs, labels)))


def brute_force(outcomes, edges):
    """Try every bin and outcome of every example, at the ends of the bin and the interval."""
    choices = []
    for possible, low, high in zip(*outcomes, strict=True):
        own = []
        for right, may, top in zip((1, 0), possible, high, strict=True):
            for b, (left, end) in enumerate(itertools.pairwise(edges)):
                if may and top > left and low <= end:
                    own += [(b, right - max(low, left)), (b, right - min(top, end))]
        choices.append(own)
    best = 0.0
    for picked in itertools.product(*choices):
        sums = np.zeros(len(edges) - 1)
        for b, gap in picked:
            sums[b] += gap
        best = max(best, float(np.abs(sums).sum()))
    return best / len(choices)


@pytest.mark.parametrize("seed", range(12))
def test_the_greatest_ece_is_that_of_brute_force(seed):
    rng = np.random.default_rng(seed)
    low = rng.uniform(0.2, 0.9, 5)
    high = np.minimum(low[:, None] + rng.uniform(0, 0.6, (5, 2)), 1.0)
    possible = rng.random((5, 2)) < 0.6
    possible[~possible.any(axis=1), 0] = True
    outcomes, edges = Outcomes(possible, low, high), np.linspace(0, 1, 4)
    assert greatest_ece(outcomes, edges) == pytest.approx(brute_force(outcomes, edges), abs=1e-9)


def test_the_figures_agree_on_many_examples():
    reach, labels, _ = drawn(3000, 10, 0.1)
    found = figures(reach, labels)
    coarse = figures(reach, labels, n_bins=1)
    assert coarse.ece_high == pytest.approx(max(coarse.mcs_high, -coarse.mcs_low))
    assert found.ece_high > coarse.ece_high
    assert found.mcs_high == coarse.mcs_high


def test_a_certain_label_has_one_outcome():
    lower, upper = torch.tensor([[[0.4, 0.3]], [[0.7, 0.6]]]).double()
    for certain, accuracies in ((-1, (0, 1)), (0, (1, 1)), (1, (0, 0))):
        found = figures(Reach(lower, upper, torch.tensor([certain])), torch.tensor([0]))
        assert (found.accuracy_low, found.accuracy_high) == accuracies
    # Emde et al.: right with a confidence from l to u costs (1 - l)^2 at most, wrong u^2.
    found = figures(Reach(lower, upper, torch.tensor([0])), torch.tensor([0]))
    assert found.top_brier_high == pytest.approx(0.5**2)
    found = figures(Reach(lower, upper, torch.tensor([1])), torch.tensor([0]))
    assert found.top_brier_high == pytest.approx(0.6**2)


def test_the_brier_score_is_exact_where_the_others_may_vanish():
    lower = torch.tensor([[0.5, 0.0, 0.0]]).double()
    upper = torch.tensor([[1.0, 0.4, 0.3]]).double()
    found = figures(Reach(lower, upper, torch.tensor([-1])), torch.tensor([0]))
    assert found.brier_high == pytest.approx(0.5**2 + 0.4**2 + 0.1 * 0.3)  # chord of p^2 on [0, .3]
    assert found.brier_high >= 0.5**2 + 0.4**2 + 0.1**2


def test_bounds_that_may_fail_cost_a_little():
    reach, labels, _ = drawn(1000, 3, 0.05)
    sure = figures(reach, labels)
    found = figures(dataclasses.replace(reach, alpha=1e-3), labels, delta=1e-3)
    assert found.failures == most_failures(1000, 1e-3, 1e-3) == 5
    assert found.accuracy_low == pytest.approx(sure.accuracy_low - 0.005)
    assert found.accuracy_high == pytest.approx(sure.accuracy_high + 0.005)
    assert found.ece_high == pytest.approx(sure.ece_high + 0.01)
    assert found.mcs_low == pytest.approx(sure.mcs_low - 0.01)
    assert found.brier_high == pytest.approx(sure.brier_high + 0.01)
    assert found.top_brier_high == pytest.approx(sure.top_brier_high + 0.005)
    assert (found.delta, found.nll_delta) == (1e-3, 1.0)


def test_as_many_wrong_examples_as_allowed_for_pass_nothing():
    reach, labels, probs = drawn(1000, 3, 0.02)
    found = figures(dataclasses.replace(reach, alpha=1e-3), labels)
    for kind in (0, 1):
        broken = probs.clone()
        rows = torch.arange(found.failures)
        broken[rows] = 0.0
        target = labels[rows] if kind else (labels[rows] + 1) % 3
        broken[rows, target] = 1.0
        right = (broken.argmax(dim=1) == labels).double().mean()
        assert found.accuracy_low <= right <= found.accuracy_high
        assert float(metrics.ece(broken, labels)) <= found.ece_high
        assert found.mcs_low <= float(metrics.mcs(broken, labels)) <= found.mcs_high
        assert float(metrics.brier(broken, labels)) <= found.brier_high


def test_bounds_that_contradict_each_other_say_nothing():
    lower, upper = torch.tensor([[[0.9, 0.3]], [[0.6, 0.2]]]).double()
    found = figures(Reach(lower, upper, torch.tensor([-1])), torch.tensor([0]))
    assert (found.accuracy_low, found.accuracy_high) == (0, 1)
    assert found.ece_high == 1


def test_results_are_plain_and_errors_named():
    reach, labels, _ = drawn(5)
    found = figures(reach, labels)
    assert isinstance(found, CertifiedFigures)
    assert all(type(value) in (int, float) for value in dataclasses.astuple(found))
    with pytest.raises(ValueError, match="n_bins <= 16"):
        figures(reach, labels, n_bins=17)
    with pytest.raises(TypeError, match="reach as Reach"):
        figures(reach.lower, labels)
    with pytest.raises(ValueError, match="labels"):
        figures(reach, labels + 3)
    with pytest.raises(ValueError, match="delta > 0"):
        figures(reach, labels, delta=0)
