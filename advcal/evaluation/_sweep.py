"""Models x data sets x attacks x radii, in a file that a killed run goes on with."""

from __future__ import annotations

import functools
import itertools
import json
import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import distributed

from advcal import _checks
from advcal._pass import Way, again
from advcal._typing import Attack, Batch, Forward, Model, Progress
from advcal.evaluation._corrupt import listed
from advcal.evaluation._evaluate import evaluate
from advcal.evaluation._fingerprint import fingerprint
from advcal.evaluation._transfer import named

Record = dict[str, Any]


class _Key(NamedTuple):
    """What a record is known by."""

    model: str
    data: str
    attack: str
    eps: float | None


class _Cell(NamedTuple):
    """One evaluation that is wanted, and the settings that its record must be made with."""

    key: _Key
    settings: dict[str, str]
    model: Model
    batches: Iterable[Batch]
    attack: Attack | None


def sweep(
    models: Mapping[str, Model],
    batches: Mapping[str, Iterable[Batch]],
    attacks: Mapping[str, Any],
    path: str | os.PathLike[str] | None = None,
    *,
    eps: Sequence[float] | None = None,
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
    or that was made with other weights, attack settings, `n_bins` or precision, is an error:
    nothing is mixed silently. A function of yours is known by its code and all it refers to, a data
    set by its name and size alone. An attack that draws from a `generator` of its own draws other
    numbers after a break.

    Args:
        models: Names to models.
        batches: Names to iterables of `(inputs, labels, *rest)` that can be read again, such as
            lists, a `DataLoader`, or what `corruptions` and `read_corruptions` return.
        attacks: Names to attacks, each called with `eps=` where radii are given, such as
            `partial(pgd, steps=10)`; None is no attack, evaluated once, at `eps` 0.
        path: The file; nothing is written if None.
        eps: The radii, in units of the inputs; None for attacks that have their radius.
        n_bins: The number of equal-width bins of the reliability tables.
        autocast: `torch.bfloat16` to run models and attacks in mixed precision.
        channels_last: Whether to lay out four-dimensional inputs channels last.
        device: Where batches go; to the device of each model if None.
        forward: `(model, batch) -> logits` for models that take more of a batch than the inputs.
        all_reduce: Whether to sum over processes, as in `evaluate`; the first has the file.
        progress: A wrapper of the evaluations left to make, such as `tqdm.tqdm`.

    Returns:
        One dict per evaluation, by model, data set, attack and radius: `"model"`, `"data"`,
        `"attack"` and `"eps"`, what `Evaluation.as_dict` returns, and `"settings"`. They are ready
        for JSON, `pandas.DataFrame` and `table`.

    Raises:
        TypeError: If an argument is of the wrong kind, or batches can be read only once.
        ValueError: If there are no models, data or attacks, a value is wrong, or the file holds
            what this sweep does not make.

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
    _checks.arguments(n_bins=n_bins, all_reduce=all_reduce)
    settings = {"n_bins": str(n_bins), "autocast": str(autocast)}
    if forward is not None:
        settings["forward"] = fingerprint(forward)
    cells = _cells(models, batches, attacks, radii, settings)
    options = vars(way) | {"progress": None, "n_bins": n_bins, "all_reduce": all_reduce}
    file = None if path is None else Path(path)
    done = _agreed(lambda: _read(file, cells), all_reduce)
    todo: Iterable[_Cell] = [cell for cell in cells if cell.key not in done]
    sizes = {record["data"]: record["n"] for record in done.values()}
    for cell in todo if progress is None else progress(todo):
        found = evaluate(cell.model, cell.batches, cell.attack, **options)
        record = {**cell.key._asdict(), **found.as_dict(), "settings": cell.settings}
        if sizes.setdefault(cell.key.data, found.n) != found.n:
            wanted = f"{sizes[cell.key.data]} examples of {cell.key.data!r}"
            raise ValueError(f"expected {wanted} as before, got {found.n}")
        done[cell.key] = record
        if file is not None and _first(all_reduce):
            _append(file, record)
    return [done[cell.key] for cell in cells]


def _cells(
    models: Mapping[str, Model],
    batches: Mapping[str, Iterable[Batch]],
    attacks: Mapping[str, Any],
    radii: Sequence[float | None],
    common: Mapping[str, str],
) -> list[_Cell]:
    weights = {name: fingerprint(model) for name, model in models.items()}
    known = {name: fingerprint(attack) for name, attack in attacks.items()}
    cells = []
    for model, data, name in itertools.product(models, batches, attacks):
        settings = {"model": weights[model], "attack": known[name], **common}
        for radius in [0.0] if attacks[name] is None else radii:
            attack = attacks[name]
            if attack is not None and radius is not None:
                attack = functools.partial(attack, eps=radius)
            key = _Key(model, data, name, radius)
            cells.append(_Cell(key, settings, models[model], batches[data], attack))
    return cells


# --- the file --------------------------------------------------------------------------------


def _read(file: Path | None, cells: Sequence[_Cell]) -> dict[_Key, Record]:
    """Return what a file holds of the records that are wanted, after mending its last line."""
    if file is None or not file.exists():
        return {}
    content = file.read_bytes()
    whole = content.rfind(b"\n") + 1
    wanted = {cell.key: cell for cell in cells}
    done: dict[_Key, Record] = {}
    for number, line in enumerate(content[:whole].splitlines(), start=1):
        where = f"line {number} of {file}"
        try:
            record = json.loads(line)
            key = _Key(*(record[name] for name in _Key._fields))
            cell, settings, _ = wanted.get(key), record["settings"], record["n"]
        except (ValueError, KeyError, TypeError) as error:
            raise ValueError(f"expected a record of a sweep in {where}, got {line!r}") from error
        of = f"{key._asdict()} in {where}"
        fresh = "give a changed sweep a file of its own"
        if cell is None:
            raise ValueError(f"expected records of this sweep alone, got {of}; {fresh}")
        if key in done:
            raise ValueError(f"expected each record once, got {key._asdict()} again in {where}")
        for name, value in cell.settings.items():
            if settings.get(name) != value:
                raise ValueError(
                    f"expected {name} of {of} as it is now, {value}, got {settings.get(name)}; "
                    f"{fresh}"
                )
        done[key] = record
    if whole < len(content):
        with file.open("rb+") as half:
            half.truncate(whole)
    return done


def _append(file: Path, record: Record) -> None:
    with file.open("a", encoding="utf-8") as lines:
        lines.write(json.dumps(record, ensure_ascii=False) + "\n")
        lines.flush()
        os.fsync(lines.fileno())


# --- processes -------------------------------------------------------------------------------


def _distributed(all_reduce: bool) -> bool:
    return all_reduce and distributed.is_available() and distributed.is_initialized()


def _first(all_reduce: bool) -> bool:
    return not _distributed(all_reduce) or distributed.get_rank() == 0


def _agreed(read: Callable[[], dict[_Key, Record]], all_reduce: bool) -> dict[_Key, Record]:
    """Let the first process read, and all of them have what it found, or its error."""
    if not _distributed(all_reduce):
        return read()
    found: list[Any] = [None]
    if _first(all_reduce):
        try:
            found = [read()]
        except (OSError, ValueError) as error:
            found = [error]
    distributed.broadcast_object_list(found)
    if isinstance(found[0], Exception):
        raise found[0]
    return dict(found[0])
