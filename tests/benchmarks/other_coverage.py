r"""How often the other intervals cover, where that is hard: few examples, few mistakes.

Ranks have scores from two normals, whose areas are known; scores of predictions those of one
confidence or of Beta-shaped ones; pairs two models that share their mistakes; weighted examples
weights that are drawn, or go with the confidence. Level .95.

    python tests/benchmarks/other_coverage.py --samples 400 \
        --json docs/benchmarks/coverage_others.json
"""

import argparse
import itertools
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import peers
import torch
from interval_coverage import MODELS
from scipy.stats import norm

from advcal import metrics

RANKED = {"auroc": metrics.auroc, "aupr": metrics.aupr, "fpr95": metrics.fpr95}
MEANS = ("accuracy", "confidence", "nll", "brier", "mce")
WEIGHTED = (
    "0.97, 0.99 right",
    "0.99",
    "0.9",
    "U(.5, 1)",
    "U(.5, 1) - .05",
    "Beta(2.5, .6), one bin - .2",
    "Beta(2.5, .6) - .05",
)
Row = dict[str, Any]


def ranks(samples: int) -> Iterator[Row]:
    """Cover areas from .7 to .999 of few positives."""
    for area in (0.7, 0.9, 0.97, 0.99, 0.999):
        shift = float(norm.ppf(area)) * 2**0.5
        for positives, negatives in ((20, 20), (20, 200), (100, 100)):
            share = positives / (positives + negatives)
            cuts = np.linspace(-12, 12 + shift, 400_001)
            hits, alarms = norm.sf(cuts, shift), norm.sf(cuts)
            precision = share * hits / np.maximum(share * hits + (1 - share) * alarms, 1e-300)
            truth = {
                "auroc": area,
                "aupr": float((-np.diff(hits) * (precision[1:] + precision[:-1]) / 2).sum()),
                "fpr95": float(norm.sf(shift + norm.ppf(0.05))),
            }
            rng, source = np.random.default_rng(0), torch.Generator().manual_seed(0)
            covered = dict.fromkeys(RANKED, 0)
            labels = (np.arange(positives + negatives) < positives).astype(np.int64)
            for _ in range(samples):
                scores = rng.normal(size=len(labels)) + shift * labels
                for name, figure in RANKED.items():
                    found: Any = metrics.detection_interval(
                        scores, labels, figure=name, generator=source
                    )
                    assert found.value == figure(scores, labels)
                    covered[name] += int(found.low - 1e-9 <= truth[name] <= found.high + 1e-9)
            yield {"of": f"AUROC {area}, {positives} + {negatives}"} | {
                name: count / samples for name, count in covered.items()
            }


def means(samples: int) -> Iterator[Row]:
    """Cover means of scores, and the largest gap."""
    for name in ("0.97, 0.99 right", "0.99", "0.999, 0.99 right", "0.9", "Beta(2.5, .6) - .05"):
        draw, right = MODELS[name]
        large = draw(np.random.default_rng(0), 1_000_000)
        a, c = right(large), large
        costs = a * np.log(c) + (1 - a) * np.log1p(-c)
        gaps = np.ceil(c * 15 - 1e-12).astype(int).clip(1) - 1
        weight = np.bincount(gaps, minlength=15)
        each = np.abs(np.bincount(gaps, c - a, 15)) / np.maximum(weight, 1)
        for n in (20, 100, 300):
            rng = np.random.default_rng(n)
            covered = dict.fromkeys(MEANS, 0)
            for _ in range(samples):
                confidence = draw(rng, n)
                labels = (rng.random(n) >= right(confidence)).astype(np.int64)
                total = metrics.summary(np.stack([confidence, 1 - confidence], axis=1), labels)
                truth = {
                    "accuracy": a.mean(),
                    "confidence": c.mean(),
                    "nll": -costs.mean(),
                    "brier": 2 * (a * (1 - c) ** 2 + (1 - a) * c**2).mean(),
                    "mce": each[np.asarray(total.bins.counts) > 0].max(),
                }
                for figure in MEANS:
                    found = total.interval(figure)
                    low, high = float(found.low) - 1e-9, float(found.high) + 1e-9
                    covered[figure] += int(low <= truth[figure] <= high)
            yield {"of": f"{name}, n = {n}"} | {k: v / samples for k, v in covered.items()}


def pairs(samples: int) -> Iterator[Row]:
    """Cover differences of two models that share most mistakes."""
    for first, second, shared in ((0.99, 0.99, 0.9), (0.99, 0.97, 0.9), (0.9, 0.85, 0.5)):
        for n in (50, 300):
            rng, source = np.random.default_rng(n), torch.Generator().manual_seed(n)
            covered = dict.fromkeys(("accuracy", "nll", "brier"), 0)
            c, d = 0.95, 0.9
            truth = {
                "accuracy": first - second,
                "nll": -(first * np.log(c) + (1 - first) * np.log(1 - c))
                + (second * np.log(d) + (1 - second) * np.log(1 - d)),
                "brier": 2 * (first * (1 - c) ** 2 + (1 - first) * c**2)
                - 2 * (second * (1 - d) ** 2 + (1 - second) * d**2),
            }
            for _ in range(samples):
                same, u, v = rng.random(n) < shared, rng.random(n), rng.random(n)
                wrongs = u >= first, np.where(same, u, v) >= second
                probs = []
                for wrong, sure in zip(wrongs, (c, d), strict=True):
                    own = np.where(wrong, 1 - sure, sure)
                    probs.append(np.stack([own, 1 - own], axis=1))
                for figure in covered:
                    options: Any = {"figure": figure, "resamples": 50, "generator": source}
                    found = metrics.paired_test(*probs, np.zeros(n, dtype=np.int64), **options)
                    covered[figure] += int(found.low - 1e-9 <= truth[figure] <= found.high + 1e-9)
            yield {"of": f"{first} and {second} right, n = {n}"} | {
                name: count / samples for name, count in covered.items()
            }


def _normal(confidence: Any, rng: np.random.Generator) -> Any:
    return np.exp(rng.normal(size=len(confidence)))


def _surer(confidence: Any, rng: np.random.Generator) -> Any:
    return np.where(confidence > np.median(confidence), 3.0, 0.5)


def weighted(samples: int) -> Iterator[Row]:
    """Cover figures of weighted examples: weights by chance, lognormal, or by the confidence."""
    of_each = {"lognormal weights": _normal, "the surer half counts sixfold": _surer}
    for (told, weigh), name in itertools.product(of_each.items(), WEIGHTED):
        draw, right = MODELS[name]
        rng = np.random.default_rng(0)
        c = draw(rng, 1_000_000)
        a, w = right(c), weigh(c, rng)
        bins = np.ceil(c * 15 - 1e-12).astype(int).clip(1) - 1
        gaps = np.bincount(bins, w * (c - a), 15) / w.sum()
        truth = {
            "ece": np.abs(gaps).sum(),
            "mcs": gaps.sum(),
            "accuracy": (w * a).sum() / w.sum(),
            "brier": (w * 2 * (a * (1 - c) ** 2 + (1 - a) * c**2)).sum() / w.sum(),
        }
        for n in (50, 200, 1000):
            rng, source = np.random.default_rng(n), torch.Generator().manual_seed(n)
            covered = dict.fromkeys(truth, 0)
            for _ in range(samples):
                c = draw(rng, n)
                labels = (rng.random(n) >= right(c)).astype(np.int64)
                probs = np.stack([c, 1 - c], axis=1)
                total = metrics.summary(probs, labels, weights=weigh(c, rng))
                for figure in truth:
                    options: Any = {"resamples": 300} if figure == "ece" else {}
                    found = total.interval(figure, generator=source, **options)
                    low, high = float(found.low) - 1e-9, float(found.high) + 1e-9
                    covered[figure] += int(low <= truth[figure] <= high)
            row = {figure: count / samples for figure, count in covered.items()}
            yield {"of": f"{told}, {name}, n = {n}"} | row


PARTS = {"means": means, "pairs": pairs, "ranks": ranks, "weighted": weighted}


def main() -> None:
    """Simulate, print and keep."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--samples", type=int, default=500)
    parser.add_argument("--parts", nargs="+", default=list(PARTS), choices=list(PARTS))
    parser.add_argument("--json", type=Path, help="where to keep the figures")
    args = parser.parse_args()
    torch.set_num_threads(1)
    record: dict[str, Any] = {}
    if args.json and args.json.exists():  # parts that are not asked for stay
        record = json.loads(args.json.read_text())
    for name in args.parts:
        record[name] = []
        for row in PARTS[name](args.samples):
            record[name].append(row | {"samples": args.samples})
            print(row, flush=True)
            peers.write_json(args.json, record)


if __name__ == "__main__":
    main()
