"""Where the FGSM study stopped: more radii, temperatures, attacks and noise, on your CIFAR-10.

Takes weights that examples/fgsm_training.py or examples/defenses.py has written; reliability and
temperatures are of the first two, such as standard and FGSM-AT. FGSM and PGD against the radius; a
temperature fitted to clean or to attacked images; AutoAttack and distances beside PGD; randomized
smoothing; and what robustness costs. Tables, three pictures and a JSON file. A study that the file
has is not made again, so that the script may be stopped between two.

    python examples/beyond_fgsm.py --data PATH --out results/ \
        --weights results/resnet18-standard.pt results/resnet18-FGSM-AT.pt
"""

import argparse
import functools
import itertools
import math
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import cifar10_data
import common
import fgsm_training
import matplotlib.pyplot as plt
import torch
import training
from torch import Tensor
from tqdm import tqdm

from advcal import attacks, calibrators, evaluation, plots, trainers

EPS, N_BINS, ATTACKS = fgsm_training.EPS, fgsm_training.N_BINS, fgsm_training.ATTACKS
PGD = {name: ATTACKS[name] for name in ("none", "PGD-10")}
STUDIES = ("sweep", "reliability", "temperature", "attacks", "distances", "smoothing", "tax")
RADII = [0, 4, 8, 12, 16]  # in 255ths
FIGURES = ("accuracy", "confidence", "ece", "mcs", "nll")
AUTOATTACK = functools.partial(attacks.autoattack, eps=EPS)
CW = functools.partial(attacks.cw_l2, search_steps=5, steps=100, initial_c=1.0)

Model = Callable[[Tensor], Tensor]
Measure = Callable[[dict[str, Any], cifar10_data.Batches, dict[str, Any]], "Records"]
Records = dict[Any, evaluation.Evaluation]  # by the words that name a row of a table


def main() -> None:
    """Make the studies that are not there yet; print their tables, keep figures and pictures."""
    args = parse()
    common.make_folder(args.out)
    networks: dict[str, Any] = {
        training.name_of(path): training.load(path, args.device) for path in args.weights
    }
    pair = dict(itertools.islice(networks.items(), 2))
    data = cifar10_data.load_or_exit(args.data, args.device)
    _, held_out = cifar10_data.split(data.train_images, data.train_labels, args.n_validation)
    validation = cifar10_data.Batches(*held_out, 100)
    test = spread(cifar10_data.Batches(data.test_images, data.test_labels), args.n_test)
    few = spread(test, args.n_attacked)
    fewer = spread(few, args.n_attacked // 2)
    sweep_path, reliability_path, pareto_path = (
        args.out / f"beyond_fgsm-{name}.png" for name in ("sweep", "reliability", "pareto")
    )
    measured = functools.partial(measure, bfloat16=args.bfloat16)
    path = args.out / "beyond_fgsm.json"
    study = {"settings": settings(args)} | common.read_json(path)
    studies: dict[str, Callable[[], Any]] = {
        "sweep": lambda: sweep(measured, networks, test, sweep_path),
        "reliability": lambda: reliability(measured, pair, test, reliability_path),
        "temperature": lambda: temperature(measured, pair, validation, test),
        "attacks": lambda: stronger(measured, networks, few),
        "distances": lambda: distances(networks, fewer),
        "smoothing": lambda: smoothing(measured, networks, test, args),
        "tax": lambda: tax(measured, networks, test, study["attacks"], pareto_path),
    }
    for name, make in studies.items():
        if name in args.studies and name not in study:
            torch.manual_seed(args.seed)  # the same starts, whatever was made before
            study[name] = make()
            common.write_json(path, study)


def parse() -> argparse.Namespace:
    """Read the command line."""
    parser = common.parser(__doc__)
    parser.add_argument("--weights", type=Path, nargs="+", required=True, help="of networks")
    parser.add_argument("--n-test", type=int, default=1_000, help="images to test on (1000)")
    parser.add_argument(
        "--n-attacked",
        type=int,
        default=200,
        help="of these for AutoAttack, and half as many for distances (200)",
    )
    parser.add_argument("--sigma", type=float, default=0.1, help="deviation of the noise (0.1)")
    parser.add_argument("--n-draws", type=int, default=16, help="draws in smoothing (16)")
    parser.add_argument("--studies", nargs="+", choices=STUDIES, default=STUDIES, help="(all)")
    parser.add_argument("--n-validation", type=int, default=5_000, help="held out (5000)")
    parser.add_argument("--seed", type=int, default=0, help="seed of everything random (0)")
    args = parser.parse_args()
    common.check_ranges(
        parser,
        args,
        n_test=(2, 10_000),
        n_attacked=(2, args.n_test),
        sigma=(1e-4, 1),
        n_draws=(1, 1000),
        n_validation=(100, 25_000),
    )
    if "tax" in args.studies and "attacks" not in args.studies:
        parser.error("--studies tax needs the study attacks")
    names = [*map(training.name_of, args.weights)]
    if len(set(names)) < len(names):
        parser.error(f"--weights must have names of their own, not {', '.join(names)}")
    return args


def settings(args: argparse.Namespace) -> dict[str, object]:
    """Collect what a reader needs to run this again."""
    return {
        "weights": [path.name for path in args.weights],
        "eps": EPS,
        "n_bins": N_BINS,
        "attacks": "FGSM; PGD of 10 steps of eps/4, random start, best iterate; AutoAttack of 100 "
        "steps, 9 targets and 5000 queries; CW of 5 x 100 steps",
        **{
            name: getattr(args, name)
            for name in ("n_test", "n_attacked", "n_validation", "seed", "bfloat16")
        },
        "smoothing": {"sigma": args.sigma, "n_draws": args.n_draws},
        **common.date_and_versions(),
    }


def spread(test: cifar10_data.Batches, n: int) -> cifar10_data.Batches:
    """Choose examples evenly, since folders of images are in the order of their classes."""
    chosen = torch.linspace(0, len(test.labels) - 1, n).round().long()
    return cifar10_data.Batches(test.images[chosen], test.labels[chosen], 100)


def measure(
    networks: dict[str, Any],
    test: cifar10_data.Batches,
    under: dict[str, Any],
    *,
    bfloat16: bool = False,
) -> Records:
    """Evaluate every network under every attack; mixed precision is for crafting alone."""
    if bfloat16:
        under = {name: attack and attacks.autocast(attack) for name, attack in under.items()}
    rows = list(itertools.product(networks.items(), under.items()))
    return {
        (name, attack_name): evaluation.evaluate(
            model, test, attack, n_bins=N_BINS, channels_last=True
        )
        for (name, model), (attack_name, attack) in tqdm(rows, file=sys.stderr, mininterval=10)
    }


def report(title: str, records: Records, *names: str) -> dict[str, dict[str, float]]:
    """Print a table and return its figures."""
    print(f"\n{title}\n\n{evaluation.table(records, columns=names, figures=FIGURES)}", flush=True)
    return {
        " / ".join(key): {figure: getattr(record, figure) for figure in FIGURES}
        for key, record in records.items()
    }


def sweep(
    measured: Measure, networks: dict[str, Any], test: cifar10_data.Batches, path: Path
) -> dict[str, Any]:
    """Attack at every radius: a row of panels per attack, a line per network."""
    kinds: dict[str, Callable[..., Tensor]] = {
        "FGSM": attacks.fgsm,
        "PGD-10": functools.partial(attacks.pgd, steps=10),
    }
    figure, axes = plt.subplots(2, 4, figsize=(9, 4.6), sharey="col", layout="constrained")
    records: Records = {}
    for row, (kind, attack) in zip(axes, kinds.items(), strict=True):
        under = {f"{k}/255": functools.partial(attack, eps=k / 255) for k in RADII}
        found = measured(networks, test, under)
        records |= {(name, kind, radius): each for (name, radius), each in found.items()}
        lines = {name: [found[name, radius] for radius in under] for name in networks}
        plots.curves(RADII, lines, figures=("accuracy", "ece", "nll", "mcs"), axes=row)
        for ax in row:
            ax.set_title(f"under {kind}", fontsize="small")
            ax.set(xlabel=r"$255\,\varepsilon$", xticks=RADII)
        row[2].set(yscale="log", yticks=[1, 2, 5, 10], yticklabels=["1", "2", "5", "10"])
    result = report("Against the radius", records, "training", "attack", "eps")
    common.save_picture(figure, path, "beyond_fgsm.json#sweep", result)
    return result


def reliability(
    measured: Measure, pair: dict[str, Any], test: cifar10_data.Batches, path: Path
) -> dict[str, Any]:
    """Draw the reliability diagrams of two networks; keep their tables."""
    records = measured(pair, test, ATTACKS)
    found = {" / ".join(key): record.as_dict() for key, record in records.items()}
    figure = common.draw_reliability(records, list(ATTACKS))
    common.save_picture(figure, path, "beyond_fgsm.json#reliability", found)
    return found


def temperature(
    measured: Measure,
    networks: dict[str, Any],
    held_out: cifar10_data.Batches,
    test: cifar10_data.Batches,
) -> dict[str, Any]:
    """Fit a temperature to clean and to attacked held-out images; attack what comes of it."""
    records, fitted = measured(networks, test, PGD), {}
    records = {(name, "nothing", attack): each for (name, attack), each in records.items()}
    for (name, model), (on, attack) in itertools.product(networks.items(), PGD.items()):
        seen = trainers.predict(model, held_out, attack, channels_last=True)
        calibrator = calibrators.fit_temperature(seen.logits, seen.labels)
        fitted[f"{name} / {on}"] = calibrator.temperature

        found = measured({name: calibrated(model, calibrator)}, test, PGD)
        records |= {(name, on, attack): each for (_, attack), each in found.items()}
    results = report("Temperature scaling", records, "training", "fitted to", "attack")
    print("\nTemperatures: " + ", ".join(f"{key} {value:.2f}" for key, value in fitted.items()))
    return {"temperatures": fitted, "results": results}


def calibrated(model: Model, calibrator: calibrators.Temperature) -> Model:
    """Let an attack go through the calibrator."""
    return lambda inputs: calibrator.log_probs(model(inputs))


def stronger(
    measured: Measure, networks: dict[str, Any], few: cifar10_data.Batches
) -> dict[str, Any]:
    """Compare FGSM and PGD with AutoAttack."""
    records = measured(networks, few, ATTACKS | {"AutoAttack": AUTOATTACK})
    return report("AutoAttack", records, "training", "attack")


def distances(networks: dict[str, Any], few: cifar10_data.Batches) -> dict[str, dict[str, float]]:
    """Find how far images are from the decision boundary in L2, by CW and by the precise way."""
    inputs = few.images.float() / 255
    ways: dict[str, Any] = {"CW": CW, "precise": "precise"}
    medians = {
        name: {
            way: float(attacks.adversarial_distance(model, inputs, attack=attack).median())
            for way, attack in ways.items()
        }
        for name, model in networks.items()
    }
    print_table("Median L2 distance", "training", medians)
    return medians


def smoothed(model: Model, noise: Tensor) -> Model:
    """Average the probabilities over fixed noise (draws, channels, height, width)."""

    def log_mean_probs(inputs: Tensor) -> Tensor:
        logits = model((inputs[:, None] + noise).flatten(0, 1))
        log_probs: Tensor = logits.log_softmax(dim=1).unflatten(0, (len(inputs), len(noise)))
        return log_probs.logsumexp(dim=1) - math.log(len(noise))

    return log_mean_probs


def smoothing(
    measured: Measure,
    networks: dict[str, Any],
    test: cifar10_data.Batches,
    args: argparse.Namespace,
) -> dict[str, Any]:
    """Evaluate networks as they are and smoothed; the attack goes through the noise."""
    generator = torch.Generator().manual_seed(args.seed)
    shape = (args.n_draws, *test.images.shape[1:])
    noise = args.sigma * torch.randn(shape, generator=generator)
    both = networks | {f"{name}, smoothed": smoothed(networks[name], noise) for name in networks}
    batches = cifar10_data.Batches(test.images, test.labels, 25)  # times the draws in a pass
    return report("Randomized smoothing", measured(both, batches, PGD), "training", "attack")


def tax(
    measured: Measure,
    networks: dict[str, Any],
    test: cifar10_data.Batches,
    attacked: dict[str, Any],
    path: Path,
) -> dict[str, dict[str, float]]:
    """Draw clean accuracy, accuracy under AutoAttack and clean ECE."""
    clean = {name: each for (name, _), each in measured(networks, test, {"none": None}).items()}
    robust = {name: attacked[f"{name} / AutoAttack"]["accuracy"] for name in networks}
    points = {name: (each.accuracy, robust[name], each.ece) for name, each in clean.items()}
    figure, ax = plt.subplots(figsize=(6, 3.4), layout="constrained")
    plots.pareto_front(points, ax=ax).set_ylabel("accuracy under AutoAttack")
    words = ("clean accuracy", "AutoAttack accuracy", "clean ece")
    found = {name: dict(zip(words, point, strict=True)) for name, point in points.items()}
    common.save_picture(figure, path, "beyond_fgsm.json#tax", found)
    print_table("The robustness tax", "training", found)
    return found


def print_table(title: str, name: str, rows: dict[str, dict[str, float]]) -> None:
    """Print a Markdown table of figures by name."""
    heading = [name, *next(iter(rows.values()))]
    print(f"\n{title}\n\n| " + " | ".join(heading) + " |\n|:--|" + "--:|" * (len(heading) - 1))
    for key, values in rows.items():
        print(f"| {key} | " + " | ".join(f"{value:.3f}" for value in values.values()) + " |")


if __name__ == "__main__":
    main()
