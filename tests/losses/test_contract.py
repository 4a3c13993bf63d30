"""What holds for every loss `(logits, labels) -> loss`, one table over all of them."""

import inspect

import numpy as np
import pytest
import torch

from advcal import losses

LOSSES = [
    *["confidence_penalty", "dlr", "flsd53", "focal", "inverse_adversarial", "label_relaxation"],
    *["margin", "mart", "mbls", "trades"],
]
NO_LOSSES = ["AdaptiveSmoothing", "adaptive_smoothing", "smooth_labels"]


def beside_attacked(loss):
    """Give a loss of two predictions the logits of other classes as those of attacked inputs."""

    def of_one(logits, labels, **options):
        good = isinstance(logits, torch.Tensor) and logits.ndim == 2
        attacked = 0.7 * logits.roll(1, dims=1) if good and logits.is_floating_point() else logits
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


GOOD = torch.zeros(2, 3)
LABELS = torch.tensor([0, 2])
BAD = {
    "list": (GOOD.tolist(), LABELS, TypeError, "logits as a torch.Tensor, got list"),
    "array": (GOOD.numpy(), LABELS, TypeError, "logits as a torch.Tensor, got an array"),
    "integer logits": (GOOD.long(), LABELS, TypeError, "floating dtype, got .*int64"),
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
