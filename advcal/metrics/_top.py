"""The top-label view of probabilities: how confident, and whether right."""

from collections.abc import Iterator

import torch
from torch import Tensor

from advcal import _checks


def checked_rows(p: Tensor, y: Tensor) -> Iterator[tuple[Tensor, Tensor]]:
    """Yield the rows in runs that fit a processor's cache, each checked as it passes."""
    for rows in _checks.row_chunks(p):
        _checks.probability_rows(p[rows], rows.start)
        yield p[rows], y[rows]


def top_label(p: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
    """Return the highest probability (float64) and whether it is the label's, each `(n,)`.

    Of equal probabilities the first class is the prediction, as with `argmax`.
    """
    highest = p.amax(dim=1)
    correct = p.gather(1, y[:, None])[:, 0] == highest
    if torch.count_nonzero(p == highest[:, None]) != len(p):
        correct = p.argmax(dim=1) == y
    return highest.double(), correct
