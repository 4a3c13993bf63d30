"""What models cost, by a clock that the models themselves move."""

import dataclasses
import json
import time

import pytest
import torch
from torch import nn
from torch.ao.quantization import quantize_dynamic

from advcal.evaluation import Cost, Latency, costs, evaluate, rows, table


class Clock(nn.Module):
    """A network that takes `seconds` for each input, one after the other."""

    now = 0.0

    def __init__(self, *seconds, slow=0.0):
        super().__init__()
        self.layer = nn.Linear(3, 2)
        self.seconds, self.slow, self.calls, self.modes = seconds, slow, [], []

    def forward(self, inputs):
        taken = self.seconds[len(self.calls) % len(self.seconds)]
        Clock.now += taken * len(inputs) + self.slow
        self.calls.append(inputs)
        self.modes.append((self.training, torch.is_grad_enabled()))
        return self.layer(inputs)


@pytest.fixture(autouse=True)
def clock(monkeypatch):
    monkeypatch.setattr(time, "perf_counter", lambda: Clock.now)


INPUTS = torch.arange(15.0).reshape(5, 3)


def test_latency_is_the_median_and_the_quartiles_of_what_a_batch_takes():
    models = {"steady": Clock(0.002), "uneven": Clock(0.001, 0.003, 0.005, 0.007, 0.009)}
    found = costs(models, INPUTS, batch_sizes=[1, 7], n=20)
    for size, latency in found["steady"].latency.items():
        assert latency == pytest.approx((2 * size, 2 * size, 2 * size))
    for size, latency in found["uneven"].latency.items():
        assert latency == pytest.approx((5 * size, 3 * size, 7 * size))


def test_the_first_runs_do_not_count():
    model = Clock(*[9.0] * 3, *[0.001] * 5)  # one to look at the logits, two to warm up
    assert costs({"m": model}, INPUTS, batch_sizes=[1], n=5)["m"].latency[1].high == pytest.approx(
        1
    )
    assert len(model.calls) == 8


def test_models_take_turns():
    order = []
    models = {name: lambda v, name=name: order.append(name) or v[:, :2] for name in "abc"}
    costs(models, INPUTS, batch_sizes=[2], n=4)
    assert "".join(order[6:]) == "abc" * 5  # after a first look at each


def test_inputs_are_repeated_and_cut_and_nothing_is_changed():
    model = Clock(0.001).train()
    before = INPUTS.clone()
    costs({"m": model}, INPUTS, batch_sizes=[2, 7], n=1)
    assert torch.equal(model.calls[0], INPUTS[:2])
    assert torch.equal(model.calls[-1], INPUTS[[0, 1, 2, 3, 4, 0, 1]])
    assert set(model.modes) == {(False, False)}
    assert model.training
    assert model.layer.weight.requires_grad
    assert torch.equal(INPUTS, before)


def test_mixed_precision_and_memory_format_are_those_of_the_runs():
    seen = []
    layer = nn.Conv2d(3, 2, 1)

    def model(images):
        seen.append((layer(images).dtype, images.is_contiguous(memory_format=torch.channels_last)))
        return layer(images).mean(dim=(2, 3))

    images = torch.rand(2, 3, 4, 4)
    costs({"m": model}, images, n=1, autocast=torch.bfloat16, channels_last=True)
    assert set(seen[2:]) == {(torch.bfloat16, True)}


class Recurrent(nn.Module):
    def __init__(self):
        super().__init__()
        self.inside, self.head = nn.LSTM(4, 5, 2, bidirectional=True), nn.Linear(10, 3)

    def forward(self, inputs):
        return self.head(self.inside(inputs)[0][:, -1])


def static():
    """Quantise a small network of images, statically."""
    model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.Flatten(), nn.Linear(16, 2)).eval()
    wrapped = torch.ao.quantization.QuantWrapper(model)
    wrapped.qconfig = torch.ao.quantization.get_default_qconfig("fbgemm")
    prepared = torch.ao.quantization.prepare(wrapped)
    prepared(torch.rand(4, 3, 4, 4))
    return model, torch.ao.quantization.convert(prepared)


def size(model, inputs):
    found = costs({"m": model}, inputs, batch_sizes=[1], n=1)["m"]
    return found.parameters, found.bytes


def test_parameters_and_bytes():
    first, norm, last = nn.Linear(3, 3), nn.BatchNorm1d(3), nn.Linear(3, 2)
    # 9 + 3, 3 + 3, 6 + 2; two buffers of 3, and one of a whole number of 8 bytes.
    assert size(nn.Sequential(first, norm, last), INPUTS) == (26, 4 * (26 + 6) + 8)
    assert size(nn.Sequential(first, first, last), INPUTS) == (20, 80)  # shared: once
    assert size(nn.Sequential(last, nn.Flatten()).double(), INPUTS.double()) == (8, 64)
    assert size(lambda inputs: inputs[:, :2], INPUTS) == (None, None)


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
@pytest.mark.filterwarnings("ignore::UserWarning")
def test_quantised_layers_keep_their_parameters_and_take_fewer_bytes():
    model = Recurrent().eval()
    dynamic = quantize_dynamic(model, {nn.LSTM, nn.Linear}, dtype=torch.qint8)
    inputs = torch.rand(2, 3, 4)
    whole, packed = size(model, inputs), size(dynamic, inputs)
    assert packed[0] == whole[0] == sum(each.numel() for each in model.parameters())
    assert packed[1] < whole[1] / 2
    float_, int8 = (size(each, torch.rand(2, 3, 4, 4)) for each in static())
    assert int8[0] == float_[0] == 3 * 4 * 9 + 4 + 32 + 2
    assert float_[0] < int8[1] < float_[1]


COSTS = {
    "float": Cost(2_000, 8_000_000, {1: Latency(1.234, 1.2, 1.3), 8: Latency(0.0123, 0.01, 0.02)}),
    "int8": Cost(None, None, {1: Latency(123.4, 120.0, 130.0)}),
}


def record():
    return evaluate(nn.Identity(), [(torch.eye(2), torch.tensor([0, 1]))])


def test_a_cost_prints():
    assert str(COSTS["float"]).splitlines() == [
        "| cost           |  value | half of the runs |",
        "|:---------------|-------:|-----------------:|",
        "| parameters     |   2000 |                  |",
        "| MB             |   8.00 |                  |",
        "| ms, batch of 1 |   1.23 |     [1.20, 1.30] |",
        "| ms, batch of 8 | 0.0123 | [0.0100, 0.0200] |",
    ]
    assert "<td>0.0123</td>" in COSTS["float"]._repr_html_()
    plain = json.loads(json.dumps(COSTS["int8"].as_dict()))
    assert plain["latency"]["1"] == {"median": 123.4, "low": 120.0, "high": 130.0}
    with pytest.raises(dataclasses.FrozenInstanceError):
        COSTS["int8"].bytes = 3


def test_costs_stand_last_in_the_rows_of_their_models():
    records = {(name, attack): record() for name in COSTS for attack in ("none", "PGD")}
    got = table(records, figures=["accuracy"], costs=COSTS).splitlines()
    assert got[0].split("|")[3:-1] == [
        " accuracy ", " parameters ", "   MB ", " ms, batch of 1 ", " ms, batch of 8 "
    ]  # fmt: skip
    cells = [[each.strip() for each in line.split("|")[4:-1]] for line in got[2:]]
    float_, int8 = ["2000", "8.00", "1.23", "0.0123"], ["", "", "123", ""]
    assert cells == [float_, float_, int8, int8]
    wide = table(records, figures=["accuracy"], costs=COSTS, across="attack").splitlines()
    assert [line.split("|")[4].strip() for line in wide] == [
        "parameters",
        "-----------:",
        "2000",
        "",
    ]
    latex = table(records, figures=["ece"], costs=COSTS, across="attack", format="latex")
    assert r"\multicolumn{1}{c}{PGD} & \multicolumn{4}{c}{} \\" in latex
    assert latex.count("cmidrule") == 2


def test_costs_as_numbers():
    records = {name: record() for name in COSTS}
    first, second = rows(records, figures=["n"], costs=COSTS)
    assert first.keys() == second.keys()
    assert (first["bytes"], first["ms_8"], first["ms_8_high"]) == (8_000_000, 0.0123, 0.02)
    assert (second["bytes"], second["ms_1"], second["ms_8"]) == (None, 123.4, None)
    text = table(records, figures=["n"], costs=COSTS, format="csv").splitlines()
    assert text[0] == "model,n,parameters,bytes,ms_1,ms_8"
    assert text[2] == "int8,2,,,123.4,"
    text = table(records, figures=["n"], costs=COSTS, format="csv", intervals="brackets")
    assert text.splitlines()[0].endswith("ms_8,ms_8_low,ms_8_high")


def test_bad_input():
    model = Clock(0.001)
    with pytest.raises(ValueError, match="one batch size or more, got none"):
        costs({"m": model}, INPUTS, batch_sizes=[])
    with pytest.raises(ValueError, match="a batch size >= 1, got 0"):
        costs({"m": model}, INPUTS, batch_sizes=[0])
    with pytest.raises(TypeError, match="models as a mapping"):
        costs(model, INPUTS)
    with pytest.raises(ValueError, match=r"inputs of shape \(n >= 1, ...\)"):
        costs({"m": model}, INPUTS[:0])
    with pytest.raises(TypeError, match="a tensor of logits"):
        costs({"m": lambda inputs: None}, INPUTS)
    records = {"other": record()}
    with pytest.raises(ValueError, match="each model to be one of 'float', 'int8', got 'other'"):
        table(records, costs=COSTS)
    with pytest.raises(TypeError, match=r"costs\['a'\] as a Cost, got int"):
        rows(records, costs={"a": 3})
    with pytest.raises(ValueError, match="a column 'model' in rows with costs"):
        table({("float", "none"): record()}, across="model", costs=COSTS)
