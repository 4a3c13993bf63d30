"""Bounds of all forms, a radius for each example, masked classes and losses, over all attacks."""

from functools import partial

import pytest
import torch
from torch.nn.functional import cross_entropy

from advcal import losses
from advcal.attacks import apgd, fgsm, generalised_ace, l1, l2, linf, n_fgsm, pgd, square, uca
from tests.attacks.cases import (
    DETERMINISTIC,
    IN_A_BALL,
    ROWS,
    SHAPE,
    UNIFORM,
    each_cross_entropy,
    every_row,
    examples,
    mlp,
    rows,
    seeded,
)

COMBINED = ("autocast", "batched", "cascade", "worst_case")
ORDERS = {"linf": torch.inf, "l2": 2, "l1": 1}
NORMS = {"linf": linf, "l2": l2, "l1": l1}

# What gives parts of a batch to attacks, whose bounds and radii are then for all examples alike.
SPLITTING = [row for name, row in ROWS.items() if name.startswith(("batched", "cascade"))]
on_whole_batches = rows([name for name, row in ROWS.items() if row not in SPLITTING])
every_norm = pytest.mark.parametrize("norm", NORMS)


def distances(found, inputs, norm):
    offset = (found.double() - inputs.double()).flatten(1)
    return torch.linalg.vector_norm(offset, ORDERS[norm], dim=1)


def a_mask(inputs):
    """Bounds that meet at every other place of each example, other places in each."""
    place = torch.arange(inputs[0].numel()).reshape(inputs.shape[1:])
    free = (place + torch.arange(len(inputs)).reshape(-1, 1, 1, 1)) % 2 == 0
    return free, (torch.where(free, 0.0, inputs), torch.where(free, 1.0, inputs))


# --- bounds ----------------------------------------------------------------------------------


@every_row
@pytest.mark.parametrize("shape", [(), (1, 4, 1), (6, *SHAPE)])
def test_tensors_for_bounds_are_as_good_as_numbers(row, shape):
    model, (inputs, labels) = mlp(), examples(6)
    wanted = row.make(generator=seeded())(model, inputs, labels)
    if len(shape) == 4 and row in SPLITTING:
        return
    for bounds in [(torch.zeros(shape), torch.ones(shape).double()), (0, torch.ones(shape))]:
        found = row.make(bounds=bounds, generator=seeded())(model, inputs, labels)
        torch.testing.assert_close(found, wanted, rtol=0, atol=1e-6)


# Noise to start at, levels and L0 need finite bounds.
FINITE = ("hopskipjump", "levels", "l0")


@rows([name for name in ROWS if not any(word in name for word in FINITE)])
@pytest.mark.parametrize("scale", [1.0, 100.0])
def test_no_bounds_are_infinite_ones(row, scale):
    model, (inputs, labels) = mlp(gain=3 / scale), examples(6, bounds=(-scale, scale))
    for bounds in (None, (-torch.inf, torch.inf), (torch.full((4,), -torch.inf), torch.inf)):
        found = row.make(bounds=bounds, eps=0.3, generator=seeded())(model, inputs, labels)
        assert found.isfinite().all()
        if row.norm:
            assert (distances(found, inputs, row.norm) <= 0.3 * (1 + 2**-23)).all()
    one_sided = row.make(bounds=(-scale, torch.inf), generator=seeded())
    assert one_sided(model, inputs, labels).min() >= -scale


@on_whole_batches
@pytest.mark.parametrize("eps", [0.1, 3.0])
def test_a_mask_is_bounds_that_meet(row, eps):
    model, (inputs, labels) = mlp(), examples(6)
    if row.norm:
        labels = model(inputs).argmax(dim=1)
    free, bounds = a_mask(inputs)
    found = row.make(bounds=bounds, eps=eps, generator=seeded())(model, inputs, labels)
    assert torch.equal(found[~free], inputs[~free])
    assert ((bounds[0] <= found) & (found <= bounds[1])).all()
    if row.norm:
        assert (distances(found, inputs, row.norm) <= eps * (1 + 2**-23)).all()
    assert not torch.equal(found, inputs) or row is ROWS["ace"]


@on_whole_batches
def test_all_masked_is_the_input(row):
    inputs, labels = examples(4)
    found = row.make(bounds=(inputs, inputs), generator=seeded())(mlp(), inputs, labels)
    assert torch.equal(found, inputs)


@rows([name for name in ROWS if "levels" not in name])  # bfloat16 cannot tell so many apart there
@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16])
def test_a_range_for_each_feature(row, dtype):
    low, high = torch.tensor([0.0, -1.0, 0.5, 10.0]), torch.tensor([1.0, 3.0, 0.75, 40.0])
    width = high - low
    inputs, labels = examples(6, dtype=torch.float64)
    inputs = (low + inputs * width).to(dtype)
    scaled = mlp(dtype=dtype)
    model = lambda x: scaled((x - low.to(dtype)) / width.to(dtype))  # noqa: E731
    found = row.make(bounds=(low, high), eps=0.4, generator=seeded())(model, inputs, labels)
    assert ((low <= found) & (found <= high)).all()
    if row.norm:
        assert (distances(found, inputs, row.norm) <= 0.4 * (1 + 2**-23)).all()


@every_norm
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16])
def test_a_ball_in_a_box_of_tensors(norm, dtype):
    inputs, _ = examples(50, dtype=dtype)
    free, (low, high) = a_mask(inputs)
    radius = torch.linspace(0, 3, 50)
    ball = NORMS[norm](inputs, eps=radius, bounds=(low, high))
    noise = torch.randn(inputs.shape, generator=seeded(), dtype=torch.float64).to(dtype)
    for points in (ball.project(inputs + 2 * noise), ball.random_point(seeded())):
        assert torch.equal(points[~free], inputs[~free])
        assert ((low <= points) & (points <= high)).all()
        assert (ball.length(points) <= radius.double() * (1 + 2**-40)).all()
        assert torch.equal(ball.project(points), points)
    part = ball.of(torch.tensor([3, 49]))
    assert torch.equal(
        part.project((inputs + noise)[[3, 49]]), ball.project(inputs + noise)[[3, 49]]
    )
    torch.testing.assert_close(ball.length(points), distances(points, inputs, norm))


@every_norm
def test_random_points_of_a_mask_fill_what_is_left_of_the_ball(norm):
    """As uniform as in a ball of as many dimensions as are free."""
    inputs, free = (
        torch.full((4000, 6), 0.5),
        torch.tensor([True, False, True, False, False, False]),
    )
    bounds = (torch.where(free, 0.0, 0.5), torch.where(free, 1.0, 0.5))
    points = NORMS[norm](inputs, eps=0.25, bounds=bounds).random_point(seeded())
    plain = NORMS[norm](inputs[:, :2], eps=0.25).random_point(seeded(1))
    shares = [distances(each, inputs[:, : each.shape[1]], norm) for each in (points, plain)]
    assert (shares[0].mean() - shares[1].mean()).abs() < 0.005


@pytest.mark.parametrize("size", [0.1, torch.full((2,), 0.1)])
def test_what_would_leave_the_box_does_not_count_in_a_step(size):
    inputs = torch.tensor([[0.0, 0.5, 0.5], [1.0, 0.5, 0.5]])
    gradient = torch.tensor([[-1e30, 3.0, 4.0], [torch.finfo(torch.float32).max, 3.0, 4.0]])
    wanted = torch.tensor([[0.0, 0.56, 0.58], [1.0, 0.56, 0.58]])
    ball = l2(inputs, eps=1.0)
    torch.testing.assert_close(ball.project(ball.ascend(inputs, gradient, size)), wanted)
    found = l1(inputs, eps=1.0)
    torch.testing.assert_close(
        found.ascend(inputs, gradient, size)[:, 1:], inputs[:, 1:] + torch.tensor([0.0, 0.1])
    )


@pytest.mark.parametrize(
    "attack",
    [fgsm, pgd, partial(pgd, momentum=1.0), partial(pgd, random_start=False), apgd],
)
@pytest.mark.parametrize(("norm", "eps"), [("linf", 0.2), ("l2", 1.0), ("l1", 3.0)])
def test_infinite_gradients_that_point_out_of_the_box(attack, norm, eps):
    """A root has an infinite slope at 0, where a step down would leave the box."""
    plain = mlp()
    model = lambda x: plain(torch.cat([-x[:, :, :1], x[:, :, 1:].sqrt()], dim=2))  # noqa: E731
    inputs, _ = examples(40)
    inputs = torch.where(inputs < 0.3, 0.0, inputs)
    labels = model(inputs).argmax(dim=1)
    found = attack(model, inputs, labels, eps=eps, norm=norm)
    assert (model(found).argmax(dim=1) != labels).float().mean() > 0.3


# --- a radius for each example ---------------------------------------------------------------

OF_ONE_BALL = [name for name in IN_A_BALL if not name.startswith((*COMBINED, "autoattack"))]


@rows(OF_ONE_BALL)
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16])
def test_a_radius_for_each_example(row, dtype):
    model, (inputs, labels) = mlp(dtype=dtype), examples(5, dtype=dtype)
    eps = torch.tensor([0.0, 0.03, 0.1, 0.4, 2.0], dtype=torch.float64)
    whole = row.make(eps=eps, generator=seeded())(model, inputs, labels)
    for i in range(5):
        alike = row.make(eps=float(eps[i]), generator=seeded())(model, inputs, labels)
        assert torch.equal(whole[i], alike[i])


@rows([name for name in DETERMINISTIC if name in OF_ONE_BALL])
def test_a_radius_for_each_example_is_that_of_the_example_alone(row):
    model, (inputs, labels) = mlp(dtype=torch.float64), examples(5, dtype=torch.float64)
    eps = torch.tensor([0.0, 0.03, 0.1, 0.4, 2.0])
    whole = row.make(eps=eps)(model, inputs, labels)
    for i in range(5):
        one = slice(i, i + 1)
        alone = row.make(eps=float(eps[i]))(model, inputs[one], labels[one])
        torch.testing.assert_close(whole[one], alone, rtol=0, atol=1e-9)


def test_autoattack_gives_each_example_its_own_radius_and_bounds():
    model, (inputs, _) = mlp(), examples(8)
    labels = model(inputs).argmax(dim=1)
    free, bounds = a_mask(inputs)
    for norm in NORMS:
        row = ROWS["autoattack"]
        eps = torch.linspace(0, 0.8, 8)
        attack = row.make(eps=eps, bounds=bounds, generator=seeded())
        found = partial(attack, norm=norm)(model, inputs, labels)
        assert (distances(found, inputs, norm) <= eps * (1 + 2**-23)).all()
        assert torch.equal(found[~free], inputs[~free])
        assert not torch.equal(found, inputs)


# --- masked classes --------------------------------------------------------------------------

FOUR = [name for name in ROWS if not name.startswith("generalised_ace")]


@rows(FOUR)
@pytest.mark.parametrize(
    ("mask", "first"), [(-torch.inf, False), (-torch.inf, True), (-1e4, True), (-1e30, False)]
)
def test_masked_classes_are_as_good_as_sliced_off(row, mask, first):
    plain, (inputs, labels) = (
        mlp(dtype=torch.float64, n_classes=5),
        examples(6, dtype=torch.float64),
    )

    def model(inputs):
        logits = plain(inputs)
        masks = torch.full((len(logits), 3), mask, dtype=logits.dtype)
        return torch.cat([masks, logits] if first else [logits, masks], dim=1)

    wanted = row.make(generator=seeded())(plain, inputs, labels)
    found = row.make(generator=seeded())(model, inputs, labels + 3 * first)
    torch.testing.assert_close(found, wanted, rtol=0, atol=1e-9)


@pytest.mark.parametrize("mask", [-torch.inf, -1e4, -1e30])
@pytest.mark.parametrize("method", ["gradient", "random_search"])
def test_what_omega_has_of_masked_classes_goes_to_the_others(mask, method):
    plain, (inputs, labels) = mlp(), examples(6)

    def model(inputs):
        logits = plain(inputs)
        return torch.cat([logits, torch.full((len(logits), 3), mask)], dim=1)

    options = {"eps": 0.1, "eta": -1.0, "method": method}
    wanted = generalised_ace(plain, inputs, labels, omega=UNIFORM, **options)
    for omega in (torch.full((6,), 1 / 6), torch.tensor([1 / 3] * 3 + [0.0] * 3)):
        found = generalised_ace(model, inputs, labels, omega=omega.double(), **options)
        torch.testing.assert_close(found, wanted, rtol=0, atol=1e-6)


def test_an_omega_made_in_inference_mode():
    with torch.inference_mode():
        omega, (inputs, labels) = UNIFORM.clone(), examples()
    found = generalised_ace(mlp(), inputs, labels, eps=0.1, eta=-1.0, omega=omega)
    wanted = generalised_ace(mlp(), *examples(), eps=0.1, eta=-1.0, omega=UNIFORM)
    assert torch.equal(found, wanted)


@every_row
def test_bounds_and_radii_made_in_inference_mode(row):
    with torch.inference_mode():
        inputs, labels = examples()
        bounds, eps = (torch.zeros(4), torch.ones(4)), torch.full((3,), 0.1)
    attack = row.make(bounds=bounds, **({} if row in SPLITTING else {"eps": eps}))
    assert attack(mlp(), inputs, labels).isfinite().all()


# --- losses ----------------------------------------------------------------------------------

LOSSES = {
    "margin": losses.margin,
    "dlr": losses.dlr,
    "focal": losses.focal,
    "focal of gamma": partial(losses.focal, gamma=1.0, reduction="sum"),
    "inverse_adversarial": losses.inverse_adversarial,
    "confidence_penalty": partial(losses.confidence_penalty, beta=0.1),
    "mbls": losses.mbls,
    "torch": cross_entropy,
    "torch smoothed": partial(cross_entropy, label_smoothing=0.1),
}


@pytest.mark.parametrize("loss", LOSSES.values(), ids=LOSSES)
@pytest.mark.parametrize("attack", [fgsm, n_fgsm, pgd, partial(pgd, targeted=True), apgd])
def test_a_loss_works_as_it_is(attack, loss):
    model, (inputs, labels) = mlp(), examples(6)
    found = attack(model, inputs, labels, eps=0.1, loss=loss)
    each = lambda z, y: loss(z, y, reduction="none")  # noqa: E731
    assert torch.equal(found, attack(model, inputs, labels, eps=0.1, loss=each))
    assert not torch.equal(found, inputs)


@pytest.mark.parametrize("attack", [fgsm, pgd, apgd])
def test_a_library_loss_is_the_loss_of_its_name(attack):
    model, (inputs, labels) = mlp(), examples(6)
    for name in ("margin", "dlr"):
        found = attack(model, inputs, labels, eps=0.1, loss=getattr(losses, name))
        assert torch.equal(found, attack(model, inputs, labels, eps=0.1, loss=name))
    found = attack(model, inputs, labels, eps=0.1, loss=each_cross_entropy)
    assert torch.equal(found, attack(model, inputs, labels, eps=0.1, loss=cross_entropy))


SEARCHES = {"square": square, "uca": partial(uca, method="random_search")}


@pytest.mark.parametrize("attack", SEARCHES.values(), ids=SEARCHES)
def test_a_model_that_writes_into_its_inputs_moves_no_point_out_of_the_ball(attack):
    def model(inputs):
        return inputs.sub_(0.25).flatten(1)[:, :3]

    inputs, labels = torch.full((2, 3), 0.5), torch.tensor([0, 1])
    points = attack(model, inputs, labels, eps=0.125, steps=8)
    assert (points - 0.5).abs().max() <= 0.125
    assert torch.equal(inputs, torch.full((2, 3), 0.5))
