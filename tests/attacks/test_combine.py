"""Attacks of attacks, and the mean of a stochastic model, as values: pickled, compared, printed."""

import pickle
from concurrent.futures import ProcessPoolExecutor
from copy import deepcopy
from dataclasses import fields
from functools import partial
from multiprocessing import get_context

import numpy as np
import pytest
import torch
from torch import nn

from advcal.attacks import (
    adversarial_distance,
    autocast,
    batched,
    cascade,
    expectation,
    fgsm,
    oca,
    pgd,
    uca,
    worst_case,
)
from tests.attacks.cases import examples, mlp, seeded

FGSM = partial(fgsm, eps=0.1)
PGD = partial(pgd, eps=0.1, steps=3, random_start=False)
VALUES = {
    "worst_case(partial(fgsm, eps=0.1), partial(pgd, eps=0.1, steps=3, random_start=False))": (
        lambda: worst_case(partial(fgsm, eps=0.1), partial(PGD))
    ),
    "cascade(partial(fgsm, eps=0.1))": lambda: cascade(FGSM),
    "batched(partial(fgsm, eps=0.1), 2)": lambda: batched(FGSM, 2),
    "autocast(partial(fgsm, eps=0.1))": lambda: autocast(FGSM),
    "autocast(fgsm, dtype=torch.float16)": lambda: autocast(fgsm, dtype=torch.float16),
    "batched(cascade(autocast(partial(fgsm, eps=0.1)), worst_case(partial(fgsm, eps=0.1))), 3)": (
        lambda: batched(cascade(autocast(FGSM), worst_case(FGSM)), 3)
    ),
}
every_value = pytest.mark.parametrize("shown", VALUES)


@every_value
def test_a_value_prints_as_the_call_that_made_it_and_equals_another_one(shown):
    value, other = VALUES[shown](), VALUES[shown]()
    assert repr(value) == str(value) == shown
    assert value == other
    assert hash(value) == hash(other)
    assert all(value != VALUES[each]() for each in VALUES if each != shown)
    assert value != shown
    for field in fields(value):
        with pytest.raises(AttributeError):
            setattr(value, field.name, fgsm)


@every_value
def test_a_value_comes_back_from_a_pickle(shown):
    value = VALUES[shown]()
    if "float16" in shown:
        value = autocast(FGSM, dtype=torch.float16)
    model, (inputs, labels) = mlp(), examples(5)
    wanted = value(model, inputs, labels)
    for copy in (pickle.loads(pickle.dumps(value)), deepcopy(value)):
        assert copy == value
        assert torch.equal(copy(model, inputs, labels), wanted)


def test_a_value_goes_to_a_spawned_process():
    model, (inputs, labels) = mlp(), examples(5)
    attack = batched(worst_case(FGSM, cascade(PGD), autocast(FGSM)), 2)
    mean = expectation(model, n=2)
    with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as pool:
        found = pool.submit(attack, mean, inputs, labels).result()
    assert torch.equal(found, attack(mean, inputs, labels))


def test_a_generator_in_a_value_is_one_source():
    generator = seeded()
    attack = worst_case(partial(pgd, eps=0.1, generator=generator))
    assert attack == worst_case(partial(pgd, eps=0.1, generator=generator))
    assert attack != worst_case(partial(pgd, eps=0.1, generator=seeded()))
    model, batch = mlp(), examples(4)
    assert not torch.equal(attack(model, *batch), attack(model, *batch))


@pytest.mark.parametrize("size", [2, np.int64(2)])
def test_the_size_of_a_batch(size):
    assert len(batched(FGSM, size)(mlp(), *examples(5))) == 5


@pytest.mark.parametrize("wrong", [0, -1, 1.0, True, None, "2"])
def test_sizes_that_are_none(wrong):
    with pytest.raises((TypeError, ValueError), match="expected size"):
        batched(FGSM, wrong)
    with pytest.raises((TypeError, ValueError), match="expected n "):
        expectation(mlp(), n=wrong)


# --- the mean of a stochastic model ----------------------------------------------------------


def noisy(inputs):
    return inputs.flatten(1)[:, :3] + torch.randn(len(inputs), 3)


def test_a_mean_prints_and_comes_back_from_a_pickle():
    assert repr(expectation(noisy, n=8)) == "expectation(noisy, n=8)"
    assert repr(expectation(nn.Identity())) == "expectation(Identity(), n=16)"
    model = nn.Sequential(nn.Flatten(), nn.Linear(16, 3), nn.Dropout(0.5)).eval()
    model[2].train()
    mean = expectation(model, n=4)
    copy = pickle.loads(pickle.dumps(mean))
    results = []
    for each in (mean, copy, deepcopy(mean)):
        torch.manual_seed(0)
        results.append(each(examples(4)[0]))
        assert repr(each) == repr(mean)
        assert [part.training for part in each.modules()] == [False, False, False, False, True]
    assert torch.equal(results[0], results[1])
    assert torch.equal(results[0], results[2])


def test_a_mean_has_the_mode_of_its_model():
    model = nn.Sequential(nn.Flatten(), nn.Dropout(0.5))
    mean = expectation(model)
    for mode in (False, True):
        model.train(mode)
        assert mean.training == mode
        mean.train(not mode)
        assert model.training == model[1].training == mean.training == (not mode)
    assert expectation(noisy).training is False


def test_a_mean_of_a_model_with_masks_can_be_attacked():
    model, (inputs, labels) = mlp(), examples(6)
    masked = lambda x: torch.cat([model(x), torch.full((len(x), 2), -torch.inf)], dim=1)  # noqa: E731
    found = PGD(expectation(masked, n=2), inputs, labels)
    torch.testing.assert_close(found, PGD(expectation(model, n=2), inputs, labels))
    measured = adversarial_distance(expectation(masked, n=2), inputs)
    torch.testing.assert_close(measured, adversarial_distance(expectation(model, n=2), inputs))


def test_mixed_precision_keeps_the_predictions_of_full_precision():
    """Beside the boundary the two differ at the inputs already."""
    inputs = 0.5 + torch.linspace(-2e-3, 2e-3, 40)[:, None].expand(40, 4)
    model = nn.Linear(4, 2)
    model.weight.data = torch.tensor([[1.0], [-1.0]]).expand(2, 4).clone()
    model.bias.data = torch.tensor([-2.0, 2.0])
    said = model(inputs).argmax(dim=1)
    with torch.autocast("cpu", torch.bfloat16):
        assert not torch.equal(model(inputs).argmax(dim=1), said)
    for attack in (uca, oca):
        found = autocast(partial(attack, eps=0.1))(model, inputs, said)
        assert torch.equal(model(found).argmax(dim=1), said)


TOWARDS = batched(partial(PGD, targeted=True), 2)


@pytest.mark.parametrize("combine", [worst_case, cascade])
def test_an_attack_towards_the_labels_has_no_worst_case(combine):
    """What leads to the labels would be thrown away, and the inputs come back as they are."""
    words = f"got one with targeted=True, .*; {combine.__name__} keeps what is furthest"
    with pytest.raises(ValueError, match=words):
        combine(FGSM, TOWARDS)(mlp(), *examples())
    taken_back = combine(partial(TOWARDS.attack, targeted=False))
    assert taken_back(mlp(), *examples()).shape == examples()[0].shape


def test_an_attack_towards_the_predictions_tells_no_distance():
    with pytest.raises(ValueError, match=r"targeted=True, .*; adversarial_distance gives it"):
        adversarial_distance(mlp(), examples()[0], attack=TOWARDS)
