"""Models of one logit: two columns of the same decisions, probabilities and gradients."""

from functools import partial

import pytest
import torch
from torch import nn
from torch.nn.functional import binary_cross_entropy_with_logits

from advcal import attacks, evaluation, trainers
from advcal.attacks import two_columns
from tests.attacks.cases import delicate, examples, state

INPUTS, _ = examples(8)


def one(flat=False, seed=0):
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        layers = [nn.Flatten(), nn.Linear(16, 1)]
        return nn.Sequential(*layers, *[nn.Flatten(0)] * flat)


@pytest.mark.parametrize("flat", [False, True])
def test_decisions_probabilities_and_gradients_are_the_same(flat):
    model = one(flat)
    logit = model(INPUTS).reshape(-1)
    logits = two_columns(model)(INPUTS)
    assert logits.shape == (8, 2)
    torch.testing.assert_close(logits.softmax(dim=1)[:, 1], logit.sigmoid())
    assert torch.equal(logits.argmax(dim=1) == 1, logit > 0)
    labels = torch.arange(8) % 2
    wanted = torch.autograd.grad(
        binary_cross_entropy_with_logits(logit, labels.float()), model[1].weight
    )
    found = torch.autograd.grad(nn.functional.cross_entropy(logits, labels), model[1].weight)
    torch.testing.assert_close(found, wanted)


def test_a_model_of_one_logit_is_attacked_evaluated_and_trained():
    inner = one()
    model, labels = two_columns(inner), (inner(INPUTS).reshape(-1) > 0).long()
    with pytest.raises(ValueError, match=r"attacks\.two_columns\(model\)"):
        attacks.pgd(inner, INPUTS, labels, eps=0.1)
    found = attacks.fgsm(model, INPUTS, labels, eps=0.1)
    sign = inner[1].weight.sign().reshape(1, 1, 4, 4) * (1 - 2 * labels).reshape(-1, 1, 1, 1)
    assert torch.equal(found, (INPUTS + 0.1 * sign).clamp(0, 1)) or torch.allclose(
        found, (INPUTS + 0.1 * sign).clamp(0, 1), atol=1e-6
    )
    record = evaluation.evaluate(model, [(INPUTS, labels)], partial(attacks.pgd, eps=0.5))
    assert record.accuracy < 1
    objective = trainers.standard()
    objective(model, (INPUTS, labels)).backward()
    assert inner[1].weight.grad is not None


def test_it_holds_the_model():
    inner = delicate()
    head = lambda x: inner(x)[:, 0]  # noqa: E731
    model = two_columns(inner)
    before = state(inner)
    with pytest.raises(ValueError, match=r"one logit each, of shape \(3,\) .*, got .*\(3, 3\)"):
        attacks.pgd(model, *examples(), eps=0.1)
    assert state(inner) == before
    assert {*model.parameters()} == {*inner.parameters()}
    assert model.training
    assert not model.eval().training
    assert not inner.training
    assert "lambda" in repr(two_columns(head))


def test_what_is_no_model_is_refused():
    with pytest.raises(TypeError, match="expected model as a callable, got int"):
        two_columns(3)
    with pytest.raises(TypeError, match="a tensor of logits, got tuple"):
        two_columns(lambda x: (x,))(INPUTS)
