"""Noisy draws of an example, and how many of them reach each threshold of a score."""

import dataclasses
from collections.abc import Iterator

import torch
from torch import Tensor

from advcal import _answers
from advcal._answers import logits_of
from advcal._sums import exact
from advcal._typing import Model
from advcal.certify._noise import noisy, pilot
from advcal.certify._shift import FINE


@dataclasses.dataclass(frozen=True)
class Drawer:
    """Counts of the draws of one example."""

    model: Model
    sigma: float
    votes: bool
    size: int
    n_pilot: int

    def counted(
        self, point: Tensor, seed: int, looks: list[int], earlier: tuple[Tensor, int, Tensor] | None
    ) -> Iterator[tuple[Tensor, Tensor, Tensor]]:
        """Yield the guess, the number of draws and the counts so far, at each look."""
        if earlier is None:
            guess, done, counts = self._guess(point, seed), 0, None
        else:
            guess, done, counts = earlier
        for look in looks:
            for points in noisy(
                point, seed, sigma=self.sigma, start=done, stop=look, size=self.size
            ):
                logits = logits_of(self.model, points)
                if counts is not None and len(counts) != logits.shape[1] + 1:
                    raise ValueError(
                        f"expected a model of {len(counts) - 1} classes as in state, got logits "
                        f"of {logits.shape[1]}"
                    )
                part = self._counts(logits, guess)
                counts = part if counts is None else counts + part
            done = look
            assert counts is not None
            yield guess, torch.tensor(look, device="cpu"), counts

    def _guess(self, point: Tensor, seed: int) -> Tensor:
        points = pilot(point, seed, sigma=self.sigma, n=self.n_pilot)
        parts = [self._scores(logits_of(self.model, rows)) for rows in points.split(self.size)]
        return torch.cat(parts).sum(dim=0).argmax().cpu()

    def _scores(self, logits: Tensor) -> Tensor:
        """Return what the smoothed classifier is the mean of, `(draws, classes)`."""
        if self.votes:
            return exact(torch.nn.functional.one_hot(logits.argmax(dim=1), logits.shape[1]))
        return exact(_answers.with_softmax(logits)).softmax(dim=1)

    def _counts(self, logits: Tensor, guess: Tensor) -> Tensor:
        if self.votes:  # a vote for the guess is a lead, and no other is
            votes = logits.argmax(dim=1).bincount(minlength=logits.shape[1]).cpu()
            return torch.cat([votes, votes[guess][None]])[:, None]
        scores = self._scores(logits).cpu()
        own = scores[:, guess]
        others = scores.index_fill(1, guess, -torch.inf).amax(dim=1)
        scores = torch.cat([scores, ((1 + own - others) / 2)[:, None]], dim=1)
        t = torch.from_numpy(FINE.thresholds)
        bucket = torch.bucketize(scores, t, right=True)  # how many thresholds it reaches
        kinds, cells = scores.shape[1], len(t) + 1
        bucket += torch.arange(kinds, device="cpu") * cells
        histogram = torch.bincount(bucket.flatten(), minlength=kinds * cells).view(kinds, cells)
        return histogram.flip(1).cumsum(1).flip(1)[:, 1:]
