"""How right and how honestly confident is a small CNN on CIFAR-10 under attack?

Trains a CNN of 2.3 million parameters plainly and with AT+IAT,
attacks both in six ways, prints one table, draws two pictures and writes all figures as JSON. Reads
an image folder ({train,test}/<class>/*.jpg) or the original cifar-10-batches-py pickles.

    python examples/cifar10.py --data PATH --out results/
"""

import argparse
import functools
import itertools
import sys
from collections.abc import Callable
from typing import Any

import cifar10_data
import common
import matplotlib.pyplot as plt
import models
import torch
from matplotlib.figure import Figure
from torch import Tensor, nn
from tqdm import tqdm

from advcal import attacks, evaluation, plots, trainers


def main() -> None:
    """Train, attack, print the table, draw the pictures, keep the figures."""
    args = parse()
    data = cifar10_data.load_or_exit(args.data, args.device)
    common.make_folder(args.out)
    trained = {
        name: train(name, objective, data, args)
        for name, objective in objectives(args.eps, args.train_steps, args.seed).items()
    }
    test, some = (evenly_spaced(data, n) for n in (args.n_test, args.n_test // 4))
    records = compare(trained, test, args.eps, args.steps, channels_last=True)
    radii = [args.eps * factor for factor in (0, 0.25, 0.5, 1, 1.5, 2)]
    curves = sweep(trained, some, radii, args.steps, channels_last=True)
    print(table(records, args.eps))
    shown = ["none", f"PGD-{args.steps}", "IAA"]
    study = {
        "settings": settings(args, data),
        "results": {" / ".join(key): record.as_dict() for key, record in records.items()},
        "mcs_against_eps": {"eps": radii, "n": len(some.labels), "curves": curves},
    }
    common.write_json(args.out / "cifar10.json", study)
    pictures = {
        "reliability": ("results", common.draw_reliability(records, shown)),
        "mcs": ("mcs_against_eps", draw_sweep(curves, radii, args.eps)),
    }
    for name, (part, figure) in pictures.items():
        path = args.out / f"cifar10-{name}.png"
        common.save_picture(figure, path, f"cifar10.json#{part}", study[part])
    print(f"\nPictures, weights and figures: {args.out}")


def parse() -> argparse.Namespace:
    """Read the command line; a bad value ends the program with one line."""
    parser = common.parser(__doc__)
    parser.add_argument("--eps", type=float, default=8 / 255, help="radius of all attacks (8/255)")
    parser.add_argument("--steps", type=int, default=10, help="steps of PGD and IAA (10)")
    parser.add_argument("--train-steps", type=int, default=5, help="their steps in training (5)")
    parser.add_argument("--epochs", type=int, default=10, help="epochs of training (10)")
    parser.add_argument("--n-test", type=int, default=10_000, help="images to test on (10000)")
    parser.add_argument("--seed", type=int, default=0, help="seed of everything random (0)")
    args = parser.parse_args()
    common.check_ranges(
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
        **common.date_and_versions(),
    }


def objectives(eps: float, steps: int, seed: int) -> dict[str, Callable[..., Tensor]]:
    """Name the two ways to train: plainly, and on PGD and inverse adversarial examples (AT+IAT)."""
    starts = torch.Generator().manual_seed(seed)
    pgd = functools.partial(attacks.pgd, eps=eps, steps=steps, generator=starts)
    iaa = functools.partial(attacks.iaa, eps=eps, steps=steps, random_start=True, generator=starts)
    at_iat = trainers.mixed(trainers.adversarial(pgd), trainers.adversarial(iaa))
    return {"standard": trainers.standard(), "AT+IAT": at_iat}


def attacks_at(eps: float, steps: int) -> dict[str, Callable[..., Tensor] | None]:
    """Name the attacks to compare, all of one radius."""
    iaa = functools.partial(attacks.iaa, eps=eps, steps=steps)
    return {
        "none": None,
        "uniform noise": functools.partial(attacks.uniform_noise, eps=eps),
        "FGSM": functools.partial(attacks.fgsm, eps=eps),
        f"PGD-{steps}": functools.partial(attacks.pgd, eps=eps, steps=steps),
        "IAA, as published": functools.partial(iaa, variant="published"),
        "IAA": iaa,
        "IAA, predicted label (UCA-like)": functools.partial(iaa, label="predicted"),
    }


def compare(
    models: dict[str, nn.Module],
    batches: cifar10_data.Batches,
    eps: float,
    steps: int,
    **options: Any,
) -> dict[tuple[str, str], evaluation.Evaluation]:
    """Evaluate every model under every attack."""
    rows = list(itertools.product(models.items(), attacks_at(eps, steps).items()))
    return {
        (model_name, attack_name): evaluation.evaluate(model, batches, attack, **options)
        for (model_name, model), (attack_name, attack) in tqdm(rows, desc="attack", file=sys.stderr)
    }


def sweep(
    models: dict[str, nn.Module],
    batches: cifar10_data.Batches,
    radii: list[float],
    steps: int,
    **options: Any,
) -> dict[str, dict[str, list[float]]]:
    """Compute the MCS of every model under noise, PGD and IAA at every radius."""
    kinds = {
        "uniform noise": attacks.uniform_noise,
        f"PGD-{steps}": functools.partial(attacks.pgd, steps=steps),
        "IAA": functools.partial(attacks.iaa, steps=steps),
    }
    curves: dict[str, dict[str, list[float]]] = {name: {k: [] for k in kinds} for name in models}
    points = list(itertools.product(models.items(), kinds.items(), radii))
    for (name, model), (kind, attack), eps in tqdm(points, desc="sweep", file=sys.stderr):
        attacked = functools.partial(attack, eps=eps)
        record = evaluation.evaluate(model, batches, attacked, **options)
        curves[name][kind].append(record.mcs)
    return curves


def draw_sweep(curves: dict[str, dict[str, list[float]]], radii: list[float], eps: float) -> Figure:
    """Draw MCS against the radius, a panel per model."""
    figure, axes = plt.subplots(
        1, len(curves), figsize=(3.6 * len(curves), 3.2), sharey=True, layout="constrained"
    )
    for ax, (model, lines) in zip(axes, curves.items(), strict=True):
        plots.curves(radii, lines, figures="MCS", axes=ax, title=model)
        ax.axvline(eps, color="0.5", linewidth=1, linestyle=":")
        ax.set(ylim=(-1, 1), ylabel="")
    axes[0].set_ylabel("MCS\n← underconfident   overconfident →")
    return figure


def table(records: dict[tuple[str, str], evaluation.Evaluation], eps: float) -> str:
    """Lay out the records with the radius of each attack."""
    rows = {
        (model, attack, "0" if attack == "none" else f"{eps:.4g}"): record
        for (model, attack), record in records.items()
    }
    return evaluation.table(rows, columns=("model", "attack", "eps"))


if __name__ == "__main__":
    main()
