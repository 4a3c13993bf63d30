"""Models x data sets x attacks x radii, in a file that a killed run goes on with."""

from __future__ import annotations

import functools
import json
import os
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import distributed

from advcal import _checks
from advcal._batches import again, casting
from advcal._typing import Attack, Batch, Model, Progress
from advcal.evaluation._corrupt import listed
from advcal.evaluation._evaluate import evaluate
from advcal.evaluation._fingerprint import fingerprint
from advcal.evaluation._transfer import named

KEY = ("model", "data", "attack", "eps")

Record = dict[str, Any]


class _Cell(NamedTuple):
    """One evaluation that is wanted: what a record is known by, and what it must be made with."""

    key: Record
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
    all_reduce: bool = False,
    progress: Progress | None = None,
) -> list[dict[str, Any]]:
    """Evaluate every model on every data set under every attack at every radius.

    With `path` each record is added to that file, a line of JSON, as soon as it is there. The same
    call goes on where a killed one stopped; a last line that was only half written is made again.
    More models, data sets, attacks or radii may join later. A line that this sweep does not want,
    or that was made with other weights, attack settings, `n_bins` or precision, is an error:
    nothing is mixed silently. A function of yours is known by its code and all it refers to. A data
    set is known by its name and size alone. An attack that draws
    from a `generator` of its own draws other numbers after a break.

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
        all_reduce: Whether to sum over all processes of `torch.distributed`, as in `evaluate`; the
            first process reads and writes the file.
        progress: A wrapper of an iterable that shows progress, such as `tqdm.tqdm`; of the
            evaluations that are left to make.

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
    _names("batches", batches)
    for data in batches.values():
        again(data)
    _names("attacks", attacks)
    for name, attack in attacks.items():
        if attack is not None:
            _checks.function(f"attacks[{name!r}]", attack)
    radii = [None] if eps is None else [_radius(each) for each in listed("eps", eps)]
    if path is not None:
        _checks.path("path", path)
    if progress is not None:
        _checks.function("progress", progress)
    casting(None, autocast)
    options: dict[str, Any] = {"n_bins": _checks.count("n_bins", n_bins), "autocast": autocast}
    cells = _cells(models, batches, attacks, radii, options)
    first = not _distributed(all_reduce) or distributed.get_rank() == 0
    file = None if path is None else Path(path)
    done: dict[str, Record] = _agreed(lambda: _read(file, cells), all_reduce)
    todo: Iterable[_Cell] = [cell for cell in cells if _name(cell.key) not in done]
    sizes = {record["data"]: record["n"] for record in done.values()}
    for cell in todo if progress is None else progress(todo):
        record = _record(cell, options | {"channels_last": channels_last, "all_reduce": all_reduce})
        data, n = record["data"], record["n"]
        if sizes.setdefault(data, n) != n:
            raise ValueError(f"expected {sizes[data]} examples of {data!r} as before, got {n}")
        done[_name(cell.key)] = record
        if file is not None and first:
            _append(file, record)
    return [done[_name(cell.key)] for cell in cells]


def _cells(
    models: Mapping[str, Model],
    batches: Mapping[str, Iterable[Batch]],
    attacks: Mapping[str, Any],
    radii: Sequence[float | None],
    options: Mapping[str, Any],
) -> list[_Cell]:
    common = {name: str(value) for name, value in options.items()}
    known = {name: fingerprint(attack) for name, attack in attacks.items()}
    cells = []
    for model_name, model in models.items():
        weights = fingerprint(model)
        for data, source in batches.items():
            for attack_name, attack in attacks.items():
                settings = {"model": weights, "attack": known[attack_name], **common}
                for radius in radii if attack is not None else [0.0]:
                    key = dict(zip(KEY, (model_name, data, attack_name, radius), strict=True))
                    bound = (
                        attack
                        if attack is None or radius is None
                        else functools.partial(attack, eps=radius)
                    )
                    cells.append(_Cell(key, settings, model, source, bound))
    return cells


def _record(cell: _Cell, options: Mapping[str, Any]) -> Record:
    found = evaluate(cell.model, cell.batches, cell.attack, **options)
    return {**cell.key, **found.as_dict(), "settings": cell.settings}


# --- the file --------------------------------------------------------------------------------


def _read(file: Path | None, cells: Sequence[_Cell]) -> dict[str, Record]:
    """Return what a file holds of the records that are wanted, after mending its last line."""
    if file is None or not file.exists():
        return {}
    content = file.read_bytes()
    whole = content.rfind(b"\n") + 1
    wanted = {_name(cell.key): cell for cell in cells}
    done: dict[str, Record] = {}
    sizes: dict[str, int] = {}
    for number, line in enumerate(content[:whole].splitlines(), start=1):
        where = f"line {number} of {file}"
        try:
            record = json.loads(line)
            key = {name: record[name] for name in KEY}
            settings, sizes[record["data"]] = record["settings"], record["n"]
        except (ValueError, KeyError, TypeError) as error:
            raise ValueError(f"expected a record of a sweep in {where}, got {line!r}") from error
        if _name(key) not in wanted:
            raise ValueError(
                f"expected records of this sweep alone, got {key} in {where}; give a changed sweep "
                "a file of its own"
            )
        if _name(key) in done:
            raise ValueError(f"expected each record once, got {key} again in {where}")
        for name, value in wanted[_name(key)].settings.items():
            if settings.get(name) != value:
                raise ValueError(
                    f"expected {name} of {key} as it is now, {value}, got {settings.get(name)} in "
                    f"{where}; give a changed sweep a file of its own"
                )
        done[_name(key)] = record
    if whole < len(content):
        with file.open("rb+") as half:
            half.truncate(whole)
    return done


def _append(file: Path, record: Record) -> None:
    with file.open("a", encoding="utf-8") as lines:
        lines.write(json.dumps(record, ensure_ascii=False) + "\n")
        lines.flush()
        os.fsync(lines.fileno())


def _name(key: Record) -> str:
    return json.dumps([key[name] for name in KEY])


# --- processes -------------------------------------------------------------------------------


def _distributed(all_reduce: bool) -> bool:
    return all_reduce and distributed.is_available() and distributed.is_initialized()


def _agreed(read: Any, all_reduce: bool) -> Any:
    """Let the first process read, and all of them have what it found, or its error."""
    if not _distributed(all_reduce):
        return read()
    found: list[Any] = [None]
    if distributed.get_rank() == 0:
        try:
            found = [read()]
        except (OSError, ValueError) as error:
            found = [error]
    distributed.broadcast_object_list(found)
    if isinstance(found[0], Exception):
        raise found[0]
    return found[0]


# --- arguments -------------------------------------------------------------------------------


def _names(name: str, value: Any) -> None:
    if not isinstance(value, Mapping) or not all(isinstance(key, str) for key in value):
        raise TypeError(f"expected {name} as a mapping of names, got {_checks.kind(value)}")
    if not value:
        raise ValueError(f"expected one or more in {name}, got none")


def _radius(value: Any) -> float:
    return _checks.number("eps", value, least=0)
