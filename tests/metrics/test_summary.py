"""Sums of every figure, which add, and their intervals."""

import numpy as np
import pytest
import torch
from scipy.stats import beta, binom, t

from advcal import metrics

FIGURES = ["accuracy", "confidence", "nll", "brier", "ece", "mce", "mcs"]


def data(n=400, n_classes=4, seed=0):
    rng = np.random.default_rng(seed)
    probs = rng.dirichlet(np.full(n_classes, 0.3), n)
    return probs, (probs.cumsum(axis=1) > rng.random((n, 1))).argmax(axis=1)


def confident(n=100, confidence=0.99, wrong=0):
    probs = np.full((n, 2), [confidence, 1 - confidence])
    return probs, (np.arange(n) < wrong).astype(np.int64)


@pytest.mark.parametrize("kind", [np.asarray, torch.as_tensor])
def test_a_summary_has_the_figures_of_the_metrics_and_adds(kind):
    probs, labels = map(kind, data())
    whole = metrics.summary(probs, labels)
    halves = [metrics.summary(probs[r], labels[r]) for r in (slice(150), slice(150, 400))]
    total = sum(halves)
    assert type(whole.sums) is type(probs)
    for name in FIGURES:
        wanted = float(getattr(metrics, name)(probs, labels))
        for each in (whole, total):
            assert float(getattr(each, name)) == pytest.approx(wanted, rel=1e-12)
            found = each.interval(name, generator=torch.Generator().manual_seed(0))
            assert float(found.value) == pytest.approx(wanted, rel=1e-12)
            assert found.low < found.value < found.high
            assert type(found.low) is type(found.value)
    assert repr(total).startswith("Summary(n=400, accuracy=")
    with pytest.raises(TypeError):
        whole + 1


def test_logits_and_masked_classes():
    logits = torch.randn(50, 3, generator=torch.Generator().manual_seed(0)).double() * 400
    logits[:, 2] = -torch.inf
    labels = torch.arange(50) % 2
    found = metrics.summary(logits, labels, from_logits=True)
    assert found.nll == metrics.nll(logits, labels, from_logits=True)
    assert all(found.interval("nll"))
    assert torch.isfinite(torch.stack(list(found.interval("nll")))).all()


def test_students_interval_of_many_and_the_exact_one_of_shares():
    probs, labels = data(3000)
    total = metrics.summary(probs, labels)
    for name in ("nll", "brier", "confidence"):
        each = getattr(metrics, name)(probs, labels, reduction="none")
        low, high = t.interval(0.9, 2999, each.mean(), each.std(ddof=1) / np.sqrt(3000))
        found = total.interval(name, level=0.9)
        assert found.low <= low + 1e-12 < high - 1e-12 <= found.high
        assert found.high - found.low < 1.1 * (high - low)
    share = metrics.clopper_pearson(round(float(total.accuracy) * 3000), n=3000)
    assert tuple(total.interval("accuracy")) == pytest.approx(tuple(share))


@pytest.mark.parametrize("n", [1, 5, 100])
@pytest.mark.parametrize("confidence", [0.9, 0.999, 1.0])
def test_no_figure_of_predictions_that_are_all_alike_is_without_a_width(n, confidence):
    total = metrics.summary(*confident(n, confidence))
    for name in FIGURES:
        found = total.interval(name)
        assert found.low <= found.value <= found.high
        assert found.low < found.high
    # What may be wrong in as many as are all right costs this much at most, in 97.5 %.
    unseen = 1 - 0.025 ** (1 / n)
    most = 2 * (unseen * confidence**2 + (1 - unseen) * (1 - confidence) ** 2)
    assert 0.8 * most < total.interval("brier").high <= 2


def test_a_certain_mistake():
    total = metrics.summary(*confident(10, 1.0, wrong=1))
    assert total.interval("nll").high == np.inf
    assert total.interval("nll").low == 0
    assert total.interval("brier").high <= 2


def test_the_largest_gap_of_one_bin_has_clopper_and_pearsons_ends():
    found = metrics.summary(*confident(50, 0.9, wrong=12)).interval("mce")
    low, high = beta.ppf([0.025, 0.975], [38, 39], [13, 12])
    assert found.low == pytest.approx(0.9 - high)
    assert found.high == pytest.approx(0.9 - low)


# Of 200 intervals that cover in 95 %, as few as 181 do so one time in a thousand.
@pytest.mark.parametrize("n", [20, 100])
@pytest.mark.parametrize(("confidence", "accuracy"), [(0.99, 0.99), (0.9, 0.95), (0.999, 0.99)])
def test_accurate_models_are_covered(n, confidence, accuracy):
    rng = np.random.default_rng(0)
    costs = {"brier": 2 * np.array([(1 - confidence) ** 2, confidence**2])}
    costs["nll"] = -np.log([confidence, 1 - confidence])
    covered = dict.fromkeys(costs, 0)
    for _ in range(200):
        total = metrics.summary(*confident(n, confidence, rng.binomial(n, 1 - accuracy)))
        for name, (right, wrong) in costs.items():
            low, high = total.interval(name)[1:]
            covered[name] += low <= accuracy * right + (1 - accuracy) * wrong <= high
    assert min(covered.values()) >= 181


@pytest.mark.parametrize(("n", "level"), [(20, 0.95), (100, 0.8), (300, 0.99)])
def test_the_interval_of_a_share_covers_every_share(n, level):
    found = [metrics.clopper_pearson(count, n=n, level=level) for count in range(n + 1)]
    assert (found[0].low, found[n].high) == (0, 1)
    ends = np.array([each[1:] for each in found])
    # Least just beyond an end, and near 0 and 1.
    shares = np.concatenate([ends.ravel() + 1e-9, ends.ravel() - 1e-9, np.logspace(-4, 0, 50)])
    shares = shares[(shares > 0) & (shares < 1), None]
    within = (ends[:, 0] <= shares) & (shares <= ends[:, 1])
    covered = (binom.pmf(np.arange(n + 1), n, shares) * within).sum(axis=1)
    assert level <= covered.min() < level + 0.02


def test_a_count_is_of_so_many():
    for count in (-1, 51):
        with pytest.raises(ValueError, match=f"expected count .* got {count}"):
            metrics.clopper_pearson(count, n=50)


def test_bad_figures_are_refused():
    total = metrics.summary(*data())
    with pytest.raises(ValueError, match=r"expected figure to be one of 'accuracy', .* got 'aurc'"):
        total.interval("aurc")
    with pytest.raises(ValueError, match="expected level"):
        total.interval("nll", level=1)
    empty = metrics.Summary(
        metrics.ReliabilityBins(np.linspace(0, 1, 3), *np.zeros((3, 2), dtype=np.int64)),
        np.zeros(6),
    )
    for name in ("nll", "ece"):
        with pytest.raises(ValueError, match=r"expected a (table|summary) of one prediction"):
            empty.interval(name)
