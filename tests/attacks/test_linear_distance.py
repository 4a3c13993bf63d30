"""The estimates `"linear"` and `"quick"` of `adversarial_distance`."""

import math

import numpy as np
import pytest
import torch
from scipy.optimize import minimize
from scipy.stats import spearmanr
from torch import nn

from advcal.attacks import adversarial_distance

ESTIMATES = ["linear", "quick"]
estimates = pytest.mark.parametrize("attack", ESTIMATES)


def linear(n_classes=3, seed=0):
    generator = torch.Generator().manual_seed(seed)
    weight = torch.randn(n_classes, 6, generator=generator, dtype=torch.float64)
    return lambda inputs: inputs.flatten(1).to(weight.dtype) @ weight.T, weight


def mlp(seed=0):
    torch.manual_seed(seed)
    return nn.Sequential(
        nn.Linear(6, 64), nn.Tanh(), nn.Linear(64, 64), nn.Tanh(), nn.Linear(64, 4)
    )


def examples(n=40, seed=1, dtype=torch.float64):
    return torch.rand(n, 6, generator=torch.Generator().manual_seed(seed), dtype=torch.float64).to(
        dtype
    )


class Counted:
    def __init__(self, model):
        self.model, self.forwards, self.backwards = model, 0, 0

    def __call__(self, inputs):
        self.forwards += 1
        logits = self.model(inputs)
        if logits.requires_grad:
            logits.register_hook(self.count)
        return logits

    def count(self, _):
        self.backwards += 1


@estimates
def test_a_linear_model_without_bounds_in_the_way(attack):
    model, weight = linear()
    inputs = examples()
    logits = model(inputs)
    y = logits.argmax(dim=1)
    wanted = torch.full((40,), torch.inf, dtype=torch.float64)
    for k in range(3):
        length = (weight[y] - weight[k]).norm(dim=1)
        gap = logits.gather(1, y[:, None])[:, 0] - logits[:, k]
        wanted = torch.where(y == k, wanted, torch.minimum(wanted, gap / length))
    found = adversarial_distance(model, inputs, attack=attack, bounds=(-100, 101))
    torch.testing.assert_close(found, wanted)
    assert found.dtype == torch.float64


@estimates
def test_the_bounds_lengthen_the_way_as_a_solver_of_quadratic_programs_says(attack):
    model, weight = linear(n_classes=2)
    inputs = examples(12).round()  # every value at a bound
    found = adversarial_distance(model, inputs, attack=attack)
    normal = (weight[1] - weight[0]).numpy()
    reached = 0
    for x, distance in zip(inputs.numpy(), found.tolist(), strict=True):
        gap = -float(normal @ x)
        furthest = np.where(normal * np.sign(gap) > 0, 1, 0)
        if (float(normal @ furthest) > 0) == (float(normal @ x) > 0):
            assert distance == math.inf
            continue
        solved = minimize(
            lambda d: d @ d,
            np.zeros(6),
            jac=lambda d: 2 * d,
            bounds=list(zip(-x, 1 - x, strict=True)),
            constraints={"type": "eq", "fun": lambda d, gap=gap: normal @ d - gap},
            options={"ftol": 1e-9},
        )
        assert solved.success
        assert distance == pytest.approx(math.sqrt(solved.fun), rel=1e-3, abs=1e-6)
        reached += 1
    assert reached >= 3


@pytest.mark.parametrize(("attack", "forwards", "backwards"), [("linear", 1, 2), ("quick", 4, 6)])
def test_what_it_costs(attack, forwards, backwards):
    counted = Counted(mlp())
    adversarial_distance(counted, examples(dtype=torch.float32), attack=attack)
    assert (counted.forwards, counted.backwards) == (forwards, backwards)


@estimates
def test_it_ranks_as_the_precise_setting_does(attack):
    model, inputs = mlp(), examples(200, dtype=torch.float32)
    precise = adversarial_distance(model, inputs)
    assert spearmanr(adversarial_distance(model, inputs, attack=attack), precise).statistic > 0.95


@estimates
def test_no_boundary_is_infinitely_far(attack):
    inputs = examples(5)
    constant = lambda x: 0 * x[:, :3] + torch.tensor([0.0, 1.0, 0.5])  # noqa: E731
    assert adversarial_distance(constant, inputs, attack=attack).tolist() == [math.inf] * 5
    tied = lambda x: 0 * x[:, :3]  # noqa: E731
    assert adversarial_distance(tied, inputs, attack=attack).tolist() == [math.inf] * 5
    beyond = lambda x: torch.stack([x[:, 0] + 3, x[:, 1]], dim=1)  # noqa: E731
    assert adversarial_distance(beyond, inputs, attack=attack).tolist() == [math.inf] * 5


@estimates
def test_each_example_for_itself(attack):
    model, inputs = mlp().double(), examples(20)
    together = adversarial_distance(model, inputs, attack=attack)
    alone = [adversarial_distance(model, row[None], attack=attack) for row in inputs]
    torch.testing.assert_close(together, torch.cat(alone))


@estimates
def test_the_model_and_its_modes_stay(attack):
    model = nn.Sequential(nn.Linear(6, 8), nn.BatchNorm1d(8), nn.Dropout(), nn.Linear(8, 3)).train()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    inputs = examples(dtype=torch.float32)
    kept = inputs.clone()
    state = torch.get_rng_state()
    first = adversarial_distance(model, inputs, attack=attack)
    for mode in (torch.no_grad, torch.inference_mode):
        with mode():
            assert torch.equal(adversarial_distance(model, inputs, attack=attack), first)
    assert torch.equal(inputs, kept)
    assert torch.equal(torch.get_rng_state(), state)
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert all(module.training for module in model.modules())
    assert all(p.requires_grad and p.grad is None for p in model.parameters())


@estimates
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision(attack, dtype):
    model, inputs = mlp(), examples(30, dtype=torch.float32)
    wanted = adversarial_distance(model, inputs, attack=attack)
    found = adversarial_distance(model.to(dtype), inputs.to(dtype), attack=attack)
    assert found.isfinite().all()
    assert spearmanr(found, wanted).statistic > 0.95


@estimates
def test_bad_input_is_refused(attack):
    model, inputs = mlp(), examples(dtype=torch.float32)
    for call, error, match in (
        (
            lambda: adversarial_distance(model, inputs + 1, attack=attack),
            ValueError,
            "finite inputs within bounds",
        ),
        (
            lambda: adversarial_distance(model, inputs[:0], attack=attack),
            ValueError,
            "inputs of sh",
        ),
        (lambda: adversarial_distance(model, [1.0], attack=attack), TypeError, "inputs as a torch"),
        (
            lambda: adversarial_distance(lambda x: model(x) * torch.nan, inputs, attack=attack),
            ValueError,
            "logits without NaN",
        ),
        (
            lambda: adversarial_distance(lambda x: model(x).detach(), inputs, attack=attack),
            ValueError,
            "logits that depend on the inputs",
        ),
    ):
        with pytest.raises(error, match=f"expected {match}"):
            call()
