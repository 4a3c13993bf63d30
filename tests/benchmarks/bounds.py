"""Other bounds and tests of the calibration error beside those of `metrics`.

The first table has upper ends of level .95 of the L1 error of the population, without bins: the
median, and how often the truth is below. `ece_interval` bounds the error within its bins, and is
there to compare the size with. "bounded variation" is its upper end for n^(1/3) bins of equal mass,
plus the most that a monotone accuracy can vary within them, a mean share of one bin: what follows
for such functions with the edges given, as in Ciosek et al. (arXiv 2512.13872). "isotonic band" is
that of Dimitriadis et al. (Biometrika 2023), of confidences rounded to two digits: the largest
error between exact limits that hold for all runs of confidences at once, for a monotone accuracy.

The second table has the power at 5 % of T-Cal (Lee et al., arXiv 2203.01850: debiased squares at
2, 4, 8, ... bins, thresholds by resampling) beside that of `calibration_test`.

    python tests/benchmarks/bounds.py --samples 100 --json docs/benchmarks/bounds.json
"""

import argparse
from pathlib import Path
from typing import Any

import numpy as np
import peers
import torch
from interval_coverage import MODELS
from scipy.special import betaincinv

from advcal import metrics

NAMES = [
    *("0.97", "U(.5, 1)", "U(.5, 1) - .05", "Beta(2.5, .6)", "Beta(2.5, .6) - .05"),
    *("Beta(2.5, .6), +- .05", "Beta(2.5, .6), one bin - .2"),
]
DRAWS = 300


def binned(confidence: np.ndarray, right: np.ndarray, bins: int, binning: Any) -> Any:
    """Return the table of confidences and whether right."""
    probs = np.stack([confidence, 1 - confidence], axis=1)
    return metrics.reliability_bins(probs, 1 - right, n_bins=bins, binning=binning)


def upper(table: Any) -> float:
    """Return the one-sided upper end of level .95 of the error in the bins of a table."""
    return float(table.interval("ece", level=0.9, resamples=1).high)


def bounded_variation(confidence: np.ndarray, right: np.ndarray) -> float:
    """Bound the error without bins if the accuracy rises with the confidence.

    Within a bin of share p the accuracy less its mean has an L1 norm of at most p / 2 times its
    variation there, and so has the confidence; the variations of either sum to one at most.
    """
    bins = max(1, round(len(right) ** (1 / 3)))
    table = binned(confidence, right, bins, "quantile")
    return min(1.0, upper(table) + float(table.counts.max()) / len(right))


def isotonic_band(confidence: np.ndarray, right: np.ndarray, level: float = 0.95) -> float:
    """Bound the error by exact limits of all runs of confidences at once."""
    x, index = np.unique(confidence.round(2), return_inverse=True)
    d = len(x)
    n, k = (np.r_[0, np.bincount(index, w, d).cumsum()] for w in (np.ones(len(right)), right))
    starts, ends = np.triu_indices(d)
    count, hits = n[ends + 1] - n[starts], k[ends + 1] - k[starts]
    tail = (1 - level) / (d**2 + d)
    high = np.where(hits < count, betaincinv(hits + 1, np.maximum(count - hits, 1e-9), 1 - tail), 1)
    low = np.where(hits > 0, betaincinv(np.maximum(hits, 1e-9), count - hits + 1, tail), 0)
    above, below = np.ones(d), np.zeros(d)
    np.minimum.at(above, starts, high)
    np.maximum.at(below, ends, low)
    above = np.minimum.accumulate(above[::-1])[::-1]
    below = np.maximum.accumulate(below)
    return float((np.diff(n) * np.maximum(above - x, x - below)).sum() / n[-1])


def t_cal(confidence: np.ndarray, right: np.ndarray, rng: np.random.Generator) -> bool:
    """Tell whether T-Cal rejects at 5 %."""
    drawn = rng.random((DRAWS, len(right))) < confidence
    residuals = confidence - np.concatenate([right[None], drawn])
    beyond = False
    sizes = [2**i for i in range(1, 1 + max(1, int(np.log2(len(right)) * 0.8)))]
    for bins in sizes:
        index = np.ceil(confidence * bins).astype(int).clip(1) - 1
        members = np.eye(bins)[index]
        counts = members.sum(axis=0)
        squares = (residuals @ members) ** 2 - residuals**2 @ members
        statistic = (squares / np.maximum(counts, 1)).sum(axis=1) / len(right)
        share = (statistic[1:] >= statistic[0] - 1e-12).sum() + 1
        beyond |= bool(share / (1 + DRAWS) <= 0.05 / len(sizes))
    return beyond


def main() -> None:
    """Simulate, print and keep."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--samples", type=int, default=100)
    parser.add_argument("--sizes", type=int, nargs="+", default=[300, 1000, 10_000])
    parser.add_argument("--json", type=Path, help="where to keep the figures")
    args = parser.parse_args()
    torch.set_num_threads(1)
    record: dict[str, Any] = {"samples": args.samples}
    for name in NAMES:
        draw, accuracy = MODELS[name]
        large = draw(np.random.default_rng(0), 1_000_000)
        truth = float(np.abs(large - accuracy(large)).mean())
        for n in args.sizes:
            rng, source = np.random.default_rng(n), torch.Generator().manual_seed(n)
            ends: list[tuple[float, ...]] = []
            rejected: list[tuple[bool, ...]] = []
            for _ in range(args.samples if n <= 1000 else args.samples // 5):
                confidence = draw(rng, n)
                right = (rng.random(n) < accuracy(confidence)).astype(np.int64)
                table = binned(confidence, right, 15, "uniform")
                ends.append(
                    (
                        upper(table),
                        bounded_variation(confidence, right),
                        isotonic_band(confidence, right),
                    )
                )
                if n <= 1000:
                    tests = (
                        float(table.calibration_test(statistic=s, generator=source).p_value) <= 0.05
                        for s in ("ece", "chi2")
                    )
                    rejected.append((*tests, t_cal(confidence, right, rng)))
            kinds = ("ece_interval", "bounded variation", "isotonic band")
            found: dict[str, Any] = {"truth": round(truth, 4)}
            for kind, values in zip(kinds, np.array(ends).T, strict=True):
                found[kind] = [round(float(np.median(values)), 3), float((values >= truth).mean())]
            if rejected:
                powers = np.mean(rejected, axis=0).round(3).tolist()
                found["power"] = dict(zip(("ece", "chi2", "T-Cal"), powers, strict=True))
            record[f"{name}, n = {n}"] = found
            print(name, n, found, flush=True)
            peers.write_json(args.json, record)


if __name__ == "__main__":
    main()
