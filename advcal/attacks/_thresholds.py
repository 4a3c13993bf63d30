"""The thresholds of L1: how much to take off each offset, and which gradients are the largest.

A sort finds each of them, and on a processor takes longer than the passes of a small network. Where
values can be read without waiting for a device, a few sums in turn find the same.
"""

import numpy as np
import torch
from torch import Tensor

from advcal._sums import running, wide, widest
from advcal.attacks._balls import each_of, free_to_read

_TRIES = 12  # of the search for an amount, and …
_COUNTS = 10  # … of that for a number of entries; what takes longer is sorted
_COUNTABLE = 2**24  # entries, the most that float32 counts
_NARROW = 64  # coordinates, up to which a sort is as fast
_QUICK = 8  # steps towards an amount that is sure to be too small
_MARGIN, _ROUNDING = 2.0**-10, 2.0**-20  # of the sum to reach, and of the rounding of a sum
_CLOSE = 2.0**-48  # relative to the sum, or to the threshold
_BLOCKS = 96  # whose largest slopes tell which ones may be among the largest of all


def taken_at_least(
    size: Tensor, room: Tensor, eps: float | Tensor, few: int
) -> tuple[Tensor, Tensor]:
    """Find amounts that are no more than those of `taken_off`, in the precision of the sizes.

    A row is left as it is once it keeps something of no more than `few` coordinates.

    Args:
        size: Sizes >= 0, shape `(n, d)`.
        room: How much may be left of each.
        eps: The sums to reach, a number or shape `(n, 1)`.
        few: So few coordinates are enough.

    Returns:
        The amounts, shape `(n, 1)`, and what they leave of each size.
    """
    eps = eps.to(size.dtype) if isinstance(eps, Tensor) else eps
    above = eps * (1 + _MARGIN) + _ROUNDING * size.sum(dim=1, keepdim=True)
    amount, left = torch.zeros_like(above), size.minimum(room)
    for _ in range(_QUICK):
        excess, n = left.sum(dim=1, keepdim=True) - above, left.sign().sum(dim=1, keepdim=True)
        # The sum falls by no more than all that keep something: such a step leads not too far.
        on = (excess > _MARGIN * above) & (n > few)
        if not bool(on.any()):
            break
        amount = torch.where(on, amount + excess / n, amount)
        left = torch.minimum((size - amount).clamp_min_(0), room)
    return amount, left


def taken_off(
    size: Tensor, room: Tensor, eps: float | Tensor, least: Tensor | None = None
) -> Tensor:
    """Find the amount to take off each `size` so that what is left, cut at `room`, sums to `eps`.

    What is left falls piecewise linearly in that amount, with a kink where a coordinate comes off
    its cut (`size - room`) and one where it ends (`size`).

    Args:
        size: Sizes >= 0, float64, shape `(n, d)`.
        room: How much may be left of each.
        eps: The sums to reach, a number or shape `(n, 1)`.
        least: Amounts that are less, shape `(n, 1)`, if some are known.

    Returns:
        The amounts, shape `(n, 1)`; 0 if there is no more than `eps`.
    """
    if size.requires_grad or not free_to_read(size) or size.shape[1] < _NARROW:
        return _by_sort(size, room, eps)
    eps = torch.as_tensor(eps, dtype=size.dtype, device=size.device).expand(len(size), 1)
    amount, done = _by_newton(size, room, eps, least)
    left = (~done[:, 0]).nonzero()[:, 0]
    if len(left):
        amount[left] = _by_sort(size[left], room[left], eps[left])
    return amount


def _by_newton(
    size: Tensor, room: Tensor, eps: Tensor, least: Tensor | None = None
) -> tuple[Tensor, Tensor]:
    """Step along the lines from kink to kink, and halve the bracket where that leads out of it.

    On the piece that has the root, a step is exact. Returns the amounts, and which are found.
    """
    size = size * room.sign()  # what may keep nothing bends no line
    eps = torch.minimum(eps, size.minimum(room).sum(dim=1, keepdim=True))  # if all is less, 0
    amount = low = torch.zeros_like(eps) if least is None else least.to(eps)
    high, close = size.amax(dim=1, keepdim=True), _CLOSE * eps
    done = torch.zeros_like(eps, dtype=torch.bool)
    for _ in range(_TRIES):
        over = size - amount
        left = over.clamp_min(0)
        excess = torch.minimum(left, room, out=left).sum(dim=1, keepdim=True) - eps
        cut = over.sub_(room).clamp_min_(0).sign_()
        slope = left.sign_().sub_(cut).sum(dim=1, keepdim=True)
        done = done | (excess.abs() <= torch.maximum(close, _CLOSE * amount * slope))
        if bool(done.all()):
            break
        more = excess > 0
        low, high = torch.where(more, amount, low), torch.where(more, high, amount)
        there = amount + excess / slope
        if not torch.equal(there, bounded := there.clamp(low, high)):
            there = torch.where(there == bounded, there, (low + high) / 2)
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
        What each gets, with the sign of its slope and in that dtype, shape `(n, d)`.
    """
    budget = each_of(budget, slope, widest(slope.device))[:, None]
    if not free_to_read(slope) or slope.shape[1] < 2 * _BLOCKS:
        return _spent_in_order(slope, room, budget)
    steep = slope.abs().mul_(room.sign())  # those without room are not among the steepest
    chosen, all_are = _steepest(steep)
    columns, filled = gathered(chosen)
    few, takes = (each.gather(1, columns).masked_fill(~filled, 0) for each in (slope, room))
    got = _spent_in_order(few, takes, budget)
    # What the rows are filled up with gets nothing, which a coordinate of theirs is given too.
    each = torch.zeros_like(slope).scatter_add_(1, columns, got)
    short = ~all_are & (wide(takes).sum(dim=1) < budget[:, 0])
    left = short.nonzero()[:, 0]
    if len(left):
        each[left] = _spent_in_order(slope[left], room[left], budget[left])
    return each


def _spent_in_order(slope: Tensor, room: Tensor, budget: Tensor) -> Tensor:
    steep = slope.abs()
    room = room.masked_fill(steep == 0, 0)
    order = steep.argsort(dim=1, descending=True, stable=True)
    room = wide(room.gather(1, order))
    room = torch.where(room.isinf(), budget, room)
    got = (budget - (running(room, 1) - room)).clamp_min(0).minimum(room)
    got = torch.zeros_like(got).scatter(1, order, got)
    return got.to(slope.dtype) * slope.sign()


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
    how wide the other rows make them. Cells that are not used have the row's first column that is
    chosen, or 0.
    """
    # What is below is for processors, on which NumPy finds them several times as fast.
    found = torch.from_numpy(np.flatnonzero(chosen.numpy()))
    rows = found.div(chosen.shape[1], rounding_mode="floor")
    columns = found - rows * chosen.shape[1]
    counts = torch.bincount(rows, minlength=len(chosen))
    width = -(-max(int(counts.max()), 1) // 64) * 64
    filled = torch.arange(width, device="cpu") < counts[:, None]
    table = torch.zeros_like(filled, dtype=torch.int64).masked_scatter_(filled, columns)
    return torch.where(filled, table, table[:, :1]), filled


def largest(values: Tensor, n: Tensor) -> Tensor:
    """Mark a row's `n` largest values above 0, of equal ones the first: 1, and 0 elsewhere.

    Args:
        values: Values, shape `(rows, d)`.
        n: At least 0, shape `(rows,)`.

    Returns:
        The marks, in the dtype of the values.
    """
    if not free_to_read(values):
        return _first(values, n)
    level = reached_by(values, n.clamp_min(1))
    level = level.masked_fill(n[:, None] < 1, torch.inf)
    chosen = torch.ge(values, level, out=torch.empty_like(values))
    tied = (counted(chosen) > n[:, None])[:, 0].nonzero()[:, 0]
    if len(tied):
        chosen[tied] = _first(values[tied], n[tied])
    return chosen


def _first(values: Tensor, n: Tensor) -> Tensor:
    order = values.argsort(dim=1, descending=True, stable=True)
    rank = torch.arange(order.shape[1], device=order.device).expand_as(order)
    chosen = (rank < n[:, None]) & (values.gather(1, order) > 0)
    return torch.zeros_like(values).scatter_(1, order, chosen.to(values.dtype))


def reached_by(values: Tensor, n: Tensor) -> Tensor:
    """Find what a row's `n` largest values reach, and of the others those equal to the nth alone.

    Args:
        values: Values, shape `(rows, d)`.
        n: From 1 to `d`, shape `(rows,)`.

    Returns:
        The thresholds, shape `(rows, 1)`, always above 0: entries of 0 or less never reach them.
    """
    smallest = _smallest(values)
    if not free_to_read(values) or values.shape[1] > _COUNTABLE:
        return _nth(values, n.long(), values.shape[1]).clamp_min(smallest)
    reach = torch.empty_like(values)  # 1 or 0: a processor is faster with numbers than with bools
    low, high = torch.full_like(values[:, :1], smallest), values.amax(dim=1, keepdim=True)
    n_low = counted(torch.ge(values, low, out=reach))
    wanted = n[:, None].to(n_low.dtype)
    n_high, level, found = torch.full_like(n_low, 0.5), low, n_low <= wanted
    for i in range(1, _COUNTS + 1):
        if bool(found.all()):
            break
        # The logarithm of the number falls about evenly; now and then halve, if it does not.
        share = (n_low / wanted).log() / (n_low / n_high).log()
        there = low + (high - low) * (share.clamp(0.02, 0.98) if i % 4 else 0.5)
        n_there = counted(torch.ge(values, there, out=reach))
        level = torch.where(found, level, there)
        more, found = n_there > wanted, found | (n_there == wanted)
        low, n_low = torch.where(more, there, low), torch.where(more, n_there, n_low)
        high = torch.where(more, high, there)
        n_high = torch.where(more, n_high, n_there.clamp_min(0.5))
    left = (~found[:, 0]).nonzero()[:, 0]
    if len(left):
        nth = _nth(values[left], n[left].long(), int(n[left].max()))
        level[left] = nth.clamp_min(smallest).to(level.dtype)
    return level


def counted(marks: Tensor) -> Tensor:
    """Count the marks of each row, numbers that are 1 or 0, shape `(n, 1)`."""
    return marks.sum(dim=1, keepdim=True, dtype=torch.promote_types(marks.dtype, torch.float32))


def _nth(values: Tensor, n: Tensor, most: int) -> Tensor:
    return values.topk(most, dim=1).values.gather(1, n[:, None] - 1)


def _smallest(like: Tensor) -> float:
    """Return the smallest number above 0 of a dtype."""
    info = torch.finfo(like.dtype)
    return info.tiny * info.eps
