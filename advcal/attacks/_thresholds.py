"""The thresholds of L1: how much to take off each offset, and which gradients are the largest.

A sort finds each of them, and on a processor takes longer than the passes of a small network. Where
values can be read without waiting for a device, a few sums in turn find the same.
"""

import torch
from torch import Tensor

from advcal._sums import running, wide, widest
from advcal.attacks._balls import each_of, free_to_read

_TRIES = 12  # of the search for an amount, and …
_COUNTS = 40  # … of that for a number of entries; what takes longer is sorted
_NARROW = 512  # coordinates, up to which a sort is as fast
_CLOSE = 2.0**-48  # relative to the sum, or to the threshold
_BLOCKS = 96  # whose largest slopes tell which ones may be among the largest of all


def taken_off(size: Tensor, room: Tensor, eps: float | Tensor) -> Tensor:
    """Find the amount to take off each `size` so that what is left, cut at `room`, sums to `eps`.

    What is left falls piecewise linearly in that amount, with a kink where a coordinate comes off
    its cut (`size - room`) and one where it ends (`size`).

    Args:
        size: Sizes >= 0, float64, shape `(n, d)`.
        room: How much may be left of each.
        eps: The sums to reach, a number or shape `(n, 1)`.

    Returns:
        The amounts, shape `(n, 1)`; 0 if there is no more than `eps`.
    """
    if not free_to_read(size) or size.shape[1] < _NARROW:
        return _by_sort(size, room, eps)
    eps = torch.as_tensor(eps, dtype=size.dtype).expand(len(size), 1)
    amount, done = _by_newton(size, room, eps)
    left = (~done[:, 0]).nonzero()[:, 0]
    if len(left):
        amount[left] = _by_sort(size[left], room[left], eps[left])
    return amount


def _by_newton(size: Tensor, room: Tensor, eps: Tensor) -> tuple[Tensor, Tensor]:
    """Step along the lines from kink to kink, and halve the bracket where that leads out of it.

    On the piece that has the root, a step is exact. Returns the amounts, and which are found.
    """
    size = size * room.sign()  # what may keep nothing bends no line
    amount = low = torch.zeros_like(eps)
    high = size.amax(dim=1, keepdim=True)
    done = torch.zeros_like(eps, dtype=torch.bool)
    for _ in range(_TRIES):
        over = size - amount
        left = over.clamp_min(0).minimum(room)
        excess = left.sum(dim=1, keepdim=True) - eps
        cut = over.sub_(room).clamp_min_(0).sign_().sum(dim=1, keepdim=True)
        slope = left.sign_().sum(dim=1, keepdim=True) - cut
        low, high = torch.where(excess > 0, amount, low), torch.where(excess > 0, high, amount)
        step = excess / slope
        done = done | (excess.abs() <= _CLOSE * eps) | (step.abs() <= _CLOSE * amount)
        done = done | ((amount == 0) & (excess <= 0))
        if bool(done.all()):
            break
        there = amount + step
        there = torch.where((there > low) & (there <= high), there, (low + high) / 2)
        amount = torch.where(done, amount, there)
    return amount, done


def _by_sort(size: Tensor, room: Tensor, eps: float | Tensor) -> Tensor:
    kinks, order = torch.cat([size, (size - room).clamp_min(0)], dim=1).sort(1, descending=True)
    slope = torch.where(order < size.shape[1], 1, -1).cumsum(dim=1).to(size.dtype)
    gaps = kinks[:, :-1] - kinks[:, 1:]
    left = torch.cat([torch.zeros_like(gaps[:, :1]), running(slope[:, :-1] * gaps, 1)], dim=1)
    after = (left < eps).sum(dim=1, keepdim=True).clamp_max(left.shape[1] - 1)
    before = (after - 1).clamp_min(0)
    rest = (eps - left.gather(1, before)) / slope.gather(1, before).clamp_min(1)
    return (kinks.gather(1, before) - rest).clamp_min(0)


def spent(slope: Tensor, room: Tensor, budget: float | Tensor) -> Tensor:
    """Spend a budget on the coordinates of the largest slope first, each as far as it has room.

    Args:
        slope: Slopes, shape `(n, d)`; nothing is spent where they are 0. Of equal ones the first
            comes first.
        room: How much each takes; an infinite one takes all.
        budget: How much to spend, a number or shape `(n,)`.

    Returns:
        What each gets, at least 0, in the dtype of sums, shape `(n, d)`.
    """
    budget = each_of(budget, slope, widest(slope.device))[:, None]
    if not free_to_read(slope) or slope.shape[1] < 2 * _BLOCKS:
        return _spent_in_order(slope.abs(), room.masked_fill(slope == 0, 0), budget)
    steep = slope.abs() * room.sign()  # those without room are not among the steepest
    chosen, all_are = _steepest(steep)
    columns, filled = gathered(chosen)
    few, takes = (each.gather(1, columns).masked_fill(~filled, 0) for each in (steep, room))
    got = _spent_in_order(few, takes, budget)
    # What the rows are filled up with gets nothing, which the first coordinate is given too.
    each = torch.zeros_like(steep, dtype=got.dtype).scatter_add_(1, columns, got)
    short = ~all_are & (wide(takes).sum(dim=1) < budget[:, 0])
    left = short.nonzero()[:, 0]
    if len(left):
        takes = room[left].masked_fill(steep[left] == 0, 0)
        each[left] = _spent_in_order(steep[left], takes, budget[left])
    return each


def _spent_in_order(steep: Tensor, room: Tensor, budget: Tensor) -> Tensor:
    order = steep.argsort(dim=1, descending=True, stable=True)
    room = wide(room.gather(1, order))
    room = torch.where(room.isinf(), budget, room)
    got = (budget - (running(room, 1) - room)).clamp_min(0).minimum(room)
    return torch.zeros_like(got).scatter(1, order, got)


def _steepest(steep: Tensor) -> tuple[Tensor, Tensor]:
    """Mark the largest entries, some dozens in each row, and tell if they are all but those of 0.

    They are those that reach the median of the largest in blocks, each of entries far apart.
    """
    n, per_block = len(steep), steep.shape[1] // _BLOCKS
    blocks = steep[:, : per_block * _BLOCKS].reshape(n, per_block, _BLOCKS)
    least = blocks.amax(dim=1).topk(_BLOCKS // 2, dim=1).values[:, -1:]
    return steep >= least.clamp_min(_smallest(steep)), least[:, 0] == 0


def gathered(chosen: Tensor) -> tuple[Tensor, Tensor]:
    """Return the columns that are chosen of each row, as a table, and which of its cells are used.

    Tables are as wide as a multiple of 64, for which a sum of floating numbers does not depend on
    how wide the other rows make them. Cells that are not used have the column 0.
    """
    rows, columns = chosen.nonzero().unbind(dim=1)
    counts = torch.bincount(rows, minlength=len(chosen))
    width = -(-max(int(counts.max()), 1) // 64) * 64
    filled = torch.arange(width) < counts[:, None]
    table = torch.zeros(filled.shape, dtype=torch.int64).masked_scatter_(filled, columns)
    return table, filled


def reached_by(values: Tensor, n: Tensor) -> Tensor:
    """Find what a row's `n` largest values reach, and of the others those equal to the nth alone.

    Args:
        values: Values >= 0, shape `(rows, d)`.
        n: From 1 to `d`, shape `(rows,)`.

    Returns:
        The thresholds, shape `(rows, 1)`, always above 0: entries of 0 never reach them.
    """
    if not free_to_read(values):
        return _nth(values, n, values.shape[1]).clamp_min(_smallest(values))
    low = torch.full_like(values[:, :1], _smallest(values))
    high, level, wanted = values.amax(dim=1, keepdim=True), low, n[:, None]
    n_low = (values >= low).sum(dim=1, keepdim=True)
    n_high, found = torch.zeros_like(n_low), n_low <= wanted
    for i in range(_COUNTS):
        if bool(found.all()):
            break
        share = 0.5 if i % 2 else ((n_low - wanted + 0.5) / (n_low - n_high)).clamp(0.02, 0.98)
        there = low + (high - low) * share
        n_there = (values >= there).sum(dim=1, keepdim=True)
        level = torch.where(found, level, there)
        more, found = n_there > wanted, found | (n_there == wanted)
        low, n_low = torch.where(more, there, low), torch.where(more, n_there, n_low)
        high, n_high = torch.where(more, high, there), torch.where(more, n_high, n_there)
    left = (~found[:, 0]).nonzero()[:, 0]
    if len(left):
        level[left] = _nth(values[left], n[left], int(n[left].max())).to(level.dtype)
    return level


def _nth(values: Tensor, n: Tensor, most: int) -> Tensor:
    return values.topk(most, dim=1).values.gather(1, n[:, None] - 1)


def _smallest(like: Tensor) -> float:
    """Return the smallest number above 0 of a dtype."""
    info = torch.finfo(like.dtype)
    return info.tiny * info.eps
