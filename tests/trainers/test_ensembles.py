"""The ensemble's two loops: members one after the other, and side by side."""

import random
from collections import Counter
from functools import partial

import numpy as np
import pytest
import torch
from torch import nn

from advcal import trainers
from advcal.attacks import pgd
from tests.trainers.test_objectives import setting

BATCH = setting()[1:]
PGD = partial(pgd, eps=0.1, steps=2)


def network():
    return nn.Sequential(nn.Linear(4, 8), nn.BatchNorm1d(8), nn.Dropout(0.2), nn.Linear(8, 3))


def trained(seed, checkpoint, n=3, steps=None):
    """Train with everything that is random: weights, order, dropout, NumPy's and Python's draws."""
    model = network()

    def objective(model, batch):
        if steps is not None:
            steps[seed] += 1
            if sum(steps.values()) == 7:
                raise KeyboardInterrupt
        noise = np.random.rand() + random.random()  # noqa: NPY002
        inputs, labels = batch
        return trainers.standard()(model, (inputs + noise, labels))

    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
    data = torch.utils.data.TensorDataset(*BATCH)
    loader = torch.utils.data.DataLoader(data, batch_size=3, shuffle=True)
    trainers.fit(model, loader, objective, optimizer, n=n, checkpoint=checkpoint, every=1)
    return model


def weights(model):
    return torch.cat([each.detach().flatten() for each in model.state_dict().values()])


# --- one after the other ---------------------------------------------------------------------


def test_a_member_is_that_of_its_seed_in_whatever_company():
    whole = trainers.deep_ensemble(trained, range(3), progress=list)
    assert type(whole) is type(trainers.ensemble([network()]))
    turned = trainers.deep_ensemble(trained, (2, 0))
    assert torch.equal(weights(whole.models[0]), weights(turned.models[1]))
    assert torch.equal(weights(whole.models[2]), weights(turned.models[0]))
    assert not torch.equal(weights(whole.models[0]), weights(whole.models[1]))
    torch.manual_seed(2)
    np.random.seed(2)  # noqa: NPY002
    random.seed(2)
    assert torch.equal(weights(trained(2, None)), weights(whole.models[2]))


def states():
    return torch.get_rng_state().tolist(), str(np.random.get_state()), random.getstate()  # noqa: NPY002


@pytest.mark.parametrize("fails", [False, True])
def test_the_random_states_stay_as_they_were(fails):
    def member(seed, checkpoint):
        random.random()
        np.random.rand(), torch.rand(3)  # noqa: NPY002
        if fails:
            raise KeyboardInterrupt
        return network()

    before = states()
    if fails:
        with pytest.raises(KeyboardInterrupt):
            trainers.deep_ensemble(member, [0, 1])
    else:
        trainers.deep_ensemble(member, [0, 1])
    assert states() == before


def test_a_stopped_one_goes_on_where_it_stood_and_finished_members_are_read(tmp_path):
    wanted = weights(trainers.deep_ensemble(trained, range(2)))
    path, first, again = tmp_path / "run.pt", Counter(), Counter()
    with pytest.raises(KeyboardInterrupt):
        trainers.deep_ensemble(partial(trained, steps=first), range(2), checkpoint=path)
    assert first == {0: 6, 1: 1}
    resumed = trainers.deep_ensemble(partial(trained, steps=again), range(2), checkpoint=path)
    assert again == {1: 6}
    assert torch.equal(weights(resumed), wanted)
    assert sorted(each.name for each in tmp_path.glob("*.pt")) == ["run-0.pt", "run-1.pt"]


@pytest.mark.parametrize(
    ("given", "named"), [("a/run", "a/run-5"), ("run.v2.pt", "run.v2-5.pt"), ("./.run", ".run-5")]
)
def test_the_file_of_a_member(given, named, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "a").mkdir()
    got = []

    def member(seed, checkpoint):
        got.append((seed, checkpoint))
        return network()

    trainers.deep_ensemble(member, [5], checkpoint=given)
    assert got == [(5, named)]
    trainers.deep_ensemble(member, [5])
    assert got[1:] == [(5, None)]


def test_members_that_are_one_and_the_same_are_refused(tmp_path):
    shared = network()
    for member in (
        lambda seed, checkpoint: shared,
        lambda seed, checkpoint: trained(0, tmp_path / "one file"),
        lambda seed, checkpoint: nn.Sequential(shared[0], nn.ReLU()),
    ):
        with pytest.raises(ValueError, match=r"differ, got the same weights for seeds 4 and 1; "):
            trainers.deep_ensemble(member, [4, 1])
    trainers.deep_ensemble(lambda seed, checkpoint: nn.Softmax(dim=1), [4, 1])  # no weights at all


def never(seed, checkpoint):
    raise AssertionError


BAD = {
    "no seeds": (never, [], {}, ValueError, "one seed or more, different ones .*got \\[\\]"),
    "one twice": (never, [1, 2, 1], {}, ValueError, ".*different ones .*got \\[1, 2, 1\\]"),
    "too large": (never, [2**32], {}, ValueError, ".*from 0 to 2"),
    "negative": (never, [-1], {}, ValueError, "seeds >= 0, got -1"),
    "a number": (never, 3, {}, TypeError, "seeds as a sequence of integers, got int"),
    "a word": (never, "012", {}, TypeError, "seeds as a sequence of integers, got str"),
    "halves": (never, [0.5], {}, TypeError, "seeds as an int, got float"),
    "a model": ([network()], [0], {}, TypeError, "member as a callable, got list"),
    "no folder": (never, [0], {"checkpoint": "no/a"}, ValueError, "checkpoint in a folder that"),
    "no path": (never, [0], {"checkpoint": ""}, ValueError, "checkpoint as the path of a file"),
    "no name": (never, [0], {"checkpoint": ".."}, ValueError, "checkpoint as the path of a file"),
    "progress": (never, [0], {"progress": 1}, TypeError, "progress as a callable, got int"),
    "nothing": (lambda *_: None, [0], {}, TypeError, "member to return a Module, got None"),
}


@pytest.mark.parametrize("case", BAD)
def test_bad_arguments_are_refused_before_any_training(case):
    member, seeds, options, error, match = BAD[case]
    with pytest.raises(error, match=f"expected {match}"):
        trainers.deep_ensemble(member, seeds, **options)


# --- side by side ----------------------------------------------------------------------------


def plain(seed):
    return setting(seed)[0]


@pytest.mark.parametrize(
    "objective", [trainers.standard(), trainers.adversarial(partial(PGD, random_start=False))]
)
def test_side_by_side_each_member_becomes_what_it_becomes_alone(objective):
    alone = [plain(seed) for seed in range(3)]
    lone = []
    for model in alone:
        optimizer = torch.optim.Adam(model.parameters(), lr=0.05)
        lone.append(trainers.fit(model, [BATCH], objective, optimizer, n=4))
    whole = trainers.ensemble([plain(seed) for seed in range(3)])
    optimizer = torch.optim.Adam(whole.parameters(), lr=0.05)
    found = trainers.fit(whole, [BATCH], trainers.lockstep(objective), optimizer, n=4)
    for mine, member in zip(alone, whole.models, strict=True):
        torch.testing.assert_close(weights(member), weights(mine))
    for epoch, *parts in zip(found, *lone, strict=True):
        assert epoch.loss == pytest.approx(sum(part.loss for part in parts), rel=1e-5)


def test_without_it_the_averaged_prediction_is_trained():
    whole = trainers.ensemble([plain(0), plain(1)])
    apart = trainers.lockstep(trainers.standard())(whole, BATCH)
    assert trainers.standard()(whole, BATCH) < apart / 2  # Jensen


def test_a_run_side_by_side_goes_on_from_its_checkpoint(tmp_path):
    def run(path, n):
        torch.manual_seed(0)
        whole = trainers.ensemble([network() for _ in range(2)])
        optimizer = torch.optim.SGD(whole.parameters(), lr=0.1, momentum=0.9)
        objective = trainers.lockstep(trainers.adversarial(PGD))
        trainers.fit(whole, [BATCH], objective, optimizer, n=n, checkpoint=path)
        return weights(whole)

    wanted = run(tmp_path / "whole", 4)
    run(tmp_path / "stopped", 2)
    assert torch.equal(run(tmp_path / "stopped", 4), wanted)


def test_a_wrapped_ensemble_is_refused():
    whole, objective = trainers.ensemble([plain(0)]), trainers.lockstep(trainers.standard())
    with pytest.raises(TypeError, match="expected model as ensemble made it, got one in Sequ"):
        objective(nn.Sequential(whole), BATCH)
    with pytest.raises(TypeError, match="expected model as ensemble made it, got one in _Moved"):
        trainers.awp(objective)(whole, BATCH)
    assert trainers.lockstep(trainers.awp(trainers.standard()))(whole, BATCH) > 0
    with pytest.raises(TypeError, match="expected objective as a callable, got str"):
        trainers.lockstep("standard")
