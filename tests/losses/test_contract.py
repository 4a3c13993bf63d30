"""What holds for every loss `(logits, labels) -> loss`, one table over all of them."""

import inspect
from functools import partial, wraps

import numpy as np
import pytest
import torch

from advcal import losses

LOSSES = [
    *["confidence_penalty", "dlr", "flsd53", "focal", "inverse_adversarial", "label_relaxation"],
    *["margin", "mart", "mbls", "trades"],
]
NO_LOSSES = ["Loss", "SmoothingState", "adaptive_smoothing", "smooth_labels"]


def beside_attacked(loss):
    """Give a loss of two predictions the logits of other classes as those of attacked inputs."""

    @wraps(loss)
    def of_one(logits, labels, **options):
        good = isinstance(logits, torch.Tensor) and logits.ndim == 2
        good = good and logits.is_floating_point() and logits.dtype.itemsize > 1
        attacked = 0.7 * logits.roll(1, dims=1) if good else logits
        return loss(logits, labels, attacked=attacked, **options)

    return of_one


OF_TWO = {name: beside_attacked(getattr(losses, name)) for name in ("mart", "trades")}
every_loss = pytest.mark.parametrize(
    "loss", [OF_TWO.get(name, getattr(losses, name)) for name in LOSSES], ids=LOSSES
)


def example(n=6, n_classes=4, dtype=torch.float64):
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(n, n_classes, generator=generator, dtype=torch.float64) * 3
    return logits.to(dtype), torch.randint(n_classes, (n,), generator=generator)


def test_every_loss_is_here():
    assert sorted(LOSSES + NO_LOSSES) == sorted(losses.__all__)
    for name in LOSSES:
        parameters = inspect.signature(getattr(losses, name)).parameters
        assert list(parameters)[:2] == ["logits", "labels"]
        assert parameters["reduction"].default == "mean"
        assert parameters["reduction"].kind is inspect.Parameter.KEYWORD_ONLY


@every_loss
@pytest.mark.parametrize("reduction", ["none", "mean", "sum"])
def test_gradients(loss, reduction):
    logits, labels = example()
    torch.autograd.gradcheck(
        lambda z: loss(z, labels, reduction=reduction), logits.requires_grad_()
    )


@every_loss
def test_second_derivatives_exist(loss):
    logits, labels = example()
    torch.autograd.gradgradcheck(lambda z: loss(z, labels), logits.requires_grad_())


@every_loss
def test_reductions_agree(loss):
    logits, labels = example()
    each = loss(logits, labels, reduction="none")
    assert each.shape == (6,)
    torch.testing.assert_close(loss(logits, labels, reduction="sum"), each.sum())
    torch.testing.assert_close(loss(logits, labels, reduction="mean"), each.mean())
    torch.testing.assert_close(loss(logits, labels), each.mean())


@every_loss
def test_each_example_alone(loss):
    logits, labels = example()
    each = loss(logits, labels, reduction="none")
    for i in range(len(labels)):
        torch.testing.assert_close(loss(logits[i : i + 1], labels[i : i + 1]), each[i])


@every_loss
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
def test_the_dtype_is_that_of_the_logits(loss, dtype):
    logits, labels = example(dtype=dtype)
    value = loss(logits, labels)
    assert value.dtype == dtype
    assert float(value) == pytest.approx(float(loss(logits.double(), labels)), rel=3e-2)


@every_loss
@pytest.mark.parametrize("dtype", [torch.uint8, torch.int8, torch.int16, torch.int32])
def test_every_integer_dtype_of_labels(loss, dtype):
    logits, labels = example()
    assert loss(logits, labels.to(dtype)) == loss(logits, labels)


@every_loss
def test_inputs_are_not_modified(loss):
    logits, labels = example()
    before = logits.clone(), labels.clone()
    loss(logits, labels)
    torch.testing.assert_close((logits, labels), before, rtol=0, atol=0)


@every_loss
def test_a_constant_on_all_logits_does_not_matter(loss):
    logits, labels = example()
    torch.testing.assert_close(loss(logits + 5, labels), loss(logits, labels))


@every_loss
def test_large_logits_stay_finite(loss):
    logits, labels = example(dtype=torch.float32)
    logits = (logits * 1e4).requires_grad_()
    value = loss(logits, labels)
    assert value.isfinite()
    assert torch.autograd.grad(value, logits)[0].isfinite().all()


@every_loss
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
def test_saturated_logits_have_finite_gradients(loss, dtype):
    corners = torch.cartesian_prod(*[torch.tensor([-1e4, 0.0, 1e4], dtype=dtype)] * 3)
    for label in range(3):
        logits = corners.clone().requires_grad_()
        each = loss(logits, torch.full((27,), label), reduction="none")
        (gradient,) = torch.autograd.grad(each.sum(), logits)
        assert gradient.isfinite().all()
        assert each.isfinite().all() or dtype == torch.float16  # whose largest number is 65504


MASKS = [-torch.inf, -1e4, -1e30, torch.finfo(torch.float32).min]


def with_masks(logits, mask, at):
    """Put masked classes at the places `at`; return where the others are, too."""
    wide = torch.full((len(logits), logits.shape[1] + len(at)), mask, dtype=logits.dtype)
    others = torch.tensor([k for k in range(wide.shape[1]) if k not in at])
    return wide.index_copy(1, others, logits), others


@pytest.mark.parametrize("name", LOSSES)
@pytest.mark.parametrize("mask", MASKS)
@pytest.mark.parametrize("at", [(0,), (2, 5), (0, 1, 2, 5, 7)])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_masked_classes_are_as_if_sliced_off(name, mask, at, dtype):
    loss = getattr(losses, name)
    logits, labels = example(40, dtype=dtype)
    logits[:4] *= 30  # as of a model that is sure of itself
    attacked = example(40, dtype=dtype)[0].flip(0)
    options = [{"attacked": attacked}] if name in OF_TWO else [{}]
    options += [{"targets": (labels + 1) % 4}] if name == "dlr" else []
    for each in options:
        results = []
        for mask_at in ((), at):
            z, others = with_masks(logits, mask, mask_at)
            z.requires_grad_()
            given = dict(each)
            if name in OF_TWO:
                given["attacked"] = with_masks(attacked, mask, mask_at)[0]
            if given.get("targets") is not None:
                given["targets"] = others[given["targets"]]
            values = loss(z, others[labels], reduction="none", **given)
            (gradient,) = torch.autograd.grad(values.sum(), z)
            assert not gradient[:, list(mask_at)].any()
            results.append((values.detach(), gradient[:, others]))
        torch.testing.assert_close(results[1], results[0])


@every_loss
@pytest.mark.parametrize("mask", MASKS)
def test_the_masks_of_one_example_are_not_those_of_another(loss, mask):
    logits, labels = example(4, 6)
    labels[:] = 5
    for i in range(4):
        logits[i, : i + 1] = mask
    if loss in OF_TWO.values():
        loss = partial(getattr(losses, loss.__name__), attacked=logits.clone())
    if loss is losses.dlr:
        logits = logits[:3]  # the last has two classes left, which are too few
    each = loss(logits, labels[: len(logits)], reduction="none")
    for i in range(len(logits)):
        z, y = logits[i : i + 1, i + 1 :], torch.tensor([4 - i])
        alone = partial(loss.func, attacked=z.clone()) if isinstance(loss, partial) else loss
        torch.testing.assert_close(alone(z, y, reduction="none"), each[i : i + 1])


@every_loss
@pytest.mark.parametrize("n_classes", [2, 4])
def test_nothing_pulls_at_a_label_that_is_the_only_class_left(loss, n_classes):
    if loss is losses.dlr or loss is losses.margin:
        return  # they compare it with another
    logits = torch.full((2, n_classes), -torch.inf)
    logits[:, 1] = torch.tensor([3.0, -3.0])
    logits.requires_grad_()
    if loss in OF_TWO.values():
        loss = partial(getattr(losses, loss.__name__), attacked=logits)
    for option in ({}, {"gamma": 0.0}):
        if option and loss is not losses.focal:
            continue
        value = loss(logits, torch.tensor([1, 1]), reduction="none", **option)
        (gradient,) = torch.autograd.grad(value.sum(), logits)
        assert value.abs().max() <= 1.1e-4  # of mart, whose logarithm is of 1.0001
        assert gradient.abs().max() == 0


def test_dlr_with_too_few_classes_left_is_the_bare_difference():
    for mask in MASKS:
        logits = torch.tensor([[1.0, 3.0, mask, mask]], requires_grad=True)
        for targets in (None, torch.tensor([1])):
            loss = losses.dlr(logits, torch.tensor([0]), targets=targets)
            (gradient,) = torch.autograd.grad(loss, logits)
            assert float(loss.detach()) == 2
            assert gradient.tolist() == [[-1, 1, 0, 0]]


def test_a_saturated_model_has_no_masks():
    """However far the logits are apart, if they are far from 0 at both ends."""
    for scale in (1e3, 1e4, 1e6, 1e12):
        logits, labels = scale * torch.tensor([[1.0, 0.0, -3.0]]).double(), torch.tensor([0])
        assert float(losses.inverse_adversarial(logits, labels, lam=3.0)) == 5 * scale
    distances = -torch.tensor([[3000.0, 3500.0, 9000.0, 40_000.0]])  # log-likelihoods, say
    assert float(losses.mbls(distances, torch.tensor([0]), alpha=4.0)) > 43_000


GOOD = torch.zeros(2, 3)
LABELS = torch.tensor([0, 2])
BAD = {
    "list": (GOOD.tolist(), LABELS, TypeError, "logits as a torch.Tensor, got list"),
    "array": (GOOD.numpy(), LABELS, TypeError, "logits as a torch.Tensor, got an array"),
    "integer logits": (GOOD.long(), LABELS, TypeError, "floating dtype, got .*int64"),
    "8-bit logits": (GOOD.to(torch.float8_e5m2), LABELS, TypeError, r"float8.*; pass value.float"),
    "1-d": (GOOD[0], LABELS, ValueError, r"classes >= 2\), got .*\(3,\)"),
    "3-d": (GOOD[None], LABELS, ValueError, r"got .*\(1, 2, 3\)"),
    "empty": (GOOD[:0], LABELS[:0], ValueError, r"got .*\(0, 3\)"),
    "one class": (GOOD[:, :1], LABELS, ValueError, r"got .*\(2, 1\)"),
    "list of labels": (GOOD, [0, 2], TypeError, "labels .*got list"),
    "array of labels": (GOOD, np.array([0, 2]), TypeError, "labels .*got an array"),
    "floating labels": (GOOD, LABELS.float(), TypeError, "integer dtype, got .*float32"),
    "boolean labels": (GOOD, LABELS.bool(), TypeError, "integer dtype, got .*bool"),
    "soft labels": (GOOD, GOOD.softmax(dim=1), TypeError, "integer dtype, got .*float32"),
    "label too high": (GOOD, torch.tensor([0, 3]), ValueError, "labels from 0 to 2, got 3"),
    "label negative": (GOOD, torch.tensor([0, -1]), ValueError, "labels from 0 to 2, got -1"),
    "too few labels": (GOOD, LABELS[:1], ValueError, r"shape \(2,\), got .*\(1,\)"),
    "2-d labels": (GOOD, LABELS[:, None], ValueError, r"shape \(2,\), got .*\(2, 1\)"),
}


@every_loss
@pytest.mark.parametrize("case", BAD)
def test_bad_inputs_are_refused(loss, case):
    logits, labels, error, match = BAD[case]
    with pytest.raises(error, match=f"expected .*{match}"):
        loss(logits, labels)


@every_loss
@pytest.mark.parametrize("reduction", ["average", "Mean", None, 0, ["mean"]])
def test_unknown_reductions_are_refused(loss, reduction):
    with pytest.raises(ValueError, match=r"expected reduction to be one of .*, got"):
        loss(GOOD, LABELS, reduction=reduction)
