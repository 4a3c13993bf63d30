"""Models that return probabilities are warned of, once; stochastic models are averaged."""

import warnings
from concurrent.futures import ThreadPoolExecutor
from functools import partial

import pytest
import torch
from torch import nn

from advcal.attacks import expectation, fgsm, pgd, worst_case
from advcal.evaluation import diagnose, evaluate
from tests.attacks.cases import (
    CALLING,
    Counted,
    delicate,
    examples,
    linear,
    mlp,
    rows,
    seeded,
    state,
)

INPUTS, LABELS = examples(12)
MATCH = r"expected logits, got .* >= 0 and sum to 1, .*; return logits, or pass lambda"
SOFT = nn.Sequential(mlp(), nn.Softmax(dim=1))


@rows(CALLING)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_probabilities_are_warned_of_once_and_at_the_line_of_the_caller(row, dtype):
    attack, model = row.make(generator=seeded()), mlp(dtype=dtype)
    inputs = INPUTS.to(dtype)
    with pytest.warns(UserWarning, match=MATCH) as caught:
        attack(lambda x: model(x).softmax(dim=1), inputs, LABELS)
    # `batched` calls its attack once for each part.
    assert len(caught) == 1 or len(caught) == len(INPUTS) // 2
    assert {warning.filename for warning in caught} == {__file__}


@rows(CALLING)
@pytest.mark.parametrize("name", ["logits", "log-probabilities", "positive", "one-hot", "a row"])
def test_other_outputs_are_not_warned_of(row, name):
    outputs = {
        "logits": lambda x: mlp()(x),
        "log-probabilities": lambda x: SOFT(x).log(),
        "positive": lambda x: 2 * SOFT(x),
        "one-hot": lambda x: mlp()(x) * 0 + torch.eye(3)[0],
        "a row": lambda x: torch.where(torch.arange(len(x))[:, None] > 0, 2, 1) * SOFT(x),
    }
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        row.make(generator=seeded())(outputs[name], INPUTS[:4], LABELS[:4])


def test_every_call_warns_anew_and_an_evaluation_once():
    attack = worst_case(partial(fgsm, eps=0.1), partial(pgd, eps=0.1))
    for _ in range(2):
        with pytest.warns(UserWarning, match=MATCH) as caught:
            attack(SOFT, INPUTS, LABELS)
        assert len(caught) == 1
    with pytest.warns(UserWarning, match=MATCH) as caught:
        evaluate(SOFT, [(INPUTS, LABELS)] * 3, attack)
    assert len(caught) == 1


def test_a_failure_and_a_thread_leave_nothing_behind():
    with pytest.raises(ValueError, match="NaN at example 0"):
        fgsm(lambda x: SOFT(x) * torch.nan, INPUTS, LABELS, eps=0.1)
    with pytest.warns(UserWarning, match=MATCH):
        fgsm(SOFT, INPUTS, LABELS, eps=0.1)
    with ThreadPoolExecutor(1) as pool, pytest.warns(UserWarning, match=MATCH):
        pool.submit(fgsm, SOFT, INPUTS, LABELS, eps=0.1).result()


def test_a_diagnosis_says_it_without_a_warning():
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        found = diagnose(SOFT, [(INPUTS, LABELS)], eps=0.1, steps=3)
    assert found["probabilities"].verdict == "fail"


# --- expectation over transformation ---------------------------------------------------------


class Noisy(nn.Module):
    """A linear model that sees each input through noise, of a generator of its own."""

    def __init__(self, size=1.0):
        super().__init__()
        self.layers, self.size, self.generator = linear(), size, seeded(1)

    def forward(self, inputs):
        noise = torch.randn(inputs.shape, generator=self.generator)
        return 3 * torch.tanh(3 * self.layers(inputs + self.size * noise))


def test_the_mean_of_probabilities():
    model = Noisy()
    logits = expectation(model, n=5)(INPUTS)
    again = Noisy()
    probs = torch.stack([again(INPUTS).softmax(dim=1) for _ in range(5)]).mean(dim=0)
    torch.testing.assert_close(logits.exp(), probs)


def test_of_a_deterministic_model_it_is_the_model():
    model = mlp()
    torch.testing.assert_close(expectation(model, n=3)(INPUTS), model(INPUTS).log_softmax(dim=1))
    half = mlp(dtype=torch.bfloat16)
    assert expectation(half, n=2)(INPUTS.bfloat16()).dtype == torch.float32


def test_passes_are_counted_and_the_model_is_guarded():
    counted = Counted(mlp())
    fgsm(expectation(counted, n=4), INPUTS, LABELS, eps=0.1)
    assert (counted.forwards, counted.backwards) == (4, 4)
    model = delicate()
    before, random = state(model), torch.get_rng_state()
    wrapped = expectation(model, n=2)
    pgd(wrapped, INPUTS, LABELS, eps=0.1, steps=2)
    assert state(model) == before
    assert torch.equal(torch.get_rng_state(), random)


def test_averaging_lowers_the_accuracy_of_a_stochastic_model():
    inputs, _ = examples(128, seed=3)
    labels = linear()(inputs).argmax(dim=1)
    attack = partial(pgd, eps=0.1, steps=10, random_start=False)

    def accuracy(n):
        points = attack(expectation(Noisy(), n=n), inputs, labels)
        model = Noisy()
        correct = [(model(points).argmax(dim=1) == labels).double().mean() for _ in range(100)]
        return float(torch.stack(correct).mean())

    assert accuracy(32) < accuracy(1) - 0.02


def test_an_attack_through_a_calibrator():
    model = linear(dtype=torch.float64)
    inputs, labels = INPUTS.double(), LABELS
    attack = partial(pgd, eps=0.2, steps=20, random_start=False)
    through = attack(lambda x: model(x) / 2.5, inputs, labels)
    accuracy = {
        name: (model(points).argmax(dim=1) == labels).double().mean()
        for name, points in [("clean", inputs), ("through", through)]
    }
    assert accuracy["through"] < accuracy["clean"]
    # A temperature changes no boundary: the same examples are fooled.
    bare = attack(model, inputs, labels)
    assert torch.equal(model(through).argmax(dim=1) == labels, model(bare).argmax(dim=1) == labels)


@pytest.mark.parametrize(
    ("model", "n", "error", "match"),
    [
        (3, 2, TypeError, "model as a callable, got int"),
        (linear(), 0, ValueError, "n >= 1, got 0"),
        (linear(), 1.5, TypeError, "n as an int, got float"),
    ],
)
def test_bad_arguments_are_refused(model, n, error, match):
    with pytest.raises(error, match=f"expected {match}"):
        expectation(model, n=n)
