"""The standard set of bad inputs: every public callable, every argument, some 30 kinds of mistakes.

`python -m tests.bad_inputs` tries all of them and writes the table `tests/bad_inputs.md`;
`tests/test_bad_inputs.py` holds a part of them to it. A new function joins by itself: its arguments
are known by their names, in `KINDS` and, if they have no default, in `GOOD`.
"""

import importlib
import inspect
import sys
import tempfile
import traceback
import warnings
from collections import Counter
from collections.abc import Callable, Iterator
from functools import cache, partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import nn

import advcal
from advcal import attacks, calibrators, certify, evaluation, losses, metrics, trainers
from advcal._values import Value

ROOMS = (
    "attacks",
    "calibrators",
    "certify",
    "evaluation",
    "losses",
    "metrics",
    "plots",
    "trainers",
)
TABLE = Path(__file__).with_suffix(".md")
N, CLASSES = 4, 3

# --- good calls ------------------------------------------------------------------------------


def drawn(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.rand(*shape, generator=torch.Generator().manual_seed(seed))


def network(classes: int = CLASSES) -> nn.Module:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return nn.Sequential(nn.Flatten(), nn.Linear(16, 8), nn.ReLU(), nn.Linear(8, classes))


def member(seed: int, checkpoint: Any) -> nn.Module:
    made = network()
    nn.init.constant_(made[1].bias, seed / 10)
    return made


def images() -> torch.Tensor:
    return drawn(N, 1, 4, 4).clamp(0.01, 0.99)


def classes(n: int = N) -> torch.Tensor:
    return torch.arange(n) % CLASSES


def rows(n: int = 30) -> torch.Tensor:
    """Probabilities of all levels, of labels that they are right about more often than not."""
    return (3 * drawn(n, CLASSES) + nn.functional.one_hot(classes(n))).double().softmax(dim=1)


def batches() -> list[Any]:
    return [(images(), classes()), (images() * 0.5, classes())]


def splits() -> dict[str, Any]:
    indexed = [(*batch, N * i + torch.arange(N)) for i, batch in enumerate(batches())]
    other = [(0.9 * inputs, labels, indices) for inputs, labels, indices in indexed]
    return {"train": indexed, "validation": other}


def weights(model: nn.Module) -> Any:
    return torch.optim.SGD(model.parameters(), lr=0.1)


PGD = partial(attacks.pgd, eps=0.1, steps=1, random_start=False)
TOWARDS = partial(PGD, targeted=True)
FLAT = partial(attacks.uca, eps=0.1, steps=1)
RECORD = {"model": "a", "accuracy": 0.5, "ece": 0.1, "n": 4}
FIGURES = {"maximise": ("accuracy",), "minimise": ("ece",)}


@cache
def folder() -> Path:
    path = Path(tempfile.mkdtemp())
    for i in range(1, 6):
        np.save(path / "fog.npy", np.full((50, 4, 4, 3), i, np.uint8))
    np.save(path / "labels.npy", np.arange(50) % CLASSES)
    calibrators.save(calibrators.fit_temperature(3 * rows().log(), classes(30)), path / "it.pt")
    return path


@cache
def _pictures() -> dict[str, Any]:
    return importlib.import_module("tests.test_plots").CASES


@cache
def audited() -> Any:
    return evaluation.audit(network(), batches(), eps=0.05, steps=1)


# What an argument is when it is good, by its name; made anew for every call.
GOOD: dict[str, Callable[[], Any]] = {
    "accuracy": lambda: 0.5,
    "attack": lambda: PGD,
    "attacked": lambda: 0.5 * rows(),
    "attacks": lambda: (PGD,),
    "audits": lambda: {"a": audited()},
    "batch": lambda: batches()[0],
    "batches": batches,
    "calibrator": lambda: calibrators.fit_temperature(3 * rows().log(), classes(30)),
    "confidence": lambda: 0.6,
    "count": lambda: 2,
    "corruption": lambda: "fog",
    "distances": lambda: drawn(20),
    "eps": lambda: 0.05,
    "eta": lambda: -1.0,
    "generator": lambda: torch.Generator().manual_seed(0),
    "gradient": lambda: images() - 0.5,
    "in_batches": batches,
    "inputs": images,
    "labels": classes,
    "levels": lambda: torch.zeros(N, dtype=torch.int64),
    "logits": lambda: 3 * rows().log() + 1,
    "metric": lambda: metrics.ece,
    "model": network,
    "models": lambda: {"a": network()},
    "n": lambda: 2,
    "n_classes": lambda: CLASSES,
    "n_pilot": lambda: 5,
    "n_targets": lambda: 1,
    "objective": lambda: trainers.standard(),
    "objectives": lambda: (trainers.standard(),),
    "omega": lambda: torch.full((CLASSES,), 1 / CLASSES, dtype=torch.float64),
    "optimizer": lambda: weights(network()),
    "member": lambda: member,
    "others": lambda: rows().flip(1),
    "out_batches": batches,
    "path": lambda: folder() / "new.pt",
    "points": images,
    "probs": rows,
    "queries": lambda: 2,
    "reach": lambda: certify.interval(network(), images(), eps=0.01),
    "rows": lambda: torch.tensor([0, 1]),
    "records": lambda: {"a": RECORD, "b": {**RECORD, "accuracy": 0.7, "ece": 0.2}},
    "reference": lambda: (0.0, 1.0),
    "resamples": lambda: 5,
    "run": lambda: lambda **_: RECORD,
    "runs": lambda: [rows(), rows().flip(1)],
    "score": lambda: 0.5,
    "schedule_steps": lambda: 4,
    "scores": lambda: drawn(30),
    "search_steps": lambda: 1,
    "sets": lambda: rows(N) > 0.2,
    "seeds": lambda: [0, 1],
    "severity": lambda: 3,
    "sigma": lambda: 0.1,
    "size": lambda: 5,
    "smoothing": lambda: 0.1,
    "sources": lambda: {"a": network()},
    "steps": lambda: 2,
    "targets": lambda: {"b": network()},
    "temperature": lambda: 2.0,
    "values": lambda: {"lam": (0.1, 1.0)},
}
_BUDGET = {"n", "n_pilot", "n_targets", "queries", "resamples", "search_steps", "steps"}
# What it is in some callables. Values and methods are called as `_called` says.
OWN: dict[str, dict[str, Callable[[], Any]]] = {
    "attacks.through": {"forward": lambda: network(), "backward": lambda: network()},
    "attacks.alongside": {"others": lambda: (images(),)},
    "attacks.two_columns": {"model": lambda: network(1)},
    "calibrators.load": {"path": lambda: folder() / "it.pt"},
    "calibrators.fit_platt": {"logits": lambda: (3 * rows().log())[:, :2] + 1},
    "certify.certify": {"n": lambda: 10},
    "certify.conformal": {"probs": rows},
    "evaluation.confidence_envelope": {"eps": lambda: [0.05]},
    "evaluation.corrupt": {"inputs": lambda: drawn(2, 3, 16, 16)},
    "evaluation.corruptions": {
        "batches": lambda: [(drawn(2, 3, 16, 16), classes(2))],
        "kinds": lambda: ["fog"],
    },
    "evaluation.diagnose": {"sources": lambda: {"a": network()}},
    "evaluation.hypervolume": {
        **{name: lambda name=name: FIGURES[name] for name in FIGURES},
        "reference": lambda: {"accuracy": 0.0, "ece": 1.0},
    },
    "evaluation.pareto": {name: lambda name=name: FIGURES[name] for name in FIGURES},
    "evaluation.pareto_search": {
        **{name: lambda name=name: FIGURES[name] for name in FIGURES},
        "values": lambda: [0.1, 1.0],
        "run": lambda: lambda value: RECORD,
    },
    "evaluation.read_corruptions": {"path": folder, "size": lambda: 10},
    "evaluation.sweep": {
        "batches": lambda: {"test": batches()},
        "attacks": lambda: {"PGD": PGD},
        "eps": lambda: [0.05],
    },
    "evaluation.rows": {
        "records": lambda: [RECORD],
        "columns": lambda: ["model"],
        "figures": lambda: ["n"],
    },
    "evaluation.table": {
        "records": lambda: [RECORD],
        "columns": lambda: ["model"],
        "figures": lambda: ["n"],
    },
    "losses.smooth_labels": {"logits": lambda: 3 * rows(N).log()},
    "losses.SmoothingState.update": {"n": lambda: None},
    "losses.SmoothingState.targets": {"logits": lambda: 3 * rows(N).log()},
    "metrics.bootstrap": {"resamples": lambda: 3},
    "metrics.robust_error": {"attacked": lambda: (rows().flip(1),)},
    "trainers.AdaptiveSmoothing.rank_by": {
        "distances": lambda: drawn(2 * N),
        "validation": lambda: drawn(2 * N),
    },
    "trainers.AdaptiveSmoothing.unseen": {"batches": lambda: [(0.3 * images(), classes())]},
    "trainers.AdaptiveSmoothing.load_state_dict": {"state": lambda: _smoothing().state_dict()},
    "trainers.EarlyStopping.load_state_dict": {"state": lambda: _stopping().state_dict()},
    "trainers.adaptive_smoothing": {
        "train": lambda: splits()["train"],
        "validation": lambda: splits()["validation"],
        "n_levels": lambda: 2,
    },
    "trainers.anti_adversarial": {"reference": lambda: TOWARDS},
    "trainers.catastrophic_overfitting": {"records": lambda: [(0.5, 0.4), (0.9, 0.5)]},
    "trainers.check_disjoint": {"validation": lambda: [(0.9 * images(), classes())]},
    "trainers.ensemble": {"models": lambda: [network(), network()]},
    "trainers.smooth_adversarial": {"attack": lambda: partial(PGD, bounds=None)},
    "trainers.epochs": {"n": lambda: 1},
    "trainers.fit": {"n": lambda: 1},
}


def _smoothing() -> Any:
    return trainers.adaptive_smoothing(**splits(), n_classes=CLASSES, n_levels=1)


def _stopping() -> Any:
    stopping = trainers.EarlyStopping()
    stopping.update(network(), 0.5)
    return stopping


# Whose methods are tried, and on what.
OWNERS: dict[str, Callable[[], Any]] = {
    "attacks.Ball": lambda: attacks.l2(images(), eps=0.1),
    "calibrators.Calibrator": GOOD["calibrator"],
    "certify.Certificates": lambda: certify.certify(network(), images(), sigma=0.1, n=10),
    "certify.PredictionSets": lambda: certify.conformal(rows(), classes(30)),
    "certify.Reach": GOOD["reach"],
    "losses.SmoothingState": lambda: losses.adaptive_smoothing(CLASSES),
    "metrics.ReliabilityBins": lambda: metrics.reliability_bins(rows(), classes(30)),
    "metrics.ReliabilitySketch": lambda: metrics.reliability_sketch(rows(), classes(30)),
    "trainers.AdaptiveSmoothing": _smoothing,
    "trainers.EarlyStopping": _stopping,
}


class Tried(NamedTuple):
    """A callable and the names of what it is called with, some of which need not be given."""

    call: Callable[..., Any]
    names: dict[str, bool]  # to whether it may be left out
    takes_arrays: bool = False


def callables() -> dict[str, Tried]:
    """List all public callables: functions, values and what they do, methods."""
    found = {}
    for room in ROOMS:
        module = getattr(advcal, room)
        for name in module.__all__:
            thing = getattr(module, name)
            if inspect.isclass(thing) and issubclass(thing, Value):
                objective = room == "trainers"
                more = ("model", "batch") if objective else ("model", "inputs", "labels")
                call = partial(_called, thing, more)
                found[f"{room}.{name}"] = Tried(call, names_of(thing) | dict.fromkeys(more, False))
            elif inspect.isfunction(thing):
                found[f"{room}.{name}"] = of_function(room, name, thing)
            elif f"{room}.{name}" in OWNERS:
                found |= methods(f"{room}.{name}", thing)
    return found


def of_function(room: str, name: str, function: Callable[..., Any]) -> Tried:
    if name in ("expectation", "smoothed", "through", "two_columns"):
        names = names_of(function) | {"inputs": False}
        return Tried(partial(_called, function, ("inputs",)), names)
    if name == "alongside":
        return Tried(_beside, dict.fromkeys(("model", "others", "inputs", "labels"), False))
    arrays = room in ("metrics", "calibrators")
    return Tried(function, names_of(function), arrays)


def methods(owner: str, cls: type) -> dict[str, Tried]:
    found = {}
    for name, method in vars(cls).items():
        names = names_of(method) if inspect.isfunction(method) else {}
        public = not name.startswith("_") or name == "__call__"
        if public and len(names) > 1:
            names.pop("self")
            call = partial(_of_owner, OWNERS[owner], name)
            found[f"{owner}.{name}".removesuffix(".__call__")] = Tried(call, names)
    return found


def names_of(function: Callable[..., Any]) -> dict[str, bool]:
    parameters = inspect.signature(function).parameters.values()
    return {p.name: p.default is not p.empty for p in parameters}


def _beside(model: Any, others: Any, inputs: Any, labels: Any) -> Any:
    """Attack a model beside inputs that it does not look at."""
    taking = (lambda first, *_: model(first)) if callable(model) else model
    return PGD(attacks.alongside(taking, *others), inputs, labels)


def _called(make: Callable[..., Any], more: tuple[str, ...], **given: Any) -> Any:
    """Call what a callable makes."""
    rest = [given.pop(name) for name in more]
    several = [given.pop(name) for name in ("attacks", "objectives") if name in given]
    several = [tuple(each) if isinstance(each, (list, tuple)) else (each,) for each in several]
    return make(*sum(several, start=()), **given)(*rest)


def _of_owner(owner: Callable[[], Any], method: str, **given: Any) -> Any:
    return getattr(owner(), method)(**given)


def good(name: str, tried: Tried) -> dict[str, Any]:
    """Return the arguments of a good call."""
    own, room = OWN.get(name, {}), name.split(".")[0]
    given = {}
    for argument, may_be_left_out in tried.names.items():
        if argument in own:
            given[argument] = own[argument]()
        elif room != "plots" and (not may_be_left_out or argument in _BUDGET):
            given[argument] = GOOD[argument]()
    if room in ("metrics", "calibrators", "losses") or name in ("certify.conformal",):
        wide = given.get("probs", given.get("logits", given.get("scores")))
        if wide is not None and "labels" in given:
            given["labels"] = classes(len(wide)) % (2 if "scores" in given else wide.shape[1])
    if "optimizer" in given:
        given["optimizer"] = weights(given["model"])
    if room == "evaluation" and "attack" in tried.names:
        given["attack"] = PGD
    if room == "plots":
        positional, options, _ = _pictures()[name.removeprefix("plots.")]
        given |= dict(zip(tried.names, positional, strict=False)) | options
        tensors = ("probs", "labels", "levels")
        given |= {
            name: torch.from_numpy(value)
            for name, value in given.items()
            if name in tensors and isinstance(value, np.ndarray)
        }
    return given


# --- bad values ------------------------------------------------------------------------------

REFUSE, SAY, EITHER = "refuse", "say", "either"  # say: refuse or warn


class Bad(NamedTuple):
    kind: str  # of mistake, a row of the table
    value: Any
    wanted: str = REFUSE


def put(tensor: Any, value: float) -> Any:
    """Return a tensor with another first value."""
    changed = tensor.clone()
    changed.view(-1)[0] = value
    return changed


def other_kinds(
    value: Any, *, optional: bool = False, arrays: bool = False, **_: Any
) -> Iterator[Bad]:
    """What is no tensor."""
    yield Bad("None", None, EITHER if optional else REFUSE)
    yield Bad("a string", "images.npy")
    yield Bad("a list", value.tolist())
    yield Bad("a number", 3)
    yield Bad("a dict", {"x": value})
    array = value.numpy()
    if not arrays:
        yield Bad("another library's array", array)
    yield Bad("an object array", array.astype(object))
    yield Bad("an array of strings", array.astype(str))
    yield Bad("a device without data", value.to("meta"))


def dtypes(value: Any, *, integers: str = REFUSE) -> Iterator[Bad]:
    yield Bad("whole numbers", (255 * value).to(torch.uint8), integers)
    yield Bad("whole numbers", (255 * value).to(torch.int64), integers)
    yield Bad("bool", value > 0.5, integers)
    yield Bad("complex", value.to(torch.complex64))


def shapes(
    value: Any, *, extra: str = REFUSE, flat: str = REFUSE, short: str = REFUSE
) -> Iterator[Bad]:
    yield Bad("no dimension", value.flatten()[0])
    yield Bad("a dimension too few", value.flatten(1)[:, 0], flat)
    yield Bad("a dimension too many", value[None], extra)
    yield Bad("a dimension too many", value[..., None], extra)
    yield Bad("empty", value[:0])
    yield Bad("empty", value[..., :0])
    yield Bad("wrong length", value[:-1], short)


def numbers(value: Any) -> Iterator[Bad]:
    yield Bad("NaN", put(value, torch.nan))
    yield Bad("infinity", put(value, torch.inf))
    yield Bad("infinity", put(value, -torch.inf))


def of_inputs(
    value: Any, *, integers: str = REFUSE, alone: bool = False, **options: Any
) -> Iterator[Bad]:
    yield from numbers(value)
    yield Bad("beyond bounds", put(value, 1.5), EITHER)
    yield Bad("beyond bounds", 255 * value, EITHER)
    yield Bad("beyond bounds", (value - 0.5) / 0.2, EITHER)
    yield Bad("a rounding beyond bounds", put(value, 1.0000001), EITHER)
    yield Bad("a rounding beyond bounds", put(value, -1e-8), EITHER)
    short = EITHER if alone else REFUSE  # there are labels beside them
    yield from shapes(value, extra=EITHER, flat=EITHER, short=short)
    yield from dtypes(value, integers=integers)
    yield from other_kinds(value, **options)


def of_labels(value: Any, classes: int = CLASSES, **options: Any) -> Iterator[Bad]:
    classes = max(classes, int(value.max()) + 1)
    yield Bad("labels out of range", put(value, classes))
    yield Bad("labels out of range", value + 1)
    yield Bad("labels out of range", put(value, -1))
    yield Bad("labels out of range", put(value, -100))
    yield Bad("labels as floats", value.float())
    yield Bad("labels as floats", put(value.float(), torch.nan))
    yield Bad("one-hot labels", nn.functional.one_hot(value, classes))
    yield Bad("one-hot labels", nn.functional.one_hot(value, classes).float())
    yield Bad("(n, 1)", value[:, None])
    yield Bad("bool", value > 0, EITHER if classes == 2 else REFUSE)
    yield Bad("complex", value.to(torch.complex64))
    yield Bad("no dimension", value[0])
    yield Bad("a dimension too many", value[None])
    yield Bad("empty", value[:0])
    yield Bad("wrong length", value[:-1])
    yield Bad("wrong length", torch.cat([value, value]))
    yield from other_kinds(value, **options)


def of_logits(value: Any, *, values: str = SAY, **options: Any) -> Iterator[Bad]:
    yield Bad("NaN", put(value, torch.nan), values)
    yield Bad("infinity", put(value, torch.inf), values)
    yield Bad("infinity", torch.cat([torch.full_like(value[:1], -torch.inf), value[1:]]), values)
    yield Bad("probabilities for logits", value.softmax(dim=1), values)
    yield from matrix_shapes(value, **options)
    yield from dtypes(value)
    yield from other_kinds(value, **options)


def matrix_shapes(value: Any, *, alone: bool = False, **_: Any) -> Iterator[Bad]:
    yield from shapes(value, short=EITHER if alone else REFUSE)
    yield Bad("transposed", value.t())
    yield Bad("(n, 1)", value[:, :1])
    yield Bad("(n, 1)", value[:, :0])
    yield Bad("a dimension too many", value[:, :, None, None].expand(-1, -1, 2, 2))


def of_probs(value: Any, **options: Any) -> Iterator[Bad]:
    yield from numbers(value)
    yield Bad("logits for probabilities", 3 * value.log())
    yield Bad("logits for probabilities", value.log())
    yield Bad("rows that do not sum to 1", 0.9 * value)
    yield Bad("rows that do not sum to 1", 100 * value)
    yield Bad("rows that do not sum to 1", torch.zeros_like(value))
    yield Bad("rows that do not sum to 1", put(value, 0.999))
    yield Bad("negative", torch.cat([value[:1] * torch.tensor([-1.0] * 1), value[1:]]))
    yield Bad("negative", torch.tensor([[1.2, -0.2, 0.0]]).double().repeat(len(value), 1))
    yield from matrix_shapes(value, **options)
    yield from dtypes(value, integers=EITHER)
    yield from other_kinds(value, **options)


def of_vector(value: Any, **options: Any) -> Iterator[Bad]:
    yield Bad("NaN", put(value, torch.nan))
    yield Bad("no dimension", value[0])
    yield Bad("(n, 1)", value[:, None])
    yield Bad("a dimension too many", value[None])
    yield Bad("empty", value[:0])
    yield Bad("complex", value.to(torch.complex64))
    yield from other_kinds(value, **options)


def answering(answer: Callable[[Any], Any]) -> Any:
    """A network that answers otherwise."""

    class Other(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.inner = network()

        def forward(self, inputs: Any) -> Any:
            return answer(self.inner(inputs))

    return Other()


class Writing(nn.Module):
    """A network that scales its inputs where they lie."""

    def __init__(self) -> None:
        super().__init__()
        self.inner = network()

    def forward(self, inputs: Any) -> Any:
        return self.inner(inputs.mul_(0.5))


class Broken(nn.Module):
    """A network of infinite slope at a pixel of zero."""

    def __init__(self) -> None:
        super().__init__()
        self.inner = network()

    def forward(self, inputs: Any) -> Any:
        return self.inner((inputs - inputs.detach()).abs().sqrt() + inputs)


ANSWERS: dict[str, tuple[str, Callable[[Any], Any]]] = {
    "a model of tuples": (REFUSE, lambda z: (z, z)),
    "a model of dicts": (REFUSE, lambda z: {"logits": z}),
    "a model of lists": (REFUSE, lambda z: z.tolist()),
    "a model of None": (REFUSE, lambda z: None),
    "a model of other objects": (REFUSE, lambda z: SimpleNamespace(logits=z)),
    "a model of arrays": (REFUSE, lambda z: z.detach().float().numpy()),
    "a model of one logit": (REFUSE, lambda z: z[:, :1]),
    "a model of one logit, flat": (REFUSE, lambda z: z[:, 0]),
    "a model of a scalar": (REFUSE, lambda z: z.sum()),
    "a dense model": (REFUSE, lambda z: z[:, :, None, None].expand(-1, -1, 2, 2)),
    "a dense model of sequences": (REFUSE, lambda z: z[:, :, None].expand(-1, -1, 5)),
    "a model of fewer rows": (REFUSE, lambda z: z[:-1]),
    "a model of more rows": (REFUSE, lambda z: torch.cat([z, z])),
    "a model of NaN": (REFUSE, lambda z: torch.cat([z[:1] * torch.nan, z[1:]])),
    "a model of +inf": (REFUSE, lambda z: torch.cat([z[:, :1] + torch.inf, z[:, 1:]], dim=1)),
    "a model of -inf alone": (REFUSE, lambda z: torch.cat([z[:1] - torch.inf, z[1:]])),
    "a model of whole numbers": (REFUSE, lambda z: (100 * z).long()),
    "a model of complex numbers": (REFUSE, lambda z: z.to(torch.complex64)),
    "a model of probabilities": (SAY, lambda z: z.softmax(dim=1)),
    "a model of wrong device": (REFUSE, lambda z: z.to("meta")),
    "a model of masked logits": (
        EITHER, lambda z: torch.cat([z, torch.full_like(z[:, :1], -torch.inf)], dim=1),
    ),
}  # fmt: skip


def of_model(
    value: Any, *, gradients: bool = True, figures: bool = True, kept: bool = False, **_: Any
) -> Iterator[Bad]:
    for bad in (None, "resnet18", 3, torch.ones(2), [value], {"model": value}):
        yield Bad("a model that cannot be called", bad)
    if kept:
        return
    for kind, (wanted, answer) in ANSWERS.items():
        values = ("a model of NaN", "a model of +inf", "a model of -inf alone")
        points = not figures and kind in values  # come back, and whoever asks of them refuses
        yield Bad(kind, answering(answer), EITHER if points else wanted)
    wanted = REFUSE if gradients else EITHER
    yield Bad("a detached model", answering(lambda z: z.detach()), wanted)
    yield Bad("a detached model", lambda x: value(x.detach()), wanted)
    yield Bad("a detached model", torch.no_grad()(value.forward), wanted)
    yield Bad("a model that writes into its inputs", Writing(), EITHER)
    yield Bad("a model that writes into its inputs", lambda x: value(x.mul_(0.5)), EITHER)
    yield Bad("infinite gradients", Broken(), EITHER)


def of_number(
    value: Any,
    *,
    negative: str = REFUSE,
    zero: str = EITHER,
    large: str = EITHER,
    optional: bool = False,
    **_: Any,
) -> Iterator[Bad]:
    yield Bad("NaN", torch.nan)
    yield Bad("infinity", torch.inf)
    yield Bad("infinity", -torch.inf)
    yield Bad("negative", -0.1, negative)
    yield Bad("negative", -1, negative)
    yield Bad("zero", 0, zero)
    yield Bad("too large", 1e9, large)
    for bad in ("0.1", "a", b"x"):
        yield Bad("a string", bad)
    yield Bad("None", None, EITHER if optional else REFUSE)
    yield Bad("bool", True)
    yield Bad("complex", 1j)
    yield Bad("a list", [0.1])
    yield Bad("a dict", {"value": 0.1})
    yield Bad("another library's array", np.array([0.1, 0.2]))
    yield Bad("another library's array", np.array(np.nan))
    yield Bad("wrong length", torch.tensor([0.1, 0.2, 0.3]))
    yield Bad("a function", lambda: 0.1)


def of_count(value: Any, *, zero: str = REFUSE, optional: bool = False, **_: Any) -> Iterator[Bad]:
    yield Bad("zero", 0, zero)
    for bad in (-1, -100, np.int64(-3)):
        yield Bad("negative", bad)
    for bad in (1.0, 2.5, np.float64(2.0)):
        yield Bad("fractions of steps", bad)
    yield Bad("NaN", torch.nan)
    yield Bad("infinity", torch.inf)
    yield Bad("bool", True)
    yield Bad("bool", np.True_)
    yield Bad("a string", "10")
    yield Bad("None", None, EITHER if optional else REFUSE)
    yield Bad("complex", 1j)
    yield Bad("a list", [2])
    yield Bad("another library's array", np.array([2, 3]))
    yield Bad("wrong length", torch.tensor([2, 3]))


def of_word(value: Any, *, optional: bool = False, **_: Any) -> Iterator[Bad]:
    for bad in ("unknown", "Linf", "L2", "", " linf", "inf"):
        yield Bad("an unknown word", bad)
    yield Bad("None", None, EITHER if optional else REFUSE)
    for bad in (2, 0.5, torch.inf, np.inf):
        yield Bad("a number", bad)
    yield Bad("bool", True)
    yield Bad("a list", ["linf"])
    yield Bad("a dict", {})


def of_switch(value: Any, *, optional: bool = False, **_: Any) -> Iterator[Bad]:
    for bad in ("yes", "False", ""):
        yield Bad("a string", bad)
    for bad in (0, 1, 1.0):
        yield Bad("a number", bad)
    yield Bad("None", None, EITHER if optional else REFUSE)
    yield Bad("a list", [])
    yield Bad("another library's array", np.array([True, False]))
    yield Bad("wrong length", torch.tensor([True, False]))


def of_function_(value: Any, *, optional: bool = False, **_: Any) -> Iterator[Bad]:
    yield Bad("None", None, EITHER if optional else REFUSE)
    yield Bad("a string", "no such thing")
    yield Bad("a number", 3)
    yield Bad("a list", [value])
    yield Bad("a dict", {"it": value})


def of_attack(
    value: Any, *, optional: bool = False, crafts: bool = False, **_: Any
) -> Iterator[Bad]:
    yield from of_function_(value, optional=optional)
    answers: list[Callable[[Any, Any, Any], Any]] = [
        lambda m, x, y: None,
        lambda m, x, y: (x, y),
        lambda m, x, y: x.numpy(),
        lambda m, x, y: x[:-1],
        lambda m, x, y: x.double(),
        lambda m, x, y: m(x),
    ]
    for answer in answers:
        yield Bad("an attack of another answer", answer)
    yield Bad("an attack of NaN", lambda m, x, y: x * torch.nan, EITHER if crafts else REFUSE)
    yield Bad("an attack of NaN", lambda m, x, y: x + torch.inf, EITHER if crafts else REFUSE)


def of_loss(value: Any, **_: Any) -> Iterator[Bad]:
    for bad in (None, "unknown", 3, ["margin"]):
        yield Bad("an unknown word", bad)
    answers: list[Callable[[Any, Any], Any]] = [
        lambda z, y: None,
        lambda z, y: 1.0,
        lambda z, y: z,
        lambda z, y: z.sum(1)[:-1],
        lambda z, y: z.sum(1).detach(),
        lambda z, y: z.sum(1) * torch.nan,
        lambda z, y: torch.where(torch.arange(len(z)) == 1, torch.nan, z.sum(1)),
        lambda z, y: z.sum(1).to(torch.complex64),
    ]
    for answer in answers:
        yield Bad("a loss of another answer", answer)


def of_generator(value: Any, **_: Any) -> Iterator[Bad]:
    yield Bad("a generator of another kind", np.random.default_rng(0))
    yield Bad("a generator of another kind", np.random.RandomState(0))
    yield Bad("a generator of another kind", torch.get_rng_state())
    yield Bad("a number", 0)
    yield Bad("a string", "seed")
    yield Bad("a list", [0])


def of_bounds(value: Any, *, finite: bool = False, **_: Any) -> Iterator[Bad]:
    for bad in ((1.0, 0.0), (1, 0), (0.5, 0.5), (255.0, 0.0)):
        yield Bad("reversed bounds", bad)
    for bad in ((torch.nan, 1.0), (0.0, torch.nan)):
        yield Bad("NaN", bad)
    for bad in (("0", "1"), ("low", "high")):
        yield Bad("a string", bad)
    yield Bad("a string", "01")
    yield Bad("a number", 1.0)
    yield Bad("None", None, REFUSE if finite else EITHER)
    yield Bad("None", (0.0, None))
    for bad in ((0.0,), (0.0, 0.5, 1.0), ()):
        yield Bad("wrong length", bad)
    yield Bad("a dict", {"low": 0.0, "high": 1.0})
    yield Bad("bool", (False, True))
    yield Bad("complex", (0j, 1j))
    yield Bad("another library's array", np.array([0.0, 1.0]))
    yield Bad("wrong length", (torch.zeros(7), torch.ones(7)))
    yield Bad("NaN", (torch.tensor(torch.nan), torch.tensor(1.0)))


def of_path(value: Any, *, optional: bool = False, **_: Any) -> Iterator[Bad]:
    yield Bad("None", None, EITHER if optional else REFUSE)
    yield Bad("a number", 3)
    yield Bad("a list", [value])
    for bad in ("", "/nowhere/at/all/it.pt"):
        yield Bad("a path to nowhere", bad)


def of_text(value: Any, *, optional: bool = False, **_: Any) -> Iterator[Bad]:
    yield Bad("None", None, EITHER if optional else REFUSE)
    yield Bad("a number", 3)
    yield Bad("a list", ["title"])
    yield Bad("bool", True)


def of_dtype(value: Any, *, optional: bool = False, **_: Any) -> Iterator[Bad]:
    yield Bad("None", None, EITHER if optional else REFUSE)
    yield Bad("a string", "bfloat16")
    yield Bad("bool", True)
    yield Bad("a number", 16)
    yield Bad("whole numbers", torch.int8)
    yield Bad("complex", torch.complex64)


def of_device(value: Any, **_: Any) -> Iterator[Bad]:
    for bad in ("gpu", "", "cuda:x", 1.5, [], torch.float32):
        yield Bad("an unknown device", bad)


def of_batches(value: Any, **options: Any) -> Iterator[Bad]:
    for bad in (None, 3, "data"):
        yield (
            Bad("batches that are none", bad, EITHER if options.get("optional") else REFUSE)
            if (bad is None)
            else Bad("batches that are none", bad)
        )
    yield Bad("empty", [])
    yield Bad("batches that are none", network())
    for bad in (None, 3, "ab", (), {"inputs": images(), "labels": classes()}, images()):
        yield Bad("batches of another kind", [bad])
    yield Bad("batches of another kind", [(images().numpy(), classes().numpy())])
    yield Bad("batches of another kind", [(images().tolist(), classes().tolist())])
    first, *others = value
    yield from of_batch(first, into=lambda batch: [batch, *others], **options)


def of_batch(
    value: Any,
    into: Callable[[Any], Any] = lambda batch: batch,
    labelled: bool = True,
    training: bool = False,
    **_: Any,
) -> Iterator[Bad]:
    inputs, labels, *rest = value
    for bad in of_inputs(inputs, integers=EITHER, alone=not labelled):
        shown = bad.kind in ("NaN", "infinity") and (training or not labelled)  # by what comes out
        wanted = EITHER if shown else bad.wanted
        yield Bad(bad.kind, into((bad.value, labels, *rest)), wanted)
    if labelled:
        for bad in of_labels(labels):
            # Soft labels are labels in training, and -100 marks those to leave out.
            soft = training and bad.kind in ("one-hot labels", "labels out of range")
            wanted = EITHER if soft and _is_soft(bad.value) else bad.wanted
            yield Bad(bad.kind, into((inputs, bad.value, *rest)), wanted)


def _is_soft(labels: Any) -> bool:
    return labels.is_floating_point() or bool((labels == -100).any())


def of_one_batch(value: Any, **_: Any) -> Iterator[Bad]:
    for bad in (None, 3, "ab", (), value[:1], {"inputs": images(), "labels": classes()}, images()):
        yield Bad("batches of another kind", bad)
    yield from of_batch(value, training=True)


def of_sequence(value: Any, *, optional: bool = False, **_: Any) -> Iterator[Bad]:
    yield Bad("None", None, EITHER if optional else REFUSE)
    yield Bad("a number", 3)
    yield Bad("a string", "no such thing")
    yield Bad("bool", True)
    yield Bad("a list", [None])
    yield Bad("a list", [3.5])
    yield Bad("a list", [[]])


def of_mapping(value: Any, *, optional: bool = False, **_: Any) -> Iterator[Bad]:
    yield from of_sequence(value, optional=optional)
    yield Bad("a dict", {"a": None})
    yield Bad("a dict", {"a": "no such thing"})


def of_runs(value: Any, *, optional: bool = False, **_: Any) -> Iterator[Bad]:
    value = [torch.as_tensor(each) for each in value]
    yield from of_sequence(value)
    yield Bad("empty", [], EITHER if optional else REFUSE)
    yield Bad("wrong length", [value[0]], EITHER if optional else REFUSE)
    yield Bad("wrong length", [value[0], value[0][:-1]])
    for bad in of_probs(value[0]):
        yield bad._replace(value=[bad.value, value[1]])


def of_kept(value: Any, *, optional: bool = False, **_: Any) -> Iterator[Bad]:
    """What only another function of the library makes."""
    yield Bad("None", None, EITHER if optional else REFUSE)
    yield Bad("a number", 3)
    yield Bad("a string", "no such thing")
    yield Bad("a list", [3])
    yield Bad("a dict", {})


def of_sets_of_batches(value: Any, **options: Any) -> Iterator[Bad]:
    yield from of_mapping(value)
    for bad in of_batches(value["test"], **options):
        yield bad._replace(value={"test": bad.value})


def of_radii(value: Any) -> Iterator[Bad]:
    yield from of_sequence(value)
    for bad in radius(0.1):
        yield bad._replace(value=[bad.value])


def of_severity(value: Any, **_: Any) -> Iterator[Bad]:
    yield from of_sequence(value)
    for bad in of_count(3):
        yield bad._replace(value=(bad.value,))


def of_word_or_function(value: Any, **_: Any) -> Iterator[Bad]:
    yield from of_word(value)
    for answer in (lambda z: None, lambda z: z, lambda z: z.sum(), lambda z: z.sum(1) * torch.nan):
        yield Bad("a score of another answer", answer)


def radius(value: Any, *, tensors: bool = False, optional: bool = False, **_: Any) -> Iterator[Bad]:
    yield from of_number(value, zero=EITHER, optional=optional)
    if tensors:
        for bad in (-torch.ones(N), torch.full((N,), torch.nan), torch.full((N,), torch.inf)):
            yield Bad("negative", bad)
        yield Bad("wrong length", torch.full((N + 1,), 0.1))
        yield Bad("(n, 1)", torch.full((N, 1), 0.1))
        yield Bad("bool", torch.ones(N, dtype=torch.bool))


_NUMBER_ABOVE_0 = partial(of_number, zero=REFUSE)
_SHARE = partial(of_number, large=REFUSE)
_OPEN_SHARE = partial(of_number, zero=REFUSE, large=REFUSE)
_ANY_NUMBER = partial(of_number, negative=EITHER)


def allowing(kind: Callable[..., Iterator[Bad]], *mistakes: str) -> Callable[..., Iterator[Bad]]:
    """Let a callable take some mistakes that it cannot see, or that whoever is next refuses."""

    def of_most(value: Any, **options: Any) -> Iterator[Bad]:
        for bad in kind(value, **options):
            yield bad._replace(wanted=EITHER) if bad.kind in mistakes else bad

    return of_most


# How an argument of each name is got wrong.
KINDS: dict[str, Callable[..., Iterator[Bad]]] = {
    **dict.fromkeys(("inputs", "points", "gradient"), of_inputs),
    "labels": of_labels,
    "logits": of_logits,
    "probs": of_probs,
    "attacked": of_logits,
    **dict.fromkeys(("scores", "distances"), of_vector),
    "omega": of_vector,
    "sets": lambda value, **_: other_kinds(value),
    "rows": of_kept,
    "levels": lambda value, **_: of_labels(value, classes=1, optional=True),
    "runs": of_runs,
    "model": of_model,
    **dict.fromkeys(("eps",), radius),
    **dict.fromkeys(
        ("accuracy", "eta", "noise", "confidence", "score", "threshold"), _ANY_NUMBER
    ),
    **dict.fromkeys(
        ("beta", "gamma", "kappa", "l2_bias", "l2_off_diagonal", "lam", "margin", "momentum",
         "overshoot", "penalty", "tol"), of_number,
    ),
    **dict.fromkeys(("rho", "smoothing"), of_number),
    **dict.fromkeys(
        ("initial_c", "initial_eps", "sigma", "temperature"), _NUMBER_ABOVE_0
    ),
    **dict.fromkeys(("bandwidth", "max_norm", "prior", "step_size"),
                    partial(_NUMBER_ABOVE_0, optional=True)),
    **dict.fromkeys(("alpha", "coverage", "delta", "initial_p", "level", "tpr"), of_number),
    **dict.fromkeys(
        ("accumulate", "candidates", "n_bins", "n_levels", "n_pilot", "queries", "resamples",
         "restarts", "search_steps", "severity", "size", "steps", "n"), of_count,
    ),
    "strength": partial(of_number, optional=True),
    **dict.fromkeys(("every", "schedule_steps"), partial(of_count, optional=True)),
    "n_classes": of_count,
    **dict.fromkeys(("n_free", "n_targets"), partial(of_count, zero=EITHER)),
    **dict.fromkeys(
        ("binning", "corruption", "figure", "format", "label", "method", "norm", "reduction",
         "side", "statistic", "variant"), of_word,
    ),
    **dict.fromkeys(
        ("all_reduce", "channels_last", "from_logits", "joint", "percent", "random_start",
         "stacked", "stop_early", "targeted", "votes"), of_switch,
    ),
    "attack": of_attack,
    **dict.fromkeys(("member", "metric", "objective", "run"), of_function_),
    **dict.fromkeys(
        ("average", "backward", "certified", "forward", "map", "progress", "schedule"),
        partial(of_function_, optional=True),
    ),
    "loss": of_loss,
    "generator": of_generator,
    "bounds": of_bounds,
    "path": of_path,
    "checkpoint": partial(of_path, optional=True),
    "dtype": of_dtype,
    "autocast": partial(of_dtype, optional=True),
    "device": of_device,
    **dict.fromkeys(("batches", "in_batches"), of_batches),
    **dict.fromkeys(("held_out", "out_batches"), partial(of_batches, optional=True)),
    **dict.fromkeys(("train", "validation"), of_batches),
    "batch": of_one_batch,
    **dict.fromkeys(
        ("attacks", "objectives", "maximise", "minimise", "values", "weights"), of_sequence
    ),
    **dict.fromkeys(
        ("batch_sizes", "kinds", "columns", "figures", "affine", "seeds"), of_sequence
    ),
    **dict.fromkeys(("audits", "models", "sources", "targets", "records"), of_mapping),
    "costs": partial(of_mapping, optional=True),
    **dict.fromkeys(("title", "by", "against"), partial(of_text, optional=True)),
    **dict.fromkeys(("curves", "settings", "names"), of_sequence),
    **dict.fromkeys(("ax", "axes", "band", "interval"), partial(of_kept, optional=True)),
    **dict.fromkeys(("calibrator", "bins", "optimizer", "reach", "reference", "state"), of_kept),
}  # fmt: skip
# Arguments of one function or two, whose own tests refuse bad values.
OF_ONE_FUNCTION = {
    "across", "baseline", "best", "changed", "clean", "count", "denominator", "digits",
    "ignore_index", "intervals", "others", "over", "patience", "positive", "start",
}  # fmt: skip
# In every step of an attack: kinds and shapes are checked, values are not.
_POINTS = allowing(of_inputs, "NaN", "infinity")
_VALUES = ("rows that do not sum to 1", "negative", "logits for probabilities", "infinity", "NaN")
_DRAWN = ("score_histograms", "shift_boxes", "transfer_matrix")
# Where a name means something else.
OWN_KINDS: dict[str, dict[str, Callable[..., Iterator[Bad]]]] = {
    **{f"attacks.Ball.{name}": {"points": _POINTS} for name in ("length", "project")},
    "attacks.Ball.ascend": {"points": _POINTS, "gradient": _POINTS, "size": radius},
    "attacks.Ball.steepest": {
        "gradient": _POINTS,
        "points": allowing(of_inputs, "NaN", "infinity", "None"),
    },
    "attacks.uniform_noise": {"labels": allowing(of_labels, "labels out of range")},
    # What a model takes is for the model to say; times do not depend on values.
    "evaluation.costs": {
        "inputs": allowing(
            of_inputs,
            "whole numbers",
            "NaN",
            "infinity",
            "a dimension too few",
            "a dimension too many",
            "wrong length",
        )
    },
    "evaluation.sweep": {"batches": lambda value, **options: of_sets_of_batches(value, **options)},
    "evaluation.diagnose": {"attacks": partial(of_mapping, optional=True)},
    "evaluation.confidence_envelope": {"eps": lambda value, **_: of_radii(value)},
    # Words of a label there; values are looked at by what takes the rows.
    **{f"plots.{name}": {"figure": allowing(of_word, "an unknown word")} for name in _DRAWN},
    "metrics.labelled": {
        "probs": allowing(of_probs, *_VALUES),
        "labels": allowing(of_labels, "labels out of range"),
    },
    "plots.image_grid": {"inputs": of_mapping, "probs": of_mapping},
    "certify.certify": {"state": partial(of_kept, optional=True)},
    "certify.conformal": {"score": of_word},
    "evaluation.corruptions": {"severity": of_severity},
    "evaluation.detection": {"score": of_word_or_function},
    "losses.dlr": {"targets": lambda value, **_: of_labels(classes(30), optional=True)},
    "losses.SmoothingState.update": {"n": partial(of_kept, optional=True)},
    "metrics.paired_test": {"others": of_probs},
    "metrics.robust_error": {"attacked": lambda value, **_: of_runs(value * 2, optional=True)},
    "trainers.AdaptiveSmoothing.rank_by": {"validation": of_vector},
    "trainers.AdaptiveSmoothing.rank": {"attack": of_function_},
    "attacks.adversarial_distance": {"attack": of_function_},
    "trainers.anti_adversarial": {"reference": of_attack},
    "trainers.catastrophic_overfitting": {"records": of_sequence},
    "trainers.ensemble": {"models": of_sequence},
}

# Callables that need no gradient of the model.
FORWARD_ONLY = {
    "evaluation.diagnose", "trainers.AdaptiveSmoothing", "trainers.mixed", "trainers.mixup",
    "trainers.noisy", "trainers.standard",
    "attacks.square", "attacks.uniform_noise", "attacks.expectation", "certify.certify",
    "certify.smoothed", "certify.crown", "certify.interval", "trainers.predict",
    "trainers.AdaptiveSmoothing.update",
    "trainers.EarlyStopping.update", "trainers.EarlyStopping.restore",
}  # fmt: skip

# Those in attacks and trainers that give figures, and not points or a loss.
FIGURED = {
    "attacks.adversarial_distance", "trainers.predict",
    "trainers.AdaptiveSmoothing.update",
}  # fmt: skip


def bad_values(name: str, tried: Tried) -> Iterator[tuple[str, int, Bad]]:
    """Yield what to try of a callable: an argument, its number there, and a bad value of it."""
    for argument, optional in tried.names.items():
        given = good(name, tried)
        kind = OWN_KINDS.get(name, {}).get(argument, KINDS.get(argument))
        if argument == "levels" and name.startswith("attacks."):  # of grey, not of robustness
            kind = partial(of_count, optional=True)
        if kind is None:
            assert argument in OF_ONE_FUNCTION, f"{argument} of {name} has no kind of bad values"
            continue
        value = given.get(argument, GOOD.get(argument, lambda: None)())
        if isinstance(value, np.ndarray):
            value = torch.from_numpy(value)
        options: dict[str, Any] = {}
        if argument in ("logits", "probs", "labels", "scores", "distances"):
            options["arrays"] = tried.takes_arrays and "labels" not in tried.names
            options["arrays"] |= name.startswith("calibrators.Calibrator")
        if argument == "held_out" and value is None:
            value = batches()
        options["alone"] = "labels" not in tried.names
        if name.startswith("losses.") and argument in ("logits", "attacked"):
            options["values"] = EITHER  # a loss of NaN says so itself, and training does not wait
        if argument in ("attack", "reference"):
            options["crafts"] = name.split(".")[0] in ("attacks", "trainers")  # figures refuse
        unlabelled = ("evaluation.detection", "trainers.check_disjoint", "evaluation.corruptions")
        if name in (
            *unlabelled,
            "trainers.AdaptiveSmoothing.unseen",
            "trainers.adaptive_smoothing",
        ):
            options["labelled"] = False
        options["training"] = name.startswith("trainers.")
        if argument == "model":
            options["gradients"] = name not in FORWARD_ONLY
            # Copied or only asked for, and not called.
            options["kept"] = "EarlyStopping" in name or name == "attacks.uniform_noise"
            options["figures"] = name in FIGURED or (
                name.split(".")[0] in ("certify", "evaluation") and name != "certify.smoothed"
            )
        if argument == "eps":
            options["tensors"] = name.startswith("attacks.")
        if optional:
            options["optional"] = optional
        if argument == "labels" and isinstance(value, torch.Tensor):
            options["classes"] = 2 if "scores" in given else max(CLASSES, int(value.max()) + 1)
        yield from ((argument, i, bad) for i, bad in enumerate(kind(value, **options)))


# --- what happens ----------------------------------------------------------------------------

TYPES = ("Attack", "Batch", "Loss", "Objective")  # to annotate with
REFUSED, WARNED, ACCEPTED, OBSCURE = "refused", "warned", "accepted", "obscure"
MODEL = "the model's own error"
SAID_AS = {
    "model": "model|logits|loss|gradient",
    "loss": "loss",
    "in_batches": "batch|inputs|labels",
}


def outcome(name: str, tried: Tried, argument: str, value: Any) -> tuple[str, str]:
    """Call with one bad argument and tell what came of it, and in which words."""
    given = good(name, tried)
    given[argument] = value
    if argument == "model" and "optimizer" in given:
        given["optimizer"] = torch.optim.SGD([nn.Parameter(torch.ones(1))], lr=0.1)
    with warnings.catch_warnings(record=True) as said, torch.random.fork_rng(devices=[]):
        warnings.simplefilter("always")
        try:
            result = tried.call(**given)
            if inspect.isgenerator(result):
                list(result)
            elif name.endswith("corruptions"):
                [list(each) for each in result.values()]
        except Exception as error:
            words = f"{type(error).__name__}: {error}"
            own = isinstance(error, (TypeError, ValueError)) and str(error).startswith("expected")
            own |= isinstance(error, FileNotFoundError) and str(value) in str(error)
            own |= isinstance(error, FloatingPointError) and str(error).startswith("expected")
            called = [frame.f_code for frame, _ in traceback.walk_tb(error.__traceback__)]
            if not own and any("torch/nn/modules" in code.co_filename for code in called):
                return MODEL, words
            return REFUSED if own else OBSCURE, words
    ours = [str(each.message) for each in said if str(each.message).startswith("expected")]
    return (WARNED, ours[0]) if ours else (ACCEPTED, "")


def verdict(wanted: str, found: str) -> str:
    """Tell whether what happened is right: one of the columns of the table."""
    if found in (OBSCURE, MODEL):
        return found
    if found == REFUSED:
        return "refused"
    if wanted == EITHER or (wanted == SAY and found == WARNED):
        return "accepted, rightly"
    return "accepted, wrongly"


def tries(
    names: Callable[[str], bool] = lambda _: True,
    chosen: Callable[[str, str, int], bool] = lambda *_: True,
) -> Iterator[Any]:
    """Yield the callable, the argument, the kind of mistake, the verdict and the words."""
    for name, tried in callables().items():
        for argument, i, bad in bad_values(name, tried) if names(name) else ():
            if chosen(name, argument, i):
                _close_figures()
                found, words = outcome(name, tried, argument, bad.value)
                yield name, argument, bad, verdict(bad.wanted, found), words


COLUMNS = ("refused", "accepted, rightly", MODEL, "obscure", "accepted, wrongly")


def _close_figures() -> None:
    if "matplotlib.pyplot" in sys.modules:
        sys.modules["matplotlib.pyplot"].close("all")


# Minutes, of arguments that its parts are tried with; and records of sweeps of its own.
LEFT_OUT = ("evaluation.audit", "evaluation.corruption_errors")


def counted(found: dict[str, Counter[str]]) -> Iterator[str]:
    for key, counts in found.items():
        figures = " | ".join(str(counts[column]) for column in COLUMNS)
        yield f"| {key} | {counts.total()} | {figures} | {100 * share(counts):.1f} % |"


def share(counts: Counter[str]) -> float:
    """Return what part of the calls that should be refused are, in the library's own words."""
    wanted = counts["refused"] + counts[OBSCURE] + counts["accepted, wrongly"]
    return counts["refused"] / wanted if wanted else 1.0


def table() -> str:
    """Try all, and lay out what came of it, by room and by kind of mistake."""
    by_room: dict[str, Counter[str]] = {}
    by_kind: dict[str, Counter[str]] = {}
    total: Counter[str] = Counter()
    for name, argument, bad, how, words in tries(lambda name: not name.startswith(LEFT_OUT)):
        keys = (by_room, name.split(".")[0]), (by_kind, bad.kind)
        for counts in (*(table.setdefault(key, Counter()) for table, key in keys), total):
            counts[how] += 1
        if how in COLUMNS[3:] and "-v" in sys.argv:
            print(how, name, argument, bad.kind, repr(bad.value)[:60], words[:160], sep="\t")
    cells = " | ".join(("", "calls", *COLUMNS, "of those to be refused"))
    rule = "|---" + "|--:" * (2 + len(COLUMNS)) + "|"
    rooms, kinds = ([*counted(dict(sorted(each.items())))] for each in (by_room, by_kind))
    head = f"# Bad inputs\n\nWritten by `python -m tests.bad_inputs`: {len(callables())} callables."
    lines = [head, "", f"{cells} |", rule, *rooms, *counted({"**all**": total}), ""]
    return "\n".join([*lines, f"{cells} |", rule, *kinds, ""])


if __name__ == "__main__":
    TABLE.write_text(table(), encoding="utf-8")
    print(TABLE.read_text(encoding="utf-8"))
