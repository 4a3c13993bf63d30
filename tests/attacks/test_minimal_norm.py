"""The attacks for the smallest perturbation: closed forms, success, and how few calls they need."""

import copy
import math
from functools import partial

import pytest
import torch
from scipy.stats import spearmanr
from sklearn.datasets import load_digits
from torch import nn
from torch.nn.functional import cross_entropy

from advcal.attacks import adversarial_distance, cw_l2, ddn, deepfool, fmn, foot, minimum_norm
from advcal.attacks._agreement import doubted
from tests.attacks.cases import Counted, examples, linear, mlp, seeded

DOUBLE = torch.float64
WIDE = (-100.0, 100.0)  # bounds that no attack here reaches
ORDERS = {"l2": 2, "linf": torch.inf, "l1": 1, "l0": 0}
DUAL = {"l2": 2, "linf": 1, "l1": torch.inf}

ATTACKS = {
    "ddn": (partial(ddn, steps=200), "l2"),
    "fmn-l2": (partial(fmn, norm="l2", steps=200), "l2"),
    "fmn-linf": (partial(fmn, steps=200), "linf"),
    "deepfool-l2": (partial(deepfool, norm="l2", overshoot=1e-4), "l2"),
    "deepfool-linf": (partial(deepfool, overshoot=1e-4), "linf"),
    "foot": (partial(foot), "l2"),
    "minimum_norm-l2": (partial(minimum_norm, norm="l2"), "l2"),
    "minimum_norm-linf": (partial(minimum_norm, norm="linf"), "linf"),
    "minimum_norm-l1": (partial(minimum_norm, norm="l1"), "l1"),
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


@pytest.mark.parametrize("name", ["ddn", "foot", "fmn-l2", "minimum_norm-l2"])
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


@pytest.mark.parametrize(("steps", "most_in_l1"), [(20, 0.2), (50, 0.05), (250, 0.01)])
@pytest.mark.parametrize("norm", ["linf", "l2", "l1"])
def test_the_least_norm_of_a_linear_model(norm, steps, most_in_l1):
    model, weight, inputs, labels = linear_problem(5)
    found = minimum_norm(model, inputs, labels, norm=norm, steps=steps, bounds=WIDE)
    nearest = distances_to(weight, inputs, labels, norm).amin(dim=1)
    most = most_in_l1 if norm == "l1" else 1.01e-4
    assert fooled(model, found, labels).all()
    assert float((lengths(found - inputs, norm) / nearest - 1).abs().max()) < most


@pytest.mark.parametrize("norm", ["linf", "l2", "l1", "l0"])
def test_the_least_norm_where_the_box_cuts(norm):
    """Of a half-space and a box: a linear program, or one with a quadratic aim."""
    weight = torch.tensor([5.0, 4.0, 3.0, 2.0, 1.0, 0.5], dtype=torch.float64)
    room = torch.tensor([0.05, 0.4, 0.1, 0.3, 0.5, 0.5], dtype=torch.float64)
    gap = 0.6 * float(weight @ room)
    model = lambda x: torch.stack([gap - (x - 0.5) @ weight, 0 * x[:, 0]], dim=1)  # noqa: E731
    inputs, labels = torch.full((1, 6), 0.5, dtype=torch.float64), torch.tensor([0])
    found = minimum_norm(
        model, inputs, labels, norm=norm, steps=250, bounds=(0.5 - room, 0.5 + room)
    )
    sizes = torch.linspace(0, 2, 200_001, dtype=torch.float64)[:, None]
    if norm in ("linf", "l2"):  # every entry as far as its share of a multiple, or to its bound
        moves = (sizes * (weight if norm == "l2" else 1)).minimum(room)
    else:  # the entries of the largest weight first, each to its bound
        moves = (sizes - room.cumsum(dim=0) + room).clamp_min(0).minimum(room)
    move = moves[int((moves @ weight < gap).sum())]
    if norm == "l0":
        move = room * ((weight * room).sort(descending=True).values.cumsum(dim=0) < gap)
        wanted = torch.tensor([float((move != 0).sum() + 1)], dtype=torch.float64)
    else:
        wanted = lengths(move[None], norm)
    assert fooled(model, found, labels).all()
    torch.testing.assert_close(lengths(found - inputs, norm), wanted, rtol=0.01, atol=0)


@pytest.mark.parametrize("norm", ["linf", "l2", "l1", "l0"])
def test_the_least_norm_knows_no_units(norm):
    model, inputs, labels = problem()
    for scale in (2.0**-20, 256.0):
        other = lambda x: 2.0**9 * model(x / scale)  # noqa: B023, E731
        for targeted in (False, True):
            options = {"norm": norm, "targeted": targeted, "steps": 90 if norm == "l0" else 30}
            labels = (labels + targeted) % 6
            wanted = minimum_norm(model, inputs, labels, **options)
            found = minimum_norm(other, scale * inputs, labels, bounds=(0.0, scale), **options)
            assert torch.equal(found, scale * wanted)


def test_counting_entries_needs_ends():
    model, inputs, labels = problem()
    for bounds in (None, (0.0, math.inf), (torch.tensor(-math.inf), 1.0)):
        with pytest.raises(ValueError, match="expected finite bounds with norm 'l0', got"):
            minimum_norm(model, inputs, labels, norm="l0", bounds=bounds)


def test_searches_for_several_classes_and_one_for_all():
    """The second class is nearer than the first, whose lead is less behind."""
    weight = torch.tensor([[0.0, 0.0], [1.0, 0.0], [0.0, 8.0]], dtype=torch.float64)
    model = lambda x: x @ weight.T - torch.tensor([0.0, 1.0, 3.0])  # noqa: E731
    inputs, labels = torch.zeros(1, 2, dtype=torch.float64), torch.tensor([0])
    for norm, steps in (("linf", 24), ("l2", 24), ("linf", 90), ("l2", 90), ("l1", 60)):
        options = {"norm": norm, "steps": steps, "bounds": WIDE}
        one, three = (
            lengths(minimum_norm(model, inputs, labels, candidates=n, **options), norm)
            for n in (1, 3)
        )
        torch.testing.assert_close(three.item(), 3 / 8, rtol=1e-3, atol=0)
        assert three <= one


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


@pytest.mark.parametrize("name", [name for name in ATTACKS if name != "minimum_norm-l1"])
def test_the_last_point_counts(name):
    """With one step, only the point after it can fool the model; in L1 one step is too short."""
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
    for candidates in (1, 2, 9):
        model = Counted(mlp())
        deepfool(model, inputs, labels, steps=1, candidates=candidates)
        backwards.append(model.backwards)
    assert backwards == [1, 2, 2]


# --- trained models --------------------------------------------------------------------------


@pytest.fixture(scope="module")
def digits():
    """A classifier of digits and inputs, many of whose pixels are 0 or 1."""
    model, inputs = classifier_of_digits(nn.ReLU)
    return model, inputs, model(inputs).argmax(dim=1)


def classifier_of_digits(unit):
    """Train a small network; return it and test inputs."""
    bunch = load_digits()
    inputs = torch.tensor(bunch.data / 16, dtype=torch.float32)
    labels = torch.tensor(bunch.target)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = nn.Sequential(nn.Linear(64, 64), unit(), nn.Linear(64, 64), unit())
        model.append(nn.Linear(64, 10))
    optimizer = torch.optim.Adam(model.parameters(), lr=5e-3)
    for _ in range(100):
        optimizer.zero_grad()
        cross_entropy(model(inputs[:1200]), labels[:1200]).backward()
        optimizer.step()
    return model.requires_grad_(False), inputs[1200:1330]


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


class Passes(nn.Module):
    """A model that counts its passes, forward and backward, by examples."""

    def __init__(self, model):
        super().__init__()
        self.model, self.forwards, self.backwards = model, 0, 0

    def forward(self, inputs):
        self.forwards += len(inputs)
        logits = self.model(inputs)
        if logits.requires_grad:
            logits.register_hook(self._count)
        return logits

    def _count(self, gradient):
        self.backwards += len(gradient)


def steep():
    """A network whose gradients say little from afar, and inputs."""
    model, inputs = classifier_of_digits(nn.Tanh)
    for layer in model[:3:2]:
        layer.weight.data *= 8
        layer.bias.data *= 8
    return model, inputs[:80]


def test_the_fast_setting_ranks_in_few_passes(digits, full_budget):
    model, inputs, _ = digits
    counted = Passes(model)
    distances = adversarial_distance(counted, inputs, attack="fast")
    assert counted.forwards <= 25 * len(inputs)
    assert counted.backwards <= 23 * len(inputs)
    assert distances.isfinite().all()
    assert spearmanr(distances, full_budget).statistic >= 0.98


def test_the_precise_setting_is_nearer_than_a_thousand_steps_in_a_tenth(digits, full_budget):
    model, inputs, _ = digits
    counted = Passes(model)
    distances = adversarial_distance(counted, inputs)
    assert counted.forwards <= 100 * len(inputs)
    assert distances.median() <= full_budget.median()
    assert distances.mean() <= 1.001 * full_budget.mean()
    fast = adversarial_distance(model, inputs, attack="fast")
    assert distances.mean() <= fast.mean()


@pytest.mark.parametrize(
    ("attack", "rank", "ratio", "passes"), [("fast", 0.98, 1.05, 120), ("precise", 0.99, 1.01, 450)]
)
def test_the_settings_search_on_in_a_network_of_steep_units(attack, rank, ratio, passes):
    """17 steps of `minimum_norm` alone have a correlation of .94 here, `foot` .79 and .88."""
    model, inputs = steep()
    counted = Passes(model)
    distances = adversarial_distance(counted, inputs, attack=attack)
    known = adversarial_distance(model, inputs, attack=partial(minimum_norm, norm="l2", steps=200))
    known = known.minimum(adversarial_distance(model, inputs))
    assert spearmanr(distances, known).statistic > rank
    assert (distances / known).mean() < ratio
    assert 40 * len(inputs) < counted.forwards <= passes * len(inputs)


@pytest.mark.parametrize("attack", ["fast", "precise"])
def test_no_example_is_searched_on_for_its_neighbours(attack, digits):
    """Steep networks would not do: there a search doubles what rounding does every few steps."""
    model = nn.Sequential(copy.deepcopy(digits[0]), nn.Sigmoid()).double()
    inputs = digits[1][:4].double()
    together, counted = adversarial_distance(model, inputs, attack=attack), Passes(model)
    alone = [adversarial_distance(counted, each[None], attack=attack) for each in inputs]
    torch.testing.assert_close(together, torch.cat(alone), rtol=1e-3, atol=0)
    assert counted.forwards > 40 * len(inputs)


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


# --- masked classes --------------------------------------------------------------------------

BUDGETS = {
    "cw_l2": partial(cw_l2, search_steps=3, steps=20, step_size=0.1, initial_c=0.5),
    "ddn": partial(ddn, steps=20),
    "deepfool": deepfool,
    "deepfool-l2": partial(deepfool, norm="l2"),
    "deepfool-few": partial(deepfool, candidates=3),
    "fmn": partial(fmn, steps=20),
    "fmn-l2": partial(fmn, steps=20, norm="l2"),
    "foot": foot,
    "foot-many": partial(foot, candidates=9),
    "minimum_norm": partial(minimum_norm, steps=20, norm="l2"),
    "minimum_norm-l1": partial(minimum_norm, steps=20, norm="l1"),
    "minimum_norm-linf": partial(minimum_norm, steps=20, norm="linf"),
    "foot-short": partial(foot, steps=7),
}
AIMED = {
    f"{name}-targeted": partial(BUDGETS[name], targeted=True)
    for name in ("cw_l2", "ddn", "fmn", "foot", "minimum_norm")
}
MEASURES = {
    name: lambda model, inputs, _, name=name, **options: adversarial_distance(
        model, inputs, attack=name, **options
    )
    for name in ("linear", "quick", "fast", "precise")
}
EVERY = BUDGETS | AIMED | MEASURES
everything = pytest.mark.parametrize("name", EVERY)
MASKS = [-math.inf, -1e4, -1e30]


def problem(n_classes=6):
    """A network, inputs at their bounds in part, and labels: what it says but for one."""
    model, (inputs, _) = mlp(2, n_classes=n_classes, dtype=torch.float64), examples(8, dtype=DOUBLE)
    labels = model(inputs).argmax(dim=1)
    labels[-1] = (labels[-1] + 1) % n_classes
    return model, inputs, labels


def of(name, labels, n_classes=6):
    return (labels + 1) % n_classes if name in AIMED else labels


@everything
@pytest.mark.parametrize("mask", MASKS)
def test_masked_classes_are_as_if_sliced_off(name, mask):
    model, inputs, labels = problem()
    labels = of(name, labels)
    wanted = EVERY[name](model, inputs, labels)
    for at in ((0,), (2, 5), (0, 1, 2, 3, 7, 9)):
        others = torch.tensor([k for k in range(6 + len(at)) if k not in at])
        empty = torch.full((len(inputs), 6 + len(at)), mask, dtype=DOUBLE)
        masked = lambda x: empty[: len(x)].index_copy(1, others, model(x))  # noqa: B023, E731
        found = EVERY[name](masked, inputs, others[labels])
        torch.testing.assert_close(found, wanted, rtol=1e-9, atol=1e-12)


@everything
@pytest.mark.parametrize("mask", MASKS)
def test_each_example_may_have_masks_of_its_own(name, mask):
    """An entry that cannot move says how many of the last classes are masked."""
    model, inputs, labels = problem()
    counts = torch.arange(8) % 4
    first = torch.where(of(name, labels) < 6 - counts, of(name, labels), 0)

    def masking(points):
        off = torch.arange(6) >= 6 - points[:, -1:]
        return model(points[:, :-1].unflatten(1, inputs.shape[1:])).masked_fill(off, mask)

    beside = torch.cat([inputs.flatten(1), counts[:, None].double()], dim=1)
    low, high = torch.zeros_like(beside), torch.ones_like(beside)
    low[:, -1] = high[:, -1] = counts
    found = EVERY[name](masking, beside, first, bounds=(low, high))
    for i, count in enumerate(counts.tolist()):
        sliced = lambda x: model(x)[:, : 6 - count]  # noqa: B023, E731
        alone = EVERY[name](sliced, inputs[i : i + 1], first[i : i + 1])
        each = found[i : i + 1] if name in MEASURES else found[i : i + 1, :-1].view_as(alone)
        torch.testing.assert_close(each, alone, rtol=1e-7, atol=1e-9)


@pytest.mark.parametrize("mask", MASKS)
def test_deepfool_reaches_the_boundary_beside_a_masked_class(mask):
    weight = torch.tensor([[1.0, -1.0], [0.0, 0.0]])
    inputs, labels = torch.tensor([[0.5, 0.5]]), torch.tensor([0])

    def model(points):
        logits = (points - 0.25) @ weight
        return torch.cat([logits, torch.full((len(points), 1), mask)], dim=1)

    for candidates in (1, 9):
        found = deepfool(model, inputs, labels, candidates=candidates)
        torch.testing.assert_close(found, torch.tensor([[0.2449, 0.5]]), rtol=0, atol=1e-4)


# --- bounds of every form --------------------------------------------------------------------

ENTRIES = torch.full((4, 4), 1e4, dtype=DOUBLE)
LOOSE = {
    "infinite": (-math.inf, math.inf),
    "wide": (-1e4, 1e4),
    "wider": (-1e6, 1e6),
    "half": (-math.inf, 1e3),
    "entries": (-ENTRIES, ENTRIES),
    "mixed": (-1e5, torch.tensor(math.inf)),
    "one": (torch.tensor(-1e4), 1e4),
    "examples": (torch.full((8, 1, 1, 1), -math.inf), 1e4),
}


@everything
@pytest.mark.parametrize("form", LOOSE)
def test_bounds_that_do_not_bind_do_not_matter(name, form):
    if "cw_l2" in name and form in ("wide", "wider", "entries", "one"):
        pytest.skip("its variable is stretched over the box")
    model, inputs, labels = problem()
    labels = of(name, labels)
    free = EVERY[name](model, inputs, labels, bounds=None)
    assert torch.equal(EVERY[name](model, inputs, labels, bounds=LOOSE[form]), free)
    assert (free != inputs).any() if name not in MEASURES else free.isfinite().all()


@everything
def test_bounds_as_tensors_are_as_numbers(name):
    model, inputs, labels = problem()
    ends = torch.tensor(0.0), torch.ones_like(inputs)
    for dtype in (DOUBLE, torch.float32, torch.float16):
        model, inputs = model.to(dtype), inputs.to(dtype)
        wanted = EVERY[name](model, inputs, of(name, labels))
        assert torch.equal(EVERY[name](model, inputs, of(name, labels), bounds=ends), wanted)


@everything
def test_entries_whose_bounds_meet_are_as_if_they_were_no_inputs(name):
    model, inputs, labels = problem()
    labels = of(name, labels)
    held = torch.rand(8, 16, generator=seeded(5), dtype=DOUBLE) < 0.4
    held[:, :4] = torch.tensor([True, False, True, False])
    held = held[:1].expand(8, -1)
    low, high = torch.zeros(8, 16, dtype=DOUBLE), torch.ones(8, 16, dtype=DOUBLE)
    flat = inputs.flatten(1)
    low[held], high[held] = flat[held], flat[held]
    bounds = low.view_as(inputs), high.view_as(inputs)
    found = EVERY[name](model, inputs, labels, bounds=bounds)
    for i in range(8):
        moving = flat[i, ~held[i]][None]

        def rest(points, i=i):
            whole = flat[i].expand(len(points), -1).clone()
            return model(whole.masked_scatter(~held[:1].expand(len(points), -1), points))

        alone = EVERY[name](rest, moving, labels[i : i + 1])
        if name in MEASURES:
            torch.testing.assert_close(found[i : i + 1], alone, rtol=1e-6, atol=1e-9)
        else:
            assert torch.equal(found[i].flatten()[held[i]], flat[i, held[i]])
            torch.testing.assert_close(found[i].flatten()[~held[i]], alone[0], rtol=1e-6, atol=1e-9)


CUT = {
    "ddn": (partial(ddn, steps=200), "l2"),
    "foot": (foot, "l2"),
    "fmn-l2": (partial(fmn, norm="l2", steps=200), "l2"),
    "fmn": (partial(fmn, steps=200), "linf"),
    "cw_l2": (partial(cw_l2, search_steps=7, steps=200, step_size=0.05, initial_c=1.0), "l2"),
    "deepfool": (deepfool, "linf"),
}


@pytest.mark.parametrize("name", CUT)
def test_the_nearest_boundary_where_each_entry_has_bounds_of_its_own(name):
    """The first entry may fall by .05 and so gives .2 of 1.2; the others share what is left."""
    attack, norm = CUT[name]
    weight = torch.tensor([[4.0, 1.0, 1.0], [0.0, 0.0, 0.0]], dtype=DOUBLE)
    model = lambda inputs: inputs @ weight.T - torch.tensor([2.0, 0.0])  # noqa: E731
    inputs, labels = torch.tensor([[0.5, 0.6, 0.6]], dtype=DOUBLE), torch.tensor([0])
    low = torch.tensor([0.45, -math.inf, -7.0], dtype=DOUBLE)
    found = attack(model, inputs, labels, bounds=(low, torch.tensor([0.5, math.inf, 9.0])))
    assert fooled(model, found, labels).all()
    assert ((found >= low) & (found[:, 0] <= 0.5)).all()
    wanted = {"l2": math.sqrt(0.05**2 + 2 * 0.5**2), "linf": 0.5}[norm]
    assert wanted < float(lengths(found - inputs, norm)) < 1.03 * wanted


@pytest.mark.parametrize("norm", ["l2", "linf"])
def test_deepfool_has_no_unit(norm):
    model, inputs, labels = problem()
    wanted = deepfool(model, inputs, labels, norm=norm)
    for scale in (2.0**-20, 2.0**10, 255.0):
        scaled = lambda points: model(points / scale)  # noqa: B023, E731
        found = deepfool(scaled, inputs * scale, labels, norm=norm, bounds=(0, scale)) / scale
        torch.testing.assert_close(found, wanted, rtol=1e-9, atol=1e-9)


def test_deepfool_leaves_a_tie():
    """At a distance of 0 there is no length to go a share of beyond."""
    for at in (0.0, 0.25, 1e4):
        inputs = torch.full((1, 2), at)
        model = lambda points: (points - at) @ torch.tensor([[1.0, -1.0], [0.5, 0.5]])  # noqa: B023, E731
        for norm in ("l2", "linf"):
            found = deepfool(model, inputs, torch.tensor([0]), norm=norm, bounds=None)
            assert fooled(model, found, torch.tensor([0])).all()
            assert float((found - inputs).abs().max()) <= 1e-4 * max(at, 1)


def test_foot_stays_finite_without_bounds():
    """A ray that hardly climbs would go to a corner of the box, were there one."""
    flat = lambda x: torch.stack([x[:, 0] * 0 + 1, (x[:, 0] - 3).relu() * x[:, 1]], dim=1)  # noqa: E731
    inputs = 4 * torch.rand(50, 2, generator=seeded(1))
    labels = flat(inputs).argmax(dim=1)
    found = foot(flat, inputs, labels, bounds=None)
    assert found.isfinite().all()
    assert fooled(flat, found, labels).double().mean() > 0.2


@pytest.mark.parametrize("setting", ["fast", "precise"])
def test_failures_are_no_agreement(setting):
    def model(inputs):  # only the last class can be reached, and its logit is the lowest
        one = torch.ones(len(inputs), 1)
        return torch.cat([one, 0.5 * one, 0.5 * one, 0.5 * one, 10 * (inputs[:, :1] - 0.6)], dim=1)

    distance = adversarial_distance(model, torch.full((2, 4), 0.5), attack=setting)
    torch.testing.assert_close(distance, torch.full((2,), 0.2).double(), rtol=1e-3, atol=0)


def test_a_class_that_seems_near_is_looked_at_however_low_its_logit():
    """The attacks start towards the three highest logits, and agree on a boundary that is flat."""

    def model(inputs):
        first, second = inputs[:, 0] - 0.5, inputs[:, 1] - 0.5
        flat = 1.0 + 1.5 * (first - 0.2)
        bent = 1.0 + 0.8 * (-1 + second / 0.21 + (1 - 0.18 / 0.21) * (second / 0.18) ** 2)
        decoys = torch.full_like(flat, 0.6)
        return torch.stack([torch.ones_like(flat), decoys, decoys, flat, bent], dim=1)

    inputs = torch.full((2, 4), 0.5)
    inputs[1, 1] = 0.3  # so far from the bent boundary that it seems far too
    distance = adversarial_distance(model, inputs)
    torch.testing.assert_close(distance, torch.tensor([0.18, 0.2]).double(), rtol=5e-3, atol=0)


@pytest.mark.parametrize("at", [0.0, 0.001, 0.999, 1.0])
def test_a_length_that_no_boundary_asks_for_is_in_doubt(at):
    inputs, normal = torch.tensor([[0.5, 0.5]]), torch.tensor([[1.0, 0.0]])
    points = torch.tensor([[0.8, at]])
    assert doubted(inputs, points, normal, (0.0, 1.0), torch.ones(1), 0.01)
    assert not doubted(inputs, points[:, :1], normal[:, :1], (0.0, 1.0), torch.ones(1), 0.01)
