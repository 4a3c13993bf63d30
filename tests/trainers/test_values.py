"""Objectives are values: they are compared, pickled, sent to workers and printed."""

import copy
import multiprocessing
import pickle
from concurrent.futures import ProcessPoolExecutor
from dataclasses import FrozenInstanceError, fields, is_dataclass
from functools import partial

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn.functional import cross_entropy, multi_margin_loss

from advcal import trainers
from advcal.attacks import pgd
from advcal.evaluation._fingerprint import fingerprint
from tests.trainers.test_objectives import MAKERS, OBJECTIVES, setting

DRAWS_FROM_ITS_OWN = {"trades", "ccat", "mixup"}  # rows with a generator, which equals itself alone


def own(model, batch):
    return model(batch[0]).sum()


@pytest.mark.parametrize("name", OBJECTIVES)
def test_an_objective_is_a_frozen_dataclass(name):
    objective = OBJECTIVES[name]
    assert is_dataclass(objective)
    for field in fields(objective):
        with pytest.raises((FrozenInstanceError, TypeError)):
            setattr(objective, field.name, None)


@pytest.mark.parametrize("name", OBJECTIVES)
def test_equal_calls_make_equal_objectives(name):
    one, other = MAKERS[name](), MAKERS[name]()
    assert one == one
    assert (one == other) is (name not in DRAWS_FROM_ITS_OWN)
    assert hash(one) == hash(copy.copy(one))
    for another, objective in OBJECTIVES.items():
        assert (one == objective) is (another == name and name not in DRAWS_FROM_ITS_OWN)


@pytest.mark.parametrize("name", OBJECTIVES)
@pytest.mark.parametrize("through", [lambda o: pickle.loads(pickle.dumps(o)), copy.deepcopy])
def test_a_copy_is_the_same_and_does_the_same(name, through):
    model, *batch = setting()
    objective = MAKERS[name]()
    again = through(objective)
    assert repr(again) == repr(objective)
    if name not in DRAWS_FROM_ITS_OWN:
        assert again == objective
        assert hash(again) == hash(objective)
    losses = []
    for each in (objective, again):
        torch.manual_seed(0)
        losses.append(each(model, batch))
    assert losses[0] == losses[1]


def test_all_go_to_a_worker_and_come_back():
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(1, mp_context=context) as workers:
        found = list(workers.map(copy.copy, OBJECTIVES.values()))
    assert list(map(repr, found)) == list(map(repr, OBJECTIVES.values()))


def test_a_module_that_holds_one_is_saved(tmp_path):
    module = nn.Module()
    module.objective = OBJECTIVES["awp-trades"]
    torch.save(module, tmp_path / "module.pt")
    found = torch.load(tmp_path / "module.pt", weights_only=False)
    assert found.objective == OBJECTIVES["awp-trades"]


PGD = partial(pgd, eps=0.1)
PRINTED = {
    "standard()": trainers.standard(),
    "standard(loss=multi_margin_loss)": trainers.standard(loss=multi_margin_loss),
    "standard(loss=partial(cross_entropy, label_smoothing=0.1))": trainers.standard(
        loss=partial(cross_entropy, label_smoothing=0.1)
    ),
    "adversarial(partial(pgd, eps=0.1))": trainers.adversarial(PGD, loss=cross_entropy),
    "mixed(standard(), own, weights=(0.3, 0.7))": trainers.mixed(
        trainers.standard(), own, weights=[0.3, 0.7]
    ),
    "trades()": trainers.trades(beta=6),
    "trades(partial(pgd, eps=0.1), beta=2.0)": trainers.trades(PGD, beta=2.0),
    "trades(generator=torch.Generator('cpu'))": trainers.trades(generator=torch.Generator()),
    "ccat(eps=0.1)": trainers.ccat(eps=0.1),
    "lockstep(mixed(standard(), own))": trainers.lockstep(trainers.mixed(trainers.standard(), own)),
    "awp(mart(partial(pgd, eps=0.1), joint=True), gamma=0.005)": trainers.awp(
        trainers.mart(PGD, joint=True), gamma=0.005
    ),
}


@pytest.mark.parametrize("text", PRINTED)
def test_prints_as_the_call_that_made_it(text):
    assert repr(PRINTED[text]) == text


def test_a_sweep_knows_what_is_in_one():
    attacks = [
        lambda m, x, y: x,
        lambda m, x, y: x,
        lambda m, x, y: x + 1,
        PGD,
        partial(PGD, eps=1),
    ]
    found = [fingerprint(trainers.adversarial(attack)) for attack in attacks]
    assert found[0] == found[1]
    assert len(set(found)) == 4


def test_no_address_is_printed():
    def local(model, batch):
        return model(batch[0]).sum()

    assert repr(trainers.awp(local)) == f"awp({local.__qualname__})"
    assert " at 0x" not in repr(trainers.mixed(lambda model, batch: model, local))


def test_what_is_compared_is_what_was_given():
    eps = torch.tensor([0.1, 0.2])
    one, same = (trainers.adversarial(partial(pgd, eps=e)) for e in (eps, eps.clone()))
    assert one == same
    assert hash(one) == hash(same)
    assert one != trainers.adversarial(partial(pgd, eps=eps + 0.1))
    assert one != trainers.adversarial(partial(pgd, eps=eps), loss=multi_margin_loss)
    assert trainers.adversarial(PGD) != trainers.mart(PGD)
    assert trainers.standard() != "standard()"
    assert len({trainers.standard(), trainers.standard(), trainers.adversarial(PGD)}) == 2


def mine(model, inputs, labels, options=None):
    return inputs


class Mine:
    def __call__(self, model, inputs, labels):
        return inputs


@pytest.mark.parametrize(
    "options",
    [{"a": 1}, {1, 2}, np.arange(3), [{"b": torch.ones(2)}]],
    ids=["dict", "set", "array", "nested"],
)
def test_options_of_any_kind_are_printed_and_compared(options):
    one, other = (
        trainers.adversarial(partial(mine, options=o)) for o in (options, copy.deepcopy(options))
    )
    assert one == other
    assert hash(one) == hash(other)
    assert one != trainers.adversarial(partial(mine, options=3))
    assert "options=" in repr(one)


def test_no_address_of_an_object_is_printed():
    assert " at 0x" not in repr(trainers.adversarial(Mine()))
