"""The calibrators, what holds for which, and data to fit them to."""

from functools import partial
from typing import NamedTuple

import torch

from advcal import calibrators

# What a fit says of data too few for it; what it says it of is tested in test_harm.py.
HARMS = ("expected examples of all labels along", "expected enough examples to mend")


def best(logits, labels):
    return calibrators.fit_best(logits, labels).calibrator


class Case(NamedTuple):
    fit: object
    binary: bool = False  # of two classes only
    keeps_order: bool = False  # no prediction changes
    never_worse: bool = False  # the NLL on the data of the fit, than that of the softmax
    smooth: bool = True  # differentiable in the logits everywhere


CASES = {
    "temperature": Case(calibrators.fit_temperature, keeps_order=True, never_worse=True),
    "vector": Case(calibrators.fit_vector, never_worse=True),
    "matrix": Case(calibrators.fit_matrix, never_worse=True),
    "dirichlet": Case(calibrators.fit_dirichlet, never_worse=True),
    "svs": Case(calibrators.fit_svs, never_worse=True),
    "sms": Case(calibrators.fit_sms, never_worse=True),
    "best": Case(best),
    "beta": Case(calibrators.fit_beta, never_worse=True),
    "beta, binary": Case(calibrators.fit_beta, binary=True, never_worse=True),
    "quadratic": Case(calibrators.fit_quadratic, never_worse=True),
    "quadratic, binary": Case(calibrators.fit_quadratic, binary=True, never_worse=True),
    "spline": Case(calibrators.fit_spline, never_worse=True),
    "spline, binary": Case(calibrators.fit_spline, binary=True, never_worse=True),
    "venn_abers": Case(calibrators.fit_venn_abers, smooth=False),
    "venn_abers, binary": Case(calibrators.fit_venn_abers, binary=True, smooth=False),
    "ensemble": Case(calibrators.fit_ensemble, keeps_order=True, never_worse=True),
    "class_temperature": Case(calibrators.fit_class_temperature, never_worse=True),
    "irm": Case(calibrators.fit_irm, keeps_order=True, smooth=False),
    "irova": Case(calibrators.fit_irova, smooth=False),
    "platt": Case(calibrators.fit_platt, binary=True),
    "isotonic": Case(calibrators.fit_isotonic, smooth=False),
    "isotonic, binary": Case(calibrators.fit_isotonic, binary=True, smooth=False, never_worse=True),
    "histogram": Case(calibrators.fit_histogram, smooth=False),
    "histogram, quantile": Case(
        partial(calibrators.fit_histogram, binning="quantile"), binary=True, smooth=False
    ),
}


def draw(n=200, n_classes=4, temperature=1.7, seed=0):
    """Draw float64 logits, and labels from their softmax at a temperature."""
    generator = torch.Generator().manual_seed(seed)
    logits = 3 * torch.randn(n, n_classes, generator=generator, dtype=torch.float64)
    probs = (logits / temperature).softmax(dim=1)
    return logits, torch.multinomial(probs, 1, generator=generator)[:, 0]


def data(case, **options):
    return draw(n_classes=2 if case.binary else 4, **options)


def nll(probs, labels):
    return float(-probs.double().gather(1, labels[:, None]).log().mean())


def bits(calibrator):
    """Return all that a calibrator holds, to compare."""
    values = []
    for value in vars(calibrator).values():
        parts = value if isinstance(value, tuple) else (value,)
        values += [part.tolist() if isinstance(part, torch.Tensor) else part for part in parts]
    return values
