"""The balls: projection, random points and steepest directions."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from advcal.attacks import l1, l2, linf
from tests.attacks.cases import examples, seeded

ORDER = {"linf": torch.inf, "l2": 2, "l1": 1}
DUAL = {"linf": 1, "l2": 2, "l1": torch.inf}
BALLS = {"linf": linf, "l2": l2, "l1": l1}
DTYPES = [torch.float64, torch.float32, torch.bfloat16, torch.float16]

every_norm = pytest.mark.parametrize("norm", BALLS)
every_dtype = pytest.mark.parametrize("dtype", DTYPES)


def length(offsets, order):
    return torch.linalg.vector_norm(offsets.double().flatten(1), order, dim=1)


def distance(points, inputs, norm):
    return length(points.double() - inputs.double(), ORDER[norm])


def far_away(inputs, seed=0, scale=2.0):
    noise = torch.randn(inputs.shape, generator=seeded(seed), dtype=torch.float64)
    return (inputs.double() + scale * noise).to(inputs.dtype)


@every_norm
@every_dtype
@settings(max_examples=40, deadline=None, derandomize=True)
@given(
    eps=st.floats(1e-4, 2) | st.sampled_from([0.0, 1e-6, 8 / 255]),
    bounds=st.sampled_from([(0, 1), (-1, 1), (0, 255), (-0.5, 0.25)]),
    scale=st.floats(0, 10),
    seed=st.integers(0, 2**20),
)
def test_project(norm, dtype, eps, bounds, scale, seed):
    inputs, _ = examples(5, (3, 2), seed, dtype, bounds=bounds)
    ball = BALLS[norm](inputs, eps=eps, bounds=bounds)
    inside = ball.project(far_away(inputs, seed, scale * (eps + 1e-3)))
    assert inside.dtype == dtype
    least_step = 2**-52 * max(1, *bounds)  # the rounding of a float64 sum
    assert distance(inside, inputs, norm).max() <= eps * (1 + 2**-23) + least_step
    assert bounds[0] <= inside.min()
    assert inside.max() <= bounds[1]
    assert torch.equal(ball.project(inside), inside)
    assert torch.equal(ball.project(inputs), inputs)


@every_norm
@every_dtype
def test_project_just_outside(norm, dtype):
    """Where rounding could take a point for one inside, or round it back out."""
    generator = seeded()
    for eps in torch.rand(150, generator=generator).tolist():
        inputs = torch.rand(100, 2, generator=generator).to(dtype)
        offset = torch.nn.functional.normalize(torch.randn(100, 2, generator=generator), dim=1)
        further = 1 + 0.02 * torch.randn(100, 1, generator=generator)
        points = (inputs + eps * further * offset).to(dtype)
        inside = BALLS[norm](inputs, eps=eps).project(points)
        assert distance(inside, inputs, norm).max() <= eps * (1 + 2**-40)


@every_norm
@every_dtype
def test_what_is_inside_stays(norm, dtype):
    inputs, _ = examples(50, (3, 2), dtype=dtype)
    near = (far_away(inputs, scale=0.2).clamp(0, 1)).to(dtype)
    eps = float(distance(near, inputs, norm).max()) * (1 + 1e-6)
    assert torch.equal(BALLS[norm](inputs, eps=eps).project(near), near)


@every_dtype
def test_project_onto_linf_is_the_nearest_point(dtype):
    inputs, _ = examples(20, (6,), dtype=dtype)
    points = far_away(inputs)
    wanted = torch.minimum(torch.maximum(points.double(), inputs.double() - 0.1), inputs + 0.1)
    found = linf(inputs, eps=0.1).project(points)
    ulp = torch.finfo(dtype).eps
    torch.testing.assert_close(found.double(), wanted.clamp(0, 1).double(), rtol=0, atol=ulp)


def test_project_onto_l2_is_the_nearest_point_where_the_box_is_far():
    inputs = torch.full((20, 6), 0.5, dtype=torch.float64)
    points = inputs + 0.3 * torch.rand(20, 6, generator=seeded(), dtype=torch.float64)
    offset = points - inputs
    wanted = inputs + 0.1 * offset / offset.norm(dim=1, keepdim=True)
    assert offset.norm(dim=1).min() > 0.1
    torch.testing.assert_close(l2(inputs, eps=0.1).project(points), wanted)


@every_norm
@every_dtype
def test_project_reaches_the_surface(norm, dtype):
    inputs = torch.full((20, 6), 0.5, dtype=dtype)
    found = BALLS[norm](inputs, eps=0.25).project(far_away(inputs, scale=20.0))
    least = 0.25 * (1 - 12 * torch.finfo(dtype).eps - 2**-43)
    assert distance(found, inputs, norm).min() >= (0.25 if norm == "linf" else least)


def test_project_onto_l2_cuts_the_box_before_the_ball():
    ball = l2(torch.tensor([[0.0, 0.5]], dtype=torch.float64), eps=0.25)
    found = ball.project(torch.tensor([[-9.0, 9.0]], dtype=torch.float64))
    torch.testing.assert_close(found, torch.tensor([[0.0, 0.75]], dtype=torch.float64))


@settings(max_examples=60, deadline=None, derandomize=True)
@given(eps=st.floats(1e-3, 8), scale=st.floats(0.01, 5), seed=st.integers(0, 2**20))
def test_project_onto_l1_is_the_nearest_point(eps, scale, seed):
    """Against a bisection for the amount that is taken off every coordinate."""
    inputs, _ = examples(6, (7,), seed, torch.float64)
    points = far_away(inputs, seed, scale)
    offset = points - inputs
    room = torch.where(offset > 0, 1 - inputs, inputs)

    def cut(amount):
        return (offset.abs() - amount).clamp_min(0).minimum(room)

    low, high = torch.zeros(6, 1).double(), offset.abs().amax(dim=1, keepdim=True)
    for _ in range(80):
        middle = (low + high) / 2
        over = cut(middle).sum(dim=1, keepdim=True) > eps
        low, high = torch.where(over, middle, low), torch.where(over, high, middle)
    amount = torch.where(cut(0.0).sum(dim=1, keepdim=True) > eps, high, 0.0)
    wanted = inputs + cut(amount) * offset.sign()
    torch.testing.assert_close(l1(inputs, eps=eps).project(points), wanted, rtol=0, atol=1e-12)


@every_norm
@pytest.mark.parametrize("size", [0.05, torch.tensor([0.1, 0.3])])
def test_a_step_uphill(norm, size):
    """Of the given length, and uphill as far as a linear loss allows where the box is far."""
    inputs = torch.full((2, 3, 2), 0.5)
    gradient = torch.randn(2, 3, 2, generator=seeded())
    ball = BALLS[norm](inputs, eps=1.0)
    found = ball.ascend(inputs, gradient, size)
    lengths = torch.as_tensor(size).expand(2).double()
    torch.testing.assert_close(distance(found, inputs, norm), lengths, rtol=1e-6, atol=0)
    wanted = inputs + lengths[:, None, None] * ball.steepest(gradient)
    torch.testing.assert_close(found, wanted.float())


def test_a_step_uphill_in_l1_fills_the_box():
    inputs = torch.tensor([[0.5, 0.9, 0.2, 0.5]])
    gradient = torch.tensor([[0.1, 5.0, -2.0, 0.0]])
    found = l1(inputs, eps=1.0).ascend(inputs, gradient, 0.35)
    torch.testing.assert_close(found, torch.tensor([[0.55, 1.0, 0.0, 0.5]]))


@every_norm
@pytest.mark.parametrize("eps", [0.3, 5.0])
def test_a_projection_has_a_gradient(norm, eps):
    centre, points = torch.rand(2, 2, 300, dtype=torch.float64, generator=seeded())
    direction, weights = torch.randn(2, 2, 300, dtype=torch.float64, generator=seeded(1))
    ball, at = BALLS[norm](centre, eps=eps), (2 * points - 0.5).requires_grad_()
    (ball.project(at) * weights).sum().backward()
    there, back = (ball.project(at.detach() + h * direction) for h in (1e-6, -1e-6))
    slope = ((there - back) * weights).sum() / 2e-6
    assert float((at.grad * direction).sum()) == pytest.approx(float(slope), rel=1e-3, abs=1e-4)


def test_a_step_uphill_has_a_gradient_in_l1():
    centre, gradient = torch.rand(2, 2, 300, generator=seeded())
    gradient.requires_grad_()
    l1(centre, eps=1.0).ascend(centre, gradient, 0.5).sum().backward()
    assert gradient.grad.isfinite().all()


@every_norm
@every_dtype
@pytest.mark.parametrize("bounds", [(0, 1), (0.4, 0.6)])
def test_random_points_are_inside(norm, dtype, bounds):
    inputs, _ = examples(200, (3, 2), dtype=dtype, bounds=(0.45, 0.55))
    points = BALLS[norm](inputs, eps=0.3, bounds=bounds).random_point(seeded())
    low, high = torch.tensor(bounds, dtype=dtype)
    assert distance(points, inputs, norm).max() <= 0.3 * (1 + 2**-40)
    assert low <= points.min()
    assert points.max() <= high


@every_norm
@pytest.mark.parametrize("size", [1, 2, 6])
def test_random_points_are_uniform(norm, size):
    inputs = torch.full((4000, size), 0.5)
    points = BALLS[norm](inputs, eps=0.25).random_point(seeded())
    offset = (points - inputs).double() / 0.25
    assert offset.mean(dim=0).abs().max() < 0.04
    filled = distance(points, inputs, norm) / 0.25
    assert stats.kstest((filled**size).numpy(), "uniform").pvalue > 0.01
    if norm == "linf":
        assert stats.kstest(offset.flatten().numpy(), "uniform", (-1, 2)).pvalue > 0.01
    if size == 2:
        angle, span = offset[:, 0], 1.0
        if norm == "l2":
            angle, span = torch.atan2(offset[:, 0], offset[:, 1]), torch.pi
        if norm == "l1":
            angle = 2 * offset[:, 0] / offset.abs().sum(dim=1) * offset[:, 1].sign()
            angle = angle.abs() - 1
        assert stats.kstest(angle.numpy(), "uniform", (-span, 2 * span)).pvalue > 0.01


@every_norm
def test_examples_draw_independent_points(norm):
    inputs = torch.full((500, 2), 0.5)
    points = BALLS[norm](inputs, eps=0.25).random_point(seeded())
    assert len(points.unique(dim=0)) == 500


@every_norm
@pytest.mark.parametrize("scale", [1e-30, 1.0, 1e30])
def test_steepest_is_of_unit_norm_and_the_steepest(norm, scale):
    inputs, _ = examples(40, (3, 2))
    gradient = scale * torch.randn(inputs.shape, generator=seeded())
    direction = BALLS[norm](inputs, eps=0.1).steepest(gradient)
    torch.testing.assert_close(length(direction, ORDER[norm]), torch.ones(40).double())
    slope = (gradient.double() * direction.double()).flatten(1).sum(dim=1)
    torch.testing.assert_close(slope, length(gradient, DUAL[norm]), rtol=1e-6, atol=0)
    other = torch.randn(inputs.shape, generator=seeded(1)).double()
    other = other / length(other, ORDER[norm])[:, None, None]
    assert (slope >= (gradient.double() * other).flatten(1).sum(dim=1)).all()


@every_norm
@every_dtype
def test_no_gradient_gives_no_direction(norm, dtype):
    inputs, _ = examples(2, (3, 2), dtype=dtype)
    gradient = torch.zeros_like(inputs)
    gradient[1, 2, 1] = 0.25
    direction = BALLS[norm](inputs, eps=0.1).steepest(gradient)
    assert direction.dtype == dtype
    assert torch.equal(direction, gradient * 4)


@pytest.mark.parametrize("make", BALLS.values(), ids=BALLS)
@pytest.mark.parametrize(
    ("inputs", "options", "error"),
    [
        ([[0.5]], {"eps": 0.1}, TypeError),
        (torch.ones(2, 3, dtype=torch.int64), {"eps": 0.1}, TypeError),
        (torch.ones(3), {"eps": 0.1}, ValueError),
        (torch.ones(0, 3), {"eps": 0.1}, ValueError),
        (torch.ones(2, 3), {"eps": -0.1}, ValueError),
        (torch.ones(2, 3), {"eps": float("nan")}, ValueError),
        (torch.ones(2, 3), {"eps": "0.1"}, TypeError),
        (torch.ones(2, 3), {"eps": 0.1, "bounds": (1, 0)}, ValueError),
        (torch.ones(2, 3), {"eps": 0.1, "bounds": 1}, TypeError),
    ],
)
def test_bad_arguments_are_refused(make, inputs, options, error):
    with pytest.raises(error, match=r"expected .*, got"):
        make(inputs, **options)
