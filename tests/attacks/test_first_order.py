"""FGSM's and PGD's forms, and the combinations that save time: what each must and must not do."""

from functools import partial

import pytest
import torch

from advcal.attacks import (
    autocast,
    cascade,
    fgsm,
    l1,
    n_fgsm,
    pgd,
    square,
    uniform_noise,
    worst_case,
)
from advcal.attacks._gradient import Best
from tests.attacks.cases import Counted, Rows, each_cross_entropy, examples, linear, mlp, seeded

EPS = 0.1


def problem(n=40, seed=0, gain=3.0):
    """A model, inputs and labels of which about one in three is right."""
    model = mlp(seed, gain=gain)
    inputs, _ = examples(n, seed=seed)
    with torch.no_grad():
        labels = model(inputs).argmax(dim=1)
    return model, inputs, torch.where(torch.arange(n) % 8 == 0, (labels + 1) % 3, labels)


def fooled(model, points, labels):
    with torch.no_grad():
        return model(points).argmax(dim=1) != labels


# --- one step --------------------------------------------------------------------------------


def test_fgsm_from_a_random_start_is_a_longer_step_from_a_point_of_the_ball():
    model, inputs, labels = problem()
    found = fgsm(model, inputs, labels, eps=EPS, random_start=True, generator=seeded(3))
    start = uniform_noise(model, inputs, labels, eps=EPS, generator=seeded(3))
    gradient = torch.autograd.functional.jacobian(
        lambda x: each_cross_entropy(model(x), labels).sum(), start
    )
    wanted = start + 1.25 * EPS * gradient.sign()
    wanted = wanted.clamp(inputs - EPS, inputs + EPS).clamp(0, 1)
    torch.testing.assert_close(found, wanted)


@pytest.mark.parametrize(("noise", "step_size"), [(2.0, None), (0.5, 0.3), (0.0, None)])
def test_n_fgsm_leaves_the_ball_and_stays_in_the_box(noise, step_size):
    model = linear(shape=(400,))
    inputs, labels = torch.full((8, 400), 0.5), torch.zeros(8, dtype=torch.int64)
    options = {"noise": noise, "step_size": step_size}
    found = n_fgsm(model, inputs, labels, eps=EPS, generator=seeded(7), **options)
    reach = noise * EPS + (step_size or EPS)
    furthest = (found - inputs).abs().amax(dim=1)
    assert (furthest <= reach + 1e-6).all()
    assert (furthest > reach - 0.02).all()
    assert n_fgsm(model, inputs, labels, eps=2.0).aminmax() == (0, 1)


def test_n_fgsm_without_noise_is_fgsm():
    model, inputs, labels = problem()
    found = n_fgsm(model, inputs, labels, eps=EPS, noise=0)
    torch.testing.assert_close(found, fgsm(model, inputs, labels, eps=EPS))


# --- momentum and losses ---------------------------------------------------------------------


def test_momentum_is_the_sum_of_gradients_of_unit_l1_norm():
    """Against a loop that does as the paper says, on a loss whose last point is its best."""
    model, inputs, labels = problem(n=6)
    points, velocity = inputs, torch.zeros_like(inputs)
    for _ in range(4):
        gradient = torch.autograd.functional.jacobian(
            lambda x: each_cross_entropy(model(x), labels).sum(), points
        )
        velocity = 0.9 * velocity + gradient / gradient.abs().sum(dim=(1, 2, 3), keepdim=True)
        points = (points + 0.02 * velocity.sign()).clamp(inputs - EPS, inputs + EPS).clamp(0, 1)
    options = {"steps": 4, "step_size": 0.02, "random_start": False}
    found = pgd(model, inputs, labels, eps=EPS, momentum=0.9, **options)
    losses = [each_cross_entropy(model(x), labels) for x in (found, points)]
    torch.testing.assert_close(losses[0], torch.maximum(*losses))
    same = (found - points).flatten(1).abs().amax(dim=1) < 1e-5
    assert same.sum() >= 5
    assert not torch.equal(found, pgd(model, inputs, labels, eps=EPS, **options))


def test_kl_raises_the_divergence_from_the_clean_prediction():
    model, inputs, labels = problem()
    clean = model(inputs).log_softmax(dim=1).detach()

    def divergence(points):
        here = model(points).log_softmax(dim=1)
        return (clean.exp() * (clean - here)).sum(dim=1)

    found = pgd(model, inputs, labels, eps=EPS, loss="kl", steps=20, generator=seeded())
    noise = uniform_noise(model, inputs, labels, eps=EPS, generator=seeded())
    assert divergence(found).mean() > 3 * divergence(noise).mean() > 0


# --- l1 --------------------------------------------------------------------------------------


@pytest.mark.parametrize("attack", [fgsm, partial(pgd, random_start=False)], ids=["fgsm", "pgd"])
@pytest.mark.parametrize("eps", [0.3, 2.0, 6.0])
def test_l1_reaches_the_optimum_of_a_linear_model_in_a_box(attack, eps):
    """The most valuable coordinates first, each as far as the box has room: a knapsack."""
    weight = torch.randn(12, generator=seeded(2)).double()
    inputs = torch.rand(5, 12, generator=seeded(1), dtype=torch.float64)
    model = lambda x: torch.stack([-(x @ weight), x @ weight], dim=1)  # noqa: E731
    labels = torch.zeros(5, dtype=torch.int64)
    found = attack(model, inputs, labels, eps=eps, norm="l1")
    room = torch.where(weight > 0, 1 - inputs, inputs)
    order = weight.abs().argsort(descending=True)
    spent = (eps - (room[:, order].cumsum(1) - room[:, order])).clamp_min(0).minimum(room[:, order])
    gain = (spent * weight.abs()[order]).sum(dim=1)
    torch.testing.assert_close(found @ weight, inputs @ weight + gain)


def test_l1_changes_few_coordinates():
    model, inputs, labels = problem()
    found = pgd(model, inputs, labels, eps=1.0, norm="l1", random_start=False)
    changed = (found != inputs).flatten(1).sum(dim=1)
    assert changed.float().mean() < inputs[0].numel() / 2
    assert fooled(model, found, labels).sum() > 2 * fooled(model, inputs, labels).sum()
    assert torch.equal(l1(inputs, eps=1.0).project(found), found)


@pytest.mark.parametrize("attack", [fgsm, pgd, square])
@pytest.mark.parametrize("norm", ["linf", "l2", "l1"])
def test_channels_last_stays_channels_last(attack, norm):
    model = mlp(shape=(3, 4, 5))
    inputs, labels = examples(4, (3, 4, 5))
    inputs = inputs.contiguous(memory_format=torch.channels_last)
    found = attack(model, inputs, labels, eps=0.3, norm=norm)
    assert found.is_contiguous(memory_format=torch.channels_last)


def test_a_score_that_is_nan_is_the_lowest():
    best = Best(torch.zeros(1, 1))
    for point, score in ((1.0, torch.nan), (2.0, -5.0), (3.0, torch.nan)):
        best.offer(torch.full((1, 1), point), torch.zeros(1), torch.tensor([score]))
    assert best.points.item() == 2


# --- examples that are done leave the batch --------------------------------------------------


@pytest.mark.parametrize("norm", ["linf", "l2", "l1"])
@pytest.mark.parametrize("momentum", [0.0, 0.9])
def test_stopping_early_changes_no_verdict(norm, momentum):
    model, inputs, labels = problem()
    eps = {"linf": 0.05, "l2": 0.15, "l1": 0.4}[norm]
    options = {"eps": eps, "norm": norm, "steps": 6, "momentum": momentum, "restarts": 2}
    whole = pgd(model, inputs, labels, **options, generator=seeded())
    early = pgd(model, inputs, labels, **options, generator=seeded(), stop_early=True)
    verdict = fooled(model, whole, labels)
    assert torch.equal(fooled(model, early, labels), verdict)
    assert 5 < verdict.sum() < 40
    torch.testing.assert_close(early[~verdict], whole[~verdict])


def test_stopping_early_saves_passes():
    model, inputs, labels = problem()
    counted = Rows(model)
    pgd(counted, inputs, labels, eps=0.3, steps=20, stop_early=True)
    assert sum(counted.rows) < 40 * 21 / 3
    assert counted.rows == sorted(counted.rows, reverse=True)


def test_cascade_is_worst_case_for_less():
    model, inputs, labels = problem()
    members = [partial(fgsm, eps=0.04), partial(pgd, eps=0.05, steps=5, random_start=False)]
    counted, all_rows = Rows(model), Rows(model)
    found = cascade(*members)(counted, inputs, labels)
    wanted = worst_case(*members)(all_rows, inputs, labels)
    verdict = fooled(model, wanted, labels)
    assert torch.equal(fooled(model, found, labels), verdict)
    assert 5 < verdict.sum() < 40
    torch.testing.assert_close(found[~verdict], wanted[~verdict])
    assert sum(counted.rows) < sum(all_rows.rows)
    wrong = fooled(model, inputs, labels)
    assert torch.equal(found[wrong], inputs[wrong])


def test_cascade_stops_when_nothing_withstands():
    model, inputs, _ = problem()
    never = lambda *_: pytest.fail("called on no example")  # noqa: E731
    found = cascade(never)(model, inputs, (model(inputs).argmax(dim=1) + 1) % 3)
    assert torch.equal(found, inputs)


# --- mixed precision -------------------------------------------------------------------------


def test_autocast_crafts_in_the_lower_precision():
    seen = []

    def attack(model, inputs, labels):
        seen.append(model(inputs).dtype)
        return inputs

    model, inputs, labels = problem()
    found = autocast(attack)(model, inputs, labels)
    assert seen[0] == torch.bfloat16
    assert found.dtype == inputs.dtype
    assert not torch.is_autocast_enabled("cpu")


def test_autocast_attacks_again_where_the_precisions_disagree():
    """In bfloat16 the second logit wins by rounding; in float32 it does not."""
    weight = torch.tensor([[256.0, 256.5]])

    def model(inputs):
        return torch.nn.functional.linear(inputs, weight.T) + torch.tensor([0.0, -0.4])

    counted = Counted(lambda inputs: model(inputs))
    seen = []

    def attack(model, inputs, labels):
        seen.append((len(inputs), torch.is_autocast_enabled("cpu")))
        return inputs

    inputs = torch.tensor([[1.0], [0.25]])
    said = [model(inputs).argmax(dim=1).tolist()]
    with torch.autocast("cpu", torch.bfloat16):
        said.append(model(inputs).argmax(dim=1).tolist())
    assert said == [[1, 0], [0, 0]]
    autocast(attack)(counted, inputs, torch.zeros(2, dtype=torch.int64))
    assert seen == [(2, True), (1, False)]


def test_autocast_is_as_strong_on_a_model():
    model, inputs, labels = problem()
    attack = partial(pgd, eps=0.05, steps=10, random_start=False)
    strong = fooled(model, attack(model, inputs, labels), labels)
    found = fooled(model, autocast(attack)(model, inputs, labels), labels)
    assert abs(int(strong.sum()) - int(found.sum())) <= 1


@pytest.mark.parametrize(
    ("make", "error"),
    [
        (lambda: cascade(), ValueError),
        (lambda: cascade("pgd"), TypeError),
        (lambda: autocast("pgd"), TypeError),
        (lambda: autocast(fgsm, dtype=torch.float32), ValueError),
        (lambda: autocast(fgsm, dtype="bfloat16"), ValueError),
    ],
)
def test_bad_use_is_refused(make, error):
    with pytest.raises(error, match=r"expected .*, got"):
        make()


@pytest.mark.parametrize("attack", [fgsm, partial(pgd, random_start=False)])
def test_the_divergence_has_no_slope_at_the_inputs(attack):
    model, (inputs, labels) = mlp(), examples()
    with pytest.raises(ValueError, match="expected random_start with loss 'kl'"):
        attack(model, inputs, labels, eps=EPS, loss="kl")
