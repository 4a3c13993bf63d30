"""Robustness levels, λ, radii and transfer: the pictures of the papers, of your CIFAR-10 networks.

Takes weights that examples/fgsm_training.py or examples/defenses.py has written. Of the first
network: accuracy, confidence and ECE by adversarial distance, IAA for several λ in both its forms,
and noise, PGD, IAA and UCA against the radius. Of all: PGD, IAA and UCA against the radius, and PGD
and IAA crafted on one and scored on another. Five pictures and a JSON file. A study that the file
has is not made again, so that the script may be stopped between two.

    python examples/networks_under_attack.py --data PATH --weights results/*.pt --out results/
"""

import argparse
import functools
from collections.abc import Callable
from pathlib import Path
from typing import Any

import cifar10_data
import common
import matplotlib.pyplot as plt
import torch
import training
from torch import Tensor, nn

from advcal import attacks, evaluation, metrics, plots

LAMS = (1.0, 3.0, 5.0, 7.0, 10.0)
RADII = [0.0, 0.01, 0.02, 0.03, 0.04, 0.06, 0.08, 0.1]
N_LEVELS = 10

Attack = Callable[..., Tensor]
Test = list[tuple[Tensor, Tensor]]


def main() -> None:
    """Make the studies that are not there yet; keep the figures and the pictures."""
    args = parse()
    common.make_folder(args.out)
    data = cifar10_data.load_or_exit(args.data, args.device)
    chosen = torch.linspace(0, len(data.test_labels) - 1, args.n_test).round().long()
    inputs = data.test_images[chosen].float() / 255
    test = list(zip(inputs.split(250), data.test_labels[chosen].split(250), strict=True))
    networks = {training.name_of(path): training.load(path, args.device) for path in args.weights}
    first = next(iter(networks.values()))
    kinds = attackers(args)
    path = args.out / "networks.json"
    study = {"settings": settings(args)} | common.read_json(path)
    studies: dict[str, Callable[[Path], Any]] = {
        "levels": lambda picture: levels(first, test, picture),
        "lambda": lambda picture: lam_study(first, test, kinds, picture),
        "radius": lambda picture: radius_study(first, test, kinds, picture),
        "defenses": lambda picture: defended(networks, test, kinds, picture),
        "transfer": lambda picture: transfer(networks, test, kinds, args.eps, picture),
    }
    for name, make in studies.items():
        if name not in study:
            study[name] = make(args.out / f"networks-{name}.png")
            common.write_json(path, study)
            print(f"made {name}", flush=True)


def attackers(args: argparse.Namespace) -> dict[str, Attack]:
    """Name the attacks, to be given a radius; crafted in mixed precision if asked for."""

    def mixed(attack: Attack) -> Attack:
        def crafted(model: Any, inputs: Tensor, labels: Tensor, **options: Any) -> Tensor:
            one = functools.partial(attack, steps=args.steps, **options)
            return (attacks.autocast(one) if args.bfloat16 else one)(model, inputs, labels)

        return crafted

    iaa = mixed(attacks.iaa)
    return {
        "noise": attacks.uniform_noise,
        "PGD": mixed(attacks.pgd),
        "IAA": iaa,
        "IAA, as published": functools.partial(iaa, variant="published"),
        "IAA, predicted": functools.partial(iaa, label="predicted"),
        "UCA": mixed(attacks.uca),
    }


def parse() -> argparse.Namespace:
    """Read the command line."""
    parser = common.parser(__doc__)
    parser.add_argument("--weights", type=Path, nargs="+", required=True, help="of networks")
    parser.add_argument("--n-test", type=int, default=1_000, help="images to test on (1000)")
    parser.add_argument("--steps", type=int, default=10, help="steps of PGD and IAA (10)")
    parser.add_argument("--eps", type=float, default=8 / 255, help="radius of transfer (8/255)")
    args = parser.parse_args()
    common.check_ranges(parser, args, n_test=(2 * N_LEVELS, 10_000), steps=(1, 1000), eps=(1e-4, 1))
    return args


def settings(args: argparse.Namespace) -> dict[str, object]:
    """Collect what a reader needs to run this again."""
    return {
        "weights": [path.name for path in args.weights],
        **{name: getattr(args, name) for name in ("n_test", "steps", "eps", "bfloat16")},
        **common.date_and_versions(),
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
    common.save_picture(figure, path, "networks.json#levels", found)
    return found


def measured(model: nn.Module, test: Test, attack: Callable[..., Tensor]) -> list[dict[str, Any]]:
    """Evaluate at every radius."""
    return evaluation.sweep({"": model}, {"": test}, {"": attack}, eps=RADII, channels_last=True)


def lam_study(model: nn.Module, test: Test, kinds: dict[str, Attack], path: Path) -> dict[str, Any]:
    """Sweep λ and the radius: the published algorithm above, ours below."""
    found: dict[str, Any] = {}
    figure, axes = plt.subplots(2, 3, figsize=(7, 4.5), layout="constrained")
    forms = {"published": kinds["IAA, as published"], "accept": kinds["IAA"]}
    for (schedule, iaa), row in zip(forms.items(), axes, strict=True):
        by_lam = {lam: measured(model, test, functools.partial(iaa, lam=lam)) for lam in LAMS}
        three = ("accuracy", "confidence", "mcs")
        plots.curves(RADII, by_lam, figures=three, by="lam", axes=row)
        found[schedule] = {str(lam): figures(records) for lam, records in by_lam.items()}
    common.save_picture(figure, path, "networks.json#lambda", found)
    return found


def radius_study(
    model: nn.Module, test: Test, kinds: dict[str, Attack], path: Path
) -> dict[str, Any]:
    """Sweep the radius of every attack on one network."""
    records = {name: measured(model, test, attack) for name, attack in kinds.items()}
    figure, axes = plt.subplots(1, 4, figsize=(9, 2.5), layout="constrained")
    plots.curves(RADII, records, axes=axes)
    found = {name: figures(each) for name, each in records.items()}
    common.save_picture(figure, path, "networks.json#radius", found)
    return found


def defended(
    networks: dict[str, nn.Module], test: Test, kinds: dict[str, Attack], path: Path
) -> dict[str, Any]:
    """Sweep the radius on every network: a row of panels per attack, a line per network."""
    shown = {name: kinds[name] for name in ("PGD", "IAA", "UCA")}
    figure, axes = plt.subplots(3, 3, figsize=(9, 7), sharey="col", layout="constrained")
    found: dict[str, Any] = {}
    for (attack_name, attack), row in zip(shown.items(), axes, strict=True):
        records = {name: measured(model, test, attack) for name, model in networks.items()}
        plots.curves(RADII, records, figures=("accuracy", "confidence", "mcs"), axes=row)
        for ax in row:
            ax.set_title(f"under {attack_name}", fontsize="small")
        found[attack_name] = {name: figures(each) for name, each in records.items()}
    common.save_picture(figure, path, "networks.json#defenses", found)
    return found


def figures(records: list[dict[str, Any]]) -> list[dict[str, float]]:
    """Keep what the papers show."""
    return [
        {key: each[key] for key in ("eps", "accuracy", "confidence", "mcs", "ece")}
        for each in records
    ]


def transfer(
    networks: dict[str, nn.Module],
    test: Test,
    kinds: dict[str, Attack],
    eps: float,
    path: Path,
) -> dict[str, dict[str, float]]:
    """Craft on one network and score on another: MCS."""
    figure, axes = plt.subplots(1, 2, figsize=(8, 3.2), layout="constrained")
    found = {}
    for ax, name in zip(axes, ("PGD", "IAA"), strict=True):
        configured = functools.partial(kinds[name], eps=eps)
        records = evaluation.transfer(networks, networks, test, configured)
        plots.transfer_matrix(records, figure="mcs", ax=ax, title=f"MCS under {name}")
        found[name] = {f"{source} to {to}": each.mcs for (source, to), each in records.items()}
    common.save_picture(figure, path, "networks.json#transfer", found)
    return found


if __name__ == "__main__":
    main()
