"""Does smoothing by robustness calibrate better than smoothing all alike? A study over seeds.

Trains a network plainly, with label smoothing, with AdaLS, and with AR-AdaLS whose levels are
pre-computed on the plain network, ranked on the fly, or drawn at random as the control; fits a
temperature to the plain one. Four splits: training, the validation that steers the smoothing,
a third one for the temperature, and the test set, on which accuracy and ECE (15 bins) are taken,
clean and under three of `evaluation.corrupt`. Mean and standard deviation over seeds, as a table
and as JSON; with CIFAR-10 the weights too, for examples/shifts_and_ensembles.py.

    python examples/adaptive_smoothing.py --data digits
    python examples/adaptive_smoothing.py --data PATH --bfloat16 --out results/
"""

import argparse
import json
import statistics
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

import cifar10_data
import models
import quickstart
import torch
from sklearn.datasets import load_digits
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from advcal import calibrators, evaluation, losses, metrics, trainers

METHODS = (
    "vanilla",
    "temperature scaling",
    "label smoothing",
    "AdaLS",
    "AR-AdaLS, pre-computed",
    "AR-AdaLS, on the fly",
    "AR-AdaLS, random levels",
)
SHIFTS = ("gaussian_noise", "motion_blur", "contrast")
SEVERITY = 3
SMOOTHING = 0.1  # of plain label smoothing
RANK_EVERY = 2  # epochs, on the fly


class Batches:
    """Minibatches `(inputs, labels, indices)` in [0, 1], shuffled anew each pass if asked for."""

    def __init__(self, images: Tensor, labels: Tensor, size: int, seed: int | None = None) -> None:
        self.images, self.labels, self.size = images, labels, size
        self.shuffle = seed is not None
        self.generator = torch.Generator().manual_seed(seed or 0)

    def __len__(self) -> int:
        return -(-len(self.labels) // self.size)

    def __iter__(self) -> Iterator[tuple[Tensor, Tensor, Tensor]]:
        n = len(self.labels)
        order = torch.randperm(n, generator=self.generator) if self.shuffle else torch.arange(n)
        for rows in order.split(self.size):
            images = self.images[rows]
            inputs = images.float() / 255 if images.dtype == torch.uint8 else images
            yield inputs, self.labels[rows], rows


class Splits(NamedTuple):
    """Examples to train on, to steer the smoothing by, to fit the temperature to, to report on."""

    train: tuple[Tensor, Tensor]
    validation: tuple[Tensor, Tensor]
    held_out: tuple[Tensor, Tensor]
    test: tuple[Tensor, Tensor]


def main() -> None:
    """Run all methods on all seeds; print the table, write the JSON file."""
    args = parse()
    quickstart.make_folder(args.out)
    data = None if args.data == "digits" else cifar10_data.load_or_exit(args.data)
    runs: list[dict[str, dict[str, float]]] = []
    study: dict[str, object] = {"settings": settings(args), "runs": runs}
    for seed in range(args.seeds):
        splits = digits(seed) if data is None else cifar(data, 0 if args.one_split else seed, args)
        runs.append(run(splits, seed, args))
        study["summary"] = summary = summarised(runs)
        (args.out / f"adaptive_smoothing-{args.name}.json").write_text(
            json.dumps(study, indent=1) + "\n"
        )
    print(table(summary))


def parse() -> argparse.Namespace:
    """Read the command line; a bad value ends the program with one line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--data", required=True, help='"digits", or the folder of CIFAR-10')
    parser.add_argument(
        "--model",
        choices=("published_cnn", "small_cnn", "resnet10", "resnet18"),
        default="small_cnn",
        help="the network for CIFAR-10 (small_cnn)",
    )
    parser.add_argument("--out", type=Path, default=Path("results"), help="folder for the figures")
    parser.add_argument("--seeds", type=int, help="how many seeds (3; digits 5)")
    parser.add_argument("--epochs", type=int, help="epochs of training (10; digits 60)")
    parser.add_argument("--step-size", type=float, help="of AdaLS and AR-AdaLS (0.1)")
    parser.add_argument(
        "--n-train", type=int, default=10_000, help="images of CIFAR-10 to train on (10000)"
    )
    parser.add_argument(
        "--n-validation", type=int, default=2_500, help="for the smoothing, and again (2500)"
    )
    parser.add_argument("--n-test", type=int, default=10_000, help="test images (10000)")
    parser.add_argument("--n-levels", type=int, help="levels of AR-AdaLS (10; digits 8)")
    parser.add_argument(
        "--cosine", action="store_true", help="let the learning rate fall to 0 along a cosine"
    )
    parser.add_argument(
        "--one-split", action="store_true", help="one split for all seeds, to join their networks"
    )
    parser.add_argument(
        "--bfloat16",
        action="store_true",
        help="train in mixed precision, faster where the processor computes in bfloat16",
    )
    args = parser.parse_args()
    small = args.data == "digits"
    args.name = "digits" if small else args.model
    defaults = {"seeds": (5, 3), "epochs": (60, 10), "step_size": (0.1, 0.1), "n_levels": (8, 10)}
    for name, (of_digits, of_cifar) in defaults.items():
        if getattr(args, name) is None:
            setattr(args, name, of_digits if small else of_cifar)
    quickstart.check_ranges(
        parser,
        args,
        seeds=(1, 100),
        epochs=(1, 1000),
        step_size=(1e-6, 1),
        n_levels=(2, 100),
        n_train=(100, 45_000),
        n_validation=(100, 25_000),
        n_test=(100, 10_000),
    )
    if args.n_train + 2 * args.n_validation > 50_000:
        parser.error("--n-train and twice --n-validation are more than the 50000 images")
    return args


def digits(seed: int) -> Splits:
    """Split the digits, made hard by noise: 400, 400, 200 and 797."""
    data = load_digits()
    generator = torch.Generator().manual_seed(seed)
    images = torch.tensor(data.images / 16).float()[:, None]
    images = (images + 0.3 * torch.randn(images.shape, generator=generator)).clamp(0, 1)
    order = torch.randperm(len(images), generator=generator)
    labels = torch.tensor(data.target)
    return Splits(*((images[r], labels[r]) for r in order.split([400, 400, 200, 797])))


def cifar(data: cifar10_data.Cifar10, seed: int, args: argparse.Namespace) -> Splits:
    """Take three disjoint parts of the training images at random, and test images."""
    order = torch.randperm(len(data.train_labels), generator=torch.Generator().manual_seed(seed))
    sizes = [args.n_train, args.n_validation, args.n_validation]
    parts = order[: sum(sizes)].split(sizes)
    chosen = torch.linspace(0, len(data.test_labels) - 1, args.n_test).round().long().unique()
    train, validation, held_out = (
        (data.train_images[rows], data.train_labels[rows]) for rows in parts
    )
    return Splits(train, validation, held_out, (data.test_images[chosen], data.test_labels[chosen]))


def run(splits: Splits, seed: int, args: argparse.Namespace) -> dict[str, dict[str, float]]:
    """Train with each method on one seed and measure it."""
    figures: dict[str, dict[str, float]] = {}
    vanilla: nn.Module | None = None
    for method in METHODS:
        start = time.perf_counter()
        calibrator = None
        if method == "temperature scaling":
            assert vanilla is not None
            model = vanilla
            held_out = trainers.predict(model, Batches(*splits.held_out, size=500))
            calibrator = calibrators.fit_temperature(held_out.logits, held_out.labels)
        else:
            model, notes = train(method, splits, seed, vanilla, args)
            if args.name != "digits":
                torch.save(model.state_dict(), weights(args.out, args.name, method, seed))
        vanilla = model if method == "vanilla" else vanilla
        seconds = time.perf_counter() - start
        figures[method] = measure(model, splits.test, calibrator, seed)
        figures[method] |= {"seconds": seconds} | (notes if calibrator is None else {})
        shown = "  ".join(f"{key} {value:.4f}" for key, value in figures[method].items())
        print(f"seed {seed}  {method}: {shown}", flush=True)
    return figures


def weights(folder: Path, name: str, method: str, seed: int) -> Path:
    """Name the file of weights of a network."""
    slug = method.replace(", ", "-").replace(" ", "-")
    return folder / f"adaptive_smoothing-{name}-{slug}-{seed}.pt"


def train(
    method: str,
    splits: Splits,
    seed: int,
    vanilla: nn.Module | None,
    args: argparse.Namespace,
) -> tuple[nn.Module, dict[str, float]]:
    """Train one network; return it and what its labels came to."""
    model = network(seed, args)
    if "AdaLS" not in method:
        for _ in loop(model, plain(method), splits, seed, args):
            pass
        return model, {}
    smoothing = smoothing_of(splits, 1 if method == "AdaLS" else args.n_levels, args)
    if "pre-computed" in method:
        assert vanilla is not None
        smoothing.rank(vanilla, attack="quick")
    if "random" in method:
        generator = torch.Generator().manual_seed(seed)
        sizes = len(splits.train[1]), len(splits.validation[1])
        smoothing.rank_by(*(torch.rand(n, generator=generator) for n in sizes))
    for epoch in loop(model, smoothing, splits, seed, args):
        if "on the fly" in method and (epoch.epoch - 1) % RANK_EVERY == 0:
            smoothing.rank(model)
        smoothing.update(model)
    probs = smoothing.state.label_probs
    return model, {"lowest label": float(probs.min()), "highest label": float(probs.max())}


def network(seed: int, args: argparse.Namespace) -> nn.Module:
    """Make the network of a seed, before training."""
    torch.manual_seed(seed)
    model: nn.Module = (
        quickstart.network() if args.name == "digits" else getattr(models, args.name)()
    )
    return model


def loop(
    model: nn.Module,
    objective: Callable[..., Tensor],
    splits: Splits,
    seed: int,
    args: argparse.Namespace,
) -> Iterator[trainers.Epoch]:
    """Train epoch by epoch; the order of the images is the seed's."""
    small = args.name == "digits"
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-3)
    batches = Batches(*splits.train, size=50 if small else 128, seed=seed)
    n_steps = args.epochs * len(batches)
    falling = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, n_steps)
    return trainers.epochs(
        model,
        batches,
        objective,
        optimizer,
        n=args.epochs,
        schedule=falling if args.cosine else None,
        autocast=torch.bfloat16 if args.bfloat16 else None,
        channels_last=not small,
    )


def smoothing_of(
    splits: Splits, n_levels: int, args: argparse.Namespace
) -> trainers.AdaptiveSmoothing:
    """Make the adaptive smoothing of so many levels, and see that the other splits are unseen."""
    smoothing = trainers.adaptive_smoothing(
        Batches(*splits.train, size=500),
        Batches(*splits.validation, size=500),
        10,
        n_levels=n_levels,
        step_size=args.step_size,
        autocast=torch.bfloat16 if args.bfloat16 else None,
        channels_last=args.name != "digits",
    )
    smoothing.unseen(Batches(*splits.held_out, size=500))
    smoothing.unseen(Batches(*splits.test, size=500))
    return smoothing


def plain(method: str) -> Callable[..., Tensor]:
    """Return the objective of the methods that look at no validation data."""
    if method == "vanilla":
        return trainers.standard()
    return trainers.standard(
        loss=lambda logits, labels: cross_entropy(
            logits, losses.smooth_labels(labels, logits.shape[1], SMOOTHING)
        )
    )


def measure(
    model: nn.Module,
    test: tuple[Tensor, Tensor],
    calibrator: Callable[[Tensor], Tensor] | None,
    seed: int,
) -> dict[str, float]:
    """Take accuracy, ECE and MCS, clean and under each corruption."""
    figures = {}
    batches = Batches(*test, size=500)
    shifted = evaluation.corruptions(
        batches,
        kinds=SHIFTS,
        severity=[SEVERITY],
        generator=torch.Generator().manual_seed(seed),
    )
    for name, each in zip(["clean", *SHIFTS], [batches, *shifted.values()], strict=True):
        found = trainers.predict(model, each)
        probs = found.probs if calibrator is None else calibrator(found.logits)
        figures[f"{name} accuracy"] = float(metrics.accuracy(probs, found.labels))
        figures[f"{name} ECE"] = float(metrics.ece(probs, found.labels))
        figures[f"{name} MCS"] = float(metrics.mcs(probs, found.labels))
    return figures


def summarised(runs: list[dict[str, dict[str, float]]]) -> dict[str, dict[str, list[float]]]:
    """Return the mean and the standard deviation of every figure over the seeds."""
    summary = {}
    for method, figures in runs[0].items():
        columns = {key: [each[method][key] for each in runs] for key in figures}
        summary[method] = {
            key: [statistics.fmean(c), statistics.stdev(c) if len(c) > 1 else 0.0]
            for key, c in columns.items()
        }
    return summary


def table(summary: dict[str, dict[str, list[float]]]) -> str:
    """Lay the summary out as Markdown."""
    columns = ["clean accuracy", *(f"{name} ECE" for name in ("clean", *SHIFTS)), "lowest label"]
    lines = ["| method | " + " | ".join(columns) + " |", "|:--|" + "--:|" * len(columns)]
    for method, figures in summary.items():
        cells = [
            "{:.3f} ± {:.3f}".format(*figures[key]) if key in figures else "" for key in columns
        ]
        lines.append(f"| {method} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


def settings(args: argparse.Namespace) -> dict[str, object]:
    """Collect what a reader needs to run this again."""
    chosen = {key: value for key, value in vars(args).items() if key not in ("data", "out")}
    return {
        **chosen,
        "optimizer": "Adam, learning rate 1e-3, batches of 128 (digits 50), no augmentation",
        "label smoothing": SMOOTHING,
        "severity of corruptions": SEVERITY,
        "pre-computed": "ranked once on the vanilla network by quick distances",
        "on the fly": f"ranked every {RANK_EVERY} epochs by linear distances",
        **quickstart.date_and_versions(),
    }


if __name__ == "__main__":
    main()
