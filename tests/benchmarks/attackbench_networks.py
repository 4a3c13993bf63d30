"""Small networks for benchmarks, trained in minutes.

    python tests/benchmarks/attackbench_networks.py robust --data cifar10 --out FOLDER
    python tests/benchmarks/attackbench_networks.py vit --data cifar10 --out FOLDER
    python tests/benchmarks/attackbench_networks.py mnist --data mnist --out FOLDER

`robust` is a BatchNorm ResNet trained by single-step adversarial training at 8/255 and `vit` a
plain vision transformer, both on CIFAR-10; `robust-16` and `vit-8` are like them, but take fewer
operations, and `plain` is `robust-16` trained plainly. `mnist` is a CNN trained by PGD at 0.3 on
the first 9,000 of MNIST's 10,000 test images, of which the benchmarks attack the others.
"""

import argparse
import gzip
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from advcal.attacks import pgd

sys.path.insert(0, str(Path(__file__).parents[2] / "examples"))
import cifar10_data

N_TRAIN_MNIST = 9000
BATCH = 128


class _Block(nn.Module):
    """A residual block that normalises first."""

    def __init__(self, n_in: int, n_out: int, stride: int) -> None:
        super().__init__()
        self.b1, self.b2 = nn.BatchNorm2d(n_in), nn.BatchNorm2d(n_out)
        self.c1 = nn.Conv2d(n_in, n_out, 3, stride, 1, bias=False)
        self.c2 = nn.Conv2d(n_out, n_out, 3, 1, 1, bias=False)
        same = n_in == n_out
        self.s = nn.Identity() if same else nn.Conv2d(n_in, n_out, 1, stride, bias=False)

    def forward(self, inputs: Tensor) -> Tensor:
        """Add what two convolutions make of the inputs."""
        hidden = self.b1(inputs).relu()
        beside = inputs if isinstance(self.s, nn.Identity) else self.s(hidden)
        added: Tensor = self.c2(self.b2(self.c1(hidden)).relu()) + beside
        return added


def resnet(width: int) -> nn.Module:
    """Build a ResNet for CIFAR-10."""
    return nn.Sequential(
        nn.Conv2d(3, width, 3, 2, 1),
        _Block(width, width, 1),
        _Block(width, 2 * width, 2),
        _Block(2 * width, 4 * width, 2),
        nn.BatchNorm2d(4 * width),
        nn.ReLU(),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Linear(4 * width, 10),
    )


def mnist() -> nn.Module:
    """Build a CNN of 417,482 parameters for MNIST."""
    return nn.Sequential(
        nn.Conv2d(1, 16, 5, padding=2),
        nn.ReLU(),
        nn.MaxPool2d(2),
        nn.Conv2d(16, 32, 5, padding=2),
        nn.ReLU(),
        nn.MaxPool2d(2),
        nn.Flatten(),
        nn.Linear(32 * 49, 256),
        nn.ReLU(),
        nn.Linear(256, 10),
    )


class _Attention(nn.Module):
    """A transformer's layer."""

    def __init__(self, size: int, heads: int) -> None:
        super().__init__()
        self.n1, self.n2, self.h = nn.LayerNorm(size), nn.LayerNorm(size), heads
        self.qkv, self.o = nn.Linear(size, 3 * size), nn.Linear(size, size)
        self.m = nn.Sequential(nn.Linear(size, 2 * size), nn.GELU(), nn.Linear(2 * size, size))

    def forward(self, tokens: Tensor) -> Tensor:
        """Attend, then mix."""
        n, length, size = tokens.shape
        parts = self.qkv(self.n1(tokens)).reshape(n, length, 3, self.h, size // self.h)
        mixed = functional.scaled_dot_product_attention(*parts.permute(2, 0, 3, 1, 4))
        tokens = tokens + self.o(mixed.transpose(1, 2).reshape(n, length, size))
        added: Tensor = tokens + self.m(self.n2(tokens))
        return added


class _Transformer(nn.Module):
    def __init__(self, size: int, patch: int, layers: int = 4) -> None:
        super().__init__()
        self.e = nn.Conv2d(3, size, patch, patch)
        self.pos = nn.Parameter(0.02 * torch.randn(1, (32 // patch) ** 2, size))
        self.b = nn.Sequential(*[_Attention(size, 4) for _ in range(layers)])
        self.n, self.f = nn.LayerNorm(size), nn.Linear(size, 10)

    def forward(self, inputs: Tensor) -> Tensor:
        """Map (n, 3, 32, 32) to (n, 10)."""
        tokens = self.e((inputs - 0.47) / 0.25).flatten(2).transpose(1, 2) + self.pos
        logits: Tensor = self.f(self.n(self.b(tokens)).mean(dim=1))
        return logits


NETWORKS: dict[str, Callable[[], nn.Module]] = {
    "robust": partial(resnet, 24),  # 174,010 parameters
    "vit": partial(_Transformer, 64, 4),  # 141,898
    "mnist": mnist,
    "plain": partial(resnet, 16),  # 77,866
    "robust-16": partial(resnet, 16),
    "vit-8": partial(_Transformer, 96, 8),  # 320,362
}


def mnist_images(folder: Path) -> tuple[Tensor, Tensor]:
    """Read MNIST's 10,000 test images, in [0, 1], and their labels."""
    images = gzip.decompress((folder / "t10k-images-idx3-ubyte.gz").read_bytes())[16:]
    labels = gzip.decompress((folder / "t10k-labels-idx1-ubyte.gz").read_bytes())[8:]
    pixels = torch.tensor(np.frombuffer(images, np.uint8).reshape(-1, 1, 28, 28))
    return pixels.float() / 255, torch.tensor(np.frombuffer(labels, np.uint8)).long()


def train(name: str, folder: Path) -> nn.Module:
    """Train a network."""
    epochs, rate, eps = {
        "robust": (4, 0.2, 8 / 255),
        "vit": (5, 2e-3, 0.0),
        "plain": (6, 0.2, 0.0),
        "robust-16": (6, 0.2, 8 / 255),
        "vit-8": (10, 2e-3, 0.0),
        "mnist": (14, 1e-3, 0.3),
    }[name]
    if name == "mnist":
        inputs, labels = (each[:N_TRAIN_MNIST] for each in mnist_images(folder))
    else:
        data = cifar10_data.load_or_exit(folder)
        inputs, labels = data.train_images, data.train_labels.long()
    model = NETWORKS[name]()
    if name in ("plain", "robust", "robust-16"):
        optimizer: torch.optim.Optimizer = torch.optim.SGD(
            model.parameters(), rate, momentum=0.9, weight_decay=5e-4, nesterov=True
        )
    else:
        optimizer = torch.optim.AdamW(model.parameters(), rate, weight_decay=0.05)
    steps = epochs * (len(inputs) // BATCH)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, rate, total_steps=steps)
    attack = partial(pgd, steps=7 if name == "mnist" else 1)
    for step in range(steps):
        if step % (len(inputs) // BATCH) == 0:
            order = torch.randperm(len(inputs)).split(BATCH)
        rows = order[step % (len(inputs) // BATCH)]
        images = inputs[rows] if name == "mnist" else inputs[rows].float() / 255
        images = images.flip(3) if name != "mnist" and torch.rand(()) < 0.5 else images
        if eps:
            radius = eps * min(1.0, 3 * (step + 1) / steps)
            images = attack(
                model,
                images,
                labels[rows],
                eps=radius,
                step_size=radius / 4 if name == "mnist" else radius,
            )
        optimizer.zero_grad()
        functional.cross_entropy(model(images), labels[rows]).backward()
        optimizer.step()
        schedule.step()
    return model.eval()


def main() -> None:
    """Train and save."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("name", choices=NETWORKS)
    parser.add_argument("--data", type=Path, required=True, help="folder of the images")
    parser.add_argument("--out", type=Path, required=True, help="where to put NAME.pt")
    args = parser.parse_args()
    torch.manual_seed(0)
    args.out.mkdir(parents=True, exist_ok=True)
    torch.save(train(args.name, args.data).state_dict(), args.out / f"{args.name}.pt")


if __name__ == "__main__":
    main()
