"""The one context manager that guards a model while it is attacked or evaluated."""

import threading
from collections.abc import Callable, Hashable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn.parallel import DataParallel, DistributedDataParallel

from advcal import _batches, _checks
from advcal._answers import watching
from advcal._typing import Attack, Model


@contextmanager
def frozen(model: object, *, grad: bool, late: bool = True) -> Iterator[None]:
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
        late: Whether NaN among its logits is an error on the way out, not at once.
    """
    _checks.function("model", model)
    if torch.compiler.is_compiling():
        with _frozen_in_a_graph(model, grad):
            yield
        return
    with torch.inference_mode(False), watching(late=late), torch.set_grad_enabled(grad):
        stay = object()
        try:
            try:
                _alone(_enter, stay, model, grad)
                yield
            finally:
                _alone(_leave, stay)
        finally:
            _alone(_leave, stay)  # what is left to do, if Ctrl-C came into the first


@contextmanager
def _frozen_in_a_graph(model: Any, grad: bool) -> Iterator[None]:
    """Do of it what torch.compile can record: the modes, and no lock, comparison or flag."""
    modules = list(model.modules()) if isinstance(model, nn.Module) else []
    modes = [module.training for module in modules]
    try:
        if modes and modes[0]:
            model.eval()
        with torch.set_grad_enabled(grad):
            yield
    finally:
        for module, mode in zip(modules, modes, strict=True):
            module.training = mode


class _Buffer(NamedTuple):
    module: nn.Module
    name: str
    tensor: Tensor
    value: Tensor  # a copy


class _Part(NamedTuple):
    """What can change of a model: models can share parts, as an ensemble and its members do."""

    restore: Callable[[], object] | _Buffer
    stays: set[object]  # the uses of `frozen` that hold it; the last one out restores


_parts: dict[Hashable, _Part] = {}
_switched: dict[Hashable, nn.Module] = {}  # models put in eval mode, by their own mode's key
_lock = threading.RLock()


def _alone(work: Callable[..., None], *arguments: Any) -> None:
    try:
        with _lock:
            work(*arguments)
    finally:
        while _lock._is_owned():  # type: ignore[attr-defined]  # Ctrl-C came before the release
            _lock.release()


def _enter(stay: object, model: Any, grad: bool) -> None:
    """Note what there is, unless another use did, then freeze it."""
    if not isinstance(model, nn.Module):
        return
    for key, put, read, inside in _state(model, grad):
        if key not in _parts:
            _parts[key] = _Part(partial(put, read()), set())
        _parts[key].stays.add(stay)
        if inside is not None:
            put(inside)
    for module, name, tensor in _buffers(model):
        key = id(module), name, "buffer"
        if key not in _parts:
            _parts[key] = _Part(_Buffer(module, name, tensor, tensor.clone()), set())
        _parts[key].stays.add(stay)
    if getattr(bare(model), "training", False):
        _switched[id(model), "training"] = model
        try:
            model.eval()
        except NotImplementedError:  # an exported program stays in the mode of its export
            del _switched[id(model), "training"]
            for module in model.modules():
                module.training = False


def _leave(stay: object) -> None:
    """Put back what nobody else holds; stopped anywhere, it can be begun again."""
    free = {key: part for key, part in _parts.items() if part.stays <= {stay}}
    held = _parts.keys() - free.keys()
    for key in _switched.keys() & free.keys():
        if held.isdisjoint((id(module), "training") for module in _switched[key].modules()):
            _switched[key].train()  # which may do more than set the flags
    _write_back([part.restore for part in free.values() if isinstance(part.restore, _Buffer)])
    for part in free.values():
        if not isinstance(part.restore, _Buffer):
            part.restore()
    for part in _parts.values():
        part.stays.discard(stay)
    for key in free:
        _switched.pop(key, None)
        _parts.pop(key, None)


_Found = tuple[Hashable, Callable[[Any], object], Callable[[], Any], bool | None]


def _state(model: nn.Module, grad: bool) -> Iterator[_Found]:
    """Yield what may change: its key, what sets it, what reads it, and what it is to be inside."""
    for module in model.modules():
        names: dict[str, bool | None] = {}
        if hasattr(module, "training"):  # what torch.jit.freeze made has none
            names["training"] = None
        if isinstance(module, DistributedDataParallel):
            names |= {"require_backward_grad_sync": False, "require_forward_param_sync": False}
        for name, inside in names.items():
            put, read = partial(setattr, module, name), partial(getattr, module, name)
            yield (id(module), name), put, read, inside
    for parameter in model.parameters() if grad else ():
        if (parameter.requires_grad or id(parameter) in _parts) and not parameter.is_inference():
            yield id(parameter), parameter.requires_grad_, lambda: True, False


def _buffers(model: nn.Module) -> Iterator[tuple[nn.Module, str, Tensor]]:
    for module in model.modules():
        for name, tensor in module._buffers.items():
            if tensor is not None:
                yield module, name, tensor


def _write_back(buffers: list[_Buffer]) -> None:
    # By value: batch_norm writes its statistics without a new version of the tensor.
    # And only then: a copy would spoil a graph of the caller's that has the buffer.
    held = [each for each in buffers if not each.tensor.is_inference()]
    held = [] if _checks.recording() else held
    differ = _checks.read(*((each.tensor != each.value).any() for each in held))
    for each, changed in zip(held, differ, strict=True):
        if changed:
            with torch.no_grad():
                each.tensor.copy_(each.value)
    for each in buffers:
        each.module._buffers[each.name] = each.tensor


def unwrapped(model: Any) -> Any:
    """Return the module inside DistributedDataParallel and Lightning Fabric, else the model itself.

    A compiled model stays compiled, unless there is one of these inside it.
    """
    inner = model
    while isinstance(inner, nn.Module) and not isinstance(inner, DataParallel):
        outer, inner = inner, _inside(inner)
        if inner is not None and "_orig_mod" not in outer._modules:
            model = inner
    return model


def _inside(model: nn.Module) -> Any:
    if isinstance(model, (DataParallel, DistributedDataParallel)):
        return model.module
    found = [name for name in ("_forward_module", "_orig_mod") if name in model._modules]
    return model._modules[found[0]] if found else None  # Fabric's, torch.compile's


def parallel(model: nn.Module) -> DistributedDataParallel | None:
    """Return the DistributedDataParallel around a model or within its other wrappers, if any."""
    inside = unwrapped(model)
    modules = (m for m in model.modules() if isinstance(m, DistributedDataParallel))
    return next(modules, None) if inside is not model else None


def bare(model: nn.Module) -> nn.Module:
    """Return the module inside all wrappers, whose names of weights are the plain ones."""
    while isinstance(inner := _inside(model), nn.Module):
        model = inner
    return model


@contextmanager
def buffers_kept(model: nn.Module) -> Iterator[None]:
    """Undo on the way out what forward passes do to the buffers of a model."""
    held = [_Buffer(*found, found[-1].clone()) for found in _buffers(model)]
    try:
        yield
    finally:
        _write_back(held)


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
        return _batches.attacked(attack(model, inputs.clone(), labels), inputs)


def device_of(model: object) -> torch.device | None:
    """Return the device of the model's first parameter or buffer, if it has one."""
    if not isinstance(model, nn.Module):
        return None
    first: Tensor | None = next(model.parameters(), next(model.buffers(), None))
    return None if first is None else first.device
