"""Randomized smoothing side by side: `certify.certify` and ART's `certify` on the same digits.

A network of 64-128-128-10 units trained on noise, ten portions of images in turn, processor time.
ART takes its draws in batches of 1,000, which is fastest for it. It imports statsmodels for one
exact interval, which is scipy's here if it is not installed:

    python -m pip install --no-deps adversarial-robustness-toolbox six
    OMP_NUM_THREADS=1 python tests/benchmarks/against_certify.py --json docs/benchmarks/certify.json
"""

import argparse
import importlib
import statistics
import sys
import types
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import peers
import torch
from scipy import stats
from sklearn.datasets import load_digits
from torch import Tensor, nn

from advcal import certify, trainers

SIGMA, ALPHA, EPS = 0.5, 1e-3, 0.25


def digits() -> tuple[Tensor, Tensor]:
    """Load the digits in an order of chance."""
    data = load_digits()
    order = torch.randperm(len(data.target), generator=torch.Generator().manual_seed(0))
    inputs = torch.tensor(data.images / 16).float().flatten(1)
    return inputs[order], torch.tensor(data.target)[order]


def network(inputs: Tensor, labels: Tensor) -> nn.Sequential:
    """Train on noise."""
    torch.manual_seed(0)
    hidden = [nn.Linear(64, 128), nn.ReLU(), nn.Linear(128, 128), nn.ReLU()]
    model = nn.Sequential(*hidden, nn.Linear(128, 10))
    batches = list(zip(inputs.split(50), labels.split(50), strict=True))
    objective = trainers.noisy(trainers.standard(), sigma=SIGMA)
    trainers.fit(model, batches, objective, torch.optim.Adam(model.parameters(), 1e-3), n=60)
    return model.eval()


def stub_statsmodels() -> None:
    """Give ART the one function that it takes from there."""

    def interval(count: float, n: int, *, alpha: float, method: str) -> tuple[float, float]:
        assert method == "beta"
        ends = stats.binomtest(int(count), n).proportion_ci(1 - alpha, method="exact")
        return ends.low, ends.high

    try:
        importlib.import_module("statsmodels.stats.proportion")
    except ImportError:
        for name in ("statsmodels", "statsmodels.stats", "statsmodels.stats.proportion"):
            sys.modules[name] = types.ModuleType(name)
        module: Any = sys.modules["statsmodels.stats.proportion"]
        module.proportion_confint = interval


def art(model: nn.Module) -> Callable[[Tensor, int], Any]:
    """Make ART's certificate of a model."""
    from art.estimators.certification.randomized_smoothing import PyTorchRandomizedSmoothing

    wrapped = PyTorchRandomizedSmoothing(
        model=model,
        loss=nn.CrossEntropyLoss(),
        input_shape=(64,),
        nb_classes=10,
        sample_size=100,
        scale=SIGMA,
        alpha=ALPHA,
    )
    return lambda rows, n: wrapped.certify(rows.numpy(), n, batch_size=1000)


def bare(model: nn.Module, rows: Tensor, n: int) -> None:
    """Draw and run, and nothing else."""
    with torch.inference_mode():
        for row in rows:
            for start in range(0, n + 100, 1000):
                size = min(1000, n + 100 - start)
                model(torch.randn(size, len(row)).mul_(SIGMA).add_(row)).argmax(dim=1)


def main() -> None:
    """Compare, print and keep."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--n", type=int, default=1000, help="images (1000)")
    parser.add_argument("--draws", type=int, default=10_000, help="draws for each (10000)")
    parser.add_argument("--json", type=Path, help="where to keep the figures")
    args = parser.parse_args()
    inputs, labels = digits()
    model = network(inputs[1000:], labels[1000:])
    options: dict[str, Any] = {"sigma": SIGMA, "alpha": ALPHA, "n": args.draws}
    votes = partial(certify.certify, model, votes=True, **options)
    ways: dict[str, Callable[[Tensor], Any]] = {
        "draws and passes alone": lambda rows: bare(model, rows, args.draws),
        "advcal, votes": votes,
        "advcal, votes, looks": lambda rows: votes(rows, eps=EPS),
        "advcal, softmax and all bounds": lambda rows: certify.certify(model, rows, **options),
    }
    if peers.installed("art"):
        stub_statsmodels()
        theirs = art(model)
        ways["ART"] = lambda rows: theirs(rows, args.draws)
    found = measure(ways, inputs[: args.n], labels[: args.n])
    peers.print_table(found)
    names = ["adversarial-robustness-toolbox", "numpy", "scipy"]
    settings = {"n": args.n, "draws": args.draws, "sigma": SIGMA, "alpha": ALPHA, "eps": EPS}
    record = {"settings": settings, "rows": found, "versions": peers.versions(names)}
    peers.write_json(args.json, {"threads": torch.get_num_threads(), **record})


def measure(
    ways: dict[str, Callable[[Tensor], Any]], inputs: Tensor, labels: Tensor
) -> list[dict[str, object]]:
    """Run every way on one portion after the other, and put times and results together."""
    seconds: dict[str, list[float]] = {name: [] for name in ways}
    radii: dict[str, list[Tensor]] = {name: [] for name in ways}

    def run(name: str, portion: Tensor, truth: Tensor) -> None:
        found = ways[name](portion)
        if found is None:
            return
        label, radius = (
            (found.labels, found.radius)
            if isinstance(found, certify.Certificates)
            else map(torch.as_tensor, found)
        )
        radii[name].append(torch.where(label == truth, radius.double(), -1.0))

    for portion, truth in zip(inputs.split(100), labels.split(100), strict=True):
        for name in ways:
            seconds[name].append(peers.cpu_seconds(partial(run, name, portion, truth)))
    rows: list[dict[str, object]] = []
    for name, each in seconds.items():
        row: dict[str, object] = {"way": name, "seconds": sum(each)}
        pairs = zip(seconds["ART"], each, strict=True) if "ART" in seconds else []
        row["ART / this"] = statistics.median([a / b for a, b in pairs] or [float("nan")])
        radius = torch.cat(radii[name]) if radii[name] else None
        row[f"right at {EPS}"] = "" if radius is None else float((radius > EPS).double().mean())
        rows.append(row)
    return rows


if __name__ == "__main__":
    main()
