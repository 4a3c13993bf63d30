"""Tell two data sets apart by a score of a model."""

import json

import numpy as np
import pytest
import torch
from sklearn.metrics import average_precision_score, roc_auc_score
from torch import nn

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
