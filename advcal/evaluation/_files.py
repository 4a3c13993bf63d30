"""Corruption sets from files in the layout of CIFAR-10-C, never all in memory."""

import os
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from advcal import _checks
from advcal._typing import Batch
from advcal.evaluation._corrupt import SEVERITIES, known_kinds

_LABELS = "labels"


def read_corruptions(
    path: str | os.PathLike[str], size: int = 500, *, kinds: Sequence[str] | None = None
) -> dict[str, Iterable[Batch]]:
    """Open a folder in the layout of CIFAR-10-C as a data set per corruption and severity.

    The folder holds `<corruption>.npy`, uint8 `(n, height, width, 3)` in five blocks of `n / 5`
    rows, severity 1 first, and `labels.npy`, the labels of all `n` rows; `n` is 50,000 in the
    published files. Images are mapped, and read batch by batch each time a set is gone through.

    Args:
        path: The folder.
        size: The number of examples of a batch.
        kinds: The corruptions; all that are there, in alphabetical order, if None.

    Returns:
        `"fog 3"` and the like, by corruption and then severity, to iterables of `(inputs, labels)`:
        float32 in `[0, 1]`, shape `(size, 3, height, width)`, and int64.

    Raises:
        TypeError: If an argument is of the wrong kind.
        ValueError: If a name is unknown or a file is not what the layout promises.
        FileNotFoundError: If there are no labels or no corruptions in the folder.

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
        Perturbations, ICLR 2019; https://zenodo.org/records/2535967.
    """
    if not isinstance(path, (str, os.PathLike)):
        raise TypeError(f"expected path as a str or a path, got {_checks.kind(path)}")
    if not os.fspath(path):
        raise ValueError("expected path of a folder, got ''")
    size = _checks.count("size", size)
    folder = Path(path)
    found = sorted(file.stem for file in folder.glob("*.npy") if file.stem != _LABELS)
    if not found or not (folder / f"{_LABELS}.npy").is_file():
        raise FileNotFoundError(
            f"expected labels.npy and <corruption>.npy in {folder}, got {found or 'none'}"
        )
    labels = _mapped(folder / f"{_LABELS}.npy")
    if labels.ndim != 1 or labels.dtype.kind not in "iu" or len(labels) % len(SEVERITIES):
        raise ValueError(
            f"expected integers of shape (5 n,) in labels.npy, got {_checks.kind(labels)}"
        )
    chosen = known_kinds(kinds, found)
    for name in chosen:
        images = _mapped(folder / f"{name}.npy")
        if images.dtype != np.uint8 or images.ndim != 4 or images.shape[::3] != (len(labels), 3):
            raise ValueError(
                f"expected uint8 of shape ({len(labels)}, height, width, 3) in {name}.npy, got "
                f"{_checks.kind(images)}"
            )
    return {
        f"{name} {severity}": _Block(folder / f"{name}.npy", np.array(labels), severity, size)
        for name in chosen
        for severity in SEVERITIES
    }


class _Block:
    """The rows of one severity, in batches."""

    def __init__(self, file: Path, labels: npt.NDArray[Any], severity: int, size: int) -> None:
        n = len(labels) // len(SEVERITIES)
        self.file, self.labels, self.size = file, labels, size
        self.rows = range((severity - 1) * n, severity * n)

    def __len__(self) -> int:
        return -(-len(self.rows) // self.size)

    def __iter__(self) -> Iterator[Batch]:
        images = _mapped(self.file)
        for start in self.rows[:: self.size]:
            part = slice(start, min(start + self.size, self.rows.stop))
            inputs = torch.from_numpy(np.array(images[part])).permute(0, 3, 1, 2)
            labels = torch.from_numpy(self.labels[part].astype(np.int64))
            yield inputs.float().div(255).contiguous(), labels


def _mapped(file: Path) -> npt.NDArray[Any]:
    try:
        mapped: npt.NDArray[Any] = np.load(file, mmap_mode="r", allow_pickle=False)
    except ValueError as error:
        raise ValueError(f"expected a whole array in {file}, got: {error}") from error
    return mapped
