"""Train a small CNN on CIFAR-10 plainly and by FGSM adversarial training, and compare calibration.

The setting of a course project on adversarial training and calibration: Adam at 1e-3, batches of
128, no augmentation, 15 epochs of standard and 20 of adversarial training at 8/255, then clean,
FGSM and PGD-10 accuracy and the ECE with 10 bins on the 10,000 test images.

    python examples/fgsm_training.py --data PATH --model published_cnn --out results/
"""

import argparse
import functools
import json
import time
from collections.abc import Callable
from pathlib import Path

import cifar10_data
import models
import quickstart
import torch
from torch import Tensor, nn
from tqdm import tqdm

from advcal import attacks, evaluation, trainers

EPS = 8 / 255
N_BINS = 10
FGSM = functools.partial(attacks.fgsm, eps=EPS)
ATTACKS = {
    "none": None,
    "FGSM": FGSM,
    "PGD-10": functools.partial(attacks.pgd, eps=EPS, steps=10, step_size=EPS / 4),
}


def main() -> None:
    """Run the study for one model and write a table, the weights and a JSON file."""
    args = parse()
    data = cifar10_data.load_or_exit(args.data)
    quickstart.make_folder(args.out)
    test = cifar10_data.Batches(data.test_images, data.test_labels, batch_size=500)
    objectives = {
        "standard": (trainers.standard(), args.epochs_standard),
        "FGSM-AT": (trainers.adversarial(FGSM), args.epochs_adversarial),
    }
    records = {}
    study = {"settings": settings(args), "curves": {}, "results": {}}
    for name, (objective, n_epochs) in objectives.items():
        torch.manual_seed(args.seed)
        model = getattr(models, args.model)()
        study["curves"][name] = train(model, data, objective, n_epochs, args)
        torch.save(model.state_dict(), args.out / f"{args.model}-{name}.pt")
        for attack_name, attack in ATTACKS.items():
            record = evaluation.evaluate(model, test, attack, n_bins=N_BINS, channels_last=True)
            records[name, attack_name] = record
            study["results"][f"{name} / {attack_name}"] = record.as_dict()
        print(evaluation.table(records, columns=("training", "attack")), flush=True)
        (args.out / f"{args.model}.json").write_text(json.dumps(study, indent=1) + "\n")


def parse() -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--data", type=Path, required=True, help="folder that holds CIFAR-10")
    parser.add_argument(
        "--model",
        choices=("published_cnn", "small_cnn", "resnet10", "resnet18"),
        default="published_cnn",
        help="the network (published_cnn)",
    )
    parser.add_argument(
        "--out", type=Path, default=Path("results"), help="folder for what it makes"
    )
    parser.add_argument(
        "--epochs-standard", type=int, default=15, help="epochs of standard training (15)"
    )
    parser.add_argument("--epochs-adversarial", type=int, default=20, help="epochs of FGSM-AT (20)")
    parser.add_argument("--seed", type=int, default=0, help="seed of everything random (0)")
    parser.add_argument(
        "--bfloat16",
        action="store_true",
        help="train in mixed precision, faster where the processor computes in bfloat16",
    )
    args = parser.parse_args()
    quickstart.check_ranges(parser, args, epochs_standard=(1, 1000), epochs_adversarial=(1, 1000))
    return args


def settings(args: argparse.Namespace) -> dict[str, object]:
    """Collect what a reader needs to run this again."""
    return {
        "model": args.model,
        "epochs": {"standard": args.epochs_standard, "FGSM-AT": args.epochs_adversarial},
        "eps": EPS,
        "n_bins": N_BINS,
        "optimizer": "Adam, learning rate 1e-3, batch 128, no augmentation",
        "attacks": "FGSM; PGD of 10 steps of eps/4, random start, best iterate",
        "seed": args.seed,
        "bfloat16": args.bfloat16,
        **quickstart.date_and_versions(),
    }


def train(
    model: nn.Module,
    data: cifar10_data.Cifar10,
    objective: Callable[..., Tensor],
    n_epochs: int,
    args: argparse.Namespace,
) -> list[dict[str, float]]:
    """Train and watch 1,000 test images; they choose nothing."""
    batches = cifar10_data.Batches(
        data.train_images, data.train_labels, batch_size=128, shuffle=True, seed=args.seed
    )
    watched = cifar10_data.Batches(data.test_images[::10], data.test_labels[::10], batch_size=500)
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-3)
    curve = []
    start = time.perf_counter()
    for epoch in trainers.epochs(
        model,
        batches,
        objective,
        optimizer,
        n=n_epochs,
        autocast=torch.bfloat16 if args.bfloat16 else None,
        channels_last=True,
        progress=functools.partial(tqdm, leave=False, mininterval=10),
    ):
        point = {"epoch": epoch.epoch, "loss": epoch.loss}
        for name in ("none", "FGSM"):
            record = evaluation.evaluate(
                model, watched, ATTACKS[name], n_bins=N_BINS, channels_last=True
            )
            point |= {f"{name} accuracy": record.accuracy, f"{name} ece": record.ece}
        curve.append(point)
        figures = "  ".join(f"{key} {value:.4f}" for key, value in point.items() if key != "epoch")
        print(f"epoch {epoch.epoch:2}  {figures}  {time.perf_counter() - start:.0f} s", flush=True)
    return curve


if __name__ == "__main__":
    main()
