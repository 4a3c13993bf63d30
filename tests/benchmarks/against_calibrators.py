"""Calibrators side by side: advcal and its peers on the same logits, scored on others.

Logits are drawn in several shapes, taken from a network trained here on digits, and read from files
(`--logits FOLDER` of `.npz` with `cal_logits`, `cal_labels`, `test_logits`, `test_labels`, as
`network_logits.py` writes). Each calibrator is fitted to the first 50, 500 and 5,000 of the
calibration set, as far as it goes. Settings that the file of JSON holds already are kept. It
prints, for two classes and for more, the mean rank by NLL, Brier score and ECE of all that can take
them, the mean NLL above the best of each set, and the processor time of fitting and calling, as a
ratio to advcal's SMS in the same run.

    python -m pip install --no-deps netcal probmetrics tensorboard pyro-ppl pyro-api gpytorch \
        linear-operator jaxtyping wadler-lindig opt-einsum pytorch-minimize numba llvmlite \
        betacal splinecalib
    python tests/benchmarks/against_calibrators.py --json docs/benchmarks/calibrators.json
"""

import argparse
import importlib.util
import json
import logging
import sys
import time
import types
import warnings
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import peers
import torch
from scipy.stats import rankdata
from sklearn.base import BaseEstimator, ClassifierMixin
from sklearn.calibration import CalibratedClassifierCV
from sklearn.datasets import load_digits
from sklearn.frozen import FrozenEstimator
from sklearn.neural_network import MLPClassifier
from torch import Tensor

from advcal import calibrators, metrics

Array = npt.NDArray[Any]
Race = Callable[[Tensor, Tensor, Tensor], Any]  # fit to logits and labels, call on others

_TU = "torch_uncertainty"
SIZES = (50, 500, 5_000)
FIGURES = ("nll", "brier", "ece")
TITLES = {True: "two classes", False: "more classes"}  # whether binary


class Set(NamedTuple):
    """Logits and labels to calibrate with, and others."""

    logits: Tensor
    labels: Tensor
    test_logits: Tensor
    test_labels: Tensor


# --- logits ----------------------------------------------------------------------------------


def drawn(shape: str, n_classes: int, n_test: int = 5_000, n: int = 5_000) -> Set:
    """Draw logits, and labels from a map of them."""
    generator = torch.Generator().manual_seed(0)
    z = 3 * torch.randn(n + n_test, n_classes, generator=generator, dtype=torch.float64)
    steps = torch.linspace(-1, 1, n_classes, dtype=torch.float64)
    if shape == "calibrated":
        scores = z
    elif shape == "overconfident":
        scores = z / 1.7
    elif shape == "each class its own":
        scores = z * (0.7 + 0.3 * steps) + steps
    elif shape == "confused":
        mixing = torch.randn(n_classes, n_classes, generator=generator, dtype=torch.float64)
        scores = z / 1.4 + z @ mixing * (0.4 / n_classes)
    else:  # bent: unlike slopes for low and high logits
        scores = torch.where(z < 0, 0.3, 0.9) * z
    y = torch.multinomial(scores.softmax(dim=1), 1, generator=generator)[:, 0]
    z = z.float()
    return Set(z[:n], y[:n], z[n:], y[n:])


def digits(binary: bool) -> Set:
    """Train a network on few noisy digits, and take its logits of others."""
    data, labels = load_digits(return_X_y=True)
    rng = np.random.default_rng(0)
    noisy = np.concatenate([data + 6 * rng.standard_normal(data.shape) for _ in range(6)])
    y = np.tile(labels % 2 if binary else labels, 6)
    order = rng.permutation(len(y))
    noisy, y = noisy[order] / 16, y[order]
    model = MLPClassifier((128,), max_iter=60, random_state=0).fit(noisy[:700], y[:700])
    probs = model.predict_proba(noisy[700:].astype(np.float64))
    z, y = torch.from_numpy(np.log(probs.clip(1e-38))).float(), torch.from_numpy(y[700:])
    return Set(z[:5000], y[:5000], z[5000:], y[5000:])


def from_file(path: Path) -> Set:
    """Read logits that were made elsewhere."""
    held = np.load(path)
    names = ("cal_logits", "cal_labels", "test_logits", "test_labels")
    z, y, others, theirs = (torch.from_numpy(held[name]) for name in names)
    return Set(z.float(), y.long(), others.float(), theirs.long())


def animals(found: Set) -> Set:
    """Make two classes of CIFAR-10's ten, machines and animals, as CalArena does."""
    machines, beasts = [0, 1, 8, 9], [2, 3, 4, 5, 6, 7]

    def two(z: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
        parts = [z[:, each].logsumexp(dim=1) for each in (machines, beasts)]
        return torch.stack(parts, dim=1), torch.isin(y, torch.tensor(beasts)).long()

    return Set(*two(*found[:2]), *two(*found[2:]))


def sets(folder: Path | None, large: bool) -> dict[str, Set]:
    """Collect all sets of logits."""
    found = {"digits": digits(False), "digits, odd": digits(True)}
    for path in sorted(folder.glob("*.npz")) if folder else []:
        found[path.stem] = from_file(path)
        found[f"{path.stem}, animals"] = animals(found[path.stem])
    for n_classes, other in ((2, "bent"), (10, "confused")):
        for shape in ("calibrated", "each class its own", other):
            found[f"drawn, {shape}, {n_classes}"] = drawn(shape, n_classes)
    if large:
        found["drawn, each class its own, 100"] = drawn("each class its own", 100)
    return found


# --- calibrators -----------------------------------------------------------------------------


def ours(fit: Callable[..., Any], z: Tensor, y: Tensor, others: Tensor) -> Tensor:
    """Fit one of advcal's and call it."""
    found = fit(z, y)
    return getattr(found, "calibrator", found)(others.double())


def probmetrics(name: str, z: Tensor, y: Tensor, others: Tensor) -> Array:
    """Fit one of probmetrics' and call it; those take probabilities."""
    from probmetrics.calibrators import get_calibrator

    fitted = get_calibrator(name)
    fitted.fit(z.softmax(dim=1).numpy(), y.numpy())
    return fitted.predict_proba(others.softmax(dim=1).numpy())


def netcal(fit: Any, z: Tensor, y: Tensor, others: Tensor) -> Array:
    """Fit one of netcal's and call it; of two classes those take the probability of the second."""
    probs, asked = (each.double().softmax(dim=1).numpy() for each in (z, others))
    if probs.shape[1] > 2:
        return np.asarray(fit().fit(probs, y.numpy()).transform(asked))
    p = np.asarray(fit().fit(probs[:, 1], y.numpy()).transform(asked[:, 1])).ravel()
    return np.stack([1 - p, p], axis=1)


class Logits(ClassifierMixin, BaseEstimator):  # type: ignore[misc]
    """A classifier whose decision function are its inputs."""

    def fit(self, inputs: Array, labels: Array) -> "Logits":
        """Note the classes."""
        self.classes_ = np.arange(inputs.shape[1])
        return self

    def decision_function(self, inputs: Array) -> Array:
        """Return the log-odds of the second class, or the logits."""
        return inputs[:, 1] - inputs[:, 0] if inputs.shape[1] == 2 else inputs

    def predict(self, inputs: Array) -> Array:
        """Return the class of the highest logit."""
        return inputs.argmax(axis=1)


def sklearn(method: str, z: Tensor, y: Tensor, others: Tensor) -> Array:
    """Fit one of scikit-learn's and call it."""
    model = FrozenEstimator(Logits().fit(z.numpy(), y.numpy()))
    fitted = CalibratedClassifierCV(model, method=method).fit(z.numpy(), y.numpy())
    return fitted.predict_proba(others.numpy())


def torch_uncertainty(name: str, z: Tensor, y: Tensor, others: Tensor) -> Tensor:
    """Fit one of torch-uncertainty's without a model, and call it."""
    module = importlib.import_module(f"{_TU}.post_processing.calibration.{name.lower()}_scaler")
    options = {} if name == "Temperature" else {"num_classes": z.shape[1]}
    fitted = getattr(module, f"{name}Scaler")(**options)
    pairs = torch.utils.data.TensorDataset(z, y)
    fitted.fit(torch.utils.data.DataLoader(pairs, batch_size=len(z)), progress=False)
    with torch.no_grad():
        return torch.as_tensor(fitted(others)).softmax(dim=1)


def torch_uncertainty_there() -> bool:
    """Make its calibrators importable without the rest, which asks for torchvision."""
    if _TU in sys.modules:
        return True
    found = importlib.util.find_spec(_TU)
    if found is None or found.origin is None:
        return False
    for name in (_TU, f"{_TU}.post_processing", f"{_TU}.post_processing.calibration"):
        package = types.ModuleType(name)
        package.__path__ = [str(Path(found.origin).parent.joinpath(*name.split(".")[1:]))]
        sys.modules[name] = package
    base = importlib.import_module(f"{_TU}.post_processing.abstract")
    sys.modules[f"{_TU}.post_processing"].PostProcessing = base.PostProcessing  # type: ignore[attr-defined]
    logging.disable(logging.WARNING)
    return True


def candidates(n_classes: int) -> dict[str, Race]:
    """Return every calibrator that can be fitted here to so many classes."""
    binary = n_classes == 2
    fits = {
        "temperature": partial(calibrators.fit_temperature, prior=0.5),
        "vector": calibrators.fit_vector,
        "SVS": calibrators.fit_svs,
        "SMS": calibrators.fit_sms,
        "beta": calibrators.fit_beta,
        "quadratic": calibrators.fit_quadratic,
        "spline": calibrators.fit_spline,
        "Venn-Abers": calibrators.fit_venn_abers,
        "ensemble": calibrators.fit_ensemble,
        "IROvA": calibrators.fit_irova,
        "best": calibrators.fit_best,
    } | ({"Platt": calibrators.fit_platt, "isotonic": calibrators.fit_isotonic} if binary else {})
    found: dict[str, Race] = {"none": lambda z, y, others: others.double().softmax(dim=1)}
    found |= {f"advcal {name}": partial(ours, fit) for name, fit in fits.items()}
    if peers.installed("probmetrics.calibrators"):
        names = ["ts-mix", "svs", "sms", "ivap"]
        names += ["affine-scaling", "quadratic-scaling"] if binary else []
        names += ["beta"] if binary and peers.installed("betacal") else []
        found |= {f"probmetrics {name}": partial(probmetrics, name) for name in names}
    if peers.installed("netcal.scaling") and peers.installed("netcal.binning"):
        from netcal import binning, scaling

        theirs = {"temperature": scaling.TemperatureScaling, "isotonic": binning.IsotonicRegression}
        if binary:
            theirs |= {"logistic": scaling.LogisticCalibration, "beta": scaling.BetaCalibration}
        found |= {f"netcal {name}": partial(netcal, fit) for name, fit in theirs.items()}
    for method in ("temperature", "sigmoid", "isotonic"):
        found[f"scikit-learn {method}"] = partial(sklearn, method)
    if torch_uncertainty_there():
        for name in ("Temperature", "Vector"):
            found[f"torch-uncertainty {name}"] = partial(torch_uncertainty, name)
    return found


# --- the race --------------------------------------------------------------------------------


def scored(race: Race, data: Set, n: int) -> dict[str, float]:
    """Fit one to the first examples, and score it on the others."""
    start = time.process_time()
    try:
        probs = torch.as_tensor(
            np.asarray(race(data.logits[:n], data.labels[:n], data.test_logits))
        )
    except Exception as error:  # a peer that fails has no figures, and the last rank
        print(f"  failed: {race} ({error!r:.80})")
        return {}
    seconds = time.process_time() - start
    probs = probs.double().nan_to_num(0.0).clamp(0, 1)
    probs = torch.where(probs.sum(dim=1, keepdim=True) > 0, probs, 1.0)
    probs = probs / probs.sum(dim=1, keepdim=True)
    found = {name: float(getattr(metrics, name)(probs, data.test_labels)) for name in FIGURES}
    return found | {"seconds": seconds}


def summary(rows: dict[str, dict[str, dict[str, float]]]) -> list[dict[str, object]]:
    """Rank all calibrators in each setting, and take means over settings."""
    names = list(next(iter(rows.values())))
    table: dict[str, dict[str, float]] = {name: {} for name in names}
    for figure in FIGURES:
        values = np.array(
            [[row[name].get(figure, np.inf) for name in names] for row in rows.values()]
        )
        ranks = np.array([rankdata(np.round(each, 6)) for each in values]).mean(axis=0)
        for name, rank in zip(names, ranks, strict=True):
            table[name][f"rank by {figure}"] = float(rank)
        if figure == "nll":
            above = (values - values.min(axis=1, keepdims=True)).mean(axis=0)
            for name, each in zip(names, above, strict=True):
                table[name]["NLL above the best"] = float(each)
    seconds = {
        name: sum(row[name].get("seconds", np.nan) for row in rows.values()) for name in names
    }
    found: list[dict[str, object]] = [
        {"calibrator": name}
        | dict(table[name])
        | {"time / SMS": seconds[name] / seconds["advcal SMS"]}
        for name in names
    ]
    return sorted(found, key=lambda row: float(str(row["rank by nll"])))


def _sizes(n: int, n_classes: int) -> list[int]:
    return sorted({min(size, n) for size in SIZES if size >= 5 * n_classes})


def main() -> None:
    """Race, print and keep."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--logits", type=Path, help="a folder of .npz with logits made elsewhere")
    parser.add_argument("--large", action="store_true", help="100 classes too, for minutes")
    parser.add_argument("--only", default="", help="sets whose names contain this")
    parser.add_argument("--json", type=Path, help="where to keep the figures")
    args = parser.parse_args()
    warnings.simplefilter("ignore")

    rows = held(args.json)
    for name, data in sets(args.logits, args.large).items():
        if args.only not in name:
            continue
        races = candidates(data.logits.shape[1])
        for n in _sizes(len(data.logits), data.logits.shape[1]):
            if f"{name}, n = {n}" in rows[data.logits.shape[1] == 2]:
                continue
            found = {each: scored(race, data, n) for each, race in races.items()}
            rows[data.logits.shape[1] == 2][f"{name}, n = {n}"] = found
            print(name, n, flush=True)
        peers.write_json(args.json, report(rows))
    for title, of in report(rows).items():
        if isinstance(of, dict) and "summary" in of:
            print(f"\n{title}, {len(of['settings'])} settings")
            peers.print_table(of["summary"])


def held(path: Path | None) -> dict[bool, dict[str, dict[str, dict[str, float]]]]:
    """Read the figures that are there already."""
    record = json.loads(path.read_text()) if path and path.exists() else {}
    return {
        binary: {
            setting: {
                name: {figure: float(value) for figure, value in figures.items()}
                for name, figures in found.items()
            }
            for setting, found in record.get(title, {}).get("settings", {}).items()
        }
        for binary, title in TITLES.items()
    }


def report(rows: dict[bool, dict[str, dict[str, dict[str, float]]]]) -> dict[str, Any]:
    """Put the figures together."""
    record: dict[str, Any] = {"threads": torch.get_num_threads()}
    for binary, of in rows.items():
        if of:
            record[TITLES[binary]] = {"settings": of, "summary": summary(of)}
    names = ["numpy", "scipy", "scikit-learn", "netcal", "probmetrics", "torch-uncertainty"]
    plain: dict[str, Any] = _plain(record)
    return plain | {"versions": peers.versions(names)}


def _plain(value: Any) -> Any:
    """Round, and put a word for what JSON has no number for."""
    if isinstance(value, dict):
        return {name: _plain(each) for name, each in value.items()}
    if isinstance(value, list):
        return [_plain(each) for each in value]
    if isinstance(value, float):
        return float(f"{value:.6g}") if np.isfinite(value) else str(value)
    return value


if __name__ == "__main__":
    main()
