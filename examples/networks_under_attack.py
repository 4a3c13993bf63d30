"""Robustness levels, λ, radii and transfer: the pictures of the papers, of your CIFAR-10 networks.

Takes weights that examples/fgsm_training.py or examples/defenses.py has written. Of the first
network: accuracy, confidence and ECE by adversarial distance, IAA for several λ in both its forms,
and noise, PGD and IAA against the radius. Of all: PGD and IAA crafted on one and scored on another.
Four pictures and a JSON file.

    python examples/networks_under_attack.py --data PATH --weights results/*.pt --out results/
"""

import argparse
import functools
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import cifar10_data
import matplotlib.pyplot as plt
import quickstart
import torch
import training
from torch import Tensor, nn

from advcal import attacks, evaluation, metrics, plots

LAMS = (1.0, 3.0, 5.0, 10.0)
RADII = [0.0, 0.005, 0.01, 0.02, 0.03]
N_LEVELS = 10

Test = list[tuple[Tensor, Tensor]]


def main() -> None:
    """Make the four studies; keep the figures and the pictures."""
    args = parse()
    quickstart.make_folder(args.out)
    data = cifar10_data.load_or_exit(args.data)
    chosen = torch.linspace(0, len(data.test_labels) - 1, args.n_test).round().long()
    inputs = data.test_images[chosen].float() / 255
    test = list(zip(inputs.split(250), data.test_labels[chosen].split(250), strict=True))
    networks = {training.name_of(path): training.load(path) for path in args.weights}
    first = next(iter(networks.values()))
    study = {
        "settings": settings(args),
        "levels": levels(first, test, args.out / "networks-levels.png"),
        "lambda": lam_study(first, test, args.steps, args.out / "networks-lambda.png"),
        "radius": radius_study(first, test, args.steps, args.out / "networks-radius.png"),
        "transfer": transfer(networks, test, args, args.out / "networks-transfer.png"),
    }
    (args.out / "networks.json").write_text(json.dumps(study, indent=1) + "\n")
    print(json.dumps(study, indent=1))


def parse() -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--data", type=Path, required=True, help="folder that holds CIFAR-10")
    parser.add_argument("--weights", type=Path, nargs="+", required=True, help="of networks")
    parser.add_argument("--out", type=Path, default=Path("results"), help="folder for all it makes")
    parser.add_argument("--n-test", type=int, default=1_000, help="images to test on (1000)")
    parser.add_argument("--steps", type=int, default=10, help="steps of PGD and IAA (10)")
    parser.add_argument("--eps", type=float, default=8 / 255, help="radius of transfer (8/255)")
    args = parser.parse_args()
    quickstart.check_ranges(
        parser, args, n_test=(2 * N_LEVELS, 10_000), steps=(1, 1000), eps=(1e-4, 1)
    )
    return args


def settings(args: argparse.Namespace) -> dict[str, object]:
    """Collect what a reader needs to run this again."""
    return {
        "weights": [path.name for path in args.weights],
        **{name: getattr(args, name) for name in ("n_test", "steps", "eps")},
        **quickstart.date_and_versions(),
    }


def levels(model: nn.Module, test: Test, path: Path) -> list[dict[str, float]]:
    """Take accuracy, confidence and ECE per tenth of the images by adversarial distance."""
    distances = torch.cat([attacks.adversarial_distance(model, x, attack="fast") for x, _ in test])
    with torch.no_grad():
        probs = torch.cat([model(x).softmax(dim=1) for x, _ in test])
    labels = torch.cat([y for _, y in test])
    level_of = metrics.robustness_levels(distances, n_levels=N_LEVELS)
    figure, axes = plt.subplots(2, figsize=(4, 4.5), sharex=True, layout="constrained")
    plots.robustness_levels(probs, labels, level_of, axes=axes)
    save(figure, path)
    found = []
    for level in range(N_LEVELS):
        rows = level_of == level
        found.append(
            {
                "median distance": float(distances[rows].median()),
                "accuracy": float(metrics.accuracy(probs[rows], labels[rows])),
                "confidence": float(metrics.confidence(probs[rows], labels[rows])),
                "ece": float(metrics.ece(probs[rows], labels[rows])),
            }
        )
    return found


def measured(model: nn.Module, test: Test, attack: Callable[..., Tensor]) -> list[dict[str, Any]]:
    """Evaluate at every radius."""
    return evaluation.sweep({"": model}, {"": test}, {"": attack}, eps=RADII, channels_last=True)


def lam_study(model: nn.Module, test: Test, steps: int, path: Path) -> dict[str, Any]:
    """Sweep λ and the radius: the published algorithm above, ours below."""
    found: dict[str, Any] = {}
    figure, axes = plt.subplots(2, 3, figsize=(7, 4.5), layout="constrained")
    kinds: dict[str, Callable[..., Tensor]] = {
        "published": functools.partial(attacks.iaa, schedule="published"),
        "accept": attacks.iaa,
    }
    for (schedule, kind), row in zip(kinds.items(), axes, strict=True):
        iaa = functools.partial(kind, steps=steps)
        by_lam = {lam: measured(model, test, functools.partial(iaa, lam=lam)) for lam in LAMS}
        plots.against_lam(RADII, by_lam, axes=row)
        found[schedule] = {str(lam): figures(records) for lam, records in by_lam.items()}
    save(figure, path)
    return found


def radius_study(model: nn.Module, test: Test, steps: int, path: Path) -> dict[str, Any]:
    """Sweep the radius of noise, PGD and IAA."""
    kinds: dict[str, Callable[..., Tensor]] = {
        "noise": attacks.uniform_noise,
        "PGD": functools.partial(attacks.pgd, steps=steps),
        "IAA": functools.partial(attacks.iaa, steps=steps),
        "UCA": functools.partial(attacks.uca, steps=steps),
    }
    records = {name: measured(model, test, attack) for name, attack in kinds.items()}
    figure, axes = plt.subplots(1, 4, figsize=(9, 2.5), layout="constrained")
    plots.figures_against_eps(RADII, records, axes=axes)
    save(figure, path)
    return {name: figures(each) for name, each in records.items()}


def figures(records: list[dict[str, Any]]) -> list[dict[str, float]]:
    """Keep what the papers show."""
    return [
        {key: each[key] for key in ("eps", "accuracy", "confidence", "mcs")} for each in records
    ]


def transfer(
    networks: dict[str, nn.Module], test: Test, args: argparse.Namespace, path: Path
) -> dict[str, dict[str, float]]:
    """Craft on one network and score on another: MCS."""
    kinds: dict[str, Callable[..., Tensor]] = {"PGD": attacks.pgd, "IAA": attacks.iaa}
    figure, axes = plt.subplots(1, 2, figsize=(8, 3.2), layout="constrained")
    found = {}
    for ax, (name, attack) in zip(axes, kinds.items(), strict=True):
        configured = functools.partial(attack, eps=args.eps, steps=args.steps)
        records = evaluation.transfer(networks, networks, test, configured)
        plots.transfer_matrix(records, figure="mcs", ax=ax, title=f"MCS under {name}")
        found[name] = {f"{source} to {to}": each.mcs for (source, to), each in records.items()}
    save(figure, path)
    return found


def save(figure: Any, path: Path) -> None:
    """Write a picture and forget it."""
    figure.savefig(path, dpi=150)
    plt.close(figure)


if __name__ == "__main__":
    main()
