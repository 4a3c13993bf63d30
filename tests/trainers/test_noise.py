"""Objectives for randomized smoothing, against their formulas by hand."""

from functools import partial

import pytest
import torch
from torch import nn
from torch.nn.functional import cross_entropy

from advcal import trainers
from advcal.attacks import pgd

close = torch.testing.assert_close


def seeded(seed=0):
    return torch.Generator().manual_seed(seed)


def setting(n=6):
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 3))
    return model, (torch.rand(n, 4), torch.randint(3, (n,)))


def test_noisy():
    model, (x, y) = setting()
    objective = trainers.noisy(trainers.standard(), sigma=0.5, generator=seeded(3))
    z = torch.randn(x.shape, generator=seeded(3))
    close(objective(model, (x, y)), cross_entropy(model(x + 0.5 * z), y))
    assert objective(model, (x, y)) != objective(model, (x, y))


def test_noise_comes_before_what_the_objective_crafts():
    model, (x, y) = setting()

    def halve(model, inputs, labels):
        return inputs / 2

    objective = trainers.noisy(trainers.adversarial(halve), sigma=0.5, generator=seeded(3))
    z = torch.randn(x.shape, generator=seeded(3))
    close(objective(model, (x, y)), cross_entropy(model((x + 0.5 * z) / 2), y))
    plain = trainers.noisy(lambda model, batch: batch[0].sum(), sigma=0.5, generator=seeded(3))
    close(plain(model, (x, y)), (x + 0.5 * z).sum())


def test_smooth_adversarial():
    model, (x, y) = setting()
    seen = []

    def attack(average, inputs, labels):
        seen.append((average(inputs), average(inputs), average(inputs[:2])))
        return inputs + 0.25

    objective = trainers.smooth_adversarial(attack, sigma=0.5, n=3, generator=seeded(3))
    loss = objective(model, (x, y))
    seed = int(torch.randint(2**62, (), generator=seeded(3)))
    source = seeded(seed)
    z = [torch.randn(x.shape, generator=source) for _ in range(3)]
    p = torch.stack([model(x + 0.5 * each).softmax(dim=1) for each in z]).mean(dim=0)
    first, second, some = seen[0]
    close(first, p.log())
    assert torch.equal(first, second)
    assert some.shape == (2, 3)
    each = [cross_entropy(model(x + 0.25 + 0.5 * each), y) for each in z]
    close(loss, sum(each) / 3)


def test_training_with_noise_is_certified_further():
    from sklearn.datasets import load_digits

    from advcal.certify import certify

    data = load_digits()
    x, y = torch.tensor(data.images / 16).float().flatten(1), torch.tensor(data.target)
    batches = list(zip(x[:1000].split(50), y[:1000].split(50), strict=True))
    attack = partial(pgd, norm="l2", eps=0.25, steps=2, random_start=False, bounds=(-9.0, 9.0))
    radii = []
    for objective in (
        trainers.standard(),
        trainers.noisy(trainers.standard(), sigma=0.25),
        trainers.smooth_adversarial(attack, sigma=0.25, n=2),
    ):
        torch.manual_seed(0)
        model = nn.Sequential(nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 10))
        trainers.fit(model, batches, objective, torch.optim.Adam(model.parameters(), 3e-3), n=12)
        found = certify(model, x[1000:1060], sigma=0.25, n=500, votes=True, generator=seeded())
        right = found.labels == y[1000:1060]
        radii.append(float((found.radius * right).mean()))
    assert radii[0] < radii[1]
    assert radii[2] > radii[0]


@pytest.mark.parametrize("sigma", [0.0, -1.0])
def test_bad_arguments_are_named(sigma):
    with pytest.raises(ValueError, match="sigma > 0"):
        trainers.noisy(trainers.standard(), sigma=sigma)
    with pytest.raises(ValueError, match="sigma > 0"):
        trainers.smooth_adversarial(pgd, sigma=sigma)
    with pytest.raises(TypeError, match="objective"):
        trainers.noisy(3, sigma=1.0)
    with pytest.raises(TypeError, match="n as an int"):
        trainers.smooth_adversarial(pgd, sigma=1.0, n=2.0)
