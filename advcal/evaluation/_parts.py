"""What an audit is made of, part by part: plain numbers and lists."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterable
from functools import partial
from typing import Any

import torch
from torch import Tensor

from advcal import metrics
from advcal._pass import Way, one_pass
from advcal._sums import exact
from advcal._typing import Attack, Batch, Model
from advcal.certify import Reach, conformal, figures, set_figures
from advcal.evaluation._detect import detection
from advcal.evaluation._diagnose import diagnose
from advcal.evaluation._envelope import confidence_envelope

PROBED = 100  # examples that `diagnose` looks at


@dataclasses.dataclass(frozen=True)
class Parts:
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
        total = metrics.summary(probs, labels, n_bins=self.n_bins)
        of_sums: tuple[Any, ...] = ("accuracy", "ece", "mcs", "nll", "brier")
        intervals: dict[str, Any] = {
            name: total.interval(name, generator=generator) for name in of_sums
        }
        area = metrics.bootstrap(metrics.aurc, probs, labels, generator=generator)
        if area.low == area.high:  # no prediction is wrong: no order has more than all the errors
            area = area._replace(high=1 - intervals["accuracy"].low)
        intervals["aurc"], bins = area, total.bins
        names = ("edges", "counts", "confidences", "corrects")
        found: dict[str, Any] = {
            "n": len(labels),
            "figures": {name: [float(end) for end in ends] for name, ends in intervals.items()},
            "bins": {name: getattr(bins, name).tolist() for name in names},
        }
        if held_out is not None:
            sets = conformal(*self._outputs(held_out, None))
            held = set_figures(sets(probs), labels)
            _, *ends = metrics.clopper_pearson(round(held.coverage * len(labels)), n=len(labels))
            found["sets"] = dataclasses.asdict(held) | {"intervals": {"coverage": ends}}
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
        return diagnose(self.model, self.first(PROBED), **self.ball, **self.options).as_dict()

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
        whole = Reach.joined(reaches)
        truth = torch.cat(labels).to(whole.lower.device)
        found = figures(whole, truth, n_bins=min(self.n_bins, 16))
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
