"""The shifts themselves: noise, blur, weather and digital damage of images in [0, 1].

Each takes images `(n, channels, height, width)` in float32, the setting of its severity and a
source of random numbers. Lengths are in pixels of an image whose shorter side is 32, and grow with
the side; those of `scale(images, least=1)` do not shrink with it, lest a blur do nothing. What
leaves [0, 1] is clamped by the caller.
"""

import math
from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.nn import functional

from advcal._random import steady
from advcal.evaluation._filters import (
    SIDE,
    coordinates,
    filtered,
    moved,
    moving,
    scale,
    smoothed,
    transformed,
)

_LIQUIDS = {  # colour in RGB, opacity, and how far the light on it goes
    "water": ((0.85, 0.85, 0.85), 0.5, 0.5),
    "mud": ((0.26, 0.18, 0.10), 0.9, 0.1),
}


class Source(NamedTuple):
    """Random numbers of a generator on the device of the images."""

    generator: torch.Generator
    device: torch.device

    def normal(self, *shape: int) -> Tensor:
        return self._drawn(torch.randn, shape)

    def uniform(self, *shape: int) -> Tensor:
        return self._drawn(torch.rand, shape)

    def poisson(self, rates: Tensor) -> Tensor:
        source = steady(self.generator)
        return torch.poisson(rates.to(source.device), generator=source).to(self.device)

    def _drawn(self, sampler: Callable[..., Tensor], shape: tuple[int, ...]) -> Tensor:
        where = self.generator.device
        drawn = sampler(shape, generator=self.generator, dtype=torch.float32, device=where)
        return drawn.to(self.device)


Shift = Callable[[Tensor, Any, Source], Tensor]


# --- noise -----------------------------------------------------------------------------------


def gaussian_noise(images: Tensor, deviation: float, source: Source) -> Tensor:
    return images + deviation * source.normal(*images.shape)


def shot_noise(images: Tensor, photons: float, source: Source) -> Tensor:
    return source.poisson(images * photons) / photons


def impulse_noise(images: Tensor, share: float, source: Source) -> Tensor:
    drawn = source.uniform(*images.shape)
    return torch.where(drawn < share, (drawn < share / 2).to(images.dtype), images)


def speckle_noise(images: Tensor, deviation: float, source: Source) -> Tensor:
    return images + images * deviation * source.normal(*images.shape)


# --- blur ------------------------------------------------------------------------------------


def gaussian_blur(images: Tensor, deviation: float, source: Source) -> Tensor:
    return smoothed(images, deviation * scale(images, least=1))


def defocus_blur(images: Tensor, radius: float, source: Source) -> Tensor:
    radius = radius * scale(images, least=1)
    reach, fine = math.ceil(radius), 9  # a pixel weighs what the disc covers of its 9 x 9 parts
    parts = (
        torch.arange(
            -reach * fine - fine // 2,
            reach * fine + fine // 2 + 1,
            dtype=torch.float32,
            device="cpu",
        )
        / fine
    )
    disc = (parts[:, None] ** 2 + parts[None, :] ** 2 <= radius**2).float()
    kernel = functional.avg_pool2d(disc[None, None], fine)[0, 0].to(images.device)
    kernel = kernel / kernel.sum()
    return filtered(images, kernel) if reach < 5 else transformed(images, kernel[None])


def glass_blur(images: Tensor, distance: float, source: Source) -> Tensor:
    n, _, height, width = images.shape
    moves = distance * scale(images, least=1) * (2 * source.uniform(2, n, height, width) - 1)
    return gaussian_blur(moved(images, *moves.round()), 0.4, source)


def motion_blur(images: Tensor, deviation: float, source: Source) -> Tensor:
    return moving(images, deviation, math.pi * source.uniform(len(images), 1, 1))


def zoom_blur(images: Tensor, largest: float, source: Source) -> Tensor:
    _, _, height, width = images.shape
    rows, columns = coordinates(images)
    rows, columns = rows - (height - 1) / 2, columns - (width - 1) / 2
    zooms = torch.linspace(1, largest, 12, dtype=torch.float32, device="cpu").tolist()
    zoomed = (moved(images, rows / zoom - rows, columns / zoom - columns) for zoom in zooms)
    return sum(zoomed, start=torch.zeros_like(images)) / len(zooms)


# --- weather ---------------------------------------------------------------------------------


def fog(images: Tensor, setting: tuple[float, float], source: Source) -> Tensor:
    thickness, decay = setting
    most = images.flatten(1).amax(dim=1)[:, None, None, None]
    misty = images + thickness * _plasma(images, decay, source)[:, None]
    return misty * most / (most + thickness)


def snow(images: Tensor, setting: tuple[float, float], source: Source) -> Tensor:
    share, paleness = setting
    n, _, height, width = images.shape
    pale = torch.maximum(images, images.mean(dim=1, keepdim=True) * 0.7 + 0.3)
    flakes = smoothed(source.normal(n, 1, height, width), 0.6 * scale(images))
    least = flakes.flatten(1).quantile(1 - share, dim=1)[:, None, None, None]
    most = flakes.flatten(1).amax(dim=1)[:, None, None, None]
    bright = ((flakes - least) / (most - least)).clamp(0, 1).sqrt()
    angle = math.pi * (0.25 + 0.5 * source.uniform(n, 1, 1))
    return torch.lerp(images, pale, paleness) + 1.3 * moving(bright, 0.8, angle)


def spatter(images: Tensor, setting: tuple[str, float, float], source: Source) -> Tensor:
    liquid, length, share = setting
    colour, opacity, gloss = _LIQUIDS[liquid]
    n, channels, height, width = images.shape
    layer = smoothed(source.normal(n, 1, height, width), length * scale(images)).flatten(1)
    least = layer.sort(dim=1).values[:, math.floor((1 - share) * height * width) - 1, None]
    depth = (layer - least) / layer.std(dim=1, keepdim=True)
    drops = (3 * depth).clamp(0, 1).view(n, 1, height, width)
    aside = images.new_full((), 0.5 * length * scale(images))
    relief = moved(drops, aside, aside) - moved(drops, -aside, -aside)  # lit from the upper left
    tint = images.new_tensor(colour)[:, None, None]
    tint = tint if channels == 3 else tint.mean()
    return torch.lerp(images, tint + gloss * relief, opacity * drops)


# --- colour ----------------------------------------------------------------------------------


def brightness(images: Tensor, added: float, source: Source) -> Tensor:
    value = images.amax(dim=1, keepdim=True)
    brighter = (value + added).clamp(max=1)
    return torch.where(value > 0, images * (brighter / value.clamp_min(1e-6)), brighter)


def contrast(images: Tensor, factor: float, source: Source) -> Tensor:
    mean = images.mean(dim=(2, 3), keepdim=True)
    return torch.lerp(mean, images, factor)


def saturate(images: Tensor, factor: float, source: Source) -> Tensor:
    value, least = images.amax(dim=1, keepdim=True), images.amin(dim=1, keepdim=True)
    saturation = 1 - least / value.clamp_min(1e-6)
    grown = (saturation * factor).clamp(max=1) / saturation.clamp_min(1e-6)
    return value - (value - images) * torch.where(saturation > 0, grown, 0)


# --- digital ---------------------------------------------------------------------------------


def elastic_transform(images: Tensor, distance: float, source: Source) -> Tensor:
    n, _, height, width = images.shape
    moves = smoothed(source.normal(n, 2, height, width), 2.5 * scale(images))
    moves = moves / moves.flatten(1).std(dim=1)[:, None, None, None]
    return moved(images, *(distance * scale(images) * moves).unbind(dim=1))


def pixelate(images: Tensor, factor: float, source: Source) -> Tensor:
    height, width = images.shape[2:]
    for side, dim in ((height, 2), (width, 3)):
        fewer = 0.265 if side <= SIDE / 2 else 0.0  # so that no two severities are the same
        shares = _shares(side, round(side * factor - fewer)).to(images.device)
        means = shares / shares.sum(dim=1, keepdim=True)
        images = (images.transpose(dim, 3) @ means.T @ shares).transpose(dim, 3)
    return images


# --- helpers ---------------------------------------------------------------------------------


def _shares(n: int, parts: int) -> Tensor:
    """Return how much of each of `n` pixels in a row lies in each of equal parts, `(parts, n)`."""
    ends = torch.arange(parts + 1, dtype=torch.float64, device="cpu") * n / parts
    pixels = torch.arange(n, dtype=torch.float64, device="cpu")
    upper = torch.minimum(ends[1:, None], pixels + 1)
    return (upper - torch.maximum(ends[:-1, None], pixels)).clamp_min(0).float()


def _plasma(images: Tensor, decay: float, source: Source) -> Tensor:
    """Draw plasma fractals by midpoint displacement, from 0 to 1, `(n, height, width)`."""
    n, _, height, width = images.shape
    size, roughness = 1, 1.0
    while size < max(height, width):
        size *= 2
    plasma = torch.zeros(n, 1, 1, dtype=torch.float32, device=images.device)
    while plasma.shape[1] < size:
        roughness /= decay
        across, down = plasma + plasma.roll(-1, 2), plasma + plasma.roll(-1, 1)
        # Each point is the mean of its four neighbours on a torus, displaced.
        square = _displaced((across + across.roll(-1, 1)) / 4, roughness, source)
        right = _displaced((across + square + square.roll(1, 1)) / 4, roughness, source)
        below = _displaced((down + square + square.roll(1, 2)) / 4, roughness, source)
        upper = torch.stack([plasma, right], dim=3).flatten(2)
        lower = torch.stack([below, square], dim=3).flatten(2)
        plasma = torch.stack([upper, lower], dim=2).flatten(1, 2)
    least, most = (end[:, None, None] for end in plasma.flatten(1).aminmax(dim=1))
    return ((plasma - least) / (most - least))[:, :height, :width]


def _displaced(mean: Tensor, roughness: float, source: Source) -> Tensor:
    return mean + roughness * (2 * source.uniform(*mean.shape) - 1)
