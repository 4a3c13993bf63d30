"""Temperature scaling side by side: advcal and its peers on the same logits and labels.

Prints, for each size and true temperature, the temperature found, how far its NLL lies above the
optimum, and the processor time relative to advcal's. The optimum is found apart from all of them,
by bracketed minimisation in float64. Install the peers without their dependencies, which
temperature scaling does not need:

    python -m pip install --no-deps netcal probmetrics tensorboard pyro-ppl pyro-api gpytorch \
        linear-operator jaxtyping wadler-lindig opt-einsum pytorch-minimize numba llvmlite
    python tests/benchmarks/against_temperature.py --json docs/benchmarks/temperature.json
"""

import argparse
import math
import warnings
from collections.abc import Callable
from functools import partial
from pathlib import Path

import numpy as np
import peers
import torch
from scipy import optimize
from torch import Tensor

from advcal import calibrators

Fit = Callable[[Tensor, Tensor], float]


def draw(n: int, n_classes: int, temperature: float) -> tuple[Tensor, Tensor]:
    """Draw float32 logits, and labels from their softmax at a temperature."""
    generator = torch.Generator().manual_seed(0)
    logits = 3 * torch.randn(n, n_classes, generator=generator)
    probs = (logits / temperature).softmax(dim=1)
    return logits, torch.multinomial(probs, 1, generator=generator)[:, 0]


def nll(logits: Tensor, labels: Tensor, temperature: float) -> float:
    """Compute the mean NLL at a temperature in float64, in parts."""
    total = 0.0
    for rows, own in zip(logits.split(4096), labels.split(4096), strict=True):
        scores = rows.double() / temperature
        total += float(torch.nn.functional.cross_entropy(scores, own, reduction="sum"))
    return total / len(logits)


def guo(logits: Tensor, labels: Tensor) -> float:
    """Fit by the recipe that goes round: 50 steps of L-BFGS at a learning rate of 0.01 from 1.5."""
    temperature = torch.tensor([1.5], requires_grad=True)
    optimizer = torch.optim.LBFGS([temperature], lr=0.01, max_iter=50)

    def closure() -> Tensor:
        optimizer.zero_grad()
        loss = torch.nn.functional.cross_entropy(logits / temperature, labels)
        loss.backward()
        return loss

    optimizer.step(closure)
    return float(temperature)


def sklearn(logits: Tensor, labels: Tensor) -> float:
    """Fit what `CalibratedClassifierCV(method="temperature")` fits."""
    from sklearn.calibration import _TemperatureScaling

    return 1 / float(_TemperatureScaling().fit(logits.numpy(), labels.numpy()).beta_)


def netcal(logits: Tensor, labels: Tensor) -> float:
    """Fit netcal's, which takes probabilities; float64, for on float32 it fits nothing."""
    from netcal.scaling import TemperatureScaling

    probs = logits.double().softmax(dim=1).numpy()
    return 1 / float(np.ravel(TemperatureScaling().fit(probs, labels.numpy()).temperature)[0])


def probmetrics(logits: Tensor, labels: Tensor) -> float:
    """Fit probmetrics' own, on logits; its temperature is read off two probabilities."""
    from probmetrics.calibrators import TemperatureScalingCalibrator
    from probmetrics.distributions import CategoricalLogits

    fitted = TemperatureScalingCalibrator()
    fitted.fit_torch(CategoricalLogits(logits), labels)
    return 1 / float(fitted.invtemp_)


def candidates() -> dict[str, Fit]:
    """Return every fit that can be made here."""
    found: dict[str, Fit] = {
        "advcal": lambda logits, labels: calibrators.fit_temperature(logits, labels).temperature,
        "Guo et al.'s recipe": guo,
    }
    if peers.installed("sklearn.calibration"):
        found["scikit-learn, float32"] = sklearn
        found["scikit-learn, float64"] = lambda logits, labels: sklearn(logits.double(), labels)
    if peers.installed("netcal.scaling"):
        found["netcal, float64"] = netcal
    if peers.installed("probmetrics.calibrators"):
        found["probmetrics"] = probmetrics
    return found


def compare(n: int, n_classes: int, true: float, rounds: int) -> list[dict[str, object]]:
    """Measure every fit on one set of data."""
    logits, labels = draw(n, n_classes, true)
    best = optimize.minimize_scalar(
        lambda u: nll(logits, labels, math.exp(u)),
        bounds=(math.log(true) - 1, math.log(true) + 1),
        method="bounded",
        options={"xatol": 1e-10},
    )
    fits = candidates()
    temperatures: dict[str, float] = {}
    if len(logits) * logits.shape[1] > 10**7:
        del fits["Guo et al.'s recipe"]  # minutes

    def fit(name: str) -> None:
        temperatures[name] = fits[name](logits, labels)

    seconds = peers.time_in_turn({name: partial(fit, name) for name in fits}, rounds)
    return [
        {
            "fit": name,
            "temperature": temperature,
            "NLL above the optimum": f"{nll(logits, labels, temperature) - best.fun:.1e}",
            "time / advcal": seconds[name] / seconds["advcal"],
        }
        for name, temperature in temperatures.items()
    ]


def main() -> None:
    """Compare, print and keep."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--small", action="store_true", help="leave 50,000 x 1,000 out")
    parser.add_argument("--rounds", type=int, default=5, help="timed rounds (5)")
    parser.add_argument("--json", type=Path, help="where to keep the figures")
    args = parser.parse_args()
    warnings.simplefilter("ignore")

    record: dict[str, object] = {"threads": torch.get_num_threads()}
    cases = [(10_000, 10, true) for true in (0.37, 1.48, 2.96)]
    for n, n_classes, true in cases + ([] if args.small else [(50_000, 1_000, 1.48)]):
        rows = compare(n, n_classes, true, args.rounds if n_classes == 10 else 1)
        print(f"\n{n} x {n_classes}, labels drawn at temperature {true}")
        peers.print_table(rows)
        record[f"{n} x {n_classes}, T = {true}"] = rows
    names = ["numpy", "scipy", "scikit-learn", "netcal", "probmetrics"]
    peers.write_json(args.json, record | {"versions": peers.versions(names)})


if __name__ == "__main__":
    main()
