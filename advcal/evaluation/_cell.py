"""One evaluation of a sweep by itself, so that another process can make it."""

import copy
import dataclasses
import secrets
from collections.abc import Generator, Iterable
from typing import Any, NamedTuple

import torch

from advcal import _targets
from advcal._pass import Way
from advcal._targets import Targets
from advcal._typing import Attack, Batch, Model
from advcal.evaluation import _lines
from advcal.evaluation._evaluate import evaluating
from advcal.evaluation._lines import NAMES, Key, Record


class Cell(NamedTuple):
    """One evaluation that is wanted."""

    key: Key
    settings: dict[str, str]  # that its record must be made with
    model: Model
    batches: Iterable[Batch]
    attack: Attack | None
    targets: Targets | None


class Run(NamedTuple):
    """What all evaluations have in common."""

    way: Way
    n_bins: int
    all_reduce: bool
    random: torch.Tensor  # the state of the global generator that each begins with


def steps_of(cell: Cell, run: Run) -> Generator[None, None, Record]:
    """Make a record, with a stop before each batch."""
    attack, toward = _own(cell.attack), None
    if cell.targets is not None:
        toward = _targets.of_batches(cell.targets)
    with torch.random.fork_rng(devices=[]):
        torch.set_rng_state(run.random)
        work = evaluating(
            cell.model, cell.batches, attack, toward, run.way, run.n_bins, run.all_reduce
        )
        found = yield from work
    names = dict(zip(NAMES, cell.key, strict=True))
    return _lines.sealed({**names, **found.as_dict(), "settings": cell.settings})


def _own(attack: Attack | None) -> Attack | None:
    """Copy an attack that draws from generators of its own, which stay as they are."""
    parts = _targets.within(attack)
    drawing = [each for each in parts if isinstance(each, torch.Generator)]
    if not drawing:
        return attack
    memo: dict[int, Any] = {id(each): each for each in parts if not _targets.inside(each)}
    for each in drawing:
        memo[id(each)] = torch.Generator(each.device).set_state(each.get_state())
    return copy.deepcopy(attack, memo)


@dataclasses.dataclass(frozen=True)
class Item:
    """What `map` sends."""

    cell: Cell
    run: Run

    def __dask_tokenize__(self) -> str:
        """Return another name each time, lest Dask reads all that is in here to find one."""
        return secrets.token_hex(16)


def made(item: Item) -> Record:
    """Make a record; what `map` calls."""
    steps = steps_of(item.cell, item.run)
    while True:
        try:
            next(steps)
        except StopIteration as end:
            record: Record = end.value
            return record
