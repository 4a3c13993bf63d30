"""Filters and moves of images `(n, channels, height, width)`, mirrored at the borders."""

import math

import torch
from torch import Tensor
from torch.nn import functional

SIDE = 32  # the side of an image that lengths are given for
_REACH = 4  # standard deviations after which a Gaussian is cut off


def scale(images: Tensor, *, least: float = 0.0) -> float:
    """Return by how much lengths grow with the side of images."""
    return max(min(images.shape[2:]) / SIDE, least)


def smoothed(images: Tensor, deviation: float) -> Tensor:
    """Filter by a Gaussian."""
    line = _gaussian(deviation, images.device)
    return filtered(filtered(images, line[:, None]), line[None, :])


def _gaussian(deviation: float, device: torch.device) -> Tensor:
    reach = math.ceil(_REACH * deviation)
    places = torch.arange(-reach, reach + 1, dtype=torch.float32, device=device)
    weights = torch.exp(-(places**2) / (2 * deviation**2))
    return weights / weights.sum()


def filtered(images: Tensor, kernel: Tensor) -> Tensor:
    """Filter every channel of every image, mirrored at the borders."""
    n, channels, height, width = images.shape
    down, across = kernel.shape[0] // 2, kernel.shape[1] // 2
    flat = images.reshape(n * channels, 1, height, width)
    padded = functional.pad(flat, (across, across, down, down), mode="reflect")
    return functional.conv2d(padded, kernel[None, None]).view_as(images)


def transformed(images: Tensor, kernels: Tensor) -> Tensor:
    """Filter images by wide kernels `(n or 1, odd, odd)` of their own, as `filtered` does.

    By Fourier transforms, whose time does not grow with the kernel.
    """
    height, width = images.shape[2:]
    down, across = kernels.shape[1] // 2, kernels.shape[2] // 2
    padded = functional.pad(images, (across, across, down, down), mode="reflect")
    size = [_smooth(side) for side in padded.shape[2:]]
    # Correlation is the product with the conjugate; what wraps around is beyond the part kept.
    waves = torch.fft.rfft2(padded, size) * torch.fft.rfft2(kernels, size).conj_physical()[:, None]
    whole: Tensor = torch.fft.irfft2(waves, size)
    return whole[..., :height, :width]


def _smooth(n: int) -> int:
    """Return the least number from `n` on of factors 2, 3 and 5 alone, which transforms fast."""
    rest = n
    for factor in (2, 3, 5):
        while rest % factor == 0:
            rest //= factor
    return n if rest == 1 else _smooth(n + 1)


def coordinates(images: Tensor) -> tuple[Tensor, Tensor]:
    """Return the row of each pixel, `(height, 1)`, and its column, `(1, width)`."""
    _, _, height, width = images.shape
    rows = torch.arange(height, device=images.device, dtype=images.dtype)
    columns = torch.arange(width, device=images.device, dtype=images.dtype)
    return rows[:, None], columns[None, :]


def moved(images: Tensor, down: Tensor, across: Tensor) -> Tensor:
    """Take each pixel from so far away, between pixels by interpolation, mirrored at the border."""
    n, _, height, width = images.shape
    rows, columns = coordinates(images)
    y = (rows + down) * 2 / (height - 1) - 1
    x = (columns + across) * 2 / (width - 1) - 1
    grid = torch.stack(torch.broadcast_tensors(x, y), dim=-1).expand(n, height, width, 2)
    return functional.grid_sample(images, grid, padding_mode="reflection", align_corners=True)


def moving(images: Tensor, deviation: float, angle: Tensor) -> Tensor:
    """Blur along a line of its own angle, `(n, 1, 1)`, in each image, with Gaussian weights."""
    deviation = max(deviation * scale(images), 0.2)  # less than a fifth of a pixel does nothing
    weights = _gaussian(2 * deviation, images.device)  # at half pixels
    steps = (torch.arange(len(weights), device=images.device) - len(weights) // 2).float() / 2
    reach = math.ceil(len(weights) // 2 / 2)
    pixels = torch.arange(-reach, reach + 1, device=images.device).float()[:, None]
    # A point between pixels has its weight on the four around it, by how near they are.
    down, across = (
        (1 - (pixels - steps * part).abs()).clamp_min(0) for part in (angle.sin(), angle.cos())
    )
    return transformed(images, (weights * down) @ across.transpose(1, 2))
