"""Ensemble temperature scaling: a mixture of the calibrated, the original and the uniform."""

import dataclasses
from typing import Any

import numpy as np
import torch
from scipy import optimize
from torch import Tensor

from advcal import _probs
from advcal._typing import Array
from advcal.calibrators._calibrator import Calibrator, calibration_data, parameter
from advcal.calibrators._temperature import best_temperature, warn_if_one_sided


@dataclasses.dataclass(frozen=True, eq=False)
class Ensemble(Calibrator):
    r"""A weighted mean of the softmax at a temperature, the plain softmax and the uniform.

    $w_1\,\mathrm{softmax}(z / T) + w_2\,\mathrm{softmax}(z) + w_3 / K$. The order of the classes
    stays, so the predictions do. Differentiable in the logits.

    Attributes:
        temperature: $T$.
        weights: $w$, not negative, of sum 1; float64, shape `(3,)`.
    """

    temperature: float
    weights: Tensor

    @property
    def _keeps(self) -> bool:
        return True

    def _log_probs(self, z: Tensor) -> Tensor:
        parts = torch.stack(_members(z, self.temperature), dim=-1)
        masked = z.isneginf()
        parts = parts.masked_fill(masked[:, :, None], 0.0)
        mixed = (parts + self.weights.to(z.device).log()).logsumexp(dim=-1)
        return mixed.masked_fill(masked, -torch.inf)


def fit_ensemble(logits: Array, labels: Array) -> Ensemble:
    r"""Fit ensemble temperature scaling: temper, then mix with the original and the uniform.

    First $T$ as `fit_temperature` does, then the weights $w$ on the simplex that minimise the NLL
    of $w_1\,\mathrm{softmax}(z / T) + w_2\,\mathrm{softmax}(z) + w_3 / K$, a convex program, by
    SLSQP in float64. The NLL is never above that of `fit_temperature`. The authors' released code
    minimises the squared error by default; their paper offers both.

    Args:
        logits: Logits, shape `(n, classes)`, of examples that the model was not trained on; minus
            infinity masks a class. A tensor or a NumPy array.
        labels: Integer labels of the same kind, shape `(n,)`.

    Returns:
        The calibrator.

    Raises:
        TypeError: If `logits` or `labels` is of another kind or dtype.
        ValueError: If a shape or value is wrong.

    Example:
        >>> logits = torch.tensor([[9.0, 0.0], [1.0, 0.0], [1.0, 0.0], [9.0, 0.0]])
        >>> calibrator = fit_ensemble(logits, torch.tensor([0, 0, 0, 1]))
        >>> calibrator(logits[:2])
        tensor([[0.6747, 0.3253],
                [0.5807, 0.4193]])

    References:
        Zhang et al., Mix-n-Match, ICML 2020, section 4.2.
    """
    z, y = calibration_data(logits, labels)
    temperature = best_temperature(z, y)
    warn_if_one_sided(z, y, temperature)
    chosen = []
    for rows in _probs.row_chunks(z):
        parts = torch.stack(_members(z[rows].double(), temperature))
        chosen.append(parts.gather(2, y[rows].expand(3, -1)[..., None])[..., 0])
    log_probs = torch.cat(chosen, dim=1).cpu().numpy()
    # Each example in units of its most probable member: no logarithm of zero, the same optimum.
    probs = np.exp(log_probs - log_probs.max(axis=0))

    def objective(weights: Any) -> tuple[float, Any]:
        mixture = np.maximum(weights @ probs, 1e-300)
        return float(-np.log(mixture).mean()), -(probs / mixture).mean(axis=1)

    result = optimize.minimize(
        objective,
        np.array([0.98, 0.01, 0.01]),
        jac=True,
        method="SLSQP",
        bounds=[(0, 1)] * 3,
        constraints={"type": "eq", "fun": lambda w: w.sum() - 1, "jac": np.ones_like},
        options={"ftol": 1e-15, "maxiter": 1000},
    )
    found = np.maximum(result.x, 0) / np.maximum(result.x, 0).sum()
    best = min(np.array([1.0, 0.0, 0.0]), found, key=lambda weights: objective(weights)[0])
    return Ensemble(z.shape[1], temperature, parameter(best))


def _members(z: Tensor, temperature: float) -> list[Tensor]:
    """Return the log-probabilities of the three members of the mixture."""
    gaps = z - z.detach().amax(dim=1, keepdim=True)
    masked = z.isneginf()
    uniform = -(~masked).sum(dim=1, keepdim=True).to(z.dtype).log().expand_as(z)
    uniform = uniform.masked_fill(masked, -torch.inf)
    return [(gaps / temperature).log_softmax(dim=1), gaps.log_softmax(dim=1), uniform]
