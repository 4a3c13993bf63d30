"""Models x data sets x attacks x radii, in a file that a killed run goes on with."""

import dataclasses
import functools
import itertools
import os
import time
from collections.abc import Callable, Generator, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, closing
from pathlib import Path
from typing import Any, cast

import torch
from torch import distributed

from advcal import _checks, _digest, _files, _processes, _targets
from advcal._pass import Way, again
from advcal._targets import Targets
from advcal._typing import Batch, Forward, Model, Progress
from advcal.evaluation import _lines
from advcal.evaluation._cell import Cell, Item, Run, made, steps_of
from advcal.evaluation._corrupt import listed
from advcal.evaluation._fingerprint import fingerprint
from advcal.evaluation._lines import Key, Record
from advcal.evaluation._transfer import named


def sweep(
    models: Mapping[str, Model],
    batches: Mapping[str, Iterable[Batch]],
    attacks: Mapping[str, Any],
    path: str | os.PathLike[str] | None = None,
    *,
    eps: Sequence[float] | None = None,
    targets: Targets | None = None,
    map: Callable[..., Iterable[Any]] | None = None,
    n_bins: int = 15,
    autocast: torch.dtype | None = None,
    channels_last: bool = False,
    device: torch.device | str | None = None,
    forward: Forward | None = None,
    all_reduce: bool = False,
    progress: Progress | None = None,
) -> list[dict[str, Any]]:
    """Evaluate every model on every data set under every attack at every radius.

    With `path` each record is added to that file, a line of JSON, as soon as it is there. The same
    call goes on where a killed one stopped; a last line that was only half written is made again.
    More models, data sets, attacks or radii may join later. A line that this sweep does not want,
    that was damaged, or that was made with other weights, data, attack settings, `n_bins` or
    precision, is an error: nothing is mixed silently. Functions, methods and objects of yours are
    known by their code and all it refers to, a data set by the digests of its examples, in whatever
    order: it is read once before the work. Another sweep on the same file at the same time is
    refused. When all is done the lines are in the order of the records.

    Each evaluation begins with the random numbers that there are at the call, those of an attack's
    own `generator` too, and leaves them as they were. So a record depends on no other one, nor on
    who makes it: `map=` is the map of a `concurrent.futures` executor, a process pool, joblib or a
    `dask.distributed` client, which calls a function on other processes or machines. They must
    load what they are sent, hence models and attacks of modules, not of `__main__`, whose functions
    are sent by name alone. Workers that are forked can hang in PyTorch: spawn them. This process
    alone writes.

    Args:
        models: Names to models.
        batches: Names to iterables of `(inputs, labels, *rest)` that can be read again, such as
            lists, a `DataLoader`, or what `corruptions` and `read_corruptions` return.
        attacks: Names to attacks, each called with `eps=` if radii are given, such as
            `partial(pgd, steps=10)`; None is no attack, evaluated once, at `eps` 0.
        path: The file; nothing is written if None.
        eps: The radii, in units of the inputs; None for attacks that have their radius. At 0 no
            attack moves anything, and none is called.
        targets: The classes that attacks with `targeted=True` are to reach, as in `evaluate`.
        map: `map(function, items)` to the results, in any order, or to futures of them, such as
            `executor.map`; one after the other in this process if None.
        n_bins: The number of equal-width bins of the reliability tables.
        autocast: `torch.bfloat16` to run models and attacks in mixed precision.
        channels_last: Whether to lay out four-dimensional inputs channels last.
        device: The device to compute on; that of each model if None.
        forward: `(model, batch) -> logits` for models that take more of a batch than the inputs.
        all_reduce: Whether to sum over processes, as in `evaluate`; the first has the file.
        progress: A wrapper of an iterable that shows progress, such as `tqdm.tqdm`; of the batches
            of all evaluations left to make, or of these evaluations if there is a `map`.

    Returns:
        One dict per evaluation, by model, data set, attack and radius: `"model"`, `"data"`,
        `"attack"` and `"eps"`, what `Evaluation.as_dict` returns, and `"settings"`. They are ready
        for `pandas.DataFrame` and `table`. In the file an infinite NLL is the word `"Infinity"`,
        since JSON has no such number; read by a `sweep` it is a number again.

    Raises:
        TypeError: If an argument is of the wrong kind, or batches can be read only once.
        ValueError: If there are no models, data or attacks, a value is wrong, an attack is targeted
            and has no targets, or the file holds what this sweep does not make.
        BlockingIOError: If another sweep is writing the file.

    Example:
        >>> from functools import partial
        >>> from advcal.attacks import fgsm
        >>> data = {"clean": [(torch.eye(2), torch.tensor([0, 1]))]}
        >>> attacks = {"none": None, "FGSM": fgsm}
        >>> records = sweep({"identity": torch.nn.Identity()}, data, attacks, eps=[0.25, 0.75])
        >>> [(record["attack"], record["eps"], record["accuracy"]) for record in records]
        [('none', 0.0, 1.0), ('FGSM', 0.25, 1.0), ('FGSM', 0.75, 0.0)]
    """
    models = named("models", models)
    named("batches", batches, "iterables", lambda _, data: again(data))
    named("attacks", attacks, "attacks", _checks.optional(_checks.function))
    chosen = [None] if eps is None else listed("eps", eps)
    radii = [None if each is None else _checks.number("eps", each, least=0) for each in chosen]
    if path is not None:
        _checks.path("path", path)
    way = Way(autocast, channels_last, device, forward, progress)
    _checks.arguments(n_bins=n_bins, all_reduce=all_reduce, map=map)
    if map is not None and all_reduce:
        raise ValueError("expected map=None with all_reduce=True, got both")
    _aims(attacks, targets)
    settings = {"n_bins": str(n_bins), "autocast": str(autocast)}
    if forward is not None:
        settings["forward"] = fingerprint(forward)
    cells = _cells(models, batches, attacks, radii, targets, settings, all_reduce)
    run = Run(dataclasses.replace(way, progress=None), n_bins, all_reduce, torch.get_rng_state())
    file, group = None if path is None else Path(path), _group(all_reduce)
    writes = file is not None and (group is None or distributed.get_rank(group) == 0)
    with ExitStack() as stack:
        done = _processes.agreed(lambda: _opened(file, cells, stack), group)

        def keep(record: Record) -> None:
            done[_lines.key_of(record)] = record
            if file is not None and writes:
                _lines.append(file, record)

        todo = [cell for cell in cells if cell.key not in done]
        steps = _in_turn(todo, run, keep) if map is None else _over(map, todo, run, keep)
        n = _batches(todo) if map is None else len(todo)
        with closing(steps):
            for _ in steps if progress is None else progress(_Sized(steps, n)):
                pass
        records = {cell.key: done[cell.key] for cell in cells if cell.key in done}
        if file is not None and writes and [*done] != [*records]:
            _lines.ordered(file, records.values())
    return [*records.values()]


def _aims(attacks: Mapping[str, Any], targets: Targets | None) -> None:
    """Check that attacks have targets if they are targeted, and that there is one if there are."""
    known = {name: _targets.targeted(attack) for name, attack in attacks.items()}
    for name, attack in attacks.items():
        if known[name] or targets is None:
            _targets.given(attack, targets)
    if targets is not None and True not in known.values():
        raise ValueError(f"expected an attack with targeted=True for targets=, got {list(known)}")


def _cells(
    models: Mapping[str, Model],
    batches: Mapping[str, Iterable[Batch]],
    attacks: Mapping[str, Any],
    radii: Sequence[float | None],
    targets: Targets | None,
    common: Mapping[str, str],
    all_reduce: bool,
) -> list[Cell]:
    weights = {name: fingerprint(model) for name, model in models.items()}
    known = {name: fingerprint(attack) for name, attack in attacks.items()}
    data = _digests(batches, all_reduce)
    cells = []
    for model, source, name in itertools.product(models, batches, attacks):
        settings = {"model": weights[model], "data": data[source], "attack": known[name], **common}
        aims = targets if _targets.targeted(attacks[name]) else None
        if aims is not None:
            settings["targets"] = fingerprint(aims)
        for radius in [0.0] if attacks[name] is None else radii:
            attack = attacks[name] if radius != 0 else None
            if attack is not None and radius is not None:
                attack = functools.partial(attack, eps=radius)
            key = model, source, name, radius
            cells.append(Cell(key, settings, models[model], batches[source], attack, aims))
    return cells


def _digests(batches: Mapping[str, Iterable[Batch]], all_reduce: bool) -> dict[str, str]:
    """Digest each data set, the parts of all processes together."""
    digest = _digest.data()
    mine = {name: digest(each) for name, each in batches.items()}
    found = _processes.gathered(mine, _group(all_reduce))
    return {name: f"{sum(part[name] for part in found) % 2**128:032x}"[:16] for name in mine}


# --- the work --------------------------------------------------------------------------------


def _in_turn(
    cells: Sequence[Cell], run: Run, keep: Callable[[Record], None]
) -> Generator[None, None, None]:
    """Make one record after the other, with a stop before each batch."""
    for cell in cells:
        keep((yield from steps_of(cell, run)))


def _over(
    map: Callable[..., Iterable[Any]],
    cells: Sequence[Cell],
    run: Run,
    keep: Callable[[Record], None],
) -> Generator[None, None, None]:
    """Let another one make the records, with a stop after each."""
    left = {cell.key for cell in cells}
    for record in _results(map(made, [Item(cell, run) for cell in cells]) if cells else []):
        try:
            key = _lines.key_of(record)
        except (KeyError, TypeError):
            got = _checks.kind(record)
            raise TypeError(f"expected map to return what the function did, got {got}") from None
        if key not in left:
            raise ValueError(f"expected each record once from map, got {key} unasked or again")
        left.remove(key)
        keep(record)
        yield
    if left:
        raise ValueError(f"expected {len(cells)} records from map, got {len(cells) - len(left)}")


def _results(found: Iterable[Any]) -> Iterator[Any]:
    """Return results as they come; futures too, those that are done first."""
    waiting: list[Any] = []
    try:
        for each in found:
            if not callable(getattr(each, "result", None)):
                yield each
            else:
                waiting.append(each)
        while waiting:
            for each in [each for each in waiting if each.done()]:
                waiting.remove(each)
                yield each.result()
            time.sleep(0.02)
    finally:  # also after Ctrl-C: what has not begun does not begin
        for each in waiting:
            each.cancel()
        if hasattr(found, "close"):
            found.close()


class _Sized:
    """Steps, and how many there are if that is known."""

    def __init__(self, steps: Iterator[None], n: int | None) -> None:
        self._steps, self._n = steps, n

    def __len__(self) -> int:
        if self._n is None:
            raise TypeError("expected batches with a len, got others")
        return self._n

    def __iter__(self) -> Iterator[None]:
        return self._steps


def _batches(cells: Sequence[Cell]) -> int | None:
    """Count the batches of all evaluations; None if the data do not say."""
    try:
        return sum(map(len, (cast(Any, cell.batches) for cell in cells)))
    except (TypeError, NotImplementedError):
        return None


# --- processes -------------------------------------------------------------------------------


def _opened(file: Path | None, cells: Sequence[Cell], stack: ExitStack) -> dict[Key, Record]:
    """Be the only one to write a file, and return what it holds."""
    if file is None:
        return {}
    stack.enter_context(_files.held(file))
    return _lines.read(file, {cell.key: cell.settings for cell in cells})


def _group(all_reduce: bool) -> Any:
    """Return the processes that share the data, None if this one is alone."""
    return distributed.group.WORLD if all_reduce and _processes.running() else None
