"""Tell two data sets apart by a score of a model."""

import json
from functools import partial

import numpy as np
import pytest
import torch
from sklearn.metrics import average_precision_score, roc_auc_score
from torch import nn

from advcal import metrics
from advcal.attacks import apgd, pgd, square, uca
from advcal.evaluation import detection
from tests.attacks.cases import delicate, state

RNG = np.random.default_rng(0)
WITHIN = torch.tensor(RNG.normal(size=(70, 4)) * 3)
OUTSIDE = torch.tensor(RNG.normal(size=(40, 4)))


def batches(points, size=16):
    return [(part, torch.zeros(len(part))) for part in points.split(size)]


SCORES = {
    "entropy": lambda z: -(z.softmax(1) * z.log_softmax(1)).sum(1),
    "confidence": lambda z: -z.softmax(1).amax(1),
    "energy": lambda z: -z.exp().sum(1).log(),
}


@pytest.mark.parametrize("score", SCORES)
def test_figures_are_scikit_learns(score):
    found = detection(nn.Identity(), batches(WITHIN), batches(OUTSIDE), score=score)
    wanted = SCORES[score](torch.cat([WITHIN, OUTSIDE]))
    torch.testing.assert_close(found.scores, wanted)
    assert found.labels.tolist() == [0] * 70 + [1] * 40
    assert found.auroc == pytest.approx(roc_auc_score(found.labels, wanted))
    assert found.aupr_out == pytest.approx(average_precision_score(found.labels, wanted))
    assert found.aupr_in == pytest.approx(average_precision_score(1 - found.labels, -wanted))
    kept = np.sort(wanted[:70].numpy())[int(np.ceil(0.95 * 70)) - 1]
    assert found.fpr95 == pytest.approx(float((wanted[70:] <= kept).double().mean()))
    plain = found.as_dict()
    assert json.loads(json.dumps(plain)) == plain
    assert (plain["n_in"], plain["n_out"], plain["auroc"]) == (70, 40, found.auroc)


def test_a_score_of_ones_own():
    found = detection(nn.Identity(), batches(WITHIN), batches(OUTSIDE), score=lambda z: z[:, 0])
    assert torch.equal(found.scores, torch.cat([WITHIN, OUTSIDE])[:, 0])


def test_sets_that_are_one():
    assert detection(nn.Identity(), batches(WITHIN), batches(WITHIN)).auroc == 0.5


def test_the_model_is_left_as_it_was():
    model = delicate()
    before = state(model)
    points = torch.rand(8, 1, 4, 4)
    seen = []
    detection(model, batches(points), batches(points), progress=lambda each: seen.append(1) or each)
    after = state(model)
    assert str(before) == str(after)
    assert len(seen) == 2


BAD = {
    "model": ({"model": 3}, TypeError, "model as a callable"),
    "in": ({"in_batches": 3}, TypeError, "batches as an iterable, got int"),
    "out": ({"out_batches": 3}, TypeError, "batches as an iterable, got int"),
    "none within": ({"in_batches": []}, ValueError, "one batch or more, got none"),
    "none outside": ({"out_batches": []}, ValueError, "one batch or more, got none"),
    "score": ({"score": "auroc"}, ValueError, "score to be one of 'entropy', .* got 'auroc'"),
    "shape": ({"score": lambda z: z}, ValueError, r"scores of shape \(16,\), got a tensor"),
    "NaN": ({"score": lambda z: z[:, 0] * torch.nan}, ValueError, "scores that are numbers, got"),
    "progress": ({"progress": 3}, TypeError, "progress as a callable, got int"),
}


@pytest.mark.parametrize("case", BAD)
def test_bad_arguments_are_refused(case):
    options, error, match = BAD[case]
    good = {
        "model": nn.Identity(),
        "in_batches": batches(WITHIN),
        "out_batches": batches(OUTSIDE),
    }
    with pytest.raises(error, match=f"expected {match}"):
        detection(**good | options)


# --- under attack ------------------------------------------------------------------------------

PGD = partial(pgd, eps=0.3, steps=10, bounds=(-20.0, 20.0), random_start=False)


@pytest.mark.parametrize("score", SCORES)
def test_an_attack_makes_every_score_worse_on_its_side(score):
    data = batches(WITHIN), batches(OUTSIDE)
    clean = detection(nn.Identity(), *data, score=score)
    found = {
        side: detection(nn.Identity(), *data, score=score, attack=PGD, side=side)
        for side in ("in", "out", "both")
    }
    raised, lowered, both = (found[side].scores for side in ("in", "out", "both"))
    assert torch.equal(raised[70:], clean.scores[70:])
    assert torch.equal(lowered[:70], clean.scores[:70])
    assert (raised[:70] >= clean.scores[:70]).all()
    assert (lowered[70:] <= clean.scores[70:]).all()
    assert (raised[:70] > clean.scores[:70]).double().mean() > 0.9
    assert torch.equal(both, torch.cat([raised[:70], lowered[70:]]))
    assert found["both"].auroc < min(found["in"].auroc, found["out"].auroc) < clean.auroc - 0.02
    assert found["in"].fpr95 == clean.fpr95  # the threshold is that of the clean ones
    assert found["out"].fpr95 >= clean.fpr95


def test_of_a_linear_score_the_attack_is_exact():
    def first(logits):
        return logits[:, 0]

    data = batches(WITHIN), batches(OUTSIDE)
    found = detection(nn.Identity(), *data, score=first, attack=PGD)
    wanted = torch.cat([WITHIN[:, 0] + 0.3, OUTSIDE[:, 0] - 0.3])
    torch.testing.assert_close(found.scores, wanted)


def test_saturated_scores_are_moved_too():
    def sure(inputs):
        return 60 * inputs

    points = torch.eye(4).double() * 3 + 0.1 * torch.rand(4, 4).double()
    found = detection(sure, batches(points), batches(OUTSIDE), score="confidence", attack=PGD)
    clean = detection(sure, batches(points), batches(OUTSIDE), score="confidence")
    assert clean.scores[:4].tolist() == [-1.0] * 4
    strong = partial(PGD, eps=2.0, steps=20)
    found = detection(sure, batches(points), batches(OUTSIDE), score="confidence", attack=strong)
    assert (found.scores[:4] > -0.9).all()


def test_any_attack_will_do_and_the_model_is_left_as_it_was():
    model = delicate()
    before = state(model)
    points = torch.rand(8, 1, 4, 4)
    clean = detection(model, batches(points), batches(points))
    for attack in (
        partial(uca, eps=0.1, steps=3),
        partial(square, eps=0.1, steps=10),
        partial(apgd, eps=0.1, steps=3),
    ):
        found = detection(model, batches(points), batches(points), attack=attack)
        assert found.auroc <= clean.auroc
    assert state(model) == before


def test_attacks_on_other_scores_count_too():
    data = batches(WITHIN), batches(OUTSIDE)
    weak = partial(PGD, steps=1, step_size=0.05)
    for score in SCORES:
        others = [name for name in SCORES if name != score]
        alone = detection(nn.Identity(), *data, score=score, attack=weak)
        found = detection(nn.Identity(), *data, score=score, attack=weak, others=others)
        assert (found.scores[:70] >= alone.scores[:70]).all()
        assert (found.scores[70:] <= alone.scores[70:]).all()
        assert found.auroc <= alone.auroc
    blind = detection(nn.Identity(), *data, score=lambda z: z[:, 0].round(), attack=PGD)
    seen = detection(
        nn.Identity(),
        *data,
        score=lambda z: z[:, 0].round(),
        attack=PGD,
        others=[lambda z: z[:, 0]],
    )
    assert seen.auroc < blind.auroc  # a step has no gradient


def test_scores_of_features_and_of_ensembles():
    torch.manual_seed(0)
    members = [nn.Linear(4, 3).double() for _ in range(3)]
    model = nn.Sequential(nn.Linear(4, 6), nn.Tanh(), nn.Linear(6, 4)).double()
    middle = model[:2](WITHIN).mean(dim=0).detach()

    def distance(features):
        return (features - middle).square().sum(dim=1)

    def entropy(probs):
        return -(probs * probs.log()).sum(dim=-1)

    def disagreement(logits):
        probs = logits.unflatten(1, (3, 3)).softmax(dim=2)
        return entropy(probs.mean(dim=1)) - entropy(probs).mean(dim=1)

    def ensemble(points):
        return torch.cat([member(points) for member in members], dim=1)

    for network, score in ((model[:2], distance), (ensemble, disagreement)):
        data = batches(WITHIN), batches(OUTSIDE)
        clean = detection(network, *data, score=score)
        with torch.no_grad():
            expected = score(network(WITHIN)).double()
        torch.testing.assert_close(clean.scores[: len(WITHIN)], expected)
        assert detection(network, *data, score=score, attack=PGD).auroc < clean.auroc


def test_bad_attacks_are_named():
    with pytest.raises(TypeError, match="attack"):
        detection(nn.Identity(), batches(WITHIN), batches(OUTSIDE), attack=3)
    with pytest.raises(ValueError, match="others to be one of"):
        detection(nn.Identity(), batches(WITHIN), batches(OUTSIDE), others=["max"])
    with pytest.raises(ValueError, match="side to be one of"):
        detection(nn.Identity(), batches(WITHIN), batches(OUTSIDE), side="left")


def test_confidences_that_rounding_takes_to_one_are_told_apart():
    gaps = torch.linspace(40, 400, 60).double()
    logits = torch.stack([gaps, torch.zeros(60)], dim=1)
    found = detection(nn.Identity(), batches(logits[30:]), batches(logits[:30]), score="confidence")
    assert found.auroc == 1
    assert found.fpr95 == 0
    assert (found.scores == -1).all()
    masked = torch.cat([logits, torch.full((60, 1), -torch.inf)], dim=1)
    certain = masked.index_fill(1, torch.tensor([1]), -torch.inf)
    found = detection(nn.Identity(), batches(certain), batches(masked), score="confidence")
    assert found.auroc == 1


@pytest.mark.parametrize("score", SCORES)
def test_every_figure_has_an_interval(score):
    found = detection(nn.Identity(), batches(WITHIN), batches(OUTSIDE), score=score)
    assert set(found.intervals) == {"auroc", "aupr_in", "aupr_out", "fpr95"}
    for name, (low, high) in found.intervals.items():
        assert low <= getattr(found, name) <= high
        assert low < high
    around = metrics.detection_interval(found.scores, found.labels)
    assert found.intervals["auroc"] == pytest.approx((float(around.low), float(around.high)))
