"""Auto-PGD, Square and AutoAttack: closed-form optima, equal verdicts for less, no gradient."""

import itertools
import math
from functools import partial

import pytest
import torch
from sklearn.datasets import load_digits
from torch import nn
from torch.nn.functional import cross_entropy, one_hot

from advcal.attacks import Ball, apgd, autoattack, l1, minimum_norm, pgd, square
from advcal.attacks._apgd import _checkpoints
from advcal.attacks._apgd_sparse import Sparse, _sparse_sign
from advcal.attacks._gradient import Point
from advcal.attacks._patches import MOVES, _bump
from advcal.losses import margin
from tests.attacks.cases import Counted, Rows, examples, mlp, seeded
from tests.attacks.test_strength import DUAL, WIDE, every_norm, linear_problem

# --- apgd ------------------------------------------------------------------------------------


def test_checkpoints_are_the_published_ones():
    steps = [step for step, _ in _checkpoints(100)]
    assert steps == [22, 41, 57, 70, 80, 87, 93, 99]
    assert sum(length for _, length in _checkpoints(100)) == 99
    for n in range(1, 60):
        found = _checkpoints(n)
        assert all(length > 0 for _, length in found)
        assert all(1 <= step <= n for step, _ in found)


@every_norm
@pytest.mark.parametrize("loss", ["cross_entropy", "margin"])
def test_apgd_reaches_the_optimum_on_linear_models(norm, loss):
    model, inputs, labels = linear_problem()
    eps = 0.1
    found = apgd(
        model, inputs, labels, eps=eps, norm=norm, steps=30, loss=loss, bounds=WIDE,
        generator=seeded(),
    )  # fmt: skip
    gap = model.weight[1] - model.weight[0]
    gain = eps * torch.linalg.vector_norm(gap, DUAL[norm])
    before = margin(model(inputs), labels, reduction="none")
    after = margin(model(found), labels, reduction="none")
    torch.testing.assert_close(after - before, gain.expand(len(inputs)), rtol=1e-4, atol=0)


def test_apgd_is_at_least_as_strong_as_pgd_in_the_same_steps(digits):
    model, inputs, labels = digits
    for norm, eps in (("linf", 0.15), ("l2", 0.8)):
        common = {"eps": eps, "norm": norm, "steps": 20, "loss": "margin"}
        found = apgd(model, inputs, labels, generator=seeded(), **common)
        rival = pgd(model, inputs, labels, generator=seeded(), **common)
        assert accuracy(model, found, labels) <= accuracy(model, rival, labels)
        ahead = margin(model(found), labels) - margin(model(rival), labels)
        assert ahead > -0.01


@pytest.mark.parametrize("options", [{"loss": "dlr"}, {"loss": "dlr", "n_targets": 3}])
def test_stop_early_changes_no_verdict(digits, options):
    model, inputs, labels = digits
    verdicts, counts = [], []
    for stop_early in (False, True):
        counted = Rows(model)
        attack = partial(apgd, eps=0.1, steps=12, random_start=False, stop_early=stop_early)
        found = attack(counted, inputs, labels, **options)
        verdicts.append(model(found).argmax(dim=1) == labels)
        counts.append(sum(counted.rows))
    assert torch.equal(*verdicts)
    assert 0 < verdicts[0].sum() < len(labels)
    assert counts[1] < 0.8 * counts[0]


def test_targets_find_what_the_plain_attack_misses():
    """Uphill from the label the second class is steepest, and only the third can be reached."""

    def model(inputs):
        x, y = inputs[:, 0], inputs[:, 1]
        second = torch.tanh(4 * x + 1) - 1.001
        third = y - 0.9 + 0 * x
        return torch.stack([0 * x, second, third, 0 * x - 9], dim=1)

    inputs, labels = torch.zeros(1, 2), torch.tensor([0])
    attack = partial(apgd, model, inputs, labels, eps=1, bounds=WIDE, steps=10, random_start=False)
    assert model(attack(loss="margin")).argmax() == 0
    assert model(attack(loss="dlr", n_targets=3)).argmax() == 2
    assert model(attack(loss="margin", n_targets=9)).argmax() == 2


def test_bad_uses_of_targets_are_refused():
    model, (inputs, labels) = mlp(), examples()
    attack = partial(apgd, model, inputs, labels, eps=0.1, n_targets=2)
    with pytest.raises(ValueError, match=r"expected n_targets=0 with targeted, got 2"):
        attack(targeted=True)
    for loss, got in (("kl", "kl"), (lambda logits, labels: logits[:, 0], "a callable")):
        with pytest.raises(ValueError, match=f"expected loss .* with n_targets, got {got}"):
            attack(loss=loss)
    with pytest.raises(ValueError, match="4 classes or more"):
        attack(loss="dlr")
    with pytest.raises(ValueError, match=r"expected random_start .*, got restarts=2"):
        apgd(model, inputs, labels, eps=0.1, restarts=2, random_start=False)


@pytest.mark.parametrize(("norm", "variant"), [("linf", "halving"), ("l1", "sparse")])
def test_apgd_goes_on_from_where_it_is_told_to(norm, variant):
    """Behind a plateau that nothing else leads over."""

    def model(inputs):
        lead = (inputs[:, :1] - 0.7).relu() * inputs[:, 1:2]
        return torch.cat([0 * lead + 0.01, lead], dim=1)

    inputs, labels = torch.full((2, 2), 0.5), torch.tensor([0, 0])
    start = torch.tensor([[5.0, 0.5], [0.5, 0.5]])  # the first is projected to the edge
    attack = partial(apgd, model, inputs, labels, eps=0.4, norm=norm, steps=10, variant=variant)
    assert model(attack(random_start=False)).argmax(dim=1).tolist() == [0, 0]
    found = attack(random_start=False, start=start)
    assert model(found).argmax(dim=1).tolist() == [1, 0]
    more = attack(start=start, restarts=2, generator=seeded())
    assert model(more).argmax(dim=1)[0] == 1
    stopped = attack(start=found, stop_early=True, generator=seeded())
    assert torch.equal(stopped[0], found[0])


@pytest.mark.parametrize(
    ("norm", "variant"), [*[(norm, "halving") for norm in DUAL], ("l1", "sparse")]
)
def test_a_start_is_one_for_each_example_and_stays_as_it_is(norm, variant):
    model, (inputs, labels) = mlp(dtype=torch.float64), examples(5, dtype=torch.float64)
    start = (3 - 7 * inputs).float().requires_grad_()  # far out of the ball and the box
    before, mask = start.detach().clone(), (inputs < 0.3) | (inputs > 0.6)
    bounds = torch.where(mask, 0.0, inputs), torch.where(mask, 1.0, inputs)
    attack = partial(apgd, model, eps=0.3, norm=norm, variant=variant, steps=5, random_start=False)
    found = attack(inputs, labels, start=start, bounds=bounds)
    assert (Ball.norms[norm](inputs, 0.3, bounds).length(found) <= 0.3 * (1 + 2**-23)).all()
    assert ((bounds[0] <= found) & (found <= bounds[1])).all()
    assert torch.equal(start, before)
    ends = tuple(end[3:4] for end in bounds)
    alone = attack(inputs[3:4], labels[3:4], start=start[3:4], bounds=ends)
    torch.testing.assert_close(alone, found[3:4], rtol=0, atol=1e-9)


@pytest.mark.parametrize(
    ("norm", "variant"), [*[(norm, "halving") for norm in DUAL], ("l1", "sparse")]
)
@pytest.mark.parametrize("stop_early", [False, True])
def test_a_start_that_fools_is_never_lost(norm, variant, stop_early):
    model, (inputs, _) = mlp(seed=1, gain=6.0), examples(60, seed=6)
    labels = model(inputs).argmax(dim=1)
    attack = partial(apgd, model, inputs, labels, eps=0.5, norm=norm, random_start=False)
    start = attack(steps=60)
    found = attack(steps=10, start=start, variant=variant, stop_early=stop_early)
    fooled = model(start).argmax(dim=1) != labels
    assert fooled.sum() > 10
    assert (model(found).argmax(dim=1) != labels)[fooled].all()


# --- apgd in l1 ------------------------------------------------------------------------------


def test_signs_of_a_share_of_the_entries():
    gradient = torch.tensor([[3.0, -1.0, 0.5, -2.0], [0.0, 0.0, 0.0, 0.0], [1.0, 1.0, -1.0, 1.0]])
    shares = torch.tensor([0.5, 0.5, 0.25])  # ties are all taken, as published
    wanted = [[0.5, 0, 0, -0.5], [0, 0, 0, 0], [0.25, 0.25, -0.25, 0.25]]
    assert _sparse_sign(gradient, shares).tolist() == wanted
    assert _sparse_sign(gradient[:1], torch.tensor([0.0])).tolist() == [[1, 0, 0, 0]]
    assert _sparse_sign(gradient[:1], torch.tensor([1.0])).tolist() == [[0.25, -0.25, 0.25, -0.25]]


def test_checkpoints_of_sparse_steps():
    """By the published numbers, on a loss that is told: two examples, four entries, every step."""
    centre = torch.full((2, 4), 0.5)
    region = l1(centre, eps=0.3)
    start = centre + torch.tensor([[0.1, 0.1, 0.1, 0.0], [0.1, 0.1, 0.0, 0.0]])
    rule = Sparse.begin(region, start, 10)
    assert rule.every == 1
    assert rule.share.tolist() == pytest.approx([3 / 6, 2 / 6])

    def seen(first, second):
        return Point(torch.zeros(2, 3), torch.tensor([first, second]), torch.ones(2, 4))

    _, rule = rule.step(start, seen(0.0, 0.0))
    assert rule.size.tolist() == pytest.approx([0.3, 0.3])
    fewer = centre + torch.tensor([[0.3, 0.0, 0.0, 0.0], [0.3, 0.0, 0.0, 0.0]])
    _, rule = rule.step(fewer, seen(1.0, -1.0))  # the second is no better, and its step shortens
    assert rule.size.tolist() == pytest.approx([0.3, 0.2])
    assert rule.share.tolist() == pytest.approx([1 / 6, 2 / 6])
    for _ in range(9):
        there, rule = rule.step(start, seen(0.0, -1.0))
    assert rule.size.tolist() == pytest.approx([0.03, 0.03])
    assert rule.top.tolist() == [fewer[0].tolist(), start[1].tolist()]
    assert float((there - centre).abs().sum(dim=1).max()) <= 0.3 + 1e-6


@pytest.mark.parametrize("random_start", [False, True])
def test_sparse_steps_reach_the_optimum_of_a_linear_model_but_for_an_entry(random_start):
    """As published, a step never changes less than two entries once two are changed."""
    weight = torch.randn(40, generator=seeded(2)).double()
    model = lambda x: torch.stack([-(x @ weight), x @ weight], dim=1) / 2  # noqa: E731
    inputs, labels = torch.zeros(5, 40, dtype=torch.float64), torch.zeros(5, dtype=torch.int64)
    found = apgd(
        model, inputs, labels, eps=0.1, norm="l1", variant="sparse", steps=100, loss="margin",
        bounds=WIDE, random_start=random_start, generator=seeded(),
    )  # fmt: skip
    largest = weight.abs().topk(2).values
    gain = found @ weight / 0.1
    assert (gain >= 0.99 * largest.mean()).all()
    assert (gain <= largest[0] + 1e-9).all()


@pytest.mark.parametrize("norm", ["linf", "l2"])
def test_sparse_steps_are_for_l1(norm):
    with pytest.raises(ValueError, match="expected variant to be one of 'halving', got 'sparse'"):
        apgd(mlp(), *examples(), eps=0.1, norm=norm, variant="sparse")


# --- square ----------------------------------------------------------------------------------


def steps_of(model):
    """A model without a gradient: of whole-numbered inputs, in NumPy, as a service would be."""

    def opaque(inputs):
        assert not torch.is_grad_enabled()
        return torch.from_numpy(model((inputs * 20).round() / 20).detach().numpy().copy())

    return opaque


@pytest.mark.parametrize(("norm", "eps"), [("linf", 0.2), ("l2", 1.2), ("l1", 6)])
def test_square_needs_no_gradient_and_gains_with_queries(digits, norm, eps):
    model, inputs, labels = digits
    counted = Counted(steps_of(model))
    leads = []
    for queries in (1, 20, 200):
        found = square(
            counted, inputs, labels, eps=eps, norm=norm, steps=queries, generator=seeded()
        )
        leads.append(accuracy(model, (found * 20).round() / 20, labels))
    assert leads[0] > leads[1] > leads[2]
    assert counted.backwards == 0
    assert counted.forwards <= 221


@every_norm
def test_square_keeps_only_what_is_better(norm):
    model, (inputs, labels) = mlp(dtype=torch.float64), examples(5, dtype=torch.float64)
    seen = []

    def spied(points):
        """Say what the model says and never be fooled, so that the search goes on."""
        seen.append(margin(model(points), labels, reduction="none"))
        return model(points) + 1e6 * one_hot(labels, 3)

    found = square(spied, inputs, labels, eps=0.1, norm=norm, steps=30, generator=seeded())
    best = torch.stack(seen).amax(dim=0)
    assert len(seen) == 30
    torch.testing.assert_close(margin(model(found), labels, reduction="none"), best)


def changed_by_square(**options):
    """Return how many values each query of a `square` changes in one image of 16 × 16."""
    points = []

    def model(inputs):
        points.append(inputs.clone())
        return torch.stack([inputs.flatten(1).sum(dim=1) + 1e4, 0 * inputs[:, 0, 0, 0]], dim=1)

    inputs = torch.full((1, 1, 16, 16), 0.5)
    square(model, inputs, torch.tensor([0]), eps=0.1, generator=seeded(), **options)
    return [(one != two).sum().item() for one, two in itertools.pairwise(points)]


def test_the_schedule_of_square_has_a_length_of_its_own():
    assert changed_by_square(steps=40) == changed_by_square(steps=40, schedule_steps=40)
    short, long = changed_by_square(steps=40), changed_by_square(steps=40, schedule_steps=4000)
    assert max(short[-8:]) <= 4 * 2  # at most two squares of 1 or 2 × 2 values in between
    assert max(long[-8:]) > 50  # .8 / 4 of the image still


def test_square_draws_for_an_example_whatever_its_neighbours_are():
    model, (inputs, labels) = mlp(), examples(6)
    attack = partial(square, model, eps=0.15, steps=40)
    wanted = attack(inputs, labels, generator=seeded())
    others, their_labels = inputs.clone(), labels.clone()
    others[1:], their_labels[1:] = inputs[0] / 2, (labels[0] + 1) % 3
    found = attack(others, their_labels, generator=seeded())
    torch.testing.assert_close(found[0], wanted[0])


@pytest.mark.parametrize(("order", "fall", "ring"), [(2, 2, 1 / 4), (1, 4, 1 / 16)])
def test_bumps_have_unit_length_and_two_halves(order, fall, ring):
    for size in (1, 3, 7):
        bump = _bump(size, size, order, fall, torch.device("cpu"))
        assert math.isclose(bump.norm(p=order), 1, rel_tol=1e-6)
        assert (bump[: size // 2] > 0).all()
        assert (bump[size // 2 :] < 0).all()
    peak = _bump(6, 3, order, fall, torch.device("cpu"))[:3]
    assert peak.argmax() == 4
    assert math.isclose(peak[0, 0] / peak[1, 1], ring / (1 + ring), rel_tol=1e-6)


@pytest.mark.parametrize("norm", ["l2", "l1"])
@pytest.mark.parametrize("shape", [(3, 12, 15), (1, 1, 40)])
def test_moves_of_bumps_keep_the_whole_length(norm, shape):
    images = torch.zeros(4, *shape)
    region = Ball.norms[norm](images, torch.tensor([0.1, 1.0, 5.0, 30.0]), WIDE)
    draw = lambda *shape: torch.rand(4, *shape, generator=generator)  # noqa: E731
    moves, generator = MOVES[norm](region), seeded()
    points = moves.start(draw)
    for share in (0.8, 0.4, 0.1):
        torch.testing.assert_close(region.length(points).float(), region.radius)
        moved = moves.proposal(points, share, draw)
        assert (moved != points).flatten(1).any(dim=1).all()
        points = moved


@pytest.mark.parametrize(("channels", "left_over"), [(1, 0.0), (2, 0.5)])
def test_a_move_in_l1_is_the_published_one(channels, left_over):
    """Of squares as large as the image, by hand."""
    draw = lambda *shape: torch.full((1, *shape), 0.9)  # noqa: E731 # a turn, and the sign +1
    offset = torch.rand(1, channels, 5, 5, generator=seeded()) - 0.3
    offset *= (2 - left_over) / offset.abs().sum()
    images = torch.zeros_like(offset)
    moved = MOVES["l1"](Ball.norms["l1"](images, 2.0, WIDE)).proposal(images + offset, 1.0, draw)
    far, middle, near = 1 / 81, 1 / 81 + 1 / 16, 1 / 81 + 1 / 16 + 1
    upper = torch.tensor([[far, middle, middle, middle, far], [far, middle, near, middle, far]])
    lower = torch.stack([upper[0], upper[1], upper[0]])
    bump = torch.cat([upper, -lower]) / (upper.sum() + lower.sum())
    length = offset.abs().sum(dim=(2, 3), keepdim=True)
    mixed = bump.T + offset / length
    longer = mixed / mixed.abs().sum(dim=(2, 3), keepdim=True) * (left_over + channels * length)
    wanted = l1(images, eps=2, bounds=WIDE).project(longer)
    torch.testing.assert_close(moved, wanted, rtol=0, atol=1e-6)


@pytest.mark.parametrize(
    "attack",
    [partial(apgd, variant="sparse", steps=10), partial(square, steps=30)],
    ids=["apgd", "square"],
)
def test_random_searches_in_l1_have_no_units(attack):
    model, (inputs, labels) = mlp(), examples()
    attack = partial(attack, norm="l1")
    wanted = attack(model, inputs, labels, eps=1, generator=seeded())
    bright = partial(attack, lambda inputs: model(inputs / 256), 256 * inputs, labels)
    assert torch.equal(bright(eps=256, bounds=(0, 256), generator=seeded()) / 256, wanted)


# --- autoattack ------------------------------------------------------------------------------


@every_norm
def test_autoattack_is_at_least_as_strong_as_each_part(digits, norm):
    model, inputs, labels = digits
    common = {"eps": {"linf": 0.1, "l2": 0.5, "l1": 1.5}[norm], "norm": norm}
    whole = partial(autoattack, model, inputs, labels, steps=8, n_targets=2, **common)
    robust = accuracy(model, whole(queries=20, generator=seeded()), labels)
    first = apgd(model, inputs, labels, steps=8, generator=seeded(), **common)
    assert 0 < robust <= accuracy(model, first, labels) < accuracy(model, inputs, labels)
    without = whole(queries=0, generator=seeded())
    assert robust <= accuracy(model, without, labels)


@pytest.mark.parametrize("norm", ["linf", "l2", "l1"])
def test_autoattack_is_as_strong_as_the_nearest_mistake(digits, norm):
    model, inputs, labels = digits
    options = {"eps": {"linf": 0.1, "l2": 0.5, "l1": 1.5}[norm], "norm": norm, "steps": 8}
    found = autoattack(model, inputs, labels, queries=0, n_targets=1, generator=seeded(), **options)
    nearest = minimum_norm(model, inputs, labels, norm=norm, steps=8)
    length = torch.linalg.vector_norm((nearest - inputs).flatten(1), Ball.norms[norm].order, dim=1)
    fooled = (model(nearest).argmax(dim=1) != labels) & (length <= options["eps"])
    assert (model(found).argmax(dim=1) != labels)[fooled].all()


@pytest.mark.parametrize("n_classes", [2, 3, 4])
def test_autoattack_of_few_classes(n_classes):
    model = mlp(n_classes=n_classes)
    inputs, _ = examples(6)
    labels = model(inputs).argmax(dim=1)
    found = autoattack(model, inputs, labels, eps=0.5, steps=5, queries=5, generator=seeded())
    assert accuracy(model, found, labels) < 1


@pytest.fixture(scope="module")
def digits():
    """A small classifier of digits, test inputs and their labels."""
    bunch = load_digits()
    inputs = torch.tensor(bunch.images / 16, dtype=torch.float32)[:, None]
    labels = torch.tensor(bunch.target)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = nn.Sequential(nn.Flatten(), nn.Linear(64, 48), nn.ReLU(), nn.Linear(48, 10))
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-2)
    for _ in range(100):
        optimizer.zero_grad()
        cross_entropy(model(inputs[:800]), labels[:800]).backward()
        optimizer.step()
    return model.requires_grad_(False), inputs[800:928], labels[800:928]


def accuracy(model, inputs, labels):
    return float((model(inputs).argmax(dim=1) == labels).double().mean())


@pytest.mark.parametrize("loss", ["dlrr", "kl", None, lambda logits, labels: logits[:, 0]])
def test_targets_refuse_a_loss_that_is_none_of_theirs(loss):
    with pytest.raises(ValueError, match=r"expected loss .*, got"):
        apgd(mlp(), *examples(), eps=0.1, n_targets=1, loss=loss)
