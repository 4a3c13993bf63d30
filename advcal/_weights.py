"""The weights of a model by their plain names, whatever is wrapped around it or its parts."""

from collections.abc import Mapping
from typing import Any

from torch import nn

from advcal._frozen import bare


def weights(model: nn.Module) -> dict[str, Any]:
    """Return the `state_dict` with the names that it has without wrappers."""
    found = bare(model).state_dict()
    return {plain: found[name] for plain, name in _names(model, found).items()}


def put_weights(model: nn.Module, values: Mapping[str, Any]) -> None:
    """Load a `state_dict` of plain names."""
    names = _names(model, bare(model).state_dict())
    bare(model).load_state_dict({names[plain]: value for plain, value in values.items()})


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
