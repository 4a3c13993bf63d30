"""Checkpoints: all that a run needs to go on as if it had not stopped, written atomically."""

import copy
import dataclasses
import os
import random
from collections.abc import Collection, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from typing import Any

import numpy as np
import torch
from torch import nn

from advcal import _files, _processes
from advcal._pass import prepared
from advcal._typing import Batch
from advcal._weights import put_weights, weights
from advcal.trainers import _contents, _identity


@dataclasses.dataclass
class Position:
    """How far a run has come."""

    epoch: int = 1
    batch: int = 0  # the number of batches of this epoch that are done
    total: float = 0.0  # the sum of the loss over their examples
    n: int = 0
    records: list[Any] = dataclasses.field(default_factory=list)
    # What is of each process alone: a digest of the first batch of all and the random states before
    # it, those when the epoch began, empty before it has, and those after the last batch.
    first: str | None = None
    begin: dict[str, Any] = dataclasses.field(default_factory=dict)
    start: dict[str, Any] = dataclasses.field(default_factory=dict)
    now: dict[str, Any] = dataclasses.field(default_factory=dict)

    def __str__(self) -> str:
        return f"epoch {self.epoch}, batch {self.batch}"


class Checkpoint:
    """A file, and what goes into it: `parts` that have a state, `"model"` and more, and `state`.

    The processes of `group` train together; it is None if there is one alone. Only the first one
    has the file.
    """

    def __init__(
        self,
        path: _files.Path,
        parts: Mapping[str, Any],
        state: Mapping[str, Any],
        device: torch.device | None,
        group: torch.distributed.ProcessGroup | None,
        settings: Mapping[str, Any],
        changed: Collection[str],
        batches: Any,
    ) -> None:
        self.path, self.parts, self.device, self.group = os.fspath(path), parts, device, group
        self.rank = 0 if group is None else torch.distributed.get_rank(group)
        self.processes = 1 if group is None else torch.distributed.get_world_size(group)
        self.generators = {k: v for k, v in state.items() if isinstance(v, torch.Generator)}
        self.state = {k: v for k, v in state.items() if k not in self.generators}
        self.settings, self.changed, self.batches = settings, changed, batches
        known = {id(generator) for generator in self.generators.values()}
        self.loaders = {id(g): g for g in _generators(batches) if id(g) not in known}
        # What cannot be saved is said now.
        _processes.agreed(lambda: self._contents(Position()).clear(), group)

    # --- what is random ----------------------------------------------------------------------

    def random(self) -> dict[str, Any]:
        """Return the state of everything random."""
        numpy: Any = np.random.get_state()  # noqa: NPY002 - the user's code may draw from it
        found = {
            "torch": torch.get_rng_state(),
            "python": random.getstate(),
            "numpy": (numpy[0], numpy[1].tolist(), *numpy[2:]),
            "generators": {name: each.get_state() for name, each in self.generators.items()},
            "loaders": [each.get_state() for each in self.loaders.values()],
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
        for generator, state in zip(self.loaders.values(), found["loaders"], strict=False):
            generator.set_state(state)
        if self.device is not None and self.device.type == "cuda" and "cuda" in found:
            torch.cuda.set_rng_state(found["cuda"], self.device)

    @contextmanager
    def random_of(self, found: dict[str, Any]) -> Iterator[None]:
        """Put everything random into a state for a while."""
        before = self.random()
        try:
            self.set_random(found)
            yield
        finally:
            self.set_random(before)

    # --- writing -----------------------------------------------------------------------------

    def save(self, position: Position) -> None:
        """Write the file; with several processes the first one writes, with the draws of all.

        Nobody goes on before it is written. It stays as it was if a weight is not finite, or if
        something cannot be saved.
        """
        now = self.random()
        own = {"first": position.first, "begin": position.begin or now}
        own |= {"start": position.start or now, "now": now}
        drawn = _processes.gathered(own, self.group)
        _processes.agreed(lambda: self._write(position, drawn), self.group)

    def _write(self, position: Position, drawn: list[dict[str, Any]]) -> None:
        for name, weight in self.parts["model"].named_parameters():
            if not bool(weight.detach().isfinite().all()):
                raise FloatingPointError(
                    f"expected finite weights, got some in {name!r} that are not, at "
                    f"{position}; {self.path} stays as it was"
                )
        contents = self._contents(position) | {"random": _contents.plain(drawn, "random")}
        with _files.whole(self.path) as file:
            _files.dump(contents, file)

    def _contents(self, position: Position) -> dict[str, Any]:
        """Return what goes into the file, all of it tensors and plain values."""
        found = {
            **{name: _state_of(part) for name, part in self.parts.items()},
            "kinds": self._kinds(),
            "state": {name: _state_of(each) for name, each in self.state.items()},
            "settings": self.settings,
            **{name: getattr(position, name) for name in _contents.AT},
            "records": [tuple(record) for record in position.records],
        }
        return {name: _contents.plain(each, name) for name, each in found.items()}

    def _kinds(self) -> dict[str, str]:
        """Name the class of each part that is not the model, whose weights say what it is."""
        return {k: type(part).__qualname__ for k, part in self.parts.items() if k != "model"}

    # --- reading -----------------------------------------------------------------------------

    def open(self, stack: ExitStack, n: int) -> Position:
        """Be the one run with this file until the stack ends, and put back what is in it.

        The random states are then those of the beginning of the epoch. Nothing is put back if the
        file is damaged, belongs to another run, or has more than `n` epochs. All processes have
        what the first one read.
        """
        found = _processes.agreed(lambda: self._read(stack, n), self.group)
        if found is None:
            return Position()
        own = found["random"][self.rank]
        at = Position(**{name: found[name] for name in _contents.AT}, **own)
        told = self._other_data(at)
        for problem in _processes.gathered(told, self.group):
            if problem is not None:
                raise ValueError(problem)
        self._put(found)
        self.settings = {**self.settings, **_identity.without(found["settings"], self.changed)}
        self.set_random(own["start"])
        return at

    def _read(self, stack: ExitStack, n: int) -> dict[str, Any] | None:
        """Take the file, and return what it holds, if it is there, after every check."""
        stack.enter_context(_files.held(self.path))
        begun = 0
        found: dict[str, Any] | None = None
        if os.path.exists(self.path):
            found = _files.load(self.path, "a checkpoint of epochs")
            _contents.check(self, found)
            moved = _identity.moving(found["optimizer"], found.get("schedule", {}))
            here, there = (
                _identity.without(each, self.changed) for each in (self.settings, found["settings"])
            )
            _identity.check_same(self.path, here, there, moved)
            begun = found["epoch"] - (found["batch"] == 0)
        if begun > n:
            raise ValueError(f"expected n of {begun} or more, which {self.path} has, got {n}")
        folder = os.path.dirname(os.path.realpath(self.path))
        if begun < n and not os.access(folder, os.W_OK):
            raise PermissionError(f"expected {self.path} in a folder to write to, got one to read")
        return found

    def _other_data(self, at: Position) -> str | None:
        """Say how the data differ from those of the file, if they do.

        The first batch is drawn again as it was at the beginning of the run. A source that can be
        gone through only once is not asked.
        """
        if isinstance(self.batches, Iterator):
            return None
        with self.random_of(at.begin):
            set_epoch(self.batches, 0)
            drawn = prepared(self.batches, None, channels_last=False, progress=None)
            found = next(map(_identity.digest, drawn), None)
        if found == at.first or at.first is None:
            return None
        if "data" in self.changed:
            at.first = found
            return None
        return (
            f"expected {self.path} to be of this run, with data whose first batch has the digest "
            f"{found}, got one of another, with {at.first}; give each run its own file, or pass "
            "changed=['data'] if you mean to go on with other data, or ones drawn anew each time"
        )

    def _put(self, found: dict[str, Any]) -> None:
        """Put back what was found; what is meant to differ only as far as it fits."""
        self._put_states(found["state"])
        options = [dict(group) for group in self.parts["optimizer"].param_groups]
        rates = getattr(self.parts.get("schedule"), "base_lrs", None)
        for name, part in self.parts.items():
            if name in found and (name not in self.changed or _contents.fits(self, name, found)):
                _set_state(part, found[name])
        if not {"optimizer", "schedule"}.isdisjoint(self.changed):
            for group, mine in zip(self.parts["optimizer"].param_groups, options, strict=True):
                group.update(mine)
        if "optimizer" in self.changed and rates is not None:
            self.parts["schedule"].base_lrs = rates

    def _put_states(self, found: dict[str, Any]) -> None:
        """Put back what is in `state`, or nothing if one of them does not take it."""
        before = {name: copy.deepcopy(_state_of(each)) for name, each in self.state.items()}
        for name, each in self.state.items():
            try:
                _set_state(each, found[name])
            except Exception as error:
                for back, other in self.state.items():
                    _set_state(other, before[back])
                raise ValueError(
                    f"expected {self.path} with what state[{name!r}] takes, got: {error}"
                ) from None


def _state_of(value: Any) -> Any:
    if isinstance(value, (list, dict)):
        return value
    return weights(value) if isinstance(value, nn.Module) else value.state_dict()


def _set_state(value: Any, found: Any) -> None:
    if isinstance(value, list):
        value[:] = found
    elif isinstance(value, dict):
        value.clear()
        value.update(found)
    elif isinstance(value, nn.Module):
        put_weights(value, found)
    else:
        value.load_state_dict(found)


def _sources(batches: Any) -> Iterator[Any]:
    """Yield what may have a say in the order of batches."""
    inner = getattr(batches, "batch_sampler", None)
    yield from (batches, inner, getattr(batches, "sampler", None), getattr(inner, "sampler", None))


def _generators(batches: Any) -> Iterator[torch.Generator]:
    found = (getattr(each, "generator", None) for each in _sources(batches))
    return (each for each in found if isinstance(each, torch.Generator))


def set_epoch(batches: object, epoch: int) -> None:
    """Tell a sampler the epoch, from 0 as torch counts, if it shuffles by that."""
    for each in _sources(batches):
        tell = getattr(each, "set_epoch", None)
        if callable(tell):
            tell(epoch)


def first_of(batch: Batch, at: Position) -> None:
    """Keep a digest of the first batch of a run."""
    if at.first is None and at.epoch == 1 and at.batch == 0:
        at.first = _identity.digest(batch)
