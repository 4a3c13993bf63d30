"""What `diagnose` measures of a model on one batch, a number per example each."""

from collections.abc import Callable, Mapping
from functools import partial
from typing import Any, Literal, NamedTuple

import torch
from torch import Tensor

from advcal import _checks
from advcal._frozen import attacked, logits_of
from advcal._logits import lift, log_odds
from advcal._pass import Part, rows_of
from advcal._typing import Attack, Model
from advcal.attacks import fgsm, pgd, square
from advcal.attacks._balls import ball
from advcal.attacks._balls import norm as length
from advcal.attacks._gradient import logits_at

Norm = Literal["linf", "l2"]
STEPS = 20
SMALL, LARGE = 0.01, 0.25  # of eps: the steps by which gradients are checked
COORDINATES = 16  # how many of an input change, about, to see whether logits follow


class Tried(NamedTuple):
    """What is tried on the examples that many steps do not fool.

    Attributes:
        sources: Models to craft on, by name.
        attacks: Attacks of the caller's, by name.
        steps: The number of steps of the random search.
    """

    sources: Mapping[str, Model]
    attacks: Mapping[str, Callable[..., Tensor]]
    steps: int

    def within(self, part: Part) -> "Tried":
        """Return the same for the models bound to a batch."""
        return self._replace(sources={name: part.taking(m) for name, m in self.sources.items()})


def outputs(model: Model, inputs: Tensor, labels: Tensor) -> dict[str, Tensor]:
    """Measure what the model returns, in 3 forward passes.

    `gap` is the lead of the first class over the second; `random` and `context` are the largest
    changes of a logit, relative to the largest one, at a second pass and with other neighbours.
    """
    logits = _checks.with_softmax(logits_at(model, inputs))
    _checks.label_range(labels, logits.shape[1])
    half = (len(inputs) + 1) // 2
    paired = torch.arange(len(inputs), device=inputs.device) % half
    context = _deviation(logits_at(rows_of(model, paired), inputs[paired])[:half], logits[:half])
    top = logits.topk(2, dim=1).values
    return {
        "low": inputs.flatten(1).amin(dim=1),
        "high": inputs.flatten(1).amax(dim=1),
        "correct": logits.argmax(dim=1) == labels,
        "probabilities": _checks.like_probabilities(logits),
        "gap": top[:, 0] - top[:, 1],
        "random": _deviation(logits_at(model, inputs), logits),
        "context": context.repeat(2)[: len(inputs)],
    }


def gradients(
    model: Model,
    inputs: Tensor,
    labels: Tensor,
    *,
    eps: float,
    norm: Norm,
    bounds: tuple[float, float],
    generator: torch.Generator,
) -> dict[str, Tensor]:
    """Measure the gradient and what steps along it do, in 1 backward and 6 forward passes.

    `slope` is the dual norm of the gradient of the log-odds, `zero` whether a whole `eps` of it
    changes the loss by no more than rounding, `kept` the part of the promised rise that a small or
    a larger step along it achieves, `flat` whether logits at a random point, other than those at
    the input, stay exactly the same as a few coordinates move a little.
    """
    logits = logits_at(model, inputs)
    losses = log_odds(logits, labels).double()
    found = _gradient(model, inputs, lambda logits: log_odds(logits, labels))
    gradient = torch.zeros_like(inputs) if found is None else found
    logits = logits.double()
    finite = gradient.flatten(1).isfinite().all(dim=1)
    gradient = gradient.nan_to_num(0, 0, 0)
    slope = gradient.flatten(1).double().abs().sum(dim=1) if norm == "linf" else length(gradient)
    rounding = torch.finfo(torch.float32).eps * logits.abs().amax(dim=1)
    kept = []
    for part in (SMALL, LARGE):
        region = ball(norm, inputs, part * eps, bounds)
        moved = region.project(inputs + part * eps * region.steepest(gradient))
        promised = (gradient.double() * (moved.double() - inputs.double())).flatten(1).sum(dim=1)
        rise = log_odds(logits_at(model, moved), labels).double() - losses
        usable = promised > 10 * rounding
        kept.append(torch.where(usable, rise / promised.clamp_min(1e-300), torch.nan))
    there = ball(norm, inputs, eps, bounds).random_point(generator)
    beside = ball(norm, there, SMALL / 10 * eps, bounds).random_point(generator)
    chosen = _draw(inputs, generator) < COORDINATES / inputs[0].numel()
    away = logits_at(model, there).double()
    near = logits_at(model, torch.where(chosen, beside, there)).double()
    return {
        "finite": finite,
        "slope": slope,
        "zero": finite & (slope * eps <= rounding),
        "kept": torch.stack(kept).nan_to_num(-torch.inf).amax(dim=0),
        "usable": torch.stack(kept).isfinite().any(dim=0),
        "flat": (near == away).all(dim=1) & (away != logits).any(dim=1),
    }


def attacks(
    model: Model,
    inputs: Tensor,
    labels: Tensor,
    tried: Tried,
    *,
    eps: float,
    norm: Norm,
    bounds: tuple[float, float],
    generator: torch.Generator,
) -> dict[str, Tensor]:
    """Measure which examples one step, many steps, random search and other attacks fool.

    What is tried and larger radii are only for examples that many steps do not fool; `radius` is
    the least of the radii that does.
    """
    target = _differentiable(model, inputs)

    def fooled(
        attack: Attack, chosen: Tensor, source: Callable[[Tensor], Model] = target
    ) -> Tensor:
        """Attack the examples that are chosen and tell which of all examples are fooled."""
        result = torch.zeros_like(chosen)
        if chosen.any():
            points = attacked(attack, source(chosen), inputs[chosen], labels[chosen])
            answers = logits_at(target(chosen), points).argmax(dim=1)
            result[chosen] = answers != labels[chosen]
        return result

    within: dict[str, Any] = {"norm": norm, "bounds": bounds}
    many = partial(pgd, **within, steps=STEPS, random_start=False)
    again = partial(
        pgd, **within, steps=STEPS, eps=eps, restarts=2, loss="margin", generator=generator
    )
    search = partial(square, **within, eps=eps, steps=tried.steps, generator=generator)

    correct = logits_at(model, inputs).argmax(dim=1) == labels
    found = {
        "one": fooled(partial(fgsm, **within, eps=eps), correct),
        "many": fooled(partial(many, eps=eps), correct),
    }
    found["again"] = fooled(again, correct & ~found["many"] & ~found["one"])
    survivors = correct & ~found["many"] & ~found["one"] & ~found["again"]
    found["search"] = fooled(search, survivors)
    for name, source in tried.sources.items():
        crafting = _differentiable(source, inputs)
        found[f"transfer: {name}"] = fooled(partial(many, eps=eps), survivors, crafting)
    for name, attack in tried.attacks.items():
        found[f"yours: {name}"] = fooled(partial(attack, eps=eps), survivors)
    least = torch.where(correct & ~survivors, eps, torch.inf)
    for radius in radii(eps, norm, bounds, inputs[0].numel())[1:]:
        withstood = correct & (least == torch.inf)
        least = torch.where(fooled(partial(many, eps=radius), withstood), radius, least)
    return found | {"radius": least}


def radii(eps: float, norm: Norm, bounds: tuple[float, float], size: int) -> list[float]:
    """Return `eps` and multiples of it up to the whole box."""
    widest = (bounds[1] - bounds[0]) * (1 if norm == "linf" else size**0.5)
    found = [eps]
    while found[-1] * 4 < widest:
        found.append(found[-1] * 4)
    return found if eps >= widest else [*found, widest]


def _gradient(model: Model, inputs: Tensor, objective: Callable[[Tensor], Tensor]) -> Tensor | None:
    with torch.enable_grad():
        points = inputs.detach().requires_grad_()
        losses = objective(lift(logits_of(model, points)))
        if not losses.requires_grad:
            return None
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
    scale = wanted.abs().amax(dim=1).clamp_min(torch.finfo(wanted.dtype).tiny)
    return (found - wanted).abs().amax(dim=1) / scale


def _draw(inputs: Tensor, generator: torch.Generator) -> Tensor:
    return torch.rand(inputs.shape, generator=generator, device=generator.device).to(inputs.device)
