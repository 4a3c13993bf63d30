"""Few or one-sided examples, narrow dtypes, far logits, and probabilities taken for logits."""

import importlib.util
import math
import warnings
from pathlib import Path

import pytest
import torch

from advcal import calibrators, metrics

spec = importlib.util.spec_from_file_location("cases", Path(__file__).with_name("cases.py"))
cases = importlib.util.module_from_spec(spec)
spec.loader.exec_module(cases)
CASES, data, draw = cases.CASES, cases.data, cases.draw
pytestmark = [pytest.mark.filterwarnings(f"ignore:{harm}") for harm in cases.HARMS]

every_case = pytest.mark.parametrize("case", CASES.values(), ids=CASES)
ONE_SIDED = "expected labels of which some contradict the logits and most do not"


@every_case
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
def test_a_narrow_dtype_changes_no_prediction(case, dtype):
    calibrator = case.fit(*data(case, n=300))
    logits = data(case, n=4000, seed=1)[0].to(dtype)
    wide = calibrator(logits.double())
    for call in (calibrator, calibrator.log_probs):
        narrow = call(logits)
        assert narrow.dtype == dtype
        assert torch.equal(narrow.argmax(dim=1), wide.argmax(dim=1))
    torch.testing.assert_close(calibrator(logits).double(), wide, atol=0.01, rtol=0)


def test_a_temperature_against_the_labels_keeps_predictions_in_float32():
    logits = draw()[0].float()
    with pytest.warns(UserWarning, match=ONE_SIDED):
        calibrator = calibrators.fit_temperature(logits, logits.argmin(dim=1))
    assert torch.equal(calibrator(logits).argmax(dim=1), logits.argmax(dim=1))


@pytest.mark.parametrize(
    "fit", [calibrators.fit_temperature, calibrators.fit_ensemble, calibrators.fit_irm]
)
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
@pytest.mark.filterwarnings(f"ignore:{ONE_SIDED}", "ignore:expected examples of all labels")
def test_a_difference_that_is_lost_in_rounding_keeps_the_prediction(fit, dtype):
    logits = torch.tensor([[3.0, 3.0 + 1e-5, 0.0], [1.0, 0.0, 1.0 + 1e-6]], dtype=dtype)
    labels = torch.tensor([2, 1])
    for scale in (1.0, 1e-20):
        calibrator = fit(scale * logits, labels)
        for call in (calibrator, calibrator.log_probs):
            assert call(scale * logits).argmax(dim=1).tolist() == [1, 2]


@pytest.mark.parametrize("wrong", [True, False])
@pytest.mark.parametrize("scale", [1e-3, 1.0, 1e3])
def test_one_sided_labels_are_warned_of_and_a_prior_keeps_them_in_reach(wrong, scale):
    logits = scale * draw(n=10)[0]
    labels = logits.argmin(dim=1) if wrong else logits.argmax(dim=1)
    with pytest.warns(UserWarning, match=f"{ONE_SIDED}.*pass prior=0.5"):
        calibrators.fit_temperature(logits, labels)
    found = calibrators.fit_temperature(logits, labels, prior=0.5).temperature
    assert 1e-3 < found < 3e3
    assert (found > 1) == wrong


@pytest.mark.parametrize(("n", "n_classes"), [(60, 300), (20, 10)])
def test_scores_of_classes_with_few_examples_are_warned_of(n, n_classes):
    logits = 3 * torch.randn(n, n_classes, generator=torch.Generator().manual_seed(0))
    generator = torch.Generator().manual_seed(1)
    drawn = torch.multinomial(logits.softmax(dim=1), 1, generator=generator)[:, 0]
    with pytest.warns(UserWarning, match="enough examples to mend more.*fit_best"):
        calibrators.fit_class_temperature(logits, drawn)


def test_scores_of_classes_with_many_examples_are_not_warned_of():
    generator = torch.Generator().manual_seed(0)
    logits = 3 * torch.randn(2000, 4, generator=generator)
    labels = torch.multinomial((logits / 1.7).softmax(dim=1), 1, generator=generator)[:, 0]
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        calibrators.fit_class_temperature(logits, labels)


@pytest.mark.parametrize("prior", [0.1, 0.5, 2.0])
def test_the_prior_is_that_of_the_logarithm(prior):
    logits, labels = draw(n=30)
    found = calibrators.fit_temperature(logits, labels, prior=prior).temperature

    def objective(temperature):
        loss = float(metrics.nll(logits / temperature, labels, from_logits=True))
        return loss + math.log(temperature) ** 2 / (2 * len(labels) * prior**2)

    for factor in (0.9, 0.99, 1.01, 1.1):
        assert objective(found) < objective(found * factor)
    plain = calibrators.fit_temperature(logits, labels).temperature
    assert abs(math.log(found)) < abs(math.log(plain))
    weak = calibrators.fit_temperature(logits, labels, prior=1e4).temperature
    assert weak == pytest.approx(plain, rel=1e-6)
    with pytest.raises(ValueError, match="expected prior > 0, got 0"):
        calibrators.fit_temperature(logits, labels, prior=0)


def test_a_prior_costs_little_where_the_model_is_calibrated():
    costs = []
    for seed in range(40):
        logits, labels = draw(n=10, temperature=1.0, seed=seed)
        calibrator = calibrators.fit_temperature(logits, labels, prior=0.5)
        others, wanted = draw(n=2000, temperature=1.0, seed=1000 + seed)
        before = float(metrics.nll(others, wanted, from_logits=True))
        after = float(metrics.nll(calibrator.log_probs(others), wanted, from_logits=True))
        costs.append(after - before)
    assert sum(costs) / len(costs) < 0.1
    assert max(costs) < 0.5


@every_case
@pytest.mark.parametrize("far", [-30.0, -700.0, -1000.0])
def test_far_logits_still_sum_to_one(case, far):
    calibrator = case.fit(*data(case))
    n_classes = 2 if case.binary else 4
    logits = torch.tensor([[0.0, far, far - 1, far - 2][:n_classes]], dtype=torch.float64)
    for rows in (logits, logits.flip(1), logits - far):
        probs = calibrator(rows)
        assert float(probs.sum()) == pytest.approx(1, abs=1e-9)
        assert (probs >= 0).all()


@every_case
@pytest.mark.filterwarnings("ignore:expected the fit to end")
def test_probabilities_taken_for_logits_are_warned_of(case):
    logits, labels = data(case)
    with pytest.warns(UserWarning, match="expected logits, got rows that are not negative and sum"):
        case.fit(logits.softmax(dim=1), labels)


def test_metrics_warn_of_them_too():
    logits, labels = draw()
    for metric in (metrics.ece, metrics.nll, metrics.reliability_bins, metrics.brier):
        with pytest.warns(UserWarning, match="expected logits, got rows that are not negative"):
            metric(logits.softmax(dim=1), labels, from_logits=True)


def test_logits_whose_squares_are_no_numbers_are_refused():
    logits = torch.zeros(4, 3, dtype=torch.float64)
    logits[:, 2] = torch.finfo(torch.float64).min
    with pytest.raises(ValueError, match=r"or minus infinity for .*, got -1\.79769e\+308"):
        calibrators.fit_temperature(logits, torch.arange(4) % 2)
