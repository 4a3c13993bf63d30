"""Checkpoints: all that a run needs to go on as if it had not stopped, written atomically."""

import dataclasses
import errno
import os
import pickle
import random
from collections import Counter, OrderedDict
from collections.abc import Mapping
from contextlib import suppress
from typing import Any, TypeAlias

import numpy as np
import torch
from torch import Tensor

from advcal import _checks

Path: TypeAlias = str | os.PathLike[str]

_PLAIN = (type(None), bool, int, float, complex, str, bytes)
_KEYS = {
    "model",
    "optimizer",
    "kinds",
    "state",
    "random",
    "epoch",
    "batch",
    "total",
    "n",
    "records",
}
_DAMAGED = (EOFError, LookupError, OSError, RuntimeError, ValueError, pickle.UnpicklingError)


@dataclasses.dataclass
class Position:
    """How far a run has come.

    Attributes:
        epoch: The epoch it is in, from 1.
        batch: The number of batches of it that are done.
        total: The sum of the loss over their examples.
        n: The number of their examples.
        records: The records of the epochs before.
        start: The random states when the epoch began; empty before it has.
        now: The random states after the last of the batches.
    """

    epoch: int = 1
    batch: int = 0
    total: float = 0.0
    n: int = 0
    records: list[Any] = dataclasses.field(default_factory=list)
    start: dict[str, Any] = dataclasses.field(default_factory=dict)
    now: dict[str, Any] = dataclasses.field(default_factory=dict)

    def __str__(self) -> str:
        return f"epoch {self.epoch}, batch {self.batch}"


class Checkpoint:
    """A file, and what goes into it.

    Args:
        path: The file.
        parts: Name to what has `state_dict` and `load_state_dict`; `"model"` and more.
        state: The user's own: generators, lists, dicts, and what has `state_dict`.
        device: The device of the model.
        group: The processes that train together, or None if there is one alone.
    """

    def __init__(
        self,
        path: Path,
        parts: Mapping[str, Any],
        state: Mapping[str, Any],
        device: torch.device | None,
        group: torch.distributed.ProcessGroup | None,
    ) -> None:
        self.path, self.parts, self.device, self.group = os.fspath(path), parts, device, group
        self.generators = {k: v for k, v in state.items() if isinstance(v, torch.Generator)}
        self.state = {k: v for k, v in state.items() if k not in self.generators}

    def random(self) -> dict[str, Any]:
        """Return the state of everything random."""
        numpy: Any = np.random.get_state()  # noqa: NPY002 - the user's code may draw from it
        found = {
            "torch": torch.get_rng_state(),
            "python": random.getstate(),
            "numpy": (numpy[0], numpy[1].tolist(), *numpy[2:]),
            "generators": {name: each.get_state() for name, each in self.generators.items()},
        }
        if self.device is not None and self.device.type == "cuda":
            found["cuda"] = torch.cuda.get_rng_state(self.device)
        return found

    def set_random(self, found: dict[str, Any]) -> None:
        """Put everything random back into a state."""
        torch.set_rng_state(found["torch"])
        random.setstate(found["python"])
        np.random.set_state(found["numpy"])  # noqa: NPY002
        for name, generator in self.generators.items():
            generator.set_state(found["generators"][name])
        if self.device is not None and self.device.type == "cuda" and "cuda" in found:
            torch.cuda.set_rng_state(found["cuda"], self.device)

    def save(self, position: Position) -> None:
        """Write the file; with several processes the first one writes, with the draws of all.

        Raises:
            FloatingPointError: If a weight is not finite; the file stays as it was.
            TypeError: If the state holds more than tensors and plain values.
        """
        for name, weight in self.parts["model"].named_parameters():
            if not bool(weight.detach().isfinite().all()):
                raise FloatingPointError(
                    f"expected finite weights, got some in {name!r} that are not, at "
                    f"{position}; {self.path} stays as it was"
                )
        now = self.random()
        own = {"start": position.start or now, "now": now}
        contents = {
            **{name: part.state_dict() for name, part in self.parts.items()},
            "kinds": self._kinds(),
            "state": {name: _state(each) for name, each in self.state.items()},
            "random": self._of_all(own),
            **{key: getattr(position, key) for key in ("epoch", "batch", "total", "n")},
            "records": [tuple(record) for record in position.records],
        }
        _check_plain(contents, "")
        if self.group is None or torch.distributed.get_rank(self.group) == 0:
            write(contents, self.path)

    def _of_all(self, own: dict[str, Any]) -> list[Any]:
        if self.group is None:
            return [own]
        gathered: list[Any] = [None] * torch.distributed.get_world_size(self.group)
        torch.distributed.all_gather_object(gathered, own, group=self.group)
        return gathered

    def _kinds(self) -> dict[str, str]:
        """Name the class of each part that is not the model, whose weights say what it is."""
        return {k: type(part).__qualname__ for k, part in self.parts.items() if k != "model"}

    def load(self, n: int) -> Position:
        """Read the file, if there is one, and put everything back as it was.

        The random states are then those of the beginning of the epoch.

        Args:
            n: The number of epochs that are wanted.

        Raises:
            ValueError: If the file is damaged, holds something else or more epochs, or was written
                with other arguments. Nothing was put back then.
        """
        if not os.path.exists(self.path):
            return Position()
        try:
            found = torch.load(self.path, map_location="cpu", weights_only=True)
        except _DAMAGED as error:
            if isinstance(error, OSError) and error.errno != errno.EINVAL:
                raise
            raise ValueError(
                f"expected {self.path} to be a checkpoint of epochs, got a file that is cut short "
                "or holds other things than tensors and plain values"
            ) from None  # torch's words recommend to execute the file
        if not isinstance(found, dict) or not found.keys() >= _KEYS:
            raise ValueError(
                f"expected {self.path} to be a checkpoint of epochs, got {_checks.kind(found)}"
            )
        processes = 1 if self.group is None else torch.distributed.get_world_size(self.group)
        rank = 0 if self.group is None else torch.distributed.get_rank(self.group)
        own = found["random"][rank] if rank < len(found["random"]) else found["random"][0]
        written = found.keys() - _KEYS | {f"state[{name!r}]" for name in found["state"]}
        written |= {f"state[{name!r}]" for name in own["start"]["generators"]}
        wanted = self.parts.keys() - _KEYS
        wanted |= {f"state[{name!r}]" for name in [*self.state, *self.generators]}
        if written != wanted or len(found["random"]) != processes:
            raise ValueError(
                f"expected {self.path} of {processes} processes with {_names(wanted)}, got one of "
                f"{len(found['random'])} with {_names(written)}"
            )
        self._check_fit(found)
        if found["epoch"] - (found["batch"] == 0) > n:
            raise ValueError(
                f"expected n of {found['epoch'] - (found['batch'] == 0)} or more, which "
                f"{self.path} has, got {n}"
            )
        for name, part in self.parts.items():
            part.load_state_dict(found[name])
        for name, each in self.state.items():
            _set_state(each, found["state"][name])
        self.set_random(own["start"])
        return Position(*(found[key] for key in ("epoch", "batch", "total", "n", "records")), **own)

    def _check_fit(self, found: dict[str, Any]) -> None:
        """Check, before anything is put back, that the parts are those of the file."""
        for name, kind in self._kinds().items():
            if found["kinds"].get(name) != kind:
                raise ValueError(
                    f"expected {self.path} of {name} {kind}, got one of {found['kinds'].get(name)}"
                )
        weights = {
            k: getattr(v, "shape", None) for k, v in self.parts["model"].state_dict().items()
        }
        written = {k: getattr(v, "shape", None) for k, v in found["model"].items()}
        for name in [*weights, *written]:
            if weights.get(name, "none") != written.get(name, "none"):
                raise ValueError(
                    f"expected {self.path} of this model, got one of another: {name!r} is "
                    f"{_shape(weights, name)} here and {_shape(written, name)} there"
                )
        sizes, of_file = (
            [len(group["params"]) for group in each["param_groups"]]
            for each in (self.parts["optimizer"].state_dict(), found["optimizer"])
        )
        if sizes != of_file:
            raise ValueError(
                f"expected {self.path} of an optimizer with groups of {sizes} parameters, got one "
                f"of {of_file}"
            )


def check_state(state: Any) -> None:
    """Check what a user wants to be in a checkpoint."""
    if not isinstance(state, Mapping):
        raise TypeError(f"expected state as a mapping from names, got {_checks.kind(state)}")
    for name, each in state.items():
        if not isinstance(name, str):
            raise TypeError(f"expected the names in state as str, got {_checks.kind(name)}")
        if not (isinstance(each, (torch.Generator, list, dict)) or has_state(each)):
            raise TypeError(
                f"expected state[{name!r}] as a torch.Generator, a list, a dict, or with "
                f"state_dict and load_state_dict, got {_checks.kind(each)}"
            )


def has_state(value: object) -> bool:
    """Tell whether something offers its state as a dict and takes it back."""
    return callable(getattr(value, "state_dict", None)) and callable(
        getattr(value, "load_state_dict", None)
    )


def write(contents: object, path: str) -> None:
    """Write a file such that there is the old one or the new one at any moment."""
    temporary = f"{path}.tmp"
    with open(temporary, "wb") as file:
        torch.save(contents, file)
        file.flush()
        os.fsync(file.fileno())
    os.replace(temporary, path)
    with suppress(PermissionError):  # Windows opens no folders
        folder = os.open(os.path.dirname(path) or ".", os.O_RDONLY)
        try:
            os.fsync(folder)
        finally:
            os.close(folder)


def _state(value: Any) -> Any:
    return value if isinstance(value, (list, dict)) else value.state_dict()


def _set_state(value: Any, found: Any) -> None:
    if isinstance(value, list):
        value[:] = found
    elif isinstance(value, dict):
        value.clear()
        value.update(found)
    else:
        value.load_state_dict(found)


def _check_plain(value: Any, where: str) -> None:
    if type(value) in (dict, OrderedDict, Counter):
        for key, each in value.items():
            _check_plain(key, f"a key of {where}")
            _check_plain(each, f"{where}[{key!r}]" if where else str(key))
    elif type(value) in (list, tuple, torch.Size):
        for i, each in enumerate(value):
            _check_plain(each, f"{where}[{i}]")
    elif type(value) not in (*_PLAIN, torch.dtype, torch.device) and not isinstance(value, Tensor):
        raise TypeError(
            f"expected tensors, plain numbers, words, lists, tuples and dicts in a checkpoint, got "
            f"{_checks.kind(value)} in {where}"
        )


def _shape(shapes: Mapping[str, Any], name: str) -> str:
    return str(tuple(shapes[name])) if shapes.get(name) is not None else "not there"


def _names(names: set[str]) -> str:
    return ", ".join(sorted(names)) or "nothing but model and optimizer"
