"""How often each statistic of `calibration_test` rejects at the level of 5 %: its level and power.

python tests/benchmarks/power.py --samples 200 --json docs/benchmarks/power.json
"""

import argparse
import itertools
from pathlib import Path

import numpy as np
import peers
import torch
from interval_coverage import beta, even, less, one_bad_bin, wavy

from advcal import metrics

STATISTICS = ("ece", "rmsce", "chi2", "mcs", "ks", "kuiper", "spiegelhalter")
SETTINGS = {
    "Beta, n = 300": (beta(2.5, 0.6), 300),
    "Beta, n = 1000": (beta(2.5, 0.6), 1000),
    "U(.5, 1), n = 1000": (even(0.5), 1000),
}
MODELS = {
    "calibrated": less(0),
    "gap .02": less(0.02),
    "+- .05": wavy(0.05),
    "one bin .2": one_bad_bin(0.2),
}


def main() -> None:
    """Draw, test, print and keep."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--samples", type=int, default=200)
    parser.add_argument("--resamples", type=int, default=499)
    parser.add_argument("--json", type=Path)
    args = parser.parse_args()
    torch.set_num_threads(1)
    rows: list[dict[str, object]] = []
    for (name, right), (setting, (draw, n)) in itertools.product(MODELS.items(), SETTINGS.items()):
        rng, source = np.random.default_rng(0), torch.Generator().manual_seed(0)
        rejected = dict.fromkeys(STATISTICS, 0)
        for _ in range(args.samples):
            confidence = draw(rng, n)
            labels = (rng.random(n) >= right(confidence)).astype(np.int64)
            probs = np.stack([confidence, 1 - confidence], axis=1)
            for statistic in STATISTICS:
                options = {"resamples": args.resamples, "generator": source}
                found = metrics.calibration_test(probs, labels, statistic=statistic, **options)
                rejected[statistic] += int(found.p_value <= 0.05)
        shares = {each: count / args.samples for each, count in rejected.items()}
        rows.append({"model": name, "setting": setting, **shares})
        peers.print_table(rows[-1:])
        peers.write_json(args.json, {"samples": args.samples, "rows": rows})


if __name__ == "__main__":
    main()
