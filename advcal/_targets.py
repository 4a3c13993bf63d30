"""Targeted attacks: told by what they are made of, and given classes to reach."""

import dataclasses
import inspect
from collections.abc import Callable, Iterator, Mapping
from functools import partial
from typing import Any, TypeAlias

from torch import Tensor, nn

from advcal import _checks
from advcal._typing import Attack
from advcal._values import Value

Targets: TypeAlias = Tensor | Callable[[Tensor], Tensor]
"""The classes to reach: one for each example of the data, in their order, or a function of the
labels of a batch."""


def targeted(attack: object) -> bool | None:
    """Tell whether an attack, or one that it is made of, leads to its labels; None if unknown.

    A `partial` says so, a function by the default of its argument, an object by its attribute.
    """
    found = set(_said(attack, {}))
    return True in found if found else None


def _said(value: Any, seen: dict[int, Any]) -> Iterator[bool]:
    if id(value) in seen:
        return
    seen[id(value)] = value
    given = value.keywords if isinstance(value, partial) else {}
    if "targeted" in given:
        seen[id(value.func)] = value.func  # whose default does not count
        yield bool(given["targeted"])
    elif not isinstance(value, partial) and callable(value):
        own = getattr(value, "targeted", None)
        try:
            default = inspect.signature(value).parameters["targeted"].default
        except (KeyError, TypeError, ValueError):  # there is none, or no signature
            default = None
        yield from (each for each in (own, default) if isinstance(each, bool))
    for each in inside(value):
        yield from _said(each, seen)


def inside(value: Any) -> list[Any]:
    """Return what a configured thing is directly made of."""
    if isinstance(value, partial):
        return [value.func, *value.args, *value.keywords.values()]
    if isinstance(value, Mapping):
        return [*value.values()]
    if isinstance(value, (list, tuple, set, frozenset)):
        return [*value]
    if isinstance(value, (Tensor, nn.Module, type)) or not callable(value):
        return []
    if inspect.ismethod(value):
        return [value.__self__]
    if dataclasses.is_dataclass(value):  # which may have slots
        return [getattr(value, each.name) for each in dataclasses.fields(value)]
    return [*vars(value).values()] if hasattr(value, "__dict__") else []


def within(value: Any) -> list[Any]:
    """Return a configured thing and all that it is made of, each once."""
    found, todo = {}, [value]
    while todo:
        each = todo.pop()
        if id(each) not in found:
            found[id(each)] = each
            todo += inside(each)
    return [*found.values()]


def away(attack: Attack, instead: str = _checks.INSTEAD) -> None:
    """Refuse an attack that leads to the labels, if these are the true ones."""
    if targeted(attack):
        raise _checks.leads_to(instead)


def given(attack: Attack | None, targets: Targets | None) -> Callable[[Tensor], Tensor] | None:
    """Check an attack with its targets and return what gives those of one batch after the other.

    Returns:
        From the labels of the next batch to its targets; None if there are none.
    """
    if targets is None:
        if attack is not None:
            away(attack)
        return None
    if isinstance(targets, Tensor):
        _checks.tensor("targets", targets, integer=True)
        if targets.ndim != 1:
            raise ValueError(f"expected targets of shape (n,), got {_checks.kind(targets)}")
    elif not callable(targets):
        found = _checks.kind(targets)
        raise TypeError(f"expected targets as a tensor or a function of labels, got {found}")
    if attack is None or targeted(attack) is False:
        found = "none" if attack is None else "one with targeted=False"
        raise ValueError(f"expected an attack with targeted=True for targets=, got {found}")
    for each in within(attack):
        if isinstance(each, Value) and type(each).__name__ in ("worst_case", "cascade"):
            raise ValueError(
                f"expected an attack by itself for targets=, got it within {type(each).__name__}, "
                "which keeps what is farthest from the classes to reach"
            )
    return of_batches(targets)


def of_batches(targets: Targets) -> Callable[[Tensor], Tensor]:
    """Return what gives the targets of one batch after the other from its labels."""
    return InOrder(targets) if isinstance(targets, Tensor) else partial(_by_function, targets)


def _by_function(function: Callable[[Tensor], Tensor], labels: Tensor) -> Tensor:
    return _checks.labels(function(labels.clone()), len(labels), name="targets")


@dataclasses.dataclass
class InOrder:
    """One target after the other, of a tensor."""

    targets: Tensor
    used: int = 0

    def __call__(self, labels: Tensor) -> Tensor:
        """Return the targets of the next examples."""
        start, self.used = self.used, self.used + len(labels)
        if self.used > len(self.targets):
            self.end()
        return self.targets[start : self.used].long()

    def end(self) -> None:
        """Check that there was one for each example."""
        if self.used != len(self.targets):
            more = " or more" if self.used > len(self.targets) else ""
            wanted = f"expected as many targets as examples, {self.used}{more}"
            raise ValueError(f"{wanted}, got {len(self.targets)}")


def end(toward: Callable[[Tensor], Tensor] | None) -> None:
    """Check after the last batch that there were as many targets as examples."""
    if isinstance(toward, InOrder):
        toward.end()
