"""8-bit images: on the grid, in the ball, and adversarial there, for every attack."""

import inspect
import pickle
from functools import partial

import pytest
import torch

from advcal import attacks
from advcal.attacks import _levels, deepfool, foot, oca, pgd, square, uca
from tests.attacks.cases import ROWS, examples, linear, mlp, seeded
from tests.attacks.test_contract import ATTACKS

# One row or more of each attack; those made of attacks take `levels=` for each of these.
EACH = {
    n: row for n, row in ROWS.items() if not hasattr(row.make(), "attack") and "levels" not in n
}
EACH = {n: row for n, row in EACH.items() if isinstance(row.make(), partial)}
ORDERS = {"linf": torch.inf, "l2": 2, "l1": 1}


def images(n=12, seed=0, shape=(1, 4, 4)):
    inputs, labels = examples(n, shape, seed)
    return read((inputs * 255).round().to(torch.uint8)), labels


def read(eight_bits, low=0.0, high=1.0):
    return low + eight_bits.float() / 255 * (high - low)


def written(points, low=0.0, high=1.0):
    return ((points - low) / (high - low) * 255).round().to(torch.uint8)


def length(points, inputs, norm):
    offset = written(points).double() - written(inputs).double()
    return torch.linalg.vector_norm(offset.flatten(1), ORDERS[norm], dim=1)


def fooled(model, points, labels):
    return model(points).argmax(dim=1) != labels


def test_every_attack_has_levels_and_tells_of_it():
    for attack in ATTACKS.values():
        assert [*inspect.signature(attack).parameters][-1] == "levels"
        assert attack.__doc__.count("        levels: 256") == 1
        assert pickle.loads(pickle.dumps(attack)) is attack


@pytest.mark.parametrize("name", EACH)
def test_images_in_the_ball_that_do_what_the_points_do(name):
    row, model, (inputs, labels) = EACH[name], mlp(gain=6.0), images()
    if "targeted" in name:
        labels = (model(inputs).argmax(dim=1) + 1) % 3
    attack = row.make(eps=26 / 255, generator=seeded())
    before = attack(model, inputs, labels)
    attack = row.make(eps=26 / 255, generator=seeded())
    found = attack(model, inputs, labels, levels=256)
    assert torch.equal(read(written(found)), found)
    if row.norm:
        assert (length(found, inputs, row.norm) <= 26 + 1e-6).all()
    done = fooled(model, before, labels) != ("targeted" in name)
    assert (fooled(model, found, labels) != ("targeted" in name))[done].all()


def test_every_attack_is_among_these():
    assert {row.make().func for row in EACH.values()} == {*ATTACKS.values()}


# --- how far the nearest image is ------------------------------------------------------------


def floor(normal, distance):
    """The least norm of whole steps along a normal that go at least so far, by a fine scan."""
    normal = normal.double() / normal.double().norm()
    steps = torch.logspace(-0.5, 2, 5000, dtype=torch.float64)[:, None]
    moves = (distance * steps * normal).round()
    norms = moves.norm(dim=1)
    return norms[moves @ normal >= distance - 1e-9].min()


@pytest.mark.parametrize("distance", [0.05, 0.5, 2.0, 8.0])
def test_the_nearest_image_of_a_linear_model_is_near_the_floor(distance):
    """`distance` is in levels, as a root mean square over the values."""
    size = 400
    normal = torch.randn(size, generator=seeded())
    normal, far = normal / normal.norm(), distance * size**0.5
    inputs = read(torch.full((1, size), 128, dtype=torch.uint8))

    def model(points):
        lead = (points - inputs).double() @ normal.double() * 255 - far
        return torch.stack([-lead, lead], dim=1).float()

    labels = torch.tensor([0])
    found = foot(model, inputs, labels, steps=10, levels=256)
    assert fooled(model, found, labels).all()
    assert length(found, inputs, "l2") <= 1.03 * floor(normal, far)
    if distance >= 1:
        assert length(found, inputs, "l2") <= 1.05 * far


def test_in_linf_the_nearest_image_is_a_whole_number_of_levels_away():
    inputs = read(torch.full((3, 16), 128, dtype=torch.uint8))
    signs = torch.randn(16, generator=seeded()).sign()
    far = torch.tensor([0.3, 1.2, 6.5])

    def model(points):
        lead = ((points - inputs) @ signs * 255 / 16 - far[: len(points)])[:, None]
        return torch.cat([-lead, lead], dim=1)

    found = deepfool(model, inputs, torch.zeros(3, dtype=torch.int64), levels=256)
    assert length(found, inputs, "linf").tolist() == [1, 2, 7]


def test_successes_in_a_ball_stay_where_an_image_is():
    """Random starts leave points off the normal, which lose more by rounding than need be."""
    size, n, radius = 400, 32, 12.0
    normal = torch.randn(size, generator=seeded())
    normal = normal / normal.norm()
    inputs = read(torch.full((n, size), 128, dtype=torch.uint8))
    far = torch.linspace(0.7, 1, n) * radius

    def model(points):
        lead = (points - inputs[:1]).double() @ normal.double() * 255 - far
        return torch.stack([-lead, lead], dim=1).float()

    labels = torch.zeros(n, dtype=torch.int64)
    options = {"eps": radius / 255, "norm": "l2", "steps": 4, "step_size": 0.3 * radius / 255}
    before = pgd(model, inputs, labels, generator=seeded(), **options)
    found = pgd(model, inputs, labels, generator=seeded(), levels=256, **options)
    there = torch.stack([floor(normal, each) <= 0.99 * radius for each in far])
    wanted = fooled(model, before, labels) & there
    assert wanted.sum() > n // 4
    assert fooled(model, found, labels)[wanted].all()
    assert (length(found, inputs, "l2") <= radius + 1e-6).all()


# --- balls and bounds ------------------------------------------------------------------------


def test_a_radius_is_rounded_down_to_whole_levels():
    inputs, labels = images()
    options = {"random_start": False, "steps": 1, "levels": 256}
    for eps, wanted in [(8 / 255, 8), (0.03, 7), (0.9 / 255, 0), (1 / 255, 1)]:
        found = pgd(mlp(), inputs, labels, eps=eps, **options)
        assert length(found, inputs, "linf").max() == wanted
    radii = torch.full((12,), 3.5 / 255)
    found = pgd(mlp(), inputs, labels, eps=radii, **options)
    assert length(found, inputs, "linf").max() == 3


@pytest.mark.parametrize("norm", ORDERS)
def test_inputs_between_levels(norm):
    inputs, labels = examples(12)
    eps = {"linf": 3.3, "l2": 9.0, "l1": 30.0}[norm] / 255
    found = pgd(mlp(), inputs, labels, eps=eps, norm=norm, levels=256)
    assert torch.equal(read(written(found)), found)
    offset = (found.double() - inputs.double()).flatten(1)
    assert torch.linalg.vector_norm(offset, ORDERS[norm], dim=1).max() <= eps + 1e-7
    offset = ((inputs.double() * 255).round() / 255 - inputs.double())[0].flatten()
    nearest = float(torch.linalg.vector_norm(offset, ORDERS[norm]))
    with pytest.raises(ValueError, match=r"expected eps of half a level or more .* no im") as told:
        pgd(mlp(), inputs, labels, eps=0.1 / 255, norm=norm, levels=256)
    assert float(str(told.value).rsplit(" ", 1)[1]) == pytest.approx(nearest, rel=1e-4)


@pytest.mark.parametrize("bounds", [(-1.0, 1.0), (0.0, 255.0), (-2.1, 2.6)])
@pytest.mark.parametrize("levels", [2, 16, 256])
def test_the_grid_is_relative_to_the_bounds(bounds, levels):
    inputs, labels = examples(bounds=bounds)
    low, high = bounds
    found = foot(mlp(), inputs, labels, steps=5, bounds=bounds, levels=levels)
    level = (found - low) / (high - low) * (levels - 1)
    assert (level - level.round()).abs().max() < 1e-4
    assert low <= found.min()
    assert found.max() <= high


def test_values_whose_bounds_meet_stay():
    inputs, labels = images()
    masked = torch.rand(inputs.shape, generator=seeded()) < 0.5
    bounds = torch.where(masked, inputs, 0.0), torch.where(masked, inputs, 1.0)
    for attack in (partial(pgd, eps=8 / 255), foot, partial(square, eps=0.1, steps=20)):
        found = attack(mlp(), inputs, labels, bounds=bounds, levels=256)
        assert torch.equal(found[masked], inputs[masked])
        assert torch.equal(read(written(found)), found)
        assert not torch.equal(found, inputs)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float16, torch.bfloat16])
def test_other_precisions(dtype):
    inputs, labels = images()
    found = foot(mlp(dtype=dtype), inputs.to(dtype), labels, steps=5, levels=256)
    assert torch.equal(read(written(found.double())).to(dtype).float(), found.float())


def test_the_grid_of_float64_starts_at_the_bound_to_the_last_place():
    inputs, labels = examples(dtype=torch.float64, bounds=(0.1, 0.7))
    found = foot(mlp(dtype=torch.float64), inputs, labels, bounds=(0.1, 0.7), levels=4)
    level = (found - 0.1) / 0.6 * 3
    assert (level - level.round()).abs().max() < 1e-14


@pytest.mark.parametrize(
    ("options", "error", "match"),
    [
        ({"bounds": None}, ValueError, "expected finite bounds for levels"),
        ({"bounds": (0, float("inf"))}, ValueError, "expected finite bounds for levels"),
        ({"bounds": (0, 3e5), "levels": 2**30}, ValueError, "expected levels that differ"),
        ({"norm": "l3"}, ValueError, "expected norm"),
        ({"eps": None}, TypeError, "expected eps"),
        ({"steps": 0}, ValueError, "expected steps"),
    ],
)
def test_what_cannot_be_is_refused(options, error, match):
    with pytest.raises(error, match=match):
        pgd(mlp(), *images(), **{"eps": 0.1, "levels": 256, **options})


def test_a_missing_or_unknown_argument_is_told_as_ever():
    with pytest.raises(TypeError, match="eps"):
        pgd(mlp(), *images(), levels=256)
    with pytest.raises(TypeError, match="nothing"):
        pgd(mlp(), *images(), eps=0.1, levels=256, nothing=1)


# --- attacks that keep the prediction --------------------------------------------------------


@pytest.mark.parametrize("attack", [uca, oca], ids=["uca", "oca"])
def test_rounding_does_not_change_a_prediction_that_is_to_stay(attack):
    """Rounded to four levels, some points of lowest confidence would cross the boundary."""
    inputs = (examples(40)[0] * 3).round() / 3
    model = linear(seed=3)
    labels = model(inputs).argmax(dim=1)
    plain = attack(model, inputs, labels, eps=0.5, norm="l2")
    found = attack(model, inputs, labels, eps=0.5, norm="l2", levels=4)
    assert torch.equal(model(found).argmax(dim=1), labels)
    rounded = model((plain * 3).round() / 3).argmax(dim=1)
    assert attack is oca or not torch.equal(rounded, labels)


@pytest.mark.parametrize(("norm", "eps", "most"), [("linf", 0.1, 0.9), ("l2", 0.3, 0.7)])
def test_a_confidence_that_is_to_fall_is_kept_low_on_a_coarse_grid(norm, eps, most, monkeypatch):
    """Not only by leading an image that would cross the boundary back."""
    model = mlp(seed=1, gain=3.0)
    inputs = (examples(40)[0] * 15).round() / 15
    options = {"eps": eps, "norm": norm, "steps": 20}
    labels = model(inputs).argmax(dim=1)

    def confidence(points):
        return model(points).softmax(dim=1).amax(dim=1).mean().item()

    plain = confidence(uca(model, inputs, labels, **options))
    found = uca(model, inputs, labels, levels=16, **options)
    assert torch.equal(model(found).argmax(dim=1), labels)
    monkeypatch.setattr(_levels, "_tilted", _levels._shrunk)
    led_back = confidence(uca(model, inputs, labels, levels=16, **options))
    assert plain < led_back
    assert confidence(found) - plain < most * (led_back - plain)


def test_models_without_a_gradient_are_led_back():
    model = mlp()
    inputs, labels = images()

    def detached(points):
        return model(points.detach())

    search = partial(uca, eps=0.1, method="random_search", steps=20, generator=seeded())
    found = search(detached, inputs, labels, levels=256)
    before, after = (model(points).softmax(dim=1).amax(dim=1) for points in (inputs, found))
    assert torch.equal(model(found).argmax(dim=1), model(inputs).argmax(dim=1))
    assert after.mean() < before.mean()


class NoWayBack(torch.autograd.Function):
    @staticmethod
    def forward(ctx, points):
        return points.clone()

    @staticmethod
    def backward(ctx, gradient):
        raise NotImplementedError


def test_random_search_takes_no_gradient_on_the_grid():
    model = mlp()
    inputs, labels = images()
    search = partial(uca, eps=0.1, method="random_search", steps=5, levels=256)
    found = search(lambda points: model(NoWayBack.apply(points)), inputs, labels)
    assert torch.equal(model(found).argmax(dim=1), model(inputs).argmax(dim=1))


def test_square_takes_no_gradient_on_the_grid(monkeypatch):
    model = mlp(gain=6.0)
    inputs, labels = images()
    monkeypatch.setattr(_levels._Does, "__call__", lambda self, levels: self.free & False)
    options = {"eps": 0.3, "steps": 5, "levels": 256}  # nothing does: all is tried
    square(lambda points: model(NoWayBack.apply(points)), inputs, labels, **options)


def test_noise_asks_no_model_on_the_grid():
    inputs, labels = images()
    found = attacks.uniform_noise(lambda points: None, inputs, labels, eps=0.1, levels=256)
    assert torch.equal((found * 255).round() / 255, found)
    assert (found - inputs).abs().max() <= 0.1


def test_an_attack_with_a_reach_of_its_own_stays_in_it():
    inputs, labels = images()
    found = attacks.n_fgsm(mlp(), inputs, labels, eps=2 / 255, noise=1.0, levels=256)
    assert (found - inputs).abs().max() <= 4.5 / 255


def test_attacks_of_attacks_take_it_for_each():
    inputs, labels = images()
    each = [partial(attack, eps=0.1, levels=256) for attack in (attacks.fgsm, pgd)]
    for attack in (attacks.worst_case(*each), attacks.batched(each[1], 5)):
        found = attack(mlp(), inputs, labels)
        assert torch.equal(read(written(found)), found)
