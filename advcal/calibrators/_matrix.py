"""Vector, matrix and Dirichlet scaling."""

import dataclasses

import torch
from torch import Tensor

from advcal import _probs
from advcal._typing import Array
from advcal.calibrators._affine import Affine, masked_scores, minimise, nll_and_residual
from advcal.calibrators._calibrator import calibration_data, parameter
from advcal.calibrators._folds import best_strength
from advcal.calibrators._prior import corrected
from advcal.calibrators._temperature import best_temperature

_ODIR = 1e-3  # the penalty that is not given if the other is


def fit_vector(logits: Array, labels: Array, *, strength: float | None = 1.0) -> Affine:
    r"""Fit vector scaling, a weight and a bias for each class.

    $\min_{d, b} \frac{1}{n} \sum_i -\log \mathrm{softmax}((1 + d) \odot z_i / T + b)_{y_i} +
    \frac{c K}{n} (\|d\|^2 + \|b\|^2)$, convex, by L-BFGS. $T$ is what `fit_temperature(prior=0.5)`
    finds. The penalty is that of a fixed normal prior, as in `fit_svs`, which corrects
    log-probabilities. Without it, 2,000 weights for 1,000 classes fit the noise of thousands of
    examples. Unlike softmax, the map is not blind to a constant added to all logits.

    Args:
        logits: Logits, shape `(n, classes)`, of examples that the model was not trained on; minus
            infinity masks a class. A tensor or a NumPy array.
        labels: Integer labels of the same kind, shape `(n,)`.
        strength: $c$; 0 for vector scaling as its authors have it. None for what five-fold
            cross-validation chooses of .3, 1, 3, 10 and 100.

    Returns:
        The calibrator. It can change predictions.

    Raises:
        TypeError: If an argument is of another kind or dtype.
        ValueError: If a shape or value is wrong.

    Example:
        >>> logits = torch.tensor([[9.0, 0.0], [9.0, 0.0], [0.0, 9.0], [0.0, 9.0]])
        >>> calibrator = fit_vector(logits, torch.tensor([0, 0, 1, 0]))
        >>> calibrator(logits[1:3])
        tensor([[0.9853, 0.0147],
                [0.2046, 0.7954]])

    References:
        Guo et al., On Calibration of Modern Neural Networks, ICML 2017, section 4.2.
    """
    z, y = calibration_data(logits, labels, strength=strength)
    if strength is None:
        strength = best_strength(fit_vector, z, y)
    return corrected(z, y, strength, full=False, of_log_probs=False)


def fit_matrix(
    logits: Array,
    labels: Array,
    *,
    l2_off_diagonal: float | None = None,
    l2_bias: float | None = None,
) -> Affine:
    r"""Fit matrix scaling, a matrix and a bias on the logits, with penalties on both (ODIR).

    $\min_{W, b} \frac{1}{n} \sum_i -\log \mathrm{softmax}(W z_i + b)_{y_i} +
    \frac{\lambda}{K (K - 1)} \sum_{i \neq j} w_{ij}^2 + \frac{\mu}{K} \sum_j b_j^2$, convex, from
    the best temperature by L-BFGS in coordinates whitened by the data. The NLL is never above that
    of `fit_temperature`.

    A fixed $\lambda$ is too weak for few examples and the diagonal is free. So unless one of the
    two is given, the penalties are those of `fit_sms`, which scale with $n$, on what is added to
    $I / T$; `fit_sms` corrects log-probabilities.

    Args:
        logits: Logits, shape `(n, classes)`, of examples that the model was not trained on; minus
            infinity masks a class. A tensor or a NumPy array.
        labels: Integer labels of the same kind, shape `(n,)`.
        l2_off_diagonal: $\lambda$; 0, and no $\mu$, for matrix scaling as Guo et al. have it. None
            for penalties that scale with the number of examples, or for .001 if $\mu$ is given.
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
    logits: Array,
    labels: Array,
    *,
    l2_off_diagonal: float | None = None,
    l2_bias: float | None = None,
) -> Affine:
    r"""Fit Dirichlet scaling, a matrix and a bias on log-probabilities, with penalties (ODIR).

    It is `fit_matrix` of the log-probabilities $\log \mathrm{softmax}(z_i)$ in the place of the
    logits; they are not clipped. With the default penalties that is `fit_sms`.

    Args:
        logits: Logits, shape `(n, classes)`, of examples that the model was not trained on; minus
            infinity masks a class. A tensor or a NumPy array.
        labels: Integer labels of the same kind, shape `(n,)`.
        l2_off_diagonal: $\lambda$, which the authors choose by cross-validation. None for penalties
            that scale with the number of examples, or for .001 if $\mu$ is given.
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
            scores = masked_scores(x @ theta.T, self.z[rows])
            loss, residual = nll_and_residual(scores, self.y[rows])
            value += loss
            gradient += residual.T @ x
        off = _centred(theta) * self.penalty
        value = value / len(self.z) + float((off * _centred(theta)).sum())
        return value, (gradient / len(self.z) + 2 * off) @ self.whitening.T


def _fit(
    z: Tensor,
    y: Tensor,
    l2_off_diagonal: float | None,
    l2_bias: float | None,
    *,
    of_log_probs: bool,
) -> Affine:
    """Minimise the NLL and the penalties over a matrix and a bias."""
    if l2_off_diagonal is None and l2_bias is None:
        return corrected(z, y, 1.0, full=True, of_log_probs=of_log_probs)
    l2_off_diagonal = _ODIR if l2_off_diagonal is None else l2_off_diagonal
    l2_bias = _ODIR if l2_bias is None else l2_bias
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
    """Return 1 for each entry of the matrix and the bias and 0 for those of the diagonal."""
    k = z.shape[1]
    return 1 - torch.eye(k, k + 1, dtype=torch.float64, device=z.device)


def _centred(theta: Tensor) -> Tensor:
    """Take off each column what softmax does not see and the penalty would rather not."""
    off_diagonal = _off_diagonal(theta[:, 1:])
    return theta - (theta * off_diagonal).sum(dim=0) / off_diagonal.sum(dim=0)


def _features(z: Tensor, of_log_probs: bool) -> Tensor:
    """Return what the matrix is applied to, and a column of ones for the bias."""
    x = z.double().log_softmax(dim=1) if of_log_probs else z.double()
    return torch.nn.functional.pad(x.masked_fill(x.isneginf(), 0.0), (0, 1), value=1.0)


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
