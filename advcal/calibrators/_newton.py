"""Logistic regression on a few features, many times over, with slopes that are not negative."""

from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn.functional import softplus

_STEPS = 100
_GRADIENT = 1e-9  # per example


class Curves(NamedTuple):
    """What some curves are fitted to."""

    phi: Tensor  # features and a 1, (n, curves, features + 1)
    hits: Tensor  # whether the label is of the class, (n, curves)
    valid: Tensor  # whether the log-odds are, (n, curves)

    def losses(self, theta: Tensor, ridge: float) -> tuple[Tensor, Tensor]:
        """Return the summed loss of each curve, and the log-odds."""
        s = torch.einsum("ncj,cj->nc", self.phi, theta)
        loss = (softplus(s) - self.hits * s) * self.valid
        return loss.sum(dim=0) + ridge * (theta - _identity(theta)).square().sum(dim=1), s


def _identity(theta: Tensor) -> Tensor:
    same = torch.ones_like(theta)
    same[:, -1] = 0.0
    return same


def newton(curves: Curves, ridge: float) -> tuple[Tensor, float]:
    """Fit curves with slopes that are not negative by a projected Newton method, each apart.

    Returns:
        The slopes and offsets, and the trace that `warn_of_harm` takes.
    """
    n, count, width = curves.phi.shape
    theta = _identity(curves.phi.new_zeros(count, width))
    lowest = torch.full_like(theta[0], -torch.inf)
    lowest[:-1] = 0.0
    loss, s = curves.losses(theta, ridge)
    for _ in range(_STEPS):
        p = s.sigmoid()
        residual = (p - curves.hits) * curves.valid
        gradient = torch.einsum("nc,ncj->cj", residual, curves.phi)
        gradient += 2 * ridge * (theta - _identity(theta))
        free = (theta > lowest) | (gradient < 0)
        if float((gradient * free).abs().max()) <= _GRADIENT * n:
            break
        weighted = curves.phi * (p * (1 - p) * curves.valid)[:, :, None]
        hessian = torch.einsum("ncj,nck->cjk", weighted, curves.phi)
        both = free[:, :, None] & free[:, None]
        damping = 2 * ridge + 1e-9 * hessian.diagonal(dim1=1, dim2=2).amax(dim=1) + 1e-9
        hessian = torch.where(both, hessian, 0.0) + torch.diag_embed(
            torch.where(free, damping[:, None], 1.0)
        )
        step = torch.linalg.solve(hessian, gradient * free)
        scale = torch.ones_like(theta[:, :1])
        for _ in range(30):
            moved = torch.maximum(theta - scale * step, lowest)
            found, moved_s = curves.losses(moved, ridge)
            worse = ~(found <= loss)
            if not bool(worse.any()):
                break
            scale = torch.where(worse[:, None], scale / 2, scale)
        theta = torch.where(worse[:, None], theta, moved)
        if bool(torch.where(worse, True, loss - found <= 1e-13 * (1 + loss)).all()):
            break
        loss, s = torch.where(worse, loss, found), torch.where(worse, s, moved_s)
    return theta, _trace(curves, theta, ridge)


def _trace(curves: Curves, theta: Tensor, ridge: float) -> float:
    """Return the trace of the gradients' covariance in units of the curvature, of all curves."""
    p = curves.losses(theta, ridge)[1].sigmoid()
    squares = (p - curves.hits).square() * curves.valid
    slopes = torch.einsum("ncj,nck->cjk", curves.phi * squares[:, :, None], curves.phi)
    weighted = curves.phi * (p * (1 - p) * curves.valid)[:, :, None]
    curvature = torch.einsum("ncj,nck->cjk", weighted, curves.phi)
    curvature += (2 * ridge + 1e-9 * (1 + curvature.amax())) * torch.eye(
        len(theta[0]), dtype=theta.dtype, device=theta.device
    )
    return float(torch.linalg.solve(curvature, slopes).diagonal(dim1=1, dim2=2).sum())
