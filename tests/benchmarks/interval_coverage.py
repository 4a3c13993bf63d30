r"""How often the intervals of the calibration error and of MCS cover that of the population.

Confidences are of one value, even, or Beta-shaped, alone or with one bad bin; the truth is that of
the population in the same bins. Prints coverage, the median width and the share of no width; cells
that the file of JSON holds already are kept.

    python tests/benchmarks/interval_coverage.py --samples 500 --json docs/benchmarks/coverage.json
    python tests/benchmarks/interval_coverage.py --samples 2000 --mcs \
        --json docs/benchmarks/coverage_mcs.json
"""

import argparse
import json
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch

from advcal import metrics

N_BINS = 15
SIZES = (20, 50, 100, 300, 1000)
Draw = Callable[[np.random.Generator, int], np.ndarray]


def fixed(confidence: float) -> Draw:
    return lambda rng, n: np.full(n, confidence)


def even(low: float) -> Draw:
    return lambda rng, n: rng.uniform(low, 1, n)


def beta(a: float, b: float) -> Draw:
    return lambda rng, n: 0.5 + 0.5 * rng.beta(a, b, n)


def less(gap: float) -> Callable[[np.ndarray], np.ndarray]:
    return lambda confidence: np.clip(confidence - gap, 0, 1)


def to(accuracy: float) -> Callable[[np.ndarray], np.ndarray]:
    return lambda confidence: np.full(len(confidence), accuracy)


def one_bad_bin(gap: float, low: float = 0.8) -> Callable[[np.ndarray], np.ndarray]:
    bad = (low, low + 1 / N_BINS)
    return lambda c: np.where((c > bad[0]) & (c <= bad[1]), c - gap, c)


def wavy(size: float) -> Callable[[np.ndarray], np.ndarray]:
    return lambda c: np.clip(c + size * np.sign(np.sin(c * N_BINS * np.pi)), 0, 1)


# From a name to the confidences and the accuracy at each.
MODELS = {
    **{f"{c:g}": (fixed(c), less(0)) for c in (0.9, 0.95, 0.97, 0.99, 0.995, 0.999)},
    "0.9, 0.95 right": (fixed(0.9), to(0.95)),
    "0.95, 0.999 right": (fixed(0.95), to(0.999)),
    "0.97, 0.99 right": (fixed(0.97), to(0.99)),
    "0.99, 0.95 right": (fixed(0.99), to(0.95)),
    "0.99, 0.995 right": (fixed(0.99), to(0.995)),
    "0.999, 0.99 right": (fixed(0.999), to(0.99)),
    "U(.98, 1)": (even(0.98), less(0)),
    "U(.98, 1) - .02": (even(0.98), less(0.02)),
    "U(.9, 1) + .02": (even(0.9), less(-0.02)),
    "U(.5, 1)": (even(0.5), less(0)),
    "U(.5, 1) - .05": (even(0.5), less(0.05)),
    "U(.5, 1), +- .05": (even(0.5), wavy(0.05)),
    "U(.5, 1), all right": (even(0.5), to(1.0)),
    "U(.5, 1), one bin - .2": (even(0.5), one_bad_bin(0.2)),
    "Beta(2.5, .6)": (beta(2.5, 0.6), less(0)),
    "Beta(2.5, .6) - .02": (beta(2.5, 0.6), less(0.02)),
    "Beta(2.5, .6) - .05": (beta(2.5, 0.6), less(0.05)),
    "Beta(2.5, .6), +- .05": (beta(2.5, 0.6), wavy(0.05)),
    "Beta(2.5, .6), one bin - .2": (beta(2.5, 0.6), one_bad_bin(0.2)),
    "Beta(2.5, .6), top bin - .1": (beta(2.5, 0.6), one_bad_bin(0.1, 14 / 15)),
    "Beta(30, .6)": (beta(30, 0.6), less(0)),
    "Beta(30, .6) - .05": (beta(30, 0.6), less(0.05)),
    "Beta(30, .6), one bin - .3": (beta(30, 0.6), one_bad_bin(0.3)),
}


def bins_of(confidence: np.ndarray) -> np.ndarray:
    return np.ceil(confidence * N_BINS - 1e-12).astype(int).clip(1) - 1


def truth(draw: Draw, right: Callable[[np.ndarray], np.ndarray]) -> tuple[float, float]:
    """Return the calibration error and the MCS of the population in the same bins."""
    confidence = draw(np.random.default_rng(0), 2_000_000)
    gaps = np.bincount(bins_of(confidence), confidence - right(confidence), N_BINS)
    return float(np.abs(gaps).sum()) / len(confidence), float(gaps.sum()) / len(confidence)


def cell(name: str, n: int, samples: int, level: float) -> dict[str, float | str | int]:
    draw, right = MODELS[name]
    ece, mcs = truth(draw, right)
    rng, source = np.random.default_rng(n), torch.Generator().manual_seed(n)
    found: dict[str, list[float]] = {"ece": [], "low": [], "mcs": [], "width": [], "none": []}
    start = time.process_time()
    for _ in range(samples):
        confidence = draw(rng, n)
        labels = (rng.random(n) >= right(confidence)).astype(np.int64)
        probs = np.stack([confidence, 1 - confidence], axis=1)
        table = metrics.reliability_bins(probs, labels, n_bins=N_BINS)
        around = table.interval("ece", level=level, generator=source)
        signed = table.interval("mcs", level=level)
        found["ece"].append(around.low <= ece + 1e-12 and ece <= around.high + 1e-12)
        found["low"].append(around.low > ece + 1e-12)
        found["mcs"].append(signed.low <= mcs + 1e-12 and mcs <= signed.high + 1e-12)
        found["width"].append(around.high - around.low)
        found["none"].append(around.high <= around.low)
    return {
        "model": name,
        "n": n,
        "samples": samples,
        "truth": ece,
        "coverage": float(np.mean(found["ece"])),
        "low above": float(np.mean(found["low"])),
        "width": float(np.median(found["width"])),
        "no width": float(np.mean(found["none"])),
        "coverage of MCS": float(np.mean(found["mcs"])),
        "seconds": (time.process_time() - start) / samples,
    }


# Where MCS was covered least often in 100 to 500 samples of the whole grid.
HARD = {
    "Beta(2.5, .6), +- .05": (100, 300, 1000),
    "Beta(2.5, .6) - .05": (1000,),
    "Beta(2.5, .6), top bin - .1": (1000,),
    "Beta(2.5, .6), one bin - .2": (300, 1000),
    "U(.9, 1) + .02": (1000,),
    "U(.5, 1), one bin - .2": (100,),
    "U(.5, 1), +- .05": (100, 300),
}


def mcs_cell(name: str, n: int, samples: int, level: float) -> dict[str, float | str | int]:
    """Return how often the interval of MCS alone covers, for many samples."""
    draw, right = MODELS[name]
    mcs, rng = truth(draw, right)[1], np.random.default_rng(n)
    below = above = 0
    for _ in range(samples):
        confidence = draw(rng, n)
        labels = (rng.random(n) >= right(confidence)).astype(np.int64)
        probs = np.stack([confidence, 1 - confidence], axis=1)
        found = metrics.reliability_bins(probs, labels, n_bins=N_BINS).interval("mcs", level=level)
        below += int(found.high < mcs - 1e-12)
        above += int(found.low > mcs + 1e-12)
    told: dict[str, float | str | int] = {"model": name, "n": n, "samples": samples}
    shares = {"low above": above / samples, "high below": below / samples}
    return told | {"coverage": 1 - (above + below) / samples} | shares


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--samples", type=int, default=500)
    parser.add_argument("--level", type=float, default=0.95)
    parser.add_argument("--sizes", type=int, nargs="+", default=SIZES)
    parser.add_argument("--models", nargs="+", default=list(MODELS), choices=list(MODELS))
    parser.add_argument("--mcs", action="store_true", help="MCS alone, in its hardest cells")
    parser.add_argument("--json", type=Path)
    args = parser.parse_args()
    torch.set_num_threads(1)
    cells: list[dict[str, float | str | int]] = []
    settings = {"level": args.level, "n_bins": N_BINS}
    if args.json and args.json.exists():
        before = json.loads(args.json.read_text())
        cells = before["cells"] if settings.items() <= before.items() else []
    known = {(each["model"], each["n"]) for each in cells}
    for name in args.models:
        for n in args.sizes:
            if (name, n) in known or (args.mcs and n not in HARD.get(name, ())):
                continue
            found = (mcs_cell if args.mcs else cell)(name, n, args.samples, args.level)
            cells.append(found)
            print(", ".join(
                f"{key} {value:.3f}" if isinstance(value, float) else f"{value}"
                for key, value in found.items()
            ), flush=True)  # fmt: skip
            if args.json:
                least = min(float(each["coverage"]) for each in cells)
                record = {**settings, "least coverage": least, "cells": cells}
                args.json.write_text(json.dumps(record, indent=1) + "\n")
    print(f"least coverage {min(float(each['coverage']) for each in cells):.3f}")


if __name__ == "__main__":
    main()
