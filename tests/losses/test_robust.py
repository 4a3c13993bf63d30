"""The losses of TRADES and MART, by their formulas."""

import numpy as np
import pytest
import torch
from scipy.special import log_softmax, rel_entr, softmax
from torch.nn.functional import cross_entropy
from torch.testing import assert_close

from advcal.losses import mart, trades


def draw(seed, n=30, n_classes=4, scale=3.0):
    generator = torch.Generator().manual_seed(seed)
    return scale * torch.randn(n, n_classes, generator=generator, dtype=torch.float64)


LOGITS, ATTACKED = draw(0), draw(1)
LABELS = torch.arange(30) % 4
P, Q = (softmax(each.numpy(), axis=1) for each in (LOGITS, ATTACKED))
KL = torch.tensor(rel_entr(P, Q).sum(axis=1))
ROWS = np.arange(30)


@pytest.mark.parametrize("beta", [0, 1.0, 6.0])
def test_trades_by_its_formula(beta):
    wanted = cross_entropy(LOGITS, LABELS, reduction="none") + beta * KL
    found = trades(LOGITS, LABELS, attacked=ATTACKED, beta=beta, reduction="none")
    assert_close(found, wanted)


@pytest.mark.parametrize("lam", [0, 1.0, 5.0])
def test_mart_by_its_formula(lam):
    rivals = Q.copy()
    rivals[ROWS, LABELS] = 0
    boosted = -log_softmax(ATTACKED.numpy(), axis=1)[ROWS, LABELS] - np.log(
        1.0001 - rivals.max(axis=1)
    )
    wanted = torch.tensor(boosted + lam * KL.numpy() * (1 - P[ROWS, LABELS]))
    found = mart(LOGITS, LABELS, attacked=ATTACKED, lam=lam, reduction="none")
    assert_close(found, wanted)


def test_defaults():
    given = {"attacked": ATTACKED}
    assert trades(LOGITS, LABELS, **given) == trades(LOGITS, LABELS, beta=6, **given)
    assert mart(LOGITS, LABELS, **given) == mart(LOGITS, LABELS, lam=5, **given)


@pytest.mark.parametrize("loss", [trades, mart])
def test_gradients_run_through_both_sides(loss):
    logits, attacked = LOGITS[:5].clone().requires_grad_(), ATTACKED[:5].clone().requires_grad_()
    torch.autograd.gradcheck(lambda z, a: loss(z, LABELS[:5], attacked=a), (logits, attacked))
    value = loss(logits, LABELS[:5], attacked=attacked)
    for gradient in torch.autograd.grad(value, (logits, attacked)):
        assert gradient.abs().max() > 1e-3


@pytest.mark.parametrize("loss", [trades, mart])
def test_the_divergence_is_finite_between_sure_and_opposite_predictions(loss):
    logits = torch.tensor([[1e4, -1e4, 0.0]], requires_grad=True)
    attacked = torch.tensor([[-1e4, 1e4, 0.0]], requires_grad=True)
    value = loss(logits, torch.tensor([0]), attacked=attacked, reduction="none")
    gradients = torch.autograd.grad(value.sum(), (logits, attacked))
    assert value.isfinite().all()
    assert all(gradient.isfinite().all() for gradient in gradients)


def test_in_half_precision_a_certain_mistake_has_a_finite_loss():
    attacked = torch.tensor([[0.0, 60.0]], dtype=torch.float16)
    value = mart(attacked, torch.tensor([0]), attacked=attacked)
    assert float(value) == pytest.approx(60 - np.log(1e-4), rel=1e-3)


BAD = {
    "none": (None, TypeError, "attacked as a torch.Tensor, got None"),
    "array": (ATTACKED.numpy(), TypeError, "attacked as a torch.Tensor, got an array"),
    "integers": (ATTACKED.long(), TypeError, "attacked of a floating dtype, got .*int64"),
    "shape": (ATTACKED[1:], ValueError, r"attacked of shape \(30, 4\) .*got .*\(29, 4\)"),
    "device": (ATTACKED.to("meta"), ValueError, "attacked (on cpu|with data), got"),
}


@pytest.mark.parametrize("loss", [trades, mart])
@pytest.mark.parametrize("case", BAD)
def test_bad_attacked_logits_are_refused(loss, case):
    attacked, error, match = BAD[case]
    with pytest.raises(error, match=f"expected {match}"):
        loss(LOGITS, LABELS, attacked=attacked)


@pytest.mark.parametrize(("loss", "name"), [(trades, "beta"), (mart, "lam")])
@pytest.mark.parametrize("value", [-1, np.nan, np.inf, "6", True, None])
def test_bad_weights_are_refused(loss, name, value):
    with pytest.raises((TypeError, ValueError), match=f"expected {name} .*got"):
        loss(LOGITS, LABELS, attacked=ATTACKED, **{name: value})
