"""How right and how honestly confident is a small CNN on CIFAR-10 under attack?

The quickstart's job on CIFAR-10: trains a CNN of 2.3 million parameters plainly and with AT+IAT,
attacks both in six ways, prints one table, draws two pictures and writes all figures as JSON. Reads
an image folder ({train,test}/<class>/*.jpg) or the original cifar-10-batches-py pickles.

    python examples/cifar10.py --data PATH --out results/
"""

import argparse
import functools
from collections.abc import Callable
from pathlib import Path

import cifar10_data
import models
import output
import quickstart
import torch
from torch import Tensor, nn
from tqdm import tqdm

from advcal import trainers


def main() -> None:
    """Train, attack, print the table, draw the pictures, keep the figures."""
    args = parse()
    data = cifar10_data.load_or_exit(args.data)
    quickstart.make_folder(args.out)
    trained = {
        name: train(name, objective, data, args)
        for name, objective in quickstart.objectives(args.eps, args.train_steps, args.seed).items()
    }
    test, some = (evenly_spaced(data, n) for n in (args.n_test, args.n_test // 4))
    records = quickstart.compare(trained, test, args.eps, args.steps, channels_last=True)
    radii = [args.eps * factor for factor in (0, 0.25, 0.5, 1, 1.5, 2)]
    curves = quickstart.sweep(trained, some, radii, args.steps, channels_last=True)
    print(quickstart.table(records, args.eps))
    shown = ["none", f"PGD-{args.steps}", "IAA"]
    study = {
        "settings": settings(args, data),
        "results": {" / ".join(key): record.as_dict() for key, record in records.items()},
        "mcs_against_eps": {"eps": radii, "n": len(some.labels), "curves": curves},
    }
    output.write_json(args.out / "cifar10.json", study)
    pictures = {
        "reliability": ("results", quickstart.draw_reliability(records, shown)),
        "mcs": ("mcs_against_eps", quickstart.draw_sweep(curves, radii, args.eps)),
    }
    for name, (part, figure) in pictures.items():
        path = args.out / f"cifar10-{name}.png"
        output.save_picture(figure, path, f"cifar10.json#{part}", study[part])
    print(f"\nPictures, weights and figures: {args.out}")


def parse() -> argparse.Namespace:
    """Read the command line; a bad value ends the program with one line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--data", type=Path, required=True, help="folder that holds CIFAR-10")
    parser.add_argument(
        "--out", type=Path, default=Path("results"), help="folder for what it makes"
    )
    parser.add_argument("--eps", type=float, default=8 / 255, help="radius of all attacks (8/255)")
    parser.add_argument("--steps", type=int, default=10, help="steps of PGD and IAA (10)")
    parser.add_argument("--train-steps", type=int, default=5, help="their steps in training (5)")
    parser.add_argument("--epochs", type=int, default=10, help="epochs of training (10)")
    parser.add_argument("--n-test", type=int, default=10_000, help="images to test on (10000)")
    parser.add_argument("--seed", type=int, default=0, help="seed of everything random (0)")
    parser.add_argument(
        "--bfloat16",
        action="store_true",
        help="train in mixed precision, faster where the processor computes in bfloat16",
    )
    args = parser.parse_args()
    quickstart.check_ranges(
        parser,
        args,
        eps=(1e-4, 1),
        steps=(1, 1000),
        train_steps=(1, 1000),
        epochs=(1, 1000),
        n_test=(40, 10_000),
    )
    return args


def evenly_spaced(data: cifar10_data.Cifar10, n: int) -> cifar10_data.Batches:
    """Take `n` test images, evenly spaced so that no class is left out."""
    chosen = torch.linspace(0, len(data.test_labels) - 1, n).round().long().unique()
    return cifar10_data.Batches(data.test_images[chosen], data.test_labels[chosen], batch_size=500)


def train(
    name: str,
    objective: Callable[..., Tensor],
    data: cifar10_data.Cifar10,
    args: argparse.Namespace,
) -> nn.Module:
    """Train the small CNN; keep the weights."""
    torch.manual_seed(args.seed)
    model = models.small_cnn()
    batches = cifar10_data.Batches(
        data.train_images, data.train_labels, batch_size=128, shuffle=True, seed=args.seed
    )
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-3)
    progress = functools.partial(tqdm, desc=f"train {name}", mininterval=5)
    for epoch in trainers.epochs(
        model,
        batches,
        objective,
        optimizer,
        n=args.epochs,
        autocast=torch.bfloat16 if args.bfloat16 else None,
        channels_last=True,
        progress=progress,
    ):
        print(f"{name}: epoch {epoch.epoch} of {args.epochs}, loss {epoch.loss:.4f}", flush=True)
    torch.save(model.state_dict(), args.out / f"cifar10-{name}.pt")
    return model


def settings(args: argparse.Namespace, data: cifar10_data.Cifar10) -> dict[str, object]:
    """Collect what a reader needs to run this again."""
    chosen = {key: value for key, value in vars(args).items() if key not in ("data", "out")}
    return {
        **chosen,
        "model": "small_cnn, 2,340,810 parameters",
        "optimizer": "Adam, learning rate 1e-3, batch 128, no augmentation",
        "n_train": len(data.train_labels),
        **quickstart.date_and_versions(),
    }


if __name__ == "__main__":
    main()
