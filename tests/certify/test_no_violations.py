"""Certificates against attacks on a thousand digits, and against what they say of chance.

It takes minutes on one core, so it is deselected by default:

    python -m pytest -m slow tests/certify
"""

import functools
from functools import partial

import numpy as np
import pytest
import torch
from scipy import stats
from sklearn.datasets import load_digits
from torch import nn
from torch.nn.functional import cross_entropy

from advcal import metrics, trainers
from advcal.attacks import oca, pgd, uca
from advcal.certify import certify, crown, figures, smoothed
from advcal.certify._binomial import z_lower
from tests.certify.cases import Line, seeded

pytestmark = pytest.mark.slow

SIGMA, N = 0.5, 1000


@functools.cache
def digits():
    data = load_digits()
    order = torch.randperm(len(data.target), generator=seeded())
    return torch.tensor(data.images / 16).float().flatten(1)[order], torch.tensor(data.target)[
        order
    ]


@functools.cache
def network(sigma):
    inputs, labels = digits()
    batches = list(zip(inputs[N:].split(50), labels[N:].split(50), strict=True))

    def objective(model, batch):
        points, targets = batch
        return cross_entropy(model(points + sigma * torch.randn_like(points)), targets)

    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        hidden = [nn.Linear(64, 128), nn.ReLU(), nn.Linear(128, 128), nn.ReLU()]
        model = nn.Sequential(*hidden, nn.Linear(128, 10))
        trainers.fit(model, batches, objective, torch.optim.Adam(model.parameters(), 1e-3), n=60)
    return model.eval().requires_grad_(False)


@functools.cache
def certificates(votes):
    return certify(network(SIGMA), digits()[0][:N], sigma=SIGMA, votes=votes, generator=seeded())


class Vote(nn.Module):
    """The network with a softmax so sharp that it nearly votes, and still has a gradient."""

    def forward(self, inputs):
        return 50 * network(SIGMA)(inputs)


def attacked(model, eps):
    """Yield points of an L2 ball by attacks on the mean over fresh noise at each step."""
    inputs, labels = digits()
    inputs, labels = inputs[:N], labels[:N]
    average = smoothed(model, sigma=SIGMA, n=32, generator=seeded(1))
    common = {"eps": eps, "norm": "l2", "steps": 20, "bounds": (-9.0, 9.0)}
    predicted = average(inputs).argmax(dim=1)
    yield "pgd", pgd(average, inputs, labels, **common, generator=seeded(2))
    yield "pgd on the prediction", pgd(average, inputs, predicted, **common, generator=seeded(3))
    yield "uca", uca(average, inputs, predicted, **common)
    yield "oca", oca(average, inputs, predicted, **common)


def mean_and_error(model, points, votes, n=4000):
    """Return the smoothed probabilities with fresh noise, and their standard error."""
    generator = seeded(9)
    total = squares = 0
    with torch.no_grad():
        for _ in range(n):
            noise = torch.randn(points.shape, generator=generator)
            logits = model(points + SIGMA * noise).double()
            probs = logits.softmax(dim=1)
            if votes:
                probs = nn.functional.one_hot(logits.argmax(dim=1), 10).double()
            total, squares = total + probs, squares + probs.square()
    mean = total / n
    return mean, ((squares / n - mean.square()).clamp_min(0) / n).sqrt() + 1 / n


@pytest.mark.parametrize("votes", [False, True], ids=["softmax", "votes"])
@pytest.mark.parametrize("eps", [0.25, 0.5])
def test_no_attack_in_l2_passes_a_certificate(votes, eps):
    found, labels = certificates(votes), digits()[1][:N]
    reach = found.reach(eps)
    certain = figures(reach, labels)
    assert certain.failures <= 5
    violations = 0
    for name, points in attacked(Vote() if votes else network(SIGMA), eps):
        assert ((points - digits()[0][:N]).norm(dim=1) <= eps * (1 + 1e-5)).all()
        mean, error = mean_and_error(network(SIGMA), points, votes)
        outside = (mean + 4 * error < reach.lower) | (mean - 4 * error > reach.upper)
        two = mean.topk(2, dim=1).values
        clear = two[:, 0] - two[:, 1] > 8 * error.amax(dim=1)
        wrong = (reach.labels >= 0) & (mean.argmax(dim=1) != reach.labels) & clear
        violations += int((outside.any(dim=1) | wrong).sum())
        slack = 2e-3
        assert certain.accuracy_low <= metrics.accuracy(mean, labels) + slack
        assert certain.mcs_low - slack <= metrics.mcs(mean, labels) <= certain.mcs_high + slack
        assert metrics.ece(mean, labels) <= certain.ece_high + slack
        assert metrics.brier(mean, labels) <= certain.brier_high + slack
        assert metrics.nll(mean.clamp_min(1e-12), labels) <= certain.nll_high + slack
        low, high = reach.confidence
        confidence = mean.amax(dim=1)
        print(
            f"{name}: confidence {confidence.mean():.3f} in [{low.mean():.3f}, {high.mean():.3f}],"
            f" accuracy {metrics.accuracy(mean, labels):.3f} >= {certain.accuracy_low:.3f},"
            f" ECE {metrics.ece(mean, labels):.3f} <= {certain.ece_high:.3f},"
            f" Brier {metrics.brier(mean, labels):.3f} <= {certain.brier_high:.3f}"
        )
    assert violations == 0


@pytest.mark.parametrize("eps", [0.03, 0.1])
def test_no_attack_in_linf_passes_a_certificate(eps):
    model, (inputs, labels) = network(0.1), digits()
    inputs, labels = inputs[:N], labels[:N]
    reach = crown(model, inputs, eps=eps)
    certain = figures(reach, labels)
    predicted = model(inputs).argmax(dim=1)
    attacks = {
        "pgd": partial(pgd, steps=40, generator=seeded()),
        "uca": partial(uca, steps=40),
        "oca": partial(oca, steps=40),
        "uca, random search": partial(uca, steps=100, method="random_search", generator=seeded()),
    }
    for name, attack in attacks.items():
        points = attack(model, inputs, labels if name == "pgd" else predicted, eps=eps)
        probs = model(points).double().softmax(dim=1)
        slack = 1e-6
        assert ((reach.lower <= probs + slack) & (probs <= reach.upper + slack)).all()
        kept = reach.labels >= 0
        assert (probs.argmax(dim=1) == reach.labels)[kept].all()
        assert certain.accuracy_low <= metrics.accuracy(probs, labels) + 1e-12
        assert metrics.ece(probs, labels) <= certain.ece_high
        assert metrics.brier(probs, labels) <= certain.brier_high
        assert certain.mcs_low <= metrics.mcs(probs, labels) <= certain.mcs_high
        print(
            f"{name}: accuracy {metrics.accuracy(probs, labels):.3f} >= {certain.accuracy_low:.3f},"
            f" ECE {metrics.ece(probs, labels):.3f} <= {certain.ece_high:.3f}"
        )


@pytest.mark.parametrize("votes", [False, True], ids=["softmax", "votes"])
@pytest.mark.parametrize("eps", [None, 0.2], ids=["whole", "looks"])
def test_a_certificate_is_wrong_as_seldom_as_alpha(votes, eps):
    # The same point many times: the radius is more than the distance .2 in alpha of them at most.
    alpha, n, distance = 0.2, 3000, 0.2
    inputs = torch.full((n, 1), distance, dtype=torch.float64)
    options = {"sigma": 0.5, "n": 400, "alpha": alpha, "votes": votes, "eps": eps}
    found = certify(Line([4.0]), inputs, **options, generator=seeded())
    failed = float((found.radius > distance).double().mean())
    assert failed <= alpha + 3 * (alpha * (1 - alpha) / n) ** 0.5
    if votes and eps is None:
        assert failed > 0.1  # it is exact, but for whole numbers
    print(f"{failed:.4f} of {alpha}")


def test_radii_of_a_linear_model_are_too_large_as_seldom_as_alpha():
    # Votes for a linear model are binomial with p = Φ(distance / sigma).
    rng = np.random.default_rng(0)
    z = rng.uniform(-0.5, 3, 200_000)
    votes = rng.binomial(1000, stats.norm.cdf(z))
    low = z_lower(votes[:, None], np.full(len(z), 1000), 0.01)[:, 0]
    share = (low > z).mean()
    assert 0.005 < share <= 0.01 + 3 * (0.01 / len(z)) ** 0.5
