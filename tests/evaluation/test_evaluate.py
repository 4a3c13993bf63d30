"""One pass over the data to a record of every figure."""

import copy
import dataclasses
import json
import math
import weakref
from functools import partial

import pytest
import torch
from torch import nn
from torch.nn.functional import cross_entropy

from advcal import metrics
from advcal.attacks import fgsm, iaa
from advcal.evaluation import Evaluation, evaluate
from advcal.trainers import predict

FIGURES = ("accuracy", "confidence", "ece", "mce", "mcs", "nll", "brier")


def setting(dtype=torch.float32):
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(4, 8), nn.BatchNorm1d(8), nn.Dropout(0.5), nn.Linear(8, 3))
    model(torch.randn(50, 4))
    inputs, labels = torch.rand(60, 4, dtype=dtype), torch.randint(3, (60,))
    return model.to(dtype), inputs, labels


def split(inputs, labels, *sizes):
    return list(zip(inputs.split(list(sizes)), labels.split(list(sizes)), strict=True))


def shift(model, inputs, labels):
    return inputs.roll(1, dims=1)


def by_hand(model, inputs, labels):
    """A gradient step as users write it, that relies on the caller's grad mode."""
    inputs = inputs.clone().requires_grad_()
    (gradient,) = torch.autograd.grad(cross_entropy(model(inputs), labels), inputs)
    return (inputs + 0.2 * gradient.sign()).clamp(0, 1)


ATTACKS = {"none": None, "fgsm": partial(fgsm, eps=0.2), "shift": shift}


# --- figures ---------------------------------------------------------------------------------


@pytest.mark.parametrize("attack", ATTACKS)
@pytest.mark.parametrize("n_bins", [1, 10, 15])
def test_figures_are_the_metrics_of_all_predictions_at_once(attack, n_bins):
    model, inputs, labels = setting()
    batches = split(inputs, labels, 20, 20, 20)
    record = evaluate(model, batches, ATTACKS[attack], n_bins=n_bins)
    predictions = predict(model, batches, ATTACKS[attack])
    assert isinstance(record, Evaluation)
    assert record.n == 60
    assert type(record.n) is int
    for name in FIGURES:
        options = {"n_bins": n_bins} if name in ("ece", "mce") else {}
        wanted = getattr(metrics, name)(predictions.probs, labels, **options)
        assert type(getattr(record, name)) is float
        assert getattr(record, name) == pytest.approx(float(wanted), rel=0, abs=1e-12), name
    table = metrics.reliability_bins(predictions.probs, labels, n_bins=n_bins)
    assert torch.equal(record.bins.counts, table.counts)
    assert torch.equal(record.bins.corrects, table.corrects)
    assert torch.equal(record.bins.edges, table.edges)
    torch.testing.assert_close(record.bins.confidences, table.confidences, rtol=1e-12, atol=1e-12)


def test_fifteen_bins_unless_said_otherwise():
    model, inputs, labels = setting()
    assert evaluate(model, [(inputs, labels)]).bins.n_bins == 15


def test_by_hand():
    logits = torch.tensor([[0.8, 0.2], [0.6, 0.4], [0.3, 0.7]], dtype=torch.float64).log()
    record = evaluate(nn.Identity(), [(logits, torch.tensor([0, 1, 1]))], n_bins=10)
    # As probabilities go through a logarithm, their confidences keep off the edges of bins.
    assert record.accuracy == 2 / 3
    assert record.confidence == pytest.approx(0.7)
    assert record.mcs == pytest.approx(0.7 - 2 / 3)
    assert record.nll == pytest.approx(-(math.log(0.8) + math.log(0.4) + math.log(0.7)) / 3)
    assert record.brier == pytest.approx((0.08 + 0.72 + 0.18) / 3)
    assert (record.clean_accuracy, record.unchanged) == (record.accuracy, 1)


@pytest.mark.parametrize("attack", ATTACKS)
def test_any_batching_gives_the_same_record(attack):
    model, inputs, labels = setting(torch.float64)
    whole = evaluate(model, [(inputs, labels)], ATTACKS[attack])
    for sizes in ([30, 30], [1] * 60, [59, 1], [7, 23, 11, 19]):
        record = evaluate(model, split(inputs, labels, *sizes), ATTACKS[attack])
        assert record.n == whole.n
        for name in (*FIGURES, "clean_accuracy", "unchanged"):
            wanted = getattr(whole, name)
            assert getattr(record, name) == pytest.approx(wanted, rel=0, abs=1e-12), name
        assert torch.equal(record.bins.counts, whole.bins.counts)
        assert torch.equal(record.bins.corrects, whole.bins.corrects)


def test_a_certain_mistake_costs_infinity_only_where_float64_ends():
    label = torch.tensor([1])
    record = evaluate(nn.Identity(), [(torch.tensor([[500.0, 0.0]]), label)])
    assert record.nll == pytest.approx(500)
    assert record.brier == pytest.approx(2)
    assert record.confidence == 1


def test_a_plain_callable():
    _, inputs, labels = setting()
    weight = torch.rand(4, 3)
    record = evaluate(lambda points: points @ weight, [(inputs, labels)])
    assert record.accuracy == float(((inputs @ weight).argmax(dim=1) == labels).double().mean())


# --- attacks ---------------------------------------------------------------------------------


def test_without_attack_nothing_changes():
    model, inputs, labels = setting()
    record = evaluate(model, split(inputs, labels, 40, 20))
    assert record.clean_accuracy == record.accuracy
    assert record.unchanged == 1


@pytest.mark.parametrize("attack", ["fgsm", "shift"])
def test_clean_accuracy_and_what_did_not_change(attack):
    model, inputs, labels = setting()
    batches = split(inputs, labels, 25, 35)
    record = evaluate(model, batches, ATTACKS[attack])
    before = predict(model, batches).logits.argmax(dim=1)
    after = predict(model, batches, ATTACKS[attack]).logits.argmax(dim=1)
    assert not torch.equal(before, after)
    assert record.clean_accuracy == float((before == labels).double().mean())
    assert record.accuracy == pytest.approx(float((after == labels).double().mean()), abs=1e-15)
    assert record.unchanged == float((before == after).double().mean())
    assert record.clean_accuracy == evaluate(model, batches).accuracy


def test_an_attack_on_confidence_alone_leaves_every_prediction():
    model, inputs, labels = setting()
    with torch.no_grad():  # confident enough to have something to lose
        model[3].weight.mul_(30)
    batches = [(inputs, labels)]
    clean = evaluate(model, batches)
    record = evaluate(model, batches, partial(iaa, eps=0.3, label="predicted"))
    assert record.unchanged == 1
    assert record.accuracy == record.clean_accuracy == clean.accuracy
    assert record.confidence < clean.confidence


def test_unchanged_counts_predictions_not_hits():
    # From one wrong class to another: accuracy stays, the prediction does not.
    logits, labels = torch.eye(3)[[1, 0]], torch.tensor([0, 0])
    record = evaluate(nn.Identity(), [(logits, labels)], lambda model, x, y: torch.eye(3)[[2, 0]])
    assert record.accuracy == record.clean_accuracy == 0.5
    assert record.unchanged == 0.5


def test_each_batch_is_attacked_once_with_its_labels():
    model, inputs, labels = setting()
    calls = []

    def attack(*arguments):
        calls.append(arguments)
        return arguments[1]

    evaluate(model, split(inputs, labels.int(), 40, 20), attack)
    assert [call[0] is model for call in calls] == [True, True]
    assert torch.equal(torch.cat([call[1] for call in calls]), inputs)
    assert torch.equal(torch.cat([call[2] for call in calls]), labels)


def test_an_attack_written_by_hand():
    model, inputs, labels = setting()
    got = evaluate(model, [(inputs, labels)], by_hand)
    wanted = evaluate(model, [(inputs, labels)], partial(fgsm, eps=0.2))
    assert got.nll == pytest.approx(wanted.nll, rel=1e-6)


# --- the model -------------------------------------------------------------------------------


class BrokenError(Exception):
    pass


def breaks(model, inputs, labels):
    assert not model.training
    raise BrokenError


@pytest.mark.parametrize("attack", [None, partial(fgsm, eps=0.1), breaks])
@pytest.mark.parametrize("training", [True, False])
def test_the_model_is_left_as_it_was(attack, training):
    model, inputs, labels = setting()
    model.train(training)
    model[1].train(not training)
    model[0].weight.requires_grad_(False)
    model[3].weight.grad = torch.ones_like(model[3].weight)
    state = copy.deepcopy(model.state_dict())
    modes = [module.training for module in model.modules()]
    before = inputs.clone()
    random_state = torch.get_rng_state()
    if attack is breaks:
        with pytest.raises(BrokenError):
            evaluate(model, [(inputs, labels)], attack)
    else:
        evaluate(model, [(inputs, labels)], attack)
    assert [module.training for module in model.modules()] == modes
    assert [parameter.requires_grad for parameter in model.parameters()] == [False] + [True] * 5
    assert model[3].weight.grad.eq(1).all()
    assert model[0].bias.grad is None
    torch.testing.assert_close(model.state_dict(), state, rtol=0, atol=0)
    assert torch.equal(inputs, before)
    assert torch.equal(torch.get_rng_state(), random_state)
    assert torch.is_grad_enabled()


def test_runs_in_eval_mode_without_gradients():
    class Model(nn.Module):
        def forward(self, inputs):
            assert not self.training
            assert not torch.is_grad_enabled()
            return inputs

    record = evaluate(Model().train(), [(torch.eye(2), torch.tensor([0, 1]))])
    assert record.accuracy == 1


@pytest.mark.parametrize("mode", [torch.no_grad, torch.inference_mode])
def test_under_every_grad_mode(mode):
    model, inputs, labels = setting()
    wanted = evaluate(model, [(inputs, labels)], ATTACKS["fgsm"])
    with mode():
        assert evaluate(model, [(inputs, labels)], ATTACKS["fgsm"]).nll == wanted.nll


# --- memory, options, the record -------------------------------------------------------------


def test_memory_does_not_grow_with_the_data():
    alive = []

    def batches(n):
        for _ in range(n):
            inputs = torch.randn(50, 3)
            alive.append(weakref.ref(inputs))
            yield inputs, torch.randint(3, (50,))
            assert sum(reference() is not None for reference in alive) <= 2

    sizes = set()
    for n in (1, 30):
        record = evaluate(nn.Identity(), batches(n), shift)
        sizes.add(sum(field.numel() for field in vars(record.bins).values() if field is not None))
    assert record.n == 1500
    assert sizes == {16 + 3 * 15}


def test_autocast_channels_last_and_progress():
    torch.manual_seed(0)
    seen, shown = [], []

    class Model(nn.Module):
        def __init__(self):
            super().__init__()
            self.convolution = nn.Conv2d(3, 4, 3)

        def forward(self, inputs):
            hidden = self.convolution(inputs)
            seen.append((inputs.is_contiguous(memory_format=torch.channels_last), hidden.dtype))
            return hidden.mean(dim=(2, 3))

    def progress(iterable):
        for item in iterable:
            shown.append(item)
            yield item

    model, batches = Model(), [(torch.rand(2, 3, 8, 8), torch.tensor([0, 1]))] * 2
    plain = evaluate(model, batches, ATTACKS["fgsm"])
    assert {dtype for _, dtype in seen} == {torch.float32}
    seen.clear()
    options = {"autocast": torch.bfloat16, "channels_last": True, "progress": progress}
    record = evaluate(model, batches, ATTACKS["fgsm"], **options)
    assert {dtype for _, dtype in seen} == {torch.bfloat16}
    assert seen[0][0]
    assert len(shown) == 2
    assert record.nll == pytest.approx(plain.nll, abs=0.05)


def test_the_record_is_immutable():
    record = evaluate(nn.Identity(), [(torch.eye(2), torch.tensor([0, 1]))])
    with pytest.raises(dataclasses.FrozenInstanceError):
        record.accuracy = 1.0


def test_as_dict_is_complete_and_goes_through_json():
    model, inputs, labels = setting()
    record = evaluate(model, [(inputs, labels)], ATTACKS["fgsm"], n_bins=7)
    plain = record.as_dict()
    assert set(plain) == {field.name for field in dataclasses.fields(Evaluation)}
    assert json.loads(json.dumps(plain, allow_nan=False)) == plain
    for name in set(plain) - {"bins", "intervals"}:
        assert plain[name] == getattr(record, name)
    assert plain["intervals"] == {name: list(ends) for name, ends in record.intervals.items()}
    assert set(plain["bins"]) == {"edges", "counts", "confidences", "corrects"}
    rebuilt = metrics.ReliabilityBins(
        **{name: torch.tensor(values) for name, values in plain["bins"].items()}
    )
    assert float(rebuilt.ece) == pytest.approx(record.ece, abs=1e-6)
    assert len(plain["bins"]["edges"]) == 8


# --- bad input -------------------------------------------------------------------------------

BATCH = (torch.eye(2), torch.tensor([0, 1]))
BAD = {
    "no batches": ([], ValueError, "one batch or more, got none"),
    "a bare tensor": ([BATCH[0]], TypeError, r"batches as \(inputs, labels, ...\), got a tensor"),
    "no labels": ([BATCH[:1]], TypeError, "batches as .*got tuple of length 1"),
    "floating labels": ([(BATCH[0], BATCH[0][0])], TypeError, "labels of an integer dtype, got"),
    "list of labels": ([(BATCH[0], [0, 1])], TypeError, "labels .*got list"),
    "too few labels": ([(BATCH[0], BATCH[1][:1])], ValueError, r"labels of shape \(2,\), got"),
    "label too high": ([(BATCH[0], BATCH[1] + 1)], ValueError, "labels from 0 to 1, got 2"),
    "an empty batch": ([(BATCH[0][:0], BATCH[1][:0])], ValueError, "inputs of shape"),
    "a bad one after a good": ([BATCH, (BATCH[0], BATCH[1] - 1)], ValueError, "labels .*got -1"),
    "NaN": (
        [(BATCH[0] * torch.nan, BATCH[1])],
        ValueError,
        "logits without NaN, got NaN at example 0",
    ),
    "one logit": (
        [(BATCH[0][:, :1], BATCH[1])],
        ValueError,
        r"logits of shape \(2, classes >= 2\)",
    ),
    "other classes": (
        [BATCH, (torch.eye(3), torch.arange(3) + 3)],
        ValueError,
        "labels from 0 to 2",
    ),
}


@pytest.mark.parametrize("case", BAD)
def test_bad_batches_are_refused(case):
    batches, error, match = BAD[case]
    with pytest.raises(error, match=f"expected {match}"):
        evaluate(nn.Identity(), batches)


@pytest.mark.parametrize(
    ("options", "error", "match"),
    [
        ({"attack": 0.1}, TypeError, "attack as a callable, got float"),
        ({"autocast": "bfloat16"}, TypeError, "autocast as a floating torch.dtype or None, got"),
        ({"n_bins": 0}, ValueError, "n_bins >= 1, got 0"),
        ({"n_bins": 1.5}, TypeError, "n_bins as an int, got float"),
        ({"n_bins": True}, TypeError, "n_bins as an int, got bool"),
        ({"model": 3}, TypeError, "model as .*, got int"),
        ({"batches": 3}, TypeError, "batches as .*, got int"),
        ({"progress": 3}, TypeError, "progress as .*, got int"),
    ],
    ids=str,
)
def test_bad_arguments_are_refused_before_any_work(options, error, match):
    def untouched():
        raise AssertionError("the data were read")
        yield

    arguments = {"model": nn.Identity(), "batches": untouched()} | options
    with pytest.raises(error, match=f"expected {match}"):
        evaluate(**arguments)


@pytest.mark.parametrize("outcome", [None, torch.eye(2)[:1], torch.eye(2) * torch.nan], ids=str)
def test_an_attack_that_returns_nonsense_is_refused(outcome):
    with pytest.raises((TypeError, ValueError), match=r"expected .*, got"):
        evaluate(nn.Identity(), [BATCH], lambda model, inputs, labels: outcome)


def test_logits_without_a_softmax_are_refused():
    batches = [(torch.eye(3), torch.arange(3))]
    for top, said in ((float("inf"), "inf"), (-float("inf"), "-inf")):
        rows = torch.eye(3)
        rows[1] = top
        with pytest.raises(ValueError, match=f"finite maximum, got {said} at example 1 of the 3"):
            evaluate(lambda inputs, rows=rows: rows + 0 * inputs, batches)
        with pytest.raises(ValueError, match=f"finite maximum, got {said} at example 1 of the 3"):
            predict(lambda inputs, rows=rows: rows + 0 * inputs, batches)
    masked = torch.tensor([0.0, 0.0, -float("inf")])
    assert evaluate(lambda inputs: inputs + masked, batches).nll == float("inf")


@pytest.mark.parametrize("use", [evaluate, predict, iaa])
def test_statistics_that_follow_the_test_data_are_put_back(use):
    class Adapting(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.register_buffer("mean", torch.zeros(3))
            self.register_buffer("variance", torch.ones(3))

        def forward(self, inputs):
            return torch.nn.functional.batch_norm(inputs, self.mean, self.variance, training=True)

    model, inputs, labels = Adapting(), torch.rand(5, 3), torch.tensor([0, 1, 2, 0, 1])
    if use is iaa:
        iaa(model, inputs, labels, eps=0.1)
    else:
        use(model, [(inputs, labels)], partial(fgsm, eps=0.1))
    assert model.mean.tolist() == [0, 0, 0]
    assert model.variance.tolist() == [1, 1, 1]


def test_a_graph_of_the_callers_survives_an_evaluation():
    model = torch.nn.Sequential(torch.nn.BatchNorm1d(3), torch.nn.Linear(3, 3)).eval()
    inputs, labels = torch.rand(5, 3), torch.tensor([0, 1, 2, 0, 1])
    loss = cross_entropy(model(inputs), labels)
    evaluate(model, [(inputs, labels)], partial(fgsm, eps=0.1))
    loss.backward()
    assert model[1].weight.grad is not None
