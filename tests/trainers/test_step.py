"""Schedules, clipping, accumulation, averaged weights, float16, other backends, odd batches."""

import copy
import math
from functools import partial

import pytest
import torch
from torch import nn
from torch.nn.functional import cross_entropy
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from advcal import trainers
from advcal.attacks import fgsm, pgd
from advcal.trainers import _loop, epochs, fit, standard


def setting(sizes=(6, 6, 3), norm=False):
    torch.manual_seed(0)
    layers = [nn.Linear(4, 8), *([nn.BatchNorm1d(8)] if norm else []), nn.ReLU(), nn.Linear(8, 3)]
    model = nn.Sequential(*layers)
    batches = [(torch.rand(n, 4), torch.randint(3, (n,))) for n in sizes]
    return model, batches, torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)


def close(model, other, **options):
    torch.testing.assert_close(model.state_dict(), other.state_dict(), **options)


# --- schedules -------------------------------------------------------------------------------


def test_a_schedule_is_stepped_after_each_step():
    model, batches, optimizer = setting()
    schedule = torch.optim.lr_scheduler.StepLR(optimizer, 1, gamma=0.5)
    rates = []

    def objective(model, batch):
        rates.append(optimizer.param_groups[0]["lr"])
        return standard()(model, batch)

    fit(model, batches, objective, optimizer, n=2, schedule=schedule)
    assert rates == pytest.approx([0.1 * 0.5**k for k in range(6)])


def test_a_schedule_counts_steps_and_not_batches():
    model, batches, optimizer = setting(sizes=[2] * 5)
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: 1.0)
    fit(model, batches, standard(), optimizer, n=2, schedule=schedule, accumulate=2)
    assert schedule.last_epoch == 6  # 2, 2, 1 batches, twice


# --- clipping --------------------------------------------------------------------------------


@pytest.mark.parametrize("max_norm", [1e-3, 0.1, 1e3])
def test_clipping_is_that_of_torch(max_norm):
    model, batches, optimizer = setting()
    for inputs, labels in batches:
        optimizer.zero_grad()
        cross_entropy(model(inputs), labels).backward()
        nn.utils.clip_grad_norm_(model.parameters(), max_norm)
        optimizer.step()
    other, batches, optimizer = setting()
    fit(other, batches, standard(), optimizer, n=1, max_norm=max_norm)
    close(other, model, rtol=0, atol=0)


def test_the_step_is_no_longer_than_the_clipped_gradient():
    model, batches, _ = setting()
    before = nn.utils.parameters_to_vector(model.parameters()).detach()
    optimizer = torch.optim.SGD(model.parameters(), lr=1.0)
    fit(model, batches[:1], standard(), optimizer, n=1, max_norm=1e-3)
    moved = nn.utils.parameters_to_vector(model.parameters()).detach() - before
    assert float(moved.norm()) == pytest.approx(1e-3, rel=1e-3)


# --- accumulation ----------------------------------------------------------------------------


@pytest.mark.parametrize("max_norm", [None, 0.05])
@pytest.mark.parametrize(
    ("sizes", "accumulate"), [((4, 4, 4, 4), 2), ((5, 1, 3), 3), ((4, 4, 2), 3), ((1, 7, 2), 2)]
)
def test_accumulated_batches_are_one_big_batch(sizes, accumulate, max_norm):
    objective = trainers.adversarial(partial(pgd, eps=0.1, steps=2, random_start=False))
    model, batches, _ = setting(sizes)
    model = model.double()
    batches = [(x.double(), y) for x, y in batches]
    other = copy.deepcopy(model)
    groups = [batches[i : i + accumulate] for i in range(0, len(batches), accumulate)]
    big = [tuple(torch.cat(parts) for parts in zip(*group, strict=True)) for group in groups]

    def sgd(of):
        return torch.optim.SGD(of.parameters(), lr=0.1, momentum=0.9)

    options = {"n": 3, "max_norm": max_norm}
    wanted = fit(model, big, objective, sgd(model), **options)
    got = fit(other, batches, objective, sgd(other), accumulate=accumulate, **options)
    close(other, model, rtol=1e-12, atol=1e-12)
    assert [e.n for e in got] == [e.n for e in wanted]
    # The records are of the same losses only where the weights were: in the first step.
    if len(groups) == 1:
        assert got[0].loss == pytest.approx(wanted[0].loss, rel=1e-12)


def test_what_is_left_of_an_epoch_is_a_step_of_its_own():
    model, batches, _ = setting(sizes=(2, 2, 2))
    steps = []

    class Counted(torch.optim.SGD):
        def step(self):
            steps.append(1)
            super().step()

    fit(model, batches, standard(), Counted(model.parameters(), lr=0.1), n=2, accumulate=2)
    assert len(steps) == 4


# --- averaged weights ------------------------------------------------------------------------


@pytest.mark.parametrize("use_buffers", [False, True])
def test_ema_is_updated_after_each_step(use_buffers):
    model, batches, optimizer = setting(norm=True)
    first = copy.deepcopy(model)
    average = AveragedModel(model, multi_avg_fn=get_ema_multi_avg_fn(0.9), use_buffers=use_buffers)
    seen = []

    def objective(model, batch):
        seen.append(copy.deepcopy(model.state_dict()))
        return standard()(model, batch)

    fit(model, batches, objective, optimizer, n=2, average=average)
    states = [*seen[1:], model.state_dict()]
    for name, _ in first.named_parameters():
        wanted = states[0][name]  # the first update copies
        for state in states[1:]:
            wanted = 0.9 * wanted + 0.1 * state[name]
        torch.testing.assert_close(average.module.state_dict()[name], wanted)
    mean = average.module[1].running_mean
    assert torch.equal(mean, model[1].running_mean) is not use_buffers
    assert not torch.equal(average.module[0].weight, model[0].weight)


def test_swa_lives_in_the_body():
    model, batches, optimizer = setting()
    average, states = AveragedModel(model), []
    for _ in epochs(model, batches, standard(), optimizer, n=3):
        average.update_parameters(model)
        states.append(model[0].weight.detach().clone())
    torch.testing.assert_close(average.module[0].weight, torch.stack(states).mean(dim=0))


# --- precision, compilation, other libraries -------------------------------------------------


def test_float16_is_for_cuda():
    model, batches, optimizer = setting()
    with pytest.raises(ValueError, match=r"autocast=torch.bfloat16 on cpu, got torch.float16, wh"):
        fit(model, batches, standard(), optimizer, n=1, autocast=torch.float16)


def scaled(**options):
    return lambda *_: torch.amp.GradScaler("cpu", **options)


def test_a_scaler_changes_nothing_but_what_overflows(monkeypatch):
    model, batches, optimizer = setting()
    options = {"n": 2, "max_norm": 0.5, "accumulate": 2}
    fit(model, batches, standard(), optimizer, **options)
    other, batches, optimizer = setting()
    monkeypatch.setattr(_loop, "_scaler", scaled(init_scale=1024.0))
    fit(other, batches, standard(), optimizer, **options)
    close(other, model)


def test_a_step_that_overflows_is_left_out(monkeypatch):
    model, batches, optimizer = setting()
    before = copy.deepcopy(model)
    scaler = torch.amp.GradScaler("cpu", init_scale=3e38)
    monkeypatch.setattr(_loop, "_scaler", lambda *_: scaler)
    schedule = torch.optim.lr_scheduler.StepLR(optimizer, 1)
    average = AveragedModel(model)
    weighty = [(x * 1e3, y) for x, y in batches[:1]]
    fit(model, weighty, standard(), optimizer, n=1, schedule=schedule, average=average)
    close(model, before, rtol=0, atol=0)
    assert scaler.get_scale() == pytest.approx(1.5e38, rel=1e-2)
    assert (schedule.last_epoch, int(average.n_averaged)) == (0, 0)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs CUDA")
def test_float16_on_cuda():
    model, batches, _ = setting()
    model = model.cuda()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    objective = trainers.adversarial(partial(pgd, eps=0.1, steps=2))
    records = fit(model, batches, objective, optimizer, n=20, autocast=torch.float16)
    assert records[-1].loss < records[0].loss
    assert all(parameter.dtype == torch.float32 for parameter in model.parameters())


@pytest.mark.parametrize("backend", ["eager", "aot_eager"])
def test_compiled_models(backend, tmp_path):
    objective = trainers.adversarial(partial(fgsm, eps=0.1))
    model, batches, optimizer = setting(sizes=(6, 6), norm=True)
    wanted = fit(model, batches, objective, optimizer, n=2)
    other, batches, optimizer = setting(sizes=(6, 6), norm=True)
    compiled = torch.compile(other, backend=backend)
    path = tmp_path / "checkpoint"
    got = fit(compiled, batches, objective, optimizer, n=2, checkpoint=path)
    assert [e.loss for e in got] == pytest.approx([e.loss for e in wanted], rel=1e-5)
    close(other, model)
    kept = torch.load(path, weights_only=True)["model"]
    model.load_state_dict(kept)  # the names are those of the model inside
    torch._dynamo.reset()


def test_backward_takes_the_gradient():
    model, batches, optimizer = setting()
    fit(model, batches, standard(), optimizer, n=2)
    other, batches, optimizer = setting()
    taken = []

    def backward(loss):
        taken.append(loss)
        loss.backward()

    fit(other, batches, standard(), optimizer, n=2, backward=backward)
    close(other, model, rtol=0, atol=0)
    assert len(taken) == 6
    assert all(loss.ndim == 0 for loss in taken)


# --- bad input -------------------------------------------------------------------------------

BATCH = (torch.rand(3, 4), torch.randint(3, (3,)))
BATCHES = {
    "empty": ((BATCH[0][:0], BATCH[1][:0]), r"inputs of shape \(n >= 1, ...\), got .*\(0, 4\) in"),
    "no dimension": ((torch.tensor(1.0), BATCH[1]), r"inputs of shape \(n >= 1, ...\), got .* in"),
    "fewer labels": ((BATCH[0], BATCH[1][:2]), r"labels for 3 inputs, got .*\(2,\) in"),
    "one label": ((BATCH[0], torch.tensor(1)), r"labels for 3 inputs, got .*\(\) in"),
}


@pytest.mark.parametrize("case", BATCHES)
def test_wrong_batches_are_named(case):
    model, _, optimizer = setting()
    batch, match = BATCHES[case]
    with pytest.raises(ValueError, match=f"expected {match} epoch 1, batch 2"):
        fit(model, [BATCH, batch], standard(), optimizer, n=1)


class Odd:
    step = state_dict = load_state_dict = 3


BAD = {
    "a norm of 0": ({"max_norm": 0}, ValueError, "max_norm > 0, got 0"),
    "NaN": ({"max_norm": math.nan}, ValueError, "max_norm > 0, got nan"),
    "a norm in words": ({"max_norm": "1"}, TypeError, "max_norm as a number, got str"),
    "nothing accumulated": ({"accumulate": 0}, ValueError, "accumulate >= 1, got 0"),
    "half accumulated": ({"accumulate": 1.5}, TypeError, "accumulate as an int, got float"),
    "no steps": ({"every": 0}, ValueError, "every >= 1, got 0"),
    "half a step": ({"every": 0.5}, TypeError, "every as an int, got float"),
    "a rate": ({"schedule": 0.1}, TypeError, "schedule as a scheduler of .*, got float"),
    "no schedule": ({"schedule": Odd()}, TypeError, "schedule as a scheduler of .*, got Odd"),
    "a model": ({"average": nn.Linear(2, 2)}, TypeError, "average as an AveragedModel, got Linear"),
    "backward by name": ({"backward": "loss"}, TypeError, "backward as a callable, got str"),
    "channels_last": ({"channels_last": 1}, TypeError, "channels_last as True or False, got int"),
    "a number": ({"checkpoint": 3}, TypeError, "checkpoint as the path of a file, got int"),
    "no folder": ({"checkpoint": "none/x"}, ValueError, "checkpoint in a folder that exists, got"),
    "a list": ({"state": [1]}, TypeError, "state as a mapping from names, got list"),
    "no name": ({"state": {1: []}}, TypeError, "the names in state as str, got int"),
    "a value": (
        {"state": {"x": 1}},
        TypeError,
        r"state\['x'\] as a torch.Generator, a list, .* int",
    ),
    "no state": ({"state": {"x": Odd()}}, TypeError, r"state\['x'\] as a .*, got Odd"),
}


@pytest.mark.parametrize("run", [epochs, fit])
@pytest.mark.parametrize("case", BAD)
def test_bad_arguments_are_refused_at_the_call(run, case):
    change, error, match = BAD[case]
    model, batches, optimizer = setting()
    with pytest.raises(error, match=f"expected {match}"):
        run(model, batches, standard(), optimizer, **({"n": 1} | change))


def test_a_schedule_or_average_of_something_else_is_refused():
    model, batches, optimizer = setting()
    again = torch.optim.SGD(model.parameters(), lr=0.1)
    schedule = torch.optim.lr_scheduler.StepLR(again, 1)
    with pytest.raises(ValueError, match="schedule of this optimizer, got one of another"):
        fit(model, batches, standard(), optimizer, n=1, schedule=schedule)
    average = AveragedModel(nn.Linear(2, 2))
    with pytest.raises(ValueError, match=r"average of this model, got one of another: .* missing"):
        fit(model, batches, standard(), optimizer, n=1, average=average)


def test_a_schedule_of_what_another_library_has_wrapped():
    model, batches, optimizer = setting()

    class Wrapped(type(optimizer)):
        def __init__(self, inner):
            self.__dict__ = {**inner.__dict__, "optimizer": inner}

    schedule = torch.optim.lr_scheduler.StepLR(optimizer, 1)
    fit(model, batches, standard(), Wrapped(optimizer), n=1, schedule=schedule)
    assert schedule.last_epoch == len(batches)


def test_a_schedule_that_needs_a_score_is_for_the_body():
    model, batches, optimizer = setting()
    plateau = torch.optim.lr_scheduler.ReduceLROnPlateau(optimizer)
    with pytest.raises(ValueError, match=r"without a score, got ReduceLROnPlateau; step it in"):
        fit(model, batches, standard(), optimizer, n=1, schedule=plateau)
