"""The one context manager that guards a model while it is attacked or evaluated."""

import threading
from collections.abc import Callable, Hashable, Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from functools import partial
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn.parallel import DataParallel, DistributedDataParallel

from advcal import _checks
from advcal._typing import Attack, Model


def logits_of(model: Model, inputs: Tensor) -> Tensor:
    """Run a model and check that it gave logits `(n, classes)` without NaN.

    Warns if the first ones within `frozen` look like probabilities.
    """
    logits = _checks.logits(model(inputs), len(inputs))
    if _unseen.get():
        _unseen.set(False)
        rows = _checks.like_probabilities(logits)
        if bool(rows.all()) and not bool((logits == logits.round()).all()):
            _checks.warn(
                "expected logits, got rows that are >= 0 and sum to 1, which look like "
                "probabilities; return logits, or pass lambda x: model(x).log()"
            )
    return logits


_unseen = ContextVar("_unseen", default=False)
_watched = ContextVar("_watched", default=False)


@contextmanager
def watching(*, warn: bool = True) -> Iterator[None]:
    """Warn of probabilities inside, once, unless told not to; nested uses do nothing."""
    if _watched.get():
        yield
        return
    tokens = _watched.set(True), _unseen.set(warn)
    try:
        yield
    finally:
        _watched.reset(tokens[0])
        _unseen.reset(tokens[1])


@contextmanager
def frozen(model: object, *, grad: bool) -> Iterator[None]:
    """Keep a model from changing, and leave it exactly as it was found.

    A model that trains at its root is put in eval mode. One whose root is in eval mode runs as it
    is, also if parts of it are in train mode: somebody meant that. With gradients, parameters
    ask for none. Restored on the way out, also after an exception and Ctrl-C: the train/eval flag
    of each module, the `requires_grad` of each parameter, and every buffer that a forward pass
    replaced or wrote to. Threads may be inside at once; the last one out restores. A model in
    DistributedDataParallel does not talk to other processes inside. A model that is not an
    `nn.Module` is an opaque callable: nothing in it is touched.

    Args:
        model: The model.
        grad: Whether gradients flow inside, whatever the caller's grad mode is.
    """
    _checks.function("model", model)
    with torch.inference_mode(False), watching():
        stay = _Stay(model, grad)
        try:
            try:
                stay.begin()
                yield
            finally:
                stay.end()
        finally:
            stay.end()  # what is left to do, if Ctrl-C came into the first


_holds: "dict[tuple[int, bool], _Hold]" = {}
_lock = threading.RLock()


def _alone(work: Callable[[], None]) -> None:
    try:
        with _lock:
            work()
    finally:
        while _lock._is_owned():  # type: ignore[attr-defined]  # Ctrl-C came before the release
            _lock.release()


class _Buffer(NamedTuple):
    module: nn.Module
    name: str
    tensor: Tensor
    value: Tensor


class _Stay:
    """One use of `frozen`. Ending it twice is ending it once."""

    def __init__(self, model: object, grad: bool) -> None:
        self.model, self.grad, self.before = model, grad, torch.is_grad_enabled()

    def begin(self) -> None:
        if isinstance(self.model, nn.Module):
            _alone(self._enter)
        torch.set_grad_enabled(self.grad)

    def end(self) -> None:
        _alone(self._leave)
        torch.set_grad_enabled(self.before)

    def _enter(self) -> None:
        for flags in (False, True) if self.grad else (False,):
            key = id(self.model), flags
            hold = _holds.setdefault(key, _Hold(self.model, flags))
            hold.stays.add(self)
            hold.take()

    def _leave(self) -> None:
        for key, hold in list(_holds.items()):
            if self in hold.stays or not hold.stays:
                hold.stays.discard(self)
                if not hold.stays:
                    hold.drop()
                    _holds.pop(key, None)


class _Hold:
    """What is kept of one model for all who are inside: its parameters' flags, or all else.

    `before` is what puts it back, by what it is: models can share parts, as an ensemble and its
    members do, and such a part waits for the last of them.
    """

    def __init__(self, model: Any, flags: bool) -> None:
        self.model, self.flags = model, flags
        self.stays: set[_Stay] = set()
        self.before: dict[Hashable, Callable[[], object] | _Buffer] = {}
        self.ready = self.switched = False

    def take(self) -> None:
        """Note what there is, then freeze. What is there already costs next to nothing."""
        if not self.ready:
            if not self.before:
                found = dict(_flags(self.model) if self.flags else _state(self.model))
                for other in self._others():
                    found |= {key: other.before[key] for key in found.keys() & other.before.keys()}
                self.before = found
            for parameter in self.model.parameters() if self.flags else ():
                if parameter.requires_grad and not parameter.is_inference():
                    parameter.requires_grad_(False)
            for module, name in () if self.flags else _synchronised(self.model):
                setattr(module, name, False)
            self.ready = True
        if not self.flags and getattr(bare(self.model), "training", False):
            self._switch()

    def _switch(self) -> None:
        self.switched = True
        try:
            self.model.eval()
        except NotImplementedError:  # an exported program stays in the mode of its export
            self.switched = False
            for module in self.model.modules():
                module.training = False

    def _others(self) -> "list[_Hold]":
        return [each for each in _holds.values() if each is not self and each.flags == self.flags]

    def drop(self) -> None:
        """Put back what nobody else holds; stopped anywhere, it can be begun again."""
        self.ready = False
        held = {key for other in self._others() for key in other.before}
        if self.switched and held.isdisjoint(self.before):
            self.model.train()  # which may do more than set the flags
        free = [before for key, before in self.before.items() if key not in held]
        for before in free:
            if not isinstance(before, _Buffer):
                before()
        _write_back([before for before in free if isinstance(before, _Buffer)])


def _flags(model: nn.Module) -> Iterator[tuple[Hashable, Callable[[], object]]]:
    held = {key for hold in _holds.values() if hold.flags for key in hold.before}
    for parameter in model.parameters():
        if (parameter.requires_grad or id(parameter) in held) and not parameter.is_inference():
            yield id(parameter), partial(parameter.requires_grad_, True)


def _state(model: nn.Module) -> Iterator[tuple[Hashable, Callable[[], object] | _Buffer]]:
    for module in model.modules():
        if hasattr(module, "training"):  # what torch.jit.freeze made has none
            yield id(module), partial(setattr, module, "training", module.training)
    for module, name in _synchronised(model):
        yield (id(module), name), partial(setattr, module, name, getattr(module, name))
    for buffer in _buffers(model):
        yield (id(buffer.module), buffer.name), buffer


def _synchronised(model: nn.Module) -> list[tuple[nn.Module, str]]:
    names = ("require_backward_grad_sync", "require_forward_param_sync")
    wrappers = [m for m in model.modules() if isinstance(m, DistributedDataParallel)]
    return [(module, name) for module in wrappers for name in names]


def _buffers(model: nn.Module) -> list[_Buffer]:
    return [
        _Buffer(module, name, tensor, tensor.clone())
        for module in model.modules()
        for name, tensor in module._buffers.items()
        if tensor is not None
    ]


def _write_back(buffers: list[_Buffer]) -> None:
    with torch.no_grad():
        for module, name, tensor, value in buffers:
            # By value: batch_norm writes its statistics without a new version of the tensor.
            # And only then: a copy would spoil a graph of the caller's that has the buffer.
            if not (tensor.is_inference() or torch.equal(tensor, value)):
                tensor.copy_(value)
            module._buffers[name] = tensor


def unwrapped(model: Any) -> Any:
    """Return the module inside DistributedDataParallel and Lightning Fabric, else the model itself.

    A compiled model stays compiled, unless there is one of these inside it.
    """
    inner = model
    while isinstance(inner, nn.Module):
        if isinstance(inner, DistributedDataParallel):
            model = inner = inner.module
        elif "_forward_module" in inner._modules:  # Fabric's
            model = inner = inner._modules["_forward_module"]
        elif "_orig_mod" in inner._modules:  # torch.compile's
            inner = inner._modules["_orig_mod"]
        else:
            break
    return model


def parallel(model: nn.Module) -> DistributedDataParallel | None:
    """Return the DistributedDataParallel around a model or within its other wrappers, if any."""
    inside = unwrapped(model)
    modules = (m for m in model.modules() if isinstance(m, DistributedDataParallel))
    return next(modules, None) if inside is not model else None


def bare(model: nn.Module) -> nn.Module:
    """Return the module inside all wrappers, whose names of weights are the plain ones."""
    inner = unwrapped(model)
    inner = inner.module if isinstance(inner, DataParallel) else inner
    compiled = "_orig_mod" in inner._modules
    found: nn.Module = inner._modules["_orig_mod"] if compiled else inner
    return found


@contextmanager
def buffers_kept(model: nn.Module) -> Iterator[None]:
    """Undo on the way out what forward passes do to the buffers of a model."""
    buffers = _buffers(model)
    try:
        yield
    finally:
        _write_back(buffers)


class Around(nn.Module):
    """A module around models, in train mode exactly if one of them is at its root."""

    _around: "Sequence[object]" = ()

    @property
    def training(self) -> bool:
        """The mode."""
        return any(getattr(model, "training", False) for model in self._around)

    @training.setter
    def training(self, mode: bool) -> None:
        """Leave the models as they are; `train` and `eval` go to them themselves."""


def attacked(attack: Attack, model: Model, inputs: Tensor, labels: Tensor) -> Tensor:
    """Call an attack, a foreign one too: on a frozen model, with gradients, its result checked.

    It gets the module inside what wraps it for several processes, and inputs that it may overwrite.
    """
    model = unwrapped(model)
    with frozen(model, grad=True):
        return _checks.attacked(attack(model, inputs.clone(), labels), inputs)


def device_of(model: object) -> torch.device | None:
    """Return the device of the model's first parameter or buffer, if it has one."""
    if not isinstance(model, nn.Module):
        return None
    first: Tensor | None = next(model.parameters(), next(model.buffers(), None))
    return None if first is None else first.device
