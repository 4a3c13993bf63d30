"""Train a small CNN on CIFAR-10 with each defense, and attack accuracy and confidence alike.

Each defense trains the same network for the same epochs on the same images; then clean data, FGSM,
PGD and the attacks on confidence (IAA, UCA, OCA) say how right it is and how honestly confident,
and with CCAT's rejection threshold from held-out images, how often it errs without noticing. One
JSON file and one file of weights per defense: what is there already is not made again. Then a table
and two pictures of all that is there.

    python examples/defenses.py --data PATH --out results/
"""

import argparse
import functools
import itertools
import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import cifar10_data
import matplotlib.pyplot as plt
import models
import quickstart
import torch
from torch import Tensor, nn

from advcal import attacks, evaluation, losses, metrics, plots, trainers

Objective = Callable[..., Tensor]


def defenses(eps: float, steps: int, seed: int) -> dict[str, Objective]:
    """Name the ways to train, all with attacks of one radius and number of steps."""
    starts = torch.Generator().manual_seed(seed)
    fgsm = functools.partial(attacks.fgsm, eps=eps)
    pgd = functools.partial(attacks.pgd, eps=eps, steps=steps, generator=starts)
    iaa = functools.partial(attacks.iaa, eps=eps, steps=steps, random_start=True, generator=starts)
    rejected = functools.partial(attacks.pgd_conf, eps=eps, steps=2 * steps, generator=starts)
    penalty = functools.partial(losses.confidence_penalty, beta=0.1)
    at, iat = trainers.adversarial(pgd), trainers.adversarial(iaa)
    return {
        "standard": trainers.standard(),
        "FGSM-AT": trainers.adversarial(fgsm),
        "PGD-AT": at,
        "IAT": iat,
        "AT+IAT": trainers.mixed(at, iat),
        "TRADES": trainers.trades(functools.partial(pgd, loss="kl")),
        "MART": trainers.mart(pgd),
        "CCAT": trainers.ccat(rejected, eps=eps),
        "entropy-AT": trainers.adversarial(pgd, loss=penalty),
    }


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
    quickstart.make_folder(args.out)
    data = cifar10_data.load_or_exit(args.data)
    train, held_out = cifar10_data.split(data.train_images, data.train_labels, args.n_validation)
    train = (train[0][: args.n_train], train[1][: args.n_train])
    chosen = torch.linspace(0, len(data.test_labels) - 1, args.n_test).round().long()
    test = cifar10_data.Batches(data.test_images[chosen], data.test_labels[chosen], 500)
    for name, objective in defenses(args.eps, args.train_steps, args.seed).items():
        path = args.out / f"defense-{name}.json"
        if name not in (args.only or [name]) or path.exists():
            continue
        torch.manual_seed(args.seed)
        model = models.small_cnn()
        study: dict[str, Any] = {"defense": name, "settings": settings(args)}
        study["curve"] = train_one(name, model, objective, train, test, args)
        torch.save(model.state_dict(), args.out / f"defense-{name}.pt")
        validation = cifar10_data.Batches(*held_out, batch_size=500)
        study["results"] = attack_all(model, test, validation, args.eps)
        path.write_text(json.dumps(study, indent=1) + "\n")
    studies = [json.loads(path.read_text()) for path in sorted(args.out.glob("defense-*.json"))]
    if studies:
        print(summary(studies))
        draw_curves(studies, args.out / "defenses-curves.png")
        draw_pareto(studies, args.out / "defenses-pareto.png")


def parse() -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--data", type=Path, required=True, help="folder that holds CIFAR-10")
    parser.add_argument("--out", type=Path, default=Path("results"), help="folder for all it makes")
    parser.add_argument("--only", nargs="+", help="the defenses to train (all)")
    parser.add_argument("--eps", type=float, default=8 / 255, help="radius of all attacks (8/255)")
    parser.add_argument("--train-steps", type=int, default=5, help="steps in training (5)")
    parser.add_argument("--epochs", type=int, default=10, help="epochs of training (10)")
    parser.add_argument("--n-train", type=int, default=45_000, help="images to train on (45000)")
    parser.add_argument("--n-validation", type=int, default=5_000, help="held out (5000)")
    parser.add_argument("--n-test", type=int, default=1_000, help="images to test on (1000)")
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
        train_steps=(1, 1000),
        epochs=(1, 1000),
        n_validation=(100, 25_000),
        n_train=(128, 50_000 - args.n_validation),
        n_test=(40, 10_000),
    )
    return args


def settings(args: argparse.Namespace) -> dict[str, object]:
    """Collect what a reader needs to run this again."""
    return {
        "model": "small_cnn",
        "optimizer": "Adam, 1e-3 with a cosine to 0, batch 128, no augmentation",
        **{name: getattr(args, name) for name in ("eps", "train_steps", "epochs", "bfloat16")},
        **{name: getattr(args, name) for name in ("n_train", "n_validation", "n_test", "seed")},
        **quickstart.date_and_versions(),
    }


def train_one(
    name: str,
    model: nn.Module,
    objective: Objective,
    train: tuple[Tensor, Tensor],
    test: cifar10_data.Batches,
    args: argparse.Namespace,
) -> list[dict[str, float]]:
    """Train and watch every fourth test image; they choose nothing."""
    batches = cifar10_data.Batches(*train, shuffle=True, seed=args.seed)
    watched = cifar10_data.Batches(test.images[::4], test.labels[::4], batch_size=250)
    pgd = functools.partial(attacks.pgd, eps=args.eps, steps=10)
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-3)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, args.epochs)
    curve = []
    start = time.perf_counter()
    for epoch in trainers.epochs(
        model,
        batches,
        objective,
        optimizer,
        n=args.epochs,
        autocast=torch.bfloat16 if args.bfloat16 else None,
        channels_last=True,
    ):
        schedule.step()
        point = {"epoch": epoch.epoch, "loss": epoch.loss}
        for attack_name, attack in {"none": None, "PGD-10": pgd}.items():
            record = evaluation.evaluate(model, watched, attack, channels_last=True)
            point |= {f"{attack_name} accuracy": record.accuracy, f"{attack_name} mcs": record.mcs}
        curve.append(point)
        figures = "  ".join(f"{key} {value:.4f}" for key, value in point.items() if key != "epoch")
        passed = time.perf_counter() - start
        print(f"{name}: epoch {epoch.epoch:2}  {figures}  {passed:.0f} s", flush=True)
    return curve


def attack_all(
    model: nn.Module, test: cifar10_data.Batches, held_out: cifar10_data.Batches, eps: float
) -> dict[str, object]:
    """Evaluate under every attack, and once more with rejection of what is not confident."""
    results: dict[str, object] = {}
    logits = {}
    for name, attack in attackers(eps).items():
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


def summary(studies: list[dict[str, Any]]) -> str:
    """Lay out accuracy and MCS as a Markdown table."""
    names = [name for name in studies[0]["results"] if name != "worst case"]
    lines = ["| defense | " + " | ".join(names) + " | robust error | with rejection |"]
    lines.append("|:--|" + "--:|" * (len(names) + 2))
    for study in studies:
        cells = [
            f"{study['results'][name]['accuracy']:.3f}, {study['results'][name]['mcs']:+.3f}"
            for name in names
        ]
        worst = study["results"]["worst case"]
        cells += [f"{worst['robust error']:.3f}", f"{worst['robust error with rejection']:.3f}"]
        lines.append(f"| {study['defense']} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


def draw_curves(studies: list[dict[str, Any]], path: Path) -> None:
    """Draw accuracy and MCS after each epoch, clean and under PGD, a line per defense."""
    figures = ["none accuracy", "PGD-10 accuracy", "none mcs", "PGD-10 mcs"]
    titles = ["clean accuracy", "accuracy under PGD-10", "clean MCS", "MCS under PGD-10"]
    figure, axes = plt.subplots(2, 2, figsize=(7, 5), sharex=True, layout="constrained")
    styles = itertools.cycle(itertools.product(["-", "--"], ["C0", "C1", "C2", "C3", "C4"]))
    for study, (dashes, colour) in zip(studies, styles, strict=False):
        epochs = [point["epoch"] for point in study["curve"]]
        for ax, key in zip(axes.flat, figures, strict=True):
            values = [point[key] for point in study["curve"]]
            label = study["defense"] if ax is axes.flat[0] else None
            ax.plot(epochs, values, color=colour, linestyle=dashes, label=label)
    for ax, title in zip(axes.flat, titles, strict=True):
        ax.set_title(title, fontsize="medium")
    for ax in axes[1]:
        ax.axhline(0, color="0.7", linewidth=0.8, zorder=0)
        ax.set_xlabel("epoch")
    figure.legend(loc="outside right upper", frameon=False, fontsize="small")
    figure.savefig(path, dpi=150)
    plt.close(figure)


def draw_pareto(studies: list[dict[str, Any]], path: Path) -> None:
    """Draw clean accuracy, accuracy under PGD-20 and clean ECE of every defense."""
    points = {}
    for study in studies:
        clean, robust = (study["results"][name] for name in ("none", "PGD-20"))
        points[study["defense"]] = (clean["accuracy"], robust["accuracy"], clean["ece"])
    figure, ax = plt.subplots(figsize=(4.5, 3.6), layout="constrained")
    plots.pareto_front(points, ax=ax)
    figure.savefig(path, dpi=150)
    plt.close(figure)


if __name__ == "__main__":
    main()
