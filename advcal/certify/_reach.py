"""What the probabilities of a classifier can be anywhere in a ball."""

from __future__ import annotations

import dataclasses

import torch
from torch import Tensor


@dataclasses.dataclass(frozen=True, eq=False)
class Reach:
    """What the probabilities of each example can be, whatever an attack in the ball does.

    Attributes:
        lower: The least probability of each class, float64, shape `(n, classes)`.
        upper: The greatest, of the same shape.
        labels: The class that is predicted everywhere in the ball, int64, shape `(n,)`; -1 if it is
            not known that there is one.
        alpha: The probability that something said of an example is wrong, for each example; 0 if
            the bounds do not rest on random draws.
    """

    lower: Tensor
    upper: Tensor
    labels: Tensor
    alpha: float = 0.0

    @property
    def confidence(self) -> tuple[Tensor, Tensor]:
        """Bounds of the highest probability, of whichever class, each of shape `(n,)`."""
        least = self.lower.amax(dim=1).clamp_min(1 / self.lower.shape[1])
        return least, self.upper.amax(dim=1)


def tightened(lower: Tensor, upper: Tensor) -> tuple[Tensor, Tensor]:
    """Use that the probabilities of an example sum to one."""
    lower, upper = lower.clamp(0, 1), upper.clamp(0, 1)
    least = 1 - (upper.sum(dim=1, keepdim=True) - upper)
    most = 1 - (lower.sum(dim=1, keepdim=True) - lower)
    return torch.maximum(lower, least), torch.minimum(upper, most)
