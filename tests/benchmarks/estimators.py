"""Estimators and intervals of calibration where the truth is known.

Models of two classes whose confidence is uniform on (1/2, 1) and whose accuracy at each confidence
is a formula, so that every figure of the population is an integral. Prints, for each figure, its
bias and how often the interval of level .95 covers the truth, that of binned figures being of the
same bins.

    python tests/benchmarks/estimators.py --json docs/benchmarks/estimators.json
"""

import argparse
import functools
import math
from collections.abc import Callable
from pathlib import Path

import numpy as np
import numpy.typing as npt
import peers
import torch

from advcal import metrics

Floats = npt.NDArray[np.float64]

MODELS: dict[str, Callable[[Floats], Floats]] = {
    "calibrated": lambda c: c,
    "gap .02": lambda c: c - 0.02,
    "gap .1": lambda c: c - 0.1,
    "tempered": lambda c: 0.5 + 0.6 * (c - 0.5),
    "wavy": lambda c: c + 0.05 * np.cos(2 * np.pi * (c - 0.5)),
    "one bin in eight": lambda c: c - 0.2 * (c > 14 / 15),
}
GRID = 1_500_000  # a multiple of 15: no cell lies in two bins


def truths(accuracy: Callable[[Floats], Floats]) -> dict[str, float]:
    """Compute every figure of the population."""
    c = 0.5 + (np.arange(GRID) + 0.5) / (2 * GRID)
    a = accuracy(c)
    index = np.ceil(c * 15).astype(int) - 1
    gaps = np.bincount(index, weights=c - a) / GRID
    mass = np.bincount(index) / GRID
    squares = (gaps**2 / np.where(mass > 0, mass, 1)).sum()
    return {
        "accuracy": float(a.mean()),
        "mcs": float((c - a).mean()),
        "nll": float(-(a * np.log(c) + (1 - a) * np.log(1 - c)).mean()),
        "brier": float(2 * (a * (1 - c) ** 2 + (1 - a) * c**2).mean()),
        "ece": float(abs(gaps).sum()),
        "debiased_rmsce": math.sqrt(squares),
        "kde_ece": float(abs(c - a).mean()),  # without bins
        "ks_error": float(abs((c - a).cumsum()).max() / GRID),
        "ece_sweep": float(abs(c - a).mean()),
        "decompose_brier": float(2 * ((c - a) ** 2).mean()),
        "decompose_nll": float((a * np.log(a / c) + (1 - a) * np.log((1 - a) / (1 - c))).mean()),
    }


def draw(
    rng: np.random.Generator, accuracy: Callable[[Floats], Floats], n: int
) -> tuple[Floats, npt.NDArray[np.int64]]:
    """Draw predictions of a model."""
    c = rng.uniform(0.5, 1, n)
    labels = (rng.random(n) >= accuracy(c)).astype(np.int64)
    return np.stack([c, 1 - c], axis=1), labels


def simulate(
    accuracy: Callable[[Floats], Floats], n: int, rounds: int, resamples: int
) -> dict[str, dict[str, float]]:
    """Estimate the bias of every figure and the coverage of its interval."""
    rng = np.random.default_rng(0)
    truth = truths(accuracy)
    values: dict[str, list[float]] = {name: [] for name in truth}
    covered: dict[str, list[bool]] = {}
    bootstrapped = ["accuracy", "mcs", "nll", "brier", "ece", "debiased_rmsce"]
    for _ in range(rounds):
        data = draw(rng, accuracy, n)
        for name in values:
            found = getattr(metrics, name)(*data)
            values[name].append(float(getattr(found, "calibration", found)))
        source = torch.Generator().manual_seed(int(rng.integers(2**31)))
        intervals = {"ece_interval": metrics.ece_interval(*data, generator=source)}
        for name in bootstrapped if resamples else []:
            intervals[name] = metrics.bootstrap(
                functools.partial(getattr(metrics, name)),
                *data,
                resamples=resamples,
                generator=source,
            )
        for name, found in intervals.items():
            true = truth["ece" if name == "ece_interval" else name]
            hit = bool(found.low - 1e-12 <= true <= found.high + 1e-12)
            covered.setdefault(name, []).append(hit)
    return {
        "truth": {name: truth[name] for name in values},
        "bias": {name: float(np.mean(each)) - truth[name] for name, each in values.items()},
        "coverage": {name: float(np.mean(each)) for name, each in covered.items()},
    }


def main() -> None:
    """Simulate, print and keep."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--n", type=int, nargs="+", default=[300, 1000, 5000], help="sample sizes")
    parser.add_argument(
        "--bootstrap", type=int, nargs="*", default=[1000], help="sizes at which it runs (1000)"
    )
    parser.add_argument("--rounds", type=int, default=500, help="samples per model (500)")
    parser.add_argument("--resamples", type=int, default=200, help="draws of the bootstrap (200)")
    parser.add_argument("--json", type=Path, help="where to keep the figures")
    args = parser.parse_args()

    record: dict[str, object] = {"rounds": args.rounds, "resamples": args.resamples}
    for n in args.n:
        found = {
            name: simulate(accuracy, n, args.rounds, args.resamples if n in args.bootstrap else 0)
            for name, accuracy in MODELS.items()
        }
        for title in ("bias", "coverage"):
            print(f"\n{title}, n = {n}", flush=True)
            names = found["calibrated"][title]
            peers.print_table(
                [
                    {"figure": name} | {model: each[title][name] for model, each in found.items()}
                    for name in names
                ]
            )
        record[f"n = {n}"] = found
    peers.write_json(args.json, record | {"versions": peers.versions(["numpy", "scipy"])})


if __name__ == "__main__":
    main()
