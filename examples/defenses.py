"""Train a network on CIFAR-10 with each defense, and attack accuracy and confidence alike.

The plain network is trained first; the defenses start from its weights. Then clean data, FGSM, PGD
and the attacks on confidence (IAA, UCA, OCA) say how right each is and how honestly confident, and
with a rejection threshold from held-out images, how often it errs without noticing. One JSON file
and one file of weights per defense and seed: what is there is not made again, and the script may be
stopped at any moment and started again. Then a table and two pictures of all that is there.

    python examples/defenses.py --data PATH --bfloat16 --out results/
"""

import argparse
import functools
import itertools
import statistics
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import cifar10_data
import common
import matplotlib.pyplot as plt
import models
import torch
import training
from torch import Tensor, nn

from advcal import attacks, evaluation, losses, metrics, plots, trainers

PEAK, PEAK_WARM = 0.4, 0.1  # learning rates, from random weights and from trained ones
PEAKS = {"standard": PEAK, "cutout": 0.2}  # of single defenses
SIGMA = 0.1  # deviation of the noise that is trained with
HOLE = 12  # side of the square that is cut out, in pixels

Studies = dict[str, dict[str, Any]]  # of each network


def defenses(
    eps: float, steps: int, generator: torch.Generator
) -> dict[str, Callable[..., Tensor]]:
    """Name the ways to train, all with attacks of one radius and number of steps."""
    fgsm = functools.partial(attacks.fgsm, eps=eps)
    pgd = functools.partial(attacks.pgd, eps=eps, steps=steps, generator=generator)
    iaa = functools.partial(
        attacks.iaa, eps=eps, steps=steps, random_start=True, generator=generator
    )
    rejected = functools.partial(attacks.pgd_conf, eps=eps, steps=10, generator=generator)
    noise = functools.partial(_add_noise, sigma=SIGMA, generator=generator)
    hole = functools.partial(_cut_out, side=HOLE, generator=generator)
    penalty = functools.partial(losses.confidence_penalty, beta=0.1)
    at, iat = trainers.adversarial(pgd), trainers.adversarial(iaa)
    return {
        "standard": trainers.standard(),
        "cutout": trainers.adversarial(hole),
        "noise": trainers.adversarial(noise),
        "FGSM-AT": trainers.adversarial(fgsm),
        "PGD-AT": at,
        "IAT": iat,
        "IAT, predicted": trainers.adversarial(functools.partial(iaa, label="predicted")),
        "AT+IAT": trainers.mixed(at, iat),
        "TRADES": trainers.trades(functools.partial(pgd, loss="kl")),
        "MART": trainers.mart(pgd),
        "CCAT": trainers.ccat(rejected, eps=eps),
        "entropy-AT": trainers.adversarial(pgd, loss=penalty),
    }


def _add_noise(
    _: object, inputs: Tensor, __: Tensor, *, sigma: float, generator: torch.Generator
) -> Tensor:
    noise = torch.randn(inputs.shape, generator=generator)
    return inputs + sigma * noise.to(inputs.device)


def _cut_out(
    _: object, inputs: Tensor, __: Tensor, *, side: int, generator: torch.Generator
) -> Tensor:
    """Grey a square of each image, whose middle is anywhere (DeVries & Taylor, 1708.04552)."""
    n, _, height, width = inputs.shape
    top, left = (
        torch.randint(size, (n, 1), generator=generator) - side // 2 for size in (height, width)
    )
    rows, columns = torch.arange(height) - top, torch.arange(width) - left
    rows, columns = ((where >= 0) & (where < side) for where in (rows, columns))
    cut = rows.view(n, 1, height, 1) & columns.view(n, 1, 1, width)
    return inputs.masked_fill(cut.to(inputs.device), 0.5)


def attackers(eps: float) -> dict[str, Callable[..., Tensor] | None]:
    """Name the attacks to compare: on accuracy, then on confidence."""
    iaa = functools.partial(attacks.iaa, eps=eps, steps=20)
    return {
        "none": None,
        "noise": functools.partial(attacks.uniform_noise, eps=eps),
        "FGSM": functools.partial(attacks.fgsm, eps=eps),
        "PGD-20": functools.partial(attacks.pgd, eps=eps, steps=20),
        "IAA": iaa,
        "IAA, predicted": functools.partial(iaa, label="predicted"),
        "UCA": functools.partial(attacks.uca, eps=eps, steps=20),
        "OCA": functools.partial(attacks.oca, eps=eps, steps=20),
    }


def main() -> None:
    """Train what is not trained yet, attack it, keep its figures, print the table."""
    args = parse()
    common.make_folder(args.out)
    data = cifar10_data.load_or_exit(args.data, args.device)
    train, held_out = cifar10_data.split(data.train_images, data.train_labels, args.n_validation)
    train = (train[0][: args.n_train], train[1][: args.n_train])
    chosen = torch.linspace(0, len(data.test_labels) - 1, args.n_test).round().long()
    test = cifar10_data.Batches(data.test_images[chosen], data.test_labels[chosen], 500)
    validation = cifar10_data.Batches(*held_out, batch_size=500)
    for seed, name in itertools.product(args.seeds, args.only):
        path = args.out / f"{stem(args.model, name, seed)}.json"
        study = common.read_json(path)
        if "curve" not in study:
            study = {"defense": name, "settings": settings(args, name, seed)}
            run = train_one(name, seed, train, validation, args)
            study |= {"curve": run.curve, "seconds": run.seconds}
            common.write_json(path, study)
        if "results" not in study and not args.train_only:
            model = network(args, name, seed)
            whole = cifar10_data.Batches(data.test_images, data.test_labels, batch_size=500)
            study["all test images"] = figures_of(model, whole)
            study["with mirror images"] = figures_of(training.mirrored(model), whole)
            print(f"{path.stem}: {study['all test images']}", flush=True)
            study["results"] = attack_all(model, test, validation, args)
            study["tested"] = common.date_and_versions()
            common.write_json(path, study)
    found = {
        training.name_of(path): common.read_json(path)
        for path in sorted(args.out.glob("defense-*.json"))
    }
    if studies := {name: study for name, study in found.items() if "results" in study}:
        common.write_json(args.out / "defenses.json", studies)
        print(summary(studies))
        draw_curves(studies, args.out / "defenses-curves.png")
        draw_pareto(studies, args.out / "defenses-pareto.png")


def stem(model: str, name: str, seed: int) -> str:
    """Name the files of a network, without their suffix."""
    return f"defense-{model}-{name.replace(', ', '-')}-{seed}"


def network(args: argparse.Namespace, name: str, seed: int) -> nn.Module:
    """Read a network that is trained already."""
    return training.load(args.out / f"{stem(args.model, name, seed)}.pt", args.device)


def parse() -> argparse.Namespace:
    """Read the command line."""
    parser = common.parser(__doc__)
    names = list(defenses(1.0, 1, torch.Generator()))
    parser.add_argument(
        "--model",
        choices=models.NAMES,
        default="fastnet",
        help="the network (fastnet)",
    )
    parser.add_argument(
        "--only", nargs="+", choices=names, default=names, help="the defenses to train (all)"
    )
    parser.add_argument("--seeds", nargs="+", type=int, default=[0], help="the seeds (0)")
    parser.add_argument("--train-only", action="store_true", help="train and do not attack yet")
    parser.add_argument("--eps", type=float, default=8 / 255, help="radius of all attacks (8/255)")
    parser.add_argument("--train-steps", type=int, default=3, help="steps in training (3)")
    parser.add_argument(
        "--epochs-standard", type=int, default=24, help="epochs of plain training (24)"
    )
    parser.add_argument(
        "--epochs", type=int, default=12, help="epochs of a defense, from plain weights on (12)"
    )
    parser.add_argument("--n-train", type=int, default=45_000, help="images to train on (45000)")
    parser.add_argument("--n-validation", type=int, default=5_000, help="held out (5000)")
    parser.add_argument("--n-test", type=int, default=1_000, help="images to test on (1000)")
    args = parser.parse_args()
    common.check_ranges(
        parser,
        args,
        eps=(1e-4, 1),
        train_steps=(1, 1000),
        epochs_standard=(1, 1000),
        epochs=(1, 1000),
        n_validation=(100, 25_000),
        n_train=(128, 50_000 - args.n_validation),
        n_test=(40, 10_000),
    )
    return args


def settings(args: argparse.Namespace, name: str, seed: int) -> dict[str, object]:
    """Collect what a reader needs to run this again."""
    plain = name == "standard"
    return {
        "optimizer": "SGD, Nesterov momentum .85, batch 256, crops and flips; training.py has more",
        "peak": PEAKS.get(name, PEAK_WARM),
        "start": "random" if plain else "the plain network of the seed",
        "epochs": args.epochs_standard if plain else args.epochs,
        **{name: getattr(args, name) for name in ("model", "eps", "train_steps", "bfloat16")},
        **{name: getattr(args, name) for name in ("n_train", "n_validation", "n_test")},
        "seed": seed,
        **common.date_and_versions(),
    }


def train_one(
    name: str,
    seed: int,
    train: tuple[Tensor, Tensor],
    validation: cifar10_data.Batches,
    args: argparse.Namespace,
) -> training.Run:
    """Train, and watch 500 held-out images; they choose nothing."""
    plain = name == "standard"
    torch.manual_seed(seed)
    model = training.network(args.model, train[0])
    if not plain:
        model.load_state_dict(network(args, "standard", seed).state_dict())
    batches = cifar10_data.Batches(*train, batch_size=256, shuffle=True, seed=seed, augment=True)
    some = slice(None, None, max(1, len(validation.images) // 500))
    watched = cifar10_data.Batches(validation.images[some], validation.labels[some], 500)
    starts = torch.Generator().manual_seed(seed)
    pgd = attacks.autocast(functools.partial(attacks.pgd, eps=args.eps, steps=10))

    def watch() -> dict[str, float]:
        point: dict[str, float] = {}
        for attack_name, attack in {"none": None, "PGD-10": pgd}.items():
            record = evaluation.evaluate(model, watched, attack, channels_last=True)
            point |= {f"{attack_name} accuracy": record.accuracy, f"{attack_name} mcs": record.mcs}
        return point

    return training.train_fast(
        f"{name}, seed {seed}",
        model,
        batches,
        defenses(args.eps, args.train_steps, starts)[name],
        n=args.epochs_standard if plain else args.epochs,
        peak=PEAKS.get(name, PEAK_WARM),
        path=args.out / stem(args.model, name, seed),
        bfloat16=args.bfloat16,
        watch=watch,
        state={"starts": starts},
    )


def figures_of(model: nn.Module, batches: cifar10_data.Batches) -> dict[str, object]:
    """Take the figures of images as they are."""
    found = evaluation.evaluate(model, batches, channels_last=True)
    return {name: getattr(found, name) for name in ("n", "accuracy", "ece", "mcs", "nll")}


def attack_all(
    model: nn.Module,
    test: cifar10_data.Batches,
    held_out: cifar10_data.Batches,
    args: argparse.Namespace,
) -> dict[str, object]:
    """Evaluate under every attack, and once more with rejection of what is not confident.

    Attacks are crafted in mixed precision if the network was trained so, and judged without.
    """
    results: dict[str, object] = {}
    logits = {}
    for name, attack in attackers(args.eps).items():
        if attack is not None and args.bfloat16:
            attack = attacks.autocast(attack)
        logits[name] = trainers.predict(model, test, attack, channels_last=True)
        found = logits[name]
        results[name] = {
            "accuracy": float(metrics.accuracy(found.probs, found.labels)),
            "confidence": float(metrics.confidence(found.probs, found.labels)),
            "mcs": float(metrics.mcs(found.probs, found.labels)),
            "ece": float(metrics.ece(found.probs, found.labels)),
            "nll": float(metrics.nll(found.probs, found.labels)),
        }
    clean = trainers.predict(model, held_out, channels_last=True)
    threshold = float(metrics.rejection_threshold(clean.probs, clean.labels))
    attacked = [logits[name].probs for name in logits if name != "none"]
    error = functools.partial(
        metrics.robust_error, logits["none"].probs, test.labels, attacked=attacked
    )
    results["worst case"] = {
        "robust error": float(error()),
        "rejection threshold at 99 % of the right predictions": threshold,
        "robust error with rejection": float(error(threshold=threshold)),
    }
    return results


def summary(studies: Studies) -> str:
    """Lay accuracy and MCS out as a Markdown table, a row per defense, with the spread of seeds."""
    by_defense: dict[str, list[dict[str, Any]]] = {}
    for study in studies.values():
        by_defense.setdefault(study["defense"], []).append(study["results"])
    first = next(iter(by_defense.values()))[0]
    names = [name for name in first if name != "worst case"]
    lines = ["| defense | " + " | ".join(names) + " | robust error | with rejection |"]
    lines.append("|:--|" + "--:|" * (len(names) + 2))
    for defense, runs in by_defense.items():
        cells = [
            f"{spread([run[name]['accuracy'] for run in runs])}, "
            f"{spread([run[name]['mcs'] for run in runs], '+')}"
            for name in names
        ]
        for figure in ("robust error", "robust error with rejection"):
            cells.append(spread([run["worst case"][figure] for run in runs]))
        lines.append(f"| {defense} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


def spread(values: Sequence[float], sign: str = "") -> str:
    """Write the mean, and the standard deviation if there are several values."""
    mean = f"{statistics.fmean(values):{sign}.3f}"
    return mean if len(values) < 2 else f"{mean} ± {statistics.stdev(values):.3f}"


def draw_curves(studies: Studies, path: Path) -> None:
    """Draw accuracy and MCS after each epoch, clean and under PGD, a line per defense."""
    figures = ["none accuracy", "PGD-10 accuracy", "none mcs", "PGD-10 mcs"]
    titles = ["clean accuracy", "accuracy under PGD-10", "clean MCS", "MCS under PGD-10"]
    figure, axes = plt.subplots(2, 2, figsize=(7, 5), sharex=True, layout="constrained")
    styles = itertools.cycle(itertools.product(["-", "--"], ["C0", "C1", "C2", "C3", "C4"]))
    for (network, study), (dashes, colour) in zip(studies.items(), styles, strict=False):
        epochs = [point["epoch"] for point in study["curve"]]
        for ax, key in zip(axes.flat, figures, strict=True):
            values = [point[key] for point in study["curve"]]
            label = network if ax is axes.flat[0] else None
            ax.plot(epochs, values, color=colour, linestyle=dashes, label=label)
    for ax, title in zip(axes.flat, titles, strict=True):
        ax.set_title(title, fontsize="medium")
    for ax in axes[1]:
        ax.axhline(0, color="0.7", linewidth=0.8, zorder=0)
        ax.set_xlabel("epoch")
    figure.legend(loc="outside right upper", frameon=False, fontsize="small")
    common.save_picture(figure, path, "defenses.json", studies)


def draw_pareto(studies: Studies, path: Path) -> None:
    """Draw clean accuracy, accuracy under PGD-20 and clean ECE of every defense."""
    points = {}
    for network, study in studies.items():
        clean, robust = (study["results"][name] for name in ("none", "PGD-20"))
        points[network] = (
            clean["accuracy"],
            robust["accuracy"],
            clean["ece"],
        )
    figure, ax = plt.subplots(figsize=(4.5, 3.6), layout="constrained")
    plots.pareto_front(points, ax=ax)
    common.save_picture(figure, path, "defenses.json", studies)


if __name__ == "__main__":
    main()
