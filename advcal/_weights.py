"""The weights of a model by their plain names, whatever is wrapped around it or its parts."""

from collections.abc import Callable, Mapping
from typing import Any

from torch import Tensor, nn

from advcal._frozen import bare


def weights(model: nn.Module) -> dict[str, Any]:
    """Return the `state_dict` with the names that it has without wrappers."""
    found = bare(model).state_dict()
    return {plain: found[name] for plain, name in _names(model, found).items()}


def put_weights(model: nn.Module, values: Mapping[str, Any]) -> None:
    """Load a `state_dict` of plain names, or nothing if it is that of another model."""
    check_weights("weights of this model, got those", model, values)
    names = _names(model, bare(model).state_dict())
    bare(model).load_state_dict({names[plain]: value for plain, value in values.items()})


def check_weights(what: str, model: nn.Module, values: Mapping[str, Any]) -> None:
    """Check that weights by their plain names have the names and shapes of a model's."""
    if apart := difference(weights(model), values, _shape):
        raise ValueError(f"expected {what} of another: {apart}")


def difference(
    mine: Mapping[str, Any], written: Mapping[str, Any], told: Callable[[Any], str]
) -> str | None:
    """Say of the first weight that is told otherwise here than there how it differs, if any is."""
    for name in [*mine, *written]:
        here, there = (told(each[name]) if name in each else "missing" for each in (mine, written))
        if here != there:
            return f"{name!r} is {here} here and {there} there"
    return None


def _shape(value: Any) -> str:
    return str(tuple(value.shape)) if isinstance(value, Tensor) else type(value).__name__


def _names(model: nn.Module, found: Mapping[str, Any]) -> dict[str, str]:
    """Map the plain names of weights to those of the `state_dict`."""
    names = {}
    for name in found:
        module: Any = bare(model)
        words = []
        for word in name.split("."):
            inner = None if module is None else module._modules.get(word)
            if inner is None or bare(inner) is not bare(module):  # else a wrapper around it
                words.append(word)
            module = inner
        names[".".join(words)] = name
    return names
