"""The attacks for the smallest perturbation: closed forms, success, and how few calls they need."""

import math
from functools import partial

import pytest
import torch
from scipy.stats import spearmanr
from sklearn.datasets import load_digits
from torch import nn
from torch.nn.functional import cross_entropy

from advcal.attacks import adversarial_distance, cw_l2, ddn, deepfool, fmn, foot
from tests.attacks.cases import Counted, examples, linear, mlp, seeded

WIDE = (-100.0, 100.0)  # bounds that no attack here reaches
ORDERS = {"l2": 2, "linf": torch.inf}
DUAL = {"l2": 2, "linf": 1}

ATTACKS = {
    "ddn": (partial(ddn, steps=200), "l2"),
    "fmn-l2": (partial(fmn, norm="l2", steps=200), "l2"),
    "fmn-linf": (partial(fmn, steps=200), "linf"),
    "deepfool-l2": (partial(deepfool, norm="l2", overshoot=1e-4), "l2"),
    "deepfool-linf": (partial(deepfool, overshoot=1e-4), "linf"),
    "foot": (partial(foot), "l2"),
}
TARGETED = [name for name in ATTACKS if "deepfool" not in name]
every_attack = pytest.mark.parametrize("name", ATTACKS)


def linear_problem(n_classes=2, size=6, n=12, scale=0.2):
    """A linear model, inputs around its boundaries and what it says of them.

    It is sharp, so that the gradient of the cross-entropy is of one other class alone.
    """
    weight = 50 * torch.randn(n_classes, size, generator=seeded(3), dtype=torch.float64)
    inputs = scale * torch.randn(n, size, generator=seeded(4), dtype=torch.float64)
    model = lambda inputs: inputs @ weight.T  # noqa: E731
    return model, weight, inputs, model(inputs).argmax(dim=1)


def distances_to(weight, inputs, labels, norm):
    """How far the boundary to each class is, infinite for the label's own."""
    difference = weight[labels][:, None] - weight[None]
    gaps = (difference * inputs[:, None]).sum(dim=2)
    lengths = torch.linalg.vector_norm(difference, DUAL[norm], dim=2)
    return (gaps / lengths).scatter(1, labels[:, None], torch.inf)


def lengths(offsets, norm):
    return torch.linalg.vector_norm(offsets.flatten(1), ORDERS[norm], dim=1)


def fooled(model, points, labels):
    with torch.no_grad():
        return model(points).argmax(dim=1) != labels


# --- closed forms on linear models -----------------------------------------------------------


@every_attack
@pytest.mark.parametrize("n_classes", [2, 5])
def test_the_nearest_boundary_of_a_linear_model(name, n_classes):
    attack, norm = ATTACKS[name]
    model, weight, inputs, labels = linear_problem(n_classes)
    bounds = (-2.0, 2.0)
    found = attack(model, inputs, labels, bounds=bounds)
    assert fooled(model, found, labels).all()
    wanted = distances_to(weight, inputs, labels, norm).amin(dim=1)
    reached = lengths(found - inputs, norm)
    assert (reached >= wanted - 1e-12).all()
    torch.testing.assert_close(reached, wanted, rtol=0.01, atol=1e-3)


def test_foot_is_exact_on_a_linear_model():
    model, weight, inputs, labels = linear_problem(5)
    found = foot(model, inputs, labels, bounds=WIDE)
    nearest = distances_to(weight, inputs, labels, "l2").amin(dim=1)
    torch.testing.assert_close(lengths(found - inputs, "l2"), nearest, rtol=2e-4, atol=0)


@pytest.mark.parametrize("name", TARGETED)
def test_the_boundary_of_a_target(name):
    attack, norm = ATTACKS[name]
    model, _, inputs, labels = linear_problem(3)
    for shift in (1, 2):
        targets = (labels + shift) % 3
        found = attack(model, inputs, targets, targeted=True, bounds=(-2.0, 2.0))
        assert torch.equal(model(found).argmax(dim=1), targets)
        short = inputs + 0.9 * (found - inputs)
        assert (model(short).argmax(dim=1) != targets).double().mean() > 0.8, norm


@pytest.mark.parametrize("name", ["ddn", "foot", "fmn-l2"])
def test_the_nearest_boundary_where_the_box_cuts(name):
    """The nearest point of a half-space and a box: its offset is the clamped normal."""
    attack, _ = ATTACKS[name]
    weight = torch.tensor([[4.0, 1.0, 1.0], [0.0, 0.0, 0.0]], dtype=torch.float64)
    model = lambda inputs: inputs @ weight.T - torch.tensor([2.0, 0.0])  # noqa: E731
    # The first pixel of the first has no room to fall and its others share what is to go.
    inputs = torch.tensor([[0.1, 0.9, 0.9], [0.3, 0.6, 0.6]], dtype=torch.float64)
    found = attack(model, inputs, torch.tensor([0, 0]), bounds=(0.1, 1.0))
    wanted = torch.tensor([0.2 / math.sqrt(2), 0.4 / math.sqrt(18)], dtype=torch.float64)
    assert fooled(model, found, torch.tensor([0, 0])).all()
    torch.testing.assert_close(lengths(found - inputs, "l2"), wanted, rtol=0.01, atol=0)


# --- what is done, what fails ----------------------------------------------------------------


@every_attack
def test_what_is_wrong_already_costs_nothing(name):
    attack, _ = ATTACKS[name]
    model, _, inputs, labels = linear_problem()
    labels[::2] = 1 - labels[::2]
    found = attack(model, inputs, labels, bounds=(-2.0, 2.0))
    assert torch.equal(found[::2], inputs[::2])
    assert (found[1::2] != inputs[1::2]).any(dim=1).all()


@every_attack
def test_a_constant_model_is_never_fooled(name):
    attack, _ = ATTACKS[name]
    constant = lambda inputs: inputs.flatten(1)[:, :3] * 0 + torch.tensor([1.0, 0.0, 0.0])  # noqa: E731
    inputs, labels = examples()
    assert torch.equal(attack(constant, inputs, labels * 0), inputs)
    assert adversarial_distance(constant, inputs, attack=attack).tolist() == [math.inf] * 3


@pytest.mark.parametrize("attack", ["fast", "precise"])
def test_adversarial_distance_of_a_constant_model(attack):
    constant = lambda inputs: inputs.flatten(1)[:, :3] * 0 + torch.tensor([1.0, 0.0, 0.0])  # noqa: E731
    assert adversarial_distance(constant, examples()[0], attack=attack).tolist() == [math.inf] * 3


@every_attack
def test_the_last_point_counts(name):
    """With one step, only the point after it can fool the model."""
    attack, norm = ATTACKS[name]
    model, _, inputs, labels = linear_problem(scale=0.02)
    one = partial(attack.func, **{**attack.keywords, "steps": 1})
    found = one(model, inputs, labels, bounds=(-2.0, 2.0))
    if name.startswith(("fmn", "ddn")):  # whose first radius may fall short of the boundary
        assert fooled(model, found, labels).any(), norm
    else:
        assert fooled(model, found, labels).all(), norm


@pytest.mark.parametrize("norm", ["l2", "linf"])
def test_deepfool_does_not_depend_on_who_left_the_batch(norm):
    model, (inputs, _) = mlp(1, dtype=torch.float64), examples(12, dtype=torch.float64)
    labels = model(inputs).argmax(dim=1)
    together = deepfool(model, inputs, labels, norm=norm)
    each = [
        deepfool(model, x[None], y[None], norm=norm) for x, y in zip(inputs, labels, strict=True)
    ]
    torch.testing.assert_close(together, torch.cat(each), rtol=0, atol=1e-9)


def test_deepfool_with_fewer_candidates_goes_backward_less():
    backwards = []
    inputs, _ = examples(4)
    labels = mlp()(inputs).argmax(dim=1)
    for candidates in (2, 3, 10):
        model = Counted(mlp())
        deepfool(model, inputs, labels, steps=1, candidates=candidates)
        backwards.append(model.backwards)
    assert backwards == [1, 2, 2]


# --- trained models --------------------------------------------------------------------------


@pytest.fixture(scope="module")
def digits():
    """A classifier of digits and inputs, many of whose pixels are 0 or 1."""
    bunch = load_digits()
    inputs = torch.tensor(bunch.data / 16, dtype=torch.float32)
    labels = torch.tensor(bunch.target)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = nn.Sequential(nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 64), nn.ReLU())
        model.append(nn.Linear(64, 10))
    optimizer = torch.optim.Adam(model.parameters(), lr=5e-3)
    for _ in range(100):
        optimizer.zero_grad()
        cross_entropy(model(inputs[:1200]), labels[:1200]).backward()
        optimizer.step()
    inputs = inputs[1200:1330]
    return model.requires_grad_(False), inputs, model(inputs).argmax(dim=1)


@every_attack
def test_every_prediction_on_digits_changes(name, digits):
    model, inputs, labels = digits
    attack, norm = ATTACKS[name]
    options = {"norm": norm} if "-" in name else {}
    found = attack.func(model, inputs, labels, **options)
    assert fooled(model, found, labels).all()


@pytest.mark.parametrize("attack", [partial(ddn, steps=1), partial(fmn, norm="l2", steps=1)])
def test_more_steps_come_nearer(attack, digits):
    model, inputs, labels = digits
    medians = []
    for steps in (10, 40, 160):
        found = attack.func(model, inputs, labels, **{**attack.keywords, "steps": steps})
        length = lengths(found - inputs, "l2")
        medians.append(float(torch.where(fooled(model, found, labels), length, torch.inf).median()))
    assert medians == sorted(medians, reverse=True)
    assert medians[0] > medians[-1]


@pytest.fixture(scope="module")
def full_budget(digits):
    model, inputs, _ = digits
    return adversarial_distance(model, inputs, attack=partial(ddn, steps=1000))


def test_the_fast_setting_ranks_in_twenty_calls(digits, full_budget):
    model, inputs, _ = digits
    counted = Counted(model)
    distances = adversarial_distance(counted, inputs, attack="fast")
    assert counted.forwards <= 20
    assert counted.backwards <= 20
    assert distances.isfinite().all()
    assert spearmanr(distances, full_budget).statistic >= 0.98


def test_the_precise_setting_is_nearer_than_a_thousand_steps_in_fifty_calls(digits, full_budget):
    model, inputs, _ = digits
    counted = Counted(model)
    distances = adversarial_distance(counted, inputs)
    assert counted.forwards <= 50
    assert distances.median() <= full_budget.median()
    assert distances.mean() <= full_budget.mean()
    fast = adversarial_distance(model, inputs, attack="fast")
    assert distances.mean() <= fast.mean()


def test_cw_with_a_small_budget_moves_pixels_at_the_bounds(digits):
    """From the published start, the mean is half as large again as that of the nearest points."""
    model, inputs, labels = digits
    found = cw_l2(model, inputs[:32], labels[:32], search_steps=5, steps=100)
    distances = lengths(found - inputs[:32], "l2")
    nearest = adversarial_distance(model, inputs[:32])
    assert fooled(model, found, labels[:32]).all()
    assert nearest.median() <= distances.median() < 1.1 * nearest.median()
    assert distances.mean() < 1.25 * nearest.mean()


def test_cw_with_a_large_factor_in_half_precision():
    """The factor, 1e5, is infinite in float16, and so are the two parts of each pixel's slope."""
    weight = torch.tensor([[60.0, 60.0], [20.0, 20.0]], dtype=torch.float16)
    model = lambda inputs: (inputs - 0.25) @ weight.T  # noqa: E731
    inputs, labels = torch.tensor([[0.5, 0.5]], dtype=torch.float16), torch.tensor([0])
    found = cw_l2(model, inputs, labels, search_steps=2, steps=60, initial_c=1e5, step_size=0.05)
    assert fooled(model, found, labels).all()
    assert lengths(found - inputs, "l2") < 1.2 * 0.25 * math.sqrt(2)


@pytest.mark.parametrize("wrong", ["slow", "FAST", None, 3])
def test_settings_that_there_are_not(wrong):
    with pytest.raises((TypeError, ValueError), match=r"expected attack .*, got"):
        adversarial_distance(mlp(), examples()[0], attack=wrong)


def test_the_settings_of_the_distance_take_bounds():
    model = linear(dtype=torch.float64)
    inputs, _ = examples(dtype=torch.float64)
    wanted = adversarial_distance(model, inputs)
    stretched = adversarial_distance(
        lambda points: model((points + 1) / 2), inputs * 2 - 1, bounds=(-1.0, 1.0)
    )
    torch.testing.assert_close(stretched, 2 * wanted, rtol=1e-3, atol=0)
