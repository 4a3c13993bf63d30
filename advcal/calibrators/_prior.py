"""The best temperature, and a correction of it that a prior holds small: what affine fits share."""

import dataclasses

import torch
from torch import Tensor

from advcal import _probs
from advcal.calibrators._affine import Affine, masked_scores, minimise, nll_and_residual
from advcal.calibrators._calibrator import parameter, unmasked, warn_of_harm
from advcal.calibrators._temperature import PRIOR, best_temperature, likeliest_temperature


def corrected(z: Tensor, y: Tensor, strength: float, *, full: bool, of_log_probs: bool) -> Affine:
    """Fit a temperature, then what is added to its map.

    Args:
        z: Logits.
        y: Labels.
        strength: Of the prior; with 0 there is none, on the temperature neither.
        full: Whether a matrix is added, or a weight for each class.
        of_log_probs: Whether to log-probabilities, or to logits.
    """
    z_all, (z, y, stay) = z, unmasked(z, y)
    n, k = z.shape
    temperature = likeliest_temperature(z, y, PRIOR) if strength else best_temperature(z, y)
    unit = strength * k / n
    penalty = torch.full((k if full else 2, k + full), unit, dtype=torch.float64, device=z.device)
    if full:
        penalty[:, :k] *= k - 1
        penalty.diagonal().fill_(unit)
    objective = Correction(z, y, temperature, penalty, of_log_probs, bool(z.isneginf().any()))
    shift = objective.solved()
    objective.warn_of_harm(shift)
    return _affine(objective, shift, stay, z_all.shape[1])


def _affine(objective: "Correction", shift: Tensor, stay: Tensor, n_classes: int) -> Affine:
    """Make the calibrator; classes that are masked in all rows stay as they are."""
    k, full = shift.shape[1] - objective.full, objective.full
    weight = torch.eye(n_classes, dtype=torch.float64, device=shift.device)
    bias = torch.zeros(n_classes, dtype=torch.float64, device=shift.device)
    weight[stay[:, None], stay] += shift[:, :k] if full else shift[0].diag()
    bias[stay] = shift[:, k] if full else shift[1]
    weight = weight if full else weight.diagonal()
    if objective.of_log_probs:
        values = parameter(weight), parameter(bias)
        return Affine(n_classes, *values, True, objective.temperature)
    return Affine(n_classes, parameter(weight / objective.temperature), parameter(bias), False)


@dataclasses.dataclass(frozen=True)
class Correction:
    """The mean NLL and the penalties of what is added: weights and biases, or a matrix and them."""

    z: Tensor
    y: Tensor
    temperature: float
    penalty: Tensor
    of_log_probs: bool
    masked: bool

    @property
    def full(self) -> bool:
        """Tell whether a matrix is added."""
        return self.penalty.shape[1] != self.z.shape[1]

    def _parts(self, rows: slice, theta: Tensor) -> tuple[Tensor, Tensor]:
        """Return what the weights are applied to, masked classes 0, and the scores."""
        scaled = self.z[rows].double() / self.temperature
        scaled = scaled.log_softmax(dim=1) if self.of_log_probs else scaled
        x = scaled.masked_fill(scaled.isneginf(), 0.0) if self.masked else scaled
        added = x @ theta[:, :-1].T + theta[:, -1] if self.full else x * theta[0] + theta[1]
        scores = added.add_(x)
        return x, masked_scores(scores, scaled) if self.masked else scores

    def __call__(self, theta: Tensor) -> tuple[float, Tensor]:
        theta = theta.view_as(self.penalty)
        value, gradient = 0.0, torch.zeros_like(theta)
        for rows in _probs.row_chunks(self.z):
            x, scores = self._parts(rows, theta)
            loss, residual = nll_and_residual(scores, self.y[rows])
            value += loss
            gradient += self._collected(residual, x)
        pull = theta * self.penalty
        n = len(self.z)
        return value / n + float((pull * theta).sum()), gradient / n + 2 * pull

    def solved(self) -> Tensor:
        """Minimise, a matrix in coordinates in which its curvature is about the identity."""
        start = torch.zeros_like(self.penalty)
        if not self.full:
            return minimise(self, start).view_as(start)
        k = len(start)
        moment = (2 * self.penalty.mean(dim=0)).diag()
        for rows in _probs.row_chunks(self.z):
            x, scores = self._parts(rows, start)
            x = torch.nn.functional.pad(x, (0, 1), value=1.0)
            # The mean over the classes of p (1 - p).
            curvature = (1 - scores.softmax(dim=1).square().sum(dim=1, keepdim=True)) / k
            moment += x.T @ (x * curvature) / len(self.z)
        values, vectors = torch.linalg.eigh(moment)
        root = vectors.T / values.clamp(min=1e-12 * float(values[-1])).sqrt()[:, None]

        def whitened(theta: Tensor) -> tuple[float, Tensor]:
            value, gradient = self(theta.view_as(start) @ root)
            return value, gradient @ root.T

        solution: Tensor = minimise(whitened, start).view_as(start) @ root
        return solution

    def _collected(self, residual: Tensor, x: Tensor) -> Tensor:
        """Sum what each score holds over the parameters that it depends on."""
        if self.full:
            return torch.cat([residual.T @ x, residual.sum(dim=0)[:, None]], dim=1)
        return torch.stack([(residual * x).sum(dim=0), residual.sum(dim=0)])

    def warn_of_harm(self, theta: Tensor) -> None:
        """Warn if the map is likely to do worse on others than none."""
        gain, n = 0.0, len(self.z)
        slopes, curvature = torch.zeros_like(theta), torch.zeros_like(theta)
        for rows in _probs.row_chunks(self.z):
            x, scores = self._parts(rows, theta)
            p = scores.softmax(dim=1)
            gain += nll_and_residual(self.z[rows].double(), self.y[rows])[0]
            loss, residual = nll_and_residual(scores, self.y[rows])
            gain -= loss
            squares = x.square()
            slopes += self._collected(residual.square_(), squares)
            curvature += self._collected(p.sub_(p.square()), squares)
        # As if the curvature were diagonal, which errs upwards.
        trace = slopes / (curvature + 2 * n * self.penalty).clamp(min=1e-12)
        warn_of_harm(-gain / n, float(trace.sum()), self.z)
