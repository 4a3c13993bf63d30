"""Arithmetic on logits and log-probabilities, per example, for losses, attacks and objectives.

A masked class is one of logit minus infinity: it has no probability, and nothing here that is
finite without it becomes infinite or NaN with it.
"""

import math
from collections.abc import Sequence

import torch
from torch import Tensor


def lift(values: Tensor) -> Tensor:
    """Lift half precision to float32, in which a probability can be told from 1."""
    return values.float() if values.dtype.itemsize < 4 else values


def without_label(logits: Tensor, labels: Tensor) -> Tensor:
    """Return the logits with the label's own put to minus infinity."""
    return logits.scatter(1, labels[:, None], -torch.inf)


def log_odds(logits: Tensor, labels: Tensor) -> Tensor:
    r"""Return $\log\sum_{k \ne y} e^{z_k} - z_y$, of which cross-entropy is the softplus.

    It rises and falls with the cross-entropy and does not go flat where the softmax saturates.
    """
    label = logits.gather(1, labels[:, None])[:, 0]
    return without_label(logits, labels).logsumexp(dim=1) - label


def divergence(log_p: Tensor, log_q: Tensor) -> Tensor:
    r"""Compute $\sum_k p_k (\log p_k - \log q_k)$ per example; a class of no probability adds 0."""
    return (log_p.exp() * (_finite(log_p) - _finite(log_q))).sum(dim=1)


def entropy(log_p: Tensor) -> Tensor:
    r"""Compute $-\sum_k p_k \log p_k$ per example; a class of no probability adds 0."""
    return -(log_p.exp() * _finite(log_p)).sum(dim=1)


def log_mean_probs(logits: Sequence[Tensor]) -> Tensor:
    """Return the logarithm of the mean of the softmax of several logits `(n, classes)`."""
    every = torch.stack([lift(each) for each in logits])
    return every.log_softmax(dim=2).logsumexp(dim=0) - math.log(len(every))


def _finite(log_p: Tensor) -> Tensor:
    return log_p.clamp_min(torch.finfo(log_p.dtype).min)
