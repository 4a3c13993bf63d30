"""Randomized smoothing: exact bounds, closed forms, and what must not matter."""

import math

import numpy as np
import pytest
import torch
from scipy import special, stats

from advcal.attacks import oca, pgd, uca
from advcal.certify import Certificates, certify, smoothed
from advcal.certify._binomial import most_failures, z_lower, z_upper
from advcal.certify._noise import noisy
from advcal.certify._shift import FINE, VOTES, majority_shift, mean_bounds
from tests.attacks.cases import delicate, examples, state
from tests.certify.cases import Line, mean_sigmoid, perceptron, points, seeded

KINDS = pytest.mark.parametrize("votes", [False, True], ids=["softmax", "votes"])


def run(model, inputs, **options):
    options = {"sigma": 0.5, "n": 400, "generator": seeded()} | options
    return certify(model, inputs, **options)


def same(one, other):
    return all(
        torch.equal(getattr(one, name), getattr(other, name))
        for name in ("labels", "radius", "guesses", "draws", "counts")
    )


# --- the numbers -------------------------------------------------------------------------------


@pytest.mark.parametrize("alpha", [0.05, 1e-3, 1e-9])
def test_bounds_of_a_probability_are_exact(alpha):
    n = np.array([37])
    k = np.arange(38)[None]
    low, high = special.ndtr(z_lower(k, n, alpha))[0], special.ndtr(z_upper(k, n, alpha))[0]
    assert low[0] == 0
    assert high[-1] == 1
    # At its bound, what was seen or more has exactly this probability.
    assert stats.binom.sf(k[0, 1:] - 1, 37, low[1:]) == pytest.approx(alpha, rel=1e-8)
    assert stats.binom.cdf(k[0, :-1], 37, high[:-1]) == pytest.approx(alpha, rel=1e-8)
    test = stats.binomtest(30, 37).proportion_ci(1 - 2 * alpha, method="exact")
    assert (low[30], high[30]) == pytest.approx((test.low, test.high), rel=1e-7)


@pytest.mark.parametrize(("n", "ratio"), [(10**3, 2.46326), (10**4, 3.19858), (10**5, 3.81146)])
def test_the_radius_where_all_agree_is_the_published_one(n, ratio):
    z = z_lower(np.array([[n]]), np.array([n]), 1e-3)
    assert majority_shift(z, VOTES)[0] == pytest.approx(ratio, abs=1e-5)
    assert z[0, 0] == pytest.approx(special.ndtri(1e-3 ** (1 / n)), rel=1e-10)


def test_a_bound_covers_as_often_as_it_says():
    n, alpha = 200, 0.01
    k = np.arange(n + 1)
    low = special.ndtr(z_lower(k[None], np.array([n]), alpha))[0]
    for p in (0.01, 0.3, 0.5, 0.87, 0.999):
        failure = stats.binom.pmf(k, n, p)[low > p].sum()
        assert failure <= alpha
    assert most_failures(1000, 1e-3, 1e-3) == 5
    assert stats.binom.sf(5, 1000, 1e-3) <= 1e-3 < stats.binom.sf(4, 1000, 1e-3)
    assert most_failures(1000, 0.0, 1e-3) == 0


def test_votes_give_the_radius_of_cohen_to_float64():
    model, inputs = perceptron(), points(6)
    found = run(model, inputs, votes=True, alpha=1e-3, n=1000)
    votes = found.counts[:, -1, 0]
    assert torch.equal(votes, found.counts[torch.arange(6), found.guesses, 0])
    assert (found.counts[:, :-1, 0].sum(dim=1) == 1000).all()
    for k, radius, label in zip(votes.tolist(), found.radius, found.labels, strict=True):
        p = stats.beta.ppf(1e-3, k, 1000 - k + 1)
        expected = max(0.0, 0.5 * stats.norm.ppf(p))
        assert float(radius) == pytest.approx(expected, rel=1e-9)
        assert (int(label) == -1) == (expected == 0)


@KINDS
def test_a_linear_model_is_certified_to_less_than_its_distance(votes):
    weight = np.array([3.0, -4.0, 0.0])
    inputs = torch.rand(40, 3, generator=seeded(1), dtype=torch.float64)
    distance = (inputs @ torch.tensor(weight)).abs() / 5
    found = run(Line(weight), inputs, votes=votes, alpha=0.01, n=4000)
    assert (found.radius <= distance).all()
    truth = torch.where(inputs @ torch.tensor(weight) > 0, 0, 1)
    certain = found.labels >= 0
    assert (found.labels == truth)[certain].all()
    assert certain.double().mean() > 0.7
    close = distance < 0.5  # beyond, there are too few draws
    assert (distance - found.radius)[close].mean() < 0.06


@pytest.mark.parametrize("eps", [0.0, 0.1, 0.4, 1.0])
def test_bounds_of_the_confidence_hold_what_a_linear_model_has_in_the_ball(eps):
    weight = np.array([3.0, -4.0, 0.0])
    inputs = torch.rand(12, 3, generator=seeded(2), dtype=torch.float64)
    found = run(Line(weight), inputs, n=10_000, alpha=1e-3)
    bounds = found.reach(eps)
    for i, odds in enumerate((inputs @ torch.tensor(weight)).tolist()):
        least, most = (mean_sigmoid(odds + step, 5 * 0.5) for step in (-5 * eps, 5 * eps))
        assert bounds.lower[i, 0] <= least <= most <= bounds.upper[i, 0]
        assert bounds.lower[i, 1] <= 1 - most <= 1 - least <= bounds.upper[i, 1]
        if eps == 0:
            assert bounds.upper[i, 0] - bounds.lower[i, 0] < 0.06


def test_the_grid_is_nearly_as_tight_as_the_whole_distribution():
    # Beta(8, 2), n = 10^5, alpha = .001, one standard deviation: .666 exactly, .656 by 191 bounds.
    rng = np.random.default_rng(0)
    scores = rng.beta(8, 2, 100_000)
    counts = (scores[:, None] >= FINE.thresholds).sum(axis=0)[None]
    low, _ = mean_bounds(counts, np.array([100_000]), FINE, alpha=1e-3 / FINE.n, shift=1.0)
    assert 0.650 < low[0] < 0.666
    assert FINE.n == 191


def test_the_sums_bound_any_mean():
    rng = np.random.default_rng(0)
    for scores in (rng.random(500), rng.beta(50, 0.5, 500), np.zeros(500), np.ones(500)):
        counts = (scores[:, None] >= FINE.thresholds).sum(axis=0)[None]
        low, high = mean_bounds(counts, np.array([500]), FINE, alpha=0.4999, shift=0.0)
        assert low[0] <= scores.mean() + 0.01
        assert high[0] >= scores.mean() - 0.01


@KINDS
def test_bounds_widen_with_the_radius_and_the_certainty(votes):
    model, inputs = perceptron(), points(5)
    found = run(model, inputs, votes=votes)
    sure = run(model, inputs, votes=votes, alpha=1e-8)
    assert (sure.radius <= found.radius).all()
    before = None
    for eps in (0.0, 0.05, 0.3, 2.0):
        bounds, wider = found.reach(eps), sure.reach(eps)
        assert (bounds.lower <= bounds.upper).all()
        assert (wider.lower <= bounds.lower).all()
        assert (wider.upper >= bounds.upper).all()
        assert (bounds.lower.sum(dim=1) <= 1 + 1e-12).all()
        assert (bounds.upper.sum(dim=1) >= 1 - 1e-12).all()
        low, high = bounds.confidence
        assert (low >= 0.25).all()
        assert (low <= high).all()
        if before is not None:
            assert (bounds.lower <= before.lower).all()
            assert (bounds.upper >= before.upper).all()
            assert ((bounds.labels == before.labels) | (bounds.labels == -1)).all()
        before = bounds
    assert (before.labels == -1).all()
    assert before.alpha == 2 * found.alpha


@KINDS
def test_the_smoothed_model_lies_within_its_bounds(votes):
    model, inputs = perceptron(), points(8)
    found = run(model, inputs, n=2000, votes=votes)

    def voting(rows):
        return 1000 * torch.nn.functional.one_hot(model(rows).argmax(dim=1), 4).float()

    average = smoothed(voting if votes else model, sigma=0.5, n=4000, generator=seeded(5))
    probs = average(inputs).exp()
    bounds = found.reach(0.05)
    assert (bounds.lower <= probs).all()
    assert (probs <= bounds.upper).all()
    certain = found.labels >= 0
    assert certain.any()
    assert (probs.argmax(dim=1) == found.labels)[certain].all()


@KINDS
def test_no_attack_passes_a_certificate(votes):
    # In short; a thousand digits in `test_no_violations`.
    model, inputs, sigma, eps = perceptron(), points(30), 0.1, 0.03
    found = run(model, inputs, sigma=sigma, votes=votes, n=2000)
    reach = found.reach(eps)

    def voting(rows):
        return 50 * model(rows) if votes else model(rows)

    fresh = smoothed(voting, sigma=sigma, n=8, generator=seeded(1))
    predicted = fresh(inputs).argmax(dim=1)
    common = {"eps": eps, "norm": "l2", "steps": 5, "bounds": (-9.0, 9.0)}
    for attack in (pgd, uca, oca):
        points_of = attack(fresh, inputs, predicted, **common)
        total = torch.zeros(30, 4, dtype=torch.float64)
        for noise in torch.randn(1000, 30, 6, generator=seeded(2)):
            logits = model(points_of + sigma * noise).detach().double()
            one = torch.nn.functional.one_hot(logits.argmax(dim=1), 4)
            total += one if votes else logits.softmax(dim=1)
        mean, slack = total / 1000, 4 * 0.5 / 1000**0.5
        assert (reach.lower <= mean + slack).all()
        assert (mean <= reach.upper + slack).all()
        two = mean.topk(2, dim=1).values
        clear = (two[:, 0] - two[:, 1] > 2 * slack) & (reach.labels >= 0)
        assert clear.any()
        assert (mean.argmax(dim=1) == reach.labels)[clear].all()


# --- floating point ----------------------------------------------------------------------------


class Betrayed(torch.nn.Module):
    """A model that knows a point by the last bits of a sum with it."""

    def __init__(self, point):
        super().__init__()
        self.point = point

    def forward(self, inputs):
        assert inputs.isfinite().all()
        known = ((inputs - self.point) + self.point == inputs).flatten(1).all(dim=1)
        return torch.stack([known, ~known], dim=1).float()


@pytest.mark.parametrize("dtype", [torch.float16, torch.float32, torch.float64])
@pytest.mark.parametrize("d", [1, 4])
@pytest.mark.parametrize("at", [1.0, 0.1])
def test_no_last_bits_tell_where_a_point_was(dtype, d, at):
    n, alpha, away = 3000, 1e-3, 0.6
    point = torch.full((1, d), at, dtype=dtype)
    other, model = point - away / d**0.5, Betrayed(point)

    def plain(centre):
        noise = torch.randn(n, d, generator=seeded(), dtype=dtype)
        return float(model(centre + 0.5 * noise)[:, 0].mean())

    # The kind of Voráček and Hein: in the precision of the inputs all agree, and what follows from
    # that of a point nearby is wrong.
    assert plain(point) == 1
    wrong = special.ndtr(special.ndtri(alpha ** (1 / n)) - away / 0.5)
    assert plain(other) < wrong - 0.03
    found, there = (run(model, x, votes=True, n=n, alpha=alpha) for x in (point, other))
    share = float(there.counts[0, 0, 0]) / n
    assert float(found.reach(away).lower[0, 0]) <= share + 0.02
    assert float(found.reach(away).upper[0, 0]) >= share - 0.02


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("sigma", [0.12, 0.5, 30.0])
def test_a_model_sees_points_of_a_grid_and_normal_noise(dtype, sigma):
    step = 2.0 ** (math.floor(math.log2(sigma)) - 16)
    point = torch.tensor([0.1, 1 / 3], dtype=dtype)
    rows = torch.cat(list(noisy(point, 7, sigma=sigma, start=0, stop=5000, size=999)))
    assert rows.dtype == dtype
    assert rows.shape == (5000, 2)
    wide = rows.double() / step
    assert torch.equal(wide, wide.round())
    z = ((rows.double() - point.double()) / sigma).numpy()
    for column in z.T:
        assert stats.kstest(column, "norm").pvalue > 1e-3
    assert abs(np.corrcoef(z.T)[0, 1]) < 0.06


def test_units_do_not_matter():
    model, inputs = perceptron(dtype=torch.float64), points(4, dtype=torch.float64)
    plain = run(model, inputs)
    scaled = run(lambda rows: model(rows / 256), 256 * inputs, sigma=128.0)
    assert torch.equal(scaled.counts, plain.counts)
    assert torch.equal(scaled.radius, 256 * plain.radius)


# --- what must not matter, and what must -------------------------------------------------------


@KINDS
def test_neighbours_and_portions_do_not_matter(votes):
    model, inputs = perceptron(), points(5)
    whole = run(model, inputs, votes=votes, n=1234)
    assert same(run(model, inputs, votes=votes, n=1234, size=77), whole)
    assert same(run(model, inputs, votes=votes, n=1234, size=10**6), whole)
    first = run(model, inputs[:1], votes=votes, n=1234)
    assert torch.equal(first.counts[0], whole.counts[0])
    assert not torch.equal(whole.seeds[0], whole.seeds[1])


def test_a_stop_on_the_way_does_not_matter():
    model, inputs = perceptron(), points(3)
    whole = run(model, inputs, n=2500)
    for stop in (700, 1000, 1700):
        part = run(model, inputs, n=stop)
        assert (part.draws == stop).all()
        assert same(run(model, inputs, n=2500, state=part), whole)
    assert same(run(model, inputs, n=2500, state=whole), whole)


def test_a_generator_goes_on_from_batch_to_batch():
    model, inputs = perceptron(), points(4)
    generator = seeded()
    parts = [run(model, rows, generator=generator) for rows in inputs.split(1)]
    assert len({int(part.seeds) for part in parts}) == 4
    again = run(model, inputs, generator=seeded(1))
    assert not same(again, run(model, inputs))


@KINDS
def test_looks_save_draws_and_certify_no_more(votes):
    model, inputs = perceptron(), points(20)
    whole = run(model, inputs, n=6400, votes=votes)
    found = run(model, inputs, n=6400, votes=votes, eps=0.05)
    assert found.looks == 7
    assert set(found.draws.tolist()) <= {100, 200, 400, 800, 1600, 3200, 6400}
    assert found.draws.double().mean() < 4800
    decided = found.draws < 6400
    certified = found.radius > 0.05
    assert certified.any()
    assert (~certified).any()
    agree = certified == (whole.radius > 0.05)
    assert agree[decided].double().mean() > 0.9
    stays = found.reach(0.05).labels >= 0
    assert torch.equal(stays, certified)


def test_an_abstention_has_no_label():
    def undecided(rows):
        return torch.zeros(len(rows), 2)

    found = run(undecided, points(3))
    assert found.labels.tolist() == [-1] * 3
    assert found.radius.tolist() == [0.0] * 3
    assert found.guesses.tolist() == [0] * 3


def test_a_masked_class_changes_nothing():
    model, inputs = perceptron(), points(3)
    masked = run(
        lambda rows: torch.cat([model(rows), torch.full((len(rows), 1), -torch.inf)], dim=1), inputs
    )
    plain = run(model, inputs)
    assert torch.equal(masked.radius, plain.radius)
    assert (masked.counts[:, 4] == 0).all()


def test_the_model_and_the_random_state_are_left_alone():
    model = delicate()
    before, random = state(model), torch.get_rng_state()
    inputs, _ = examples()
    kept = inputs.clone()
    with torch.inference_mode():
        one = run(model, inputs, n=100, generator=None)
    two = run(model, inputs, n=100, generator=None)
    assert same(one, two)
    assert state(model) == before
    assert torch.equal(torch.get_rng_state(), random)
    assert torch.equal(inputs, kept)
    failing = delicate(fail_at=2)
    before = state(failing)
    with pytest.raises(InterruptedError):
        run(failing, inputs, n=100)
    assert state(failing)[0] == before[0]
    assert state(failing)[3] == before[3]


def test_progress_sees_every_example():
    seen = []
    run(perceptron(), points(3), n=10, progress=lambda each: [seen.append(i) or i for i in each])
    assert seen == [0, 1, 2]


@pytest.mark.parametrize(
    ("options", "error", "words"),
    [
        ({"sigma": 0.0}, ValueError, "sigma > 0"),
        ({"sigma": "a"}, TypeError, "sigma as a number"),
        ({"alpha": 0.0}, ValueError, "alpha > 0"),
        ({"alpha": 0.6}, ValueError, "alpha"),
        ({"n": 0}, ValueError, "n >= 1"),
        ({"n_pilot": 0}, ValueError, "n_pilot >= 1"),
        ({"size": 1.5}, TypeError, "size as an int"),
        ({"eps": 0.0}, ValueError, "eps > 0"),
        ({"votes": 1}, TypeError, "votes as True or False"),
        ({"generator": 1}, TypeError, "generator"),
        ({"state": 1}, TypeError, "state as Certificates"),
        ({"progress": 1}, TypeError, "progress"),
    ],
)
def test_bad_arguments_are_named(options, error, words):
    with pytest.raises(error, match=words):
        run(perceptron(), points(2), **options)


def test_a_state_must_be_of_the_same():
    model, inputs = perceptron(), points(2)
    before = run(model, inputs, n=100)
    for options, words in [
        ({"sigma": 0.25}, "sigma=0.5 as in state"),
        ({"alpha": 0.01}, "alpha"),
        ({"votes": True}, "votes=False as in state"),
        ({"n": 50}, "n >= 100"),
        ({"eps": 0.1}, "no eps"),
    ]:
        with pytest.raises(ValueError, match=words):
            run(model, inputs, state=before, **options)
    with pytest.raises(ValueError, match="state of 1 examples"):
        run(model, inputs[:1], state=before)
    for classes in (3, 6):
        with pytest.raises(ValueError, match="4 classes as in state"):
            run(perceptron(sizes=(6, 12, classes)), inputs, n=200, state=before)
    with pytest.raises(ValueError, match="eps >= 0"):
        before.reach(-1.0)


def test_bad_models_and_inputs_are_named():
    with pytest.raises(TypeError, match=r"inputs as a torch\.Tensor"):
        run(perceptron(), [1.0])
    with pytest.raises(TypeError, match="model"):
        run(3, points(1))
    with pytest.raises(ValueError, match="without NaN"):
        run(lambda rows: rows * math.nan, points(1))
    assert isinstance(run(perceptron(), points(1)), Certificates)
