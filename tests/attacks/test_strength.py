"""How strong the attacks are: closed-form optima, guarantees, and what they must not miss."""

import math
from functools import partial

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.datasets import load_digits
from torch import nn
from torch.nn.functional import cross_entropy

from advcal.attacks import (
    adversarial_distance,
    batched,
    cw_l2,
    fgsm,
    iaa,
    pgd,
    uniform_noise,
    worst_case,
)
from advcal.losses import inverse_adversarial, margin
from tests.attacks.cases import (
    CALLING,
    DETERMINISTIC,
    Counted,
    each_cross_entropy,
    examples,
    linear,
    mlp,
    rows,
    seeded,
)

WIDE = (-100.0, 100.0)  # bounds that no attack here reaches
DUAL = {"linf": 1, "l2": 2, "l1": math.inf}

every_norm = pytest.mark.parametrize("norm", DUAL)


class Linear(nn.Module):
    """Logits `inputs @ weight.T + bias`."""

    def __init__(self, weight, bias=0.0):
        super().__init__()
        self.register_buffer("weight", weight)
        self.bias = bias

    def forward(self, inputs):
        return inputs.flatten(1) @ self.weight.T + self.bias


def linear_problem(n_classes=2, size=6, n=8, dtype=torch.float64):
    """A linear model, inputs that it gets right by at least half a logit, and their labels."""
    generator = seeded(1)
    weight = torch.randn(n_classes, size, generator=generator, dtype=torch.float64)
    model = Linear(weight.to(dtype))
    inputs = torch.randn(20 * n, size, generator=generator, dtype=torch.float64).to(dtype)
    labels = model(inputs).argmax(dim=1)
    clear = margins(model, inputs, labels) < -0.5
    return model, inputs[clear][:n], labels[clear][:n]


def margins(model, inputs, labels):
    with torch.no_grad():
        return margin(model(inputs), labels, reduction="none")


def pulls(model, labels, norm):
    """How much each other logit gains on the label's per unit of distance, `(n, classes)`."""
    difference = model.weight[None] - model.weight[labels][:, None]
    return torch.linalg.vector_norm(difference, DUAL[norm], dim=2)


def highest_margins(model, inputs, labels, norm, eps):
    logits = model(inputs)
    gains = logits - logits.gather(1, labels[:, None]) + eps * pulls(model, labels, norm)
    return gains.scatter(1, labels[:, None], -torch.inf).amax(dim=1)


def scores(model, inputs, labels):
    """Pairs that compare as attacks do: first fooled or not, then the log-odds."""
    logits = model(inputs)
    others = logits.scatter(1, labels[:, None], -torch.inf).logsumexp(dim=1)
    odds = others - logits.gather(1, labels[:, None])[:, 0]
    return list(zip((logits.argmax(dim=1) != labels).tolist(), odds.tolist(), strict=True))


def assert_never_lower(some, others, tolerance=1e-9):
    for (fooled, odds), (other_fooled, other_odds) in zip(some, others, strict=True):
        assert fooled >= other_fooled
        assert fooled > other_fooled or odds >= other_odds - tolerance


# --- closed-form optima on linear models -----------------------------------------------------

STRAIGHT = {
    "fgsm": fgsm,
    "fgsm-margin": partial(fgsm, loss="margin"),
    "fgsm-callable": partial(fgsm, loss=each_cross_entropy),
    "pgd-zero": partial(pgd, random_start=False),
    "pgd-margin": partial(pgd, random_start=False, loss="margin"),
    "pgd-callable": partial(pgd, random_start=False, loss=each_cross_entropy),
    "pgd": partial(pgd, steps=60, step_size=0.1),
    "worst_case": lambda *arguments, **options: worst_case(
        partial(uniform_noise, **options), partial(fgsm, **options)
    )(*arguments),
    "batched": lambda *arguments, **options: batched(partial(fgsm, **options), 3)(*arguments),
}
every_straight = pytest.mark.parametrize("attack", STRAIGHT.values(), ids=STRAIGHT)


@every_norm
@every_straight
@pytest.mark.parametrize("eps", [0.01, 0.5])
def test_two_classes(attack, norm, eps):
    model, inputs, labels = linear_problem()
    found = attack(model, inputs, labels, eps=eps, norm=norm, bounds=WIDE)
    wanted = highest_margins(model, inputs, labels, norm, eps)
    torch.testing.assert_close(margins(model, found, labels), wanted, rtol=1e-6, atol=1e-6)


@every_straight
def test_two_classes_where_the_box_cuts(attack):
    model, inputs, labels = linear_problem()
    inputs = inputs.clamp(-1, 1)
    found = attack(model, inputs, labels, eps=0.4, bounds=(-1.0, 1.0))
    ascent = model.weight[1 - labels] - model.weight[labels]
    wanted = (inputs + 0.4 * ascent.sign()).clamp(-1, 1)
    torch.testing.assert_close(found, wanted)


@pytest.mark.parametrize("norm", ["linf", "l2"])
def test_many_classes(norm):
    """The margin is convex in the inputs: its maximum needs several starts.

    In l1 the starts differ too little to reach every rival.
    """
    model, inputs, labels = linear_problem(n_classes=5)
    attack = partial(pgd, loss="margin", steps=40, step_size=0.15, restarts=8)
    found = attack(model, inputs, labels, eps=1.0, norm=norm, bounds=WIDE, generator=seeded())
    wanted = highest_margins(model, inputs, labels, norm, 1.0)
    torch.testing.assert_close(margins(model, found, labels), wanted, rtol=5e-3, atol=0)


@every_norm
def test_many_classes_in_one_step(norm):
    """One step raises the strongest other logit by all that the ball allows."""
    model, inputs, labels = linear_problem(n_classes=5)
    rival = model(inputs).scatter(1, labels[:, None], -torch.inf).argmax(dim=1)[:, None]
    found = fgsm(model, inputs, labels, eps=0.3, norm=norm, loss="margin", bounds=WIDE)

    def lead(points):
        logits = model(points)
        return (logits.gather(1, rival) - logits.gather(1, labels[:, None]))[:, 0]

    gain = 0.3 * pulls(model, labels, norm).gather(1, rival)[:, 0]
    torch.testing.assert_close(lead(found), lead(inputs) + gain)


@every_norm
@pytest.mark.parametrize("name", [name for name in STRAIGHT if name != "worst_case"])
def test_targeted(name, norm):
    model, inputs, labels = linear_problem()
    attack = partial(STRAIGHT[name], targeted=True)
    found = attack(model, inputs, 1 - labels, eps=0.3, norm=norm, bounds=WIDE)
    wanted = highest_margins(model, inputs, labels, norm, 0.3)
    torch.testing.assert_close(margins(model, found, labels), wanted, rtol=1e-6, atol=1e-6)


def test_targeted_reaches_a_class_of_many():
    model, inputs, labels = linear_problem(n_classes=4)
    cw = partial(cw_l2, search_steps=1, steps=40, step_size=0.03, initial_c=10.0)
    for shift in (1, 2, 3):
        targets = (labels + shift) % 4
        for attack in (partial(pgd, eps=3.0, steps=10), cw):
            found = attack(model, inputs, targets, targeted=True, bounds=(-10.0, 10.0))
            assert torch.equal(model(found).argmax(dim=1), targets)


@every_norm
@pytest.mark.parametrize("lam", [1.0, 5.0])
@pytest.mark.parametrize("label", ["true", "predicted"])
def test_iaa(norm, lam, label):
    """The lead of the label comes down to the optimum of the loss, or as far as the ball goes."""
    model, inputs, labels = linear_problem(n=20)
    eps, steps = 0.3, 80
    found = iaa(
        model, inputs, labels, eps=eps, norm=norm, lam=lam, steps=steps, label=label, bounds=WIDE
    )
    optimum = math.log((1 + lam / 2) / (lam / 2))
    pull = pulls(model, labels, norm).amax(dim=1)
    nearest = -highest_margins(model, inputs, labels, norm, eps)
    lead, first = -margins(model, found, labels), -margins(model, inputs, labels)
    far = nearest > optimum
    near = ~far & (first > optimum)
    assert far.sum() > 2
    assert near.sum() > 2
    torch.testing.assert_close(lead[far], nearest[far], rtol=1e-5, atol=1e-5)
    one_step = eps / steps * pull
    assert ((lead - optimum).abs() <= one_step)[near].all()
    assert torch.equal(model(found).argmax(dim=1), labels)


@every_norm
def test_iaa_published(norm):
    """Its steps reach the surface at the last one, but for what the random start took away."""
    model, inputs, labels = linear_problem(n=20)
    attack = partial(iaa, eps=0.2, norm=norm, variant="published", bounds=WIDE)
    found = attack(model, inputs, labels, generator=seeded())
    nearest = -highest_margins(model, inputs, labels, norm, 0.2)
    far = nearest > 0.4
    assert far.sum() > 2
    left = -margins(model, found, labels) - nearest
    two_steps = 2 * 0.2 / 10 * pulls(model, labels, norm).amax(dim=1)
    assert (left <= two_steps + 1e-9)[far].all()


def test_iaa_corrects_mistakes_only_where_it_is_given_the_truth():
    model, inputs, predicted = linear_problem()
    corrected = iaa(model, inputs, 1 - predicted, eps=5.0, bounds=WIDE)
    assert torch.equal(model(corrected).argmax(dim=1), 1 - predicted)
    kept = iaa(model, inputs, 1 - predicted, eps=5.0, label="predicted", bounds=WIDE)
    assert torch.equal(model(kept).argmax(dim=1), predicted)
    assert not torch.equal(kept, inputs)


# --- minimal perturbations -------------------------------------------------------------------


def boundary_distances(model, inputs, labels):
    return -margins(model, inputs, labels) / pulls(model, labels, "l2").amax(dim=1)


def test_cw_l2_finds_the_nearest_point_of_a_linear_boundary():
    model, inputs, labels = linear_problem()
    found = cw_l2(
        model,
        inputs,
        labels,
        search_steps=6,
        steps=80,
        step_size=0.005,
        initial_c=0.1,
        bounds=(-10.0, 10.0),
    )
    assert (model(found).argmax(dim=1) != labels).all()
    wanted = boundary_distances(model, inputs, labels)
    assert ((found - inputs).norm(dim=1) >= wanted * (1 - 1e-6)).all()
    distances = adversarial_distance(model, inputs, attack=lambda *_: found)
    assert distances.dtype == torch.float64
    torch.testing.assert_close(distances, wanted, rtol=0.01, atol=0)


def test_cw_l2_leads_by_kappa():
    model, inputs, labels = linear_problem()
    attack = partial(
        cw_l2, search_steps=3, steps=60, step_size=0.01, initial_c=1.0, bounds=(-10.0, 10.0)
    )
    plain, sure = attack(model, inputs, labels), attack(model, inputs, labels, kappa=1.0)
    assert (margins(model, sure, labels) >= 1).all()
    assert ((sure - inputs).norm(dim=1) > (plain - inputs).norm(dim=1)).all()


def test_cw_l2_works_harder_with_more_search_steps():
    model, inputs, labels = linear_problem()
    attack = partial(cw_l2, steps=25, step_size=0.015, initial_c=0.1, bounds=(-10.0, 10.0))
    lengths = []
    for search_steps in (2, 4, 6):
        found = attack(model, inputs, labels, search_steps=search_steps)
        fooled = model(found).argmax(dim=1) != labels
        lengths.append(torch.where(fooled, (found - inputs).norm(dim=1), torch.inf))
    assert (lengths[0] >= lengths[1]).all()
    assert (lengths[1] >= lengths[2]).all()
    assert lengths[2].isfinite().all()


@pytest.mark.parametrize("kappa", [0.0, 0.5])
def test_cw_l2_stops_at_the_boundary(kappa):
    model = mlp(dtype=torch.float64)
    inputs, labels = examples(12, dtype=torch.float64)
    labels = model(inputs).argmax(dim=1)
    options = {"search_steps": 3, "steps": 40, "step_size": 0.1, "initial_c": 10.0}
    found = cw_l2(model, inputs, labels, kappa=kappa, **options)

    def ahead(points):
        logits = model(points)
        own = logits.gather(1, labels[:, None])[:, 0]
        return logits.scatter(1, labels[:, None], -torch.inf).amax(dim=1) - own

    moved = (found != inputs).flatten(1).any(dim=1)
    assert moved.sum() > 6
    assert (ahead(found)[moved] >= kappa).all()
    assert (ahead(inputs + 0.99 * (found - inputs))[moved] < kappa).all()


def test_cw_l2_leaves_what_is_wrong_already():
    model, inputs, labels = linear_problem()
    labels[::2] = 1 - labels[::2]
    found = cw_l2(model, inputs, labels, search_steps=6, steps=20, bounds=(-10.0, 10.0))
    assert torch.equal(found[::2], inputs[::2])
    assert (found[1::2] != inputs[1::2]).any(dim=1).all()


def test_cw_l2_returns_what_it_cannot_fool_unchanged():
    inputs, labels = examples()
    constant = lambda inputs: inputs.flatten(1)[:, :3] * 0 + torch.tensor([1.0, 0.0, 0.0])  # noqa: E731
    small = partial(cw_l2, search_steps=3, steps=5)
    assert torch.equal(small(constant, inputs, labels * 0), inputs)
    assert adversarial_distance(constant, inputs, attack=small).tolist() == [math.inf] * 3


def test_cw_l2_moves_pixels_at_the_ends_of_the_box():
    model = Linear(torch.tensor([[1.0, -1.0], [-1.0, 1.0]]))
    inputs, labels = torch.tensor([[1.0, 0.0], [0.9, 0.0]]), torch.tensor([0, 0])
    found = cw_l2(model, inputs, labels, search_steps=2, steps=60, step_size=0.1, initial_c=10.0)
    assert (model(found).argmax(dim=1) == 1).all()


def test_cw_l2_in_half_precision_with_a_large_factor():
    """The last of the factors is 1e5, which float16 does not hold."""
    model = Linear(torch.eye(2).half(), torch.tensor([[20.0, 0.0]]).half())
    inputs, labels = torch.rand(2, 2, generator=seeded()).half(), torch.tensor([0, 0])
    found = cw_l2(model, inputs, labels, search_steps=9, steps=5)
    assert torch.equal(found, inputs)


def test_adversarial_distance_takes_any_attack():
    model, inputs, labels = linear_problem()
    attack = partial(fgsm, norm="l2", bounds=WIDE)
    reach = boundary_distances(model, inputs, labels)
    eps = float(reach.median()) * 1.001
    distances = adversarial_distance(model, inputs, attack=partial(attack, eps=eps))
    assert torch.equal(distances.isfinite(), reach <= eps)
    torch.testing.assert_close(distances[reach <= eps], torch.full_like(reach, eps)[reach <= eps])


# --- the best of all points ------------------------------------------------------------------


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("norm", DUAL)
def test_pgd_is_monotone_in_steps_and_restarts(seed, norm):
    model, (inputs, labels) = mlp(seed, dtype=torch.float64), examples(6, dtype=torch.float64)
    attack = partial(pgd, eps=0.3, norm=norm, step_size=0.2)
    last = scores(model, inputs, labels)
    for steps in (1, 2, 3, 6):
        found = attack(model, inputs, labels, steps=steps, random_start=False)
        here = scores(model, found, labels)
        assert_never_lower(here, last)
        last = here
    last = None
    for restarts in (1, 2, 4):
        found = attack(model, inputs, labels, restarts=restarts, steps=2, generator=seeded())
        here = scores(model, found, labels)
        assert_never_lower(here, last or here)
        last = here


def fooled_where(condition):
    """A model of one number: class 0 unless the condition holds; the gradient always points up."""

    def model(inputs):
        odds = torch.where(condition(inputs), 1.0, -9.0) + inputs
        return torch.cat([torch.zeros_like(odds), odds], dim=1)

    return model


HALF, CLASS_0 = torch.tensor([[0.5]]), torch.tensor([0])


@pytest.mark.parametrize(
    "condition",
    [
        lambda x: (x - 0.5).abs() < 1e-3,
        lambda x: (x - 0.6).abs() < 1e-3,
        lambda x: (x - 0.9).abs() < 1e-3,
    ],
    ids=["start", "middle", "last"],
)
def test_pgd_keeps_the_only_point_that_fools(condition):
    model = fooled_where(condition)
    found = pgd(model, HALF, CLASS_0, eps=0.4, steps=4, step_size=0.1, random_start=False)
    assert model(found).argmax() == 1
    wanted = 1 - CLASS_0
    found = pgd(
        lambda x: model(x).flip(1),
        HALF,
        CLASS_0,
        eps=0.4,
        steps=4,
        step_size=0.1,
        random_start=False,
        targeted=True,
    )
    assert model(found).argmax() == wanted


def test_pgd_keeps_the_highest_loss_where_nothing_fools():
    hill = lambda x: torch.cat([9 + 0 * x, -((x - 0.7) ** 2)], dim=1)  # noqa: E731
    found = pgd(hill, HALF, CLASS_0, eps=0.4, steps=4, step_size=0.21, random_start=False)
    torch.testing.assert_close(found, torch.tensor([[0.71]]))


def confident_except(condition):
    """A model of class 0, less sure where the condition holds; the gradient always points up."""

    def model(inputs):
        lead = torch.where(condition(inputs), 2.0, 9.0) - inputs
        return torch.cat([lead, torch.zeros_like(lead)], dim=1)

    return model


@pytest.mark.parametrize("label", ["true", "predicted"])
@pytest.mark.parametrize("place", [0.5, 0.6, 0.9], ids=["start", "middle", "last"])
def test_iaa_keeps_the_least_confident_point(label, place):
    model = confident_except(lambda x: (x - place).abs() < 1e-3)
    attack = partial(iaa, eps=0.4, steps=4, step_size=0.1, label=label)
    torch.testing.assert_close(attack(model, HALF, CLASS_0), torch.tensor([[place]]))


def test_iaa_halves_its_step_until_the_label_is_kept():
    model = Linear(torch.tensor([[1.0], [0.0]]), torch.tensor([-0.3, 0.0]))
    found = iaa(model, HALF, CLASS_0, eps=0.4, step_size=0.4, steps=12, lam=1e4)
    assert model(found).argmax() == 0
    assert 0 < float(model(found)[0, 0]) < 0.05


@pytest.mark.parametrize("restarts", [1, 3])
def test_a_random_start_counts(restarts):
    """Fooled near the input only, which every step leaves."""
    model = fooled_where(lambda x: x < 0.59)
    for seed in range(20):
        attack = partial(pgd, eps=0.1, steps=1, step_size=0.2, restarts=restarts)
        found = attack(model, HALF, CLASS_0, generator=seeded(seed))
        starts = uniform_noise(
            model,
            HALF.expand(restarts, 1),
            CLASS_0.expand(restarts),
            eps=0.1,
            generator=seeded(seed),
        )
        assert (model(found).argmax() == 1) == (starts < 0.59).any()


# --- confident models ------------------------------------------------------------------------

SATURATED = {
    "fgsm": partial(fgsm, eps=0.1),
    "fgsm-l2": partial(fgsm, eps=0.1, norm="l2"),
    "pgd": partial(pgd, eps=0.1, random_start=False),
    "pgd-l2": partial(pgd, eps=0.1, norm="l2", random_start=False),
    "iaa": partial(iaa, eps=0.1),
    "iaa-l2": partial(iaa, eps=0.1, norm="l2"),
}


@pytest.mark.parametrize("name", SATURATED)
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("scale", [1.0, 1000.0])
def test_a_saturated_model(name, dtype, scale):
    model, inputs, labels = linear_problem(dtype=dtype)
    inputs = inputs.clamp(-1, 1)
    weight, norm = model.weight.double(), "l2" if "l2" in name else "linf"
    model.weight = (model.weight * scale).to(dtype)
    sure = margins(model, inputs, labels) < (-0.6 * scale)
    assert sure.sum() > 2
    found = SATURATED[name](model, inputs, labels, bounds=(-2.0, 2.0))
    exact = Linear(weight)
    fall = margins(exact, found.double(), labels) - margins(exact, inputs.double(), labels)
    wanted = 0.1 * pulls(exact, labels, norm).amax(dim=1)
    short = 0.9 if dtype.itemsize < 4 else 1 - 1e-5
    assert (fall >= short * wanted)[sure].all()


def test_a_saturated_model_and_a_loss_whose_gradient_underflows_in_half_precision():
    model = Linear(torch.tensor([[20.0, 0.0], [-20.0, 0.0]], dtype=torch.float16))
    inputs = torch.tensor([[1.0, 0.5], [0.25, 0.5]], dtype=torch.float16)
    found = fgsm(model, inputs, torch.tensor([0, 0]), eps=0.25, loss=each_cross_entropy)
    assert found[:, 0].tolist() == [0.75, 0.0]  # the sure one, whatever its neighbour does


def test_cw_l2_fools_a_saturated_model():
    model, inputs, labels = linear_problem(dtype=torch.float32)
    wanted = boundary_distances(model, inputs, labels)
    model.weight = model.weight * 1000
    found = cw_l2(
        model,
        inputs,
        labels,
        search_steps=5,
        steps=60,
        step_size=0.008,
        initial_c=1e-3,
        bounds=(-10.0, 10.0),
    )
    assert (model(found).argmax(dim=1) != labels).all()
    assert ((found - inputs).norm(dim=1) < 1.1 * wanted).all()


# --- cost ------------------------------------------------------------------------------------


@rows([*CALLING, "uniform_noise"])
def test_passes(row):
    model = Counted(mlp())
    row.make()(model, *examples())
    made = (model.forwards, model.backwards)
    if row.fewer:
        assert made <= (row.forwards, row.backwards)
    else:
        assert made == (row.forwards, row.backwards)


@pytest.mark.parametrize("steps", [1, 5])
@pytest.mark.parametrize("restarts", [1, 2])
def test_passes_of_pgd(steps, restarts):
    model = Counted(mlp())
    pgd(model, *examples(), eps=0.1, steps=steps, restarts=restarts)
    assert model.forwards == restarts * (steps + 1)
    assert model.backwards == restarts * steps


# --- attacks of attacks ----------------------------------------------------------------------


@pytest.mark.parametrize("seed", range(3))
def test_worst_case_is_never_weaker_than_a_member(seed):
    model, (inputs, labels) = mlp(seed, dtype=torch.float64), examples(8, dtype=torch.float64)
    members = [
        partial(uniform_noise, eps=0.3),
        partial(fgsm, eps=0.2),
        partial(pgd, eps=0.2, steps=3, loss="margin"),
        partial(iaa, eps=0.2, steps=3),
        lambda model, inputs, labels: inputs,
    ]
    worst = scores(model, worst_case(*members)(model, inputs, labels), labels)
    apart = [scores(model, member(model, inputs, labels), labels) for member in members]
    for each in apart:
        assert_never_lower(worst, each)
    assert all(w in each for w, each in zip(worst, zip(*apart, strict=True), strict=True))


def test_worst_case_is_never_better_than_clean():
    model, inputs, labels = linear_problem()
    helping = partial(fgsm, eps=0.5, targeted=True, bounds=WIDE)
    helpful = lambda *batch: helping(*batch)  # noqa: E731
    assert torch.equal(worst_case(helpful)(model, inputs, labels), inputs)


def test_worst_case_prefers_what_fools_to_a_higher_loss():
    """Three classes: the label may lead by little over two, or fall behind one by less."""
    model = lambda x: x  # noqa: E731
    low_loss, high_loss = torch.tensor([[1.0, 1.1, -9.0]]), torch.tensor([[1.0, 0.99, 0.99]])
    attack = worst_case(lambda *_: high_loss, lambda *_: low_loss, lambda *_: high_loss)
    inputs = torch.tensor([[1.0, 0.0, 0.0]])
    assert cross_entropy(high_loss, CLASS_0) > cross_entropy(low_loss, CLASS_0)
    assert torch.equal(attack(model, inputs, CLASS_0), low_loss)


@rows(DETERMINISTIC)
@pytest.mark.parametrize("size", [1, 2, 9])
def test_batched_equals_unbatched(row, size):
    model, (inputs, labels) = mlp(dtype=torch.float64), examples(5, dtype=torch.float64)
    attack = row.make()
    found = batched(attack, size)(model, inputs, labels)
    torch.testing.assert_close(found, attack(model, inputs, labels), rtol=0, atol=1e-9)


# --- confidence attacks ----------------------------------------------------------------------


@settings(max_examples=30, deadline=None, derandomize=True)
@given(
    seed=st.integers(0, 2**20),
    eps=st.sampled_from([0.01, 0.1, 1.0]),
    gain=st.sampled_from([0.3, 1.0, 5.0]),
    options=st.sampled_from([{}, {"norm": "l2"}, {"random_start": True}, {"lam": 50.0}])
    | st.just({"variant": "published"}),
)
def test_iaa_changes_no_prediction(seed, eps, gain, options):
    model = mlp(seed, gain=gain)
    inputs, labels = examples(16, seed=seed)
    found = iaa(model, inputs, labels, eps=eps, label="predicted", steps=4, **options)
    with torch.no_grad():
        for size in (1, 7, 16):
            before = torch.cat([model(part).argmax(dim=1) for part in inputs.split(size)])
            after = torch.cat([model(part).argmax(dim=1) for part in found.split(size)])
            assert torch.equal(after, before)


@pytest.fixture(scope="module")
def digits():
    bunch = load_digits()
    inputs = torch.tensor(bunch.data / 16, dtype=torch.float32)
    return inputs, torch.tensor(bunch.target)


@pytest.fixture(scope="module", params=[0, 1, 2])
def trained(request, digits):
    """A small classifier of digits, its test inputs and their labels."""
    inputs, labels = digits
    order = torch.randperm(len(labels), generator=seeded(request.param))
    train, test = order[:600], order[600:900]
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(request.param)
        model = nn.Sequential(nn.Linear(64, 48), nn.ReLU(), nn.Linear(48, 10))
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-2)
    for _ in range(120):
        optimizer.zero_grad()
        cross_entropy(model(inputs[train]), labels[train]).backward()
        optimizer.step()
    return model, inputs[test], labels[test]


def confidence_and_accuracy(model, inputs, labels):
    with torch.no_grad():
        probs, predicted = model(inputs).softmax(dim=1).max(dim=1)
    return float(probs.mean()), float((predicted == labels).double().mean())


@pytest.mark.parametrize("eps", [0.05, 0.1, 0.2])
def test_iaa_miscalibrates_more_than_the_published_schedule(trained, eps):
    model, inputs, labels = trained
    kept = iaa(model, inputs, labels, eps=eps)
    published = iaa(model, inputs, labels, eps=eps, variant="published", generator=seeded())
    confidence, accuracy = confidence_and_accuracy(model, kept, labels)
    published_confidence, published_accuracy = confidence_and_accuracy(model, published, labels)
    assert accuracy > published_accuracy
    assert confidence - accuracy < published_confidence - published_accuracy
    assert confidence - accuracy < -0.05


def test_iaa_lowers_confidence_and_no_accuracy(trained):
    model, inputs, labels = trained
    clean_confidence, clean_accuracy = confidence_and_accuracy(model, inputs, labels)
    assert clean_accuracy > 0.85
    for label in ("true", "predicted"):
        found = iaa(model, inputs, labels, eps=0.1, label=label)
        confidence, accuracy = confidence_and_accuracy(model, found, labels)
        assert confidence < clean_confidence - 0.1
        assert accuracy >= clean_accuracy
        assert label == "true" or accuracy == clean_accuracy


def test_iaa_never_raises_its_loss(trained):
    model, inputs, labels = trained
    right = model(inputs).argmax(dim=1) == labels

    def losses(points):
        return inverse_adversarial(model(points), labels, reduction="none").detach()[right]

    assert (losses(iaa(model, inputs, labels, eps=0.1)) <= losses(inputs) + 1e-5).all()


def test_iaa_with_a_larger_lam_leaves_less_confidence(trained):
    model, inputs, labels = trained
    confidences = [
        confidence_and_accuracy(model, iaa(model, inputs, labels, eps=0.1, lam=lam), labels)[0]
        for lam in (0.0, 0.3, 1.0, 5.0, 10.0)
    ]
    assert confidences == sorted(confidences, reverse=True)
    assert confidences[0] > confidences[-1] + 0.1


def test_attacks_on_accuracy_in_order_of_strength(trained):
    model, inputs, labels = trained
    strong = partial(pgd, eps=0.1, generator=seeded())
    attacks = [
        partial(uniform_noise, eps=0.1, generator=seeded()),
        partial(fgsm, eps=0.1),
        strong,
        partial(strong, steps=30, restarts=2),
    ]
    accuracies = [
        confidence_and_accuracy(model, attack(model, inputs, labels), labels)[1]
        for attack in attacks
    ]
    assert accuracies == sorted(accuracies, reverse=True)
    assert accuracies[0] > accuracies[1] + 0.1
    assert accuracies[1] > accuracies[2]


def test_linear_and_nonlinear_models_alike():
    """A sanity check of the models above: they are not constant."""
    for model in (linear(), mlp()):
        inputs, _ = examples(20)
        assert len(model(inputs).argmax(dim=1).unique()) > 1
