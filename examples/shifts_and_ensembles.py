"""Shifted and strange data, ensembles, the number of levels: what is adaptive smoothing worth?

Goes on from examples/adaptive_smoothing.py: reads its JSON file and the weights beside it, and
trains what is missing, AR-AdaLS with other numbers of levels. Then accuracy and ECE under every
corruption and severity of `evaluation.corrupt`, entropies on images from elsewhere, figures by
level of robustness, and ECE against R. A table, four pictures and a JSON file, which has each
corruption as it is done: the script may be stopped at any moment and started again.

    python examples/shifts_and_ensembles.py --data PATH --out results/ \
        --study results/adaptive_smoothing-fastnet.json --strange images.npz
"""

import argparse
import json
import statistics
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

import adaptive_smoothing
import cifar10_data
import common
import matplotlib.pyplot as plt
import numpy as np
import torch
from adaptive_smoothing import Batches, Splits
from torch import Tensor, nn

from advcal import attacks, evaluation, metrics, plots, trainers

N_LEVELS = (3, 30)  # beside AdaLS, which has one, and what the study has
PRECOMPUTED, LOCKSTEP = adaptive_smoothing.PRECOMPUTED, adaptive_smoothing.LOCKSTEP
JOINED = ("vanilla", "label smoothing", "AdaLS", PRECOMPUTED)

Networks = dict[str, list[nn.Module]]
Probs = dict[str, list[Tensor]]  # of each method: one matrix for each run


def main() -> None:
    """Train what is missing, predict everywhere, keep the figures and the pictures."""
    args = parse()
    common.make_folder(args.out)
    study = of_study(args)
    splits = adaptive_smoothing.split(cifar10_data.load_or_exit(args.data, args.device), study)
    networks = load_or_train(splits, study)
    post_hoc = [fitted(model, splits) for model in networks["vanilla"]]
    chosen = torch.linspace(0, len(splits.test[1]) - 1, args.n_shifted).round().long().unique()
    few = splits.test[0][chosen], splits.test[1][chosen]

    path = args.out / "shifts.json"
    result = {"settings": settings(args, study), "figures": {}} | common.read_json(path)
    found = result["figures"]
    clean = predicted(networks, post_hoc, Batches(*splits.test, batch_size=500))
    for name, runs in clean.items():
        found.setdefault(name, {})["clean"] = figures(runs, splits.test[1])
    for key, batches in shifted(few, args.names).items():
        if key not in found["vanilla"]:
            for name, runs in predicted(networks, post_hoc, batches).items():
                found[name][key] = figures(runs, few[1])
            common.write_json(path, result)
            print(f"{key}: ECE {mean(found[PRECOMPUTED][key]['ece']):.3f}", flush=True)
    levels = levels_of(networks["vanilla"][0], splits.test)
    result["stability"] = stability(clean)
    result["levels"] = by_level(clean, splits.test[1], levels, args.out / "shifts-levels.png")
    if args.strange is not None:
        strange = predicted(networks, post_hoc, strange_batches(args.strange))
        result["auroc"] = detected(clean, strange, args.out / "shifts-entropy.png")
    draw_boxes(found, args.out / "shifts-boxes.png")
    draw_n_levels(found, study, args.out / "shifts-n_levels.png")
    common.write_json(path, result)
    print(table(result))


def shifted(few: tuple[Tensor, Tensor], names: list[str] | None) -> dict[str, Any]:
    """Corrupt the images in every way and severity."""
    return evaluation.corruptions(
        Batches(*few, batch_size=500), kinds=names, generator=torch.Generator().manual_seed(0)
    )


def parse() -> argparse.Namespace:
    """Read the command line; a bad value ends the program with one line."""
    parser = common.parser(__doc__, bfloat16=False)
    parser.add_argument(
        "--study", type=Path, required=True, help="JSON file of adaptive_smoothing.py"
    )
    parser.add_argument(
        "--strange", type=Path, help=".npz file of images (n, 32, 32, 3) uint8 from elsewhere"
    )
    parser.add_argument(
        "--n-shifted", type=int, default=1_000, help="test images to corrupt (1000)"
    )
    parser.add_argument("--names", nargs="+", help="the corruptions (all)")
    args = parser.parse_args()
    common.check_ranges(parser, args, n_shifted=(50, 10_000))
    return args


def of_study(args: argparse.Namespace) -> argparse.Namespace:
    """Read the settings of the study that this one goes on from."""
    try:
        found = json.loads(args.study.read_text())["settings"]
        study = argparse.Namespace(**found, data=args.data, out=args.study.parent)
        if len(study.seeds) < 2 or not {*JOINED[1:], LOCKSTEP} <= set(study.only):
            raise SystemExit(
                f"{args.study}: expected two seeds or more of {', '.join(JOINED[1:])} and "
                f"{LOCKSTEP}"
            )
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise SystemExit(f"--study {args.study}: no study of this kind ({error})") from None
    return study


def settings(args: argparse.Namespace, study: argparse.Namespace) -> dict[str, object]:
    """Collect what a reader needs to run this again."""
    return {
        "networks": {
            key: value
            for key, value in vars(study).items()
            if key not in ("data", "out", "versions")
        },
        "n_shifted": args.n_shifted,
        "n_levels": [1, *N_LEVELS, study.n_levels],
        "n_bins": 15,
        **common.date_and_versions(),
    }


# --- networks --------------------------------------------------------------------------------


def load_or_train(splits: Splits, study: argparse.Namespace) -> Networks:
    """Load the networks of the study; load or train AR-AdaLS with other R."""

    def of(name: str, seed: int, settings: argparse.Namespace) -> nn.Module:
        adaptive_smoothing.train_if_missing(name, seed, splits, settings)
        path = adaptive_smoothing.stem(name, seed, settings)
        return adaptive_smoothing.load(path, seed, splits, settings)

    names = {"vanilla": adaptive_smoothing.PLAIN, **{name: name for name in study.only}}
    joint: Any = of(names.pop(LOCKSTEP), study.seeds[0], study)
    networks: Networks = {
        name: [of(method, seed, study) for seed in study.seeds] for name, method in names.items()
    }
    for n_levels in N_LEVELS:
        other = argparse.Namespace(**{**vars(study), "n_levels": n_levels})
        found = [of(PRECOMPUTED, seed, other) for seed in study.seeds]
        networks[f"AR-AdaLS, R = {n_levels}"] = found
    networks[LOCKSTEP] = list(joint.models)
    return networks


def fitted(model: nn.Module, splits: Splits) -> dict[str, Callable[[Tensor], Tensor]]:
    """Fit a temperature and Mix-n-Match to the held-out images."""
    found = adaptive_smoothing.calibrated(adaptive_smoothing.PLAIN, model, splits.held_out)
    return {name: calibrator for name, calibrator in found.items() if calibrator is not None}


# --- predictions and figures -----------------------------------------------------------------


def predicted(
    networks: Networks,
    post_hoc: Sequence[dict[str, Callable[[Tensor], Tensor]]],
    batches: Iterable[Any],
) -> Probs:
    """Predict with every network, calibrator and ensemble; an ensemble is one run."""
    once = [(inputs, labels) for inputs, labels, *_ in batches]
    logits = {
        name: [trainers.predict(model, once, channels_last=True).logits for model in models]
        for name, models in networks.items()
    }
    probs = {name: [each.double().softmax(dim=1) for each in runs] for name, runs in logits.items()}
    mended = {
        name: [fits[name](z) for fits, z in zip(post_hoc, logits["vanilla"], strict=True)]
        for name in post_hoc[0]
    }
    joined = {f"ensemble of {name}": [together(probs[name])] for name in JOINED}
    alone = {name: runs for name, runs in probs.items() if name != LOCKSTEP}
    lockstep = {LOCKSTEP: [together(probs[LOCKSTEP])]}
    return alone | mended | joined | lockstep


def together(probs: Sequence[Tensor]) -> Tensor:
    """Average probabilities, as `trainers.ensemble` does."""
    return torch.stack(list(probs)).mean(dim=0)


def figures(runs: Sequence[Tensor], labels: Tensor) -> dict[str, list[float]]:
    """Take accuracy, ECE and NLL of each run."""
    taken: dict[str, Callable[..., Any]] = {
        "accuracy": metrics.accuracy,
        "ece": metrics.ece,
        "nll": metrics.nll,
    }
    return {
        name: [round(float(figure(probs, labels)), 5) for probs in runs]
        for name, figure in taken.items()
    }


def stability(probs: Probs) -> dict[str, dict[str, float]]:
    """Take the variance and the churn over the runs of each method that has several."""
    return {
        name: {"variance": float(metrics.variance(runs)), "churn": float(metrics.churn(runs))}
        for name, runs in probs.items()
        if len(runs) > 1
    }


def levels_of(model: nn.Module, test: tuple[Tensor, Tensor]) -> Tensor:
    """Cut test images into ten levels of robustness."""
    found = [
        attacks.adversarial_distance(model, inputs, attack="fast")
        for inputs, *_ in Batches(*test, batch_size=500)
    ]
    return metrics.robustness_levels(torch.cat(found), n_levels=10)


def by_level(
    probs: Probs, labels: Tensor, levels: Tensor, path: Path
) -> dict[str, list[dict[str, float]]]:
    """Take accuracy, confidence, ECE and variance by level, and draw them."""
    shown = ("vanilla", PRECOMPUTED)
    figure, axes = plt.subplots(
        2, len(shown), figsize=(7, 4.5), sharex=True, sharey="row", layout="constrained"
    )
    for column, name in zip(axes.T, shown, strict=True):
        plots.robustness_levels(
            probs[name][0], labels, levels, runs=probs[name], axes=column, title=name
        )
    found = {
        name: [
            {
                "accuracy": mean(float(metrics.accuracy(p[rows], labels[rows])) for p in runs),
                "confidence": mean(float(metrics.confidence(p[rows], labels[rows])) for p in runs),
                "ece": mean(float(metrics.ece(p[rows], labels[rows])) for p in runs),
                "variance": float(metrics.variance([p[rows] for p in runs])),
            }
            for rows in (levels == level for level in range(10))
        ]
        for name, runs in probs.items()
        if len(runs) > 1
    }
    common.save_picture(figure, path, "shifts.json#levels", found)
    return found


def strange_batches(path: Path) -> list[tuple[Tensor, Tensor]]:
    """Read images from elsewhere, compressed as the image folder is, so that this tells nothing."""
    try:
        images = torch.from_numpy(np.load(path, allow_pickle=False)["images"]).permute(0, 3, 1, 2)
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise SystemExit(f"--strange {path}: no images (n, 32, 32, 3) ({error})") from None
    parts = (part.float() / 255 for part in images.split(500))
    return [
        (
            evaluation.corrupt(part, "jpeg_compression", severity=1),
            torch.zeros(len(part), dtype=torch.int64),
        )
        for part in parts
    ]


def detected(inside: Probs, outside: Probs, path: Path) -> dict[str, list[float]]:
    """Tell images from elsewhere by the entropy: the AUROC of each run, histograms of two."""
    shown = ("vanilla", PRECOMPUTED)
    figure, axes = plt.subplots(1, len(shown), figsize=(7, 2.8), sharey=True, layout="constrained")
    panels = dict(zip(shown, axes, strict=True))
    areas: dict[str, list[float]] = {}
    for name, runs in inside.items():
        areas[name] = []
        for run, (within, beyond) in enumerate(zip(runs, outside[name], strict=True)):
            scores = torch.cat([metrics.entropy(within), metrics.entropy(beyond)])
            strange = torch.arange(len(scores)).ge(len(within)).long()
            areas[name].append(float(metrics.auroc(scores, strange)))
            if name in panels and run == 0:
                names = ("CIFAR-10", "elsewhere")
                plots.score_histograms(scores, strange, names=names, ax=panels[name], title=name)
    axes[1].set_ylabel("")
    common.save_picture(figure, path, "shifts.json#auroc", areas)
    return areas


# --- pictures and the table ------------------------------------------------------------------

Found = dict[str, dict[str, dict[str, list[float]]]]


def mean(values: Iterable[float]) -> float:
    """Average."""
    return statistics.fmean(values)


def shifted_ece(found: dict[str, dict[str, list[float]]], run: int) -> float:
    """Average the ECE of one run over all corruptions and severities."""
    return mean(each["ece"][run] for key, each in found.items() if key != "clean")


def draw_boxes(found: Found, path: Path) -> None:
    """Draw ECE over the corruptions per severity: of networks above, of ensembles below."""
    rows = (
        ("vanilla", "temperature scaling", "label smoothing", "AdaLS", PRECOMPUTED),
        (*(f"ensemble of {name}" for name in JOINED), LOCKSTEP),
    )
    figure, axes = plt.subplots(2, figsize=(7, 6.5), sharex=True, sharey=True, layout="constrained")
    for ax, names in zip(axes, rows, strict=True):
        boxes: dict[str, dict[int, list[float]]] = {name: {} for name in names}
        for name, severity in ((n, s) for n in names for s in range(1, 6)):
            chosen = [e for key, e in found[name].items() if key.endswith(f" {severity}")]
            boxes[name][severity] = [mean(each["ece"]) for each in chosen]
        plots.shift_boxes(boxes, ax=ax)
    axes[0].set_xlabel("")
    common.save_picture(figure, path, "shifts.json#figures", found)


def draw_n_levels(found: Found, study: argparse.Namespace, path: Path) -> None:
    """Draw ECE against the number of levels, clean and as the mean over shifts."""
    names = {1: "AdaLS", study.n_levels: PRECOMPUTED}
    names |= {n: f"AR-AdaLS, R = {n}" for n in N_LEVELS}
    order = sorted(names)
    lines = {
        "clean": [found[names[n]]["clean"]["ece"] for n in order],
        "shifted": [
            [shifted_ece(found[names[n]], run) for run in range(len(study.seeds))] for n in order
        ],
    }
    figure, axes = plt.subplots(1, 2, figsize=(7, 2.8), layout="constrained")
    for ax, (name, line) in zip(axes, lines.items(), strict=True):
        plots.curves(
            order, {PRECOMPUTED: line}, figures="ECE", against="n_levels", axes=ax, title=name
        )
    common.save_picture(figure, path, "shifts.json#figures", found)


def table(result: dict[str, Any]) -> str:
    """Lay the figures out as Markdown: mean ± standard deviation over the runs."""
    columns = ("accuracy", "ECE", "shifted accuracy", "shifted ECE", "AUROC", "variance", "churn")
    lines = ["| method | " + " | ".join(columns) + " |", "|:--|" + "--:|" * len(columns)]
    for name, found in result["figures"].items():
        runs = range(len(found["clean"]["ece"]))
        shifts = [each for key, each in found.items() if key != "clean"]
        cells = [
            spread(found["clean"]["accuracy"]),
            spread(found["clean"]["ece"]),
            spread([mean(each["accuracy"][run] for each in shifts) for run in runs]),
            spread([shifted_ece(found, run) for run in runs]),
            spread(result.get("auroc", {}).get(name, [])),
            *(
                f"{result['stability'][name][key]:.4f}" if name in result["stability"] else ""
                for key in ("variance", "churn")
            ),
        ]
        lines.append(f"| {name} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


def spread(values: Sequence[float]) -> str:
    """Write the mean, and the standard deviation if there are several values."""
    if len(values) < 2:
        return "".join(f"{value:.3f}" for value in values)
    return f"{mean(values):.3f} ± {statistics.stdev(values):.3f}"


if __name__ == "__main__":
    main()
