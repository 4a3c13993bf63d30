"""What `diagnose` measures of a model on one batch, a number per example each."""

import warnings
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cached_property, partial
from typing import Any, Literal

import torch
from torch import Tensor

from advcal import _answers, _checks
from advcal._answers import logits_of, rows_of, uncast
from advcal._frozen import attacked
from advcal._logits import lift, log_odds, masked
from advcal._sums import wide
from advcal._typing import Attack, Model
from advcal.attacks import Ball, fgsm, l2, linf, pgd, square
from advcal.evaluation._plant import answers, plant

Norm = Literal["linf", "l2"]
STEPS = 20
SMALL, LARGE = 0.01, 0.25  # of eps: the steps by which gradients are checked
COORDINATES = 16  # how many of an input change, about, to see whether logits follow


@dataclass(frozen=True)
class Probe:
    """A model, bound to one batch, and how it is looked at, each as in `diagnose`."""

    model: Model
    inputs: Tensor
    labels: Tensor
    eps: float
    norm: Norm
    bounds: tuple[float, float]
    generator: torch.Generator

    def outputs(self) -> dict[str, Tensor]:
        """Measure what the model returns, in 3 forward passes.

        `gap` is the lead of the first class over the second; `random` and `context` are the largest
        changes of a logit, relative to the largest one, at a second pass and with other neighbours.
        """
        model, inputs = self.model, self.inputs
        logits = _answers.with_softmax(_logits(model, inputs))
        _checks.label_range(self.labels, logits.shape[1])
        half = (len(inputs) + 1) // 2
        paired = torch.arange(len(inputs), device=inputs.device) % half
        moved = _logits(rows_of(model, paired), inputs[paired])[:half]
        top = logits.topk(2, dim=1).values
        return {
            "low": inputs.flatten(1).amin(dim=1),
            "high": inputs.flatten(1).amax(dim=1),
            "correct": logits.argmax(dim=1) == self.labels,
            "probabilities": _checks.like_probabilities(logits),
            "gap": top[:, 0] - top[:, 1],
            "random": _deviation(_logits(model, inputs), logits),
            "context": _deviation(moved, logits[:half]).repeat(2)[: len(inputs)],
        }

    def gradients(self) -> dict[str, Tensor]:
        """Measure the gradient and what steps along it do, in 1 backward and 6 forward passes.

        `slope` is the dual norm of the gradient of the log-odds, `zero` whether a whole `eps` of it
        changes the loss by no more than rounding, `kept` the part of the promised rise that a small
        or a larger step along it achieves, `flat` whether logits at a random point, other than
        those at the input, stay exactly the same as a few coordinates move a little.
        """
        model, inputs, labels = self.model, self.inputs, self.labels
        logits = _logits(model, inputs)
        losses, logits = wide(log_odds(logits, labels)), wide(logits)
        found = _gradient(model, inputs, lambda logits: log_odds(logits, labels))
        gradient = torch.zeros_like(inputs) if found is None else found
        finite = gradient.flatten(1).isfinite().all(dim=1)
        gradient = gradient.nan_to_num(0, 0, 0)
        total = wide(gradient.flatten(1)).abs().sum(dim=1)
        length = torch.linalg.vector_norm(wide(gradient.flatten(1)), dim=1)
        slope = total if self.norm == "linf" else length
        sizes = logits.masked_fill(masked(logits), 0).abs()
        rounding = torch.finfo(torch.float32).eps * sizes.amax(dim=1)
        shares = []
        for part in (SMALL, LARGE):
            region = self._ball(inputs, part)
            moved = region.project(inputs + part * self.eps * region.steepest(gradient))
            promise = (wide(gradient) * (wide(moved) - wide(inputs))).flatten(1).sum(dim=1)
            rise = wide(log_odds(_logits(model, moved), labels)) - losses
            share = rise / promise.clamp_min(max(1e-300, torch.finfo(promise.dtype).tiny))
            shares.append(torch.where(promise > 10 * rounding, share, torch.nan))
        kept = torch.stack(shares)
        there = self._ball(inputs, 1).random_point(self.generator)
        beside = self._ball(there, SMALL / 10).random_point(self.generator)
        source, where = self.generator, self.generator.device
        drawn = torch.rand(inputs.shape, generator=source, dtype=torch.float32, device=where)
        chosen = drawn.to(inputs.device) < COORDINATES / inputs[0].numel()
        away = wide(_logits(model, there))
        near = wide(_logits(model, torch.where(chosen, beside, there)))
        return {
            "finite": finite,
            "slope": slope,
            "zero": finite & (slope * self.eps <= rounding),
            "kept": kept.nan_to_num(-torch.inf).amax(dim=0),
            "usable": kept.isfinite().any(dim=0),
            "flat": (near == away).all(dim=1) & (away != logits).any(dim=1),
        }

    def attacks(
        self,
        sources: Mapping[str, Model],
        others: Mapping[str, Callable[..., Tensor]],
        steps: int,
    ) -> dict[str, Tensor]:
        """Measure which examples one step, many steps, random search and other attacks fool.

        Search, models to craft on, other attacks and larger radii are only for examples that many
        steps do not fool; `radius` is the least of the radii that does.
        """
        options: dict[str, Any] = {"norm": self.norm, "bounds": self.bounds}
        drawing: dict[str, Any] = options | {"eps": self.eps, "generator": self.generator}
        many = partial(pgd, **options, steps=STEPS, random_start=False)
        again = partial(pgd, **drawing, steps=STEPS, restarts=2, loss="margin")
        correct = _logits(self.model, self.inputs).argmax(dim=1) == self.labels
        found = {
            "one": self._fooled(partial(fgsm, **options, eps=self.eps), correct),
            "many": self._fooled(partial(many, eps=self.eps), correct),
        }
        left = correct & ~found["many"] & ~found["one"]
        found["again"] = self._fooled(again, left)
        left = left & ~found["again"]
        found["search"] = self._fooled(partial(square, **drawing, steps=steps), left)
        for name, source in sources.items():
            crafting = _differentiable(source, self.inputs)
            found[f"transfer: {name}"] = self._fooled(partial(many, eps=self.eps), left, crafting)
        for name, attack in others.items():
            found[f"yours: {name}"] = self._fooled(partial(attack, eps=self.eps), left)
        least = torch.where(correct & ~left, self.eps, torch.inf)
        for radius in self._radii()[1:]:
            fooled = self._fooled(partial(many, eps=radius), correct & (least == torch.inf))
            least = torch.where(fooled, radius, least)
        return found | {"radius": least}

    def plants(self, others: Mapping[str, Callable[..., Tensor]]) -> dict[str, Tensor]:
        """Measure which adversarial points that are there for sure PGD and other attacks find.

        It draws from a copy of the generator. `plant` tells where a point could be planted.
        """
        source = torch.Generator(self.generator.device)
        source.set_state(self.generator.get_state())
        look = partial(_logits, self.model)
        made = plant(self.model, look, self._ball(self.inputs, 1), source)
        found = {"plant": made.planted, "plant at random": made.stumbled}
        options: dict[str, Any] = {"norm": self.norm, "bounds": self.bounds}
        many = partial(pgd, **options, steps=STEPS, random_start=False)
        named = {f"plant by PGD of {STEPS} steps": many} | {
            f"plant by {name}": each for name, each in others.items()
        }
        crafting, inputs = _differentiable(made.model, self.inputs), self.inputs[made.planted]
        labels = torch.zeros_like(self.labels[made.planted])
        for key, attack in named.items():
            found[key] = torch.zeros_like(made.planted)
            if len(inputs):
                part = crafting(made.planted)
                points = attacked(partial(attack, eps=self.eps), part, inputs, labels)
                found[key][made.planted] = answers(part, points) != 0
        return found

    @cached_property
    def _target(self) -> Callable[[Tensor], Model]:
        return _differentiable(self.model, self.inputs)

    def _fooled(
        self, attack: Attack, chosen: Tensor, source: Callable[[Tensor], Model] | None = None
    ) -> Tensor:
        """Attack the examples that are chosen and tell which of all examples are fooled."""
        result = torch.zeros_like(chosen)
        if chosen.any():
            crafting = (source or self._target)(chosen)
            points = attacked(attack, crafting, self.inputs[chosen], self.labels[chosen])
            logits = _answers.with_softmax(_logits(self._target(chosen), points))
            answers = logits.argmax(dim=1)
            result[chosen] = answers != self.labels[chosen]
        return result

    def _ball(self, centre: Tensor, part: float) -> Ball:
        make = linf if self.norm == "linf" else l2
        return make(centre, eps=part * self.eps, bounds=self.bounds)

    def _radii(self) -> list[float]:
        """Return `eps` and multiples of it up to the whole box."""
        side = self.inputs[0].numel() ** 0.5
        widest = (self.bounds[1] - self.bounds[0]) * (1 if self.norm == "linf" else side)
        found = [self.eps]
        while found[-1] * 4 < widest:
            found.append(found[-1] * 4)
        return found if self.eps >= widest else [*found, widest]


def _logits(model: Model, inputs: Tensor) -> Tensor:
    """Run a model without a gradient, as in every pass, on inputs that it may overwrite."""
    return lift(logits_of(model, inputs.clone()))


def _gradient(model: Model, inputs: Tensor, objective: Callable[[Tensor], Tensor]) -> Tensor | None:
    with torch.enable_grad():
        points = inputs.detach().requires_grad_()
        with warnings.catch_warnings():
            # A model may write into a copy. Compiled ones read its `.grad`, of which torch warns.
            warnings.filterwarnings("ignore", message="The .grad attribute of a Tensor")
            losses = objective(lift(logits_of(model, points.clone())))
        if not losses.requires_grad:
            return None
        with uncast(points.device):
            return torch.autograd.grad(losses.sum(), points, allow_unused=True)[0]


def _differentiable(model: Model, inputs: Tensor) -> Callable[[Tensor], Model]:
    """Return the model for some rows, with the gradient zero if it has none, for attacks to run."""
    has_one = _gradient(model, inputs, lambda logits: logits.sum(dim=1)) is not None

    def of(rows: Tensor) -> Model:
        part = rows_of(model, rows)
        if has_one:
            return part
        return lambda points: part(points) + 0 * points.flatten(1).sum(dim=1, keepdim=True)

    return of


def _deviation(found: Tensor, wanted: Tensor) -> Tensor:
    off = masked(wanted)
    found, wanted = (
        torch.where(off & masked(each), 0.0, each).nan_to_num() for each in (found, wanted)
    )
    scale = wanted.masked_fill(off, 0).abs().amax(dim=1).clamp_min(torch.finfo(wanted.dtype).tiny)
    return (found - wanted).abs().amax(dim=1) / scale
