"""Lent gradients: on rounding, JPEG, thresholds, and networks in int8."""

import io
from functools import partial

import pytest
import torch
from torch import nn
from torch.ao import quantization

from advcal.attacks import apgd, autoattack, foot, pgd, through
from tests.attacks.cases import delicate, examples, mlp, seeded, state

warns_of_ao = pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::UserWarning")


def accuracy(model, points, labels):
    return (model(points).argmax(dim=1) == labels).double().mean()


def well_classified(model, n=200, shape=(1, 4, 4)):
    inputs, _ = examples(n, shape)
    return inputs, model(inputs).argmax(dim=1)


def test_the_value_is_that_of_the_first_and_the_gradient_that_of_the_second():
    inputs = torch.randn(50, 7, generator=seeded()).requires_grad_()
    output = through(torch.round, torch.sin)(inputs)
    assert torch.equal(output, inputs.round())
    (gradient,) = torch.autograd.grad(output.sum(), inputs)
    assert torch.equal(gradient, inputs.cos())
    (gradient,) = torch.autograd.grad((through(torch.round)(inputs) ** 2).sum(), inputs)
    assert torch.equal(gradient, 2 * inputs.round())  # a loss is differentiated at the value


def test_the_second_is_called_for_a_gradient_alone():
    def fails(inputs):
        raise AssertionError

    inputs = torch.rand(3, 2)
    assert torch.equal(through(torch.round, fails)(inputs), inputs.round())
    with torch.no_grad():
        through(torch.round, fails)(inputs.requires_grad_())


@pytest.mark.parametrize("levels", [4, 16, 64])
def test_rounding_of_two_levels_hides_nothing(levels):
    """A network behind rounding is fooled as often as the network itself."""
    model = mlp(gain=4.0)

    def rounded(inputs):
        return (inputs * levels).round() / levels

    inputs = rounded(examples(200)[0])
    labels = model(inputs).argmax(dim=1)
    attack = partial(pgd, eps=2 / levels, random_start=False, steps=20)
    plain = accuracy(model, attack(model, inputs, labels), labels)
    behind = nn.Sequential(through(rounded), model)
    found = accuracy(behind, attack(behind, inputs, labels), labels)
    blind = nn.Sequential(through(rounded, lambda x: 0 * x), model)
    assert accuracy(blind, attack(blind, inputs, labels), labels) == 1
    assert plain < 0.9
    assert abs(found - plain) <= 0.02


def quantised(how, network, inputs):
    if how == "dynamic":
        return quantization.quantize_dynamic(network, {nn.Linear}, dtype=torch.qint8)
    wrapped = quantization.QuantWrapper(network)
    wrapped.qconfig = quantization.get_default_qconfig("onednn")
    prepared = quantization.prepare(wrapped)
    prepared(inputs)
    return quantization.convert(prepared)


@warns_of_ao
@pytest.mark.parametrize("how", ["dynamic", "static"])
def test_networks_in_int8(how):
    network = mlp(gain=4.0).eval()
    inputs, labels = well_classified(network)
    int8 = quantised(how, network, inputs)
    attack = partial(pgd, eps=0.1, random_start=False)
    with pytest.raises(ValueError, match=r"by a gradient, got none; .* attacks.through lends one"):
        attack(int8, inputs, labels)
    model = through(int8, network)
    assert torch.equal(model(inputs), int8(inputs))
    transferred = accuracy(int8, attack(network, inputs, labels), labels)
    found = accuracy(int8, attack(model, inputs, labels), labels)
    assert found <= transferred + 0.01
    assert found < accuracy(int8, inputs, labels) - 0.2
    nearest = foot(model, inputs, labels, steps=20)
    still = int8(inputs).argmax(dim=1) == labels
    assert accuracy(int8, nearest[still], labels[still]) <= 0.02


def jpeg(inputs):
    image = pytest.importorskip("PIL.Image")
    out = []
    for each in inputs:
        file = io.BytesIO()
        pixels = (each[0] * 255).round().to(torch.uint8).numpy()
        image.fromarray(pixels).save(file, "JPEG", quality=75)
        out.append(torch.tensor(list(image.open(file).tobytes())).reshape(each.shape) / 255)
    return torch.stack(out)


def test_jpeg():
    model = mlp(shape=(1, 8, 8), gain=4.0)
    inputs, labels = examples(24, (1, 8, 8))
    labels = model(jpeg(inputs)).argmax(dim=1)
    defended = nn.Sequential(through(jpeg), model)
    points = pgd(defended, inputs, labels, eps=0.1, steps=5, random_start=False)
    assert accuracy(defended, points, labels) < 0.3


def test_thresholds():
    model = mlp(gain=4.0)
    inputs, _ = examples(100)
    defended = nn.Sequential(
        through(lambda x: (x > 0.5).float(), lambda x: torch.sigmoid(8 * x - 4)), model
    )
    labels = defended(inputs).argmax(dim=1)
    points = apgd(defended, inputs, labels, eps=0.2, steps=30)
    assert accuracy(defended, points, labels) < 0.5


def test_a_saturated_network_by_a_stand_in_with_a_slope():
    network = mlp()
    inputs, labels = well_classified(network)
    model = through(lambda x: torch.sign(network(x)) * 50 + 0 * network(x), network)
    labels = model(inputs).argmax(dim=1)
    points = pgd(model, inputs, labels, eps=0.3, random_start=False)
    assert accuracy(model, points, labels) < 0.7


def test_both_are_left_as_they_were():
    value, slope = delicate(), delicate()
    before = state(value), state(slope)
    inputs, _ = examples()
    labels = delicate().eval()(inputs).argmax(dim=1)
    autoattack(through(value, slope), inputs, labels, eps=0.1, steps=3, queries=3)
    assert (state(value), state(slope)) == before
    assert value.calls
    assert slope.calls


def test_modes_and_parts_are_those_of_the_two():
    value, slope = nn.Dropout(0.5), nn.Linear(4, 4)
    model = through(value, slope)
    assert set(model.parameters()) == set(slope.parameters())
    model.eval()
    assert not value.training
    assert not model.training
    value.train()
    assert model.training
    assert repr(through(torch.round)) == "through(round)"
    assert "Dropout" in repr(model)


@pytest.mark.parametrize(
    ("forward", "backward", "error", "match"),
    [
        (None, None, TypeError, "expected forward as a callable, got NoneType"),
        (torch.round, 3, TypeError, "expected backward as a callable, got int"),
        (lambda x: x.tolist(), None, TypeError, "forward to return a tensor, got list"),
        (torch.round, lambda x: None, TypeError, "backward to return a tensor, got NoneType"),
        (lambda x: x[:, 0], None, ValueError, r"a backward of shape \(3,\) .*, got none"),
        (torch.round, lambda x: x[:1], ValueError, r"of shape \(3, 2\) .*, got one of shape \(1,"),
    ],
)
def test_bad_use_is_refused(forward, backward, error, match):
    with pytest.raises(error, match=match):
        through(forward, backward)(torch.rand(3, 2, requires_grad=True))
