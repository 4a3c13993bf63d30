"""Common corruptions made here, at five severities. They are not CIFAR-10-C."""

from collections.abc import Hashable, Iterable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from advcal import _batches, _checks, _digest
from advcal._answers import uncast
from advcal._pass import again, sourced
from advcal._random import resolve
from advcal._typing import Batch, Progress
from advcal.evaluation import _shifts
from advcal.evaluation._jpeg import compressed

SEVERITIES = (1, 2, 3, 4, 5)


class _Row(NamedTuple):
    shift: _shifts.Shift
    settings: Sequence[Any]  # one per severity


# Ours, near what was published for images of 32 pixels where a corruption is defined alike.
CORRUPTIONS: dict[str, _Row] = {
    "gaussian_noise": _Row(_shifts.gaussian_noise, (0.04, 0.06, 0.08, 0.10, 0.12)),
    "shot_noise": _Row(_shifts.shot_noise, (500, 250, 120, 75, 50)),
    "impulse_noise": _Row(_shifts.impulse_noise, (0.01, 0.02, 0.03, 0.05, 0.07)),
    "speckle_noise": _Row(_shifts.speckle_noise, (0.06, 0.10, 0.14, 0.18, 0.22)),
    "gaussian_blur": _Row(_shifts.gaussian_blur, (0.4, 0.6, 0.7, 0.8, 1.0)),
    "defocus_blur": _Row(_shifts.defocus_blur, (0.8, 1.1, 1.4, 1.7, 2.0)),
    "glass_blur": _Row(_shifts.glass_blur, (0.6, 0.8, 1.0, 1.3, 1.6)),
    "motion_blur": _Row(_shifts.motion_blur, (0.6, 1.0, 1.4, 1.8, 2.2)),
    "zoom_blur": _Row(_shifts.zoom_blur, (1.06, 1.11, 1.16, 1.21, 1.26)),
    "fog": _Row(_shifts.fog, ((0.2, 3.0), (0.5, 3.0), (0.75, 2.5), (1.0, 2.0), (1.5, 1.75))),
    "snow": _Row(_shifts.snow, ((0.03, 0.3), (0.06, 0.4), (0.10, 0.5), (0.15, 0.6), (0.20, 0.7))),
    "spatter": _Row(
        _shifts.spatter,
        (
            *[("water", 0.8, 0.04), ("water", 1.0, 0.07), ("water", 1.2, 0.10)],
            *[("mud", 1.0, 0.24), ("mud", 1.2, 0.34)],
        ),
    ),
    "brightness": _Row(_shifts.brightness, (0.10, 0.15, 0.20, 0.30, 0.40)),
    "contrast": _Row(_shifts.contrast, (0.75, 0.50, 0.40, 0.30, 0.15)),
    "saturate": _Row(_shifts.saturate, (1.5, 2.0, 3.0, 5.0, 10.0)),
    "elastic_transform": _Row(_shifts.elastic_transform, (0.4, 0.6, 0.8, 1.0, 1.3)),
    "pixelate": _Row(_shifts.pixelate, (0.94, 0.78, 0.69, 0.53, 0.47)),
    "jpeg_compression": _Row(
        lambda images, quality, _: compressed(images, quality), (75, 45, 25, 15, 8)
    ),
}

# Those that want certain channels.
_CHANNELS = {"saturate": (3,), "jpeg_compression": (1, 3)}


def corrupt(
    inputs: Tensor,
    corruption: str,
    *,
    severity: int,
    generator: torch.Generator | None = None,
) -> Tensor:
    """Corrupt images in one of eighteen ways; not CIFAR-10-C, and no figures on it are.

    The corruptions are those that Hendrycks & Dietterich describe, implemented anew and with
    settings of our own: `"gaussian_noise"`, `"shot_noise"`, `"impulse_noise"`, `"speckle_noise"`;
    `"gaussian_blur"`, `"defocus_blur"`, `"glass_blur"`, `"motion_blur"`, `"zoom_blur"`; `"fog"`,
    `"snow"`, `"spatter"` (drops of water, from severity 4 of mud, brown on 3 channels and dark grey
    on others); `"brightness"`, `"contrast"`, `"saturate"`; `"elastic_transform"`, `"pixelate"`,
    `"jpeg_compression"`. Missing is frost, which needs photographs. Lengths grow with the shorter
    side of the image; below 32 pixels the Gaussian, defocus and glass blurs stay as wide as at 32.
    Results are not rounded to 8 bits, but for JPEG. Read the published files with
    `read_corruptions`.

    Args:
        inputs: Images in `[0, 1]`, shape `(n, channels, height, width)`, sides of 8 pixels or more.
        corruption: Its name; `"saturate"` and `"jpeg_compression"` want certain channels.
        severity: From 1 to 5.
        generator: The source of randomness; a copy of the global one by default.

    Returns:
        Images in `[0, 1]` of the shape, dtype and device of `inputs`.

    Raises:
        TypeError: If an argument is of the wrong kind or dtype.
        ValueError: If a shape or value is wrong.

    Example:
        >>> images = torch.full((1, 3, 8, 8), 0.5)
        >>> corrupt(images, "brightness", severity=1)[0, 0, 0, 0].item()
        0.6

    References:
        Hendrycks & Dietterich, Benchmarking Neural Network Robustness to Common Corruptions and
        Perturbations, ICLR 2019.
    """
    _batches.inputs(inputs)
    found = _checks.kind(inputs)
    if inputs.ndim != 4 or min(inputs.shape[2:]) < 8:
        wanted = "(n, channels, height >= 8, width >= 8)"
        raise ValueError(f"expected inputs of shape {wanted}, got {found}")
    least, most = (float(end) for end in inputs.detach().aminmax())
    if not 0 <= least <= most <= 1:
        values, hint = _batches.beyond(0.0, 1.0, least, most)
        raise ValueError(f"expected inputs in [0, 1], got values from {values}{hint}")
    _checks.choice("corruption", corruption, CORRUPTIONS)
    _severity(severity)
    if inputs.shape[1] not in _CHANNELS.get(corruption, inputs.shape):
        few = " or ".join(map(str, _CHANNELS[corruption]))
        do = "saturate" if corruption == "saturate" else "compress"
        raise ValueError(f"expected inputs of {few} channels to {do}, got {found}")
    source = _shifts.Source(resolve(generator, inputs.device), inputs.device)
    row = CORRUPTIONS[corruption]
    with torch.no_grad(), uncast(inputs.device):
        wide = inputs.detach().float()
        return row.shift(wide, row.settings[severity - 1], source).clamp(0, 1).to(inputs.dtype)


def corruptions(
    batches: Iterable[Batch],
    *,
    kinds: Sequence[str] | None = None,
    severity: Sequence[int] = SEVERITIES,
    generator: torch.Generator | None = None,
    progress: Progress | None = None,
) -> dict[str, Iterable[Batch]]:
    """Make a data set per corruption and severity, ready for `sweep`; not CIFAR-10-C.

    A set corrupts one batch after the other as it is read, with the same random numbers each time.
    If the first batch has channels that a corruption cannot do, as grey images cannot be saturated,
    that one is left out, and one warning says so. A set has as many batches as `batches`.

    Args:
        batches: A list, a `DataLoader` or the like of `(inputs, labels, *rest)`; see `corrupt`.
        kinds: The corruptions; all that can be done if None.
        severity: The severities.
        generator: The source of one seed per set; a copy of the global one by default.
        progress: A wrapper of an iterable that shows progress, such as `tqdm.tqdm`; of the batches
            of a set, each time it is gone through.

    Returns:
        `"fog 3"` and the like, by corruption and then severity, to iterables of batches.

    Raises:
        TypeError: If an argument is of the wrong kind, or `batches` can be read only once.
        ValueError: If a name or severity is unknown, or none of the corruptions can be done.

    Example:
        >>> batches = [(torch.rand(2, 3, 32, 32), torch.tensor([0, 1]))]
        >>> list(corruptions(batches, kinds=["fog"], severity=[1, 5]))
        ['fog 1', 'fog 5']
    """
    again(batches)
    _checks.arguments(progress=progress)
    chosen = known_kinds(kinds, CORRUPTIONS)
    levels = [_severity(each) for each in listed("severity", severity)]
    source = resolve(generator, torch.device("cpu"))
    keys = [(name, level) for name in chosen for level in levels]
    # One each, so that no set depends on which others there are.
    seeds = torch.randint(2**62, (len(keys),), generator=source, device=source.device)
    able = _able(batches, chosen)
    sets = {
        f"{name} {level}": _Corrupted(batches, name, level, int(seed))
        for (name, level), seed in zip(keys, seeds, strict=True)
        if name in able
    }
    return shown(sets, progress)


def _able(batches: Iterable[Batch], kinds: Sequence[str]) -> list[str]:
    """Keep the corruptions that the channels of the first batch allow; warn of the others."""
    if not _CHANNELS.keys() & kinds:
        return list(kinds)
    with torch.random.fork_rng(devices=[]):  # a DataLoader draws a seed, and perhaps an order
        inputs = next(((*batch, None)[0] for batch in batches), None)
    if not isinstance(inputs, Tensor) or inputs.ndim != 4:  # `corrupt` says what is wrong
        return list(kinds)
    n = inputs.shape[1]
    able = [name for name in kinds if n in _CHANNELS.get(name, (n,))]
    left_out = ", ".join(map(repr, (name for name in kinds if name not in able)))
    if not able:
        raise ValueError(f"expected images that can be corrupted by {left_out}, got {n} channels")
    if left_out:
        images = "grey images" if n == 1 else f"images of {n} channels"
        _checks.warn(f"left out {left_out}, which cannot be done on {images}")
    return able


class _Corrupted(_digest.Known):
    """Batches that are corrupted as they are read, each time alike."""

    def __init__(self, batches: Any, name: str, severity: int, seed: int) -> None:
        self.batches, self.name, self.severity, self.seed = batches, name, severity, seed

    def __len__(self) -> int:
        return len(self.batches)

    def __iter__(self) -> Iterator[Batch]:
        generator = torch.Generator().manual_seed(self.seed)
        for inputs, *rest in sourced("batches", self.batches):
            shifted = corrupt(inputs, self.name, severity=self.severity, generator=generator)
            yield (shifted, *rest)

    def digest(self, of: _digest.Digest) -> int:
        words = f"{of(self.batches)} {self.name} {self.severity} {self.seed}"
        return _digest.word(words.encode())


def shown(
    sets: Mapping[str, Iterable[Batch]], progress: Progress | None
) -> dict[str, Iterable[Batch]]:
    """Let each set show its batches as it is gone through."""
    if progress is None:
        return dict(sets)
    return {name: _Shown(batches, progress) for name, batches in sets.items()}


class _Shown(_digest.Known):
    """A set whose batches are shown as they are read."""

    def __init__(self, batches: Any, progress: Progress) -> None:
        self.batches, self.progress = batches, progress

    def __len__(self) -> int:
        return len(self.batches)

    def __iter__(self) -> Iterator[Batch]:
        return iter(self.progress(self.batches))

    def digest(self, of: _digest.Digest) -> int:
        return of(self.batches)


def listed(name: str, value: Any) -> list[Any]:
    """Check a list or tuple of one item or more, none twice."""
    if not isinstance(value, (list, tuple)):
        raise TypeError(f"expected {name} as a list or tuple, got {_checks.kind(value)}")
    if not value:
        raise ValueError(f"expected one or more in {name}, got none")
    for each in value:
        if not isinstance(each, Hashable):
            raise TypeError(f"expected {name} of words or numbers, got {_checks.kind(each)} in it")
    if len(set(value)) != len(value):
        raise ValueError(f"expected each only once in {name}, got {list(value)}")
    return list(value)


def known_kinds(kinds: Any, known: Iterable[str]) -> list[str]:
    """Check kinds of corruptions among those known; all if None."""
    options = list(known)
    chosen = options if kinds is None else listed("kinds", kinds)
    for kind in chosen:
        _checks.choice("kinds", kind, options)
    return chosen


def _severity(value: Any) -> int:
    if _checks.count("severity", value) > len(SEVERITIES):
        raise ValueError(f"expected severity from 1 to {len(SEVERITIES)}, got {value}")
    return int(value)
