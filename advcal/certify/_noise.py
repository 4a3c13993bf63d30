"""Gaussian noise that tells nothing of what it was added to."""

import math
from collections.abc import Callable, Iterator

import numpy as np
import torch
from torch import Tensor

from advcal._sums import exact

BLOCK = 1000  # draws from one seed
_FINENESS = 16  # bits after which a unit of noise is cut off


def seeds(n: int, generator: torch.Generator) -> Tensor:
    """Draw the seed of each example, from which all of its noise comes."""
    return torch.randint(2**62, (n,), generator=generator, device=generator.device).cpu()


def noisy(
    point: Tensor, seed: int, *, sigma: float, start: int, stop: int, size: int
) -> Iterator[Tensor]:
    """Yield draws `start` to `stop` of an example with noise, at most `size` at a time.

    Draw i is the same whatever the others are (on a CUDA device, at the same `size`).

    The sum is taken in float64 and rounded to a grid some 2^16 times finer than the noise, whatever
    the example: what a model sees is a function of the exact sum alone. A sum in the precision of
    the inputs would show in its last bits which example it came from, and a model could be right
    for that reason only: of such a model every certificate is wrong.
    """
    draw: Callable[[int], Tensor] | None = None
    while start < stop:
        block, within = divmod(start, BLOCK)
        if draw is None or within == 0:
            draw = _sums(point, (seed, block + 1), sigma)
            if within:  # what has been drawn of this block before
                draw(within)
        rows = min(size, BLOCK - within, stop - start)
        yield draw(rows)
        start += rows


def pilot(point: Tensor, seed: int, *, sigma: float, n: int) -> Tensor:
    """Return n draws of an example with noise that is independent of all others."""
    return _sums(point, (seed, 0), sigma)(n)


def _sums(point: Tensor, key: tuple[int, int], sigma: float) -> Callable[[int], Tensor]:
    """Return what draws an example with noise, `(rows, ...)`, of its dtype and on its device."""
    wide = exact(point)
    step = 2.0 ** (math.floor(math.log2(sigma)) - _FINENESS)
    normals, centre = _normals(wide, key), wide / step  # a power of two: nothing is lost

    def draw(rows: int) -> Tensor:
        steps = normals(rows).mul_(sigma / step).add_(centre).round_()
        return steps.mul_(step).to(point.dtype).to(point.device)

    return draw


def _normals(like: Tensor, key: tuple[int, int]) -> Callable[[int], Tensor]:
    """Return what draws float64 normals of the shape of an example, `(rows, ...)`."""
    sequence = np.random.SeedSequence(key)
    if like.device.type == "cpu":
        source = np.random.Generator(np.random.SFC64(sequence))
        return lambda rows: torch.from_numpy(source.standard_normal((rows, *like.shape)))
    seed = int(sequence.generate_state(1, np.uint64)[0] >> 1)
    generator = torch.Generator(like.device).manual_seed(seed)
    return lambda rows: torch.randn(
        rows, *like.shape, generator=generator, dtype=like.dtype, device=like.device
    )
