"""Checkpoints: a run that was stopped and goes on ends as one that was not."""

import copy
import pickle
import random
import subprocess
import sys
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn
from torch.optim.swa_utils import AveragedModel
from torch.utils.data import DataLoader, RandomSampler, TensorDataset

from advcal import trainers
from advcal.attacks import pgd
from advcal.trainers import Epoch, epochs, fit, standard


class StopError(Exception):
    pass


def setting(**options):
    """Return the arguments of a run that draws wherever it can, and what else it changes."""
    torch.manual_seed(0)
    random.seed(0)
    np.random.seed(0)  # noqa: NPY002
    model = nn.Sequential(nn.Linear(4, 8), nn.BatchNorm1d(8), nn.Dropout(0.3), nn.Linear(8, 3))
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-2)
    starts, order = torch.Generator().manual_seed(1), torch.Generator().manual_seed(2)
    rows = TensorDataset(torch.rand(20, 4), torch.randint(3, (20,)))
    loader = DataLoader(rows, batch_size=4, sampler=RandomSampler(rows, generator=order))
    state = {"starts": starts, "order": order, "history": [], "best": trainers.EarlyStopping()}
    arguments = {
        "model": model,
        "batches": loader,
        "objective": trainers.adversarial(partial(pgd, eps=0.1, steps=2, generator=starts)),
        "optimizer": optimizer,
        "n": 3,
        "schedule": torch.optim.lr_scheduler.StepLR(optimizer, 4, gamma=0.5),
        "average": AveragedModel(model),
        "state": state,
    }
    return arguments | options


def run(arguments, stop=None):
    """Train; stop with an error before the batch of a number, counted over all epochs."""
    objective, seen = arguments["objective"], 0

    def stopping(model, batch):
        nonlocal seen
        if seen == stop:
            raise StopError
        seen += 1
        return objective(model, batch)

    state = arguments["state"]
    for epoch in epochs(**(arguments | {"objective": stopping}), changed=["objective"]):
        draws = [random.random(), np.random.random()]  # noqa: NPY002
        state["history"].append([epoch.epoch, epoch.loss, *draws])
        state["best"].update(arguments["model"], -epoch.loss)
    return outcome(arguments)


def outcome(arguments):
    parts = [arguments["model"], arguments["average"], arguments["optimizer"]]
    state = arguments["state"]
    return copy.deepcopy(
        [
            [part.state_dict() for part in parts],
            state["history"],
            state["best"].state_dict(),
            state["starts"].get_state(),
            state["order"].get_state(),
            torch.get_rng_state(),
        ]
    )


def same(got, wanted):
    torch.testing.assert_close(got, wanted, rtol=0, atol=0)


@pytest.mark.parametrize("every", [None, 1, 2])
@pytest.mark.parametrize("accumulate", [1, 2])
def test_stopped_anywhere_and_gone_on_with(tmp_path, every, accumulate):
    wanted = run(setting(accumulate=accumulate))
    for stop in (1, 5, 8, 14):
        options = {"checkpoint": tmp_path / f"{stop}", "every": every, "accumulate": accumulate}
        with pytest.raises(StopError):
            run(setting(**options), stop)
        same(run(setting(**options)), wanted)


def test_twenty_kills(tmp_path):
    script = Path(__file__).with_name("killed.py")
    command = [sys.executable, str(script), str(tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert int(done.stdout.split()[-1]) >= 20


def test_stopped_in_the_body_the_epoch_is_yielded_again(tmp_path):
    path = tmp_path / "checkpoint"
    arguments = setting(checkpoint=path, every=2)
    numbers = []
    for epoch in epochs(**arguments):
        numbers.append(epoch.epoch)
        if epoch.epoch == 2:
            break
    numbers += [epoch.epoch for epoch in epochs(**setting(checkpoint=path, every=2))]
    assert numbers == [1, 2, 2, 3]


def test_what_the_body_changed_is_in_the_file(tmp_path):
    path = tmp_path / "checkpoint"
    arguments = setting(checkpoint=path)
    for epoch in epochs(**arguments):
        arguments["state"]["history"].append(epoch.loss)
    found = torch.load(path, weights_only=True)
    assert found["state"]["history"] == [loss for _, loss, _ in found["records"]]
    assert found["epoch"] == 4
    same(found["model"], arguments["model"].state_dict())


def test_fit_returns_the_records_of_before_too(tmp_path):
    path = tmp_path / "checkpoint"
    wanted = fit(**setting())
    assert fit(**setting(checkpoint=path, n=2)) == wanted[:2]
    assert fit(**setting(checkpoint=path)) == wanted
    assert fit(**setting(checkpoint=path)) == wanted  # there is nothing left to do
    assert all(type(record) is Epoch for record in fit(**setting(checkpoint=path)))
    assert list(epochs(**setting(checkpoint=path))) == []


def test_a_file_that_is_not_there_yet_changes_nothing(tmp_path):
    wanted = run(setting())
    same(run(setting(checkpoint=tmp_path / "checkpoint", every=1)), wanted)


def test_lists_and_dicts_are_put_back_in_place(tmp_path):
    path = tmp_path / "checkpoint"
    for kept in ([1, (2.5, "x")], {"a": [None, True]}):
        path.unlink(missing_ok=True)
        model = nn.Linear(2, 2)
        optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
        batches = [(torch.eye(2), torch.tensor([0, 1]))]
        other = type(kept)()
        options = {"n": 1, "checkpoint": path}
        fit(model, batches, standard(), optimizer, state={"kept": kept}, **options)
        fit(model, batches, standard(), optimizer, state={"kept": other}, **options)
        assert other == kept


def test_a_file_that_executes_is_refused(tmp_path):
    path = tmp_path / "checkpoint"
    for write in (torch.save, lambda value, file: file.write_bytes(pickle.dumps(value, 2))):
        write({"model": print}, path)
        with pytest.raises(ValueError, match="a checkpoint of epochs, got") as caught:
            fit(**setting(checkpoint=path))
        assert "weights_only" not in str(caught.value)
        assert caught.value.__cause__ is None


def test_nan_keeps_the_last_good_file(tmp_path):
    path = tmp_path / "checkpoint"
    arguments = setting(checkpoint=path, every=1)
    objective, seen = arguments["objective"], 0

    def failing(model, batch):
        nonlocal seen
        seen += 1
        return objective(model, batch) * (float("nan") if seen == 8 else 1)

    with pytest.raises(FloatingPointError, match="got nan in epoch 2, batch 3"):
        fit(**(arguments | {"objective": failing}))
    found = torch.load(path, weights_only=True)
    assert (found["epoch"], found["batch"]) == (2, 2)
    assert all(bool(value.isfinite().all()) for value in found["model"].values())


def test_weights_that_are_not_finite_are_not_written(tmp_path):
    path = tmp_path / "checkpoint"
    arguments = setting(checkpoint=path, every=1)
    objective, seen = arguments["objective"], 0

    def failing(model, batch):
        nonlocal seen
        seen += 1
        loss = objective(model, batch)
        if seen == 3:
            loss.register_hook(lambda gradient: gradient * float("nan"))
        return loss

    with pytest.raises(
        FloatingPointError, match=r"expected finite weights, .* at epoch 1, batch 3"
    ):
        fit(**(arguments | {"objective": failing}))
    assert torch.load(path, weights_only=True)["batch"] == 2


@pytest.mark.parametrize(
    ("value", "told"),
    [
        (object(), "got object"),
        (np.ones(2), r"got an array of float64 and shape \(2,\)"),
        (np.longdouble(1), "got longdouble|got float128"),
        (Path(), "got PosixPath"),
        ({1}, "got set"),
        (print, "got builtin_function_or_method"),
        (Epoch(1, 0.5, 2), "got Epoch"),
    ],
)
def test_what_is_not_plain_is_refused_before_the_first_step(tmp_path, value, told):
    arguments = setting(checkpoint=tmp_path / "checkpoint")
    arguments["state"]["history"].append({"loss": value})
    with pytest.raises(TypeError, match=rf"({told}) in state\['history'\]\[0\]\['loss'\]"):
        epochs(**arguments)
    assert list(tmp_path.iterdir()) == []


def test_numpy_numbers_are_plain_numbers(tmp_path):
    path = tmp_path / "checkpoint"

    def arguments(n):
        torch.manual_seed(0)
        model = nn.Linear(2, 2)
        optimizer = torch.optim.SGD(
            model.parameters(), lr=np.float64(0.1), momentum=np.float32(0.5)
        )
        warm = torch.optim.lr_scheduler.LambdaLR(
            optimizer, lambda step: np.interp([step], [0, 5, 10], [0, 1, 0])[0]
        )
        state = {"history": [np.float64(0.25), np.int64(3), {"a": (np.bool_(True), np.str_("x"))}]}
        options = {"n": n, "schedule": warm, "checkpoint": path, "state": state}
        batches = [(torch.eye(2), torch.tensor([0, 1]))] * 3
        return (model, batches, standard(), optimizer), options

    for n in (1, 2, 3):
        positional, options = arguments(n)
        fit(*positional, **options)
    found = torch.load(path, weights_only=True)
    assert found["state"]["history"] == [0.25, 3, {"a": (True, "x")}]
    assert [type(each) for each in found["state"]["history"][:2]] == [float, int]
    assert type(found["optimizer"]["param_groups"][0]["lr"]) is float
    wanted, options = arguments(3)
    del options["checkpoint"]
    fit(*wanted, **options)
    same(positional[0].state_dict(), wanted[0].state_dict())


def changed(name):
    arguments = setting()
    if name == "fewer names in state":
        del arguments["state"]["starts"]
    elif name == "more names in state":
        arguments["state"]["more"] = []
    else:
        arguments[name] = None
    return arguments


@pytest.mark.parametrize(
    "name", ["schedule", "average", "fewer names in state", "more names in state"]
)
def test_a_file_of_another_run_is_refused(tmp_path, name):
    path = tmp_path / "checkpoint"
    fit(**setting(checkpoint=path, n=1))
    with pytest.raises(ValueError, match=r"expected .* with .*, got one with"):
        fit(**(changed(name) | {"checkpoint": path}))


def test_a_file_of_something_else_is_refused(tmp_path):
    path = tmp_path / "weights"
    torch.save({"a": torch.ones(1)}, path)
    with pytest.raises(
        ValueError, match=r"weights to be a checkpoint of epochs, got a dict without"
    ):
        fit(**setting(checkpoint=path))
    whole = path.read_bytes()
    for part in (b"", b"{", *(whole[: len(whole) * i // 9] for i in range(1, 9)), whole[:-100]):
        path.write_bytes(part)
        with pytest.raises(ValueError, match="weights to be a checkpoint of epochs, got"):
            fit(**setting(checkpoint=path))


def test_a_file_of_another_run_is_refused_and_nothing_put_back(tmp_path):
    path = tmp_path / "checkpoint"
    fit(**setting(checkpoint=path, n=1))
    arguments = setting(checkpoint=path)
    for kind in (torch.optim.SGD, torch.optim.AdamW):
        optimizer = kind(arguments["model"].parameters(), lr=0.1)
        schedule = torch.optim.lr_scheduler.StepLR(optimizer, 4)
        before = copy.deepcopy(arguments["model"].state_dict())
        with pytest.raises(ValueError, match=f"of optimizer {kind.__name__}, got one of Adam"):
            fit(**arguments | {"optimizer": optimizer, "schedule": schedule})
        for name, value in arguments["model"].state_dict().items():
            assert torch.equal(value, before[name])
    wider = nn.Sequential(*list(arguments["model"])[:3], nn.Linear(8, 5))
    optimizer = torch.optim.Adam(wider.parameters(), lr=1e-2)
    schedule = torch.optim.lr_scheduler.StepLR(optimizer, 4)
    before = wider[0].weight.clone()
    other = {"model": wider, "optimizer": optimizer, "schedule": schedule}
    with pytest.raises(ValueError, match=r"'3.weight' is \(5, 8\) of float32 here and \(3, 8\)"):
        fit(**arguments | other | {"average": AveragedModel(wider)})
    assert torch.equal(wider[0].weight, before)
    groups = [{"params": layer.parameters()} for layer in arguments["model"]]
    optimizer = torch.optim.Adam(groups, lr=1e-2)
    schedule = torch.optim.lr_scheduler.StepLR(optimizer, 4)
    with pytest.raises(ValueError, match=r"groups of \[2, 2, 0, 2\] parameters, got one of \[6\]"):
        fit(**arguments | {"optimizer": optimizer, "schedule": schedule})


def test_fewer_epochs_than_the_file_has_are_refused(tmp_path):
    path = tmp_path / "checkpoint"
    records = fit(**setting(checkpoint=path))
    assert fit(**setting(checkpoint=path)) == records
    with pytest.raises(ValueError, match=r"expected n of 3 or more, which .* has, got 2"):
        fit(**setting(checkpoint=path, n=2))
    with pytest.raises(StopError):
        run(setting(checkpoint=path, n=5, every=1), 2)
    with pytest.raises(ValueError, match=r"expected n of 4 or more, which .* has, got 3"):
        fit(**setting(checkpoint=path, n=3), changed=["objective"])


@pytest.mark.parametrize("path", ["", "."])
def test_a_checkpoint_is_a_file(path):
    with pytest.raises(ValueError, match="checkpoint as the path of a file, got"):
        epochs(**setting(checkpoint=path))


def test_the_optimizer_is_of_the_model():
    other = torch.optim.SGD(nn.Linear(2, 2).parameters(), lr=0.1)
    with pytest.raises(ValueError, match="optimizer of the model's parameters, got one of none"):
        epochs(**setting(optimizer=other, schedule=None))


def test_an_optimizer_that_asks_for_the_loss_again_is_refused():
    arguments = setting(schedule=None)
    optimizer = torch.optim.LBFGS(arguments["model"].parameters())
    with pytest.raises(TypeError, match="got LBFGS, whose step wants a closure"):
        epochs(**arguments | {"optimizer": optimizer})


def test_fewer_batches_than_before_the_stop(tmp_path):
    path = tmp_path / "checkpoint"
    with pytest.raises(StopError):
        run(setting(checkpoint=path, every=1), 4)
    arguments = setting(checkpoint=path)
    arguments["batches"] = [(torch.rand(4, 4), torch.randint(3, (4,)))]
    with pytest.raises(ValueError, match=r"with data length 1, got one of another, with 5"):
        fit(**arguments, changed=["objective"])
    with pytest.raises(ValueError, match="expected 4 batches or more, as before the stop, got 1"):
        fit(**arguments, changed=["objective", "data"])


@pytest.mark.parametrize(
    "make",
    [
        lambda o: torch.optim.lr_scheduler.MultiStepLR(o, [1, 2]),
        lambda o: torch.optim.lr_scheduler.OneCycleLR(o, 0.1, total_steps=9),
        lambda o: torch.optim.lr_scheduler.LambdaLR(o, lambda step: 0.9**step),
        lambda o: torch.optim.lr_scheduler.SequentialLR(
            o,
            [torch.optim.lr_scheduler.LinearLR(o), torch.optim.lr_scheduler.ExponentialLR(o, 0.9)],
            [2],
        ),
    ],
    ids=["multistep", "one cycle", "lambda", "sequential"],
)
@pytest.mark.parametrize("kind", [torch.optim.AdamW, torch.optim.RMSprop, torch.optim.SGD])
# In old versions SequentialLR warns of how it calls its own schedules.
@pytest.mark.filterwarnings("ignore:The epoch parameter in `scheduler.step")
def test_every_schedule_and_optimizer(tmp_path, make, kind):
    def arguments(n, checkpoint):
        torch.manual_seed(0)
        model = nn.Linear(4, 3)
        optimizer = kind(model.parameters(), lr=0.01)
        batches = [(torch.rand(4, 4), torch.randint(3, (4,))) for _ in range(3)]
        options = {"n": n, "schedule": make(optimizer), "checkpoint": checkpoint}
        return model, (model, batches, standard(), optimizer), options

    wanted, positional, options = arguments(2, None)
    fit(*positional, **options)
    path = tmp_path / "checkpoint"
    for n in (1, 2):
        got, positional, options = arguments(n, path)
        fit(*positional, **options)
    same(got.state_dict(), wanted.state_dict())
