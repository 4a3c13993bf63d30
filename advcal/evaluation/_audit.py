"""One call, one report: accuracy and calibration, clean, under attack and certified."""

from __future__ import annotations

import dataclasses
import os
import time
from collections.abc import Callable, Iterable, Mapping
from functools import partial
from pathlib import Path
from typing import Any, Literal

import torch

from advcal import _batches, _checks
from advcal._markup import html
from advcal._pass import again
from advcal._targets import away
from advcal._typing import Attack, Batch, Forward, Model, Progress
from advcal.attacks import apgd, worst_case
from advcal.certify import Reach
from advcal.evaluation import _resume
from advcal.evaluation._fingerprint import fingerprint
from advcal.evaluation._page import page
from advcal.evaluation._parts import PROBED, Parts
from advcal.evaluation._report import rows_of, tabular


@dataclasses.dataclass(frozen=True)
class Audit:
    """What `audit` found; `table()` and `html()` lay it out.

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

    def table(self, *, format: Literal["markdown", "latex"] = "markdown") -> str:
        """Lay out the figures as a table: clean, attacked and certified.

        Args:
            format: `"markdown"`, or `"latex"`, a `tabular` with the rules of the package booktabs.

        Returns:
            The table.

        Raises:
            ValueError: If the format is another one.
        """
        _checks.choice("format", format, ("markdown", "latex"))
        return tabular(rows_of(self.as_dict()), format)

    def __str__(self) -> str:
        return self.table()

    def _repr_html_(self) -> str:
        return html(rows_of(self.as_dict()))


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
        generator: What attacks and intervals draw from; a copy of the global one if None.
        autocast: `torch.bfloat16` to run model and attacks in mixed precision.
        channels_last: Whether to lay out four-dimensional inputs channels last.
        device: The device to compute on; that of the model if None.
        forward: `(model, batch) -> logits` for a model that takes more of a batch than the inputs.
        progress: A wrapper of an iterable that shows progress, such as `tqdm.tqdm`; of the parts.

    Returns:
        An `Audit`.

    Raises:
        TypeError: If an argument or a batch is of the wrong kind, or batches can be read only once.
        ValueError: If there are no batches, a value or the file is wrong, or in `linf` `eps` is as
            large as the whole range of `bounds`.

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
    _batches.below_width(eps, norm, _batches.bounds_pair(bounds, finite=True))
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
        away(attack, "give audit an attack away from the labels")
        words = fingerprint(attack)

    options: dict[str, Any] = {"autocast": autocast, "channels_last": channels_last}
    options |= {"device": device, "forward": forward}
    ball = {"eps": eps, "generator": generator, **common}
    work = Parts(model, batches, options, ball, attack, n_bins)
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
    settings |= {"bounds": list(bounds), "data": fingerprint(work.first(PROBED))}
    settings |= {"held_out": held_out is not None, "words": words}
    settings |= {"model": fingerprint(model), "attack": fingerprint(attack)}
    settings |= {"certified": None if certified is None else fingerprint(certified)}
    settings |= {"autocast": None if autocast is None else str(autocast)}
    file = None if path is None else Path(path)
    done: dict[str, Any] = dict(_resume.read(file, settings, "an audit", "parts") or {})
    todo: Iterable[str] = [name for name in parts if name not in done]
    for name in todo if progress is None else progress(todo):
        start = time.perf_counter()
        part = parts[name]()
        done[name] = {**part, "seconds": round(time.perf_counter() - start, 3)}
        _resume.write(file, settings, "parts", done)
    return Audit(settings, {name: done[name] for name in parts})
