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
_AT = ("epoch", "batch", "total", "n", "records")
_KEYS = {"model", "optimizer", "kinds", "state", "random", *_AT}
_DAMAGED = (EOFError, LookupError, OSError, RuntimeError, ValueError, pickle.UnpicklingError)


@dataclasses.dataclass
class Position:
    """How far a run has come."""

    epoch: int = 1
    batch: int = 0  # the number of batches of this epoch that are done
    total: float = 0.0  # the sum of the loss over their examples
    n: int = 0
    records: list[Any] = dataclasses.field(default_factory=list)
    # The random states when the epoch began, empty before it has, and after the last batch.
    start: dict[str, Any] = dataclasses.field(default_factory=dict)
    now: dict[str, Any] = dataclasses.field(default_factory=dict)

    def __str__(self) -> str:
        return f"epoch {self.epoch}, batch {self.batch}"


class Checkpoint:
    """A file, and what goes into it: `parts` that have a state, `"model"` and more, and `state`.

    The processes of `group` train together; it is None if there is one alone.
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
        self.rank = 0 if group is None else torch.distributed.get_rank(group)
        self.processes = 1 if group is None else torch.distributed.get_world_size(group)
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

        It stays as it was if a weight is not finite or the state is not plain.
        """
        for name, weight in self.parts["model"].named_parameters():
            if not bool(weight.detach().isfinite().all()):
                raise FloatingPointError(
                    f"expected finite weights, got some in {name!r} that are not, at "
                    f"{position}; {self.path} stays as it was"
                )
        now = self.random()
        drawn: list[Any] = [{"start": position.start or now, "now": now}] * self.processes
        if self.group is not None:
            torch.distributed.all_gather_object(drawn, drawn[0], group=self.group)
        contents = {
            **{name: part.state_dict() for name, part in self.parts.items()},
            "kinds": self._kinds(),
            "state": {
                name: each if isinstance(each, (list, dict)) else each.state_dict()
                for name, each in self.state.items()
            },
            "random": drawn,
            **{key: getattr(position, key) for key in _AT},
            "records": [tuple(record) for record in position.records],
        }
        _check_plain(contents, "")
        if self.rank == 0:
            write(contents, self.path)

    def _kinds(self) -> dict[str, str]:
        """Name the class of each part that is not the model, whose weights say what it is."""
        return {k: type(part).__qualname__ for k, part in self.parts.items() if k != "model"}

    def load(self, n: int) -> Position:
        """Read the file, if there is one, for a run of `n` epochs, and put everything back.

        The random states are then those of the beginning of the epoch. Nothing is put back if the
        file is damaged, holds something else or more epochs, or was written with other arguments.
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
        own = found["random"][self.rank % len(found["random"])]
        written = found.keys() - _KEYS | {f"state[{name!r}]" for name in found["state"]}
        written |= {f"state[{name!r}]" for name in own["start"]["generators"]}
        wanted = self.parts.keys() - _KEYS
        wanted |= {f"state[{name!r}]" for name in [*self.state, *self.generators]}
        if written != wanted or len(found["random"]) != self.processes:
            raise ValueError(
                f"expected {self.path} of {self.processes} processes with {_names(wanted)}, got "
                f"one of {len(found['random'])} with {_names(written)}"
            )
        self._check_fit(found)
        if (begun := found["epoch"] - (found["batch"] == 0)) > n:
            raise ValueError(f"expected n of {begun} or more, which {self.path} has, got {n}")
        for name, part in self.parts.items():
            part.load_state_dict(found[name])
        for name, each in self.state.items():
            _set_state(each, found["state"][name])
        self.set_random(own["start"])
        return Position(**{key: found[key] for key in _AT}, **own)

    def _check_fit(self, found: dict[str, Any]) -> None:
        """Check, before anything is put back, that the parts are those of the file."""
        for name, kind in self._kinds().items():
            if found["kinds"].get(name) != kind:
                raise ValueError(
                    f"expected {self.path} of {name} {kind}, got one of {found['kinds'].get(name)}"
                )
        weights, written = (
            {name: getattr(each, "shape", None) for name, each in state.items()}
            for state in (self.parts["model"].state_dict(), found["model"])
        )
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
    both = ("state_dict", "load_state_dict")
    return all(callable(getattr(value, name, None)) for name in both)


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
