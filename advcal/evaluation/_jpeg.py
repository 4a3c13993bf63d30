"""What JPEG compression at a quality loses: its transform and quantisation, without the coding."""

import math

import torch
from torch import Tensor
from torch.nn import functional

# ITU-T T.81, Annex K.1: the steps of luminance and of chrominance at quality 50.
_LUMINANCE = """
16 11 10 16 24 40 51 61 12 12 14 19 26 58 60 55 14 13 16 24 40 57 69 56 14 17 22 29 51 87 80 62
18 22 37 56 68 109 103 77 24 35 55 64 81 104 113 92 49 64 78 87 103 121 120 101 72 92 95 98 112 100
103 99
"""
_CHROMINANCE = """
17 18 24 47 99 99 99 99 18 21 26 66 99 99 99 99 24 26 56 99 99 99 99 99 47 66 99 99 99 99 99 99
99 99 99 99 99 99 99 99 99 99 99 99 99 99 99 99 99 99 99 99 99 99 99 99 99 99 99 99 99 99 99 99
"""
# ITU-T T.871: Y, Cb and Cr of R, G and B.
_COLOURS = (
    (0.299, 0.587, 0.114),
    (-0.299 / 1.772, -0.587 / 1.772, 0.5),
    (0.5, -0.587 / 1.402, -0.114 / 1.402),
)


def compressed(images: Tensor, quality: int) -> Tensor:
    """Compress images `(n, 1 or 3, height, width)` in [0, 1], colour at half the resolution."""
    pixels = (images * 255).round()
    luminance = _steps(_LUMINANCE, quality, images.device)
    if images.shape[1] == 1:
        return (_quantised(pixels - 128, luminance) + 128).round() / 255
    chrominance = _steps(_CHROMINANCE, quality, images.device)
    matrix = (
        torch.tensor(_COLOURS, dtype=torch.float64, device="cpu").to(images.dtype).to(images.device)
    )
    y, *colours = torch.einsum("ij,njhw->nihw", matrix, pixels).split(1, dim=1)
    height, width = images.shape[2:]
    planes = [_quantised(y - 128, luminance) + 128]
    for plane in colours:
        even = functional.pad(plane, (0, width % 2, 0, height % 2), mode="replicate")
        half = _quantised(functional.avg_pool2d(even, 2), chrominance)
        planes.append(functional.interpolate(half, scale_factor=2, mode="bilinear"))
    whole = torch.cat([plane[:, :, :height, :width] for plane in planes], dim=1)
    inverse = torch.tensor(_COLOURS, dtype=torch.float64, device="cpu").inverse().to(images.dtype)
    return torch.einsum("ij,njhw->nihw", inverse.to(images.device), whole).round() / 255


def _steps(table: str, quality: int, device: torch.device) -> Tensor:
    """Scale a table to a quality as the Independent JPEG Group's library does."""
    percent = 5000 // quality if quality < 50 else 200 - 2 * quality
    steps = torch.tensor([int(word) for word in table.split()], device="cpu")
    return ((steps * percent + 50) // 100).clamp(1, 255).view(8, 8).float().to(device)


def _quantised(planes: Tensor, steps: Tensor) -> Tensor:
    """Round the cosine transforms of 8 x 8 blocks of `(n, 1, height, width)` to the steps."""
    n, _, height, width = planes.shape
    padded = functional.pad(planes, (0, -width % 8, 0, -height % 8), mode="replicate")
    down, across = padded.shape[2] // 8, padded.shape[3] // 8
    blocks = padded.view(n, down, 8, across, 8).transpose(2, 3)
    waves = torch.arange(8, dtype=torch.float64, device="cpu")
    cosines = torch.cos(math.pi / 8 * waves[:, None] * (waves[None, :] + 0.5)) / 2
    cosines[0] /= math.sqrt(2)
    cosines = cosines.to(planes.dtype).to(planes.device)
    kept = (cosines @ blocks @ cosines.T / steps).round() * steps
    restored = (cosines.T @ kept @ cosines).transpose(2, 3)
    return restored.reshape(n, 1, 8 * down, 8 * across)[:, :, :height, :width]
