"""Prediction sets: ranks, coverage by simulation, and promises under attack."""

import dataclasses
import math

import numpy as np
import pytest
import torch
from scipy import special, stats

from advcal.certify import PredictionSets, Reach, conformal, crown, set_figures
from tests.certify.cases import perceptron, points, seeded

SCORES = pytest.mark.parametrize("score", ["lac", "aps", "raps"])


def drawn(n, n_classes=4, seed=0):
    generator = seeded(seed)
    logits = 2 * torch.randn(n, n_classes, generator=generator, dtype=torch.float64)
    probs = logits.softmax(dim=1)
    return probs, torch.multinomial((logits / 1.5).softmax(dim=1), 1, generator=generator)[:, 0]


# --- scores and ranks --------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("n", "alpha", "rank"), [(9, 0.1, 9), (10, 0.1, 10), (99, 0.1, 90), (109, 0.1, 99), (8, 0.1, 9)]
)
def test_the_threshold_is_the_right_score(n, alpha, rank):
    own = torch.linspace(0.95, 0.55, n, dtype=torch.float64)  # scores 1 - p rise
    sets = conformal(torch.stack([own, 1 - own], dim=1), torch.zeros(n, dtype=int), alpha=alpha)
    expected = math.inf if rank > n else float(1 - own[rank - 1])
    assert sets.threshold == pytest.approx(expected)


def test_the_scores_are_those_of_the_papers():
    probs = torch.tensor([[0.2, 0.5, 0.3]], dtype=torch.float64)
    for score, expected in {
        "lac": [0.8, 0.5, 0.7],
        "aps": [1.0, 0.5, 0.8],
        "raps": [1.0 + 0.2, 0.5, 0.8 + 0.1],
    }.items():
        for label, value in enumerate(expected):
            options = {"score": score, "penalty": 0.1, "alpha": 0.5}
            sets = conformal(probs, torch.tensor([label]), **options)
            assert sets.threshold == pytest.approx(value)
            assert sets(probs)[0, label]
            below = dataclasses.replace(sets, threshold=value - 1e-9)
            assert below(probs)[0].tolist() == [each <= value - 1e-9 for each in expected]
    assert conformal(probs, torch.tensor([0]), score="raps", n_free=3, alpha=0.5).threshold == 1


@SCORES
def test_coverage_is_what_was_promised(score):
    alpha, n, held = 0.2, 24, []
    for seed in range(400):
        probs, labels = drawn(n + 50, seed=seed)
        sets = conformal(probs[:n], labels[:n], alpha=alpha, score=score)
        held.append(set_figures(sets(probs[n:]), labels[n:]).coverage)
    # 1 - alpha at least and, but for ties at the score 1, 1 / (n + 1) more at most.
    deviation = np.std(held) / len(held) ** 0.5
    assert np.mean(held) > 0.8 - 3 * deviation
    if score == "lac":
        assert np.mean(held) < 0.8 + 1 / 25 + 3 * deviation


def test_coverage_given_the_calibration_is_a_beta_distribution():
    alpha, n = 0.1, 49
    rng = np.random.default_rng(0)
    thresholds = []
    for _ in range(800):
        own = torch.from_numpy(rng.random(n))
        probs = torch.stack([1 - own, own], dim=1)
        thresholds.append(conformal(probs, torch.zeros(n, dtype=int), alpha=alpha).threshold)
    k = math.ceil((n + 1) * (1 - alpha))
    assert stats.kstest(thresholds, stats.beta(k, n + 1 - k).cdf).pvalue > 1e-3


def test_sets_grow_as_less_may_be_missed():
    probs, labels = drawn(200)
    sizes = [set_figures(conformal(probs, labels, alpha=a)(probs), labels).size for a in (0.3, 0.1)]
    assert sizes[0] < sizes[1]
    assert conformal(probs[:5], labels[:5], alpha=0.1)(probs).all()  # too few to say anything


# --- under attack ------------------------------------------------------------------------------


def gaussians(n, rng, sigma=0.5):
    """Two classes at 0 and 1 in one dimension, and the best noisy classifier of a point."""
    labels = rng.integers(0, 2, n)
    inputs = labels + 0.3 * rng.standard_normal(n)

    def probs(at, noise):
        p = special.expit(((at + sigma * noise) - 0.5) / (0.3**2 + sigma**2))
        return torch.from_numpy(np.stack([1 - p, p], axis=-1))

    return inputs, torch.from_numpy(labels), probs


def under_attack(inputs, labels, eps):
    return inputs + eps * (1 - 2 * labels.numpy())  # towards the other class


@pytest.mark.parametrize("passes", [0, 64])
@pytest.mark.parametrize("score", ["lac", "aps"])
def test_noise_covers_every_attack_of_its_radius(passes, score):
    rng, sigma, eps, alpha = np.random.default_rng(0), 0.5, 0.25, 0.1
    covered, plain = [], []
    for _ in range(60):
        inputs, labels, probs = gaussians(600, rng)
        shape = (passes, 300) if passes else 300
        calibration = probs(inputs[:300], rng.standard_normal(shape))
        options = {"alpha": alpha, "score": score}
        sets = conformal(calibration, labels[:300], **options, eps=eps, sigma=sigma, beta=0.01)
        moved = under_attack(inputs[300:], labels[300:], eps)
        attacked = probs(moved, rng.standard_normal(shape))
        covered.append(set_figures(sets(attacked), labels[300:]).coverage)
        if not passes:
            naive = conformal(calibration, labels[:300], **options)
            plain.append(set_figures(naive(attacked), labels[300:]).coverage)
    deviation = np.std(covered) / len(covered) ** 0.5
    assert np.mean(covered) > 1 - alpha - 3 * deviation
    if plain and score == "lac":
        assert np.mean(plain) < 1 - alpha - 0.02


def test_the_level_of_one_noisy_pass():
    own = torch.linspace(0.99, 0.51, 999, dtype=torch.float64)
    probs, labels = torch.stack([own, 1 - own], dim=1), torch.zeros(999, dtype=int)
    sets = conformal(probs, labels, alpha=0.1, eps=0.25, sigma=0.5)
    level = stats.norm.cdf(stats.norm.ppf(0.9) + 0.5)
    assert sets.threshold == float(1 - own[math.ceil(1000 * level) - 1])
    assert conformal(probs, labels, alpha=0.1, eps=9.0, sigma=0.5).threshold == math.inf
    same = conformal(probs, labels, alpha=0.1, sigma=0.5)
    assert same == conformal(probs, labels, alpha=0.1)


def test_the_threshold_of_a_mean_is_that_of_the_paper():
    probs = torch.rand(256, 500, 2, generator=seeded(), dtype=torch.float64)
    probs = probs / probs.sum(dim=2, keepdim=True)
    labels = torch.zeros(500, dtype=int)
    sets = conformal(probs, labels, alpha=0.2, eps=0.1, sigma=0.5, beta=0.01)
    means = (1 - probs[:, :, 0]).mean(dim=0).sort().values
    b = math.sqrt(-math.log(0.01) / 512)
    q = float(means[math.ceil(501 * 0.82) - 1])
    for s in np.linspace(0, 1, 101):
        let_in = special.ndtri(max(s - b, 0)) - 0.2 <= special.ndtri(min(q + b, 1))
        assert let_in == (s <= sets.threshold)
    assert sets.passes == 256
    assert conformal(probs[:4], labels, eps=0.1, sigma=0.5).threshold == math.inf


def test_bounds_give_sets_that_hold_for_every_point():
    model, inputs, eps = perceptron(1), points(300, seed=3), 0.03
    generator = seeded(1)
    with torch.no_grad():
        probs = model(inputs).double().softmax(dim=1)
    labels = torch.multinomial(probs, 1, generator=generator)[:, 0]
    reach = crown(model, inputs, eps=eps)
    plain = conformal(probs[:100], labels[:100])
    robust = conformal(
        Reach(reach.lower[:100], reach.upper[:100], reach.labels[:100]), labels[:100]
    )
    assert robust.threshold >= plain.threshold
    always, sometimes = plain.under(reach)
    assert (always <= sometimes).all()
    always_robust, _ = robust.under(reach)
    assert set_figures(always_robust[100:], labels[100:]).coverage > 0.85
    for _ in range(50):
        step = 2 * torch.rand(inputs.shape, generator=generator) - 1
        moved = (inputs + eps * step.sign()).clamp(0, 1)
        with torch.no_grad():
            sets = plain(model(moved).double().softmax(dim=1))
            assert (always <= sets).all()
            assert (sets <= sometimes).all()
    # About an attacked input: nothing of the clean set is lost.
    with torch.no_grad():
        _, wide = plain.under(crown(model, moved, eps=eps))
    assert (plain(probs) <= wide).all()


# --- the rest ----------------------------------------------------------------------------------


def test_figures_count():
    sets = torch.tensor([[True, True, False], [False] * 3, [True, False, False], [True] * 3])
    found = set_figures(sets, torch.tensor([2, 0, 0, 1]))
    assert (found.n, found.coverage, found.size) == (4, 0.5, 1.5)
    assert (found.single, found.empty) == (0.25, 0.25)
    assert found.coverage_low < 0.5 < found.coverage_high
    nothing = set_figures(torch.zeros(50, 3, dtype=torch.bool), torch.zeros(50, dtype=int))
    assert nothing.coverage_high == pytest.approx(1 - 0.025 ** (1 / 50))


def test_sets_are_values():
    probs, labels = drawn(30)
    sets = conformal(probs, labels)
    assert sets == conformal(probs, labels)
    assert isinstance(sets, PredictionSets)
    assert sets(probs).dtype == torch.bool


def test_bad_arguments_are_named():
    probs, labels = drawn(30)
    reach = Reach(probs, probs, labels)
    for options, words in [
        ({"score": "apps"}, "score to be one of"),
        ({"alpha": 0.0}, "alpha > 0"),
        ({"penalty": -1.0}, "penalty >= 0"),
        ({"n_free": -1}, "n_free >= 0"),
        ({"eps": -0.1}, "eps >= 0"),
        ({"eps": 0.1}, "sigma beside eps"),
        ({"eps": 0.1, "sigma": 0.0}, "sigma > 0"),
    ]:
        with pytest.raises(ValueError, match=words):
            conformal(probs, labels, **options)
    with pytest.raises(ValueError, match="'lac' or 'aps'"):
        conformal(probs[None], labels, score="raps")
    with pytest.raises(ValueError, match=r"beta .*<= 0\.05"):
        conformal(probs[None], labels, beta=0.2)
    with pytest.raises(ValueError, match="sum to 1"):
        conformal(probs * 2, labels)
    with pytest.raises(TypeError, match=r"probs as a torch\.Tensor"):
        conformal(probs.numpy(), labels)
    with pytest.raises(ValueError, match="'lac' for bounds"):
        conformal(reach, labels, score="aps")
    sets = conformal(probs, labels)
    with pytest.raises(ValueError, match=r"probs of shape \(n, classes\)"):
        sets(probs[None])
    with pytest.raises(TypeError, match="reach as a Reach"):
        sets.under(probs)
    with pytest.raises(ValueError, match="'lac' of one pass"):
        conformal(probs, labels, score="aps").under(reach)
    with pytest.raises(TypeError, match="of bool"):
        set_figures(probs, labels)
    with pytest.raises(ValueError, match="labels"):
        set_figures(sets(probs), labels[:3])
