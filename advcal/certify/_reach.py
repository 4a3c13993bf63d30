"""What the probabilities of a classifier can be anywhere in a ball."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable

import torch
from torch import Tensor

from advcal import _checks


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

    @classmethod
    def joined(cls, reaches: Iterable[Reach]) -> Reach:
        """Put the examples of several results one after the other, as of batches.

        Args:
            reaches: Bounds for as many classes each.

        Returns:
            Bounds of all examples, which hold with the greatest `alpha` of them for each.

        Raises:
            TypeError: If something else is among them.
            ValueError: If there are none, or they differ in their classes.
        """
        parts = list(reaches)
        if not parts:
            raise ValueError("expected one Reach or more, got none")
        for part in parts:
            if not isinstance(part, Reach):
                raise TypeError(f"expected reaches of Reach, got {_checks.kind(part)}")
        classes = sorted({part.lower.shape[1] for part in parts})
        if len(classes) > 1:
            raise ValueError(f"expected reaches of as many classes each, got {classes}")
        lower, upper, labels = (
            torch.cat([getattr(part, name) for part in parts])
            for name in ("lower", "upper", "labels")
        )
        return cls(lower, upper, labels, max(part.alpha for part in parts))

    def tempered(self, temperature: float) -> Reach:
        r"""Bound the probabilities after temperature scaling: $p_k^{1/T} / \sum_j p_j^{1/T}$.

        The mean over noise is less sure than it is right, and a temperature below 1 mends that
        without changing a label. Each bound is attained if the probabilities may be anywhere within
        theirs.

        Args:
            temperature: T > 0, fitted on other data.

        Returns:
            The bounds of what the scaled model says.

        Raises:
            TypeError: If `temperature` is not a number.
            ValueError: If it is not positive.
        """
        temperature = _checks.number("temperature", temperature, above=0)
        low, high = (part.log() / temperature for part in (self.lower, self.upper))
        lower = torch.sigmoid(low - _others(high)).nan_to_num(0.0)
        upper = torch.sigmoid(high - _others(low)).nan_to_num(1.0)
        return Reach(*tightened(lower, upper), self.labels, self.alpha)


def _others(logits: Tensor) -> Tensor:
    """Return, for each class, the logarithm of the sum of the exponentials of all others."""
    n_classes = logits.shape[1]
    own = torch.eye(n_classes, dtype=torch.bool, device=logits.device)
    return logits[:, None].expand(-1, n_classes, -1).masked_fill(own, -torch.inf).logsumexp(dim=2)


def tightened(lower: Tensor, upper: Tensor) -> tuple[Tensor, Tensor]:
    """Use that the probabilities of an example sum to one."""
    lower, upper = lower.clamp(0, 1), upper.clamp(0, 1)
    least = 1 - (upper.sum(dim=1, keepdim=True) - upper)
    most = 1 - (lower.sum(dim=1, keepdim=True) - lower)
    return torch.maximum(lower, least), torch.minimum(upper, most)
