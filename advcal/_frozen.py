"""The one context manager that guards a model while it is attacked or evaluated."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

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
    """Run a model in eval mode with frozen parameters and leave it exactly as it was found.

    Restored on the way out, also after an exception: the train/eval flag of each module, the
    `requires_grad` of each parameter, and every buffer that a forward pass replaced or wrote to.
    A model in DistributedDataParallel does not talk to other processes inside.
    A model that is not an `nn.Module` is an opaque callable: nothing in it is touched.

    Args:
        model: The model.
        grad: Whether gradients flow inside, whatever the caller's grad mode is.
    """
    _checks.function("model", model)
    with watching(), torch.inference_mode(False), torch.set_grad_enabled(grad):
        if not isinstance(model, nn.Module):
            yield
            return
        trainable = [p for p in model.parameters() if p.requires_grad and not p.is_inference()]
        restore = [_modes(model), _flags(trainable), _buffers(model), _silenced(model)]
        try:
            if any(module.training for module in model.modules()):
                model.eval()
            for parameter in trainable:
                parameter.requires_grad_(False)
            yield
        finally:
            for undo in restore:
                undo()


def _modes(model: nn.Module) -> Callable[[], None]:
    modes = [(module, module.training) for module in model.modules()]

    def undo() -> None:
        if model.training != modes[0][1]:
            model.train(modes[0][1])
        for module, training in modes:
            module.training = training

    return undo


def _flags(trainable: list[nn.Parameter]) -> Callable[[], None]:
    def undo() -> None:
        for parameter in trainable:
            parameter.requires_grad_(True)

    return undo


def _buffers(model: nn.Module) -> Callable[[], None]:
    saved = [
        (module, name, buffer, buffer.clone())
        for module in model.modules()
        for name, buffer in module._buffers.items()
        if buffer is not None
    ]

    def undo() -> None:
        with torch.no_grad():
            for module, name, buffer, value in saved:
                # By value: batch_norm writes its statistics without a new version of the tensor.
                # And only then: a copy would spoil a graph of the caller's that has the buffer.
                if not (buffer.is_inference() or torch.equal(buffer, value)):
                    buffer.copy_(value)
                module._buffers[name] = buffer

    return undo


def _silenced(model: nn.Module) -> Callable[[], None]:
    names = ("require_backward_grad_sync", "require_forward_param_sync")
    parallel = [m for m in model.modules() if isinstance(m, DistributedDataParallel)]
    flags = [(module, name, getattr(module, name)) for module in parallel for name in names]
    for module, name, _ in flags:
        setattr(module, name, False)

    def undo() -> None:
        for module, name, flag in flags:
            setattr(module, name, flag)

    return undo


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
    inner: nn.Module = unwrapped(model)
    return inner._modules.get("_orig_mod") or inner


@contextmanager
def buffers_kept(model: nn.Module) -> Iterator[None]:
    """Undo on the way out what forward passes do to the buffers of a model."""
    undo = _buffers(model)
    try:
        yield
    finally:
        undo()


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
