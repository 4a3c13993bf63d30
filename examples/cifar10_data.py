"""CIFAR-10 from a local folder, as uint8 tensors and as minibatches in [0, 1].

Two layouts are read: an image folder ``{train,test}/<class>/*.{jpg,jpeg,png}`` and the pickles of
``cifar-10-batches-py``, the original ones or the same content, cut down perhaps, pickled again by
Python 3 at protocols 2 to 5, with str or bytes keys. Pickles are parsed, never executed.
"""

from __future__ import annotations

import hashlib
import os
import pickle
import tempfile
from collections.abc import Iterator, Sequence
from itertools import chain
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import safe_pickle
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional

_TRAIN_BATCHES = tuple(f"data_batch_{i}" for i in range(1, 6))
_SIDE = 32
_PADDING = 4
_ARRAYS = ("train_images", "train_labels", "test_images", "test_labels")


class Cifar10(NamedTuple):
    """Images (n, 3, 32, 32) uint8, labels (n,) int64 and the name of each label."""

    train_images: Tensor
    train_labels: Tensor
    test_images: Tensor
    test_labels: Tensor
    classes: tuple[str, ...]


def load(path: str | os.PathLike[str], *, cache: str | os.PathLike[str] | None = None) -> Cifar10:
    """Load CIFAR-10 from an image folder or from pickles.

    Args:
        path: a folder that is, or directly contains, one of the two layouts.
        cache: where decoded image folders are kept; by default ``advcal`` under
            ``$XDG_CACHE_HOME`` or ``~/.cache``. Pickles are read each time.

    Returns:
        The data, each class in the order of its files. An image folder's classes are labelled in
        alphabetical order.

    Raises:
        FileNotFoundError: neither layout is there.
        ValueError: a file does not hold what the layout promises.
        pickle.UnpicklingError: a pickle is damaged or asks for anything but plain data.
    """
    root = Path(path).expanduser()
    folders = [root, *sorted(root.iterdir())] if root.is_dir() else []
    for folder in folders:
        if (folder / "batches.meta").is_file():
            return _load_pickles(folder)
        if (folder / "train").is_dir() and (folder / "test").is_dir():
            return _load_images(folder, _cache_folder() if cache is None else Path(cache))
    raise FileNotFoundError(
        f"expected {root} to be or to contain cifar-10-batches-py/ (with batches.meta) or a "
        "folder with train/<class>/ and test/<class>/ images, found neither"
    )


def load_or_exit(path: str | os.PathLike[str], device: str = "cpu") -> Cifar10:
    """Load for a script: what is wrong with the data ends the program with one line."""
    try:
        data = load(path)
        return data._replace(**{name: getattr(data, name).to(device) for name in _ARRAYS})
    except (OSError, ValueError, ImportError, pickle.UnpicklingError) as error:
        raise SystemExit(f"--data {path}: {error}") from None
    except RuntimeError as error:
        raise SystemExit(f"--device {device}: {error}") from None


# --- The image folder ---


def _load_images(folder: Path, cache: Path) -> Cifar10:
    classes = _class_names(folder / "train")
    if not classes or _class_names(folder / "test") != classes:
        raise ValueError(f"expected class folders in {folder}/train, the same in {folder}/test")
    train, test = (
        [_image_files(folder / part / name) for name in classes] for part in ("train", "test")
    )
    cached = cache / f"cifar10-{_stamp(folder, [*chain(*train, *test)])}.npz"
    arrays = _read_arrays(cached)
    if arrays is None:
        arrays = dict(zip(_ARRAYS, (*_decode(train), *_decode(test)), strict=True))
        _write_arrays(cached, arrays)
    return Cifar10(**{k: torch.from_numpy(a) for k, a in arrays.items()}, classes=classes)


def _class_names(folder: Path) -> tuple[str, ...]:
    names = sorted(entry.name for entry in folder.iterdir() if entry.is_dir())
    return tuple(name for name in names if not name.startswith("."))


def _image_files(folder: Path) -> list[Path]:
    files = [file for file in folder.iterdir() if file.suffix.lower() in {".jpg", ".jpeg", ".png"}]
    if not files:
        raise ValueError(f"expected .jpg, .jpeg or .png images in {folder}, got none")
    return sorted(files)


def _decode(files: Sequence[Sequence[Path]]) -> tuple[NDArray[np.uint8], NDArray[np.int64]]:
    images = np.stack([_decode_image(file) for of_class in files for file in of_class])
    labels = np.repeat(np.arange(len(files)), [len(of_class) for of_class in files])
    return images, labels


def _decode_image(file: Path) -> NDArray[np.uint8]:
    try:
        from PIL import Image
    except ImportError as error:
        raise ImportError("reading an image folder needs Pillow: pip install pillow") from error
    try:
        with Image.open(file, formats=("JPEG", "PNG")) as image:
            if image.size != (_SIDE, _SIDE):
                raise ValueError(f"expected a 32x32 image, got {image.width}x{image.height}")
            pixels = np.asarray(image.convert("RGB"))
    except (OSError, SyntaxError, ValueError) as error:  # Pillow's three ways of saying "damaged"
        raise ValueError(f"{file}: {error}") from error
    return np.ascontiguousarray(pixels.transpose(2, 0, 1))


def _cache_folder() -> Path:
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "advcal"


def _stamp(folder: Path, files: Sequence[Path]) -> str:
    digest = hashlib.sha256(os.fsencode(folder.resolve()))
    for file in files:
        status = file.stat()
        digest.update(f"{file.relative_to(folder)} {status.st_size} {status.st_mtime_ns}".encode())
    return digest.hexdigest()[:32]


def _read_arrays(path: Path) -> dict[str, NDArray[Any]] | None:
    try:
        with path.open("rb") as file, np.load(file, allow_pickle=False) as arrays:
            return {name: arrays[name] for name in _ARRAYS}
    except Exception:  # absent, or damaged in whatever way: the images are still there
        return None


def _write_arrays(path: Path, arrays: dict[str, NDArray[Any]]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=path.parent) as scratch:
        unfinished = Path(scratch) / path.name
        np.savez(unfinished, **arrays)  # type: ignore[arg-type]
        unfinished.replace(path)


# --- The pickles ---


def _load_pickles(folder: Path) -> Cifar10:
    train = [_read_batch(folder / name) for name in _TRAIN_BATCHES]
    test_images, test_labels = _read_batch(folder / "test_batch")
    return Cifar10(
        torch.cat([images for images, _ in train]),
        torch.cat([labels for _, labels in train]),
        test_images,
        test_labels,
        _read_classes(folder / "batches.meta"),
    )


def _read_batch(file: Path) -> tuple[Tensor, Tensor]:
    match _read_pickle(file):
        case {"data": np.ndarray(shape=(n, 3072)) as data, "labels": [*labels]}:
            if n == len(labels) and all(type(k) is int and k in range(10) for k in labels):
                images = torch.from_numpy(data.copy()).view(n, 3, _SIDE, _SIDE)
                return images, torch.tensor(labels, dtype=torch.int64)
    raise ValueError(f"{file}: expected uint8 data (n, 3072) and n labels from 0 to 9")


def _read_classes(file: Path) -> tuple[str, ...]:
    match _read_pickle(file):
        case {"label_names": [*names]}:
            names = [_text(name) for name in names]
            if len(names) == 10 and all(isinstance(name, str) for name in names):
                return tuple(names)
    raise ValueError(f"{file}: expected ten label_names")


def _read_pickle(file: Path) -> object:
    try:
        content = safe_pickle.loads(file.read_bytes())
    except pickle.UnpicklingError as error:
        raise pickle.UnpicklingError(f"{file}: {error}") from error
    if isinstance(content, dict):
        return {_text(key): value for key, value in content.items()}
    return content


def _text(value: object) -> object:
    return value.decode("latin-1") if isinstance(value, bytes) else value


# --- Minibatches ---


class Batches:
    """Iterate over minibatches, (inputs, labels), as often as wanted.

    Images stay uint8 in memory; a minibatch is float32 in [0, 1]. The random state is the
    instance's own, and each pass draws from it once, so that a pass left early changes nothing in
    those that follow.

    Args:
        images: (n, c, h, w) uint8.
        labels: (n,).
        batch_size: the last minibatch may be smaller.
        shuffle: visit the examples in a new order each pass.
        seed: fixes the orders and the augmentation of all passes.
        augment: crop at random after padding by 4 zeros and flip half of the images sideways.
        indices: yield (inputs, labels, indices), with the places of the examples in ``images``.
    """

    def __init__(
        self,
        images: Tensor,
        labels: Tensor,
        batch_size: int = 128,
        shuffle: bool = False,
        seed: int = 0,
        augment: bool = False,
        indices: bool = False,
    ) -> None:
        if images.dtype != torch.uint8:
            raise TypeError(f"expected uint8 images, got {images.dtype}")
        if images.ndim != 4 or labels.shape != images.shape[:1] or len(images) == 0:
            raise ValueError(
                "expected images (n, c, h, w) and labels (n,) with n > 0, "
                f"got {tuple(images.shape)} and {tuple(labels.shape)}"
            )
        if batch_size < 1:
            raise ValueError(f"expected a positive batch_size, got {batch_size}")
        self.images, self.labels = images, labels
        self.batch_size, self.shuffle = batch_size, shuffle
        self.augment, self.indices = augment, indices
        self.generator = torch.Generator().manual_seed(seed)

    def __len__(self) -> int:
        return -(-len(self.images) // self.batch_size)

    def __iter__(self) -> Iterator[tuple[Tensor, ...]]:
        seed = int(torch.randint(2**62, (), generator=self.generator))
        generator = torch.Generator().manual_seed(seed)
        n = len(self.images)
        order = torch.randperm(n, generator=generator) if self.shuffle else torch.arange(n)
        for chosen in order.to(self.images.device).split(self.batch_size):
            images = self.images[chosen]
            if self.augment:
                images = _crop_and_flip(images, generator)
            batch = images.float() / 255, self.labels[chosen]
            yield (*batch, chosen) if self.indices else batch


def _crop_and_flip(images: Tensor, generator: torch.Generator) -> Tensor:
    n, channels, height, width = images.shape
    top, left = torch.randint(2 * _PADDING + 1, (2, n, 1), generator=generator)
    rows, columns = top + torch.arange(height), left + torch.arange(width)
    flips = torch.rand(n, 1, generator=generator) < 0.5
    columns = torch.where(flips, columns.flip(1), columns)
    index = (
        torch.arange(n).view(n, 1, 1, 1),
        torch.arange(channels).view(1, channels, 1, 1),
        rows.view(n, 1, height, 1),
        columns.view(n, 1, 1, width),
    )
    padded = functional.pad(images, (_PADDING,) * 4)
    return padded[tuple(i.to(images.device) for i in index)]


def split(
    images: Tensor, labels: Tensor, n_validation: int, seed: int = 0
) -> tuple[tuple[Tensor, Tensor], tuple[Tensor, Tensor]]:
    """Split at random into disjoint training and validation examples.

    Returns:
        ``(images, labels)`` of the training part, then of the ``n_validation`` examples.
    """
    n = len(images)
    if not 0 <= n_validation <= n:
        raise ValueError(f"expected n_validation from 0 to {n}, got {n_validation}")
    order = torch.randperm(n, generator=torch.Generator().manual_seed(seed)).to(images.device)
    validation, training = order[:n_validation], order[n_validation:]
    return (images[training], labels[training]), (images[validation], labels[validation])
