"""Structured vector and matrix scaling: corrections of a temperature, held small by a prior."""

import dataclasses

import torch
from torch import Tensor

from advcal import _probs
from advcal.calibrators._affine import Affine, minimise, nll_and_residual
from advcal.calibrators._calibrator import calibration_data, parameter
from advcal.calibrators._temperature import likeliest_temperature

PRIOR = 0.5  # standard deviation of the logarithm of the temperature


def fit_svs(logits: Tensor, labels: Tensor, *, strength: float = 1.0) -> Affine:
    r"""Fit structured vector scaling (SVS): a temperature, then a small weight and bias per class.

    With $\ell = \log \mathrm{softmax}(z / T)$ and $T$ as `fit_temperature(prior=0.5)` finds it,
    $\min_{d, b} \frac{1}{n} \sum_i -\log \mathrm{softmax}(\ell_i + d \odot \ell_i + b)_{y_i} +
    \frac{c K}{n} (\|d\|^2 + \|b\|^2)$, convex, by L-BFGS in float64 until no entry of the gradient
    is above 1e-8. The penalty is that of a fixed normal prior on the sum, so it scales with the
    number of examples: with few of them little more than the temperature is left. The authors mix
    the temperature's probabilities with the uniform distribution where this has a prior on $T$.

    Args:
        logits: Finite logits, shape `(n, classes)`, of examples that the model was not trained on.
        labels: Integer labels, shape `(n,)`.
        strength: $c$; 3 does a little better below 200 examples.

    Returns:
        The calibrator. It can change predictions.

    Raises:
        TypeError: If an argument is of another kind or dtype.
        ValueError: If a shape or value is wrong.

    Example:
        >>> logits = torch.tensor([[1.0, 0.0], [1.0, 0.0], [0.0, 1.0], [0.0, 1.0]])
        >>> calibrator = fit_svs(logits, torch.tensor([0, 0, 1, 0]))
        >>> calibrator(logits[2:]).round(decimals=2)
        tensor([[0.3700, 0.6300],
                [0.3700, 0.6300]])

    References:
        Berta, Holzmüller, Jordan & Bach, Structured Matrix Scaling for Multi-Class Calibration,
        arXiv 2511.03685, 2025.
    """
    z, y = calibration_data(logits, labels, strength=strength)
    n, k = z.shape
    penalty = torch.full((2, k), strength * k / n, dtype=torch.float64, device=z.device)
    temperature = likeliest_temperature(z, y, PRIOR)
    shift = minimise(_Objective(z, y, temperature, penalty), torch.zeros_like(penalty)).view(2, k)
    return Affine(k, parameter(1 + shift[0]), parameter(shift[1]), True, temperature)


def fit_sms(logits: Tensor, labels: Tensor, *, strength: float = 1.0) -> Affine:
    r"""Fit structured matrix scaling (SMS): a temperature, then a small matrix and bias.

    As `fit_svs` with a matrix $D$ for the weights, $\ell + D \ell + b$, whose entries off the
    diagonal are held smaller: $\frac{c}{n} (K \|b\|^2 + K \sum_i D_{ii}^2 + K (K - 1)
    \sum_{i \neq j} D_{ij}^2)$.

    Args:
        logits: Finite logits, shape `(n, classes)`, of examples that the model was not trained on.
        labels: Integer labels, shape `(n,)`.
        strength: $c$; 3 does a little better below 200 examples.

    Returns:
        The calibrator. It can change predictions.

    Raises:
        TypeError: If an argument is of another kind or dtype.
        ValueError: If a shape or value is wrong.

    Example:
        >>> logits = torch.tensor([[1.0, 0.0], [1.0, 0.0], [0.0, 1.0], [0.0, 1.0]])
        >>> calibrator = fit_sms(logits, torch.tensor([0, 0, 1, 0]))
        >>> calibrator(logits[2:]).round(decimals=2)
        tensor([[0.3900, 0.6100],
                [0.3900, 0.6100]])

    References:
        Berta, Holzmüller, Jordan & Bach, Structured Matrix Scaling for Multi-Class Calibration,
        arXiv 2511.03685, 2025.
    """
    z, y = calibration_data(logits, labels, strength=strength)
    n, k = z.shape
    off_diagonal = strength * k * (k - 1) / n
    penalty = torch.full((k, k + 1), off_diagonal, dtype=torch.float64, device=z.device)
    penalty[:, k] = strength * k / n
    penalty.diagonal().fill_(strength * k / n)
    temperature = likeliest_temperature(z, y, PRIOR)
    shift = minimise(_Objective(z, y, temperature, penalty), torch.zeros_like(penalty))
    shift = shift.view(k, k + 1)
    weight = torch.eye(k, dtype=torch.float64, device=z.device) + shift[:, :k]
    return Affine(k, parameter(weight), parameter(shift[:, k]), True, temperature)


@dataclasses.dataclass(frozen=True)
class _Objective:
    """The mean NLL and the penalties of what is added: a diagonal or a matrix, and a bias."""

    z: Tensor
    y: Tensor
    temperature: float
    penalty: Tensor

    def __call__(self, theta: Tensor) -> tuple[float, Tensor]:
        theta = theta.view_as(self.penalty)
        value, gradient = 0.0, torch.zeros_like(theta)
        for rows in _probs.row_chunks(self.z):
            x = (self.z[rows].double() / self.temperature).log_softmax(dim=1)
            diagonal = len(theta) == 2 and theta.shape[1] == x.shape[1]
            added = x * theta[0] + theta[1] if diagonal else x @ theta[:, :-1].T + theta[:, -1]
            loss, residual = nll_and_residual(x + added, self.y[rows])
            value += loss
            if diagonal:
                gradient += torch.stack([(residual * x).sum(dim=0), residual.sum(dim=0)])
            else:
                gradient += torch.cat([residual.T @ x, residual.sum(dim=0)[:, None]], dim=1)
        pull = theta * self.penalty
        n = len(self.z)
        return value / n + float((pull * theta).sum()), gradient / n + 2 * pull
