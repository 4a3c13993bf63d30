"""A Sequential ReLU network as matrices: affine maps with a ReLU between one and the next."""

import copy
import itertools
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from advcal import _checks
from advcal._frozen import bare
from advcal._sums import exact

KNOWN = (
    *(nn.Linear, nn.Conv1d, nn.Conv2d, nn.Flatten, nn.Identity, nn.AvgPool1d, nn.AvgPool2d),
    *(nn.AdaptiveAvgPool2d, nn.BatchNorm1d, nn.BatchNorm2d, nn.Dropout, nn.Dropout2d),
)
_ROWS = 512  # of a matrix at a time


class Affine(NamedTuple):
    """The map of flat inputs x to `matrix x + offset`, in float64."""

    matrix: Tensor
    offset: Tensor

    def __call__(self, rows: Tensor) -> Tensor:
        """Map rows `(n, in)` to `(n, out)`."""
        return rows @ self.matrix.T + self.offset


def affine_maps(model: Any, inputs: Tensor, affine: tuple[type, ...]) -> list[Affine]:
    """Read the affine maps of a network and check them on the inputs."""
    shape, rows = inputs.shape[1:], exact(inputs).flatten(1)
    maps: list[Affine] = []
    for block in _blocks(model, affine):
        found, shape_out = _matrix(block.to(rows), shape, rows.device)
        value, expected = found(rows), block(rows.view(-1, *shape)).flatten(1)
        if not bool(expected.isfinite().all()):
            raise ValueError("expected finite weights, got a network with others")
        if not torch.allclose(value, expected, rtol=1e-6, atol=1e-6 * float(value.abs().amax())):
            names = ", ".join(type(layer).__name__ for layer in block)
            raise ValueError(f"expected affine layers, got {names}, which together are not")
        maps.append(found)
        rows, shape = value.clamp_min(0), shape_out
    _checks.class_rows("logits", value.view(-1, *shape))
    return maps


def _blocks(model: Any, affine: tuple[type, ...]) -> list[nn.Sequential]:
    """Return copies in float64 of the layers between one ReLU and the next."""
    blocks: list[list[nn.Module]] = [[]]
    for layer in _layers(bare(model) if isinstance(model, nn.Module) else model):
        if type(layer) is nn.ReLU:
            blocks.append([])
        elif type(layer) in KNOWN or isinstance(layer, affine):
            if getattr(layer, "running_mean", 0) is None:
                raise ValueError("expected BatchNorm with running statistics, got one without")
            blocks[-1].append(layer)
        else:
            known = ", ".join(each.__name__ for each in (nn.ReLU, *KNOWN))
            raise TypeError(
                f"expected a Sequential of {known}, got {_checks.kind(layer)}; name further affine "
                "layers by affine=(...)"
            )
    return [nn.Sequential(*map(_copied, block)).eval() for block in blocks]


def _copied(layer: nn.Module) -> nn.Module:
    """Copy a layer, also what older norms of weights leave in it, which has a graph."""
    held = [each for module in layer.modules() for each in vars(module).values()]
    made = [each for each in held if isinstance(each, Tensor) and not each.is_leaf]
    return copy.deepcopy(layer, {id(each): each.detach().clone() for each in made})


def _layers(module: Any) -> list[Any]:
    # A hook of an affine layer is copied with the layer.
    if type(module) in (nn.Sequential, nn.ReLU) and _hooked(module):
        found = _checks.kind(module)
        raise ValueError(f"expected {found} without hooks, which may do anything, got some")
    if type(module) is nn.Sequential:
        return list(itertools.chain.from_iterable(_layers(child) for child in module))
    return [module]


def _hooked(module: nn.Module) -> bool:
    return bool(module._forward_hooks or module._forward_pre_hooks)


def _matrix(block: nn.Sequential, shape: Any, device: torch.device) -> tuple[Affine, Any]:
    """Run the block at zero, and back from each of its outputs."""
    for parameter in block.parameters():
        parameter.requires_grad_(False)
    zero = torch.zeros(1, *shape, dtype=torch.float64, device=device)
    at_zero = block(zero)
    n = at_zero.numel()
    parts = []
    for rows in torch.arange(n, device=device).split(_ROWS):
        points = zero.expand(len(rows), *shape).clone().requires_grad_()
        weights = torch.zeros(len(rows), n, dtype=torch.float64, device=device)
        weights.scatter_(1, rows[:, None], 1)
        (part,) = torch.autograd.grad(block(points).flatten(1), points, weights)
        parts.append(part.flatten(1))
    return Affine(torch.cat(parts), at_zero.flatten()), at_zero.shape[1:]
