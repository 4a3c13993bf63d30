"""The thresholds of L1 that are found without a sort, against those of a sort."""

import pytest
import torch

from advcal.attacks import _thresholds, l1
from tests.attacks.cases import seeded

RANDOM = torch.rand(6, 700, generator=seeded(), dtype=torch.float64)
SIZES = {
    "random": RANDOM,
    "tied": (4 * RANDOM).round() / 4,
    "equal": torch.ones_like(RANDOM),
    "mostly zero": RANDOM * (RANDOM > 0.95),
    "zero": torch.zeros_like(RANDOM),
    "huge": 1e30 * RANDOM,
    "tiny": 1e-30 * RANDOM,
    "of many scales": torch.exp(60 * (RANDOM - 0.5)),
}
ROOMS = {
    "none binds": lambda size: size,
    "infinite": lambda size: torch.full_like(size, torch.inf),
    "some bind": lambda size: RANDOM.flip(1),
    "all bind": lambda size: size * RANDOM.flip(1),
    "some are 0": lambda size: RANDOM.flip(1) * (RANDOM > 0.5),
}


@pytest.mark.parametrize("size", SIZES.values(), ids=SIZES)
@pytest.mark.parametrize("room", ROOMS.values(), ids=ROOMS)
@pytest.mark.parametrize("share", [0.0, 0.01, 0.9, 1.5])
def test_what_is_taken_off_leaves_the_sum(size, room, share):
    """At least as near to it as by a sort, but for rounding."""
    room = room(size)
    whole = size.minimum(room).sum(dim=1, keepdim=True)
    wanted = (share * whole).minimum(whole)

    def miss(amount):
        return ((size - amount).clamp_min(0).minimum(room).sum(dim=1, keepdim=True) - wanted).abs()

    amount = _thresholds.taken_off(size, room, share * whole)
    rounding = 700 * 2**-52 * amount + 1e-12 * wanted
    assert (amount >= 0).all()
    assert (miss(amount) <= miss(_thresholds._by_sort(size, room, share * whole)) + rounding).all()


@pytest.mark.parametrize("room", ROOMS.values(), ids=ROOMS)
def test_no_row_of_random_sizes_is_sorted(room):
    whole = RANDOM.minimum(room(RANDOM)).sum(dim=1, keepdim=True)
    assert _thresholds._by_newton(RANDOM, room(RANDOM), 0.3 * whole)[1].all()


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("kind", ["random", "tied", "mostly zero", "zero", "many are equal"])
@pytest.mark.parametrize("budget", [0.0, 0.3, 12.0, 1e4])
def test_a_budget_is_spent_as_in_order(dtype, kind, budget):
    slope = torch.randn(5, 700, generator=seeded(), dtype=torch.float64)
    slope = {
        "random": slope,
        "tied": (2 * slope).round(),
        "mostly zero": slope * (slope > 2.5),
        "zero": 0 * slope,
        "many are equal": slope.sign(),
    }[kind].to(dtype)
    room = (RANDOM[:5] * (RANDOM[:5] > 0.3)).to(dtype)
    room[0, ::3] = torch.inf
    each = torch.full((5, 1), budget, dtype=torch.float64)
    wanted = _thresholds._spent_in_order(slope, room, each)
    assert torch.equal(_thresholds.spent(slope, room, budget), wanted)


@pytest.mark.parametrize("kind", ["random", "tied", "mostly zero"])
def test_a_number_of_entries_reaches_the_level(kind):
    values, n = SIZES[kind].float(), torch.tensor([1, 2, 20, 350, 699, 700])
    nth = values.sort(dim=1, descending=True).values.gather(1, n[:, None] - 1)
    wanted = (values >= nth) & (values > 0)
    assert torch.equal(values >= _thresholds.reached_by(values, n), wanted)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.float16])
@pytest.mark.parametrize("kind", ["random", "tied", "equal", "mostly zero", "zero"])
def test_the_largest_are_those_of_a_sort(dtype, kind):
    """Of equal ones the first, however many there are, and none of those below 0."""
    values = (SIZES[kind] * torch.where(RANDOM > 0.4, 1, -1)).to(dtype)
    for n in ([0, 1, 2, 20, 350, 700], [5, 5, 0, 40, 3, 90]):
        n = torch.tensor(n).double()
        assert torch.equal(_thresholds.largest(values, n), _thresholds._first(values, n))


@pytest.mark.parametrize("size", SIZES.values(), ids=SIZES)
@pytest.mark.parametrize("room", ROOMS.values(), ids=ROOMS)
@pytest.mark.parametrize("share", [0.01, 0.3, 0.9, 1.5])
def test_at_least_so_much_is_taken_off(size, room, share):
    """In the precision of images, and of those that keep nothing by it none keeps anything."""
    room = room(size)
    eps = share * size.minimum(room).sum(dim=1, keepdim=True)
    whole = _thresholds.taken_off(size, room, eps)
    least, left = _thresholds.taken_at_least(size.float(), room.float(), eps, few=60)
    assert (least <= whole * (1 + 1e-6)).all()
    kept = (size - whole).clamp_min(0).minimum(room) > 1e-6 * size
    assert (left > 0)[kept].all()


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_images_that_changed_throughout_are_projected_as_by_a_sort(dtype, monkeypatch):
    """Whether few entries or most of them stay off the centre."""
    inputs = torch.rand(6, 3, 20, 20, generator=seeded()).to(dtype)
    points = inputs + torch.randn(inputs.shape, generator=seeded()).to(dtype).pow(3)
    eps = torch.tensor([1e-3, 0.5, 5.0, 50.0, 300.0, 1e4])
    found = l1(inputs, eps=eps).project(points)
    alone = [
        l1(inputs[i : i + 1], eps=float(eps[i])).project(points[i : i + 1]) for i in range(len(eps))
    ]
    assert torch.equal(found, torch.cat(alone))
    monkeypatch.setattr(_thresholds, "free_to_read", lambda value: False)
    wanted = l1(inputs, eps=eps)._whole(points)
    torch.testing.assert_close(found, wanted, rtol=0, atol=2 * torch.finfo(dtype).eps)


TENSORS = (0.2 * torch.ones(700).double(), torch.ones(700).double())


@pytest.mark.parametrize("bounds", [(0, 1), (-1, 2), None, TENSORS])
@pytest.mark.parametrize("times", [1, 5])
def test_a_projection_does_not_depend_on_the_neighbours(bounds, times):
    """Neither where few coordinates have changed, nor where many have."""
    bounds = tuple(e.repeat(times) for e in bounds) if bounds is TENSORS else bounds
    inputs = RANDOM.clamp_min(0.2).repeat(1, times)
    offset = torch.randn(inputs.shape, generator=seeded(), dtype=torch.float64)
    for row, n in enumerate((1, 3, 70, 150 * times, 300 * times)):
        offset[row, n:] = 0
    together = l1(inputs, eps=1.5, bounds=bounds).project(inputs + offset)
    alone = [
        l1(x[None], eps=1.5, bounds=bounds).project(there[None])
        for x, there in zip(inputs, inputs + offset, strict=True)
    ]
    assert torch.equal(together, torch.cat(alone))


def test_points_narrower_than_the_centre_keep_their_dtype():
    centre = torch.full((2, 700), 0.5).double()
    points = centre.float()
    points[:, :3] = 1
    found = l1(centre, eps=1.0).project(points)
    assert found.dtype == torch.float32
    assert ((found - centre).abs().sum(dim=1) - 1).abs().max() < 1e-6
