"""How often the interval of Sun et al. (arXiv 2408.08998) covers, on the grid of `coverage.py`.

It is one of the squared L2 error of the same bins: the debiased estimate and its normal interval,
here with the variance that remains for calibrated models too, which their code leaves out.

    python tests/benchmarks/coverage_sun.py --samples 200 --json docs/benchmarks/coverage_sun.json
"""

import argparse
from pathlib import Path

import numpy as np
import peers
from interval_coverage import MODELS, N_BINS, SIZES, bins_of

Z = 1.959964


def sun(confidence: np.ndarray, hits: np.ndarray) -> tuple[float, float, float]:
    """Return the estimate and its standard error, without and with the variance at calibration."""
    index, u, n = bins_of(confidence), hits - confidence, len(hits)
    counts = np.bincount(index, minlength=N_BINS)
    occupied = counts > 1
    sums, squares = (np.bincount(index, each, N_BINS)[occupied] for each in (u, u**2))
    size = counts[occupied]
    mean, square = sums / size, squares / size
    estimate = (size**2 / (size - 1) * (mean**2 - square / size)).sum() / n
    w = size / n
    spread = (w * (4 * mean**2 * square - 3 * mean**4)).sum() - (w * mean**2).sum() ** 2
    own = 2 / n**2 * (size / (size - 1) * (square - mean**2) ** 2).sum()
    plain = max(0.0, spread) / n
    return float(estimate), float(np.sqrt(plain)), float(np.sqrt(plain + own))


def main() -> None:
    """Draw, cover, print and keep."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--samples", type=int, default=200)
    parser.add_argument("--json", type=Path)
    args = parser.parse_args()
    rows: list[dict[str, object]] = []
    for name, (draw, right) in MODELS.items():
        population = draw(np.random.default_rng(0), 1_000_000)
        index = bins_of(population)
        shares = np.bincount(index, minlength=N_BINS) / len(population)
        gaps = np.bincount(index, population - right(population), N_BINS) / len(population)
        truth = float((gaps**2 / np.maximum(shares, 1e-12)).sum())
        for n in SIZES:
            rng, covered = np.random.default_rng(n), np.zeros(2)
            for _ in range(args.samples):
                confidence = draw(rng, n)
                estimate, *errors = sun(confidence, rng.random(n) < right(confidence))
                covered += [abs(estimate - truth) <= Z * error + 1e-12 for error in errors]
            plain, corrected = covered / args.samples
            rows.append({"model": name, "n": n, "as published": plain, "corrected": corrected})
    peers.print_table(rows)
    peers.write_json(args.json, {"samples": args.samples, "rows": rows})


if __name__ == "__main__":
    main()
