"""Beta calibration, quadratic scaling and splines: rising curves of the log-odds."""

from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn.functional import pad

from advcal._typing import Array
from advcal.calibrators._calibrator import (
    calibration_data,
    mean_nll,
    parameter,
    unmasked,
    warn_of_harm,
)
from advcal.calibrators._folds import best_strength
from advcal.calibrators._newton import Curves, newton
from advcal.calibrators._odds import LogOdds, features, log_odds
from advcal.calibrators._temperature import PRIOR, likeliest_temperature

_ENTRIES = 1 << 22  # of the features of all curves that are fitted at a time
_KNOTS = 6


def fit_beta(logits: Array, labels: Array, *, strength: float | None = 1.0) -> LogOdds:
    r"""Fit beta calibration: a slope for low log-odds and another for high ones.

    $p' = \sigma(a \log p - b \log(1 - p) + c)$ with $a, b \ge 0$ and $p$ the probability of
    the second of two classes. Far below 0 the log-odds are multiplied by $a$, far above by $b$, so
    it can mend a model that is too sure of one class and not sure enough of the other. First comes
    a temperature, as `fit_temperature(prior=0.5)` finds it; then the log loss and
    $\frac{s K}{n} ((a - 1)^2 + (b - 1)^2 + c^2)$ are minimised, exactly, by Newton's method. With
    $K > 2$ classes each is set against the rest and the probabilities are divided by their sum.

    Args:
        logits: Logits, shape `(n, classes)`, of examples that the model was not trained on; minus
            infinity masks a class. A tensor or a NumPy array.
        labels: Integer labels of the same kind, shape `(n,)`.
        strength: $s$; 0 for the most likely curve, None for what five-fold cross-validation chooses
            of .3, 1, 3, 10 and 100.

    Returns:
        The calibrator. It can change predictions.

    Raises:
        TypeError: If an argument is of another kind or dtype.
        ValueError: If a shape or value is wrong.

    Example:
        >>> logits = torch.tensor([[9.0, 0.0], [9.0, 0.0], [0.0, 9.0], [0.0, 9.0]])
        >>> fit_beta(logits, torch.tensor([0, 0, 1, 0]))(logits[1:3])
        tensor([[0.9676, 0.0324],
                [0.1390, 0.8610]])

    References:
        Kull, Silva Filho & Flach, Beta calibration, AISTATS 2017.
    """
    return _fit(fit_beta, logits, labels, strength, 0)


def fit_quadratic(logits: Array, labels: Array, *, strength: float | None = 1.0) -> LogOdds:
    r"""Fit quadratic scaling: a parabola of the log-odds that rises wherever there are examples.

    The log-odds $f$ of the second of two classes become $c + \int_0^f w(t)\,dt$. The slope $w$ is
    linear, $a \ge 0$ at the lowest of the log-odds and $b \ge 0$ at the highest, and stays so
    beyond them. Published forms let the parabola turn, which puts unlikely examples above likely
    ones; when theirs does not, this is theirs. A temperature first, then the log loss and
    $\frac{s K}{n} ((a - 1)^2 + (b - 1)^2 + c^2)$, as in `fit_beta`, and with more than two classes
    as there.

    Args:
        logits: Logits, shape `(n, classes)`, of examples that the model was not trained on; minus
            infinity masks a class. A tensor or a NumPy array.
        labels: Integer labels of the same kind, shape `(n,)`.
        strength: $s$; 0 for the most likely curve, None for what five-fold cross-validation chooses
            of .3, 1, 3, 10 and 100.

    Returns:
        The calibrator. It can change predictions.

    Raises:
        TypeError: If an argument is of another kind or dtype.
        ValueError: If a shape or value is wrong.

    Example:
        >>> logits = torch.tensor([[9.0, 0.0], [9.0, 0.0], [0.0, 9.0], [0.0, 9.0]])
        >>> fit_quadratic(logits, torch.tensor([0, 0, 1, 0]))(logits[1:3])
        tensor([[0.9594, 0.0406],
                [0.1206, 0.8794]])

    References:
        Berta, Holzmüller, Jordan & Bach, Structured Matrix Scaling for Multi-Class Calibration,
        arXiv 2511.03685, 2025, section 3.
    """
    return _fit(fit_quadratic, logits, labels, strength, 2)


def fit_spline(logits: Array, labels: Array, *, strength: float | None = 1.0) -> LogOdds:
    r"""Fit a spline: a smooth curve of the log-odds that rises everywhere.

    As `fit_quadratic` with a slope that is linear between six knots, at the ends of the log-odds
    and at equal shares of them between: what isotonic regression is without steps, and without
    probabilities of 0. The penalty is $\frac{s K}{n} (\sum_j (w_j - 1)^2 + c^2)$.

    Args:
        logits: Logits, shape `(n, classes)`, of examples that the model was not trained on; minus
            infinity masks a class. A tensor or a NumPy array.
        labels: Integer labels of the same kind, shape `(n,)`.
        strength: $s$; 0 for the most likely curve, None for what five-fold cross-validation chooses
            of .3, 1, 3, 10 and 100.

    Returns:
        The calibrator. It can change predictions.

    Raises:
        TypeError: If an argument is of another kind or dtype.
        ValueError: If a shape or value is wrong.

    Example:
        >>> logits = torch.tensor([[9.0, 0.0], [9.0, 0.0], [0.0, 9.0], [0.0, 9.0]])
        >>> fit_spline(logits, torch.tensor([0, 0, 1, 0]))(logits[1:3])
        tensor([[0.9594, 0.0406],
                [0.1205, 0.8795]])

    References:
        Ramsay, Monotone regression splines in action, Statistical Science 1988. Lucena,
        Spline-based probability calibration, arXiv 1809.07751, 2018.
    """
    return _fit(fit_spline, logits, labels, strength, _KNOTS)


def _fit(
    fit: Callable[..., LogOdds], logits: Array, labels: Array, strength: float | None, knots: int
) -> LogOdds:
    """Fit curves after a temperature; of no knots are those of beta calibration."""
    z, y = calibration_data(logits, labels, strength=strength)
    if strength is None:
        strength = best_strength(fit, z, y)
    within, y, stay = unmasked(z, y)
    found = _curves(within, y, strength, knots)
    return found if len(stay) == z.shape[1] else _among(found, stay, z.shape[1])


def _curves(z: Tensor, y: Tensor, strength: float, n_knots: int) -> LogOdds:
    temperature = likeliest_temperature(z, y, PRIOR)
    odds, valid = log_odds(z.double() / temperature)
    k = z.shape[1]
    hits = (y[:, None] == torch.arange(k, device=z.device)[-odds.shape[1] :]).double()
    odds = torch.where(valid, odds, 0.0)
    knots = _places(odds, valid, n_knots) if n_knots else None
    theta, trace = [], 0.0
    size = max(1, _ENTRIES // (len(z) * (n_knots or 2)))
    for first in range(0, odds.shape[1], size):
        part = slice(first, first + size)
        phi = features(odds[:, part], None if knots is None else knots[part])
        phi = pad(phi, (0, 1), value=1.0)
        fitted, of_part = newton(Curves(phi, hits[:, part], valid[:, part]), strength * k)
        theta.append(fitted)
        trace += of_part
    values = torch.cat(theta)
    places = None if knots is None else parameter(knots)
    found = LogOdds(k, parameter(values[:, :-1]), parameter(values[:, -1]), places, temperature)
    before = mean_nll(z.double().log_softmax(dim=1), y)
    warn_of_harm(mean_nll(found.log_probs(z.double()), y) - before, trace, z)
    return found


def _among(found: LogOdds, stay: Tensor, n_classes: int) -> LogOdds:
    """Put curves among those of classes that are masked in all rows, which stay as they are."""
    slopes, bias, knots = found.slopes, found.bias, found.knots
    if found.n_classes == 2:  # one curve becomes two, the first of which mirrors it
        slopes = torch.cat([slopes.flip(1), slopes])
        bias = torch.cat([-bias, bias])
        knots = None if knots is None else torch.cat([-knots.flip(1), knots])
    stay = stay.cpu()
    all_slopes = slopes.new_ones(n_classes, slopes.shape[1])
    all_bias = bias.new_zeros(n_classes)
    all_slopes[stay], all_bias[stay] = slopes, bias
    if knots is not None:
        places = torch.arange(slopes.shape[1], dtype=slopes.dtype, device=slopes.device)
        places = places.expand(n_classes, -1).clone()
        places[stay] = knots
        knots = parameter(places)
    values = parameter(all_slopes), parameter(all_bias)
    return LogOdds(n_classes, *values, knots, found.temperature)


def _places(odds: Tensor, valid: Tensor, n_knots: int) -> Tensor:
    """Put knots at the ends of the log-odds of each class, and at equal shares of them between."""
    shares = torch.linspace(0, 1, n_knots, dtype=odds.dtype, device=odds.device)
    last = (valid.sum(dim=0) - 1).clamp(min=0)
    chosen = (shares[:, None] * last).round().long()
    ascending = torch.where(valid, odds, torch.inf).sort(dim=0).values
    places = ascending.gather(0, chosen).T.nan_to_num(posinf=0.0)
    # Knots that fall together, as with equal logits, are moved a little apart.
    least = (places[:, -1:] - places[:, :1]).clamp(min=1.0) * 1e-3
    least = torch.maximum(least, places.abs().amax(dim=1, keepdim=True) * 1e-12)
    apart = least * torch.arange(n_knots, device=odds.device)
    return (places - apart).cummax(dim=1).values + apart
