"""Losses on examples left out, and what is chosen by them."""

import warnings
from collections.abc import Callable, Mapping
from functools import partial

import torch
from torch import Tensor

from advcal.calibrators._calibrator import Calibrator

Fit = Callable[[Tensor, Tensor], Calibrator]

_FOLDS = 5
_STRENGTHS = (0.3, 1.0, 3.0, 10.0, 100.0)


def enough(n: int) -> bool:
    """Tell whether there are examples enough to leave some out."""
    return n >= 2 * _FOLDS


def folds(y: Tensor) -> list[Tensor]:
    """Return of each fold which examples are in it, drawn at random and always the same.

    Classes are not dealt out evenly: what is left out would then have the same share of each class
    as the rest, and reward a fit that learns these shares, which are chance in few examples.
    """
    source = torch.Generator("cpu").manual_seed(0)
    order = torch.randperm(len(y), generator=source, device="cpu")
    fold = (order % _FOLDS).to(y.device)
    return [fold == i for i in range(_FOLDS)]


def left_out(fits: Mapping[str, Fit], z: Tensor, y: Tensor) -> dict[str, Tensor]:
    """Return the NLL of each example by each calibrator, fitted to the other folds.

    What a fit warns of is silent here.
    """
    found = {name: torch.zeros(len(y), dtype=torch.float64, device=y.device) for name in fits}
    for out in folds(y):
        for name, losses in found.items():
            log_probs = silently(fits[name], z[~out], y[~out]).log_probs(z[out].double())
            losses[out] = -log_probs.gather(1, y[out, None])[:, 0]
    return found


def silently(fit: Fit, z: Tensor, y: Tensor) -> Calibrator:
    """Fit without the warnings of what has been, or is going to be, seen on examples left out."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return fit(z, y)


def best_strength(fit: Callable[..., Calibrator], z: Tensor, y: Tensor) -> float:
    """Return the strength of the lowest NLL on examples left out."""
    if not enough(len(z)):
        return _STRENGTHS[-1]
    fits = {f"{strength:g}": partial(fit, strength=strength) for strength in _STRENGTHS}
    losses = {name: float(each.mean()) for name, each in left_out(fits, z, y).items()}
    return float(min(losses, key=losses.__getitem__))
