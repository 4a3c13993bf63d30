"""The nearest point by decisions alone: exact distances, labels, queries."""

import pytest
import torch
from torch.nn.functional import one_hot

from advcal.attacks import hopskipjump
from tests.attacks.cases import Counted, examples, linear, mlp, seeded

ORDERS = {"linf": torch.inf, "l2": 2}


def distances(points, inputs, norm):
    offset = (points.double() - inputs.double()).flatten(1)
    return torch.linalg.vector_norm(offset, ORDERS[norm], dim=1)


def boundary(size=12, seed=0):
    """A linear model of two classes, inputs on one side, and how far they are by each norm."""
    normal = torch.randn(size, generator=seeded(seed))
    inputs = 0.4 + 0.2 * torch.rand(10, size, generator=seeded(seed + 1))
    far = torch.linspace(0.02, 0.3, 10)

    def model(points):
        lead = (points @ normal - at).sign()[:, None]
        return torch.cat([-lead, lead], dim=1)

    at = (inputs @ normal + far * normal.norm()).min()
    left = (at - inputs @ normal).double()
    return model, inputs, {"l2": left / normal.norm(), "linf": left / normal.abs().sum()}


@pytest.mark.parametrize("norm", ORDERS)
def test_the_distance_of_a_linear_boundary(norm):
    model, inputs, exact = boundary()
    labels = torch.zeros(len(inputs), dtype=torch.int64)
    rise = []
    for steps in (200, 2000):
        found = hopskipjump(model, inputs, labels, norm=norm, steps=steps, generator=seeded())
        assert (model(found).argmax(dim=1) == 1).all()
        ratio = distances(found, inputs, norm) / exact[norm]
        assert (ratio >= 1 - 1e-5).all()
        rise.append(float(ratio.mean()))
    assert rise[1] <= min(rise[0], 1.08)


def test_labels_are_all_that_it_reads():
    inputs, _ = examples()
    model = mlp()
    labels = model(inputs).argmax(dim=1)

    def decides(points):
        return one_hot(model(points).argmax(dim=1), 3).float()

    options = {"steps": 100, "norm": "l2"}
    by_logits = hopskipjump(model, inputs, labels, **options, generator=seeded())
    by_labels = hopskipjump(decides, inputs, labels, **options, generator=seeded())
    assert torch.equal(by_logits, by_labels)
    assert (model(by_labels).argmax(dim=1) != labels).any()


@pytest.mark.parametrize("steps", [1, 2, 37, 250])
def test_it_takes_no_more_queries_than_it_is_given(steps):
    inputs, _ = examples()
    labels = linear()(inputs).argmax(dim=1)
    model = Counted(linear())
    hopskipjump(model, inputs, labels, steps=steps)
    assert model.forwards == steps
    model = Counted(lambda x: torch.tensor([[1.0, 0.0, 0.0]]).repeat(len(x), 1))
    found = hopskipjump(model, inputs, 0 * labels, steps=steps)
    assert torch.equal(found, inputs)  # nobody fools it
    assert model.forwards <= min(steps, 120)  # it gives up


@pytest.mark.parametrize("norm", ORDERS)
def test_more_queries_are_never_worse(norm):
    inputs, _ = examples(20)
    labels = mlp()(inputs).argmax(dim=1)
    last = torch.inf
    for steps in (60, 200, 600):
        found = hopskipjump(mlp(), inputs, labels, norm=norm, steps=steps, generator=seeded())
        fooled = mlp()(found).argmax(dim=1) != labels
        length = torch.where(fooled, distances(found, inputs, norm), torch.inf)
        assert (length <= last).all()
        last = length


def test_a_start_far_from_noise():
    """Where one in 100 noisy images fools the model, corners of the box do more often."""
    normal = torch.randn(100, generator=seeded())
    inputs = 0.4 + 0.2 * torch.rand(10, 100, generator=seeded(1))
    at = (inputs @ normal).max() + 0.5 * normal.norm()

    def model(points):
        lead = points @ normal - at
        return torch.stack([-lead, lead], dim=1).sign()

    found = hopskipjump(model, inputs, torch.zeros(10, dtype=torch.int64), steps=120)
    assert (model(found).argmax(dim=1) == 1).all()


def test_examples_that_are_wrong_stay():
    inputs, _ = examples()
    labels = mlp()(inputs).argmax(dim=1)
    wrong = torch.tensor([True, False, True])
    labels[wrong] = (labels[wrong] + 1) % 3
    found = hopskipjump(mlp(), inputs, labels, steps=100)
    assert torch.equal(found[wrong], inputs[wrong])
    assert not torch.equal(found[1], inputs[1])


def test_bounds_must_be_finite():
    with pytest.raises(ValueError, match="expected finite bounds, to start at noise"):
        hopskipjump(mlp(), *examples(), bounds=None)
