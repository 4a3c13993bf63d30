"""The training loop: a generator that does what a loop by hand does."""

import copy
import math
from functools import partial

import pytest
import torch
from torch import nn
from torch.nn.functional import cross_entropy

from advcal import trainers
from advcal.attacks import fgsm
from advcal.trainers import Epoch, epochs, fit, standard


def setting(seed=0):
    torch.manual_seed(seed)
    model = nn.Sequential(nn.Linear(4, 8), nn.BatchNorm1d(8), nn.Dropout(0.3), nn.Linear(8, 3))
    batches = [(torch.rand(n, 4), torch.randint(3, (n,))) for n in (6, 6, 3)]
    return model, batches, torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)


def tiny_cnn(seed=0):
    torch.manual_seed(seed)
    model = nn.Sequential(
        nn.Conv2d(3, 4, 3, padding=1),
        nn.BatchNorm2d(4),
        nn.ReLU(),
        nn.AdaptiveAvgPool2d(2),
        nn.Flatten(),
        nn.Linear(16, 3),
    )
    batches = [(torch.rand(6, 3, 8, 8), torch.randint(3, (6,))) for _ in range(2)]
    return model, batches, torch.optim.Adam(model.parameters(), lr=1e-2)


def assert_same_state(model, state):
    assert model.state_dict().keys() == state.keys()
    for name, value in model.state_dict().items():
        assert torch.equal(value, state[name]), name


def state_of(model):
    return copy.deepcopy(model.state_dict())


# --- what it does ----------------------------------------------------------------------------


@pytest.mark.parametrize(
    "objective", [standard(), trainers.adversarial(partial(fgsm, eps=0.1))], ids=["plain", "fgsm"]
)
def test_same_weights_and_losses_as_a_loop_by_hand(objective):
    model, batches, optimizer = setting()
    torch.manual_seed(1)
    wanted = []
    for number in range(1, 4):
        model.train()
        total = 0.0
        for batch in batches:
            optimizer.zero_grad()
            loss = objective(model, batch)
            loss.backward()
            optimizer.step()
            total += loss.item() * len(batch[0])
        wanted.append(Epoch(number, total / 15, 15))
    state = state_of(model)

    model, batches, optimizer = setting()
    torch.manual_seed(1)
    assert list(epochs(model, batches, objective, optimizer, n=3)) == wanted
    assert_same_state(model, state)


def test_fit_is_the_list_of_epochs():
    model, batches, optimizer = setting()
    wanted = list(epochs(model, batches, standard(), optimizer, n=3))
    state = state_of(model)
    model, batches, optimizer = setting()
    assert fit(model, batches, standard(), optimizer, n=3) == wanted
    assert_same_state(model, state)


def test_records():
    model, batches, _ = setting()
    standing_still = torch.optim.SGD(model.parameters(), lr=0.0)
    model[2].p = 0.0
    records = fit(model, batches, standard(), standing_still, n=2)
    with torch.no_grad():
        total = sum(float(cross_entropy(model(x), y, reduction="sum")) for x, y in batches)
    assert [type(record) for record in records] == [Epoch, Epoch]
    assert [record.epoch for record in records] == [1, 2]
    assert [record.n for record in records] == [15, 15]
    for record in records:  # weighted by the examples of each batch
        assert record.loss == pytest.approx(total / 15, rel=1e-6)
        assert type(record.loss) is float


@pytest.mark.parametrize("n", [1, 2, 5])
def test_one_record_per_epoch(n):
    model, batches, optimizer = setting()
    assert len(list(epochs(model, batches, standard(), optimizer, n=n))) == n


def test_it_learns():
    model, batches, optimizer = setting()
    records = fit(model, batches, standard(), optimizer, n=30)
    assert records[-1].loss < 0.8 * records[0].loss


def test_break_ends_training_there():
    model, batches, optimizer = setting()
    fit(model, batches, standard(), optimizer, n=2)
    state = state_of(model)
    model, batches, optimizer = setting()
    for epoch in epochs(model, batches, standard(), optimizer, n=10):
        if epoch.epoch == 2:
            break
    assert_same_state(model, state)


def test_no_epoch_runs_before_it_is_asked_for():
    model, batches, optimizer = setting()
    state = state_of(model)
    run = epochs(model, batches, standard(), optimizer, n=2)
    assert_same_state(model, state)
    next(run)
    assert model[1].num_batches_tracked == 3
    next(run)
    assert model[1].num_batches_tracked == 6
    with pytest.raises(StopIteration):
        next(run)


def test_each_epoch_puts_the_model_into_train_mode():
    model, batches, optimizer = setting()
    model.eval()
    modes = []

    def objective(model, batch):
        modes.append(model.training)
        return standard()(model, batch)

    for _ in epochs(model, batches, objective, optimizer, n=2):
        model.eval()  # as a validation in the body would leave it
    assert modes == [True] * 6


def test_schedules_live_in_the_body():
    model, batches, optimizer = setting()
    schedule = torch.optim.lr_scheduler.StepLR(optimizer, 1, gamma=0.1)
    rates = []
    for _ in epochs(model, batches, standard(), optimizer, n=3):
        rates.append(optimizer.param_groups[0]["lr"])
        schedule.step()
    assert rates == pytest.approx([0.1, 0.01, 0.001])


def test_a_data_loader_with_more_than_inputs_and_labels():
    model, batches, optimizer = setting()
    data = torch.utils.data.TensorDataset(*batches[0], torch.arange(6))
    seen = []

    def objective(model, batch):
        inputs, labels, rest = batch
        seen.extend(rest.tolist())
        return cross_entropy(model(inputs), labels)

    loader = torch.utils.data.DataLoader(data, batch_size=3, shuffle=True)
    fit(model, loader, objective, optimizer, n=2)
    assert sorted(seen[:6]) == sorted(seen[6:]) == list(range(6))


def test_batches_are_not_modified():
    model, batches, optimizer = setting()
    before = copy.deepcopy(batches)
    fit(model, batches, trainers.adversarial(partial(fgsm, eps=0.1)), optimizer, n=1)
    torch.testing.assert_close(batches, before, rtol=0, atol=0)


def test_gradients_from_before_are_dropped():
    model, batches, optimizer = setting()
    fit(model, batches, standard(), optimizer, n=1)
    state = state_of(model)
    model, batches, optimizer = setting()
    for parameter in model.parameters():
        parameter.grad = torch.full_like(parameter, 1e6)
    fit(model, batches, standard(), optimizer, n=1)
    assert_same_state(model, state)


# --- options ---------------------------------------------------------------------------------


def test_autocast_computes_in_bfloat16_and_keeps_float32_weights():
    model, batches, optimizer = tiny_cnn()
    seen = []
    objective = trainers.adversarial(partial(fgsm, eps=0.1))

    def watched(model, batch):
        seen.append(model[0](batch[0]).dtype)
        return objective(model, batch)

    records = fit(model, batches, watched, optimizer, n=2, autocast=torch.bfloat16)
    assert set(seen) == {torch.bfloat16}
    assert all(math.isfinite(record.loss) for record in records)
    assert all(parameter.dtype == torch.float32 for parameter in model.parameters())
    assert not torch.is_autocast_enabled("cpu")


def test_channels_last_lays_out_weights_and_inputs():
    model, batches, optimizer = tiny_cnn()
    plain = fit(model, batches, standard(), optimizer, n=2)
    model, batches, optimizer = tiny_cnn()

    def objective(model, batch):
        assert batch[0].is_contiguous(memory_format=torch.channels_last)
        assert not batch[0].is_contiguous()
        return standard()(model, batch)

    records = fit(model, batches, objective, optimizer, n=2, channels_last=True)
    assert model[0].weight.is_contiguous(memory_format=torch.channels_last)
    assert [record.loss for record in records] == pytest.approx([e.loss for e in plain], rel=1e-4)
    assert batches[0][0].is_contiguous()


def test_channels_last_and_autocast_together_and_flat_inputs():
    model, batches, optimizer = tiny_cnn()
    options = {"channels_last": True, "autocast": torch.bfloat16}
    assert len(fit(model, batches, standard(), optimizer, n=1, **options)) == 1
    model, batches, optimizer = setting()
    assert len(fit(model, batches, standard(), optimizer, n=1, **options)) == 1


def test_progress_wraps_the_batches_of_each_epoch():
    model, batches, optimizer = setting()
    wrapped, shown = [], []

    def progress(iterable):
        wrapped.append(iterable)
        for item in iterable:
            shown.append(len(item[0]))
            yield item

    fit(model, batches, standard(), optimizer, n=2, progress=progress)
    assert [iterable is batches for iterable in wrapped] == [True, True]  # len() is at hand
    assert shown == [6, 6, 3] * 2


# --- bad input -------------------------------------------------------------------------------


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
def test_a_loss_that_is_not_finite_stops_before_the_weights_take_it(bad):
    model, batches, optimizer = setting()
    states = []

    def objective(model, batch):
        states.append(copy.deepcopy(list(model.parameters())))
        loss = standard()(model, batch)
        return loss * bad if len(states) == 5 else loss

    run = epochs(model, batches, objective, optimizer, n=3)
    assert next(run).epoch == 1
    with pytest.raises(FloatingPointError, match=r"expected a finite loss, got .* in epoch 2"):
        next(run)
    for parameter, before in zip(model.parameters(), states[-1], strict=True):
        assert torch.equal(parameter, before)
    assert len(states) == 5


def test_an_iterator_that_is_used_up_is_refused():
    model, batches, optimizer = setting()
    run = epochs(model, iter(batches), standard(), optimizer, n=2)
    assert next(run).n == 15
    with pytest.raises(ValueError, match="expected batches in epoch 2, got none; an iterator"):
        next(run)
    assert len(fit(model, iter(batches), standard(), optimizer, n=1)) == 1


def test_no_batches():
    model, _, optimizer = setting()
    with pytest.raises(ValueError, match="expected batches in epoch 1, got none"):
        fit(model, [], standard(), optimizer, n=1)


BAD = {
    "a callable": ({"model": lambda x: x}, TypeError, "model as a torch.nn.Module, got function"),
    "no objective": ({"objective": None}, TypeError, "objective as a callable, got NoneType"),
    "no optimizer": ({"optimizer": None}, TypeError, "optimizer as a torch.optim.Optimizer, got"),
    "parameters": ({"optimizer": [torch.ones(1)]}, TypeError, "optimizer .*got list"),
    "no epochs": ({"n": 0}, ValueError, "n >= 1, got 0"),
    "half an epoch": ({"n": 0.5}, TypeError, "n as an int, got float"),
    "true epochs": ({"n": True}, TypeError, "n as an int, got bool"),
    "autocast by name": ({"autocast": "bfloat16"}, TypeError, "autocast as a floating torch.dtype"),
    "integer autocast": ({"autocast": torch.int8}, TypeError, "autocast as a floating torch.dtype"),
    "true autocast": (
        {"autocast": True},
        TypeError,
        "autocast as a floating torch.dtype .*got True",
    ),
}


@pytest.mark.parametrize("run", [epochs, fit])
@pytest.mark.parametrize("case", BAD)
def test_bad_arguments_are_refused_at_the_call(run, case):
    change, error, match = BAD[case]
    model, batches, optimizer = setting()
    arguments = {
        "model": model,
        "batches": batches,
        "objective": standard(),
        "optimizer": optimizer,
        "n": 1,
    }
    state = state_of(model)
    with pytest.raises(error, match=f"expected {match}"):
        run(**(arguments | change))
    assert_same_state(model, state)


BATCH = (torch.rand(3, 4), torch.randint(3, (3,)))


@pytest.mark.parametrize(
    ("batch", "match"),
    [
        (BATCH[0], "got a tensor of torch.float32"),
        ({"inputs": BATCH[0], "labels": BATCH[1]}, "got dict"),
        (BATCH[:1], "got tuple of length 1"),
        ([], "got list of length 0"),
        (None, "got NoneType"),
    ],
)
def test_wrong_batches(batch, match):
    model, _, optimizer = setting()
    wanted = rf"expected batches as \(inputs, labels, ...\), {match}.* in batch 2$"
    with pytest.raises(TypeError, match=wanted):
        fit(model, [BATCH, batch], standard(), optimizer, n=1)


def test_an_error_of_the_objective_notes_the_batch():
    model, _, optimizer = setting()
    batches = [BATCH, (BATCH[0], BATCH[1] + 3)]
    with pytest.raises(ValueError, match=r"expected labels from 0 to 2, got [345]") as caught:
        fit(model, batches, standard(), optimizer, n=1)
    assert caught.value.__notes__ == ["in epoch 1, batch 2"]


@pytest.mark.parametrize("reduction", ["none", "one"])
def test_an_objective_that_is_no_scalar(reduction):
    model, batches, optimizer = setting()

    def objective(model, batch):
        losses = cross_entropy(model(batch[0]), batch[1], reduction="none")
        return losses if reduction == "none" else losses.sum()[None]

    with pytest.raises(ValueError, match="expected the objective to give a scalar, got a tensor"):
        fit(model, batches, objective, optimizer, n=1)


def test_an_objective_that_gives_a_number():
    model, batches, optimizer = setting()
    with pytest.raises(ValueError, match="expected the objective to give a scalar, got float"):
        fit(model, batches, lambda model, batch: 1.0, optimizer, n=1)
