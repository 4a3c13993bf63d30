"""No calibrator does harm to others without a word: small grids of what all must hold."""

import importlib.util
import warnings
from functools import partial
from pathlib import Path

import pytest
import torch

from advcal import calibrators

spec = importlib.util.spec_from_file_location("cases", Path(__file__).with_name("cases.py"))
cases = importlib.util.module_from_spec(spec)
spec.loader.exec_module(cases)
draw, nll = cases.draw, cases.nll

FITS = {name: getattr(calibrators, name) for name in calibrators.__all__ if name.startswith("fit_")}
FITS["fit_best"] = cases.best
FITS["fit_temperature"] = partial(calibrators.fit_temperature, prior=0.5)
SAFE = ("fit_best", "fit_temperature")


def quiet_harm(fit, n, n_classes, temperature):
    """Return what the NLL of others gains by fits that say nothing, the mean of a few."""
    costs = []
    for seed in range(2):
        logits, labels = draw(n + 2000, n_classes, temperature, seed=seed)
        with warnings.catch_warnings(record=True) as said:
            warnings.simplefilter("always")
            calibrator = fit(logits[:n], labels[:n])
        if not any("fit_" in str(each.message) for each in said):
            before = nll(logits[n:].softmax(dim=1), labels[n:])
            costs.append(nll(calibrator(logits[n:]), labels[n:]) - before)
    return sum(costs) / len(costs) if costs else None


@pytest.mark.parametrize(
    ("n", "n_classes", "temperature"),
    [
        *[(20, 2, 1.0), (20, 10, 1.0), (20, 10, 1.7), (200, 4, 1.0), (1000, 2, 1.0)],
        pytest.param(300, 100, 1.0, marks=pytest.mark.slow),
    ],
)
def test_what_does_harm_says_so(n, n_classes, temperature):
    fits = {name: fit for name, fit in FITS.items() if n_classes == 2 or name != "fit_platt"}
    costs = {name: quiet_harm(fit, n, n_classes, temperature) for name, fit in fits.items()}
    most = 0.05 + 1 / n
    assert {name: cost for name, cost in costs.items() if cost is not None and cost > most} == {}
    assert all(costs[name] is not None for name in SAFE)


def test_what_helps_says_nothing():
    logits, labels = draw(3000, 4, temperature=3.0)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for name in ("beta", "quadratic", "spline", "venn_abers", "svs", "sms", "vector", "matrix"):
            FITS[f"fit_{name}"](logits, labels)


def test_examples_left_out_do_not_reward_a_fit_of_the_shares_of_the_classes():
    # Ten examples of each class: with as many of each in all folds, fit_sms would look best.
    generator = torch.Generator().manual_seed(0)
    logits = 3 * torch.randn(400, 40, generator=generator)
    labels = torch.multinomial(logits.softmax(dim=1), 1, generator=generator)[:, 0]
    losses = calibrators.fit_best(logits, labels).losses
    assert losses["sms"] > losses["svs"] > losses["none"]
