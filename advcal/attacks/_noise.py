"""Random noise: the baseline of every attack."""

import torch
from torch import Tensor

from advcal._typing import Bounds, Model, Norm
from advcal.attacks._balls import ball


def uniform_noise(
    model: Model,
    inputs: Tensor,
    labels: Tensor,
    *,
    eps: float | Tensor,
    norm: Norm = "linf",
    bounds: Bounds = (0.0, 1.0),
    generator: torch.Generator | None = None,
) -> Tensor:
    r"""Draw a point uniformly from the ball, $x' = \Pi(x + U)$; it attacks nothing.

    Uses neither the model nor the labels; it takes them so that it can stand in for an attack.

    Args:
        model: Not called.
        inputs: The inputs within `bounds`, shape `(n, ...)`.
        labels: Integer labels, shape `(n,)`; only checked.
        eps: The radius, in units of `inputs`: a number, or one for each example, shape `(n,)`.
        norm: `"linf"`, `"l2"` or `"l1"`.
        bounds: The lowest and highest valid value: numbers, tensors that broadcast, or None.
        generator: The source of the noise; a copy of the global one if None.

    Returns:
        Noisy inputs, of the shape, dtype and device of `inputs`.

    Raises:
        TypeError: If an argument is of the wrong kind or dtype.
        ValueError: If a shape, value or device is wrong.

    Example:
        >>> from advcal.attacks import uniform_noise
        >>> generator = torch.Generator().manual_seed(0)
        >>> inputs, labels = torch.full((1, 3), 0.5), torch.tensor([0])
        >>> noisy = uniform_noise(lambda x: x, inputs, labels, eps=0.1, generator=generator)
        >>> bool((noisy - inputs).abs().max() <= 0.1)
        True
    """
    return ball(norm, inputs, eps, bounds).random_point(generator)
