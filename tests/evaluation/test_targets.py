"""Targeted attacks are refused where labels are true, and have targets of their own."""

import functools
import inspect
from dataclasses import dataclass
from functools import partial

import pytest
import torch
from torch import nn

from advcal import attacks
from advcal._targets import targeted
from advcal.attacks import autocast, batched, cascade, fgsm, pgd, worst_case
from advcal.evaluation import audit, detection, diagnose, evaluate, sweep, transfer
from advcal.trainers import predict
from tests.attacks.cases import N_CLASSES, examples, mlp, seeded

PGD = partial(pgd, eps=0.3, steps=5, random_start=False)
TOWARDS = partial(PGD, targeted=True)


def own(model, inputs, labels, targeted=True):
    return PGD(model, inputs, labels, targeted=targeted)


def passing_on(model, inputs, labels, **options):
    return PGD(model, inputs, labels, **options)


@functools.wraps(own)
def wrapped(*arguments):
    return own(*arguments)


class Adapter:
    """As other libraries have them."""

    def __init__(self, targeted):
        self.targeted = targeted

    def __call__(self, model, inputs, labels):
        return PGD(model, inputs, labels, targeted=self.targeted)


class Holder:
    def __init__(self, attack):
        self.inner = {"attack": [attack]}

    def __call__(self, model, inputs, labels):
        return self.inner["attack"][0](model, inputs, labels)

    def run(self, model, inputs, labels):
        return self(model, inputs, labels)


@dataclass(frozen=True, slots=True)
class Slotted:
    attack: object

    def __call__(self, model, inputs, labels):
        return self.attack(model, inputs, labels)


TARGETED = {
    "partial": TOWARDS,
    "partial of a partial": partial(partial(TOWARDS, steps=2), eps=0.1),
    "worst case": worst_case(PGD, TOWARDS),
    "cascade": cascade(TOWARDS),
    "batched": batched(TOWARDS, 2),
    "autocast": autocast(TOWARDS),
    "deep": batched(autocast(worst_case(PGD, cascade(PGD, batched(TOWARDS, 1)))), 3),
    "by default": own,
    "by default in a partial": partial(own),
    "wrapped": wrapped,
    "keyword that is passed on": partial(passing_on, targeted=True),
    "object": Adapter(True),
    "held": Holder(TOWARDS),
    "method": Holder(TOWARDS).run,
    "slots": Slotted(TOWARDS),
    "argument": partial(lambda inner, *rest: inner(*rest), TOWARDS),
    "by number": partial(passing_on, targeted=1),
    **{
        name: partial(getattr(attacks, name), targeted=True)
        for name in ("apgd", "cw_l2", "ddn", "fgsm", "fmn", "foot", "square")
    },
}
NOT_TARGETED = {
    "plain": PGD,
    "said": partial(PGD, targeted=False),
    "default overridden": partial(own, targeted=False),
    "taken back": partial(TOWARDS, targeted=False),
    "worst case": worst_case(PGD, PGD),
    "object": Adapter(False),
}


@pytest.mark.parametrize("name", TARGETED)
def test_towards_true_labels_is_refused_in_any_nesting(name):
    assert targeted(TARGETED[name]) is True
    models, batches = {"m": mlp()}, [examples(4)]
    uses = {
        "evaluate": lambda attack: evaluate(models["m"], batches, attack),
        "sweep": lambda attack: sweep(models, {"a": batches}, {"x": attack}),
        "transfer": lambda attack: transfer(models, models, batches, attack),
        "audit": lambda attack: audit(models["m"], batches, eps=0.1, attack=attack),
        "detection": lambda attack: detection(models["m"], batches, batches, attack=attack),
        "diagnose": lambda attack: diagnose(models["m"], batches, eps=0.1, attacks={"a": attack}),
        "predict": lambda attack: predict(models["m"], batches, attack),
    }
    for use in uses.values():
        with pytest.raises(ValueError, match=r"expected an attack that leads away from .*targeted"):
            use(TARGETED[name])


@pytest.mark.parametrize("name", NOT_TARGETED)
def test_what_leads_away_is_not_refused(name):
    assert targeted(NOT_TARGETED[name]) is False
    record = evaluate(mlp(), [examples(9)], NOT_TARGETED[name])
    assert record.accuracy < record.clean_accuracy
    assert not hasattr(record, "reached")
    with pytest.raises(ValueError, match="attack with targeted=True for targets=, got one with"):
        evaluate(mlp(), [examples(9)], NOT_TARGETED[name], targets=lambda labels: labels)


def test_of_a_function_that_says_nothing_nothing_is_known():
    loop = Holder(None)
    loop.inner = {"self": loop}
    for attack in (None, loop, lambda model, inputs, labels: inputs, nn.Linear(2, 2), max):
        assert targeted(attack) is None


def hidden(model, inputs, labels):
    return PGD(model, inputs, labels, targeted=True)


def in_a_closure(name, **options):
    return lambda *batch: getattr(attacks, name)(*batch, targeted=True, **options)


SHOWN_BY_THE_CALL = {
    "function": hidden,
    "lambda": lambda model, inputs, labels: TOWARDS(model, inputs, labels),
    "partial of a lambda": partial(
        lambda *batch, eps: pgd(*batch, eps=eps, targeted=True), eps=0.1
    ),
    "batched": batched(hidden, 2),
    "autocast": autocast(hidden),
    "worst case": worst_case(PGD, hidden),
    "cascade in a lambda": lambda *batch: cascade(hidden)(*batch),
    **{name: in_a_closure(name) for name in ("cw_l2", "ddn", "fmn", "foot")},
    **{name: in_a_closure(name, eps=0.1) for name in ("apgd", "fgsm", "square")},
}


@pytest.mark.parametrize("name", SHOWN_BY_THE_CALL)
def test_what_only_the_call_shows_is_refused_by_the_call(name):
    attack, models, batches = SHOWN_BY_THE_CALL[name], {"m": mlp()}, [examples(4)]
    for use in (
        lambda: evaluate(models["m"], batches, attack),
        lambda: sweep(models, {"a": batches}, {"x": attack}),
        lambda: transfer(models, models, batches, attack),
        lambda: detection(models["m"], batches, batches, attack=attack),
        lambda: predict(models["m"], batches, attack),
    ):
        with pytest.raises(ValueError, match=r"expected an attack that leads away from .*targeted"):
            use()


def each_other_class(model, inputs, labels):
    """Lead to each class but the label, which is the class itself in a batch of that class."""
    points = inputs
    for k in range(N_CLASSES):
        aim = torch.full_like(labels, k)
        led = PGD(model, inputs, aim, targeted=True)
        better = (model(led).argmax(dim=1) != labels)[:, None, None, None]
        points = torch.where(better, led, points)
    return points


def of_other_labels(model, inputs, labels):
    labels.add_(1).remainder_(N_CLASSES)
    return PGD(model, inputs, labels, targeted=True)


@pytest.mark.parametrize("attack", [each_other_class, of_other_labels])
def test_to_lead_to_other_classes_is_to_lead_away(attack):
    inputs, _ = examples(6)
    labels = mlp()(inputs).argmax(dim=1)
    batches = [*zip(inputs.split(1), labels.split(1), strict=True)]
    record = evaluate(mlp(), batches, attack)
    assert record.accuracy < record.clean_accuracy == 1


def test_predict_takes_targets():
    model, batch = mlp(), examples(6)
    found = predict(model, [batch], TOWARDS, targets=following)
    assert torch.equal(found.logits, model(TOWARDS(model, batch[0], following(batch[1]))).detach())
    assert torch.equal(found.labels, batch[1])
    with pytest.raises(ValueError, match="as many targets as examples, 6, got 7"):
        predict(model, [batch], TOWARDS, targets=torch.zeros(7, dtype=torch.int64))


def following(labels):
    return (labels + 1) % N_CLASSES


@pytest.mark.parametrize("attack", [TOWARDS, batched(TOWARDS, 2), own, lambda *a: TOWARDS(*a)])
@pytest.mark.parametrize("kind", ["function", "tensor", "int32"])
def test_targets_are_what_the_attack_gets_and_what_is_reached(attack, kind):
    model, data = mlp(), [examples(6, seed=1), examples(5, seed=2)]
    labels = torch.cat([labels for _, labels in data])
    targets = following if kind == "function" else following(labels)
    targets = targets.int() if kind == "int32" else targets
    record = evaluate(model, data, attack, targets=targets)
    points = torch.cat([PGD(model, x, following(y), targeted=True) for x, y in data])
    now = model(points).argmax(dim=1)
    assert record.reached == float((now == following(labels)).double().mean())
    assert record.accuracy == float((now == labels).double().mean())
    clean = evaluate(model, data)
    assert record.clean_accuracy == clean.accuracy
    assert record.reached > 0.5
    assert record.accuracy < clean.accuracy


def test_towards_the_labels_if_it_is_meant():
    record = evaluate(mlp(), [examples(9)], TOWARDS, targets=lambda labels: labels)
    assert record.accuracy == record.reached >= record.clean_accuracy


BAD = {
    "few": (TOWARDS, torch.zeros(8).long(), ValueError, "as many targets as examples, 9.*, got 8"),
    "many": (TOWARDS, torch.zeros(10).long(), ValueError, "as many targets as .*, 9, got 10"),
    "floats": (TOWARDS, torch.zeros(9), TypeError, "targets of an integer dtype"),
    "soft": (TOWARDS, torch.zeros(9, 3).long(), ValueError, r"targets of shape \(n,\)"),
    "a number": (TOWARDS, 3, TypeError, "targets as a tensor or a function of labels, got int"),
    "no tensor": (TOWARDS, lambda labels: 3, TypeError, "targets as a torch.Tensor"),
    "a sum": (TOWARDS, lambda labels: labels.sum(), ValueError, "targets of shape"),
    "range": (TOWARDS, lambda labels: labels + 7, ValueError, "from 0 to 2"),
    "no attack": (None, following, ValueError, "attack with targeted=True for targets=, got none"),
    "worst case": (worst_case(TOWARDS), following, ValueError, "got it within worst_case"),
    "cascade": (batched(cascade(TOWARDS), 2), following, ValueError, "got it within cascade"),
}


@pytest.mark.parametrize("case", BAD)
def test_bad_targets_are_refused(case):
    attack, targets, error, match = BAD[case]
    with pytest.raises(error, match=f"expected .*{match}"):
        evaluate(mlp(), [examples(4), examples(5)], attack, targets=targets)


def test_a_function_may_write_into_its_labels():
    labels = examples(6)[1]
    before = labels.clone()
    evaluate(mlp(), [examples(6)], TOWARDS, targets=lambda y: y.add_(1).remainder_(N_CLASSES))
    assert torch.equal(labels, before)


def test_other_attacks_still_fool():
    record = evaluate(mlp(), [examples(9)], partial(fgsm, eps=0.3))
    assert record.accuracy < record.clean_accuracy


AIMED = {
    "fgsm": partial(fgsm, eps=0.5),
    "pgd": partial(pgd, eps=0.5),
    "apgd": partial(attacks.apgd, eps=0.5, steps=10, random_start=False),
    "square": partial(attacks.square, eps=0.5, steps=300, generator=seeded()),
    "cw_l2": partial(attacks.cw_l2, initial_c=10.0, search_steps=2, steps=40, step_size=0.1),
    "ddn": partial(attacks.ddn, steps=20),
    "fmn": partial(attacks.fmn, steps=20),
    "foot": partial(attacks.foot, steps=10),
    "minimum_norm": partial(attacks.minimum_norm, norm="l2", steps=10),
}


def test_every_attack_that_can_aim_is_tried():
    can = {
        name
        for name, attack in vars(attacks).items()
        if inspect.isfunction(attack) and "targeted" in inspect.signature(attack).parameters
    }
    assert can == AIMED.keys()


@pytest.mark.parametrize("name", AIMED)
def test_each_example_may_have_a_target_of_its_own(name):
    weights = torch.randn(16, 4, generator=seeded(5))

    def model(inputs):
        return inputs.flatten(1) @ weights

    inputs, _ = examples(10)
    labels = model(inputs).argmax(dim=1)
    targets = (labels + 1 + torch.arange(10) % 3) % 4  # each other class, in turn
    attack = partial(AIMED[name], targeted=True)
    alone = attack(model, inputs, targets)
    batches = [(inputs[:6], labels[:6]), (inputs[6:], labels[6:])]
    record = evaluate(model, batches, attack, targets=targets)
    found = predict(model, batches, attack, targets=targets)
    reached = model(alone).argmax(dim=1) == targets
    assert reached.float().mean() >= 0.7
    assert record.reached >= 0.7
    assert (found.logits.argmax(dim=1) == targets).float().mean() >= 0.7
