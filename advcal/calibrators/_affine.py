"""Vector, matrix, Dirichlet and Platt scaling: affine maps of logits, fitted by convex programs."""

import dataclasses
import math
import warnings
from collections.abc import Callable

import numpy as np
import numpy.typing as npt
import torch
from scipy import optimize
from torch import Tensor

from advcal import _probs
from advcal.calibrators._calibrator import Calibrator, calibration_data, parameter
from advcal.calibrators._temperature import best_temperature

_GRADIENT = 1e-8  # the greatest entry of the gradient of the objective at the solution
_WARN = 1e-6  # where a fit that stopped before says so
_OPTIONS = {"gtol": _GRADIENT, "ftol": 0, "maxiter": 2_000, "maxfun": 4_000, "maxcor": 30}

Vector = npt.NDArray[np.float64]


@dataclasses.dataclass(frozen=True, eq=False)
class Affine(Calibrator):
    r"""Softmax of an affine map, $\mathrm{softmax}(W x + b)$; differentiable in the logits.

    Attributes:
        weight: $W$, float64, shape `(classes, classes)`, or `(classes,)` for a diagonal matrix.
        bias: $b$, float64, shape `(classes,)`.
        of_log_probs: Whether $x$ is the log-softmax of the logits, as in Dirichlet scaling, or the
            logits.
        temperature: What the logits are divided by before.
    """

    weight: Tensor
    bias: Tensor
    of_log_probs: bool
    temperature: float = 1.0

    def _log_probs(self, z: Tensor) -> Tensor:
        x = z / self.temperature
        x = x.log_softmax(dim=1) if self.of_log_probs else x
        weight, bias = self.weight.to(z.device), self.bias.to(z.device)
        return ((x * weight if weight.ndim == 1 else x @ weight.T) + bias).log_softmax(dim=1)


def fit_vector(logits: Tensor, labels: Tensor) -> Affine:
    r"""Fit vector scaling, a weight and a bias for each class.

    $\min_{w, b} \frac{1}{n} \sum_i -\log \mathrm{softmax}(w \odot z_i + b)_{y_i}$, convex, from the
    best temperature by L-BFGS with the logits in units of their spread. The NLL is never above that
    of `fit_temperature`. Unlike softmax, the map is not blind to a constant added to all logits.

    Args:
        logits: Finite logits, shape `(n, classes)`, of examples that the model was not trained on.
        labels: Integer labels, shape `(n,)`.

    Returns:
        The calibrator. It can change predictions.

    Raises:
        TypeError: If `logits` or `labels` is of another kind or dtype.
        ValueError: If a shape or value is wrong.

    Example:
        >>> logits = torch.tensor([[1.0, 0.0], [1.0, 0.0], [0.0, 1.0], [0.0, 1.0]])
        >>> calibrator = fit_vector(logits, torch.tensor([0, 0, 1, 0]))
        >>> calibrator(logits[2:])
        tensor([[0.5000, 0.5000],
                [0.5000, 0.5000]])

    References:
        Guo et al., On Calibration of Modern Neural Networks, ICML 2017, section 4.2.
    """
    z, y = calibration_data(logits, labels)
    k = z.shape[1]
    # The standard deviation of the logits about the mean of their row.
    squares = [z[rows].double().var(dim=1, correction=0).sum() for rows in _probs.row_chunks(z)]
    spread = math.sqrt(sum(map(float, squares)) / len(z)) or 1.0

    def objective(theta: Tensor) -> tuple[float, Tensor]:
        weight, bias = theta.view(2, k)
        value, gradient = 0.0, torch.zeros(2, k, dtype=torch.float64, device=z.device)
        for rows in _probs.row_chunks(z):
            x = z[rows].double() / spread
            loss, residual = nll_and_residual(x * weight + bias, y[rows])
            value += loss
            gradient += torch.stack([(residual * x).sum(dim=0), residual.sum(dim=0)])
        return value / len(z), gradient / len(z)

    start = torch.zeros(2, k, dtype=torch.float64, device=z.device)
    start[0] = spread / best_temperature(z, y)
    weight, bias = minimise(objective, start).view(2, k)
    return Affine(k, parameter(weight / spread), parameter(bias), False)


def fit_matrix(
    logits: Tensor, labels: Tensor, *, l2_off_diagonal: float = 1e-3, l2_bias: float = 1e-3
) -> Affine:
    r"""Fit matrix scaling with off-diagonal and intercept regularisation (ODIR).

    $\min_{W, b} \frac{1}{n} \sum_i -\log \mathrm{softmax}(W z_i + b)_{y_i} +
    \frac{\lambda}{K (K - 1)} \sum_{i \neq j} w_{ij}^2 + \frac{\mu}{K} \sum_j b_j^2$, convex, from
    the best temperature by L-BFGS in coordinates whitened by the data. The NLL is never above that
    of `fit_temperature`.

    Args:
        logits: Finite logits, shape `(n, classes)`, of examples that the model was not trained on.
        labels: Integer labels, shape `(n,)`.
        l2_off_diagonal: $\lambda$. The authors choose it by cross-validation; this default is ours.
            0 for matrix scaling as Guo et al. have it.
        l2_bias: $\mu$, likewise.

    Returns:
        The calibrator. It can change predictions.

    Raises:
        TypeError: If an argument is of another kind or dtype.
        ValueError: If a shape or value is wrong, or a penalty negative.

    Example:
        >>> logits = torch.tensor([[1.0, 0.0], [1.0, 0.0], [0.0, 1.0], [0.0, 1.0]])
        >>> calibrator = fit_matrix(logits, torch.tensor([0, 0, 1, 0]), l2_bias=0.0)
        >>> calibrator(logits[2:]).round(decimals=2)
        tensor([[0.5000, 0.5000],
                [0.5000, 0.5000]])

    References:
        Guo et al., On Calibration of Modern Neural Networks, ICML 2017, section 4.2. Kull et al.,
        Beyond temperature scaling, NeurIPS 2019, section 4.
    """
    z, y = calibration_data(logits, labels, l2_off_diagonal=l2_off_diagonal, l2_bias=l2_bias)
    return _fit(z, y, l2_off_diagonal, l2_bias, of_log_probs=False)


def fit_dirichlet(
    logits: Tensor, labels: Tensor, *, l2_off_diagonal: float = 1e-3, l2_bias: float = 1e-3
) -> Affine:
    r"""Fit Dirichlet scaling with off-diagonal and intercept regularisation (ODIR).

    It is `fit_matrix` of the log-probabilities $\log \mathrm{softmax}(z_i)$ in the place of the
    logits; they are not clipped.

    Args:
        logits: Finite logits, shape `(n, classes)`, of examples that the model was not trained on.
        labels: Integer labels, shape `(n,)`.
        l2_off_diagonal: $\lambda$. The authors choose it by cross-validation; this default is ours.
        l2_bias: $\mu$, likewise.

    Returns:
        The calibrator. It can change predictions.

    Raises:
        TypeError: If an argument is of another kind or dtype.
        ValueError: If a shape or value is wrong, or a penalty negative.

    Example:
        >>> logits = torch.tensor([[1.0, 0.0], [1.0, 0.0], [0.0, 1.0], [0.0, 1.0]])
        >>> calibrator = fit_dirichlet(logits, torch.tensor([0, 0, 1, 0]), l2_bias=0.0)
        >>> calibrator(logits[2:]).round(decimals=2)
        tensor([[0.5000, 0.5000],
                [0.5000, 0.5000]])

    References:
        Kull et al., Beyond temperature scaling, NeurIPS 2019, sections 3 and 4.
    """
    z, y = calibration_data(logits, labels, l2_off_diagonal=l2_off_diagonal, l2_bias=l2_bias)
    return _fit(z, y, l2_off_diagonal, l2_bias, of_log_probs=True)


def fit_platt(logits: Tensor, labels: Tensor) -> Affine:
    r"""Fit Platt scaling to the logits of two classes.

    $p_1 = \sigma(a f + b)$ with $f = z_1 - z_0$, by maximum likelihood of Platt's smoothed targets:
    $(n_1 + 1) / (n_1 + 2)$ for the $n_1$ examples of class 1 and $1 / (n_0 + 2)$ for the others, so
    that the optimum is finite; by L-BFGS with $f$ in units of its spread.

    Args:
        logits: Finite logits, shape `(n, 2)`, of examples that the model was not trained on.
        labels: Integer labels, 0 or 1, shape `(n,)`.

    Returns:
        The calibrator, with weight `[[0, 0], [-a, a]]` and bias `[0, b]`. It can change
        predictions.

    Raises:
        TypeError: If `logits` or `labels` is of another kind or dtype.
        ValueError: If a shape or value is wrong, or there are more than two classes.

    Example:
        >>> logits = torch.tensor([[1.0, 0.0], [1.0, 0.0], [0.0, 1.0], [0.0, 1.0]])
        >>> fit_platt(logits, torch.tensor([0, 0, 1, 0]))(logits[2:])
        tensor([[0.5667, 0.4333],
                [0.5667, 0.4333]])

    References:
        Platt, Probabilistic outputs for support vector machines, 1999, section 2.2.
    """
    z, y = calibration_data(logits, labels, n_classes=2)
    f = z[:, 1].double() - z[:, 0].double()
    spread = float(f.abs().amax()) or 1.0
    ones = int(y.sum())
    high, low = (ones + 1) / (ones + 2), 1 / (len(y) - ones + 2)
    targets = torch.where(y == 1, high, low).double()

    def objective(theta: Tensor) -> tuple[float, Tensor]:
        s = f / spread * theta[0] + theta[1]
        value = (torch.nn.functional.softplus(s) - targets * s).mean()
        residual = (s.sigmoid() - targets) / len(f)
        return float(value), torch.stack([residual @ f / spread, residual.sum()])

    start = f.new_tensor([spread / best_temperature(z, y), 0.0])
    slope, bias = minimise(objective, start).tolist()
    a = slope / spread
    return Affine(2, parameter([[0.0, 0.0], [-a, a]]), parameter([0.0, bias]), False)


@dataclasses.dataclass(frozen=True)
class _Odir:
    """The NLL and the penalties of a matrix and a bias, `(classes, classes + 1)`, whitened."""

    z: Tensor
    y: Tensor
    penalty: Tensor
    whitening: Tensor
    of_log_probs: bool

    def __call__(self, theta: Tensor) -> tuple[float, Tensor]:
        theta = theta.view_as(self.penalty) @ self.whitening
        value, gradient = 0.0, torch.zeros_like(theta)
        for rows in _probs.row_chunks(self.z):
            x = _features(self.z[rows], self.of_log_probs)
            loss, residual = nll_and_residual(x @ theta.T, self.y[rows])
            value += loss
            gradient += residual.T @ x
        off = _centred(theta) * self.penalty
        value = value / len(self.z) + float((off * _centred(theta)).sum())
        return value, (gradient / len(self.z) + 2 * off) @ self.whitening.T


def _fit(
    z: Tensor, y: Tensor, l2_off_diagonal: float, l2_bias: float, *, of_log_probs: bool
) -> Affine:
    """Minimise the NLL and the penalties over a matrix and a bias."""
    k = z.shape[1]
    beta = 1 / best_temperature(z, y)
    whitening = _whitening(z, beta, of_log_probs)
    penalty = l2_off_diagonal / (k * (k - 1)) * _off_diagonal(z)
    penalty[:, k] = l2_bias / k
    start = beta * torch.eye(k, k + 1, dtype=torch.float64, device=z.device)
    start = torch.linalg.solve(whitening, start, left=False)
    theta = minimise(_Odir(z, y, penalty, whitening, of_log_probs), start)
    theta = _centred(theta.view(k, k + 1) @ whitening)
    return Affine(k, parameter(theta[:, :k]), parameter(theta[:, k]), of_log_probs)


def _off_diagonal(z: Tensor) -> Tensor:
    """Return 1 for each entry of the matrix and the bias but the diagonal, where it is 0."""
    k = z.shape[1]
    return 1 - torch.eye(k, k + 1, dtype=torch.float64, device=z.device)


def _centred(theta: Tensor) -> Tensor:
    """Take off each column what softmax does not see and the penalty would rather not."""
    off_diagonal = _off_diagonal(theta[:, 1:])
    return theta - (theta * off_diagonal).sum(dim=0) / off_diagonal.sum(dim=0)


def _features(z: Tensor, of_log_probs: bool) -> Tensor:
    """Return what the matrix is applied to, and a column of ones for the bias."""
    x = z.double().log_softmax(dim=1) if of_log_probs else z.double()
    return torch.nn.functional.pad(x, (0, 1), value=1.0)


def nll_and_residual(scores: Tensor, y: Tensor) -> tuple[float, Tensor]:
    """Return the summed NLL and its gradient by the scores."""
    log_probs = scores.log_softmax(dim=1)
    value = -float(log_probs.gather(1, y[:, None]).sum())
    return value, log_probs.exp_().scatter_add_(1, y[:, None], -torch.ones_like(log_probs[:, :1]))


def _whitening(z: Tensor, beta: float, of_log_probs: bool) -> Tensor:
    """Return coordinates in which the curvature at the best temperature is about the identity."""
    k = z.shape[1]
    moment = torch.zeros(k + 1, k + 1, dtype=torch.float64, device=z.device)
    for rows in _probs.row_chunks(z):
        x = _features(z[rows], of_log_probs)
        p = (z[rows].double() * beta).softmax(dim=1)
        curvature = 1 - p.square().sum(dim=1, keepdim=True) + 1e-6  # never none
        moment += x.T @ (x * curvature)
    scale = moment.diag().sqrt()
    scale = torch.where(scale > 0, scale, 1.0)
    values, vectors = torch.linalg.eigh(moment / scale / scale[:, None])
    floor = 1e-8 * float(values[-1])  # a direction that the data lack is left as it is
    whitening: Tensor = (
        vectors.T / values.clamp(min=floor).sqrt()[:, None] / (scale / len(z) ** 0.5)
    )
    return whitening


def minimise(objective: Callable[[Tensor], tuple[float, Tensor]], start: Tensor) -> Tensor:
    def in_numpy(theta: Vector) -> tuple[float, Vector]:
        value, gradient = objective(torch.from_numpy(theta).to(start.device))
        return value, gradient.flatten().cpu().numpy()

    result = optimize.minimize(
        in_numpy, start.flatten().cpu().numpy(), jac=True, method="L-BFGS-B", options=_OPTIONS
    )
    if (steepest := float(np.abs(result.jac).max())) > _WARN:
        warnings.warn(
            f"expected the fit to end with a gradient below {_GRADIENT:g}, got {steepest:g} after "
            f"{result.nit} steps; is a class without examples, or the data separable?",
            RuntimeWarning,
            stacklevel=3,
        )
    solution: Tensor = torch.from_numpy(result.x).to(start.device)
    return solution
