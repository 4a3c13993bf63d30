"""How right and how honestly confident is a classifier under attack? The whole job on digits.

Trains a small network on scikit-learn's digits (8 x 8 images, no download) twice, plainly and with
AT+IAT, attacks both in six ways, prints one table and draws two pictures. Under a minute on a CPU.

    python examples/quickstart.py
"""

import argparse
import datetime
import functools
import itertools
import json
import platform
import sys
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any, TypeAlias

import matplotlib.pyplot as plt
import torch
from matplotlib.figure import Figure
from sklearn.datasets import load_digits
from torch import Tensor, nn
from tqdm import tqdm

import advcal
from advcal import attacks, evaluation, plots, trainers

Batches: TypeAlias = Iterable[tuple[Tensor, ...]]


def digits(n_train: int, seed: int) -> tuple[Batches, Batches]:
    """Load the digits as batches in [0, 1]: the first to train on, all others to test on."""
    data = load_digits()
    order = torch.randperm(len(data.target), generator=torch.Generator().manual_seed(seed))
    images = torch.tensor(data.images / 16, dtype=torch.float32)[order]
    labels = torch.tensor(data.target)[order]
    train = list(zip(images[:n_train].split(50), labels[:n_train].split(50), strict=True))
    return train, list(zip(images[n_train:].split(500), labels[n_train:].split(500), strict=True))


def network() -> nn.Module:
    """Make a multilayer perceptron from 8 x 8 pixels to 10 logits."""
    hidden = [nn.Linear(64, 256), nn.ReLU(), nn.Linear(256, 256), nn.ReLU()]
    return nn.Sequential(nn.Flatten(), *hidden, nn.Linear(256, 10))


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
    models: dict[str, nn.Module], batches: Batches, eps: float, steps: int, **options: Any
) -> dict[tuple[str, str], evaluation.Evaluation]:
    """Evaluate every model under every attack."""
    rows = list(itertools.product(models.items(), attacks_at(eps, steps).items()))
    return {
        (model_name, attack_name): evaluation.evaluate(model, batches, attack, **options)
        for (model_name, model), (attack_name, attack) in tqdm(rows, desc="attack", file=sys.stderr)
    }


def sweep(
    models: dict[str, nn.Module], batches: Batches, radii: list[float], steps: int, **options: Any
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


def draw_reliability(
    records: dict[tuple[str, str], evaluation.Evaluation], shown: list[str]
) -> Figure:
    """Draw reliability diagrams: a row per model, a column per attack."""
    models = list(dict.fromkeys(model for model, _ in records))
    size = (2.6 * len(shown), 3.0 * len(models) + 0.4)
    figure, axes = plt.subplots(
        len(models), len(shown), figsize=size, squeeze=False, layout="constrained"
    )
    for row, model in zip(axes, models, strict=True):
        for ax, attack in zip(row, shown, strict=True):
            bins = records[model, attack].bins
            plots.reliability_diagram(bins, ax=ax, title=f"{model}, {attack}")
    handles = {
        label: handle
        for ax in axes.flat
        for handle, label in zip(*ax.get_legend_handles_labels(), strict=True)
    }
    figure.legend(
        handles.values(), handles.keys(), loc="outside lower center", ncols=3, frameon=False
    )
    return figure


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


def save(figure: Figure, path: Path, shown: object = None) -> None:
    """Write a picture, and into the file which figures it shows."""
    figure.savefig(path, dpi=150, metadata={"Comment": json.dumps(shown)})
    plt.close(figure)


def parse() -> argparse.Namespace:
    """Read the command line; a bad value ends the program with one line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--eps", type=float, default=0.1, help="radius in units of pixels (0.1)")
    parser.add_argument("--steps", type=int, default=10, help="steps of PGD and IAA (10)")
    parser.add_argument("--epochs", type=int, default=40, help="epochs of training (40)")
    parser.add_argument("--n-train", type=int, default=400, help="images to train on (400)")
    parser.add_argument("--seed", type=int, default=0, help="seed of everything random (0)")
    parser.add_argument("--out", type=Path, default=Path(), help="folder for the pictures (here)")
    args = parser.parse_args()
    check_ranges(
        parser, args, eps=(0.001, 1), steps=(1, 1000), epochs=(1, 1000), n_train=(50, 1700)
    )
    return args


def check_ranges(
    parser: argparse.ArgumentParser, args: argparse.Namespace, **ranges: tuple[float, float]
) -> None:
    """End the program with one line if an option is outside its range."""
    for name, (least, most) in ranges.items():
        value = getattr(args, name)
        if not least <= value <= most:
            parser.error(f"--{name.replace('_', '-')} must be from {least} to {most}, not {value}")


def date_and_versions() -> dict[str, object]:
    """Tell when figures were made, and with what."""
    return {
        "date": datetime.date.today().isoformat(),
        "versions": {
            "advcal": advcal.__version__,
            "torch": str(torch.__version__),
            "python": platform.python_version(),
        },
    }


def make_folder(path: Path) -> None:
    """Make the folder for results, or end the program with one line."""
    try:
        path.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise SystemExit(f"--out {path}: {error.strerror}") from None


def table(records: dict[tuple[str, str], evaluation.Evaluation], eps: float) -> str:
    """Lay out the records with the radius of each attack."""
    rows = {
        (model, attack, "0" if attack == "none" else f"{eps:.4g}"): record
        for (model, attack), record in records.items()
    }
    return evaluation.table(rows, columns=("model", "attack", "eps"))


def main() -> None:
    """Train, attack, print the table, draw the pictures."""
    args = parse()
    make_folder(args.out)
    train, test = digits(args.n_train, args.seed)
    models = {}
    for name, objective in objectives(args.eps, args.steps, args.seed).items():
        torch.manual_seed(args.seed)
        models[name] = network()
        optimizer = torch.optim.Adam(models[name].parameters(), lr=1e-3)
        training = trainers.epochs(models[name], train, objective, optimizer, n=args.epochs)
        for _ in tqdm(training, desc=f"train {name}", total=args.epochs, file=sys.stderr):
            pass
    records = compare(models, test, args.eps, args.steps)
    radii = [args.eps * factor for factor in (0, 0.25, 0.5, 0.75, 1, 1.5, 2)]
    curves = sweep(models, test, radii, args.steps)
    print(f"\nTrained on {args.n_train} digits, tested on the rest; linf attacks.\n")
    print(table(records, args.eps))
    figure = draw_reliability(records, ["none", f"PGD-{args.steps}", "IAA"])
    figures = {" / ".join(key): record.mcs for key, record in records.items()}
    save(figure, args.out / "quickstart-reliability.png", figures)
    save(draw_sweep(curves, radii, args.eps), args.out / "quickstart-mcs.png", curves)
    print(
        f"\nPictures: {args.out / 'quickstart-reliability.png'}, {args.out / 'quickstart-mcs.png'}"
    )


if __name__ == "__main__":
    main()
