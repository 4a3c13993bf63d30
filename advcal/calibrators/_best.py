"""The calibrator that does best on examples left out, and why."""

from typing import NamedTuple

import torch
from torch import Tensor

from advcal.calibrators._calibrator import Calibrator, calibration_data
from advcal.calibrators._structured import PRIOR, fit_sms, fit_svs
from advcal.calibrators._temperature import Temperature, fit_temperature

_FOLDS = 5
_ENOUGH = 50  # examples below which only a temperature is fitted
_MATRIX = 100  # classes up to which a matrix is fitted


class Choice(NamedTuple):
    """A calibrator and what it was chosen by.

    Attributes:
        calibrator: The calibrator, fitted to all examples.
        losses: From the name of each candidate to its mean NLL on examples left out.
        reason: Why this one.
    """

    calibrator: Calibrator
    losses: dict[str, float]
    reason: str


def fit_best(logits: Tensor, labels: Tensor) -> Choice:
    """Fit the calibrator of the lowest cross-fitted NLL, or a safe one if none is surely better.

    Candidates are no calibration, a temperature with a prior, `fit_svs` and, up to 100 classes,
    `fit_sms`; below 50 examples the first two. Each is fitted five times to four fifths of the
    examples, of which every class has its part, and scored on the fifth. If the lowest mean NLL is
    not below that without calibration by a standard error of their difference, the temperature
    with its prior is taken, which does next to nothing where nothing is to be done.

    Args:
        logits: Finite logits, shape `(n, classes)`, of examples that the model was not trained on.
        labels: Integer labels, shape `(n,)`.

    Returns:
        The calibrator, the losses of all candidates and the reason.

    Raises:
        TypeError: If `logits` or `labels` is of another kind or dtype.
        ValueError: If a shape or value is wrong.

    Example:
        >>> generator = torch.Generator().manual_seed(0)
        >>> logits = 3 * torch.randn(500, 4, generator=generator)
        >>> labels = torch.multinomial((logits / 2).softmax(dim=1), 1, generator=generator)[:, 0]
        >>> found = fit_best(logits, labels)
        >>> found.reason
        'temperature has the lowest NLL of 4 on examples left out'
        >>> list(found.losses)
        ['none', 'temperature', 'svs', 'sms']
    """
    z, y = calibration_data(logits, labels)
    names = ["none", "temperature"]
    if len(z) >= _ENOUGH:
        names += ["svs", "sms"] if z.shape[1] <= _MATRIX else ["svs"]
    if len(z) < 2 * _FOLDS:
        return Choice(_fitted("temperature", z, y), {}, "too few examples to leave any out")
    each = _left_out(names, z, y)
    losses = {name: float(values.mean()) for name, values in each.items()}
    best = min(losses, key=lambda name: losses[name])
    gain = each["none"] - each[best]
    if float(gain.mean()) > float(gain.std()) / len(gain) ** 0.5:
        reason = f"{best} has the lowest NLL of {len(names)} on examples left out"
        return Choice(_fitted(best, z, y), losses, reason)
    reason = f"no candidate of {len(names)} is surely better than none on examples left out"
    return Choice(_fitted("temperature", z, y), losses, reason)


def _fitted(name: str, z: Tensor, y: Tensor) -> Calibrator:
    if name == "none":
        return Temperature(z.shape[1], 1.0)
    if name == "temperature":
        return fit_temperature(z, y, prior=PRIOR)
    return fit_svs(z, y) if name == "svs" else fit_sms(z, y)


def _left_out(names: list[str], z: Tensor, y: Tensor) -> dict[str, Tensor]:
    """Return the NLL of each example by each candidate, fitted to the other folds."""
    order = y.argsort(stable=True)
    fold = torch.empty_like(y)
    fold[order] = torch.arange(len(y), device=y.device) % _FOLDS
    found = {name: torch.zeros(len(y), dtype=torch.float64, device=y.device) for name in names}
    for i in range(_FOLDS):
        out = fold == i
        for name, losses in found.items():
            calibrator = _fitted(name, z[~out], y[~out])
            log_probs = calibrator.log_probs(z[out].double())
            losses[out] = -log_probs.gather(1, y[out, None])[:, 0]
    return found
