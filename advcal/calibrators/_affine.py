"""Affine maps of logits, what fits them, and Platt scaling."""

import dataclasses
import warnings
from collections.abc import Callable

import numpy as np
import numpy.typing as npt
import torch
from scipy import optimize
from torch import Tensor

from advcal._typing import Array
from advcal.calibrators._calibrator import (
    Calibrator,
    calibration_data,
    mean_nll,
    parameter,
    warn_of_harm,
)
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
        x = x.masked_fill(x.isneginf(), 0.0)  # a weight of 0 would make NaN; masked again below
        weight, bias = self.weight.to(z.device), self.bias.to(z.device)
        scores = (x * weight if weight.ndim == 1 else x @ weight.T) + bias
        return masked_scores(scores, z).log_softmax(dim=1)


def fit_platt(logits: Array, labels: Array) -> Affine:
    r"""Fit Platt scaling: a slope and an offset for the log-odds of two classes.

    $p_1 = \sigma(a f + b)$ with $f = z_1 - z_0$, by maximum likelihood of Platt's smoothed targets:
    $(n_1 + 1) / (n_1 + 2)$ for the $n_1$ examples of class 1 and $1 / (n_0 + 2)$ for the others, so
    that the optimum is finite; by L-BFGS with $f$ in units of its spread.

    Args:
        logits: Logits, shape `(n, 2)`, of examples that the model was not trained on; minus
            infinity masks a class. A tensor or a NumPy array.
        labels: Integer labels, 0 or 1, or booleans, of the same kind, shape `(n,)`.

    Returns:
        The calibrator, with weight `[[0, 0], [-a, a]]` and bias `[0, b]`. It can change
        predictions.

    Raises:
        TypeError: If `logits` or `labels` is of another kind or dtype.
        ValueError: If a shape or value is wrong, or there are more than two classes.

    Example:
        >>> logits = torch.tensor([[9.0, 0.0], [9.0, 0.0], [0.0, 9.0], [0.0, 9.0]])
        >>> fit_platt(logits, torch.tensor([0, 0, 1, 0]))(logits[2:])
        tensor([[0.5667, 0.4333],
                [0.5667, 0.4333]])

    References:
        Platt, Probabilistic outputs for support vector machines, 1999, section 2.2.
    """
    z, y = calibration_data(logits, labels, n_classes=2)
    both = z.isfinite().all(dim=1)
    if not bool(both.any()):
        return Affine(2, parameter(np.diag([0.0, 1.0])), parameter(np.zeros(2)), False)
    z, y = z[both], y[both]
    f = z[:, 1].double() - z[:, 0].double()
    spread = float(f.abs().amax()) or 1.0
    ones = int(y.sum())
    # What Bayes' rule says of a label that was seen, under a uniform prior (Platt, section 2.2).
    high, low = (ones + 1) / (ones + 2), 1 / (len(y) - ones + 2)
    targets = torch.full_like(f, low).masked_fill_(y == 1, high)

    def objective(theta: Tensor) -> tuple[float, Tensor]:
        s = f / spread * theta[0] + theta[1]
        value = (torch.nn.functional.softplus(s) - targets * s).mean()
        residual = (s.sigmoid() - targets) / len(f)  # the derivative of the line above by s
        return float(value), torch.stack([residual @ f / spread, residual.sum()])

    start = f.new_tensor([spread / best_temperature(z, y), 0.0])
    slope, bias = minimise(objective, start).tolist()
    a = slope / spread
    found = Affine(2, parameter([[0.0, 0.0], [-a, a]]), parameter([0.0, bias]), False)
    before = mean_nll(z.double().log_softmax(dim=1), y)
    warn_of_harm(mean_nll(found.log_probs(z.double()), y) - before, 2.0, z)
    return found


def nll_and_residual(scores: Tensor, y: Tensor) -> tuple[float, Tensor]:
    """Return the summed NLL and its gradient by the scores."""
    # The derivative of -log softmax(s)_y by s is softmax(s) less the one-hot label.
    log_probs = scores.log_softmax(dim=1)
    value = -float(log_probs.gather(1, y[:, None]).sum())
    return value, log_probs.exp_().scatter_add_(1, y[:, None], -torch.ones_like(log_probs[:, :1]))


def masked_scores(scores: Tensor, z: Tensor) -> Tensor:
    """Mask what is masked in the logits."""
    return scores.masked_fill(z.isneginf(), -torch.inf)


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
