"""Objectives `(model, batch) -> scalar loss`, against losses computed by hand."""

from functools import partial

import pytest
import torch
from torch import nn
from torch.nn.functional import cross_entropy, multi_margin_loss

from advcal import losses, trainers
from advcal.attacks import fgsm, iaa, n_fgsm, oca, pgd, pgd_conf, uca

PGD = partial(pgd, eps=0.1, steps=3)
KL = partial(pgd, eps=0.1, steps=3, loss="kl")
ANTI = partial(PGD, targeted=True, random_start=False)
CONF = partial(pgd_conf, eps=0.1, steps=3)
PGD0 = partial(pgd, eps=0.1, norm="l2", steps=2, random_start=False, bounds=(-9.0, 9.0))
UCA, OCA = partial(uca, eps=0.1, steps=3), partial(oca, eps=0.1, steps=3)


def seeded():
    return torch.Generator().manual_seed(0)


# Makers, since some objectives draw anew at every call; without a generator, from the global state.
MAKERS = {
    "standard": trainers.standard,
    "smoothed": lambda: trainers.standard(loss=partial(cross_entropy, label_smoothing=0.1)),
    "adversarial": lambda: trainers.adversarial(PGD),
    "fast": lambda: trainers.adversarial(partial(fgsm, eps=0.1, random_start=True)),
    "n_fgsm": lambda: trainers.adversarial(partial(n_fgsm, eps=0.1)),
    "inverse_adversarial": lambda: trainers.adversarial(partial(iaa, eps=0.1, steps=3)),
    "entropy_adversarial": lambda: trainers.adversarial(
        PGD, loss=partial(losses.confidence_penalty, beta=0.5)
    ),
    "anti_adversarial": lambda: trainers.anti_adversarial(PGD, reference=ANTI),
    "anti_adversarial-joint": lambda: trainers.anti_adversarial(PGD, reference=ANTI, joint=True),
    "lockstep": lambda: trainers.lockstep(trainers.adversarial(PGD)),
    "mixed": lambda: trainers.mixed(trainers.standard(), trainers.adversarial(PGD)),
    "trades": lambda: trainers.trades(generator=seeded()),
    "trades-pgd": lambda: trainers.trades(KL),
    "trades-joint": lambda: trainers.trades(KL, joint=True),
    "mart": lambda: trainers.mart(PGD),
    "mart-joint": lambda: trainers.mart(PGD, joint=True),
    "ccat": lambda: trainers.ccat(eps=0.1, generator=seeded()),
    "ccat-conf": lambda: trainers.ccat(CONF, eps=0.1),
    "caat": lambda: trainers.mixed(
        trainers.adversarial(UCA), trainers.adversarial(OCA), weights=[1.0, 1.0]
    ),
    "mixup": lambda: trainers.mixup(generator=seeded()),
    "noisy": lambda: trainers.noisy(trainers.standard(), sigma=0.1),
    "noisy-adversarial": lambda: trainers.noisy(trainers.adversarial(PGD0), sigma=0.1),
    "smooth_adversarial": lambda: trainers.smooth_adversarial(PGD0, sigma=0.1, n=2),
    "awp": lambda: trainers.awp(trainers.adversarial(PGD)),
    "awp-trades": lambda: trainers.awp(trainers.trades(KL), gamma=0.005),
}
OBJECTIVES = {name: make() for name, make in MAKERS.items()}
TWO_PASSES = {
    *["anti_adversarial", "mixed", "trades", "trades-pgd", "mart", "caat", "awp-trades"],
}


def setting(seed=0, n=6):
    torch.manual_seed(seed)
    model = nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 3))
    return model, torch.rand(n, 4), torch.randint(3, (n,))


def drawn(name, model, batch):
    """Take an objective with its first draws."""
    torch.manual_seed(1)
    return MAKERS[name]()(model, batch)


class Watched(nn.Module):
    """A classifier with BatchNorm that notes the mode of each forward pass."""

    def __init__(self):
        super().__init__()
        self.layers = nn.Sequential(nn.Linear(4, 8), nn.BatchNorm1d(8), nn.ReLU(), nn.Linear(8, 3))
        self.modes = []

    def forward(self, inputs):
        self.modes.append(self.training)
        return self.layers(inputs)


@pytest.mark.parametrize("name", OBJECTIVES)
def test_a_scalar_with_a_gradient_to_every_parameter(name):
    model, inputs, labels = setting()
    loss = OBJECTIVES[name](model, (inputs, labels))
    assert loss.shape == ()
    loss.backward()
    assert all(parameter.grad is not None for parameter in model.parameters())
    assert inputs.grad is None


@pytest.mark.parametrize("name", OBJECTIVES)
def test_more_in_a_batch_than_inputs_and_labels_is_left_alone(name):
    model, inputs, labels = setting()
    wanted = drawn(name, model, (inputs, labels))
    assert drawn(name, model, (inputs, labels, torch.ones(6), "note")) == wanted
    assert drawn(name, model, [inputs, labels]) == wanted


@pytest.mark.parametrize("name", OBJECTIVES)
@pytest.mark.parametrize("dtype", [torch.uint8, torch.int8, torch.int16, torch.int32])
def test_labels_of_any_integer_dtype(name, dtype):
    model, inputs, labels = setting()
    wanted = drawn(name, model, (inputs, labels))
    assert drawn(name, model, (inputs, labels.to(dtype))) == wanted
    assert labels.dtype == torch.int64


def test_every_objective_is_in_the_table():
    others = {
        *("Batch", "EarlyStopping", "Epoch", "Objective", "Overfitting", "Predictions"),
        *("catastrophic_overfitting", "check_disjoint", "craft", "deep_ensemble", "ensemble"),
        *("epochs", "fit", "predict"),
        *("AdaptiveSmoothing", "adaptive_smoothing"),  # whose batches carry indices
    }
    made = {type(objective).__name__ for objective in OBJECTIVES.values()}
    assert made == set(trainers.__all__) - others


def test_standard():
    model, inputs, labels = setting()
    assert trainers.standard()(model, (inputs, labels)) == cross_entropy(model(inputs), labels)


@pytest.mark.parametrize(
    "attack",
    [
        partial(fgsm, eps=0.1),
        partial(pgd, eps=0.1, steps=3, random_start=False),
        partial(iaa, eps=0.1, steps=3),
    ],
    ids=["fgsm", "pgd", "iaa"],
)
def test_on_attacked_inputs(attack):
    model, inputs, labels = setting()
    wanted = cross_entropy(model(attack(model, inputs, labels)), labels)
    assert trainers.adversarial(attack)(model, (inputs, labels)) == wanted
    assert wanted != cross_entropy(model(inputs), labels)


def test_adversarial_is_harder_and_crafts_against_the_weights_of_the_moment():
    model, inputs, labels = setting()
    objective = trainers.adversarial(partial(fgsm, eps=0.2))
    for _ in range(3):
        clean = cross_entropy(model(inputs), labels)
        assert objective(model, (inputs, labels)) > clean
        with torch.no_grad():
            for parameter in model.parameters():
                parameter.mul_(-1.3)


def test_the_attack_gets_model_inputs_and_labels():
    model, inputs, labels = setting()
    calls = []

    def attack(*arguments):
        calls.append(arguments)
        return arguments[1] * 0.5

    loss = trainers.adversarial(attack)(model, (inputs, labels))
    assert loss == cross_entropy(model(inputs * 0.5), labels)
    assert len(calls) == 1
    assert calls[0][0] is model
    assert calls[0][2] is labels
    assert torch.equal(calls[0][1], inputs)


def test_an_attack_that_overwrites_its_inputs_leaves_the_batch_alone():
    model, inputs, labels = setting()
    before = inputs.clone()
    trainers.adversarial(lambda _, points, __: points.mul_(0.5))(model, (inputs, labels))
    assert torch.equal(inputs, before)


def test_another_loss():
    model, inputs, labels = setting()
    objective = trainers.adversarial(partial(fgsm, eps=0.0), loss=multi_margin_loss)
    wanted = multi_margin_loss(model(inputs), labels)
    torch.testing.assert_close(objective(model, (inputs, labels)), wanted)
    objective = trainers.standard(loss=multi_margin_loss)
    assert objective(model, (inputs, labels)) == wanted


@pytest.mark.parametrize(
    ("loss", "left_out"),
    [
        (cross_entropy, -100),
        (partial(cross_entropy, ignore_index=255), 255),
        (nn.CrossEntropyLoss(), -100),
        (nn.CrossEntropyLoss(ignore_index=255), 255),
    ],
    ids=["function", "partial", "module", "module-255"],
)
def test_labels_that_cross_entropy_leaves_out(loss, left_out):
    model, inputs, labels = setting()
    labels[2:4] = left_out
    kept = labels != left_out
    wanted = cross_entropy(model(inputs)[kept], labels[kept])
    torch.testing.assert_close(trainers.standard(loss=loss)(model, (inputs, labels)), wanted)
    labels[0] = 7
    with pytest.raises(ValueError, match="expected labels from 0 to 2, got 7"):
        trainers.standard(loss=loss)(model, (inputs, labels))


def test_soft_labels_reach_the_loss():
    model, inputs, labels = setting()
    soft = torch.eye(3)[labels] * 0.9 + 0.1 / 3
    assert trainers.standard()(model, (inputs, soft)) == cross_entropy(model(inputs), soft)


# --- mixed -----------------------------------------------------------------------------------


def parts():
    return [lambda model, batch, k=k: model(batch[0]).sum() * k for k in (1.0, 2.0, 3.0)]


def test_mixed_is_the_mean_unless_weights_are_given():
    model, inputs, labels = setting()
    total = model(inputs).sum()
    batch = (inputs, labels)
    close = torch.testing.assert_close
    close(trainers.mixed(*parts())(model, batch), total * 2)
    close(trainers.mixed(*parts(), weights=[1, 1, 1])(model, batch), total * 6)
    close(trainers.mixed(*parts(), weights=(0.5, 0.0, 2.0))(model, batch), total * 6.5)
    close(trainers.mixed(parts()[1])(model, batch), total * 2)


def test_mixed_of_mixed():
    model, inputs, labels = setting()
    inner = trainers.mixed(*parts()[:2], weights=[1, 1])
    outer = trainers.mixed(inner, parts()[2], weights=[2, 1])
    torch.testing.assert_close(outer(model, (inputs, labels)), model(inputs).sum() * 9)


def test_mixed_adds_gradients():
    model, inputs, labels = setting()
    both = trainers.mixed(OBJECTIVES["standard"], OBJECTIVES["adversarial"], weights=[0.3, 0.7])
    weight = model[0].weight
    (got,) = torch.autograd.grad(both(model, (inputs, labels)), weight)
    standard, adversarial = (
        torch.autograd.grad(OBJECTIVES[name](model, (inputs, labels)), weight)[0]
        for name in ("standard", "adversarial")
    )
    torch.testing.assert_close(got, 0.3 * standard + 0.7 * adversarial)


def test_weights_are_those_at_the_time_of_the_call():
    model, inputs, labels = setting()
    weights = [1.0, 1.0, 1.0]
    objective = trainers.mixed(*parts(), weights=weights)
    wanted = objective(model, (inputs, labels))
    weights[0] = 100.0
    assert objective(model, (inputs, labels)) == wanted


# --- modes -----------------------------------------------------------------------------------


@pytest.mark.parametrize("name", OBJECTIVES)
@pytest.mark.parametrize("training", [True, False])
def test_crafts_in_eval_mode_and_takes_the_loss_in_the_mode_of_the_model(name, training):
    _, inputs, labels = setting()
    model = Watched().train(training)
    OBJECTIVES[name](model, (inputs, labels))
    passes = (2 if name in TWO_PASSES else 1) * (2 if name.startswith("awp") else 1)
    assert sum(model.modes) == (passes if training else 0)
    assert model.modes[-1] is training
    assert all(module.training is training for module in model.modules())
    assert all(parameter.grad is None for parameter in model.parameters())


@pytest.mark.parametrize("name", OBJECTIVES)
def test_statistics_of_batchnorm_see_no_crafting(name):
    _, inputs, labels = setting()
    model = Watched()
    norm = model.layers[1]
    OBJECTIVES[name](model, (inputs, labels)).backward()
    assert norm.num_batches_tracked == (2 if name in TWO_PASSES else 1)
    assert not torch.equal(norm.running_mean, torch.zeros(8))


@pytest.mark.parametrize("name", ["standard", "adversarial", "inverse_adversarial"])
def test_statistics_of_batchnorm_are_those_of_the_pass_that_counts(name):
    _, inputs, labels = setting()
    model, objective = Watched(), OBJECTIVES[name]
    norm = model.layers[1]
    state = torch.get_rng_state()
    points, _ = objective.craft(model, (inputs, labels))
    mean = 0.1 * model.layers[0](points).mean(dim=0).detach()
    torch.set_rng_state(state)
    objective(model, (inputs, labels))
    torch.testing.assert_close(norm.running_mean, mean)


@pytest.mark.parametrize("name", OBJECTIVES)
def test_the_parameters_and_the_inputs_stay_as_they_were(name):
    model, inputs, labels = setting()
    before, given = [parameter.clone() for parameter in model.parameters()], inputs.clone()
    MAKERS[name]()(model, (inputs, labels)).backward()
    assert all(torch.equal(*pair) for pair in zip(before, model.parameters(), strict=True))
    assert all(parameter.requires_grad for parameter in model.parameters())
    assert torch.equal(inputs, given)


ATTACKS = {  # of one batch; in `mixed` the one of the other objective does not count
    **{name: 1 for name in OBJECTIVES if name not in ("standard", "smoothed", "mixup")},
    **dict.fromkeys(("anti_adversarial", "anti_adversarial-joint", "caat"), 2),
    **dict.fromkeys(("noisy-adversarial", "smooth_adversarial"), 2),  # and the noise
}


@pytest.mark.parametrize("name", OBJECTIVES)
def test_the_global_random_state_moves_by_one_number_for_each_attack(name):
    model, inputs, labels = setting()
    torch.manual_seed(7)
    for _ in range(ATTACKS.get(name, 0)):
        torch.randint(2**62, ())
    wanted = torch.get_rng_state()
    torch.manual_seed(7)
    MAKERS[name]()(model, (inputs, labels))
    assert torch.equal(torch.get_rng_state(), wanted)


@pytest.mark.parametrize("name", [name for name in OBJECTIVES if "joint" not in name])
def test_a_batch_of_one(name):
    model, inputs, labels = setting(n=1)
    assert OBJECTIVES[name](model, (inputs, labels)).isfinite()


@pytest.mark.parametrize("name", OBJECTIVES)
def test_some_steps_of_training_lower_the_loss(name):
    model, inputs, _ = setting(n=24)
    labels = (3 * inputs[:, 0]).long()
    optimizer = torch.optim.Adam(model.parameters(), lr=0.02)
    objective = MAKERS[name]()
    history = trainers.fit(model, [(inputs, labels)], objective, optimizer, n=60)
    first, last = (sum(each.loss for each in part) for part in (history[:10], history[-10:]))
    assert last < first


@pytest.mark.parametrize("name", [name for name in OBJECTIVES if not name.startswith("awp")])
def test_without_gradients_it_can_be_read_as_a_figure(name):
    model, inputs, labels = setting()
    wanted = drawn(name, model, (inputs, labels))
    with torch.no_grad():
        found = drawn(name, model, (inputs, labels))
    assert found == wanted
    assert not found.requires_grad


def test_layers_frozen_in_eval_mode_stay_so():
    _, inputs, labels = setting()
    model = Watched()
    model.layers[1].eval()
    OBJECTIVES["adversarial"](model, (inputs, labels))
    assert model.layers[0].training
    assert not model.layers[1].training
    assert model.layers[1].num_batches_tracked == 0


# --- bad input -------------------------------------------------------------------------------

BAD = {
    "loss by name": (
        lambda: trainers.standard(loss="ce"),
        TypeError,
        "loss as a callable, got str",
    ),
    "no attack": (lambda: trainers.adversarial(None), TypeError, "attack as a callable, got None"),
    "loss of adversarial": (
        lambda: trainers.adversarial(print, loss=3),
        TypeError,
        "loss as a callable, got int",
    ),
    "nothing mixed": (lambda: trainers.mixed(), ValueError, "one objective or more, got none"),
    "a list mixed": (
        lambda: trainers.mixed(parts()),
        TypeError,
        "objective as a callable, got list",
    ),
    "too few weights": (
        lambda: trainers.mixed(*parts(), weights=[1]),
        ValueError,
        "3 weights, got 1",
    ),
    "a negative weight": (
        lambda: trainers.mixed(*parts(), weights=[1, 1, -1]),
        ValueError,
        "weights >= 0, got -1",
    ),
    "NaN": (
        lambda: trainers.mixed(*parts(), weights=[1, 1, float("nan")]),
        ValueError,
        "weights >= 0, got nan",
    ),
    "words": (lambda: trainers.mixed(*parts(), weights="123"), TypeError, "weights .*got str"),
}


def test_numbers_that_stand_for_words_are_not_mixed():
    model = nn.Sequential(nn.Embedding(9, 2), nn.Flatten(), nn.Linear(6, 3))
    words = torch.tensor([[1, 2, 3], [4, 5, 6]]), torch.tensor([0, 1])
    with pytest.raises(TypeError, match=r"expected inputs to mix, .* torch\.int64"):
        trainers.mixup()(model, words)


def test_one_weight_for_all_is_refused():
    with pytest.raises(TypeError, match=r"expected weights .*got float"):
        trainers.mixed(*parts(), weights=1.0)


@pytest.mark.parametrize("case", BAD)
def test_bad_arguments_are_refused_at_once(case):
    call, error, match = BAD[case]
    with pytest.raises(error, match=f"expected {match}"):
        call()
