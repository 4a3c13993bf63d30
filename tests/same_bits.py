"""Record what every setting of the library gives, and compare two records bit by bit.

For a change inside that is to change no result: record a checkout before and after it, each in a
process of its own, then compare.

    python tests/same_bits.py record CHECKOUT BEFORE
    python tests/same_bits.py compare BEFORE AFTER

The settings are the tables of attacks and of objectives in the tests of CHECKOUT, and the values
below of every keyword of every attack, loss, metric, calibrator, objective and evaluation. A
setting is named after its call, so that tables may change their order and their names. A record
keeps tensors, numbers and words, or the exception where a setting is refused. It holds for one
machine and one version of PyTorch: another one rounds differently.
"""

import argparse
import dataclasses
import importlib
import inspect
import io
import itertools
import sys
import tempfile
import time
import warnings
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from fnmatch import fnmatchcase
from functools import cache, partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

# What may differ: patterns of names, as in a shell, and the fault that was mended.
_STARTS = "random starts are fresh in training"
_ALIAS = "a line of its own replaces the alias"
EXPECTED: dict[str, str] = {
    "objectives: inverse_adversarial(*": _ALIAS,
    "objectives: entropy_adversarial(*": _ALIAS,
    "objectives: caat(*": _ALIAS,
    "objectives: awp(gamma=*) on adversarial(pgd)": "awp calls a plain function twice",
    "objectives: awp(gamma=*) on trades": "awp calls a plain function twice",
    "objectives: * on None, global generator": _STARTS,
    "objectives: *pgd(eps=0.1, steps=3)*": _STARTS,
    "objectives: *pgd(eps=0.1, loss=kl, steps=3)*": _STARTS,
    "objectives: *pgd_conf(eps=0.1, steps=3)*": _STARTS,
    "objectives: mixed(*adversarial(pgd)*": _STARTS,
    **{
        f"objectives: row {name}": _STARTS
        for name in (
            *("adversarial", "fast", "n_fgsm", "entropy_adversarial", "anti_adversarial*", "mixed"),
            *("trades-*", "mart*", "ccat-conf", "awp*"),
        )
    },
}

_BOX = "what would leave the box does not count in a step's length"
_IN_L2 = ["ace", "apgd", "autoattack", "fgsm", "generalised_ace", "iaa", "mma", "oca", "pgd"]
_IN_L2 += ["pgd_conf", "rca", "uca"]
EXPECTED |= {
    **{f"attacks: {name}(*norm=l2*": _BOX for name in _IN_L2},
    **{f"attacks: {name}(*norm=l1*": _BOX for name in ("ace", "pgd_conf")},
    "beside attacks: l2(*": _BOX,
    "evaluation: confidence_envelope(*norm=l[12]*": _BOX,
    "evaluation: diagnose(*norm=l2*": _BOX,
    "attacks: iaa(*method=random_search*variant=published*": "refused in other words",
}
EXPECTED |= {
    "attacks: deepfool(*": "goes beyond a boundary by a share of the way, whatever the bounds",
    "attacks: anti_adversary(*": "gone: pgd(targeted=True, random_start=False)",
}
_A_COPY = "a model gets a copy of the batch, whose memory starts elsewhere"
EXPECTED |= dict.fromkeys(("loop: fit*", "loop: predict*", "loop: ensemble"), _A_COPY)
EXPECTED |= {
    "metrics: ece_interval(*": "exact bounds, which cover and have a width",
    "metrics: calibration_test(*": "draws of bins, those of the interval",
    "metrics: consistency_bands(*": "draws of bins",
    "metrics: nll(from_logits=True)*": "no digits are lost to large logits, to the last bits",
    "calibrators: fit_class_temperature(*": "an Affine has a field more, a temperature of 1",
    "calibrators: fit_dirichlet(*": "a prior that scales with n, unless penalties are given",
    "calibrators: fit_matrix(*": "a prior that scales with n, unless penalties are given",
    "calibrators: fit_platt(*": "an Affine has a field more, a temperature of 1",
    "calibrators: fit_vector(*": "a prior that scales with n, unless penalties are given",
    "calibrators: fit_irm(*": "rounding to half precision changes no prediction",
    "calibrators: fit_irova(*": "rounding to half precision changes no prediction",
    "calibrators: fit_histogram(*": "rounding to half precision changes no prediction",
    "calibrators: fit_sms(*": "solved in coordinates of about equal curvature, to the last bits",
    "calibrators: fit_svs(*": "a temperature by Newton's method, to the last bits",
    "calibrators: fit_isotonic(*": "a TopLabel has a field more, the class that is always mapped",
    "metrics: decompose_nll(from_logits=True)*": "pools what it pools of probabilities",
}

_WRITTEN = "the gradient of the entropy is written out, to the last bit"
EXPECTED |= {f"attacks: {name}(*norm=l2*float64*": _WRITTEN for name in ("mma", "rca", "uca")}

# --- one call, whatever its keywords are called ----------------------------------------------

# Keywords of this script, and what they are called where the function does not know them.
RENAMED = {
    "square": {"steps": "queries", "initial_p": "p_init"},
    "iaa": {"variant": "schedule"},
    "diagnose": {"steps": "queries"},
    "adaptive_smoothing": {"method": "variant"},
    "corruptions": {"names": "kinds"},
}
COUNTING_THE_LABEL = 10  # the default of the candidates of `deepfool` where the label is one


def spelled(function: Callable, options: Mapping[str, Any], *, back: bool = False) -> dict:
    """Translate options of this script to the function at hand, or back."""
    name, known = function.__name__, inspect.signature(function).parameters
    here = {new: old for new, old in RENAMED.get(name, {}).items() if new not in known}
    if back:
        here = {old: new for new, old in here.items()}
    options = {here.get(key, key): value for key, value in options.items()}
    counting = name == "deepfool" and known["candidates"].default == COUNTING_THE_LABEL
    if counting and "candidates" in options:
        options["candidates"] += -1 if back else 1
    return options


def keywords(function: Callable) -> set[str]:
    """Return the keyword-only arguments of a function, as this script spells them."""
    known = inspect.signature(function).parameters.values()
    names = {each.name for each in known if each.kind is each.KEYWORD_ONLY}
    renamed = {old: new for new, old in RENAMED.get(function.__name__, {}).items()}
    return {renamed.get(name, name) for name in names}


def title(function: Callable, options: Mapping[str, Any]) -> str:
    """Name a call, in the spelling of this script."""
    given = ", ".join(f"{key}={word(value)}" for key, value in sorted(options.items()))
    return f"{function.__name__}({given})"


def word(value: object) -> str:
    """Write a value as in a call, the same in every process."""
    if isinstance(value, partial):
        return title(value.func, spelled(value.func, value.keywords, back=True))
    if isinstance(value, Tensor):
        return "tensor" + word(tuple(round(float(each), 4) for each in value.flatten()))
    if isinstance(value, tuple | list):
        return f"({', '.join(map(word, value))})"
    return getattr(value, "__name__", str(value)).removeprefix("torch.")


def public(module: str) -> dict[str, Callable]:
    """Return the public functions of a submodule."""
    found = importlib.import_module(f"advcal.{module}")
    each = {name: getattr(found, name) for name in found.__all__}
    return {name: value for name, value in each.items() if inspect.isfunction(value)}


def table(checkout: Path, module: str, name: str) -> Any:
    """Return a table from the tests of the checkout."""
    found = importlib.import_module(f"tests.{module}")
    if not Path(found.__file__).is_relative_to(checkout):
        raise ImportError(f"expected tests/{module} in {checkout}, got {found.__file__}")
    return getattr(found, name)


def each_alone(values: Mapping[str, tuple], names: Iterable[str]) -> Iterator[dict]:
    """Yield no option, then each value of each option alone."""
    yield {}
    for name in sorted(set(names) & values.keys()):
        yield from ({name: value} for value in values[name])


def every_choice(values: Mapping[str, tuple], names: Iterable[str]) -> Iterator[dict]:
    """Yield every combination of the values of the options."""
    names = sorted(set(names) & values.keys())
    for choice in itertools.product(*(values[name] for name in names)):
        yield dict(zip(names, choice, strict=True))


# --- models and data -------------------------------------------------------------------------


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def of_seed(make: Callable[[], nn.Module], seed: int = 0, gain: float = 1.0) -> nn.Module:
    """Make a model from a seed, its weights multiplied by a gain."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = make()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.mul_(gain)
    return model


def linear() -> nn.Module:
    return of_seed(lambda: nn.Linear(7, 3), gain=3.0)


def mlp() -> nn.Module:
    def make() -> nn.Module:
        return nn.Sequential(nn.Flatten(), nn.Linear(16, 8), nn.Tanh(), nn.Linear(8, 3))

    return of_seed(make, gain=3.0)


def wide() -> nn.Module:
    def make() -> nn.Module:
        return nn.Sequential(nn.Flatten(), nn.Linear(50, 16), nn.ReLU(), nn.Linear(16, 5))

    return of_seed(make, seed=1, gain=2.0)


def cnn() -> nn.Module:
    """A network in train mode with statistics, which an attack takes in eval mode."""

    def make() -> nn.Module:
        first = [nn.Conv2d(3, 4, 3, padding=1), nn.BatchNorm2d(4), nn.ReLU(), nn.Dropout(0.3)]
        second = [nn.Conv2d(4, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.AvgPool2d(2), nn.Flatten()]
        model = nn.Sequential(*first, *second, nn.Linear(16, 3))
        for norm in (model[1], model[5]):
            norm.running_mean.uniform_(-0.2, 0.2)
            norm.running_var.uniform_(0.05, 0.2)
        return model

    return of_seed(make, seed=2, gain=1.5)


SHAPES = {linear: (7,), mlp: (1, 4, 4), wide: (2, 5, 5), cnn: (3, 6, 6)}


def inputs_of(make: Callable, n: int = 6, seed: int = 0, dtype: torch.dtype = torch.float32):
    """Draw inputs for a model, some exactly at the ends of the box."""
    values = torch.rand(n, *SHAPES[make], generator=seeded(seed), dtype=torch.float64)
    return (values * 1.3 - 0.15).clamp(0, 1).to(dtype)


def batch_of(make: Callable, n: int = 6, seed: int = 0) -> tuple[Tensor, Tensor]:
    """Draw inputs, and labels that two in three predictions agree with."""
    inputs, model = inputs_of(make, n, seed), make().eval()
    with torch.no_grad():
        logits = model(inputs)
    labels = logits.argmax(dim=1)
    labels[::3] = (labels[::3] + 1) % logits.shape[1]
    return inputs, labels


# --- attacks ---------------------------------------------------------------------------------


def each_cross_entropy(logits: Tensor, labels: Tensor) -> Tensor:
    return cross_entropy(logits, labels, reduction="none")


UNIFORM = torch.full((3,), 1 / 3, dtype=torch.float64)
NORMS = ("linf", "l2", "l1")
# A small budget of each attack, from which one keyword after the other is changed.
NEEDED = {"eps": 0.1, "eta": -1.0, "omega": UNIFORM}
BUDGETS = {
    **{name: {"steps": 4} for name in ("pgd", "pgd_conf", "anti_adversary", "generalised_ace")},
    **{name: {"steps": 4} for name in ("iaa", "uca", "oca", "mma", "rca")},
    **{name: {"steps": 8} for name in ("ddn", "fmn", "foot", "deepfool", "minimum_norm")},
    "apgd": {"steps": 10},
    "square": {"steps": 25},
    "autoattack": {"steps": 4, "queries": 12},
    "cw_l2": {"search_steps": 2, "steps": 8, "step_size": 0.1, "initial_c": 0.5},
}
ATTACK_VALUES: dict[str, tuple] = {
    "bounds": ((0.0, 1.0), (-1.0, 2.0)),
    "candidates": (1, 2, 9),
    "eps": (0.0, 0.03, 0.4),
    "eta": (-1.0, 1.0, 2.5),
    "gamma": (0.02, 0.3),
    "initial_c": (0.01, 2.0),
    "initial_eps": (0.1, 2.0),
    "initial_p": (0.1, 1.0),
    "kappa": (0.0, 1.0),
    "label": ("true", "predicted"),
    "lam": (0.0, 1.0, 20.0),
    "levels": (None, 256),
    "loss": ("cross_entropy", "dlr", "margin", "kl", each_cross_entropy),
    "method": ("gradient", "random_search"),
    "momentum": (0.0, 0.5, 1.0),
    "n_targets": (0, 2, 9),
    "noise": (0.0, 0.5, 4.0),
    "norm": NORMS,
    "omega": (UNIFORM, torch.tensor([0.7, 0.2, 0.1])),
    "overshoot": (0.0, 0.5),
    "queries": (0, 30),
    "random_start": (False, True),
    "restarts": (1, 3),
    "schedule_steps": (None, 100),
    "rho": (0.0, 0.5, 1.0),
    "search_steps": (1, 4),
    "step_size": (0.02, 0.3),
    "steps": (1, 7, 25),
    "stop_early": (False, True),
    "targeted": (False, True),
    "tol": (0.0, 0.05),
    "variant": ("accept", "published"),
}
SWITCHES = {
    name: ATTACK_VALUES[name]
    for name in ("label", "loss", "method", "random_start", "stop_early", "targeted", "variant")
} | {"norm": NORMS, "restarts": (1, 2), "n_targets": (0, 2)}

PLACES = [(make, dtype) for make in SHAPES for dtype in (torch.float32, torch.float64)]
FEW_PLACES = [(mlp, torch.float32), (cnn, torch.float32), (wide, torch.float64)]
ONE_PLACE = [(wide, torch.float32)]


def place(make: Callable, dtype: torch.dtype) -> tuple[nn.Module, Tensor, Tensor]:
    inputs, labels = batch_of(make)
    return make().to(dtype), inputs.to(dtype), labels


def crafted(attack: Callable, make: Callable, dtype: torch.dtype, seed: int | None) -> dict:
    """Run an attack; the next number tells how far it went on in its generator."""
    generator = None if seed is None else seeded(seed)
    model, inputs, labels = place(make, dtype)
    random = {"generator": generator} if takes_generator(attack) else {}
    found = {"points": attack(model, inputs, labels, **random)}
    return found | ({"next": torch.rand(1, generator=generator)} if random else {})


def takes_generator(attack: Callable) -> bool:
    function = attack.func if isinstance(attack, partial) else attack
    return "generator" in inspect.signature(function).parameters


def attack_settings(checkout: Path) -> Iterator[tuple[str, Callable]]:
    for name, attack, places, seeds in [*in_the_table(checkout), *changed(), *combined()]:
        for (make, dtype), seed in itertools.product(places, seeds):
            source = {None: ", global generator"}.get(seed, "")
            where = f"{make.__name__} {word(dtype)}{source}"
            yield f"attacks: {name}, {where}", partial(crafted, attack, make, dtype, seed)


def in_the_table(checkout: Path) -> Iterator[tuple]:
    """Yield the rows of the tests; what is not one call of one attack by the name of its row."""
    for name, row in table(checkout, "attacks.cases", "ROWS").items():
        attack = row.make()
        name = word(attack) if isinstance(attack, partial) else f"row {name}"
        yield name, attack, [*PLACES, (mlp, torch.bfloat16)], (0,)


def changed() -> Iterator[tuple]:
    """Yield the attacks with every keyword changed alone, in each norm, and with all switches."""
    for name, attack in public("attacks").items():
        if list(inspect.signature(attack).parameters)[:3] != ["model", "inputs", "labels"]:
            continue
        known = keywords(attack)
        if unvaried := known - ATTACK_VALUES.keys() - {"generator", "progress", "start"}:
            raise LookupError(f"expected values of every keyword of {name}, got none: {unvaried}")
        base = {key: value for key, value in NEEDED.items() if key in known}
        base |= BUDGETS.get(name, {})

        def made(options: dict, attack: Callable = attack, base: dict = base) -> tuple:
            options = base | options
            return title(attack, options), partial(attack, **spelled(attack, options))

        everywhere, some, one = PLACES, FEW_PLACES, ONE_PLACE
        if "omega" in known:  # a distribution over three classes
            everywhere, some = PLACES[:4], FEW_PLACES[:2]
            one = FEW_PLACES[:1]
        yield *made({}), everywhere, (0, None)
        for norm in [{"norm": norm} for norm in NORMS if "norm" in known] or [{}]:
            for options in each_alone(ATTACK_VALUES, known - {"norm"}):
                yield *made(norm | options), some, (0,)
        for options in every_choice(SWITCHES, known - {"omega"}):
            yield *made(options), one, (0,)


def combined() -> Iterator[tuple]:
    """Yield what is made of attacks."""
    attacks = importlib.import_module("advcal.attacks")
    pgd = partial(attacks.pgd, eps=0.1, steps=3, random_start=False)
    random = partial(attacks.pgd, eps=0.1, steps=3)
    uca = partial(attacks.uca, eps=0.1, steps=3)
    for size in (1, 4, 100):
        yield f"batched(pgd, size={size})", attacks.batched(pgd, size), FEW_PLACES, (0,)
    for dtype in (torch.bfloat16, torch.float16):
        name = f"autocast(pgd, dtype={word(dtype)})"
        yield name, attacks.autocast(pgd, dtype=dtype), PLACES, (0,)
    for combine in (attacks.worst_case, attacks.cascade):
        yield f"{combine.__name__}(uca, pgd)", combine(uca, pgd), PLACES, (0,)
        yield f"{combine.__name__}(random pgd, uca)", combine(random, uca), FEW_PLACES, (0,)
        yield f"{combine.__name__}(pgd)", combine(pgd), FEW_PLACES, (0,)


def measured(function: Callable, make: Callable, dtype: torch.dtype, **options: Any) -> Tensor:
    model, inputs, _ = place(make, dtype)
    return function(model, inputs, **options)


def averaged(n: int, attack: Callable | None) -> Tensor:
    """Look through noise by the mean of some passes, with an attack or without."""
    inputs, labels = batch_of(mlp)
    network = mlp()

    def noisy(inputs: Tensor) -> Tensor:
        return network(inputs + 0.1 * torch.randn(inputs.shape))

    model = importlib.import_module("advcal.attacks").expectation(noisy, n=n)
    return model(inputs) if attack is None else attack(model, inputs, labels)


def in_ball(make: Callable, dtype: torch.dtype, eps: float, bounds: tuple) -> dict:
    inputs = inputs_of(mlp, dtype=dtype)
    ball = make(inputs, eps=eps, bounds=bounds)
    offset = torch.randn(inputs.shape, generator=seeded(3), dtype=torch.float64).to(dtype)
    offset[0] = 0
    return {
        "project": [ball.project(inputs + scale * offset) for scale in (0.0, 0.05, 5.0)],
        "random_point": ball.random_point(seeded(4)),
        "steepest": ball.steepest(offset),
        "ascend": [ball.ascend(inputs, offset, 0.2), ball.ascend(inputs, offset, torch.ones(6))],
    }


def beside_attacks(checkout: Path) -> Iterator[tuple[str, Callable]]:
    attacks = importlib.import_module("advcal.attacks")
    distance = attacks.adversarial_distance
    for make, dtype in PLACES:
        where = f"{make.__name__} {word(dtype)}"
        for attack in ("linear", "quick", "fast", "precise", partial(attacks.ddn, steps=8)):
            for bounds in ATTACK_VALUES["bounds"]:
                options = {"attack": attack, "bounds": bounds}
                name = f"beside attacks: {title(distance, options)}, {where}"
                yield name, partial(measured, distance, make, dtype, **options)
    for n in (1, 4):
        for attack in (None, partial(attacks.fgsm, eps=0.1)):
            name = f"beside attacks: expectation(n={n}), attack {word(attack)}"
            yield name, partial(averaged, n, attack)
    dtypes = (torch.float16, torch.bfloat16, torch.float32, torch.float64)
    for norm, dtype in itertools.product(NORMS, dtypes):
        for eps, bounds in itertools.product((0.0, 0.1, 3.0), ATTACK_VALUES["bounds"]):
            name = f"beside attacks: {norm}(eps={eps}, bounds={word(bounds)}), {word(dtype)}"
            yield name, partial(in_ball, getattr(attacks, norm), dtype, eps, bounds)


# --- losses ----------------------------------------------------------------------------------

LOSS_VALUES = {
    "alpha": (0.0, 0.05, 0.3),
    "beta": (0.0, 0.3, 2.0),
    "gamma": (0.0, 1.0, 5.0),
    "lam": (0.0, 1.0, 20.0),
    "margin": (0.0, 2.0, 6.0),
}
REDUCTIONS = ("mean", "sum", "none")


def loss_value(loss: Callable, dtype: torch.dtype, scale: float, options: dict) -> dict:
    generator = seeded()
    logits = torch.randn(12, 5, generator=generator, dtype=torch.float64) * scale
    labels = torch.randint(5, (12,), generator=generator)
    logits = logits.to(dtype)
    if "attacked" in inspect.signature(loss).parameters:
        options = options | {"attacked": (0.7 * logits.roll(1, dims=1)).requires_grad_()}
    logits.requires_grad_()
    value = loss(logits, labels, **options)
    leaves = [logits, *(each for each in options.values() if isinstance(each, Tensor))]
    leaves = [leaf for leaf in leaves if leaf.requires_grad]
    weights = torch.arange(1, value.numel() + 1).reshape(value.shape).to(dtype)
    return {"value": value, "gradients": torch.autograd.grad((value * weights).sum(), leaves)}


def loss_settings(checkout: Path) -> Iterator[tuple[str, Callable]]:
    for loss in public("losses").values():
        if list(inspect.signature(loss).parameters)[:2] != ["logits", "labels"]:
            continue
        known = keywords(loss)
        if unvaried := known - LOSS_VALUES.keys() - {"attacked", "reduction", "targets"}:
            raise LookupError(f"expected values of every keyword of {loss}, got none: {unvaried}")
        choices = [
            *({"reduction": each} | more for each in REDUCTIONS for more in [{}]),
            *({"reduction": "none"} | more for more in each_alone(LOSS_VALUES, known)),
        ]
        if "targets" in known:
            choices.append({"reduction": "none", "targets": torch.arange(12) % 5})
        dtypes = (torch.float16, torch.bfloat16, torch.float32, torch.float64)
        for dtype, scale in itertools.product(dtypes, (0.5, 3.0, 200.0)):
            for options in choices:
                where = f"{word(dtype)}, scale {scale}"
                call = partial(loss_value, loss, dtype, scale, options)
                yield f"losses: {title(loss, options)}, {where}", call
    yield from label_settings()


def label_settings() -> Iterator[tuple[str, Callable]]:
    """Yield the labels that are smoothed, once and epoch by epoch."""
    losses, labels = importlib.import_module("advcal.losses"), torch.arange(6) % 4
    for smoothing in (0.0, 0.1, 1.0, torch.linspace(0, 1, 6), torch.linspace(0, 1, 6).double()):
        kind = word(smoothing.dtype) if isinstance(smoothing, Tensor) else "number"
        name = f"losses: smooth_labels(smoothing={word(smoothing)}), {kind}"
        yield name, partial(losses.smooth_labels, labels, 4, smoothing)

    def updated(n_levels: int, step_size: float, sized: bool) -> list:
        state = losses.adaptive_smoothing(4, n_levels=n_levels, step_size=step_size)
        generator, states = seeded(), []
        levels = torch.arange(6) % n_levels
        for _ in range(4):
            shares = torch.rand(2, n_levels, generator=generator)
            n = torch.arange(10, 10 + n_levels) if sized else None
            state = state.update(*shares, n=n)
            states.append([state, state.targets(labels, levels)])
        return states

    for n_levels, step_size, sized in itertools.product((1, 3), (0.02, 0.5), (False, True)):
        options = {"n_levels": n_levels, "step_size": step_size, "sized": sized}
        name = f"losses: {title(losses.adaptive_smoothing, options)}"
        yield name, partial(updated, **options)


# --- metrics ---------------------------------------------------------------------------------

METRIC_VALUES = {
    "bandwidth": (0.01, 0.1),
    "coverage": (0.3, 1.0),
    "figure": ("auroc", "aupr", "fpr95"),
    "level": (0.5, 0.99),
    "n_levels": (1, 4),
    "positive": (0, 1),
    "reduction": REDUCTIONS,
    "resamples": (20, 50),
    "statistic": ("ece", "rmsce", "chi2", "mcs", "ks", "kuiper", "spiegelhalter"),
    "threshold": (0.0, 0.6),
    "tpr": (0.5, 1.0),
}
BINNINGS = {"binning": ("uniform", "quantile"), "n_bins": (1, 7, 15, 100)}


@cache
def predictions() -> dict[str, tuple[Tensor, Tensor]]:
    """Draw logits and labels: common ones, ties, certainties, two classes, half precision, one."""
    generator = seeded()

    def draw(n: int, n_classes: int, scale: float) -> tuple[Tensor, Tensor]:
        logits = torch.randn(n, n_classes, generator=generator, dtype=torch.float64) * scale
        sharp = (1.5 * logits).softmax(dim=1)
        return logits, torch.multinomial(sharp, 1, generator=generator)[:, 0]

    common, binary, few, one = (draw(*size) for size in ((500, 10, 2.0), (200, 2, 1.0)) * 2)
    return {
        "common": common,
        "float32": (common[0].float(), common[1]),
        "float16": (common[0].half(), common[1].to(torch.uint8)),
        "binary": binary,
        "ties": (few[0].round(), few[1]),
        "certain": (few[0] * 100, few[1]),
        "one": (one[0][:1], one[1][:1]),
    }


def both_kinds(metric: Callable, *arguments: Any, **options: Any) -> dict:
    """Call a metric on tensors and on arrays, each of which draws from the same generator."""
    found = {}
    for kind in ("tensors", "arrays"):
        given = [as_kind(each, kind) for each in arguments]
        more = {name: as_kind(value, kind) for name, value in options.items()}
        if "generator" in options:
            more["generator"] = seeded() if options["generator"] else None
        found[kind] = metric(*given, **more)
    return found


def as_kind(value: Any, kind: str) -> Any:
    if isinstance(value, list):
        return [as_kind(each, kind) for each in value]
    return value.numpy() if isinstance(value, Tensor) and kind == "arrays" else value


def metric_settings(checkout: Path) -> Iterator[tuple[str, Callable]]:
    of_predictions = {}
    for name, metric in public("metrics").items():
        known = keywords(metric)
        if next(iter(inspect.signature(metric).parameters)) == "probs":
            of_predictions[name] = metric
        others = {"from_logits", "generator", "attacked", "ignore_index", "n", "weights"}
        if unvaried := known - METRIC_VALUES.keys() - BINNINGS.keys() - others:
            raise LookupError(f"expected values of every keyword of {name}, got none: {unvaried}")
    for metric in of_predictions.values():
        for data, (logits, labels) in predictions().items():
            for options in metric_choices(metric):
                from_logits = options.get("from_logits", False)
                probs = logits if from_logits else logits.softmax(dim=1)
                n_given = 1 if metric.__name__ == "entropy" else 2
                call = partial(both_kinds, metric, *(probs, labels)[:n_given], **options)
                yield f"metrics: {title(metric, options)}, {data}", call
    yield from other_metrics()


def metric_choices(metric: Callable) -> Iterator[dict]:
    known = keywords(metric)
    base = {"resamples": 30} if "resamples" in known else {}
    base |= {"generator": True} if "generator" in known else {}
    for options in [*each_alone(METRIC_VALUES, known), {"from_logits": True}]:
        yield base | options
    for options in every_choice(BINNINGS, known):
        if options:
            yield base | options
    if "generator" in known:
        yield base | {"generator": False}


def other_metrics() -> Iterator[tuple[str, Callable]]:
    """Yield the metrics of scores, of runs and of distances, and what is made of tables."""
    metrics = public("metrics")
    for data in ("common", "ties", "binary"):
        logits, labels = predictions()[data]
        probs, truth = logits.softmax(dim=1), (logits.argmax(dim=1) != labels).long()
        scores = -probs.amax(dim=1)
        for name in ("aupr", "auroc", "fpr95"):
            yield f"metrics: {name}, {data}", partial(both_kinds, metrics[name], scores, truth)
        runs = [probs, probs.roll(1, dims=0), probs.flip(0)]
        for name in ("churn", "variance"):
            yield f"metrics: {name}, {data}", partial(both_kinds, metrics[name], runs)
            of_logits = partial(both_kinds, metrics[name], [logits, -logits], from_logits=True)
            yield f"metrics: {name}(from_logits=True), {data}", of_logits
        for n_levels in METRIC_VALUES["n_levels"]:
            levels = partial(both_kinds, metrics["robustness_levels"], scores, n_levels=n_levels)
            yield f"metrics: robustness_levels(n_levels={n_levels}), {data}", levels
        for threshold in METRIC_VALUES["threshold"]:
            attacked = {"attacked": [runs[1], runs[2]], "threshold": threshold}
            error = partial(both_kinds, metrics["robust_error"], probs, labels, **attacked)
            yield f"metrics: robust_error(threshold={threshold}), two attacks, {data}", error
        for metric, level in itertools.product(("ece", "nll", "aurc"), (0.5, 0.95)):
            options = {"resamples": 20, "level": level, "generator": True}
            resample = partial(metrics["bootstrap"], metrics[metric])
            yield (
                f"metrics: bootstrap({metric}, level={level}), {data}",
                partial(both_kinds, resample, probs, labels, **options),
            )
        for name in ("reliability_bins", "reliability_sketch"):
            yield f"metrics: sum of {name}, {data}", partial(added, metrics[name], probs, labels)


def added(make: Callable, probs: Tensor, labels: Tensor) -> list:
    """Add the tables of two parts; those of a finer table can still be cut anew."""
    whole = make(probs[:50], labels[:50]) + make(probs[50:], labels[50:])
    if not hasattr(whole, "quantile_bins"):
        return [whole]
    return [whole, *(whole.quantile_bins(n_bins=n_bins) for n_bins in (3, 15))]


# --- calibrators -----------------------------------------------------------------------------

CALIBRATOR_VALUES = {
    "binning": ("uniform", "quantile"),
    "l2_bias": (0.0, 0.1),
    "l2_off_diagonal": (0.0, 0.1),
    "n_bins": (1, 5),
    "prior": (0.5,),
    "strength": (1.0, 3.0),
}


def calibrated(fit: Callable, data: tuple[Tensor, Tensor], options: dict) -> dict:
    """Fit, apply in every precision, take a gradient, save and load."""
    calibrators = importlib.import_module("advcal.calibrators")
    logits, labels = data
    calibrator, file = fit(logits, labels, **options), io.BytesIO()
    calibrators.save(calibrator, file)
    file.seek(0)
    others = logits[:40].flip(0) * 1.1 + 0.01
    found: dict[str, Any] = {"calibrator": calibrator, "loaded": calibrators.load(file)(others)}
    for dtype in (torch.float16, torch.bfloat16, torch.float32, torch.float64):
        given = others.to(dtype)
        found[word(dtype)] = [calibrator(given), calibrator.log_probs(given)]
    leaf = others.clone().requires_grad_()
    return found | {"gradient": torch.autograd.grad(calibrator(leaf)[:, 0].sum(), leaf)}


def calibrator_settings(checkout: Path) -> Iterator[tuple[str, Callable]]:
    common, binary = (predictions()[name] for name in ("common", "binary"))
    data = {
        "four classes": (common[0][:, :4], common[1] % 4),
        "two classes": binary,
        "float32": (binary[0].float(), binary[1].int()),
        "few": (common[0][:7, :3], common[1][:7] % 3),
    }
    for name, fit in public("calibrators").items():
        if not name.startswith("fit_"):
            continue
        if unvaried := keywords(fit) - CALIBRATOR_VALUES.keys():
            raise LookupError(f"expected values of every keyword of {name}, got none: {unvaried}")
        for options in every_choice_or_none(keywords(fit)):
            for which, given in data.items():
                call = partial(calibrated, fit, given, options)
                yield f"calibrators: {title(fit, options)}, {which}", call


def every_choice_or_none(known: set[str]) -> Iterator[dict]:
    yield {}
    if known & CALIBRATOR_VALUES.keys():
        yield from every_choice(CALIBRATOR_VALUES, known)


# --- objectives and the loop -----------------------------------------------------------------


def network(seed: int = 0) -> nn.Module:
    def make() -> nn.Module:
        return nn.Sequential(nn.Linear(7, 8), nn.BatchNorm1d(8), nn.ReLU(), nn.Linear(8, 3))

    return of_seed(make, seed=seed, gain=1.5)


def batches_of(n: int, parts: int) -> list[tuple[Tensor, Tensor]]:
    inputs, labels = batch_of(linear, n)
    size = -(-n // parts)
    return list(zip(inputs.split(size), labels.split(size), strict=True))


def trained(make: Callable, n: int = 8, **options: Any) -> dict:
    """Take the loss and its gradients once, then three steps of SGD from the same weights."""
    batch, model, objective = batches_of(n, 1)[0], network(), make()
    loss = objective(model, batch)
    gradients = torch.autograd.grad(loss, list(model.parameters()))
    seen = {"loss": loss, "gradients": gradients, "buffers": dict(model.named_buffers())}
    return seen | {"trained": fitted(make(), [batch] * 3, n=1, **options)}


def fitted(objective: Callable, batches: list, *, n: int, **options: Any) -> dict:
    trainers, model = importlib.import_module("advcal.trainers"), network()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
    if schedule := options.pop("schedule", None):
        options["schedule"] = schedule(optimizer)
    average = options["average"](model) if "average" in options else None
    options |= {"average": average} if average else {}
    history = trainers.fit(model, batches, objective, optimizer, n=n, **options)
    found = {"history": history, "model": model, "average": average}
    return found | {"predictions": trainers.predict(model, batches)}


def objective_settings(checkout: Path) -> Iterator[tuple[str, Callable]]:
    for name, make in table(checkout, "trainers.test_objectives", "MAKERS").items():
        yield f"objectives: row {name}", partial(trained, make)
    trainers = importlib.import_module("advcal.trainers")
    for name, arguments, values in objective_rows():
        maker = getattr(trainers, name, None)  # some are to go
        if maker is None:
            continue
        given = [objective for objective in arguments if objective is not None]
        random = "generator" in inspect.signature(maker).parameters
        for options in values:
            call = " on ".join([title(maker, options), *map(word, arguments)])
            source = [("", partial(seeded, 5)), (", global generator", lambda: None)]
            for note, generator in source if random else source[:1]:

                def make(maker=maker, given=given, options=options, generator=generator) -> Any:
                    more = {"generator": generator()} if random else {}  # noqa: B023
                    return maker(*given, **options, **more)

                yield f"objectives: {call}{note}", partial(trained, make)
    yield from loop_settings()


def objective_rows() -> Iterator[tuple[str, tuple, list[dict]]]:
    """Yield the name of an objective, its attacks and the options to try."""
    attacks, losses = (importlib.import_module(f"advcal.{name}") for name in ("attacks", "losses"))
    pgd = partial(attacks.pgd, eps=0.1, steps=3)
    still = partial(attacks.pgd, eps=0.1, steps=3, random_start=False)
    kl = partial(attacks.pgd, eps=0.1, steps=3, loss="kl")
    iaa = partial(attacks.iaa, eps=0.1, steps=3)
    uca, oca = (partial(each, eps=0.1, steps=3) for each in (attacks.uca, attacks.oca))
    likelier = partial(attacks.pgd, eps=0.1, steps=3, random_start=False, targeted=True)
    smooth, mbls = partial(cross_entropy, label_smoothing=0.1), partial(losses.mbls, margin=2.0)
    some = [{"loss": loss} for loss in (cross_entropy, smooth, mbls, losses.focal)]
    joint = [{"joint": False}, {"joint": True}]
    yield "standard", (), some
    for attack in (pgd, still, iaa, uca, oca, partial(attacks.fgsm, eps=0.1), likelier):
        yield "adversarial", (attack,), some
    yield "inverse_adversarial", (iaa,), some
    yield "caat", (uca, oca), some
    for attack in (None, pgd, kl):
        yield "trades", (attack,), [{"beta": beta} | j for beta in (0.0, 1.0, 6.0) for j in joint]
    yield "mart", (pgd,), [{"lam": lam} | j for lam in (0.0, 1.0, 5.0) for j in joint]
    for attack in (None, partial(attacks.pgd_conf, eps=0.1, steps=3)):
        options = [{"eps": eps, "rho": rho} for eps in (0.05, 0.3) for rho in (1.0, 10.0)]
        yield "ccat", (attack,), options
    yield "entropy_adversarial", (pgd,), [{"beta": beta} for beta in (0.0, 0.1, 2.0)]
    betas = [{"beta": beta, "reference": likelier} | j for beta in (0.0, 2.0) for j in joint]
    yield "anti_adversarial", (pgd,), betas
    yield "mixup", (), [{"alpha": alpha} | one for alpha in (0.1, 1.0) for one in some[:2]]
    yield from made_of_objectives(pgd, iaa, uca, oca)


def made_of_objectives(pgd: Callable, iaa: Callable, uca: Callable, oca: Callable) -> Iterator:
    trainers = importlib.import_module("advcal.trainers")

    def named(name: str, objective: Callable) -> Callable:
        def ready(model: Any, batch: Any) -> Tensor:
            return objective(model, batch)

        ready.__name__ = name
        return ready

    standard = named("standard", trainers.standard())
    on_pgd, on_iaa, on_uca, on_oca = (
        named(f"adversarial({name})", trainers.adversarial(attack))
        for name, attack in {"pgd": pgd, "iaa": iaa, "uca": uca, "oca": oca}.items()
    )
    for pair in ((standard, on_pgd), (on_pgd, on_iaa), (on_uca, on_oca)):
        weights = (None, (1.0, 1.0), (0.3, 0.7))
        yield "mixed", pair, [{"weights": each} for each in weights]
    trades = named("trades", trainers.trades(pgd))
    for inner in (standard, on_pgd, trades):
        yield "awp", (inner,), [{"gamma": gamma} for gamma in (0.005, 0.1)]


def loop_settings() -> Iterator[tuple[str, Callable]]:
    trainers = importlib.import_module("advcal.trainers")
    decay = partial(torch.optim.lr_scheduler.StepLR, step_size=1, gamma=0.5)
    mean = torch.optim.swa_utils.AveragedModel
    for options in (
        {},
        *[{"max_norm": 0.1}, {"accumulate": 2}, {"accumulate": 3, "max_norm": 0.5}],
        *[{"schedule": decay}, {"average": mean}, {"autocast": torch.bfloat16}],
    ):
        call = partial(fitted, trainers.standard(), batches_of(20, 4), n=3, **options)
        yield f"loop: {title(trainers.fit, options)}", call
    attack = partial(importlib.import_module("advcal.attacks").pgd, eps=0.1, steps=3)
    for given, autocast in itertools.product((None, attack), (None, torch.bfloat16)):
        name = f"loop: predict({word(given)}, autocast={word(autocast)})"
        options = {"autocast": autocast}
        call = partial(trainers.predict, network(), batches_of(20, 3), given, **options)
        yield name, call
    members = trainers.ensemble([network(0), network(1), network(2)])
    yield "loop: ensemble", partial(trainers.predict, members, batches_of(20, 3))
    records = [(0.5, 0.4), (0.6, 0.45), (0.9, 0.6), (0.95, 0.02)]
    for threshold in (0.1, 0.25, 0.5, 0.99):
        call = partial(trainers.catastrophic_overfitting, records, threshold=threshold)
        yield f"loop: catastrophic_overfitting(threshold={threshold})", call
    yield from adaptive_settings()


def adapted(levels: str | None, **options: Any) -> dict:
    """Train with labels that follow the validation split, ranked by an attack."""
    trainers, model = importlib.import_module("advcal.trainers"), network()
    inputs, labels = batch_of(linear, 60)
    parts = [(inputs[:40], labels[:40], torch.arange(40))]
    options = spelled(trainers.adaptive_smoothing, options)
    smoothing = trainers.adaptive_smoothing(
        parts, [(inputs[40:], labels[40:], torch.arange(20))], 3, **options
    )
    if levels:
        smoothing.rank(network(1), attack=levels)
    optimizer, gaps = torch.optim.SGD(model.parameters(), lr=0.1), []
    for _ in trainers.epochs(model, parts, smoothing, optimizer, n=3):
        gaps.append(smoothing.update(model))
    return {"gaps": gaps, "state": smoothing.state_dict(), "model": model}


def adaptive_settings() -> Iterator[tuple[str, Callable]]:
    trainers = importlib.import_module("advcal.trainers")
    for method, step_size in itertools.product(("shrunk", "published"), (0.02, 0.5)):
        shared = {"method": method, "step_size": step_size}
        for n_levels, levels in ((1, None), (4, "linear"), (4, "quick"), (4, "fast")):
            options = shared | {"n_levels": n_levels}
            name = f"objectives: {title(trainers.adaptive_smoothing, options)}, ranks {levels}"
            yield name, partial(adapted, levels, **options)
    options = {"n_levels": 2, "autocast": torch.bfloat16}
    name = f"objectives: {title(trainers.adaptive_smoothing, options)}, ranks linear"
    yield name, partial(adapted, "linear", **options)


# --- evaluation ------------------------------------------------------------------------------


def swept(path: bool, **options: Any) -> dict:
    """Sweep two models; with a file, twice, the second time from what the file holds."""
    evaluation, attacks = (
        importlib.import_module(f"advcal.{name}") for name in ("evaluation", "attacks")
    )
    pgd = partial(attacks.pgd, steps=3)
    given = {"none": None, "fgsm": attacks.fgsm, "pgd": pgd}
    data = {"a": [batch_of(mlp, 9, seed) for seed in (1, 2)], "b": [batch_of(mlp, 5, 3)]}
    models = {"sharp": mlp(), "soft": of_seed(mlp, gain=0.5)}
    sweep = partial(evaluation.sweep, models, data, given)
    options = {"eps": (0.05, 0.2)} | options
    if not path:
        records = sweep(**options)
        return {"records": records, "table": evaluation.table(records)}
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "sweep.jsonl"
        return {"first": sweep(file, **options), "again": sweep(file, **options)}


def evaluation_settings(checkout: Path) -> Iterator[tuple[str, Callable]]:
    evaluation, attacks = (
        importlib.import_module(f"advcal.{name}") for name in ("evaluation", "attacks")
    )
    pgd = partial(attacks.pgd, eps=0.1, steps=4)
    iaa = partial(attacks.iaa, eps=0.1, steps=4, label="predicted")
    for make in (mlp, cnn, wide):
        batches = [batch_of(make, n, seed) for seed, n in enumerate((10, 10, 7))]
        others = [batch_of(make, 12, 9)]
        where = make.__name__
        for attack, n_bins in itertools.product((None, pgd, iaa), (3, 15)):
            name = f"evaluation: evaluate({word(attack)}, n_bins={n_bins}), {where}"
            yield name, partial(evaluation.evaluate, make(), batches, attack, n_bins=n_bins)
        cast = {"autocast": torch.bfloat16, "channels_last": True}
        name = f"evaluation: {title(evaluation.evaluate, cast)}, {where}"
        yield name, partial(evaluation.evaluate, make(), batches, pgd, **cast)
        for norm, steps in itertools.product(NORMS, (1, 5)):
            options = {"eps": (0.02, 0.1), "norm": norm, "steps": steps}
            name = f"evaluation: {title(evaluation.confidence_envelope, options)}, {where}"
            yield name, partial(evaluation.confidence_envelope, make(), batches, **options)
        for score in ("entropy", "confidence", "energy"):
            name = f"evaluation: detection(score={score}), {where}"
            yield name, partial(evaluation.detection, make(), batches, others, score=score)
    batches = [batch_of(mlp, n, seed) for seed, n in enumerate((10, 10, 7))]
    models = {"one": mlp(), "two": of_seed(mlp, gain=0.5)}
    for attack, n_bins in itertools.product((pgd, iaa), (3, 15)):
        name = f"evaluation: transfer({word(attack)}, n_bins={n_bins})"
        yield name, partial(evaluation.transfer, models, models, batches, attack, n_bins=n_bins)
    for path, n_bins in itertools.product((False, True), (5, 15)):
        name = f"evaluation: sweep(path={path}, n_bins={n_bins})"
        yield name, partial(swept, path, n_bins=n_bins)
    yield from diagnoses()
    yield from shifts()


def diagnoses() -> Iterator[tuple[str, Callable]]:
    diagnose = importlib.import_module("advcal.evaluation").diagnose

    def diagnosed(model: Callable, make: Callable, generated: bool, **options: Any) -> Any:
        generator = seeded() if generated else None
        options = spelled(diagnose, options) | {"generator": generator}
        return diagnose(model, [batch_of(make, 16)], **options)

    for norm, eps in itertools.product(("linf", "l2"), (0.05, 0.3)):
        options = {"norm": norm, "eps": eps}
        for make in (mlp, wide):
            name = f"evaluation: {title(diagnose, options)}, {make.__name__}"
            yield name, partial(diagnosed, make(), make, True, **options)
    for steps in (1, 40):
        call = partial(diagnosed, mlp(), mlp, True, eps=0.05, steps=steps)
        yield f"evaluation: diagnose(eps=0.05, steps={steps}), mlp", call
    weak = {
        "rounded": lambda inputs: mlp()((4 * inputs).round() / 4),
        "probabilities": lambda inputs: mlp()(inputs).softmax(dim=1),
        "scaled": lambda inputs: 1e3 * mlp()(inputs),
        "batch": lambda inputs: mlp()(inputs - inputs.mean()),
    }
    for name, model in weak.items():
        call = partial(diagnosed, model, mlp, True, eps=0.1)
        yield f"evaluation: diagnose(eps=0.1), {name}", call
    name = "evaluation: diagnose(eps=0.1), sources, global generator"
    yield name, partial(diagnosed, mlp(), mlp, False, eps=0.1, sources={"half": of_seed(mlp)})


def shifts() -> Iterator[tuple[str, Callable]]:
    evaluation = importlib.import_module("advcal.evaluation")
    images = {
        "colour": torch.rand(2, 3, 32, 32, generator=seeded()),
        "grey": torch.rand(2, 1, 8, 12, generator=seeded(1), dtype=torch.float64),
        "half": torch.rand(2, 3, 16, 16, generator=seeded(2)).half(),
    }
    names = list(evaluation.corruptions([(images["colour"], torch.arange(2))], severity=(1,)))
    for full, (which, given) in itertools.product(names, images.items()):
        name = full.rsplit(" ", 1)[0]
        for severity in (1, 3, 5):

            def call(name=name, given=given, severity=severity) -> Tensor:
                return evaluation.corrupt(given, name, severity=severity, generator=seeded())

            yield f"evaluation: corrupt({name}, severity={severity}), {which}", call

    def listed(**options: Any) -> dict:
        batches = [(images["colour"], torch.arange(2))]
        options = spelled(evaluation.corruptions, options)
        found = evaluation.corruptions(batches, generator=seeded(), **options)
        return {name: list(each) for name, each in found.items()}

    for options in ({"severity": (2,)}, {"names": ("fog", "snow"), "severity": (1, 4)}):
        yield f"evaluation: {title(evaluation.corruptions, options)}", partial(listed, **options)


# --- recording -------------------------------------------------------------------------------

KINDS = (
    *(attack_settings, beside_attacks, loss_settings, metric_settings),
    *(calibrator_settings, objective_settings, evaluation_settings),
)


def leaves(value: Any, path: str = "") -> Iterator[tuple[str, tuple[str, Any]]]:
    """Yield the tensors, numbers and words in a result, with where they are and of what kind."""
    kind = type(value).__name__
    if isinstance(value, Tensor):
        yield path, ("tensor", value.detach().clone(memory_format=torch.contiguous_format))
    elif isinstance(value, np.ndarray | np.generic):
        yield path, (kind, torch.from_numpy(np.array(value)))
    elif isinstance(value, str):
        yield path, (kind, str(value))
    elif value is None or isinstance(value, bool | int | float):
        yield path, (kind, value)
    else:
        for name, part in parts_of(value).items():
            yield from leaves(part, f"{path}.{name}".removeprefix("."))


def parts_of(value: Any) -> dict[str, Any]:
    """Return what a result is made of; of a class its fields and properties."""
    if isinstance(value, Mapping):
        return {word(key): part for key, part in value.items()}
    if hasattr(value, "as_dict"):
        return value.as_dict()
    if isinstance(value, nn.Module):
        return value.state_dict()
    if dataclasses.is_dataclass(value):
        kind, names = type(value), [field.name for field in dataclasses.fields(value)]
        names += [name for name in dir(kind) if isinstance(getattr(kind, name, None), property)]
        return {name: getattr(value, name) for name in names}
    if hasattr(value, "_asdict"):
        return value._asdict()
    if isinstance(value, tuple | list):
        return {str(i): part for i, part in enumerate(value)}
    raise TypeError(f"expected a result made of tensors, numbers and words, got {type(value)}")


def outcome(call: Callable[[], Any]) -> dict[str, tuple[str, Any]]:
    torch.manual_seed(0)
    try:
        result = call()
    except Exception as error:
        return {"error": ("error", f"{type(error).__name__}: {error}")}
    return dict(leaves(result))


def record(checkout: Path, file: Path) -> None:
    """Run every setting of a checkout and store the outcomes."""
    checkout = checkout.resolve()
    sys.path.insert(0, str(checkout))
    advcal = importlib.import_module("advcal")
    if not Path(advcal.__file__).is_relative_to(checkout):
        raise ImportError(f"expected advcal in {checkout}, got {advcal.__file__}")
    torch.set_num_threads(1)
    warnings.simplefilter("ignore")
    found: dict[str, dict] = {}
    for settings in KINDS:
        start, before = time.perf_counter(), len(found)
        for name, call in settings(checkout):
            if name not in found:  # the same call, from the table and from the values here
                found[name] = outcome(call)
        took = time.perf_counter() - start
        print(f"{settings.__name__}: {len(found) - before}, {took:.0f} s", flush=True)
    torch.save(found, file)
    kinds = Counter(name.split(":")[0] for name in found)
    refused = Counter(name.split(":")[0] for name, each in found.items() if "error" in each)
    for kind, n in kinds.items():
        print(f"{kind}: {n} settings, {refused[kind]} of them refused")
    print(f"{len(found)} settings")


# --- comparing -------------------------------------------------------------------------------


def difference(before: Mapping, after: Mapping) -> str | None:
    """Say how two outcomes differ, None if they are the same bits."""
    if before.keys() != after.keys():
        apart = sorted(before.keys() ^ after.keys())
        errors = [each["error"][1] for each in (before, after) if "error" in each]
        return "; ".join([f"not in both: {', '.join(apart[:6])}", *errors])
    found, largest = [], -1.0
    for path in before:
        (kind, one), (other_kind, other) = before[path], after[path]
        if kind != other_kind:
            found.append(f"{path} is {kind}, then {other_kind}")
        elif isinstance(one, Tensor):
            if (one.dtype, one.shape) != (other.dtype, other.shape):
                kinds = [f"{word(each.dtype)} {tuple(each.shape)}" for each in (one, other)]
                found.append(f"{path} is {', then '.join(kinds)}")
            else:
                largest = max(largest, gap(one, other))
        elif isinstance(one, float):
            largest = max(largest, gap(*torch.tensor([one, other], dtype=torch.float64)))
        elif one != other:
            found.append(f"{path} is {one!r}, then {other!r}")
    if largest >= 0:
        found.append(f"max abs difference {largest:.3g}")
    return "; ".join(found) or None


def gap(one: Tensor, other: Tensor) -> float:
    """Return the largest difference, -1 where all bits are the same; NaN is equal to NaN."""
    same = (one == other) & (one.signbit() == other.signbit()) | one.isnan() & other.isnan()
    if bool(same.all()):
        return -1.0
    apart = (one.double() - other.double()).abs()[~same]
    return float(apart.nan_to_num(torch.inf, posinf=torch.inf).max())


def compare(before: Path, after: Path) -> int:
    """List what differs; 1 if anything does, or is gone, without being expected to."""
    old, new = torch.load(before), torch.load(after)
    shared = [name for name in old if name in new]
    found = {name: difference(old[name], new[name]) for name in shared}
    listed = {name: text for name, text in found.items() if text}
    gone = {name: "only before" for name in old if name not in new}
    unexpected = 0
    for name, text in (listed | gone).items():
        reasons = [why for pattern, why in EXPECTED.items() if fnmatchcase(name, pattern)]
        unexpected += not reasons
        print(f"{name}: {text}" + "".join(f" (expected: {why})" for why in reasons[:1]))
    added = [name for name in new if name not in old]
    for name in added:
        print(f"{name}: only after")
    print(f"{len(shared)} settings in both, {len(shared) - len(listed)} bit-identical")
    print(f"{len(listed)} differ, {len(gone)} only before, {len(added)} only after")
    print(f"{unexpected} that differ or are gone were not expected to")
    return int(unexpected > 0)


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    commands = parser.add_subparsers(dest="command", required=True)
    one = commands.add_parser("record", help="run every setting of a checkout")
    one.add_argument("checkout", type=Path)
    one.add_argument("file", type=Path)
    two = commands.add_parser("compare", help="compare two records bit by bit")
    two.add_argument("before", type=Path)
    two.add_argument("after", type=Path)
    args = parser.parse_args()
    if args.command == "compare":
        return compare(args.before, args.after)
    record(args.checkout, args.file)
    return 0


if __name__ == "__main__":
    sys.exit(main())
