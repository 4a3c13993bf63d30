"""The best point that an attack has seen, per example."""

import torch
from torch import Tensor


class Best:
    """Keep, for each example, the points of the highest score.

    A score is a pair: `first` decides and `second` breaks ties. NaN never wins.
    """

    def __init__(self, points: Tensor) -> None:
        self.points = points.clone()
        self.first = torch.full(
            (len(points),), -torch.inf, dtype=torch.float64, device=points.device
        )
        self.second = self.first.clone()

    def offer(self, points: Tensor, first: Tensor, second: Tensor) -> Tensor:
        """Take the points that score higher and return which did, shape `(n,)`."""
        first, second = first.double(), second.double()
        better = (first > self.first) | ((first == self.first) & (second > self.second))
        self.first = torch.where(better, first, self.first)
        self.second = torch.where(better, second, self.second)
        self.points = select(better, points, self.points)
        return better


def select(condition: Tensor, yes: Tensor, no: Tensor) -> Tensor:
    """Choose per example: `condition` has shape `(n,)`, the rest `(n, ...)`."""
    return torch.where(condition.reshape(-1, *[1] * (yes.ndim - 1)), yes, no)
