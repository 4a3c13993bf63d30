"""What is in a checkpoint: made plain before it is written, checked before it is used."""

import math
import random
from collections import Counter, OrderedDict
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from advcal import _checks
from advcal._weights import difference, weights

if TYPE_CHECKING:
    from advcal.trainers._checkpoint import Checkpoint

AT = ("epoch", "batch", "total", "n", "records")
_KEYS = {"model", "optimizer", "kinds", "state", "random", "settings", *AT}
_PLAIN = (type(None), bool, int, float, complex, str, bytes, torch.dtype, torch.device)


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


def plain(value: Any, where: str) -> Any:
    """Return a value for a file, its NumPy numbers as plain ones; TypeError if it has no place."""
    kind = type(value)
    if kind in (dict, OrderedDict, Counter):
        return {
            plain(key, f"a key of {where}"): plain(each, f"{where}[{key!r}]")
            for key, each in value.items()
        }
    if kind in (list, tuple, torch.Size):
        parts = [plain(each, f"{where}[{i}]") for i, each in enumerate(value)]
        return parts if kind is list else tuple(parts)
    if isinstance(value, np.generic) and type(value.item()) in _PLAIN:
        return value.item()
    if kind in _PLAIN or isinstance(value, Tensor):
        return value
    raise TypeError(
        f"expected tensors, plain numbers, words, lists, tuples and dicts in a checkpoint, got "
        f"{_checks.kind(value)} in {where}"
    )


def check(run: "Checkpoint", found: Any) -> None:
    """Check, before anything is put back, that a file fits a run."""
    of = f"expected {run.path} to be a checkpoint of epochs"
    if not isinstance(found, dict):
        raise ValueError(f"{of}, got {_checks.kind(found)}")
    if not found.keys() >= _KEYS:
        missing = ", ".join(sorted(map(str, _KEYS - found.keys())))
        raise ValueError(f"{of}, got a dict without {missing}")
    for name, right in _RIGHT.items():
        if not right(found[name]):
            raise ValueError(f"{of}, got a wrong {name} in it")
    if [record[0] for record in found["records"]] != list(range(1, found["epoch"])):
        raise ValueError(f"{of}, got records of other epochs than before epoch {found['epoch']}")
    _check_random(run, found, of)
    _check_parts(run, found)
    _check_states(run, found)


def _count(least: int) -> Any:
    return lambda value: type(value) is int and value >= least


def _finite(value: Any) -> bool:
    return type(value) is float and math.isfinite(value)


def _record(value: Any) -> bool:
    right = (_count(1), _finite, _count(1))
    listed = type(value) is tuple and len(value) == len(right)
    return listed and all(check(part) for check, part in zip(right, value, strict=True))


def _words(value: Any) -> bool:
    return type(value) is dict and all(type(key) is str for key in value)


# What the parts of a file of every run must be.
_RIGHT = {
    "epoch": _count(1),
    "batch": _count(0),
    "n": _count(0),
    "total": _finite,
    "records": lambda value: type(value) is list and all(map(_record, value)),
    "model": _words,
    "kinds": _words,
    "state": _words,
    "settings": _words,
    "optimizer": lambda value: _words(value) and _groups(value) is not None,
    "random": lambda value: type(value) is list and all(map(_words, value)) and bool(value),
}


def _groups(optimizer: Mapping[str, Any]) -> list[int] | None:
    """Return how many parameters the groups of an optimizer's state have."""
    groups = optimizer.get("param_groups")
    if type(groups) is not list or type(optimizer.get("state")) is not dict:
        return None
    if not all(_words(group) and type(group.get("params")) is list for group in groups):
        return None
    return [len(group["params"]) for group in groups]


def _check_random(run: "Checkpoint", found: Mapping[str, Any], of: str) -> None:
    """Try the random states on generators that nobody uses."""
    written = found["random"]
    if len(written) != run.processes:
        raise ValueError(f"expected {run.path} of {run.processes} processes, got {len(written)}")
    for own in written:
        try:
            if own.keys() != {"first", "begin", "start", "now"}:
                raise KeyError
            if not isinstance(own["first"], (str, type(None))):
                raise TypeError
            for name in ("begin", "start", "now"):
                _try(own[name], run)
        except (AttributeError, LookupError, OverflowError, RuntimeError, TypeError, ValueError):
            raise ValueError(f"{of}, got wrong random states in it") from None


def _try(states: Mapping[str, Any], run: "Checkpoint") -> None:
    random.Random().setstate(states["python"])
    np.random.RandomState().set_state(states["numpy"])
    torch.Generator().set_state(states["torch"])
    for name, state in states["generators"].items():
        device = run.generators[name].device if name in run.generators else "cpu"
        torch.Generator(device).set_state(state)
    for generator, state in zip(run.loaders.values(), states["loaders"], strict=False):
        torch.Generator(generator.device).set_state(state)


def _check_parts(run: "Checkpoint", found: Mapping[str, Any]) -> None:
    """Check that model, optimizer and the rest are those of the file."""
    own = found["random"][0]["start"]["generators"]
    written = found.keys() - _KEYS - set(run.changed)
    written |= {f"state[{name!r}]" for name in [*found["state"], *own]}
    wanted = run.parts.keys() - _KEYS - set(run.changed)
    wanted |= {f"state[{name!r}]" for name in [*run.state, *run.generators]}
    if written != wanted:
        raise ValueError(
            f"expected {run.path} with {_names(wanted)}, got one with {_names(written)}"
        )
    for name in run.parts:
        if name in run.changed or name not in found:
            continue
        kind, other = type(run.parts[name]).__qualname__, found["kinds"].get(name)
        if name != "model" and kind != other:
            raise ValueError(
                f"expected {run.path} of {name} {kind}, got one of {other}; pass "
                f"changed={[name]!r} if you mean to go on with another"
            )
    _check_weights(run, "model", found["model"])
    if "average" in run.parts and "average" in found:
        _check_weights(run, "average", found["average"])
    if "optimizer" not in run.changed:
        _check_optimizer(run, found["optimizer"])


def _check_weights(run: "Checkpoint", name: str, written: Mapping[str, Any]) -> None:
    apart = difference(weights(run.parts[name]), written, _shape)
    if apart is not None:
        raise ValueError(f"expected {run.path} of this {name}, got one of another: {apart}")
    for key, _ in run.parts[name].named_parameters() if name == "model" else ():
        value = written.get(key)
        if isinstance(value, Tensor) and not bool(value.isfinite().all()):
            raise ValueError(f"expected {run.path} of finite weights, got others in {key!r}")


def _shape(value: Any) -> str:
    if not isinstance(value, Tensor):
        return type(value).__name__
    return f"{tuple(value.shape)} of {str(value.dtype).removeprefix('torch.')}"


def _check_optimizer(run: "Checkpoint", written: Mapping[str, Any]) -> None:
    optimizer = run.parts["optimizer"]
    sizes = [len(group["params"]) for group in optimizer.param_groups]
    if sizes != _groups(written):
        raise ValueError(
            f"expected {run.path} of an optimizer with groups of {sizes} parameters, got one of "
            f"{_groups(written)}"
        )
    numbers = range(sum(sizes))
    parameters = [each for group in optimizer.param_groups for each in group["params"]]
    problem = f"expected {run.path} of this optimizer, got"
    if [each for group in written["param_groups"] for each in group["params"]] != list(numbers):
        raise ValueError(f"{problem} one of other parameters")
    for here, there in zip(optimizer.param_groups, written["param_groups"], strict=True):
        for name in there.keys() - {"params"}:
            if name in here and not _alike(here[name], there[name]):
                raise ValueError(f"{problem} a wrong {name}: {there[name]!r}")
    for number, values in written["state"].items():
        right = number in numbers and _words(values)
        for name, value in values.items() if right else ():
            right = right and _of_parameter(optimizer, value, parameters[number])
            if not right:
                raise ValueError(f"{problem} a wrong {name} of parameter {number}")
        if not right:
            raise ValueError(f"{problem} a wrong state of {number!r}")


def _alike(here: Any, there: Any) -> bool:
    """Tell whether a setting of a group is of the kind that it is here, and finite."""
    if isinstance(here, bool) or here is None or isinstance(here, str):
        return here is None or type(here) is type(there)
    if isinstance(here, (int, float)) or (isinstance(here, Tensor) and here.ndim == 0):
        number = isinstance(there, (int, float)) and not isinstance(there, bool)
        number = number or (isinstance(there, Tensor) and there.ndim == 0)
        return number and math.isfinite(float(there))
    if isinstance(here, (tuple, list)):
        listed = isinstance(there, (tuple, list)) and len(here) == len(there)
        return listed and all(map(_alike, here, there))
    return True


def _of_parameter(optimizer: Any, value: Any, parameter: Tensor) -> bool:
    """Tell whether what torch's optimizers keep of a parameter has a shape that goes with it."""
    kind = type(optimizer)
    if not isinstance(value, Tensor) or kind.__module__.split(".")[:2] != ["torch", "optim"]:
        return True
    try:
        return bool(torch.broadcast_shapes(value.shape, parameter.shape) == parameter.shape)
    except RuntimeError:
        return False


def fits(run: "Checkpoint", name: str, found: Mapping[str, Any]) -> bool:
    """Tell whether a part that is meant to differ can take what the file has of it."""
    if name == "schedule" or found["kinds"].get(name) != type(run.parts[name]).__qualname__:
        return False
    try:
        if name == "optimizer":
            _check_optimizer(run, found[name])
    except ValueError:
        return False
    return True


def _check_states(run: "Checkpoint", found: Mapping[str, Any]) -> None:
    for name in ("schedule", "scaler"):
        if name in run.parts and name in found and name not in run.changed:
            here, there = run.parts[name].state_dict(), found[name]
            if not _words(there) or here.keys() != there.keys():
                raise ValueError(f"expected {run.path} of this {name}, got one of another")
            for key, value in here.items():
                number = isinstance(value, (int, float)) and not isinstance(value, bool)
                if number and not _alike(value, there[key]):
                    raise ValueError(f"expected {run.path} of this {name}, got a wrong {key}")
    for name, each in run.state.items():
        kind = type(each) if isinstance(each, (list, dict)) else Mapping
        if not isinstance(found["state"][name], list if issubclass(kind, list) else Mapping):
            raise ValueError(
                f"expected state[{name!r}] in {run.path} for {_checks.kind(each)}, got "
                f"{_checks.kind(found['state'][name])}"
            )


def _names(names: set[str]) -> str:
    return ", ".join(sorted(names)) or "nothing but model and optimizer"
