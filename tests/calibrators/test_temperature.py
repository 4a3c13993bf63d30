"""Temperature scaling is at the optimum, from any scale."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import optimize
from sklearn.base import BaseEstimator, ClassifierMixin
from sklearn.calibration import CalibratedClassifierCV

from advcal.calibrators import fit_temperature

# The optimum is at no temperature in some of these, of which fit_temperature warns.
pytestmark = pytest.mark.filterwarnings("ignore:expected labels of which some contradict")


def loss(logits, labels, temperature):
    gaps = (logits - logits.amax(dim=1, keepdim=True)) / temperature
    return float(-gaps.log_softmax(dim=1).gather(1, labels[:, None]).mean())


def optimum(logits, labels):
    """Minimise over log T by grid and golden section, to 1e-12."""
    scale = float(logits.std())
    grid = np.linspace(-12, 12, 241)
    values = [loss(logits, labels, scale * math.exp(u)) for u in grid]
    best = int(np.argmin(values))
    ends = (grid[max(best - 1, 0)], grid[min(best + 1, 240)])
    found = optimize.minimize_scalar(
        lambda u: loss(logits, labels, scale * math.exp(u)),
        bounds=ends,
        method="bounded",
        options={"xatol": 1e-12},
    )
    return min(found.fun, *values)


@settings(max_examples=60, deadline=None)
@given(
    seed=st.integers(0, 10**6),
    n=st.integers(2, 60),
    n_classes=st.integers(2, 6),
    scale=st.integers(-30, 30),
    heavy=st.booleans(),
    true=st.sampled_from([0.05, 0.37, 1.48, 2.96, 20.0]),
)
def test_the_nll_is_at_its_optimum(seed, n, n_classes, scale, heavy, true):
    rng = np.random.default_rng(seed)
    draws = rng.standard_t(1, (n, n_classes)) if heavy else rng.standard_normal((n, n_classes))
    logits = torch.tensor(draws)
    labels = torch.multinomial(
        (logits / true).softmax(dim=1), 1, generator=torch.Generator().manual_seed(seed)
    )[:, 0]
    logits = logits * 10.0**scale
    temperature = fit_temperature(logits, labels).temperature
    assert 0 < temperature < math.inf
    assert loss(logits, labels, temperature) <= optimum(logits, labels) + 1e-10


def test_a_known_optimum():
    logits = torch.tensor([[5.0, 0.0], [5.0, 0.0], [0.0, 5.0], [0.0, 5.0]]).double()
    fitted = fit_temperature(logits, torch.tensor([0, 0, 1, 0]))
    assert fitted.temperature == pytest.approx(5 / math.log(3), rel=1e-9)
    torch.testing.assert_close(fitted(logits)[0], torch.tensor([0.75, 0.25]).double())


def test_the_temperature_that_made_the_labels_comes_back():
    generator = torch.Generator().manual_seed(0)
    logits = 4 * torch.randn(20_000, 5, generator=generator)
    labels = torch.multinomial((logits / 2.5).softmax(dim=1), 1, generator=generator)[:, 0]
    assert fit_temperature(logits, labels).temperature == pytest.approx(2.5, rel=0.03)


@pytest.mark.parametrize("scale", [1e-30, 1.0, 1e30])
def test_separable_data_give_a_small_temperature_at_the_infimum(scale):
    logits = scale * torch.tensor([[3.0, 1.0, 0.0], [2.0, 5.0, 1.0], [4.0, 4.0, 0.0]]).double()
    labels = torch.tensor([0, 1, 1])
    fitted = fit_temperature(logits, labels)
    assert 0 < fitted.temperature < 0.1 * scale
    assert loss(logits, labels, fitted.temperature) <= math.log(2) / 3 + 1e-12
    assert fitted(logits).isfinite().all()


@pytest.mark.parametrize("scale", [1e-30, 1.0, 1e30])
def test_labels_against_the_logits_give_a_great_temperature_that_keeps_the_order(scale):
    logits = scale * torch.tensor([[3.0, 1.0, 0.0], [2.0, 5.0, 1.0]]).double()
    labels = torch.tensor([2, 0])
    fitted = fit_temperature(logits, labels)
    assert fitted.temperature > 1e5 * scale
    assert loss(logits, labels, fitted.temperature) <= math.log(3) + 1e-12
    assert torch.equal(fitted(logits).argmax(dim=1), logits.argmax(dim=1))


def test_equal_logits_give_one():
    assert fit_temperature(torch.full((3, 4), 7.0), torch.tensor([0, 1, 2])).temperature == 1


def test_many_rows_are_taken_in_parts():
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(700, 1000, generator=generator)
    labels = torch.multinomial(logits.softmax(dim=1), 1, generator=generator)[:, 0]
    once = fit_temperature(logits.double(), labels).temperature
    assert fit_temperature(logits, labels).temperature == pytest.approx(once, rel=1e-12)
    shifted = logits.double() + torch.arange(700)[:, None]
    assert fit_temperature(shifted, labels).temperature == pytest.approx(once, rel=1e-9)


class Logits(ClassifierMixin, BaseEstimator):
    """A classifier whose decision function are its inputs."""

    def fit(self, inputs, labels):
        self.classes_ = np.unique(labels)
        return self

    def decision_function(self, inputs):
        return inputs

    def predict(self, inputs):
        return self.classes_[inputs.argmax(axis=1)]


def test_parity_with_scikit_learn():
    generator = torch.Generator().manual_seed(1)
    logits = 3 * torch.randn(300, 3, generator=generator, dtype=torch.float64)
    labels = torch.multinomial((logits / 1.7).softmax(dim=1), 1, generator=generator)[:, 0]
    pytest.importorskip("sklearn", minversion="1.8")  # the first that scales temperatures
    from sklearn.frozen import FrozenEstimator

    model = FrozenEstimator(Logits().fit(logits.numpy(), labels.numpy()))
    theirs = CalibratedClassifierCV(model, method="temperature").fit(logits.numpy(), labels.numpy())
    ours = fit_temperature(logits, labels)(logits)
    np.testing.assert_allclose(ours, theirs.predict_proba(logits.numpy()), atol=1e-6)
