"""Curves from log-odds to log-odds, of each class against the rest."""

import dataclasses
import math

import torch
from torch import Tensor
from torch.nn.functional import logsigmoid, softplus

from advcal.calibrators._calibrator import Calibrator


@dataclasses.dataclass(frozen=True, eq=False)
class LogOdds(Calibrator):
    r"""Rising curves of the log-odds of one class against the rest; differentiable.

    With $f$ the log-odds of a class in $\mathrm{softmax}(z / T)$, its probability is
    $\sigma(w \cdot \phi(f) + b)$. Two classes share one curve, that of the second. More have one
    each, and the probabilities are divided by their sum. All slopes 1 and $b = 0$ is the softmax.

    Attributes:
        slopes: $w$, not negative, float64, shape `(1, features)` or `(classes, features)`.
        bias: $b$, float64, shape `(1,)` or `(classes,)`.
        knots: Log-odds at which the curve has the slopes; between them the slope is linear, beyond
            them constant; float64, shape `(1, features)` or `(classes, features)`. None for
            $\phi(f) = (\log p, -\log(1 - p))$.
        temperature: $T$.
    """

    slopes: Tensor
    bias: Tensor
    knots: Tensor | None
    temperature: float

    def _log_probs(self, z: Tensor) -> Tensor:
        odds, valid = log_odds(z / self.temperature)
        knots = None if self.knots is None else self.knots.to(z.device)
        phi = features(torch.where(valid, odds, 0.0), knots)
        s = (phi * self.slopes.to(z.device)).sum(dim=2) + self.bias.to(z.device)
        return from_odds(s, z)


def log_odds(z: Tensor) -> tuple[Tensor, Tensor]:
    """Compute the log-odds of each class against the rest; of two classes, the second's alone.

    Returns:
        The log-odds `(n, curves)`, and where they are of a class that has rivals and is not masked.
    """
    masked = z.isneginf()
    valid = ~masked & ((~masked).sum(dim=1, keepdim=True) > 1)
    if z.shape[1] == 2:
        return (z[:, 1] - z[:, 0])[:, None], valid[:, 1:]
    log_p = z.log_softmax(dim=1)
    top = log_p.detach().argmax(dim=1, keepdim=True)
    # 1 - p is exact but for the highest p, whose rest is summed without it.
    rest = log_p.scatter(1, top, -torch.inf)
    rest = torch.where(valid.any(dim=1, keepdim=True), rest, 0.0).logsumexp(dim=1, keepdim=True)
    others = torch.log1p(-log_p.scatter(1, top, -1.0).exp()).scatter(1, top, rest)
    return log_p - others, valid


def from_odds(s: Tensor, z: Tensor) -> Tensor:
    """Return the log-probabilities of which classes have log-odds in proportion."""
    both = torch.cat([-s, s], dim=1) if z.shape[1] == 2 else s
    return logsigmoid(both).masked_fill(z.isneginf(), -torch.inf).log_softmax(dim=1)


def features(f: Tensor, knots: Tensor | None) -> Tensor:
    """Return what the slopes multiply: `(n, curves, features)`, all 0 at log-odds of 0.

    The feature of a knot is the integral of a slope that is 1 there and 0 at the knots beside it.
    """
    if knots is None:
        return torch.stack([-softplus(-f) + math.log(2), softplus(f) - math.log(2)], dim=2)
    return _ramps(f, knots) - _ramps(torch.zeros_like(f[:1]), knots)


def _ramps(f: Tensor, knots: Tensor) -> Tensor:
    start, width = knots[:, :-1], knots.diff(dim=1)
    inside = (f[:, :, None] - start).clamp(min=0)
    inside = torch.minimum(inside, width)
    half = inside.square() / (2 * width)
    below = (f - knots[:, 0]).clamp(max=0)[:, :, None]
    above = (f - knots[:, -1]).clamp(min=0)[:, :, None]
    return torch.cat([below, half], dim=2) + torch.cat([inside - half, above], dim=2)
