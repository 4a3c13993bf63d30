"""Train a small CNN on CIFAR-10 plainly and by FGSM adversarial training, and compare calibration.

The setting of a course project on adversarial training and calibration: Adam at 1e-3, batches of
128, no augmentation, 15 epochs of standard and 20 of adversarial training at 8/255, then clean,
FGSM and PGD-10 accuracy and the ECE with 10 bins on the 10,000 test images. ResNet-18 has a rate of
1e-4 in adversarial training. The script may be stopped at any moment and started again.

    python examples/fgsm_training.py --data PATH --model published_cnn --out results/
"""

import argparse
import functools
from collections.abc import Callable
from typing import Any

import cifar10_data
import common
import models
import torch
import training
from torch import Tensor, nn

from advcal import attacks, evaluation, trainers

EPS = 8 / 255
N_BINS = 10
FGSM = functools.partial(attacks.fgsm, eps=EPS)
ATTACKS: dict[str, Callable[..., Tensor] | None] = {
    "none": None,
    "FGSM": FGSM,
    "PGD-10": functools.partial(attacks.pgd, eps=EPS, steps=10, step_size=EPS / 4),
}


def main() -> None:
    """Run the study for one model; what the folder has already is not made again."""
    args = parse()
    data = cifar10_data.load_or_exit(args.data, args.device)
    common.make_folder(args.out)
    test = cifar10_data.Batches(data.test_images, data.test_labels, batch_size=500)
    path = args.out / f"{args.model}.json"
    study = common.read_json(path)
    study = {"settings": settings(args), "curves": {}, "seconds": {}, "results": {}} | study
    records = study["results"]
    for name in ("standard", "FGSM-AT"):
        torch.manual_seed(args.seed)
        model = getattr(models, args.model)()
        run = train(name, model, data, args)
        study["curves"][name], study["seconds"][name] = run
        torch.save(model.state_dict(), args.out / f"{args.model}-{name}.pt")
        for attack_name, attack in attackers(args).items():
            if (key := f"{name} / {attack_name}") not in records:
                torch.manual_seed(args.seed)
                found = evaluation.evaluate(model, test, attack, n_bins=N_BINS, channels_last=True)
                records[key] = found.as_dict()
                common.write_json(path, study)
    print(table(records))


def attackers(args: argparse.Namespace) -> dict[str, Callable[..., Tensor] | None]:
    """Name the attacks to test with; crafted in mixed precision if trained so, judged without."""
    if not args.bfloat16:
        return ATTACKS
    return {
        name: None if attack is None else attacks.autocast(attack)
        for name, attack in ATTACKS.items()
    }


def parse() -> argparse.Namespace:
    """Read the command line."""
    parser = common.parser(__doc__)
    parser.add_argument(
        "--model",
        choices=models.NAMES,
        default="published_cnn",
        help="the network (published_cnn)",
    )
    parser.add_argument(
        "--epochs-standard", type=int, default=15, help="epochs of standard training (15)"
    )
    parser.add_argument("--epochs-adversarial", type=int, default=20, help="epochs of FGSM-AT (20)")
    parser.add_argument(
        "--rate-adversarial", type=float, help="learning rate of FGSM-AT (1e-3; resnet18 1e-4)"
    )
    parser.add_argument("--seed", type=int, default=0, help="seed of everything random (0)")
    args = parser.parse_args()
    if args.rate_adversarial is None:
        args.rate_adversarial = 1e-4 if args.model == "resnet18" else 1e-3
    common.check_ranges(parser, args, epochs_standard=(1, 1000), epochs_adversarial=(1, 1000))
    return args


def settings(args: argparse.Namespace) -> dict[str, object]:
    """Collect what a reader needs to run this again."""
    return {
        "model": args.model,
        "epochs": {"standard": args.epochs_standard, "FGSM-AT": args.epochs_adversarial},
        "eps": EPS,
        "n_bins": N_BINS,
        "optimizer": "Adam, batch 128, no augmentation",
        "learning rate": {"standard": 1e-3, "FGSM-AT": args.rate_adversarial},
        "attacks": "FGSM; PGD of 10 steps of eps/4, random start, best iterate",
        "seed": args.seed,
        "bfloat16": args.bfloat16,
        **common.date_and_versions(),
    }


def train(
    name: str, model: nn.Module, data: cifar10_data.Cifar10, args: argparse.Namespace
) -> training.Run:
    """Train and watch 1,000 test images; they choose nothing."""
    plain = name == "standard"
    batches = cifar10_data.Batches(
        data.train_images, data.train_labels, batch_size=128, shuffle=True, seed=args.seed
    )
    watched = cifar10_data.Batches(data.test_images[::10], data.test_labels[::10], batch_size=500)
    rate = 1e-3 if plain else args.rate_adversarial

    def watch() -> dict[str, float]:
        point: dict[str, float] = {}
        for attack in ("none", "FGSM"):
            record = evaluation.evaluate(
                model, watched, attackers(args)[attack], n_bins=N_BINS, channels_last=True
            )
            point |= {f"{attack} accuracy": record.accuracy, f"{attack} ece": record.ece}
        return point

    return training.train(
        name,
        model,
        batches,
        trainers.standard() if plain else trainers.adversarial(FGSM),
        torch.optim.Adam(model.parameters(), lr=rate),
        n=args.epochs_standard if plain else args.epochs_adversarial,
        checkpoint=args.out / f"{args.model}-{name}.checkpoint",
        every=100,
        bfloat16=args.bfloat16,
        watch=watch,
    )


def table(records: dict[str, dict[str, Any]]) -> str:
    """Lay the figures out as Markdown."""
    lines = ["| training | attack | accuracy | ECE |", "|:--|:--|--:|--:|"]
    for key, record in records.items():
        name, attack = key.split(" / ")
        lines.append(f"| {name} | {attack} | {record['accuracy']:.4f} | {record['ece']:.4f} |")
    return "\n".join(lines)


if __name__ == "__main__":
    main()
