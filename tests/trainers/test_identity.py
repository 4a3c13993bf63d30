"""A checkpoint belongs to one run: what differs is said before anything is put back."""

import copy
import os
from functools import partial

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn.parallel import DataParallel
from torch.optim import SGD, AdamW, lr_scheduler
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn
from torch.utils.data import DataLoader, TensorDataset

from advcal import trainers
from advcal.attacks import pgd
from advcal.trainers import EarlyStopping, adversarial, epochs, fit, standard
from advcal.trainers._identity import common
from advcal.trainers._told import told


def data(seed=3, n=12):
    generator = torch.Generator().manual_seed(seed)
    return torch.rand(n, 4, generator=generator), torch.arange(n) % 3


def setting(optimizer=None, **options):
    """Return the arguments of a run."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(4, 5), nn.ReLU(), nn.Linear(5, 3))
    optimizer = (optimizer or partial(SGD, lr=0.1, momentum=0.9))(model.parameters())
    schedule = options.pop("schedule", partial(lr_scheduler.StepLR, step_size=3))
    average = options.pop("average", None)
    arguments = {
        "model": model,
        "batches": DataLoader(TensorDataset(*data()), batch_size=4, shuffle=True),
        "objective": standard(),
        "optimizer": optimizer,
        "schedule": schedule and schedule(optimizer),
        "average": average and average(model),
        "n": 2,
    }
    return arguments | options


def ema(decay):
    return lambda model: AveragedModel(model, multi_avg_fn=get_ema_multi_avg_fn(decay))


def loader(rows, **options):
    return DataLoader(TensorDataset(*rows), batch_size=4, shuffle=True, **options)


def weighed(weight):
    return lambda model, batch: weight * standard()(model, batch)


def on_attacked(attack):
    return lambda model, batch: adversarial(attack)(model, batch)


class Methods:
    def first(self, model, batch):
        return standard()(model, batch)

    def second(self, model, batch):
        return 2 * standard()(model, batch)


def smoothing(step_size):
    rest = data(seed=9)
    return trainers.adaptive_smoothing([data()], [rest], 3, n_levels=1, step_size=step_size)


def falling(factor):
    return lambda optimizer: lr_scheduler.LambdaLR(optimizer, lambda step: factor**step)


ATTACK = partial(pgd, eps=0.1, steps=1)
# What this run has and the other has not: options of one and of the other, and what is told.
OTHERS = {
    "lr": ("optimizer", {"optimizer": partial(SGD, lr=0.5, momentum=0.9)}, {}, "lr 0.5.* 0.1"),
    "momentum": ("optimizer", {"optimizer": partial(SGD, lr=0.1)}, {}, "momentum 0.* with 0.9"),
    "nesterov": (
        "optimizer",
        {"optimizer": partial(SGD, lr=0.1, momentum=0.9, nesterov=True)},
        {},
        "nesterov True.* False",
    ),
    "lr that the schedule comes to": (
        "optimizer",
        {"optimizer": partial(SGD, lr=0.01, momentum=0.9)},
        {},
        "lr 0.01.* 0.1",
    ),
    "kind": ("optimizer", {"optimizer": partial(AdamW, lr=0.1)}, {}, "AdamW, got one of SGD"),
    "objective": ("objective", {"objective": adversarial(ATTACK)}, {}, "adversarial.*standard"),
    "loss": (
        "objective",
        {"objective": standard(loss=nn.functional.multi_margin_loss)},
        {},
        r"standard\(loss=multi_margin_loss\)",
    ),
    "eps": (
        "objective",
        {"objective": adversarial(partial(ATTACK, eps=0.2))},
        {"objective": adversarial(ATTACK)},
        "eps=0.2.*eps=0.1",
    ),
    "a lambda": (
        "objective",
        {"objective": lambda model, batch: 2 * standard()(model, batch)},
        {"objective": lambda model, batch: standard()(model, batch)},
        "<lambda> .code .*<lambda> .code",
    ),
    "a lambda in it": (
        "objective",
        {"objective": standard(loss=lambda z, y: nn.functional.cross_entropy(z, y))},
        {"objective": standard(loss=lambda z, y: nn.functional.cross_entropy(z, y) * 2)},
        "loss=.*code .*loss=.*code",
    ),
    "what a function closes over": (
        "objective",
        {"objective": weighed(2.0)},
        {"objective": weighed(1.0)},
        "objective values .*, with ",
    ),
    "an attack that a function closes over": (
        "objective",
        {"objective": on_attacked(partial(ATTACK, eps=0.2))},
        {"objective": on_attacked(ATTACK)},
        "objective values .*, with ",
    ),
    "a default": (
        "objective",
        {"objective": lambda model, batch, weight=2.0: weight * standard()(model, batch)},
        {"objective": lambda model, batch, weight=1.0: weight * standard()(model, batch)},
        "objective values .*, with ",
    ),
    "a method": (
        "objective",
        {"objective": Methods().second},
        {"objective": Methods().first},
        "code .*code",
    ),
    "what a loss of torch does not print": (
        "objective",
        {"objective": standard(loss=nn.CrossEntropyLoss(label_smoothing=0.1))},
        {"objective": standard(loss=nn.CrossEntropyLoss())},
        "objective values .*, with ",
    ),
    "weights of a loss of torch": (
        "objective",
        {"objective": standard(loss=nn.CrossEntropyLoss(weight=torch.tensor([1.0, 2.0, 1.0])))},
        {"objective": standard(loss=nn.CrossEntropyLoss(weight=torch.ones(3)))},
        "objective values .*, with ",
    ),
    "adaptive smoothing": (
        "objective",
        {"objective": smoothing(0.1)},
        {"objective": smoothing(0.2)},
        "step_size=0.1.*step_size=0.2",
    ),
    "what a schedule closes over": (
        "schedule",
        {"schedule": falling(0.5)},
        {"schedule": falling(0.9)},
        "lr_lambda 0 values .*, with ",
    ),
    "accumulate": ("accumulate", {"accumulate": 2}, {}, "accumulate 2, .* with 1"),
    "max_norm": ("max_norm", {"max_norm": np.float64(1)}, {}, "max_norm 1.0, .* with None"),
    "autocast": ("autocast", {"autocast": torch.bfloat16}, {}, "autocast torch.bfloat16, .* None"),
    "schedule": (
        "schedule",
        {"schedule": lr_scheduler.ConstantLR},
        {},
        "schedule ConstantLR, got one of StepLR",
    ),
    "gamma": (
        "schedule",
        {"schedule": partial(lr_scheduler.StepLR, step_size=3, gamma=0.5)},
        {},
        "schedule gamma 0.5, .* with 0.1",
    ),
    "no schedule": ("schedule", {"schedule": None}, {}, "got one with schedule"),
    "decay": ("average", {"average": ema(0.9)}, {"average": ema(0.99)}, r"0.9\].* .*0.99\]"),
    "other data": ("data", {"batches": loader(data(4))}, {}, "first batch has the digest"),
    "other labels": (
        "data",
        {"batches": loader((data()[0], data()[1].flip(0)))},
        {},
        "first batch has the digest",
    ),
    "more data": ("data", {"batches": loader(data(n=16))}, {}, "data length 4, .* with 3"),
}


@pytest.mark.parametrize("name", OTHERS)
def test_another_run_is_refused_by_what_differs_unless_it_is_meant_to(tmp_path, name):
    family, here, there, told = OTHERS[name]
    path = tmp_path / "checkpoint"
    fit(**setting(**there, n=1), checkpoint=path)
    before, state = path.read_bytes(), torch.get_rng_state()
    arguments = setting(**here)
    torch.set_rng_state(state)
    untouched = copy.deepcopy(
        [arguments["model"].state_dict(), arguments["optimizer"].state_dict()]
    )
    with pytest.raises(ValueError, match=rf"(?s)expected {path} .*{told}"):
        fit(**arguments, checkpoint=path)
    for now, then in zip([arguments["model"], arguments["optimizer"]], untouched, strict=True):
        torch.testing.assert_close(now.state_dict(), then, rtol=0, atol=0)
    assert torch.equal(torch.get_rng_state(), state)
    assert path.read_bytes() == before
    arguments = setting(**here)
    records = fit(**arguments, checkpoint=path, changed=[family])
    assert [record.epoch for record in records] == [1, 2]
    if name in ("lr", "momentum"):
        group = arguments["optimizer"].param_groups[0]
        assert (group["momentum"], group["initial_lr"]) == (
            (0.9, 0.5) if name == "lr" else (0, 0.1)
        )
    assert len(fit(**setting(**here), checkpoint=path)) == 2  # the file is now of this run


@pytest.mark.parametrize("library", ["advcal", "torch"])
def test_another_version_is_told(tmp_path, library):
    path = tmp_path / "checkpoint"
    fit(**setting(n=1), checkpoint=path)
    found = torch.load(path, weights_only=True)
    found["settings"][library] = "0.0.1"
    torch.save(found, path)
    with pytest.raises(ValueError, match=rf"with {library} .*, got one of another, with 0.0.1"):
        fit(**setting(), checkpoint=path)
    fit(**setting(), checkpoint=path, changed=[library])


def test_what_the_run_itself_moves_is_no_other_run(tmp_path):
    """In one job the optimizer is not as it was constructed; in the next it is again."""
    path = tmp_path / "checkpoint"
    one_cycle = partial(lr_scheduler.OneCycleLR, max_lr=0.2, total_steps=30)
    wanted = setting(schedule=one_cycle, n=3)
    records = fit(**wanted)
    arguments = setting(schedule=one_cycle, n=1)
    fit(**arguments, checkpoint=path)
    assert fit(**arguments | {"n": 2}, checkpoint=path) == records[:2]
    again = setting(schedule=one_cycle, n=3)
    assert fit(**again, checkpoint=path) == records
    torch.testing.assert_close(
        again["model"].state_dict(), wanted["model"].state_dict(), rtol=0, atol=0
    )


def test_a_loader_with_a_generator_of_its_own_goes_on_too(tmp_path):
    path = tmp_path / "checkpoint"

    def arguments(n):
        own = torch.Generator().manual_seed(5)
        return setting(batches=loader(data(), generator=own), n=n)

    wanted = fit(**arguments(3))
    assert fit(**arguments(1), checkpoint=path) == wanted[:1]
    assert fit(**arguments(3), checkpoint=path) == wanted


def test_data_that_are_drawn_anew_must_be_said(tmp_path):
    class Anew:
        def __iter__(self):
            yield (
                torch.from_numpy(np.random.default_rng().random((4, 4))).float(),
                torch.arange(4) % 3,
            )

    path = tmp_path / "checkpoint"
    fit(**setting(batches=Anew(), n=1), checkpoint=path)
    with pytest.raises(ValueError, match="drawn anew each time"):
        fit(**setting(batches=Anew()), checkpoint=path)
    fit(**setting(batches=Anew()), checkpoint=path, changed=("data",))


@pytest.mark.parametrize(
    ("changed", "error"),
    [("data", TypeError), (None, TypeError), (["lr"], ValueError), ([1], ValueError)],
)
def test_what_is_changed_has_a_name(changed, error):
    with pytest.raises(error, match="expected changed"):
        epochs(**setting(), changed=changed)


# --- damage ----------------------------------------------------------------------------------


def spoil(*keys, to):
    def change(found):
        for key in keys[:-1]:
            found = found[key]
        found[keys[-1]] = to(found[keys[-1]]) if callable(to) else to

    return change


SPOILT = {
    "epoch": spoil("epoch", to=0),
    "epoch of another kind": spoil("epoch", to="2"),
    "epoch and records": spoil("epoch", to=7),
    "batch": spoil("batch", to=-1),
    "total": spoil("total", to=float("nan")),
    "records": spoil("records", to=[(1, 0.5)]),
    "records' loss": spoil("records", to=[(1, float("inf"), 12)]),
    "model": spoil("model", to=[]),
    "weights": spoil("model", "0.weight", to=float("nan") * torch.ones(5, 4)),
    "shape": spoil("model", "0.weight", to=lambda value: value[:4]),
    "dtype": spoil("model", "0.weight", to=lambda value: value.double()),
    "kind of a weight": spoil("model", "0.weight", to=1.0),
    "a weight more": spoil("model", "9.weight", to=torch.ones(1)),
    "optimizer": spoil("optimizer", to={}),
    "groups": spoil("optimizer", "param_groups", to=[]),
    "lr": spoil("optimizer", "param_groups", 0, "lr", to="0.1"),
    "lr NaN": spoil("optimizer", "param_groups", 0, "lr", to=float("nan")),
    "parameters": spoil("optimizer", "param_groups", 0, "params", to=[3, 2, 1, 0]),
    "momentum": spoil("optimizer", "state", 0, "momentum_buffer", to=torch.ones(7, 7)),
    "state of nothing": spoil("optimizer", "state", 9, to={}),
    "schedule": spoil("schedule", to={"step_size": 3}),
    "last epoch": spoil("schedule", "last_epoch", to="3"),
    "settings": spoil("settings", to=None),
    "state": spoil("state", "history", to={"a": 1}),
    "stopping": spoil("state", "stopping", "epoch", to=-1),
    "no random states": spoil("random", to=[]),
    "random": spoil("random", 0, "start", "torch", to=torch.ones(3)),
    "random of torch": spoil("random", 0, "now", "torch", to=torch.ones(5056, dtype=torch.uint8)),
    "random of Python": spoil("random", 0, "start", "python", to=(3, (1, 2), None)),
    "random of NumPy": spoil(
        "random", 0, "begin", "numpy", to=("MT19937", [2**80] * 624, 1, 0, 0.0)
    ),
    "digest": spoil("random", 0, "first", to=3),
}


@pytest.mark.parametrize("name", SPOILT)
def test_what_is_read_is_checked_before_anything_is_put_back(tmp_path, name):
    path = tmp_path / "checkpoint"

    def run(n):
        state = {"history": [], "stopping": EarlyStopping()}
        return setting(n=n, state=state)

    fit(**run(1), checkpoint=path)
    found = torch.load(path, weights_only=True)
    SPOILT[name](found)
    torch.save(found, path)
    arguments = run(2)
    before = copy.deepcopy(arguments["model"].state_dict())
    with pytest.raises(ValueError, match="expected ") as caught:
        fit(**arguments, checkpoint=path)
    assert str(path) in str(caught.value)
    torch.testing.assert_close(arguments["model"].state_dict(), before, rtol=0, atol=0)
    assert sorted(os.listdir(tmp_path)) == ["checkpoint"]


# --- two writers, links ----------------------------------------------------------------------


def test_a_second_run_on_the_file_is_refused_while_the_first_is_at_it(tmp_path):
    path = tmp_path / "checkpoint"
    first = epochs(**setting(), checkpoint=path)
    next(first)
    with pytest.raises(BlockingIOError, match=f"expected {path} to be written by one at a time"):
        fit(**setting(), checkpoint=path)
    fit(**setting(), checkpoint=tmp_path / "other")
    list(first)
    assert len(fit(**setting(), checkpoint=path)) == 2
    assert sorted(os.listdir(tmp_path)) == ["checkpoint", "other"]


def test_a_link_to_a_checkpoint_stays_one(tmp_path):
    target, link = tmp_path / "target", tmp_path / "link"
    link.symlink_to(target)
    fit(**setting(n=1), checkpoint=link)
    assert len(fit(**setting(), checkpoint=link)) == 2
    assert link.is_symlink()
    assert torch.load(target, weights_only=True)["epoch"] == 3


# --- wrappers --------------------------------------------------------------------------------


class Fabric(nn.Module):
    """The names of Lightning Fabric's wrapper."""

    def __init__(self, module):
        super().__init__()
        self._forward_module = module

    def forward(self, inputs):
        return self._forward_module(inputs)


def eager(module):
    return torch.compile(module, backend="eager")


def part(wrap):
    """Wrap a part of a model instead of all of it."""

    def wrapped(model):
        model[0] = wrap(model[0])
        return model

    return wrapped


WRAPPERS = {
    "none": lambda model: model,
    "parallel": DataParallel,
    "Fabric": Fabric,
    "compiled": eager,
    "compiled in Fabric": lambda model: Fabric(eager(model)),
    "Fabric, compiled": lambda model: eager(Fabric(model)),
    "parallel, compiled": lambda model: eager(DataParallel(model)),
    "a part compiled": part(eager),
    "a part parallel": part(DataParallel),
    "a part in two": part(lambda module: Fabric(eager(module))),
    "all and a part": lambda model: DataParallel(part(eager)(model)),
}


@pytest.mark.parametrize("name", WRAPPERS)
def test_weights_have_their_plain_names_in_every_file(tmp_path, name):
    path = tmp_path / "checkpoint"
    torch.manual_seed(0)
    plain = nn.Sequential(nn.Linear(4, 5), nn.ReLU(), nn.Linear(5, 3))
    wanted = list(plain.state_dict())

    def run(wrap, n):
        torch.manual_seed(1)
        model = wrap(copy.deepcopy(plain))
        optimizer = SGD(model.parameters(), lr=0.1)
        average, stopping = AveragedModel(model), EarlyStopping()
        batches = [tuple(part[:4] for part in data())]
        options = {"average": average, "checkpoint": path, "state": {"stopping": stopping}}
        for _ in epochs(model, batches, standard(), optimizer, n=n, **options):
            stopping.update(model, 0.5)
        stopping.restore(model)
        return model

    run(WRAPPERS[name], 1)
    found = torch.load(path, weights_only=True)
    assert list(found["model"]) == list(found["state"]["stopping"]["weights"]) == wanted
    assert list(found["average"]) == ["n_averaged", *(f"module.{each}" for each in wanted)]
    fresh = copy.deepcopy(plain)
    fresh.load_state_dict(found["model"])
    run(WRAPPERS["none"], 2)  # a file of one goes on in the other
    run(WRAPPERS[name], 2)


def test_what_a_function_moves_itself_is_no_other_run(tmp_path):
    path, calls, seen = tmp_path / "checkpoint", 0, []

    def objective(model, batch):
        nonlocal calls
        calls += 1
        seen.append(batch)
        return standard()(model, batch)

    fit(**setting(objective=objective, n=1), checkpoint=path)
    assert len(fit(**setting(objective=objective, n=2), checkpoint=path)) == 2
    assert calls == len(seen) > 3


def test_what_a_function_holds_may_differ_between_processes():
    one, other = (told("objective", weighed(1 / (1 + rank))) for rank in (0, 1))
    assert one != other
    assert told("objective", weighed(0)) == told("objective", weighed(1))  # ranks, for instance
    assert common(one) == common(other) == {"objective": one["objective"]}


def test_the_objective_is_told_by_its_call():
    attack = partial(pgd, eps=0.1)
    assert trainers.trades(attack) == trainers.trades(partial(pgd, eps=0.1))
