"""What each calibrator costs a model, and whether it says so, over numbers of examples and classes.

Logits are drawn, labels from their softmax at a temperature: 1 for a calibrated model, which none
can help. Of each calibrator, the NLL of others less that without calibration, the mean over seeds:
20 of the smallest fits, fewer of larger ones, one of those of more than 200,000 logits. Next to it
what it costs someone who heeds warnings and leaves the model as it is when there is one. If that is
above .05 + 1/n, which is one nat over all examples of the fit, it is a fault. The grid is gone over
from the smallest fits to the largest, of those of one seed with a calibrated model only; settings
that the file of JSON holds already are kept.

    python tests/benchmarks/calibrator_harm.py --json docs/benchmarks/calibrator_harm.json
    python tests/benchmarks/calibrator_harm.py --small
"""

import argparse
import itertools
import json
import math
import warnings
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import peers
import torch
from torch import Tensor

from advcal import calibrators

MOST, NOISE = 0.05, 1.0  # nats of the mean NLL, and of the sum over the examples of the fit
SIZES = (20, 50, 200, 1_000, 5_000, 50_000)
CLASSES = (2, 4, 10, 100, 1_000)
OTHERS = 2_000
ENTRIES = 6_000_000  # logits of one fit, at most
SEEDS, OF_ALL = 20, 200_000  # of one fit at most, and logits of all of them
LARGE = 2_000_000  # logits of one fit, of which those that take minutes are left out
SLOW = {"fit_sms", "fit_matrix", "fit_dirichlet"}  # above 100 classes as well


def draw(n: int, n_classes: int, temperature: float, seed: int) -> tuple[Tensor, Tensor]:
    """Draw logits, and labels from their softmax at a temperature."""
    generator = torch.Generator().manual_seed(seed)
    logits = 3 * torch.randn(n, n_classes, generator=generator)
    probs = (logits / temperature).softmax(dim=1)
    return logits, torch.multinomial(probs, 1, generator=generator)[:, 0]


def nll(log_probs: Tensor, labels: Tensor) -> float:
    """Compute the mean NLL."""
    return -float(log_probs.double().gather(1, labels[:, None]).mean())


def fits(n: int, n_classes: int) -> dict[str, Callable[..., Any]]:
    """Return every fit that takes so many examples and classes in seconds."""
    names = [name for name in calibrators.__all__ if name.startswith("fit_")]
    found = {name: getattr(calibrators, name) for name in names}
    found["fit_temperature"] = partial(calibrators.fit_temperature, prior=0.5)
    left_out = {"fit_platt"} if n_classes > 2 else set()
    left_out |= SLOW if n_classes > 100 or n * n_classes > LARGE else set()
    left_out |= {"fit_best"} if n * n_classes > LARGE else set()
    return {name: fit for name, fit in found.items() if name not in left_out}


def cost(fit: Callable[..., Any], n: int, n_classes: int, temperature: float) -> dict[str, Any]:
    """Return the mean cost to others, what is left of it if warnings are heeded, and a verdict."""
    costs, warned = [], []
    for seed in range(max(1, min(SEEDS, OF_ALL // (n * n_classes)))):
        z, y = draw(n + OTHERS, n_classes, temperature, seed)
        with warnings.catch_warnings(record=True) as said:
            warnings.simplefilter("always")
            found = fit(z[:n], y[:n])
        calibrator = getattr(found, "calibrator", found)
        after = nll(calibrator.log_probs(z[n:].double()), y[n:])
        costs.append(after - nll(z[n:].double().log_softmax(dim=1), y[n:]))
        warned.append(any("fit_" in str(each.message) for each in said))
    mean = sum(costs) / len(costs)
    heeded = sum(each for each, loud in zip(costs, warned, strict=True) if not loud) / len(costs)
    return {
        "cost": told(mean),
        "heeded": told(heeded),
        "warned": sum(warned),
        "seeds": len(costs),
        "fault": heeded > MOST + NOISE / n,
    }


def told(value: float) -> float | str:
    """Round, and put a word for what JSON has no number for."""
    return round(value, 4) if math.isfinite(value) else "inf"


def main() -> None:
    """Go over the grid, print and keep."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--small", action="store_true", help="up to 200 examples of 10 classes")
    parser.add_argument("--json", type=Path, help="where to keep the figures")
    args = parser.parse_args()

    record: dict[str, Any] = {}
    if args.json and args.json.exists():
        record = json.loads(args.json.read_text())
    few = 3 if args.small else None
    grid = itertools.product(SIZES[:few], CLASSES[:few], (1.0, 1.7))
    for n, n_classes, temperature in sorted(grid, key=lambda each: each[0] * each[1]):
        setting = f"{n} x {n_classes}, T = {temperature}"
        left_out = n * n_classes > (ENTRIES if temperature == 1 else OF_ALL)
        if setting in record or left_out:
            continue
        found = {
            name: cost(fit, n, n_classes, temperature) for name, fit in fits(n, n_classes).items()
        }
        record[setting] = found
        costs = (f"{k[4:]} {v['cost']} {v['warned']}/{v['seeds']}" for k, v in found.items())
        print(setting, *costs, sep="  ", flush=True)
        peers.write_json(args.json, record)
    faults = [
        f"{setting}: {name} {each['heeded']}"
        for setting, found in record.items()
        for name, each in found.items()
        if each["fault"]
    ]
    print("too much without a word:", *(faults or ["none"]), sep="\n  ")


if __name__ == "__main__":
    main()
