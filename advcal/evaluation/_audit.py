"""One call, one report: accuracy and calibration, clean, under attack and certified."""

from __future__ import annotations

import dataclasses
import json
import math
import os
import time
from collections.abc import Callable, Iterable, Mapping
from functools import partial
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor

from advcal import _checks, metrics
from advcal._pass import Way, again, one_pass
from advcal._sums import exact
from advcal._typing import Attack, Batch, Forward, Model, Progress
from advcal.attacks import apgd, worst_case
from advcal.certify import Reach, conformal, figures, set_figures
from advcal.evaluation._detect import detection
from advcal.evaluation._diagnose import diagnose
from advcal.evaluation._envelope import confidence_envelope
from advcal.evaluation._fingerprint import fingerprint
from advcal.evaluation._page import page
from advcal.evaluation._report import rows_of, tabular

_PROBED = 100  # examples that `diagnose` looks at


@dataclasses.dataclass(frozen=True)
class Audit:
    """What `audit` found; `str` lays it out as a table, `html()` as a page.

    Attributes:
        settings: What the audit was made of: numbers and words.
        parts: Plain numbers and lists under `"clean"`, `"attacked"`, `"envelope"`, `"diagnosis"`
            and, if there was something to make them of, `"certified"` and `"detection"`.
    """

    settings: Mapping[str, Any]
    parts: Mapping[str, Any]

    @property
    def verdict(self) -> str:
        """The verdict of `diagnose` on the attack; `"fail"` voids what is said of attacks."""
        found: str = self.parts.get("diagnosis", {}).get("verdict", "skip")
        return found

    @property
    def robust_accuracy(self) -> tuple[float, float]:
        """What is certified and what the attack left: the truth is between them."""
        certified = self.parts.get("certified", {}).get("accuracy_low", 0.0)
        return certified, self.parts["attacked"]["figures"]["accuracy"][0]

    def as_dict(self) -> dict[str, Any]:
        """Return plain numbers and lists, ready for JSON."""
        return {"settings": dict(self.settings), "parts": dict(self.parts)}

    def html(self) -> str:
        """Return one page of HTML, by itself: no script, and nothing from elsewhere."""
        return page({"": self.as_dict()})

    def __str__(self) -> str:
        return tabular(rows_of(self.as_dict()), "markdown")


def audit(
    model: Model,
    batches: Iterable[Batch],
    *,
    eps: float,
    norm: Literal["linf", "l2"] = "linf",
    attack: Attack | None = None,
    certified: Callable[..., Reach] | None = None,
    held_out: Iterable[Batch] | None = None,
    out_batches: Iterable[Batch] | None = None,
    steps: int = 20,
    n_bins: int = 15,
    bounds: tuple[float, float] = (0.0, 1.0),
    path: str | os.PathLike[str] | None = None,
    generator: torch.Generator | None = None,
    autocast: torch.dtype | None = None,
    channels_last: bool = False,
    device: torch.device | str | None = None,
    forward: Forward | None = None,
    progress: Progress | None = None,
) -> Audit:
    """Audit how accurate and how calibrated a model is: clean, under attack, and certified.

    On the data as they are and under attack: accuracy, ECE, MCS, NLL, Brier score and AURC with
    95 % intervals over the examples (of the attacked ones: given this attack). Then how far attacks
    move the confidence at unchanged predictions up to `eps`; what `diagnose` thinks of attacking
    this model, on a hundred examples; and, if there is something to make them of, certified bounds,
    prediction sets and detection. The three kinds of figures are told apart throughout: estimates,
    what attacks found, and certificates.

    Args:
        model: Inputs `(n, ...)` to logits `(n, classes)`; it runs as in `evaluate`.
        batches: Batches `(inputs, labels, *rest)` that can be read again.
        eps: The radius, in units of the inputs.
        norm: `"linf"` or `"l2"`.
        attack: `(model, inputs, labels) -> inputs` within `eps`; by default the worst of `apgd` on
            cross-entropy and on the margin.
        certified: `(model, inputs, eps=...) -> Reach`, such as `advcal.certify.crown`, or None.
        held_out: Labelled batches on which to calibrate sets of classes that hold the label nine
            times in ten, or None.
        out_batches: Batches from outside the distribution, to be told apart, or None.
        steps: The number of steps of each attack.
        n_bins: The number of equal-width bins of the ECE.
        bounds: The lowest and the highest valid value of an input.
        path: A file of JSON that holds each part as soon as it is there, and from which a killed
            audit of the same settings goes on; nothing is written if None. It knows data by their
            first hundred examples.
        generator: Where attacks and intervals draw from; a copy of the global one if None.
        autocast: `torch.bfloat16` to run model and attacks in mixed precision.
        channels_last: Whether to lay out four-dimensional inputs channels last.
        device: Where batches go; to the device of the model if None.
        forward: `(model, batch) -> logits` for a model that takes more of a batch than the inputs.
        progress: A wrapper of an iterable that shows progress, such as `tqdm.tqdm`; of the parts.

    Returns:
        An `Audit`.

    Raises:
        TypeError: If an argument or a batch is of the wrong kind, or batches can be read only once.
        ValueError: If there are no batches, or a value or the file is wrong.

    Example:
        >>> model = torch.nn.Linear(2, 2)
        >>> batches = [(torch.rand(40, 2), torch.arange(40) % 2)]
        >>> found = audit(model, batches, eps=0.1, steps=3)
        >>> sorted(found.parts)
        ['attacked', 'clean', 'diagnosis', 'envelope']
    """
    for each in (batches, held_out, out_batches):
        if each is not None:
            again(each)
    _checks.choice("norm", norm, ("linf", "l2"))
    _checks.arguments(steps=steps, n_bins=n_bins, generator=generator, progress=progress)
    eps = _checks.number("eps", eps, above=0)
    _checks.bounds_pair(bounds, finite=True)
    if path is not None:
        _checks.path("path", path)
    if certified is not None:
        _checks.function("certified", certified)
    common: dict[str, Any] = {"norm": norm, "bounds": bounds}
    words = "the worst of APGD on cross-entropy and on the margin"
    if attack is None:
        climb = partial(apgd, eps=eps, steps=steps, generator=generator, **common)
        attack = worst_case(climb, partial(climb, loss="margin"))
    else:
        _checks.arguments(attack=attack)
        words = fingerprint(attack)

    options: dict[str, Any] = {"autocast": autocast, "channels_last": channels_last}
    options |= {"device": device, "forward": forward}
    ball = {"eps": eps, "generator": generator, **common}
    work = _Work(model, batches, options, ball, attack, n_bins)
    parts: dict[str, Callable[[], Any]] = {
        "clean": partial(work.side, None, held_out),
        "attacked": partial(work.side, attack, held_out),
        "envelope": partial(work.envelope, steps, certified),
        "diagnosis": work.diagnosis,
    }
    if certified is not None:
        parts["certified"] = partial(work.certified, certified)
    if out_batches is not None:
        parts["detection"] = partial(work.detection, out_batches)
    settings: dict[str, Any] = {"eps": eps, "norm": norm, "steps": steps, "n_bins": n_bins}
    settings |= {"bounds": list(bounds), "data": fingerprint(work.first(_PROBED))}
    settings |= {"held_out": held_out is not None, "words": words}
    settings |= {"model": fingerprint(model), "attack": fingerprint(attack)}
    settings |= {"certified": None if certified is None else fingerprint(certified)}
    settings |= {"autocast": None if autocast is None else str(autocast)}
    file = None if path is None else Path(path)
    done = _read(file, settings)
    todo: Iterable[str] = [name for name in parts if name not in done]
    for name in todo if progress is None else progress(todo):
        start = time.perf_counter()
        part = parts[name]()
        done[name] = {**part, "seconds": round(time.perf_counter() - start, 3)}
        _write(file, {"settings": settings, "parts": done})
    return Audit(settings, {name: done[name] for name in parts})


@dataclasses.dataclass(frozen=True)
class _Work:
    """What the parts of an audit are made of."""

    model: Model
    batches: Iterable[Batch]
    options: dict[str, Any]
    ball: dict[str, Any]
    attack: Attack
    n_bins: int

    def side(self, attack: Attack | None, held_out: Iterable[Batch] | None) -> dict[str, Any]:
        """Take every figure with its interval, before or under attack."""
        probs, labels = self._outputs(self.batches, attack)
        generator = self.ball["generator"]
        over = partial(metrics.bootstrap, probs=probs, labels=labels, generator=generator)
        right = int((probs.argmax(dim=1) == labels).sum())
        ece = metrics.ece_interval(probs, labels, n_bins=self.n_bins, generator=generator)
        intervals: dict[str, Any] = {
            "accuracy": wilson(right, len(labels)),
            "ece": ece,
            "mcs": over(metrics.mcs),
            "nll": over(metrics.nll),
            "brier": over(metrics.brier),
            "aurc": over(metrics.aurc),
        }
        bins = metrics.reliability_bins(probs, labels, n_bins=self.n_bins)
        names = ("edges", "counts", "confidences", "corrects")
        found: dict[str, Any] = {
            "n": len(labels),
            "figures": {name: [float(end) for end in ends] for name, ends in intervals.items()},
            "bins": {name: getattr(bins, name).tolist() for name in names},
        }
        if held_out is not None:
            sets = conformal(*self._outputs(held_out, None))
            found["sets"] = dataclasses.asdict(set_figures(sets(probs), labels))
        return found

    def envelope(self, steps: int, certified: Callable[..., Reach] | None) -> dict[str, Any]:
        """Find how far the confidence can be moved, at a quarter, half and all of the radius."""
        eps = self.ball["eps"]
        options = {**self.options, **self.ball, "eps": [eps / 4, eps / 2, eps]}
        found = confidence_envelope(
            self.model, self.batches, steps=steps, certified=certified, **options
        )
        return found.as_dict()

    def diagnosis(self) -> dict[str, Any]:
        """Look for signs that attacks fail, on a few examples."""
        return diagnose(self.model, self.first(_PROBED), **self.ball, **self.options).as_dict()

    def detection(self, out_batches: Iterable[Batch]) -> dict[str, Any]:
        """Tell what is outside, before and under attack."""
        tell = partial(detection, self.model, self.batches, out_batches, **self.options)
        return {"clean": tell().as_dict(), "attacked": tell(attack=self.attack).as_dict()}

    def certified(self, certified: Callable[..., Reach]) -> dict[str, Any]:
        """Bound every figure."""
        reaches, labels = [], []
        with one_pass([self.model], self.batches, Way(**self.options)) as parts:
            for part in parts:
                points = part.floats
                reaches.append(certified(part.taking(self.model), points, eps=self.ball["eps"]))
                labels.append(part.labels)
        lower, upper, kept = (
            torch.cat([getattr(each, name).cpu() for each in reaches])
            for name in ("lower", "upper", "labels")
        )
        whole = Reach(lower, upper, kept, max(each.alpha for each in reaches))
        found = figures(whole, torch.cat(labels).cpu(), n_bins=min(self.n_bins, 16))
        return dataclasses.asdict(found)

    def first(self, n: int) -> list[Batch]:
        """Return the first n examples, in batches."""
        some: list[Batch] = []
        for batch in self.batches:
            rows = n - sum(len(each[0]) for each in some)
            if rows <= 0:
                break
            some.append(tuple(p[:rows] if isinstance(p, Tensor) and p.ndim else p for p in batch))
        return some

    def _outputs(self, batches: Iterable[Batch], attack: Attack | None) -> tuple[Tensor, Tensor]:
        """Return probabilities, float64 on the processor, and labels."""
        probs, labels = [], []
        with one_pass([self.model], batches, Way(**self.options)) as parts:
            for part in parts:
                points = None if attack is None else part.attacked(attack, self.model)
                logits = part.logits(self.model, points)
                probs.append(exact(logits).softmax(dim=1).cpu())
                labels.append(part.labels.cpu())
        return torch.cat(probs), torch.cat(labels)


def wilson(successes: int, n: int, z: float = 1.959963984540054) -> tuple[float, float, float]:
    """Return a share with its 95 % interval by Wilson, which holds at 0 and 1 too."""
    p = successes / n
    middle, scale = p + z**2 / (2 * n), 1 + z**2 / n
    half = z * math.sqrt(p * (1 - p) / n + z**2 / (4 * n**2))
    return p, max(0.0, (middle - half) / scale), min(1.0, (middle + half) / scale)


def _read(file: Path | None, settings: Mapping[str, Any]) -> dict[str, Any]:
    """Return the parts that a file holds; it must be of the same settings."""
    if file is None or not file.exists():
        return {}
    try:
        found = json.loads(file.read_text(encoding="utf-8"))
        before, parts = dict(found["settings"]), dict(found["parts"])
    except (ValueError, KeyError, TypeError) as error:
        raise ValueError(f"expected {file} to hold an audit, got something else") from error
    for name, value in settings.items():
        if before.get(name) != value:
            raise ValueError(
                f"expected {file} to be of this audit, got one of another {name}; "
                "delete it or give another path"
            )
    return parts


def _write(file: Path | None, content: Mapping[str, Any]) -> None:
    if file is not None:
        fresh = file.with_name(file.name + ".new")
        fresh.write_text(json.dumps(content), encoding="utf-8")
        fresh.replace(file)


def compare(
    audits: Mapping[str, Audit], *, format: Literal["markdown", "latex", "html"] = "markdown"
) -> str:
    """Put audits side by side, the most robust first: a leaderboard of robust calibration.

    Ranked by the accuracy under attack; one whose attack `diagnose` calls a failure comes last and
    says so. They should be of the same data, radius and norm.

    Args:
        audits: From the name of a model to its audit.
        format: `"markdown"`, `"latex"`, or `"html"`, a page with the pictures of each.

    Returns:
        A table or a page.

    Raises:
        TypeError: If an argument is of the wrong kind.
        ValueError: If there are no audits, or their radii or norms differ.

    Example:
        >>> batches = [(torch.rand(40, 2), torch.arange(40) % 2)]
        >>> found = audit(torch.nn.Linear(2, 2), batches, eps=0.1, steps=3)
        >>> print(compare({"one": found, "two": found}).splitlines()[0].split("|")[1].strip())
        model
    """
    _checks.choice("format", format, ("markdown", "latex", "html"))
    if not isinstance(audits, Mapping):
        raise TypeError(f"expected audits as a mapping, got {_checks.kind(audits)}")
    if not audits:
        raise ValueError("expected one audit or more, got none")
    for found in audits.values():
        if not isinstance(found, Audit):
            raise TypeError(f"expected audits of Audit, got {_checks.kind(found)}")
    for name in ("eps", "norm"):
        if len({found.settings[name] for found in audits.values()}) > 1:
            raise ValueError(f"expected audits of one {name}, got several")
    ranked = sorted(
        audits.items(), key=lambda each: (each[1].verdict == "fail", -each[1].robust_accuracy[1])
    )
    plain = {str(name): found.as_dict() for name, found in ranked}
    if format == "html":
        return page(plain)
    return tabular(rows_of(plain, several=True), format)
