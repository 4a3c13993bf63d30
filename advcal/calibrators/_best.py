"""The calibrator that does best on examples left out, and why."""

from typing import NamedTuple

from torch import Tensor

from advcal._typing import Array
from advcal.calibrators._beta import fit_beta, fit_quadratic, fit_spline
from advcal.calibrators._calibrator import Calibrator, calibration_data
from advcal.calibrators._folds import Fit, enough, left_out, silently
from advcal.calibrators._structured import fit_sms, fit_svs
from advcal.calibrators._temperature import PRIOR, Temperature, fit_temperature

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


def fit_best(logits: Array, labels: Array) -> Choice:
    """Fit the calibrator of the lowest cross-fitted NLL, or a safe one if none is surely better.

    Candidates are no calibration and a temperature with a prior; from 50 examples on also, for two
    classes, `fit_beta`, `fit_quadratic` and `fit_spline`, and for more `fit_spline`, `fit_svs` and,
    up to 100 classes, `fit_sms`. Each is fitted five times to four fifths of the examples, drawn at
    random and the same each time, and scored on the fifth. If the lowest mean NLL is not a standard
    error of the difference below that of the temperature, and below that without calibration, the
    temperature is taken, which does next to nothing when nothing is to be done.

    Args:
        logits: Logits, shape `(n, classes)`, of examples that the model was not trained on; minus
            infinity masks a class. A tensor or a NumPy array.
        labels: Integer labels of the same kind, shape `(n,)`.

    Returns:
        The calibrator, the losses of all candidates and the reason.

    Raises:
        TypeError: If `logits` or `labels` is of another kind or dtype.
        ValueError: If a shape or value is wrong.

    Example:
        >>> import torch
        >>> generator = torch.Generator().manual_seed(0)
        >>> logits = 3 * torch.randn(500, 4, generator=generator)
        >>> labels = torch.multinomial((logits / 2).softmax(dim=1), 1, generator=generator)[:, 0]
        >>> found = fit_best(logits, labels)
        >>> found.reason
        'temperature has the lowest NLL of 5 on examples left out'
        >>> list(found.losses)
        ['none', 'temperature', 'spline', 'svs', 'sms']
    """
    z, y = calibration_data(logits, labels)
    fits = _candidates(*z.shape)
    if not enough(len(z)):
        return Choice(_tempered(z, y), {}, "too few examples to leave any out")
    each = left_out(fits, z, y)
    losses = {name: float(values.mean()) for name, values in each.items()}
    best = min(losses, key=losses.__getitem__)
    if _surely_better(each[best], each["none"], each["temperature"]):
        reason = f"{best} has the lowest NLL of {len(fits)} on examples left out"
        return Choice(silently(fits[best], z, y), losses, reason)
    reason = f"no candidate of {len(fits)} is surely better than a temperature or none on examples"
    return Choice(_tempered(z, y), losses, f"{reason} left out")


def _surely_better(losses: Tensor, *others: Tensor) -> bool:
    """Tell whether losses are lower than others by a standard error, but for their own."""
    gains = [other - losses for other in others if other is not losses]
    return all(float(gain.mean()) > float(gain.std()) / len(gain) ** 0.5 for gain in gains)


def _candidates(n: int, n_classes: int) -> dict[str, Fit]:
    fits: dict[str, Fit] = {"none": _untouched, "temperature": _tempered}
    if n < _ENOUGH:
        return fits
    if n_classes == 2:
        return fits | {"beta": fit_beta, "quadratic": fit_quadratic, "spline": fit_spline}
    fits |= {"spline": fit_spline, "svs": fit_svs}
    return fits | {"sms": fit_sms} if n_classes <= _MATRIX else fits


def _untouched(z: Tensor, y: Tensor) -> Temperature:
    return Temperature(z.shape[1], 1.0)


def _tempered(z: Tensor, y: Tensor) -> Temperature:
    return fit_temperature(z, y, prior=PRIOR)
