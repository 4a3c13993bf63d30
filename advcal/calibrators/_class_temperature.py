"""Class-wise temperatures that follow the miscalibration scores of the classes."""

import numpy as np
import torch
from scipy import optimize
from torch import Tensor

from advcal import _probs
from advcal._typing import Array
from advcal.calibrators._affine import Affine
from advcal.calibrators._calibrator import calibration_data, parameter, warn_of_harm
from advcal.calibrators._folds import enough, folds
from advcal.calibrators._temperature import best_temperature, warn_if_one_sided

_MOST = 2.0  # the range of gamma, the authors' own
_LEAST_SHARE = 0.1


def fit_class_temperature(logits: Array, labels: Array) -> Affine:
    r"""Fit one temperature per class, steered by the miscalibration score of the class.

    At the best temperature $T$ the score $s_k$ is the mean confidence minus the accuracy of the
    examples of true class $k$, clipped to 1.5 interquartile ranges beyond the quartiles of all
    classes. Logit $k$ is divided by $T_k$, $1/T_k = (1 - \gamma s_k) / T$, with the one $\gamma$ in
    $[-2, 2]$ of the lowest NLL for which no $1/T_k$ is below a tenth of $1/T$.

    The authors' code has $T_k = T (1 + \gamma s_k)$, the same to first order, and takes $T$ and
    $\gamma$ from grids by their ECE. In this form the NLL is convex in $\gamma$, has one optimum,
    and is never above that of `fit_temperature`. Unlike softmax, the map is not blind to a constant
    added to all logits.

    Args:
        logits: Logits, shape `(n, classes)`, of examples that the model was not trained on; minus
            infinity masks a class. A tensor or a NumPy array.
        labels: Integer labels of the same kind, shape `(n,)`.

    Returns:
        The calibrator, of weights $1/T_k$ and no bias. It can change predictions.

    Raises:
        TypeError: If `logits` or `labels` is of another kind or dtype.
        ValueError: If a shape or value is wrong.

    Example:
        >>> logits = torch.tensor([[2.0, 0.0], [2.0, 0.0], [0.0, 2.0], [0.0, 2.0]])
        >>> calibrator = fit_class_temperature(logits, torch.tensor([0, 0, 1, 0]))
        >>> 1 / calibrator.weight
        tensor([1.5604, 3.6410], dtype=torch.float64)

    References:
        Ao et al., Two Sides of Miscalibration, UAI 2023.
    """
    z, y = calibration_data(logits, labels)
    beta = 1 / best_temperature(z, y)
    warn_if_one_sided(z, y, 1 / beta)
    scores = _class_scores(z, y, beta)

    def loss(gamma: float) -> float:
        return _summed_nll(z, y, beta * (1 - gamma * scores)) / len(z)

    ends = [(1 - _LEAST_SHARE) / float(end) if end else 0.0 for end in scores.aminmax()]
    low = max(-_MOST, ends[0]) if ends[0] < 0 else -_MOST
    high = min(_MOST, ends[1]) if ends[1] > 0 else _MOST
    result = optimize.minimize_scalar(
        loss, bounds=(low, high), method="bounded", options={"xatol": 1e-9}
    )
    gamma = float(result.x) if result.fun < loss(0.0) else 0.0
    if enough(len(z)):
        warn_of_harm(_change_for_others(z, y, beta, gamma), 2.0, z)  # of beta and gamma
    weight, bias = parameter(beta * (1 - gamma * scores)), parameter(np.zeros(z.shape[1]))
    return Affine(z.shape[1], weight, bias, False)


def _summed_nll(z: Tensor, y: Tensor, weight: Tensor | float) -> float:
    total = 0.0
    for rows in _probs.row_chunks(z):
        log_probs = (z[rows].double() * weight).log_softmax(dim=1)
        total -= float(log_probs.gather(1, y[rows, None]).sum())
    return total


def _change_for_others(z: Tensor, y: Tensor, beta: float, gamma: float) -> float:
    """Return by how much the mean NLL changes if the scores are those of other examples."""
    total = -_summed_nll(z, y, 1.0)
    for out in folds(y):
        scores = _class_scores(z[~out], y[~out], beta)
        total += _summed_nll(z[out], y[out], beta * (1 - gamma * scores))
    return total / len(z)


def _class_scores(z: Tensor, y: Tensor, beta: float) -> Tensor:
    """Return the clipped miscalibration score of each true class, 0 for one without examples."""
    k = z.shape[1]
    gaps = torch.zeros(k, dtype=torch.float64, device=z.device)
    for rows in _probs.row_chunks(z):
        confidence, predicted = (z[rows].double() * beta).softmax(dim=1).max(dim=1)
        of_class = torch.nn.functional.one_hot(y[rows], k).double()
        gaps += (confidence - (predicted == y[rows]).double()) @ of_class
    counts = torch.bincount(y, minlength=k)
    scores = gaps / counts.clamp(min=1)
    lower, upper = np.quantile(scores[counts > 0].cpu().numpy(), [0.25, 0.75])
    reach = 1.5 * (upper - lower)
    return torch.where(counts > 0, scores.clamp(lower - reach, upper + reach), 0.0)
