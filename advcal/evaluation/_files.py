"""Corruption sets from files in the layouts they are published in, never all in memory."""

import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from advcal import _checks, _digest
from advcal._looks import looks
from advcal._typing import Batch, Progress
from advcal.evaluation._corrupt import SEVERITIES, known_kinds, shown
from advcal.evaluation._images import SUFFIXES, pixels

_LABELS = "labels"
_IMAGES_OF_MNIST = "test_images.npy"


def read_corruptions(
    path: str | os.PathLike[str],
    size: int = 500,
    *,
    kinds: Sequence[str] | None = None,
    progress: Progress | None = None,
) -> dict[str, Iterable[Batch]]:
    """Open a folder in the layout of CIFAR-10-C, ImageNet-C or MNIST-C as data sets.

    The layout is told by what is there. Hidden files and folders do not count.

    - **CIFAR-10-C**, CIFAR-100-C: `<corruption>.npy`, uint8 `(n, height, width, 3 or 1)` in five
      blocks of `n / 5` rows, severity 1 first, and `labels.npy`, the labels of all `n` rows.
    - **ImageNet-C**, Tiny-ImageNet-C: `<corruption>/<severity>/<class>/<image>`, of JPEG or PNG,
      perhaps one folder deeper, as in `blur/defocus_blur/1`. A label is the place of the name of
      its class among the names in order, numbers by their value. Grey images get three equal
      channels. Pillow reads them: `pip install 'advcal[images]'`.
    - **MNIST-C**: `<corruption>/test_images.npy`, uint8 `(n, 28, 28, 1)`, and `test_labels.npy`.

    Arrays are mapped and images decoded batch by batch, each time a set is gone through. A set has
    a `len`, and a digest by which `sweep` knows it.

    Args:
        path: The folder.
        size: The number of examples of a batch.
        kinds: The corruptions; all that are there, in alphabetical order, if None.
        progress: A wrapper of an iterable that shows progress, such as `tqdm.tqdm`; of the batches
            of a set, each time it is gone through.

    Returns:
        `"fog 3"` and the like, by corruption and then severity, or `"fog"` of MNIST-C, to iterables
        of `(inputs, labels)`: float32 in `[0, 1]`, shape `(size, channels, height, width)`, and
        int64.

    Raises:
        TypeError: If an argument is of the wrong kind.
        ValueError: If a name is unknown or a file is not what the layout promises; the message has
            its name. A damaged image is found when it is read.
        FileNotFoundError: If the folder has none of these layouts.
        ImportError: If Pillow is wanted and not there, as images are read.

    Example:
        >>> import tempfile
        >>> import numpy as np
        >>> folder = tempfile.mkdtemp()
        >>> np.save(folder + "/fog.npy", np.full((10, 32, 32, 3), 255, dtype=np.uint8))
        >>> np.save(folder + "/labels.npy", np.tile([3, 8], 5))
        >>> sets = read_corruptions(folder)
        >>> [(tuple(inputs.shape), labels.tolist()) for inputs, labels in sets["fog 5"]]
        [((2, 3, 32, 32), [3, 8])]

    References:
        Hendrycks & Dietterich, Benchmarking Neural Network Robustness to Common Corruptions and
        Perturbations, ICLR 2019; https://zenodo.org/records/2535967 and 2235448.
        Mu & Gilmer, MNIST-C: A Robustness Benchmark for Computer Vision, arXiv 1906.02337;
        https://zenodo.org/records/3239543.
    """
    if not isinstance(path, (str, os.PathLike)):
        raise TypeError(f"expected path as a str or a path, got {_checks.kind(path)}")
    if not os.fspath(path):
        raise ValueError("expected path of a folder, got ''")
    size = _checks.count("size", size)
    _checks.arguments(progress=progress)
    folder = Path(path)
    if not folder.is_dir():
        raise FileNotFoundError(f"expected path of a folder, got {os.fspath(path)!r}")
    arrays = {file.stem for file in _visible(folder) if file.suffix == ".npy" and not file.is_dir()}
    folders = {each.name: each for each in _visible(folder) if each.is_dir()}
    digits = {name: each for name, each in folders.items() if (each / _IMAGES_OF_MNIST).exists()}
    levels = _by_severity(folders)
    sets: Mapping[str, Iterable[Batch]]
    if _LABELS in arrays and len(arrays) > 1:
        sets = _blocks(folder, known_kinds(kinds, sorted(arrays - {_LABELS})), size)
    elif digits:
        chosen = known_kinds(kinds, sorted(digits))
        sets = {name: _of_mnist(digits[name], size) for name in chosen}
    elif levels:
        chosen = known_kinds(kinds, sorted(levels))
        sets = _in_classes({name: levels[name] for name in chosen}, size)
    else:
        raise FileNotFoundError(
            f"expected labels.npy and <corruption>.npy, <corruption>/{_IMAGES_OF_MNIST} or "
            f"<corruption>/<severity>/<class>/ in {folder}, got {sorted(arrays) or 'none'}"
        )
    return shown(sets, progress)


def _visible(folder: Path) -> list[Path]:
    """List what is in a folder; names that begin with a dot are the system's."""
    return sorted(each for each in folder.iterdir() if not each.name.startswith("."))


# --- arrays ----------------------------------------------------------------------------------


def _blocks(folder: Path, kinds: Sequence[str], size: int) -> dict[str, "_Block"]:
    """Open files of five blocks each."""
    labels = _labels(folder / f"{_LABELS}.npy", blocks=len(SEVERITIES))
    for name in kinds:
        _images(folder / f"{name}.npy", len(labels))
    n = len(labels) // len(SEVERITIES)
    return {
        f"{name} {severity}": _Block(
            folder / f"{name}.npy", labels, range((severity - 1) * n, severity * n), size
        )
        for name in kinds
        for severity in SEVERITIES
    }


def _of_mnist(folder: Path, size: int) -> "_Block":
    labels = _labels(folder / "test_labels.npy")
    _images(folder / _IMAGES_OF_MNIST, len(labels))
    return _Block(folder / _IMAGES_OF_MNIST, labels, range(len(labels)), size)


class _Block:
    """Some rows of an array, in batches."""

    def __init__(self, file: Path, labels: npt.NDArray[Any], rows: range, size: int) -> None:
        self.file, self.labels, self.rows, self.size = file, labels, rows, size

    def __len__(self) -> int:
        return -(-len(self.rows) // self.size)

    def __iter__(self) -> Iterator[Batch]:
        images = _images(self.file, len(self.labels))
        for start in self.rows[:: self.size]:
            part = slice(start, min(start + self.size, self.rows.stop))
            inputs = torch.from_numpy(np.array(images[part])).permute(0, 3, 1, 2)
            labels = torch.from_numpy(self.labels[part].astype(np.int64))
            yield inputs.float().div(255).contiguous(), labels


def _labels(file: Path, blocks: int = 1) -> npt.NDArray[Any]:
    labels = _mapped(file)
    wrong = labels.ndim != 1 or labels.dtype.kind not in "iu" or len(labels) == 0
    if wrong or len(labels) % blocks:
        shape = f"({blocks} n,)" if blocks > 1 else "(n,)"
        found = _checks.kind(labels)
        raise ValueError(f"expected integers of shape {shape} in {file.name}, got {found}")
    if labels.min() < 0:
        raise ValueError(f"expected labels >= 0 in {file.name}, got {labels.min()}")
    return np.array(labels)


def _images(file: Path, n: int) -> npt.NDArray[Any]:
    images = _mapped(file)
    right = images.dtype == np.uint8 and images.ndim == 4
    if not right or images.shape[0] != n or images.shape[3] not in (1, 3):
        raise ValueError(
            f"expected uint8 of shape ({n}, height, width, 3 or 1) in {file.name}, got "
            f"{_checks.kind(images)}"
        )
    return images


def _mapped(file: Path) -> npt.NDArray[Any]:
    with file.open("rb") as opened:
        begins = opened.read(6)
    if begins == b"\x93NUMPY":
        try:
            mapped: npt.NDArray[Any] = np.load(file, mmap_mode="r", allow_pickle=False)
            return mapped
        except Exception:  # whatever NumPy says, some of which is advice to load it unsafely
            pass
    raise ValueError(f"expected a whole array in {file}, got {looks(file)}")


# --- class folders ---------------------------------------------------------------------------


def _by_severity(folders: Mapping[str, Path], deeper: bool = True) -> dict[str, dict[int, Path]]:
    """Return the folders of each severity of each corruption, which may be a folder deeper."""
    found = {}
    for name, folder in folders.items():
        levels = {level: folder / str(level) for level in SEVERITIES}
        there = {level: each for level, each in levels.items() if each.is_dir()}
        if there:
            found[name] = there
        elif deeper:
            inner = {each.name: each for each in _visible(folder) if each.is_dir()}
            found |= _by_severity(inner, deeper=False)
    return found


def _in_classes(levels: Mapping[str, Mapping[int, Path]], size: int) -> dict[str, "_Classes"]:
    """Open class folders, the same classes in each set."""
    sets: dict[str, _Classes] = {}
    for name, of_kind in levels.items():
        for severity, folder in of_kind.items():
            found = _Classes(
                folder, [each.name for each in _visible(folder) if each.is_dir()], size
            )
            first = next(iter(sets.values()), found)
            if not found.classes:
                raise ValueError(f"expected a folder for each class in {folder}, got none")
            if found.classes != first.classes:
                odd = sorted(set(found.classes) ^ set(first.classes))[:3]
                wanted = f"the classes of {first.folder} in {folder}"
                raise ValueError(f"expected {wanted}, got others: {odd}")
            sets[f"{name} {severity}"] = found
    return sets


class _Classes(_digest.Known):
    """Images in a folder per class, in batches."""

    def __init__(self, folder: Path, classes: Sequence[str], size: int) -> None:
        numbers = all(map(str.isdecimal, classes))  # "10" comes after "9"
        self.classes = sorted(classes, key=int if numbers else str)
        self.folder, self.size = folder, size

    @cached_property
    def files(self) -> list[tuple[Path, int]]:
        """Every image with its label; listed as it is first asked for."""
        found = []
        for label, name in enumerate(self.classes):
            images = [e for e in _visible(self.folder / name) if e.suffix.lower() in SUFFIXES]
            if not images:
                wanted = f"images ({', '.join(SUFFIXES)})"
                raise ValueError(f"expected {wanted} in {self.folder / name}, got none")
            found += [(image, label) for image in images]
        return found

    def __len__(self) -> int:
        return -(-len(self.files) // self.size)

    def __iter__(self) -> Iterator[Batch]:
        first = pixels(self.files[0][0]).shape
        for start in range(0, len(self.files), self.size):
            part = self.files[start : start + self.size]
            inputs = np.empty((len(part), *first), dtype=np.float32)
            for row, (file, _) in zip(inputs, part, strict=True):
                found = pixels(file)
                if found.shape != first:
                    sides = "{1} x {2}".format
                    wanted = f"images of {sides(*first)} pixels in {self.folder}"
                    raise ValueError(f"expected {wanted}, got {sides(*found.shape)} in {file}")
                row[...] = found
            labels = torch.tensor([label for _, label in part], device="cpu")
            yield torch.from_numpy(inputs), labels

    def digest(self, of: _digest.Digest) -> int:
        """Digest names and sizes, and the content of one image of each class."""
        total, before = 0, None
        for file, label in self.files:
            words = f"{file.name} {file.stat().st_size} {label}"
            content = b"" if label == before else file.read_bytes()
            total, before = total + _digest.word(words.encode() + content), label
        return total
