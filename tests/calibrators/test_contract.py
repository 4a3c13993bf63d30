"""What holds for every calibrator, one table over all of them."""

import dataclasses
import importlib.util
import inspect
import io
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch

from advcal import attacks, calibrators, metrics

spec = importlib.util.spec_from_file_location("cases", Path(__file__).with_name("cases.py"))
cases = importlib.util.module_from_spec(spec)
spec.loader.exec_module(cases)
CASES, bits, data, nll = cases.CASES, cases.bits, cases.data, cases.nll
pytestmark = [pytest.mark.filterwarnings(f"ignore:{harm}") for harm in cases.HARMS]

# A prior and the mean are over all rows, those that say nothing too.
SUMS = (calibrators.fit_beta, calibrators.fit_quadratic, calibrators.fit_spline)
# Of a probability at an edge of two bins, the right-closed one has it.
STEPS = (calibrators.fit_histogram, CASES["histogram, quantile"].fit)

every_case = pytest.mark.parametrize("case", CASES.values(), ids=CASES)
every_fit = pytest.mark.parametrize(
    "fit", [getattr(calibrators, name) for name in calibrators.__all__ if name.startswith("fit_")]
)


@pytest.fixture(scope="module")
def fitted():
    """Fit each calibrator once."""
    return {id(case): case.fit(*data(case)) for case in CASES.values()}


def test_every_fit_is_here_and_of_one_form():
    fits = {getattr(calibrators, n) for n in calibrators.__all__ if n.startswith("fit_")}
    found = {c.fit.func if isinstance(c.fit, partial) else c.fit for c in CASES.values()}
    assert found - {cases.best} == fits - {calibrators.fit_best}
    for fit in fits:
        arguments = list(inspect.signature(fit).parameters.values())
        assert [argument.name for argument in arguments[:2]] == ["logits", "labels"]
        assert all(argument.default is not argument.empty for argument in arguments[2:])


@every_case
@pytest.mark.parametrize(
    "dtype", [torch.float64, torch.float32, torch.bfloat16, torch.float16], ids=str
)
def test_probabilities_of_the_shape_and_dtype_of_the_logits(case, fitted, dtype):
    logits = data(case, n=50, seed=1)[0].to(dtype)
    probs = fitted[id(case)](logits)
    log_probs = fitted[id(case)].log_probs(logits)
    assert probs.shape == log_probs.shape == logits.shape
    assert probs.dtype == log_probs.dtype == dtype
    assert (probs >= 0).all()
    tolerance = 4 * torch.finfo(dtype).eps
    sums = probs.double().sum(dim=1)
    torch.testing.assert_close(sums, torch.ones(50).double(), rtol=0, atol=tolerance)
    torch.testing.assert_close(log_probs.exp(), probs, rtol=8 * tolerance, atol=tolerance)


@every_case
def test_each_row_is_calibrated_by_itself(case, fitted):
    logits = data(case, n=20, seed=2)[0]
    rows = [fitted[id(case)](row[None]) for row in logits]
    torch.testing.assert_close(torch.cat(rows), fitted[id(case)](logits), rtol=1e-13, atol=1e-15)


@every_case
def test_predictions_stay_where_that_is_said(case, fitted):
    logits = data(case, n=1000, seed=3)[0]
    same = fitted[id(case)](logits).argmax(dim=1) == logits.argmax(dim=1)
    assert bool(same.all()) or not case.keeps_order


@every_case
@pytest.mark.parametrize("temperature", [0.3, 1.0, 3.0])
def test_the_fit_is_never_worse_than_the_softmax(case, temperature):
    if case.never_worse:
        logits, labels = data(case, n=80, temperature=temperature, seed=4)
        after, before = (
            nll(case.fit(logits, labels)(logits), labels),
            nll(logits.softmax(1), labels),
        )
        assert after <= before + 1e-12


@every_case
def test_the_fit_does_not_depend_on_the_order_of_the_examples(case, fitted):
    logits, labels = data(case)
    order = torch.randperm(len(labels), generator=torch.Generator().manual_seed(0))
    again = case.fit(logits[order], labels[order])
    torch.testing.assert_close(again(logits), fitted[id(case)](logits), rtol=1e-5, atol=1e-7)


@every_case
def test_the_fit_is_deterministic_and_leaves_everything_alone(case, fitted):
    logits, labels = data(case)
    before, state = (logits.clone(), labels.clone()), torch.get_rng_state()
    again = case.fit(logits.clone().requires_grad_(), labels.int())
    assert bits(again) == bits(fitted[id(case)])
    assert torch.equal(logits, before[0])
    assert torch.equal(labels, before[1])
    assert torch.equal(torch.get_rng_state(), state)
    with pytest.raises(dataclasses.FrozenInstanceError):
        again.n_classes = 3


@every_case
def test_saved_and_loaded_it_is_the_same_to_the_last_bit(case, fitted, tmp_path):
    calibrator, file = fitted[id(case)], io.BytesIO()
    calibrators.save(calibrator, file)
    file.seek(0)
    calibrators.save(calibrator, tmp_path / "calibrator")
    logits = data(case, seed=5)[0]
    for found in (calibrators.load(file), calibrators.load(tmp_path / "calibrator")):
        assert type(found) is type(calibrator)
        assert bits(found) == bits(calibrator)
        assert torch.equal(found(logits), calibrator(logits))


@every_case
def test_gradients_flow_through_the_smooth_ones(case, fitted):
    logits = data(case, n=5, seed=6)[0].requires_grad_()
    if case.smooth:
        assert torch.autograd.gradcheck(fitted[id(case)], logits)
        assert torch.autograd.gradcheck(fitted[id(case)].log_probs, logits)
    (gradient,) = torch.autograd.grad(fitted[id(case)](logits)[:, 0].sum(), logits)
    assert gradient.isfinite().all()


@every_case
def test_fitted_in_inference_mode_it_can_be_attacked_through(case):
    with torch.inference_mode():
        calibrator = case.fit(*data(case))
    logits = data(case, n=3)[0].requires_grad_()
    assert torch.autograd.grad(calibrator(logits)[:, 0].sum(), logits)[0].isfinite().all()


@every_case
@pytest.mark.filterwarnings("ignore:expected labels of which some contradict")
def test_one_example_and_equal_logits_are_no_trouble(case):
    n_classes = 2 if case.binary else 4
    for logits in (torch.zeros(1, n_classes), torch.ones(3, n_classes), torch.eye(n_classes)):
        calibrator = case.fit(logits, torch.arange(len(logits)) % n_classes)
        assert calibrator(logits).isfinite().all()


BAD = {
    "lists": (lambda z, y: (z.tolist(), y), TypeError, "expected logits as a torch.Tensor or a"),
    "two kinds": (
        lambda z, y: (z.numpy(), y),
        TypeError,
        "expected labels as a numpy.ndarray",
    ),
    "integers": (lambda z, y: (z.long(), y), TypeError, "expected logits of a floating dtype"),
    "one dimension": (lambda z, y: (z[0], y), ValueError, "expected logits of shape"),
    "one class": (lambda z, y: (z[:, :1], y), ValueError, "expected logits of shape"),
    "empty": (lambda z, y: (z[:0], y[:0]), ValueError, "expected logits of shape"),
    "NaN": (lambda z, y: (z * torch.nan, y), ValueError, "expected logits that are finite, or"),
    "infinite": (lambda z, y: (-z.log(), y), ValueError, "expected logits that are finite, or"),
    "all masked": (lambda z, y: (z - torch.inf, y), ValueError, "expected logits that are finite"),
    "a masked label": (
        lambda z, y: (z.log(), 1 - y),
        ValueError,
        "expected labels of classes that",
    ),
    "labels as floats": (lambda z, y: (z, y.double()), TypeError, "expected labels of an integer"),
    "a label too many": (lambda z, y: (z[1:], y), ValueError, "expected labels of shape"),
    "a label too high": (lambda z, y: (z, y + 2), ValueError, "expected labels from 0 to 1"),
    "soft labels": (lambda z, y: (z, z.softmax(1)), TypeError, "expected labels of an integer"),
}


@every_fit
@pytest.mark.parametrize(("spoil", "error", "message"), BAD.values(), ids=BAD)
def test_bad_data_are_refused(fit, spoil, error, message):
    logits, labels = torch.eye(2).double(), torch.tensor([0, 1])
    with pytest.raises(error, match=message):
        fit(*spoil(logits, labels))


@every_case
@pytest.mark.parametrize("masked", [0, 2, 4])
def test_a_masked_class_is_as_if_sliced_off(case, masked):
    logits, labels = data(case, n=120)
    if case.binary:
        # A row of which one class is masked says nothing and is sure.
        more = torch.tensor([[-torch.inf, 1.0], [2.0, -torch.inf]]).double()
        with_them = case.fit(torch.cat([logits, more]), torch.cat([labels, torch.tensor([1, 0])]))
        if case.fit not in SUMS:
            torch.testing.assert_close(with_them(logits), case.fit(logits, labels)(logits))
        assert with_them(more).tolist() == [[0, 1], [1, 0]]
        assert with_them.log_probs(more).tolist() == [[-torch.inf, 0], [0, -torch.inf]]
        return
    kept = [k for k in range(5) if k != masked]
    wide = torch.full((len(logits), 5), -torch.inf, dtype=torch.float64)
    wide[:, kept] = logits
    calibrator, sliced = case.fit(wide, torch.tensor(kept)[labels]), case.fit(logits, labels)
    for call, wanted in ((calibrator, sliced), (calibrator.log_probs, sliced.log_probs)):
        torch.testing.assert_close(call(wide)[:, kept], wanted(logits), rtol=1e-6, atol=1e-9)
    assert (calibrator(wide)[:, masked] == 0).all()
    leaf = wide.clone().requires_grad_()
    (gradient,) = torch.autograd.grad(calibrator.log_probs(leaf)[:, kept[0]].sum(), leaf)
    assert gradient.isfinite().all()


@every_case
def test_rows_masked_in_their_own_ways_have_probabilities(case):
    logits, labels = data(case, n=150)
    if case.binary:
        return
    generator = torch.Generator().manual_seed(0)
    drawn = torch.rand(logits.shape, generator=generator) < 0.3
    drawn = drawn.scatter(1, labels[:, None], False)
    logits = logits.masked_fill(drawn, -torch.inf)
    calibrator = case.fit(logits, labels)
    probs = calibrator(logits)
    assert (probs[drawn] == 0).all()
    torch.testing.assert_close(probs.sum(dim=1), torch.ones(150).double())
    assert (calibrator.log_probs(logits)[drawn] == -torch.inf).all()
    assert calibrator(logits.nan_to_num(neginf=0.0)).isfinite().all()  # none masked any more


@every_case
def test_two_of_three_are_as_two(case):
    logits, labels = data(case, n=120)
    if case.binary:
        wide = torch.stack([logits[:, 0], torch.full((120,), -torch.inf), logits[:, 1]], dim=1)
        if case.fit is calibrators.fit_platt:
            return
        found = case.fit(wide.double(), 2 * labels)(wide.double())[:, [0, 2]]
        torch.testing.assert_close(found, case.fit(logits, labels)(logits), rtol=1e-6, atol=1e-9)


@every_case
def test_arrays_are_welcome_and_come_back(case, fitted):
    logits, labels = data(case)
    calibrator = case.fit(logits.numpy(), labels.numpy())
    assert bits(calibrator) == bits(fitted[id(case)])
    for call in (calibrator, calibrator.log_probs):
        found = call(logits.numpy().astype("float32"))
        assert isinstance(found, np.ndarray)
        assert found.dtype == np.float32
        assert np.array_equal(found, call(logits.float()).numpy())


@every_case
def test_of_two_classes_none_is_the_positive_one(case):
    if case.binary:
        logits, labels = data(case)
        probs = case.fit(logits, labels)(logits)
        exchanged = case.fit(logits.flip(1), 1 - labels)(logits.flip(1))
        if case.fit not in STEPS:
            torch.testing.assert_close(exchanged.flip(1), probs, rtol=1e-5, atol=1e-7)


@every_case
def test_bad_logits_are_refused(case, fitted):
    calibrator, logits = fitted[id(case)], data(case, n=3)[0]
    for call in (calibrator, calibrator.log_probs):
        with pytest.raises(TypeError, match=r"expected logits as a torch\.Tensor or .*, got list"):
            call(logits.tolist())
        with pytest.raises(ValueError, match=r"expected logits of \d classes, got"):
            call(torch.cat([logits, logits], dim=1))
        with pytest.raises(ValueError, match="expected logits that are finite, or minus infinity"):
            call(logits / 0)


def test_bad_options_are_refused():
    logits, labels = torch.eye(2), torch.tensor([0, 1])
    for fit in (calibrators.fit_matrix, calibrators.fit_dirichlet):
        for name in ("l2_off_diagonal", "l2_bias"):
            with pytest.raises(ValueError, match=f"expected {name} >= 0, got -1"):
                fit(logits, labels, **{name: -1})
    with pytest.raises(ValueError, match="expected n_bins >= 1, got 0"):
        calibrators.fit_histogram(logits, labels, n_bins=0)
    with pytest.raises(ValueError, match="expected binning to be one of"):
        calibrators.fit_histogram(logits, labels, binning="width")
    with pytest.raises(ValueError, match="expected logits of 2 classes, got"):
        calibrators.fit_platt(torch.eye(3), torch.tensor([0, 1, 2]))


def test_an_attack_goes_through_a_calibrated_model():
    generator = torch.Generator().manual_seed(0)
    weight = torch.randn(6, 4, generator=generator)
    inputs = torch.rand(50, 6, generator=generator)
    labels = (inputs @ weight).argmax(dim=1)
    calibrator = calibrators.fit_matrix(*data(CASES["matrix"]))

    def model(points):
        return calibrator.log_probs(points @ weight)

    found = attacks.pgd(model, inputs, labels, eps=0.1, steps=5)
    assert metrics.accuracy(model(found).exp(), labels) < metrics.accuracy(
        model(inputs).exp(), labels
    )
