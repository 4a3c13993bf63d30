"""Does smoothing by robustness calibrate better than smoothing all alike? A study over seeds.

Trains a network on CIFAR-10 with label smoothing, mixup, AdaLS, and AR-AdaLS whose levels are
pre-computed on the plain network, ranked on the fly, or drawn at random as the control, with the
published rule as well; and AR-AdaLS of an ensemble, whose members share soft labels that follow
their averaged prediction. The plain networks and those of CCAT are those of examples/defenses.py,
in the same folder; they are trained if they are not there.

Validation images steer the smoothing. On a fifth of the test images a temperature and Mix-n-Match
are fitted to the plain network, and the strength of a method is chosen if several are given. The
figures are of the others: accuracy and ECE (15 bins), clean and under three of
`evaluation.corrupt`. One JSON file and one file of weights per method and seed: what is there is
not made again, and the script may be stopped at any moment and started again.

    python examples/adaptive_smoothing.py --data PATH --bfloat16 --out results/
"""

import argparse
import functools
import itertools
import statistics
from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal, NamedTuple

import cifar10_data
import common
import defenses
import models
import torch
import training
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from advcal import attacks, calibrators, evaluation, losses, metrics, trainers

Batches = cifar10_data.Batches

PLAIN, CCAT, LOCKSTEP = "standard", "CCAT", "AR-AdaLS of ensemble"
PRECOMPUTED = "AR-AdaLS, pre-computed"
TRAINED = (
    "label smoothing",
    "mixup",
    "AdaLS",
    PRECOMPUTED,
    "AR-AdaLS, published rule",
    "AR-AdaLS, on the fly",
    "AR-AdaLS, random levels",
)
POST_HOC: dict[str, Callable[..., Any]] = {
    "temperature scaling": calibrators.fit_temperature,
    "Mix-n-Match": calibrators.fit_ensemble,
}
SHIFTS = ("gaussian_noise", "motion_blur", "contrast")
SEVERITY = 3
RANK_EVERY = 4  # epochs, on the fly


class Splits(NamedTuple):
    """Examples to train on, to steer the smoothing by, to fit a calibrator to, to report on."""

    train: tuple[Tensor, Tensor]
    validation: tuple[Tensor, Tensor]
    held_out: tuple[Tensor, Tensor]
    test: tuple[Tensor, Tensor]


def main() -> None:
    """Train what is not trained yet, measure it, print the table, write the JSON file."""
    args = parse()
    common.make_folder(args.out)
    splits = split(cifar10_data.load_or_exit(args.data, args.device), args)
    choice = choose_strengths(splits, args)
    networks = [
        (seed, name)
        for seed, name in itertools.product(args.seeds, dict.fromkeys((PLAIN, *args.only)))
        if name != LOCKSTEP or seed == args.seeds[0]  # which has all seeds within
    ]
    for seed, name in networks:
        train_if_missing(name, seed, splits, args)
    if args.train_only:
        return
    study: dict[str, Any] = {"settings": settings(args), "choice": choice}
    study |= {"seconds": {}, "runs": {}}
    for seed, name in networks:
        path = stem(name, seed, args)
        record = common.read_json(suffixed(path, "json"))
        study["seconds"].setdefault(name, []).append(record["seconds"])
        model = load(path, seed, splits, args)
        for method, calibrator in calibrated(name, model, splits.held_out).items():
            figures = measure(model, splits.test, calibrator, seed) | record.get("notes", {})
            study["runs"].setdefault(method, []).append(figures)
            print(f"seed {seed}  {method}: {shown(figures)}", flush=True)
    study["summary"] = {method: summarised(runs) for method, runs in study["runs"].items()}
    common.write_json(args.out / f"adaptive_smoothing-{args.model}.json", study)
    print(table(study["summary"]))


def parse() -> argparse.Namespace:
    """Read the command line; a bad value ends the program with one line."""
    parser = common.parser(__doc__)
    methods = (*TRAINED, CCAT, LOCKSTEP)
    parser.add_argument("--model", choices=models.NAMES, default="fastnet", help="(fastnet)")
    parser.add_argument("--only", nargs="*", choices=methods, default=methods, help="methods (all)")
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1, 2, 3], help="(0 1 2 3)")
    parser.add_argument("--train-only", action="store_true", help="train and measure nothing yet")
    parser.add_argument("--epochs-standard", type=int, default=24, help="epochs of training (24)")
    parser.add_argument("--epochs", type=int, default=12, help="of CCAT, from plain weights (12)")
    several: dict[str, Any] = {"type": float, "nargs": "+"}
    parser.add_argument("--step-sizes", **several, default=[0.1], help="of (AR-)AdaLS (0.1)")
    parser.add_argument("--smoothings", **several, default=[0.05], help="of label smoothing (0.05)")
    parser.add_argument("--mixups", **several, default=[0.2], help="alphas of mixup (0.2)")
    parser.add_argument("--n-levels", type=int, default=10, help="levels of AR-AdaLS (10)")
    parser.add_argument("--n-train", type=int, default=45_000, help="images to train on (45000)")
    parser.add_argument("--n-validation", type=int, default=5_000, help="to steer by (5000)")
    parser.add_argument("--n-test", type=int, default=10_000, help="test images (10000)")
    args = parser.parse_args()
    common.check_ranges(
        parser,
        args,
        epochs_standard=(1, 1000),
        epochs=(1, 1000),
        n_levels=(2, 100),
        n_validation=(100, 25_000),
        n_train=(100, 50_000 - args.n_validation),
        n_test=(100, 10_000),
    )
    if not all(0 < value <= 1 for value in (*args.step_sizes, *args.smoothings, *args.mixups)):
        parser.error("--step-sizes, --smoothings and --mixups must be above 0 and at most 1")
    args.strengths = {}
    args.eps, args.train_steps = 8 / 255, 3  # of CCAT, as examples/defenses.py has them
    return args


def settings(args: argparse.Namespace) -> dict[str, object]:
    """Collect what a reader needs to run this again."""
    chosen = {key: value for key, value in vars(args).items() if key not in ("data", "out")}
    return {
        **chosen,
        "optimizer": "SGD, Nesterov momentum .85, batch 256, crops and flips; training.py has more",
        "severity of corruptions": SEVERITY,
        "pre-computed": "ranked once on the plain network by quick distances",
        "on the fly": f"ranked every {RANK_EVERY} epochs by linear distances",
        **common.date_and_versions(),
    }


def split(data: cifar10_data.Cifar10, args: argparse.Namespace) -> Splits:
    """Hold out validation images of the training images, and every fifth of the test images."""
    train, validation = cifar10_data.split(data.train_images, data.train_labels, args.n_validation)
    chosen = torch.linspace(0, len(data.test_labels) - 1, args.n_test).round().long().unique()
    fifth = torch.arange(len(chosen)) % 5 == 0
    held_out, test = (
        (data.test_images[rows], data.test_labels[rows]) for rows in (chosen[fifth], chosen[~fifth])
    )
    return Splits((train[0][: args.n_train], train[1][: args.n_train]), validation, held_out, test)


# --- training --------------------------------------------------------------------------------


def kind(name: str) -> str:
    """Return the method whose strength a method has: all forms of AR-AdaLS have the same one."""
    return PRECOMPUTED if "AR-AdaLS" in name else name


def choose_strengths(splits: Splits, args: argparse.Namespace) -> dict[str, dict[str, float]]:
    """Choose each method's strength by the ECE on held-out images, on the first seed.

    Returns:
        What there was to choose from, with its ECE; nothing where there was no choice.
    """
    candidates = {
        "label smoothing": args.smoothings,
        "mixup": args.mixups,
        "AdaLS": args.step_sizes,
        PRECOMPUTED: args.step_sizes,
    }
    found: dict[str, dict[str, float]] = {}
    for name in dict.fromkeys(kind(each) for each in args.only if kind(each) in candidates):
        scores = {}
        for strength in candidates[name] if len(candidates[name]) > 1 else []:
            args.strengths[name] = strength
            train_if_missing(name, args.seeds[0], splits, args)
            model = load(stem(name, args.seeds[0], args), args.seeds[0], splits, args)
            held_out = Batches(*splits.held_out, batch_size=500)
            scores[strength] = evaluation.evaluate(model, held_out, channels_last=True).ece
        args.strengths[name] = min(scores, key=scores.__getitem__, default=candidates[name][0])
        if scores:
            found[name] = {f"{strength:g}": ece for strength, ece in scores.items()}
            print(f"{name}: {shown(found[name])}", flush=True)
    return found


def stem(name: str, seed: int, args: argparse.Namespace) -> Path:
    """Name the files of a network, without their suffix; its settings are part of the name."""
    if name in (PLAIN, CCAT):
        return Path(args.out / defenses.stem(args.model, name, seed))
    words = [name.replace(", ", "-").replace(" ", "-"), f"{args.strengths[kind(name)]:g}"]
    if "AR-AdaLS" in name and args.n_levels != 10:
        words.append(f"R{args.n_levels}")
    return Path(args.out / f"smoothing-{args.model}-{'-'.join(words)}-{seed}")


def suffixed(path: Path, suffix: str) -> Path:
    """Add a suffix to a name that may have points in it."""
    return path.with_name(f"{path.name}.{suffix}")


def train_if_missing(name: str, seed: int, splits: Splits, args: argparse.Namespace) -> None:
    """Train one network unless its record is there."""
    path = stem(name, seed, args)
    if "curve" in common.read_json(suffixed(path, "json")):
        return
    if name in (PLAIN, CCAT):
        validation = Batches(*splits.validation, batch_size=500)
        record: dict[str, Any] = {"settings": defenses.settings(args, name, seed), "defense": name}
        run = defenses.train_one(name, seed, splits.train, validation, args)
    else:
        record = {"settings": settings(args) | {"method": name, "seed": seed}}
        run, notes = train(name, seed, splits, args)
        record["notes"] = notes
    record |= {"curve": run.curve, "seconds": run.seconds}
    common.write_json(suffixed(path, "json"), record)


def train(
    name: str, seed: int, splits: Splits, args: argparse.Namespace
) -> tuple[training.Run, dict[str, float]]:
    """Train one network; return what it did and what its soft labels came to."""
    torch.manual_seed(seed)
    model = untrained(name, seed, splits, args)
    batches = Batches(
        *splits.train, batch_size=256, shuffle=True, seed=seed, augment=True, indices=True
    )
    fit = functools.partial(
        training.train_fast,
        f"{name}, seed {seed}",
        model,
        batches,
        n=args.epochs_standard,
        peak=defenses.PEAK,
        path=stem(name, seed, args),
        bfloat16=args.bfloat16,
    )
    if "AdaLS" not in name:
        return fit(plain(name, args)), {}
    smoothing = smoothing_of(name, splits, args)
    if (ranks := ranks_before(name, seed, splits, args)) is not None:
        smoothing.rank_by(*ranks)
    passed = {"epochs": 0}

    def steer() -> dict[str, float]:
        if "on the fly" in name and passed["epochs"] % RANK_EVERY == 0:
            smoothing.rank(model)
        passed["epochs"] += 1
        gaps = smoothing.update(model)
        probs = smoothing.state.label_probs
        return {
            "largest gap": float(gaps.abs().max()),
            "lowest label": float(probs.min()),
            "highest label": float(probs.max()),
        }

    run = fit(
        trainers.lockstep(smoothing) if name == LOCKSTEP else smoothing,
        watch=steer,
        state={"smoothing": smoothing, "passed": passed},
    )
    return run, {key: run.curve[-1][key] for key in ("lowest label", "highest label")}


def untrained(name: str, seed: int, splits: Splits, args: argparse.Namespace) -> nn.Module:
    """Make a network before training, or the members of an ensemble."""
    if name != LOCKSTEP:
        return training.network(args.model, splits.train[0])
    return trainers.ensemble([training.network(args.model, splits.train[0]) for _ in args.seeds])


def load(path: Path, seed: int, splits: Splits, args: argparse.Namespace) -> nn.Module:
    """Read a trained network, or the members of an ensemble."""
    if LOCKSTEP.replace(" ", "-") not in path.name:
        return training.load(suffixed(path, "pt"), args.device)
    model = untrained(LOCKSTEP, seed, splits, args)
    model.load_state_dict(torch.load(suffixed(path, "pt"), weights_only=True))
    return model.eval()


def plain(name: str, args: argparse.Namespace) -> Callable[..., Tensor]:
    """Return the objective of the methods that look at no validation data."""
    if name == "mixup":
        return trainers.mixup(alpha=args.strengths[name])
    return trainers.standard(
        loss=lambda logits, labels: cross_entropy(
            logits, losses.smooth_labels(labels, logits.shape[1], args.strengths[name])
        )
    )


def smoothing_of(name: str, splits: Splits, args: argparse.Namespace) -> trainers.AdaptiveSmoothing:
    """Make the adaptive smoothing of a method, and see that the other splits are unseen."""
    smoothing = trainers.adaptive_smoothing(
        Batches(*splits.train, batch_size=500, indices=True),
        Batches(*splits.validation, batch_size=500, indices=True),
        10,
        n_levels=1 if name == "AdaLS" else args.n_levels,
        step_size=args.strengths[kind(name)],
        variant="published" if "published" in name else "shrunk",
        autocast=torch.bfloat16 if args.bfloat16 else None,
        channels_last=True,
    )
    smoothing.unseen(Batches(*splits.held_out, batch_size=500))
    smoothing.unseen(Batches(*splits.test, batch_size=500))
    return smoothing


def ranks_before(
    name: str, seed: int, splits: Splits, args: argparse.Namespace
) -> list[Tensor] | None:
    """Rank images before training, by robustness or at random; not if it is done on the fly."""
    if "random" in name:
        generator = torch.Generator().manual_seed(seed)
        sizes = len(splits.train[1]), len(splits.validation[1])
        return [torch.rand(n, generator=generator) for n in sizes]
    return None if name in ("AdaLS", "AR-AdaLS, on the fly") else distances(seed, splits, args)


def distances(seed: int, splits: Splits, args: argparse.Namespace) -> list[Tensor]:
    """Measure how far images are from the boundary of the plain network; keep it in a file."""
    path = args.out / f"smoothing-{args.model}-distances-{seed}.pt"
    if not path.exists():
        train_if_missing(PLAIN, seed, splits, args)
        model = training.load(suffixed(stem(PLAIN, seed, args), "pt"), args.device)
        parts = splits.train, splits.validation
        found = [measured(model, part, "quick", args.bfloat16) for part in parts]
        torch.save(found, path)
    of_both: list[Tensor] = torch.load(path, weights_only=True)
    return of_both


def measured(
    model: nn.Module,
    part: tuple[Tensor, Tensor],
    attack: Literal["linear", "quick", "fast"],
    bfloat16: bool,
) -> Tensor:
    """Measure how far each image is from the decision boundary."""
    found = []
    for inputs, *_ in Batches(*part, batch_size=500):
        inputs = inputs.contiguous(memory_format=torch.channels_last)
        with torch.autocast("cpu", torch.bfloat16, enabled=bfloat16):
            found.append(attacks.adversarial_distance(model, inputs, attack=attack))
    return torch.cat(found)


# --- figures ---------------------------------------------------------------------------------


def calibrated(
    name: str, model: nn.Module, held_out: tuple[Tensor, Tensor]
) -> dict[str, Callable[[Tensor], Tensor] | None]:
    """Name the methods that come of one network: itself, and if it is plain, with calibrators."""
    if name != PLAIN:
        return {name: None}
    found = trainers.predict(model, Batches(*held_out, batch_size=500), channels_last=True)
    fitted = {method: fit(found.logits, found.labels) for method, fit in POST_HOC.items()}
    return {"vanilla": None, **fitted}


def measure(
    model: nn.Module,
    test: tuple[Tensor, Tensor],
    calibrator: Callable[[Tensor], Tensor] | None,
    seed: int,
) -> dict[str, float]:
    """Take accuracy, ECE and MCS, clean and under each corruption."""
    figures = {}
    batches = Batches(*test, batch_size=500)
    shifted = evaluation.corruptions(
        batches,
        kinds=SHIFTS,
        severity=[SEVERITY],
        generator=torch.Generator().manual_seed(seed),
    )
    for name, each in zip(["clean", *SHIFTS], [batches, *shifted.values()], strict=True):
        found = trainers.predict(model, each, channels_last=True)
        probs = found.probs if calibrator is None else calibrator(found.logits)
        figures[f"{name} accuracy"] = float(metrics.accuracy(probs, found.labels))
        figures[f"{name} ECE"] = float(metrics.ece(probs, found.labels))
        figures[f"{name} MCS"] = float(metrics.mcs(probs, found.labels))
    return figures


def shown(figures: dict[str, float]) -> str:
    """Write figures on one line."""
    return "  ".join(f"{key} {value:.4f}" for key, value in figures.items())


def summarised(runs: list[dict[str, float]]) -> dict[str, list[float]]:
    """Return the mean and the standard deviation of every figure over the seeds."""
    columns = {key: [figures[key] for figures in runs] for key in runs[0]}
    return {
        key: [statistics.fmean(c), statistics.stdev(c) if len(c) > 1 else 0.0]
        for key, c in columns.items()
    }


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


if __name__ == "__main__":
    main()
