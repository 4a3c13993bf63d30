"""Gradients for what has none: the value of one function, the gradient of another."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from advcal import _checks
from advcal._answers import rows_of
from advcal._frozen import Around


def through(
    forward: Callable[[Tensor], Tensor], backward: Callable[[Tensor], Tensor] | None = None
) -> nn.Module:
    r"""Lend a gradient to a model, or to one step of it, that has none or a useless one.

    What comes back has the value of `forward`, to the bit, and the gradient of `backward` at the
    same inputs; a loss is differentiated at the value of `forward`. Without `backward` the gradient
    passes as if nothing had been done, which is called straight-through: right for what hardly
    changes its inputs, as rounding or JPEG do. It is no use where a small move never changes the
    value of `forward`, or where `backward` does not look like it.

    - A quantised network: `through(int8, network)`, the network that it was made of.
    - A step before a network: `nn.Sequential(through(jpeg), network)`.
    - A threshold: `through(lambda x: (x > 0.5).float(), lambda x: torch.sigmoid(8 * x - 4))`.

    If no gradient is asked for, `forward` alone is called. It may do what it likes, since no
    gradient is recorded inside; write a loop over NumPy arrays or Pillow images into it.

    Args:
        forward: Inputs to outputs: a model, or a part of one.
        backward: Inputs to outputs of the same shape, with a gradient; the inputs themselves if
            None.

    Returns:
        A module. It holds both, so that an attack guards them as ever.

    Raises:
        TypeError: If one of the two is not a callable, or does not return a tensor when called.
        ValueError: If, when called, they return other shapes.

    Example:
        >>> from advcal.attacks import pgd
        >>> network = lambda inputs: (inputs - 0.4) @ torch.tensor([[1.0, -1.0], [0.0, 0.0]])
        >>> model = nn.Sequential(through(torch.round), through(network, network))
        >>> inputs, labels = torch.tensor([[0.625, 0.5]]), torch.tensor([0])
        >>> model(pgd(model, inputs, labels, eps=0.25)).argmax(dim=1)
        tensor([1])

    References:
        Athalye et al., Obfuscated Gradients Give a False Sense of Security, ICML 2018, section 4.1
        (BPDA); Bengio et al., Estimating or Propagating Gradients Through Stochastic Neurons for
        Conditional Computation, arXiv 1308.3432 (straight-through).
    """
    _checks.function("forward", forward)
    _checks.arguments(backward=backward)
    return _Through(forward, backward)


class _Through(Around):
    def __init__(
        self, value: Callable[[Tensor], Tensor], slope: Callable[[Tensor], Tensor] | None
    ) -> None:
        super().__init__()
        self.value, self.slope = value, slope
        self._around = (value, slope)

    def __repr__(self) -> str:
        both = [self.value] if self.slope is None else [self.value, self.slope]
        return f"through({', '.join(getattr(each, '__name__', repr(each)) for each in both)})"

    def of_rows(self, rows: Tensor | slice) -> "_Through":
        """Take both for some rows of a batch."""
        slope = None if self.slope is None else rows_of(self.slope, rows)
        return _Through(rows_of(self.value, rows), slope)

    def forward(self, inputs: Tensor) -> Tensor:
        with torch.no_grad():
            value = self.value(inputs.detach().clone())
        if not isinstance(value, Tensor):
            raise TypeError(f"expected forward to return a tensor, got {_checks.kind(value)}")
        if not (torch.is_grad_enabled() and inputs.requires_grad):
            return value
        slope = inputs if self.slope is None else self.slope(inputs)
        if not isinstance(slope, Tensor):
            raise TypeError(f"expected backward to return a tensor, got {_checks.kind(slope)}")
        if slope.shape != value.shape:
            wanted = f"of shape {tuple(value.shape)} as forward returns"
            found = "none" if self.slope is None else f"one of shape {tuple(slope.shape)}"
            raise ValueError(f"expected a backward {wanted}, got {found}")
        lent: Tensor = _Lent.apply(value, slope)  # type: ignore[no-untyped-call]
        return lent


class _Lent(torch.autograd.Function):
    """The first tensor, with the gradient of the second: exact, as a sum of both is not."""

    generate_vmap_rule = True

    @staticmethod
    def forward(value: Tensor, slope: Tensor) -> Tensor:
        return value.clone()

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Tensor, Tensor], output: Tensor) -> None:
        ctx.dtype = inputs[1].dtype

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[None, Tensor]:
        return None, gradients[0].to(ctx.dtype)
