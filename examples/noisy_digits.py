"""scikit-learn's digits made hard by noise, in four splits: for studies of calibration in small."""

from collections.abc import Iterator
from typing import NamedTuple

import torch
from sklearn.datasets import load_digits
from torch import Tensor


class Batches:
    """Minibatches `(inputs, labels, indices)` in [0, 1], shuffled anew each pass if asked for."""

    def __init__(self, images: Tensor, labels: Tensor, size: int, seed: int | None = None) -> None:
        self.images, self.labels, self.size = images, labels, size
        self.shuffle = seed is not None
        self.generator = torch.Generator().manual_seed(seed or 0)

    def __len__(self) -> int:
        return -(-len(self.labels) // self.size)

    def __iter__(self) -> Iterator[tuple[Tensor, Tensor, Tensor]]:
        n = len(self.labels)
        order = torch.randperm(n, generator=self.generator) if self.shuffle else torch.arange(n)
        for rows in order.split(self.size):
            yield self.images[rows], self.labels[rows], rows


class Splits(NamedTuple):
    """Examples to train on, to steer a smoothing by, to fit a temperature to, to report on."""

    train: tuple[Tensor, Tensor]
    validation: tuple[Tensor, Tensor]
    held_out: tuple[Tensor, Tensor]
    test: tuple[Tensor, Tensor]


def digits(seed: int) -> Splits:
    """Split the digits, with noise of .3 on all: 400, 400, 200 and 797."""
    data = load_digits()
    generator = torch.Generator().manual_seed(seed)
    images = torch.tensor(data.images / 16).float()[:, None]
    images = (images + 0.3 * torch.randn(images.shape, generator=generator)).clamp(0, 1)
    order = torch.randperm(len(images), generator=generator)
    labels = torch.tensor(data.target)
    return Splits(*((images[r], labels[r]) for r in order.split([400, 400, 200, 797])))
