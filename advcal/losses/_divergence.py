"""The Kullback-Leibler divergence of two predictions, and the entropy of one."""

import torch
from torch import Tensor


def divergence(log_p: Tensor, log_q: Tensor) -> Tensor:
    r"""Compute $\sum_k p_k (\log p_k - \log q_k)$ per example; a class of no probability adds 0."""
    return (log_p.exp() * (_finite(log_p) - _finite(log_q))).sum(dim=1)


def entropy(log_p: Tensor) -> Tensor:
    r"""Compute $-\sum_k p_k \log p_k$ per example; a class of no probability adds 0."""
    return -(log_p.exp() * _finite(log_p)).sum(dim=1)


def _finite(log_p: Tensor) -> Tensor:
    return log_p.clamp_min(torch.finfo(log_p.dtype).min)
