"""Logits and labels of all batches."""

import copy
from functools import partial

import pytest
import torch
from torch import nn

from advcal.attacks import fgsm
from advcal.trainers import Predictions, predict


def setting():
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(4, 8), nn.BatchNorm1d(8), nn.Dropout(0.5), nn.Linear(8, 3))
    model(torch.randn(50, 4))
    return model, [(torch.rand(n, 4), torch.randint(3, (n,))) for n in (6, 1, 3)]


def whole(batches):
    return torch.cat([x for x, _ in batches]), torch.cat([y for _, y in batches])


def by_hand(attack, model, inputs, labels):
    """A gradient step as users write it, that relies on the caller's grad mode."""
    inputs = inputs.clone().requires_grad_()
    loss = nn.functional.cross_entropy(model(inputs), labels)
    (gradient,) = torch.autograd.grad(loss, inputs)
    return inputs + attack * gradient.sign()


def test_in_order_in_eval_mode_without_gradients():
    model, batches = setting()
    got = predict(model, batches)
    inputs, labels = whole(batches)
    wanted = copy.deepcopy(model).eval()(inputs)
    assert isinstance(got, Predictions)
    torch.testing.assert_close(got.logits, wanted)
    assert torch.equal(got.labels, labels)
    assert got.labels.dtype == torch.int64
    assert not got.logits.requires_grad


def test_probs_are_the_float64_softmax():
    model, batches = setting()
    got = predict(model, batches)
    assert got.probs.dtype == torch.float64
    assert torch.equal(got.probs, got.logits.double().softmax(dim=1))
    assert (got.probs.sum(dim=1) - 1).abs().max() < 1e-15


@pytest.mark.parametrize("training", [True, False])
def test_the_model_is_left_as_it_was(training):
    model, batches = setting()
    model.train(training)
    model[2].train(not training)
    model[0].weight.requires_grad_(False)
    model[3].weight.grad = torch.ones_like(model[3].weight)
    state = copy.deepcopy(model.state_dict())
    modes = [module.training for module in model.modules()]
    predict(model, batches, partial(fgsm, eps=0.1))
    assert [module.training for module in model.modules()] == modes
    assert [parameter.requires_grad for parameter in model.parameters()] == [False] + [True] * 5
    assert model[3].weight.grad.eq(1).all()
    assert model[0].bias.grad is None
    torch.testing.assert_close(model.state_dict(), state, rtol=0, atol=0)


def test_the_model_is_left_as_it_was_also_when_the_data_fail():
    model, batches = setting()

    def failing():
        yield batches[0]
        assert not model.training
        raise OSError("disk")

    with pytest.raises(OSError, match="disk"):
        predict(model, failing())
    assert all(module.training for module in model.modules())


def test_attacked():
    model, batches = setting()
    attack = partial(fgsm, eps=0.2)
    got = predict(model, batches, attack)
    frozen = copy.deepcopy(model).eval()
    inputs, labels = whole(batches)
    torch.testing.assert_close(got.logits, frozen(attack(frozen, inputs, labels)))
    assert not torch.allclose(got.logits, predict(model, batches).logits)


def test_an_attack_written_by_hand():
    model, batches = setting()
    got = predict(model, batches, partial(by_hand, 0.2))
    wanted = predict(model, batches, partial(fgsm, eps=0.2, bounds=(-9.0, 9.0)))
    torch.testing.assert_close(got.logits, wanted.logits)
    assert not got.logits.requires_grad


def test_a_plain_callable():
    weight = torch.rand(4, 3)
    _, batches = setting()
    got = predict(lambda inputs: inputs @ weight, batches)
    torch.testing.assert_close(got.logits, whole(batches)[0] @ weight)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
def test_logits_are_float32_or_wider(dtype):
    got = predict(lambda inputs: inputs.to(dtype), [(torch.rand(2, 3), torch.tensor([0, 1]))])
    assert got.logits.dtype == (torch.float64 if dtype == torch.float64 else torch.float32)


def test_autocast_channels_last_and_progress():
    torch.manual_seed(0)
    convolution = nn.Conv2d(3, 4, 3)
    seen, shown = [], []

    class Model(nn.Module):
        def __init__(self):
            super().__init__()
            self.convolution = convolution

        def forward(self, inputs):
            seen.append((inputs.is_contiguous(memory_format=torch.channels_last), inputs.dtype))
            hidden = self.convolution(inputs)
            seen.append(hidden.dtype)
            return hidden.mean(dim=(2, 3))

    def progress(iterable):
        for item in iterable:
            shown.append(item)
            yield item

    batches = [(torch.rand(2, 3, 8, 8), torch.tensor([0, 1]))] * 2
    plain = predict(Model(), batches).logits
    seen.clear()
    options = {"autocast": torch.bfloat16, "channels_last": True, "progress": progress}
    got = predict(Model(), batches, **options)
    assert seen == [(True, torch.float32), torch.bfloat16] * 2
    assert len(shown) == 2
    torch.testing.assert_close(got.logits, plain, rtol=2e-2, atol=2e-2)
    assert convolution.weight.is_contiguous()


BATCH = (torch.rand(2, 3), torch.tensor([0, 1]))
BAD = {
    "no batches": ([], ValueError, "one batch or more, got none"),
    "a bare tensor": ([BATCH[0]], TypeError, r"batches as \(inputs, labels, ...\), got a tensor"),
    "no parts": ([()], TypeError, "batches as .*got tuple of length 0"),
    "floating labels": ([(BATCH[0], BATCH[0][:, 0])], TypeError, "labels of an integer dtype, got"),
    "list of labels": ([(BATCH[0], [0, 1])], TypeError, "labels .*got list"),
    "too few labels": ([(BATCH[0], BATCH[1][:1])], ValueError, r"labels of shape \(2,\), got"),
    "an empty batch": ([(BATCH[0][:0], BATCH[1][:0])], ValueError, "inputs of shape"),
    "NaN": (
        [(BATCH[0] * torch.nan, BATCH[1])],
        ValueError,
        "logits without NaN, got NaN at example 0",
    ),
    "images": ([(torch.rand(2, 3, 4, 4), BATCH[1])], ValueError, r"logits of shape \(2, classes"),
    "one logit": (
        [(BATCH[0][:, :1], BATCH[1])],
        ValueError,
        r"logits of shape \(2, classes >= 2\)",
    ),
    "integer logits": ([(BATCH[0].long(), BATCH[1])], TypeError, "logits of a floating dtype, got"),
}


@pytest.mark.parametrize("case", BAD)
def test_bad_batches_are_refused(case):
    batches, error, match = BAD[case]
    with pytest.raises(error, match=f"expected {match}"):
        predict(nn.Identity(), batches)


def test_bad_arguments_are_refused():
    with pytest.raises(TypeError, match="expected attack as a callable, got float"):
        predict(nn.Identity(), [BATCH], 0.1)
    with pytest.raises(
        TypeError, match=r"expected autocast as a floating torch.dtype or None, got"
    ):
        predict(nn.Identity(), [BATCH], autocast="bfloat16")
    with pytest.raises(TypeError, match="positional"):
        predict(nn.Identity(), [BATCH], None, torch.bfloat16)
    with pytest.raises(
        TypeError, match="expected the model to return a tensor of logits, got tuple"
    ):
        predict(lambda inputs: (inputs,), [BATCH])


@pytest.mark.parametrize("bad", [{"model": 3}, {"batches": 3}, {"progress": 3}], ids=str)
def test_wrong_kinds_are_named(bad):
    arguments = {"model": nn.Identity(), "batches": [BATCH]} | bad
    (name,) = bad
    with pytest.raises(TypeError, match=f"expected {name} as .*, got int"):
        predict(**arguments)
