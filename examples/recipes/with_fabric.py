"""PGD adversarial training on digits with Lightning Fabric, which places, scales and averages.

python examples/recipes/with_fabric.py --devices 2
"""

import argparse
import functools
from typing import Any

import torch
from lightning_fabric import Fabric
from sklearn.datasets import load_digits
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

from advcal import attacks, evaluation, trainers


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--epochs", type=int, default=10)
    parser.add_argument("--devices", default="auto", help="how many GPUs or processes (all GPUs)")
    args = parser.parse_args()
    fabric = Fabric(devices=args.devices)
    fabric.launch()

    images, digits = load_digits(return_X_y=True)
    inputs, labels = torch.tensor(images / 16).float(), torch.tensor(digits)
    train = TensorDataset(inputs[:1000], labels[:1000])
    loader = DataLoader(train, batch_size=50, shuffle=True)

    torch.manual_seed(0)
    model: nn.Module = nn.Sequential(nn.Linear(64, 128), nn.ReLU(), nn.Linear(128, 10))
    optimizer: torch.optim.Optimizer = torch.optim.Adam(model.parameters(), lr=1e-2)
    model, optimizer = fabric.setup(model, optimizer)
    batches: Any = fabric.setup_dataloaders(loader)
    starts = torch.Generator(fabric.device).manual_seed(fabric.global_rank)
    pgd = functools.partial(attacks.pgd, eps=0.1, steps=5, generator=starts)
    for epoch in trainers.epochs(
        model,
        batches,
        trainers.adversarial(pgd),
        optimizer,
        n=args.epochs,
        backward=fabric.backward,
    ):
        fabric.print(f"epoch {epoch.epoch}: loss {epoch.loss:.3f} over {epoch.n} examples")
    record = evaluation.evaluate(model, [(inputs[1000:], labels[1000:])], pgd)
    fabric.print(f"accuracy {record.clean_accuracy:.3f}, under PGD {record.accuracy:.3f}")


if __name__ == "__main__":
    main()
