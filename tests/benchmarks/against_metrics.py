"""Calibration errors side by side: advcal and its peers on the same predictions.

Prints, for each figure and size, the value, the processor time relative to `probs.max(dim=1)` and
the peak of memory beyond the data, each peer in a process of its own. Peers that cannot be imported
are left out, and named. Install them without their dependencies, of which these figures need four:

    python -m pip install --no-deps netcal probmetrics torch-uncertainty relplot \
        uncertainty-calibration deprecation pytorch-minimize numba llvmlite
    python tests/benchmarks/against_metrics.py --json docs/benchmarks/metrics.json
"""

import argparse
import importlib.machinery
import json
import math
import statistics
import subprocess
import sys
import tempfile
import time
import warnings
from collections.abc import Callable
from pathlib import Path

import numpy as np
import peers
import torch
from torch import Tensor

Figure = Callable[[Tensor, Tensor], object]
BINS = 15
OWN_BIN = "a bin of its own for confidence 1; float32 sums"
SIZES = {
    "ece": [(10**6, 10), (10**7, 10), (50_000, 1_000)],
    "classwise_ece": [(50_000, 1_000)],
    "smooth_ece": [(10**6, 10)],
    **{each: [(10**6, 10)] for each in ("mce", "rmsce", "nll", "brier", "aurc", "augrc")},
}
NORMS = {"ece": "l1", "mce": "max", "rmsce": "l2"}


def prepare() -> None:
    """Stand in for what the peers import and these figures do not use."""
    names = "catboost einops git huggingface_hub lightning pandas rich seaborn timm torchvision"
    for name in names.split():
        try:
            importlib.import_module(name)
        except ImportError:
            sys.meta_path.append(Finder(name))


class Finder:
    """Makes stubs of a package and everything in it."""

    def __init__(self, name: str) -> None:
        self.name = name

    def find_spec(self, name: str, *_: object) -> importlib.machinery.ModuleSpec | None:
        """Find a module of the package."""
        if name.split(".")[0] != self.name:
            return None
        return importlib.machinery.ModuleSpec(name, self, is_package=True)

    def create_module(self, spec: importlib.machinery.ModuleSpec) -> object:
        """Make it."""
        return peers._Stub(spec.name)

    def exec_module(self, module: object) -> None:
        """Leave it empty."""


def numpy_pair(probs: Tensor, labels: Tensor) -> tuple[np.ndarray, np.ndarray]:
    return probs.numpy(), labels.numpy()


def top(probs: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
    """Return confidences and whether right, for peers of two-class scores."""
    confidence, predicted = probs.max(dim=1)
    return confidence, predicted == labels


def advcal_(figure: str) -> Figure:
    from advcal import metrics

    return getattr(metrics, figure)


def torchmetrics_(figure: str) -> Figure:
    from torchmetrics.functional.classification import (
        binary_calibration_error,
        multiclass_calibration_error,
    )

    if figure in NORMS:
        norm = NORMS[figure]
        return lambda p, y: multiclass_calibration_error(p, y, p.shape[1], n_bins=BINS, norm=norm)
    return lambda p, y: (
        sum(
            binary_calibration_error(p[:, k].contiguous(), (y == k).long(), n_bins=BINS)
            for k in range(p.shape[1])
        )
        / p.shape[1]
    )


def netcal_(figure: str) -> Figure:
    from netcal.metrics import ECE, MCE

    measure = (MCE if figure == "mce" else ECE)(BINS).measure
    if figure in NORMS:
        return lambda p, y: measure(*numpy_pair(p, y))

    def classwise(p: Tensor, y: Tensor) -> float:
        q, z = numpy_pair(p, y)
        each = [measure(np.ascontiguousarray(q[:, k]), (z == k) * 1) for k in range(q.shape[1])]
        return float(np.mean(each))

    return classwise


def probmetrics_(figure: str) -> Figure:
    from probmetrics.metrics import Metrics

    names = {"ece": f"ece-{BINS}", "smooth_ece": "smece", "nll": "logloss", "brier": "brier"}
    name = names[figure]
    metrics = Metrics.from_names([name])

    def compute(p: Tensor, y: Tensor) -> object:
        return metrics.compute_all_from_labels_probs(y, p)[name]

    return compute


def torch_uncertainty_(figure: str) -> Figure:
    from torch_uncertainty.metrics import classification
    from torch_uncertainty.metrics.classification import calibration

    if figure in NORMS:
        options = {"num_bins": BINS, "norm": NORMS[figure]}
        make = lambda k: calibration.CalibrationError("multiclass", num_classes=k, **options)  # noqa: E731
    elif figure in ("aurc", "augrc"):
        make = lambda k: getattr(classification, figure.upper())()  # noqa: E731
    elif figure == "nll":
        make = lambda k: classification.CategoricalNLL()  # noqa: E731
    elif figure == "brier":
        make = lambda k: classification.BrierScore(num_classes=k)  # noqa: E731
    elif figure == "smooth_ece":
        make = lambda k: calibration.SmoothCalibrationError(kernel_type="reflected")  # noqa: E731
    else:
        make = lambda k: calibration.ClasswiseCalibrationError(k, num_bins=BINS)  # noqa: E731

    def compute(p: Tensor, y: Tensor) -> object:
        metric = make(p.shape[1])
        metric.update(p, y)
        return metric.compute()

    return compute


def relplot_(figure: str) -> Figure:
    from relplot import metrics

    def compute(p: Tensor, y: Tensor) -> float:
        confidence, correct = (part.numpy() for part in top(p, y))
        if figure == "ece":
            return metrics.binnedECE(confidence, correct * 1, nbins=BINS)
        return metrics.smECE(confidence, correct * 1)

    return compute


def sklearn_(figure: str) -> Figure:
    from sklearn.calibration import calibration_curve
    from sklearn.metrics import brier_score_loss, log_loss

    if figure == "nll":
        return lambda p, y: log_loss(*numpy_pair(p, y)[::-1])
    if figure == "brier":
        return lambda p, y: brier_score_loss(*numpy_pair(p, y)[::-1], scale_by_half=False)

    def compute(p: Tensor, y: Tensor) -> float:
        confidence, correct = (part.numpy() for part in top(p, y))
        # The curve has no counts.
        heights, means = calibration_curve(correct, confidence, n_bins=BINS)
        edges = np.linspace(0, 1, BINS + 1)
        counts = np.bincount(np.searchsorted(edges[1:-1], confidence), minlength=BINS)
        return float((counts[counts > 0] * abs(heights - means)).sum() / len(confidence))

    return compute


def uncertainty_calibration_(figure: str) -> Figure:
    import calibration

    if figure == "ece":
        return lambda p, y: calibration.get_ece(*numpy_pair(p, y), num_bins=BINS)
    return lambda p, y: calibration.lower_bound_scaling_ce(
        *numpy_pair(p, y),
        p=1,
        debias=False,
        num_bins=BINS,
        binning_scheme=calibration.get_equal_prob_bins,
        mode="marginal",
    )


# How to make a figure, of which there are, the module, and the known difference of convention.
PEERS: dict[str, tuple[Callable[[str], Figure], set[str], str]] = {
    "advcal": (advcal_, set(SIZES), ""),
    "torchmetrics": (torchmetrics_, {*NORMS, "classwise_ece"}, OWN_BIN),
    "netcal": (netcal_, {"ece", "mce", "classwise_ece"}, "left-closed bins"),
    "probmetrics": (
        probmetrics_,
        {"ece", "smooth_ece", "nll", "brier"},
        OWN_BIN + "; smooth: relplot's method",
    ),
    "torch-uncertainty": (
        torch_uncertainty_,
        set(SIZES),
        OWN_BIN + "; width of smooth to .001; areas by trapezoids from 1/n on",
    ),
    "relplot": (relplot_, {"ece", "smooth_ece"}, "extra bin at 1; width of smooth to .001"),
    "scikit-learn": (sklearn_, {"ece", "nll", "brier"}, "right-closed bins, as here"),
    "uncertainty-calibration": (
        uncertainty_calibration_,
        {"ece", "classwise_ece"},
        "right-closed; marginal: root of the mean over classes",
    ),
}


def peak_memory() -> float:
    """Return the most memory that this process has held so far, in MB (Linux).

    `getrusage` would start from the peak of the process that started this one.
    """
    status = Path("/proc/self/status")
    if not status.exists():
        return math.nan
    line = next(line for line in status.read_text().splitlines() if line.startswith("VmHWM"))
    return int(line.split()[1]) / 1024


def measure(peer: str, figure: str, folder: str, rounds: int) -> None:
    """Measure one figure by one peer in this process, and print it as JSON."""
    warnings.simplefilter("ignore")
    if peer in ("probmetrics", "relplot", "torch-uncertainty"):
        prepare()
    torch.set_num_threads(1)
    try:
        compute = PEERS[peer][0](figure)
    except ImportError as error:
        print(json.dumps({"left out": str(error)}))
        return
    probs = torch.from_numpy(np.load(f"{folder}/probs.npy"))
    labels = torch.from_numpy(np.load(f"{folder}/labels.npy"))
    compute(probs[:1000], labels[:1000])  # loads what is loaded late
    before = peak_memory()
    start = time.process_time()
    value = float(compute(probs, labels))
    first = time.process_time() - start
    peak = peak_memory() - before
    ratios = []
    for _ in range(rounds):
        floor = peers.cpu_seconds(lambda: probs.max(dim=1))
        own = peers.cpu_seconds(lambda: compute(probs, labels)) if first < 20 else first
        ratios.append(own / floor)
    print(json.dumps({"value": value, "ratio": statistics.median(ratios), "memory": peak}))


def small_batch(rounds: int) -> dict[str, float]:
    """Measure the microseconds of a table of 128 x 10, in turn with an update of torchmetrics."""
    from torchmetrics.classification import MulticlassCalibrationError

    from advcal import metrics

    torch.set_num_threads(1)
    probs, labels = torch.randn(128, 10).softmax(dim=1), torch.randint(10, (128,))
    theirs = MulticlassCalibrationError(10, n_bins=BINS)

    def update() -> None:
        theirs.reset()
        for _ in range(200):
            theirs.update(probs, labels)

    def ours() -> None:
        for _ in range(200):
            metrics.reliability_bins(probs, labels)

    seconds = peers.time_in_turn({"advcal": ours, "torchmetrics": update}, rounds)
    return {name: 1e6 * each / 200 for name, each in seconds.items()}


def draw(folder: str, n: int, n_classes: int) -> None:
    """Keep confident float32 predictions, three in four of them right."""
    generator = torch.Generator().manual_seed(0)
    probs = torch.empty(n, n_classes)
    labels = torch.empty(n, dtype=torch.int64)
    for rows in torch.arange(n).split(100_000):
        logits = 3 * torch.randn(len(rows), n_classes, generator=generator)
        labels[rows] = torch.multinomial((logits / 1.5).softmax(dim=1), 1, generator=generator)[
            :, 0
        ]
        probs[rows] = logits.softmax(dim=1)
    np.save(f"{folder}/probs.npy", probs.numpy())
    np.save(f"{folder}/labels.npy", labels.numpy())


def main() -> None:
    """Compare, print and keep."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rounds", type=int, default=5, help="timed rounds (5)")
    parser.add_argument("--small", action="store_true", help="a hundredth of each size")
    parser.add_argument("--limit", type=int, default=600, help="seconds for one peer (600)")
    parser.add_argument("--json", type=Path, help="where to keep the figures")
    parser.add_argument("--figures", nargs="+", default=list(SIZES), choices=list(SIZES))
    parser.add_argument("--most", type=int, default=10**7, help="examples of a size, at most")
    parser.add_argument("--batch", action="store_true", help="a batch of 128 x 10 alone, in µs")
    parser.add_argument("--one", nargs=3, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.one:
        measure(*args.one, args.rounds)
        return
    if args.batch:
        print(small_batch(args.rounds))
        return
    record: dict[str, object] = {"threads": 1}
    if args.json and args.json.exists():  # what is not measured now stays
        record |= json.loads(args.json.read_text())
    chosen = {figure: SIZES[figure] for figure in args.figures}
    for n, n_classes in sorted({size for sizes in chosen.values() for size in sizes}):
        if n > args.most:
            continue
        with tempfile.TemporaryDirectory() as folder:
            draw(folder, n // 100 if args.small else n, n_classes)
            for figure in (figure for figure, sizes in chosen.items() if (n, n_classes) in sizes):
                rows = []
                for peer, (_, figures, convention) in PEERS.items():
                    if figure not in figures:
                        continue
                    command = [sys.executable, __file__, "--rounds", str(args.rounds)]
                    command += ["--one", peer, figure, folder]
                    try:
                        done = subprocess.run(
                            command, capture_output=True, text=True, timeout=args.limit
                        )
                        found = json.loads(done.stdout.splitlines()[-1])
                    except subprocess.TimeoutExpired:
                        found = {"left out": f"took more than {args.limit} s"}
                    except (IndexError, ValueError):
                        found = {"left out": (done.stderr.splitlines() or ["no output"])[-1]}
                    if "left out" in found:
                        print(f"left out: {peer} ({found['left out']})", file=sys.stderr)
                        continue
                    rows.append(
                        {
                            "peer": peer,
                            "value": f"{found['value']:.7f}",
                            "time / max": found["ratio"],
                            "memory, MB": round(found["memory"], 1),
                            "convention": "" if figure in ("nll", "brier") else convention,
                        }
                    )
                print(f"\n{figure}, {n} x {n_classes}", flush=True)
                peers.print_table(rows)
                record[f"{figure}, {n} x {n_classes}"] = rows
                names = ["numpy", "scipy", *PEERS]
                peers.write_json(args.json, record | {"versions": peers.versions(names)})


if __name__ == "__main__":
    main()
