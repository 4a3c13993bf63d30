"""A linear model of logits, learnt from the slopes that a descent takes anyway."""

import torch
from torch import Tensor

from advcal._logits import finite, lift, rivals
from advcal.attacks._balls import laid_out

_CLASSES = 10  # that have a row of the Jacobian: the label and the highest others


class Tangent:
    r"""By how much other classes lead the label near a point, as linear in the inputs.

    Each look at the network corrects what is known of the Jacobian $J$ by terms of rank one. If a
    slope $w$ of the logits has the gradient $g$, it is $w (g - J^\top w)^\top / \|w\|^2$; if a move
    $d$ has changed the leads by $c$, it is $(c - J d) d^\top / \|d\|^2$. The latter is Broyden's
    method, the former its adjoint. Takes the memory of the inputs for each class that has a row.
    """

    _at: Tensor  # the points that were learnt last, and by how much classes lead there
    _leads: Tensor

    def __init__(self, points: Tensor, logits: Tensor, labels: Tensor) -> None:
        """Know nothing yet, but for which classes have a row; that of the label stays 0."""
        self._label = labels[:, None]
        others = rivals(logits, labels, _CLASSES - 1)
        self._classes = torch.cat([self._label, others], dim=1)
        flat = lift(points).flatten(1)
        self._rows = flat.new_zeros(*self._classes.shape, flat.shape[1])
        self._one = flat.new_ones(len(flat), 1, 1)
        self._others = torch.ones_like(self._classes, dtype=flat.dtype).unsqueeze(2)
        self._others[:, 0] = 0
        self._follows = False

    def jump(self) -> None:
        """Take the next point as no move from the last one."""
        self._follows = False

    def learn(self, points: Tensor, logits: Tensor, slope: Tensor, gradient: Tensor) -> None:
        """Take in logits, a slope of them of sums 0, and its gradient at points `(n, ...)`."""
        rows, dtype = self._rows, self._rows.dtype
        at = points.flatten(1).unsqueeze(2).to(dtype)
        leads = finite(logits.gather(1, self._classes)).unsqueeze(2).to(dtype)
        leads = leads - leads[:, :1]
        if self._follows:
            move = at - self._at
            miss = leads - torch.baddbmm(self._leads, rows, move)
            _correct(rows, miss, move.mT, move.square().sum(dim=1, keepdim=True))
        self._at, self._leads, self._follows = at, leads, True
        size = slope.scatter(1, self._label, 0).square().sum(dim=1).to(dtype)
        self._slope = slope.gather(1, self._classes).unsqueeze(2).to(dtype) * self._others
        self._gradient = gradient.flatten(1).unsqueeze(1).to(dtype)
        missing = torch.baddbmm(self._gradient, self._slope.mT, rows, alpha=-1)
        _correct(rows, self._slope, missing, size[:, None, None])

    def raise_entropy(self, order: Tensor, margin: Tensor) -> None:
        """Set the order of the entropy, 0 if none is to rise, and the least lead of the label.

        What the rows do not tell of the last gradient, as of classes without one, is taken as
        constant, and all of it if no entropy is to rise.
        """
        order = order[:, None, None].to(self._rows.dtype)
        falls = order > 0
        known = (self._slope * falls).mT
        self._rest = torch.baddbmm(self._gradient, known, self._rows, alpha=-1)
        self._order, self._bend = order, (1 - order).sign() * falls
        margin = margin[:, None, None].to(order.dtype)
        self._from = self._leads - margin * (1 - self._others)

    def descent_at(self, points: Tensor) -> Tensor:
        """Return the way up in entropy, or back to a label that is lost, at points `(n, ...)`."""
        move = points.flatten(1).unsqueeze(2) - self._at
        leads = torch.baddbmm(self._from, self._rows, move)
        slope = leads.softmax(dim=1) - (self._order * leads).softmax(dim=1)
        largest = slope.abs().amax(dim=1, keepdim=True)
        slope *= self._bend / largest.clamp_min(torch.finfo(slope.dtype).tiny)
        slope.scatter_add_(1, leads.argmax(dim=1, keepdim=True), self._one)
        down = torch.baddbmm(self._rest, slope.mT, self._rows, beta=-1, alpha=-1)
        return laid_out(down.reshape(points.shape), points)


def _correct(rows: Tensor, left: Tensor, right: Tensor, size: Tensor) -> None:
    rows.baddbmm_(left / size.clamp_min(torch.finfo(size.dtype).tiny), right)
