"""What tells one run from another: the settings that a checkpoint keeps and compares."""

import inspect
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor

from advcal import __version__, _checks, _digest
from advcal._typing import Batch
from advcal._values import shown
from advcal.trainers._told import VALUES, told

# What `changed` may name: the first word of a setting's name.
FAMILIES = (
    *("objective", "data", "optimizer", "schedule", "average", "accumulate", "max_norm"),
    *("autocast", "advcal", "torch"),
)
_GROUP = "optimizer group"
_MOVES = {"base_lrs", "last_epoch"}  # base_lrs are the optimizer's; what begins with _ moves too


def settings_of(objective: Any, parts: Mapping[str, Any], **others: Any) -> dict[str, Any]:
    """Name the settings of a run that is about to begin, in plain values."""
    average = parts.get("average")
    found = {
        **told("objective", objective),
        **{name: plain(value) for name, value in others.items()},
        "optimizer": type(parts["optimizer"]).__qualname__,
        **{f"optimizer {name}": plain(x) for name, x in parts["optimizer"].defaults.items()},
        "schedule": type(parts["schedule"]).__qualname__ if "schedule" in parts else None,
        "average": None if average is None else _averages(average),
        **moving(parts["optimizer"].state_dict(), _state(parts.get("schedule"))),
        "advcal": __version__,
        "torch": str(torch.__version__),
    }
    functions = getattr(parts.get("schedule"), "lr_lambdas", ())
    for i, each in enumerate(functions):
        found |= told(f"schedule lr_lambda {i}", each)
    return found


def common(settings: Mapping[str, Any]) -> dict[str, Any]:
    """Leave out what may differ between the processes of one run."""
    return {name: each for name, each in settings.items() if not name.endswith(VALUES)}


def moving(optimizer: Mapping[str, Any], schedule: Mapping[str, Any]) -> dict[str, Any]:
    """Name the settings that a run itself may move, as they are in states."""
    found = _scheduled(schedule, "schedule")
    for i, group in enumerate(optimizer["param_groups"]):
        rest = {name: value for name, value in group.items() if name != "params"}
        found |= {f"{_GROUP} {i} {name}": plain(value) for name, value in rest.items()}
    return found


def _scheduled(state: Mapping[str, Any], of: str) -> dict[str, Any]:
    """Name the settings of a schedule, and of those within it."""
    found: dict[str, Any] = {}
    for name, value in state.items():
        if name == "_schedulers":
            for i, each in enumerate(value):
                found |= _scheduled(each, f"{of} {i}")
        elif not (name.startswith("_") or name in _MOVES):
            found[f"{of} {name}"] = plain(value)
    return found


def check_same(
    path: str, here: Mapping[str, Any], there: Mapping[str, Any], moved: Mapping[str, Any]
) -> None:
    """Check that the settings here are those of a file, or where the file's run moved them to.

    Args:
        path: The file.
        here: The settings of this run.
        there: Those of the file's run as it began.
        moved: Those that it had moved when the file was written.
    """
    for name in [*here, *(there.keys() - here.keys())]:
        mine, own = here.get(name, "nothing"), there.get(name, "nothing")
        if mine != own and mine != moved.get(name, own):
            family = family_of(name)
            raise ValueError(
                f"expected {path} to be of this run, with {name} {mine}, got one of another, with "
                f"{own}; give each run its own file, or pass changed={[family]!r} if you mean to "
                "go on with another"
            )


def family_of(name: str) -> str:
    """Return what `changed` calls a setting."""
    return name.split()[0]


def without(settings: Mapping[str, Any], changed: Iterable[str]) -> dict[str, Any]:
    """Leave out the settings that are meant to differ, and what a schedule makes of the others."""
    moved = _GROUP if "schedule" in changed else "\0"
    return {
        name: each
        for name, each in settings.items()
        if family_of(name) not in changed and not name.startswith(moved)
    }


def check_changed(changed: Any) -> None:
    """Check the names of settings that are meant to differ from a file's."""
    if isinstance(changed, str) or not isinstance(changed, (list, tuple, set, frozenset)):
        raise TypeError(f"expected changed as a list of names, got {_checks.kind(changed)}")
    for name in changed:
        _checks.choice("changed", name, FAMILIES)


def length(batches: Any) -> int | None:
    """Return the number of batches, if they know it."""
    try:
        return len(batches)
    except (TypeError, NotImplementedError):
        return None


def digest(batch: Batch) -> str:
    """Digest the tensors of a batch."""
    tensors = [part for part in batch if isinstance(part, Tensor) and part.layout == torch.strided]
    return _digest.of(word for part in tensors for word in _words(part))


def _words(part: Tensor) -> Iterator[bytes]:
    yield str(tuple(part.shape)).encode()
    yield from _digest.content(torch.view_as_real(part) if part.is_complex() else part)


def _state(schedule: Any) -> Mapping[str, Any]:
    return {} if schedule is None else schedule.state_dict()


def _averages(average: Any) -> str:
    """Show how weights are averaged: torch's own functions have their numbers in a closure."""
    words = [type(average).__qualname__]
    for name in ("avg_fn", "multi_avg_fn"):
        function: Callable[..., Any] | None = getattr(average, name, None)
        if function is not None:
            closure = getattr(inspect.unwrap(function), "__closure__", None) or ()
            cells = [cell.cell_contents for cell in closure]
            numbers = [each for each in cells if isinstance(each, (int, float))]
            words.append(f"{name}={shown(function)}{numbers or ''}")
    if getattr(average, "use_buffers", False):
        words.append("use_buffers")
    return " ".join(words)


def plain(value: Any) -> Any:
    """Return a setting as a plain value that compares, in words if it is none."""
    if isinstance(value, np.generic):
        value = value.item()
    if isinstance(value, Tensor):
        value = value.tolist()
    if isinstance(value, dict):
        return {str(name): plain(each) for name, each in value.items()}
    if isinstance(value, (list, tuple)):
        return [plain(each) for each in value]
    if value is None or type(value) in (bool, int, float, str):
        return value
    return shown(value)
