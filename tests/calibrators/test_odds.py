"""Beta calibration, quadratic scaling and splines are at their optima, rise, and help."""

from functools import partial

import numpy as np
import pytest
import torch
from scipy import optimize
from scipy.special import expit, log_expit
from sklearn.linear_model import LogisticRegression

from advcal import calibrators, metrics
from advcal.calibrators import _odds

pytestmark = pytest.mark.filterwarnings("ignore:expected enough examples to mend more")

FITS = {
    "beta": calibrators.fit_beta,
    "quadratic": calibrators.fit_quadratic,
    "spline": calibrators.fit_spline,
}
every_fit = pytest.mark.parametrize("fit", FITS.values(), ids=FITS)


def draw(n=400, k=2, seed=0, bend=(0.4, 1.5), offset=0.5):
    """Draw logits, and labels from log-odds with a slope below 0 and another above."""
    generator = torch.Generator().manual_seed(seed)
    logits = 2 * torch.randn(n, k, generator=generator, dtype=torch.float64)
    if k == 2:
        f = logits[:, 1] - logits[:, 0]
        p = torch.sigmoid(torch.where(f < 0, bend[0], bend[1]) * f + offset)
        probs = torch.stack([1 - p, p], dim=1)
    else:
        scores = logits * torch.linspace(*bend, k) + offset * torch.linspace(-1, 1, k)
        probs = scores.softmax(dim=1)
    return logits, torch.multinomial(probs, 1, generator=generator)[:, 0]


def nll(calibrator, logits, labels):
    return float(metrics.nll(calibrator.log_probs(logits), labels, from_logits=True))


def features(calibrator, f):
    """Compute what the slopes multiply from the definition, by quadrature for knots."""
    if calibrator.knots is None:
        return np.stack([log_expit(f) + np.log(2), -log_expit(-f) - np.log(2)], axis=1)
    knots = calibrator.knots[0].numpy()
    hats = np.eye(len(knots))

    def integral(end, hat):
        t = np.linspace(0, end, 20_001)
        return np.trapezoid(np.interp(t, knots, hat), t)

    return np.array([[integral(end, hat) for hat in hats] for end in f])


@every_fit
@pytest.mark.parametrize("strength", [0.0, 0.3, 10.0])
def test_one_curve_is_at_its_optimum(fit, strength):
    logits, labels = draw(60)
    found = fit(logits, labels, strength=strength)
    f = (logits[:, 1] - logits[:, 0]).numpy() / found.temperature
    x, y = features(found, f), labels.numpy()

    def objective(theta):
        s = x @ theta[:-1] + theta[-1]
        penalty = 2 * strength * (((theta[:-1] - 1) ** 2).sum() + theta[-1] ** 2)
        return float(-(y * log_expit(s) + (1 - y) * log_expit(-s)).sum() + penalty)

    ours = np.append(found.slopes[0].numpy(), float(found.bias[0]))
    bounds = [(0, None)] * x.shape[1] + [(None, None)]
    best = optimize.minimize(objective, ours, bounds=bounds, options={"ftol": 1e-14})
    assert objective(ours) <= best.fun + 1e-6
    s = x @ ours[:-1] + ours[-1]
    np.testing.assert_allclose(found(logits)[:, 1], expit(s), atol=1e-6)
    prior = calibrators.fit_temperature(logits, labels, prior=0.5)
    assert found.temperature == prior.temperature


def test_beta_without_a_prior_is_logistic_regression_on_two_logarithms():
    logits, labels = draw(bend=(0.8, 1.2))
    f = (logits[:, 1] - logits[:, 0]).numpy()
    x = np.stack([log_expit(f), -log_expit(-f)], axis=1)
    theirs = LogisticRegression(C=np.inf, tol=1e-10, max_iter=10_000).fit(x, labels)
    assert (theirs.coef_ > 0).all()
    found = calibrators.fit_beta(logits, labels, strength=0)
    # Of a temperature first the two logarithms are others, but the family is as good.
    assert (
        abs(
            nll(found, logits, labels)
            + np.log(theirs.predict_proba(x))[np.arange(len(x)), labels].mean()
        )
        < 2e-3
    )


def test_quadratic_without_a_prior_is_logistic_regression_on_a_square():
    logits, labels = draw(n=2000, bend=(0.9, 1.1))
    f = (logits[:, 1] - logits[:, 0]).numpy()
    x = np.stack([f, f**2], axis=1)
    theirs = LogisticRegression(C=np.inf, tol=1e-10, max_iter=10_000).fit(x, labels)
    found = calibrators.fit_quadratic(logits, labels, strength=0)
    assert (found.slopes > 0).all()  # so the parabola rises on the data
    np.testing.assert_allclose(found(logits), theirs.predict_proba(x), atol=1e-5)


@every_fit
def test_the_curves_rise_everywhere_even_against_the_labels(fit):
    f = torch.linspace(-60, 60, 1001).double()
    grid = torch.stack([-f / 2, f / 2], dim=1)
    for seed in range(3):
        logits, labels = draw(80, seed=seed)
        for y in (labels, 1 - labels):
            found = fit(logits, y, strength=0.01)
            assert (found.slopes >= 0).all()
            assert (found(grid)[:, 1].diff() >= -1e-15).all()


@every_fit
@pytest.mark.parametrize("k", [2, 5])
def test_they_mend_what_a_temperature_cannot(fit, k):
    others = draw(5000, k, seed=99)
    tempered = calibrators.fit_temperature(*draw(1000, k), prior=0.5)
    assert nll(fit(*draw(1000, k)), *others) < nll(tempered, *others) - 0.01


@every_fit
def test_a_great_strength_leaves_the_temperature(fit):
    logits, labels = draw(200, 4)
    tempered = calibrators.fit_temperature(logits, labels, prior=0.5)
    torch.testing.assert_close(
        fit(logits, labels, strength=1e8)(logits), tempered(logits), rtol=1e-4, atol=1e-6
    )


@every_fit
def test_cross_validation_chooses_among_strengths(fit):
    logits, labels = draw(300)
    chosen = fit(logits, labels, strength=None)
    each = [fit(logits, labels, strength=c) for c in (0.3, 1.0, 3.0, 10.0, 100.0)]
    assert any(torch.equal(chosen.slopes, found.slopes) for found in each)


def test_log_odds_are_exact_far_out():
    z = torch.tensor([[800.0, 0.0, -1.0], [0.0, -1e-3, -700.0]], dtype=torch.float64)
    odds, valid = _odds.log_odds(z)
    assert valid.all()
    wanted = [800 - np.logaddexp(0, -1), -np.logaddexp(800, -1), -1 - np.logaddexp(800, 0)]
    np.testing.assert_allclose(odds[0], wanted, rtol=1e-14)
    np.testing.assert_allclose(odds[1], [1e-3, -1e-3, -700 - np.logaddexp(0, -1e-3)], rtol=1e-11)


def test_many_classes_are_fitted_in_parts():
    logits, labels = draw(400, 30)
    whole = calibrators.fit_spline(logits, labels)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("advcal.calibrators._beta._ENTRIES", 400 * 6 * 7)
        parts = calibrators.fit_spline(logits, labels)
    torch.testing.assert_close(parts.slopes, whole.slopes, rtol=1e-6, atol=1e-8)


@every_fit
@pytest.mark.parametrize("far", [1e14, 3e38])
def test_equal_logits_far_apart_are_no_trouble(fit, far):
    logits = torch.tensor([[0.0, 1.0, -far]] * 5)
    found = fit(logits, torch.arange(5) % 2)
    torch.testing.assert_close(found(logits).sum(dim=1), torch.ones(5))


@every_fit
def test_equal_logits_and_one_label_are_no_trouble(fit):
    for labels in (torch.zeros(5, dtype=torch.int64), torch.arange(5) % 2):
        found = fit(torch.zeros(5, 2), labels)
        assert found(torch.tensor([[3.0, -3.0]])).isfinite().all()
    partial(fit, strength=0)(torch.zeros(5, 2), torch.arange(5) % 2)
