"""Logits of trained networks on CIFAR-10's test images, plain and attacked, for calibrators.

Takes weights that examples/fgsm_training.py or examples/defenses.py has written. A half of the
images, drawn at random, is to calibrate with and the other half to test; under attack (PGD of ten
steps) fewer images. `tests/benchmarks/against_calibrators.py --logits FOLDER` reads them.

    python tests/benchmarks/network_logits.py --data PATH --weights results/*.pt --out FOLDER
"""

import argparse
import functools
from pathlib import Path

import numpy as np
import peers  # noqa: F401  (makes the examples' modules importable)
import torch
import training
from cifar10_data import load_or_exit
from torch import Tensor, nn

from advcal import attacks

BATCH = 250


def logits_of(model: nn.Module, inputs: Tensor, labels: Tensor, eps: float) -> Tensor:
    """Return the logits of images, attacked unless the radius is 0."""
    attack = attacks.autocast(functools.partial(attacks.pgd, eps=eps, steps=10))
    found = []
    for x, y in zip(inputs.split(BATCH), labels.split(BATCH), strict=True):
        crafted = attack(model, x, y) if eps else x
        with torch.no_grad():
            found.append(model(crafted))
    return torch.cat(found)


def main() -> None:
    """Write a file for each network and radius that has none yet."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--data", type=Path, required=True, help="folder that holds CIFAR-10")
    parser.add_argument("--weights", type=Path, nargs="+", required=True, help="of networks")
    parser.add_argument("--eps", type=float, default=1, help="radius of the attack, in 1/255")
    parser.add_argument("--n-attacked", type=int, default=4_000, help="images to attack")
    parser.add_argument("--out", type=Path, required=True, help="folder for the logits")
    args = parser.parse_args()
    args.out.mkdir(parents=True, exist_ok=True)
    data = load_or_exit(args.data)
    for path in args.weights:
        model = training.load(path)
        for eps in (0.0, args.eps):
            n = len(data.test_labels) if eps == 0 else args.n_attacked
            source = torch.Generator().manual_seed(0)
            chosen = torch.randperm(len(data.test_labels), generator=source)[:n]
            file = args.out / f"{training.name_of(path)}{f', PGD {eps:g}' if eps else ''}.npz"
            if file.exists():
                continue
            y = data.test_labels[chosen]
            z = logits_of(model, data.test_images[chosen].float() / 255, y, eps / 255)
            print(file.name, "accuracy", float((z.argmax(1) == y).double().mean()), flush=True)
            halves = {"cal_logits": z[: n // 2], "cal_labels": y[: n // 2]}
            halves |= {"test_logits": z[n // 2 :], "test_labels": y[n // 2 :]}
            np.savez(file, **{name: each.numpy() for name, each in halves.items()})


if __name__ == "__main__":
    main()
