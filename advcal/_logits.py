"""Arithmetic on logits and log-probabilities, per example, for losses, attacks and objectives.

A masked class is one that a model rules out by a logit of minus infinity, or by a number far below
the others, as `masked` says. It has no probability, and what is computed here and of this is the
same as with the class sliced off.
"""

import math
from collections.abc import Sequence
from typing import NamedTuple, Self

import torch
from torch import Tensor
from torch.nn.functional import softplus

from advcal._sums import wide


def lift(values: Tensor) -> Tensor:
    """Lift half precision to float32, in which a probability can be told from 1."""
    return values.float() if values.dtype.itemsize < 4 else values


# A finite logit masks its class if it is this far below 0: beyond -5,000, where a probability is 0
# in float64 too, and twenty times as far as the two highest. So a mask of -1e4 is seen beside
# logits up to 500, and the logits of a model that is saturated, or not normalised, are no masks.
_FAR, _LEAST = -20.0, 250.0
_SURE = -500.0  # log-odds below which every entropy is 0, in float64 too


def masked(logits: Tensor) -> Tensor:
    """Tell which classes are masked, shape `(n, classes)`; of the two highest at most by `-inf`."""
    highest = logits.detach().topk(2, dim=1).values.abs().amax(dim=1, keepdim=True)
    return logits.detach() <= _FAR * highest.clamp_min(_LEAST)


def mean_of_unmasked(values: Tensor, logits: Tensor) -> Tensor:
    """Take the mean of values `(n, classes)` over the classes that are not masked."""
    off = masked(logits)
    share = off.shape[1] / (~off).sum(dim=1)
    return torch.where(off, 0.0, values).mean(dim=1) * share.to(values.dtype)


def rivals(logits: Tensor, labels: Tensor, n: int) -> Tensor:
    """Return the `n` other classes of the highest logits, all if there are fewer, highest first.

    The label is none of them, not even if it ties with a class of logit minus infinity.
    """
    others = torch.arange(logits.shape[1] - 1, device=logits.device).expand(len(logits), -1)
    others = others + (others >= labels[:, None])
    highest = logits.detach().gather(1, others).topk(min(n, others.shape[1]), dim=1).indices
    return others.gather(1, highest)


def without_label(logits: Tensor, labels: Tensor) -> Tensor:
    """Put the label's own logit to minus infinity, for a maximum or a sum; `rivals` ranks."""
    return logits.scatter(1, labels[:, None], -torch.inf)


class Apart(NamedTuple):
    """Logits with the label's taken out, each with a row per example."""

    column: Tensor  # the labels, shape `(n, 1)`
    label: Tensor  # their logits, shape `(n, 1)`
    others: Tensor  # the logits, minus infinity at the label

    @classmethod
    def of(cls, logits: Tensor, labels: Tensor) -> Self:
        """Take labels `(n,)` out of logits `(n, classes)`."""
        column = labels[:, None]
        return cls(column, logits.gather(1, column), logits.scatter(1, column, -torch.inf))


def log_odds(logits: Tensor, labels: Tensor) -> Tensor:
    r"""Return $\log\sum_{k \ne y} e^{z_k} - z_y$, of which cross-entropy is the softplus.

    It rises and falls with the cross-entropy and does not go flat when the softmax saturates.
    """
    label = logits.gather(1, labels[:, None])[:, 0]
    # If all others are masked: finite, so that no gradient is NaN.
    others = without_label(logits, labels).clamp_min(torch.finfo(logits.dtype).min)
    return others.logsumexp(dim=1) - label


def slope_of_log_odds(apart: Apart) -> tuple[Tensor, Tensor]:
    """Return `log_odds` and their gradient, -1 at the label and 1 in all at the other classes."""
    total = apart.others.logsumexp(dim=1, keepdim=True)
    slope = (apart.others - total).exp_().scatter_(1, apart.column, -1)
    return (total - apart.label)[:, 0], slope


def divergence(log_p: Tensor, log_q: Tensor) -> Tensor:
    r"""Compute $\sum_k p_k (\log p_k - \log q_k)$ per example; a class of no probability adds 0."""
    return (log_p.exp() * (finite(log_p) - finite(log_q))).sum(dim=1)


def entropy(log_p: Tensor) -> Tensor:
    r"""Compute $-\sum_k p_k \log p_k$ per example; a class of no probability adds 0."""
    return -(log_p.exp() * finite(log_p)).sum(dim=1)


def renyi(logits: Tensor, labels: Tensor, order: float) -> Tensor:
    r"""Compute the Rényi entropy $\frac{1}{1 - \beta} \log \sum_k p_k^\beta$, wide.

    Written in the distances of the logits to the label's, so that the gradient is exact if the
    label has all the probability. If not even that tells it from 0, log-odds stand in.
    """
    order = off_one(order)
    logits = wide(logits)
    others = without_label(logits, labels) - logits.gather(1, labels[:, None])
    odds = others.logsumexp(dim=1)
    value = (softplus((order * others).logsumexp(dim=1)) - order * softplus(odds)) / (1 - order)
    return torch.where(odds > _sure(odds), value, odds)


def off_one(order: float) -> float:
    """Return an order of the entropy, or 1.01 if it is too near 1 to divide by the difference."""
    return order if abs(order - 1) > 0.01 else 1.01


def _sure(odds: Tensor) -> float:
    return _SURE if odds.dtype == torch.float64 else _SURE / 6  # where no exponential is 0 yet


def slope_of_renyi(apart: Apart, order: float | Tensor) -> Tensor:
    r"""Return the gradient of `renyi`, of an order or one for each row, in the dtype of the logits.

    In the distances $s_k$ of the others to the label it is $\frac{\beta}{1 - \beta}
    (e^{\beta s_k} / \sum_j e^{\beta s_j} - e^{s_k} / \sum_j e^{s_j})$, sums over the label too.
    Orders of rows have to be `off_one`.
    """
    order = order.unsqueeze(1) if isinstance(order, Tensor) else off_one(order)
    others = wide(apart.others) - apart.label
    odds, bent = others.logsumexp(dim=1, keepdim=True), order * others
    more = (bent - softplus(bent.logsumexp(dim=1, keepdim=True))).exp_()
    slope = (more - (others - softplus(odds)).exp_()) * (order / (1 - order))
    slope = torch.where(odds > _sure(odds), slope, (others - odds).exp_())
    label = slope.sum(dim=1, keepdim=True).neg_()
    return slope.scatter_(1, apart.column, label).to(apart.label.dtype)


def log_mean_probs(logits: Sequence[Tensor]) -> Tensor:
    """Return the logarithm of the mean of the softmax of several logits `(n, classes)`."""
    log_p = torch.stack([lift(each) for each in logits]).log_softmax(dim=2)
    mean = finite(log_p).logsumexp(dim=0) - math.log(len(log_p))
    return mean.masked_fill(log_p.isneginf().all(dim=0), -torch.inf)  # of no gradient, not of NaN


def finite(logits: Tensor) -> Tensor:
    """Lift minus infinity, so far that 0 times the log-softmax is 0 and a probability stays 0."""
    return logits.clamp_min(torch.finfo(logits.dtype).min / 2)
