"""Where a confidence is to go: up by the log-odds of the label, down by the entropy."""

import torch
from torch import Tensor

from advcal._logits import Apart, log_odds, off_one, slope_of_log_odds, slope_of_renyi
from advcal._sums import wide
from advcal.attacks._keeping import Look, Stage

# The order of the entropy at the first step, of two in turn at each new beginning, or to a target,
# and at the last.
_FIRST_ORDERS, _TARGET_ORDER, _LAST_ORDER = (0.1, 0.5), 0.25, 8.0


class Towards:
    """Aim at a confidence of the label per example.

    If `tol` is None they are 0 and 1, as low and as high as it goes; `falls` if there are any 0.
    """

    def __init__(
        self, confidence: Tensor, tol: float | None, labels: Tensor, *, falls: bool
    ) -> None:
        self.confidence, self.tol, self.labels, self.falls = confidence, tol, labels, falls
        self.wanted = confidence.logit()
        self.sign = self.wanted.sign()

    def look(self, logits: Tensor, apart: Apart, stage: Stage) -> Look:
        """Lower the log-odds of the other classes, or raise the entropy if they are too low.

        The order of what has crossed rises half as far, as on the boundary all classes count.
        """
        odds, lower = slope_of_log_odds(apart)
        crossed = stage.crossed
        low = _TARGET_ORDER if crossed is None else _FIRST_ORDERS[stage.turn % 2]
        order = _order(low, stage.progress)
        orders: float | Tensor = order
        if crossed is not None:
            slow = torch.full_like(odds, _order(low, stage.progress / 2))
            orders = torch.where(crossed, slow, order)
        flat = slope_of_renyi(apart, orders)
        odds = -odds
        above = odds > self.wanted
        rising = torch.where(above, orders, 0.0) if self.falls else None
        return Look(self._score(odds), torch.where(above[:, None], -flat, lower), above, rising)

    def score(self, logits: Tensor) -> Tensor:
        """Return how good logits are."""
        return self._score(-log_odds(logits, self.labels))

    def _score(self, odds: Tensor) -> Tensor:
        odds = wide(odds)
        if self.tol is None:
            return odds * self.sign
        miss = (odds - self.wanted).abs()
        near = (odds.sigmoid() - self.confidence).abs() <= self.tol
        return -miss.masked_fill(near, 0)


def _order(low: float, progress: float) -> float:
    return off_one(low * (_LAST_ORDER / low) ** progress)
