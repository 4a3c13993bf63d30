"""Steer the confidence and keep every prediction: UCA, OCA, MMA and RCA."""

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor

from advcal import _checks
from advcal._logits import masked
from advcal._random import draw
from advcal._sums import wide, widest
from advcal._typing import Bounds, Model, Norm
from advcal.attacks._balls import Ball, ball, each_of
from advcal.attacks._gradient import logits_at, predicted
from advcal.attacks._keeping import FIRST, descend_keeping, unchanged_or
from advcal.attacks._search import Method, search_keeping
from advcal.attacks._towards import Towards

_SPANS_UP = 2.5  # radii that the steps together are long, until all begins again
# The same when confidence falls: of fewer than 10 steps, to a target, as low as it goes.
_SPANS_DOWN = {"short": 1.0, "target": 4.0, "lowest": 8.0}


def uca(
    model: Model,
    inputs: Tensor,
    labels: Tensor,
    *,
    eps: float | Tensor,
    norm: Norm = "linf",
    steps: int = 10,
    step_size: float | None = None,
    random_start: bool = False,
    method: Method = "gradient",
    bounds: Bounds = (0.0, 1.0),
    generator: torch.Generator | None = None,
) -> Tensor:
    r"""Lower the confidence and keep the prediction: the underconfidence attack.

    Minimises $\max_k p_k(x')$ over the ball where $\arg\max_k p_k(x') = \arg\max_k p_k(x)$. Steps
    climb the entropy of order $\beta$ (Rényi), $\frac{1}{1 - \beta} \log \sum_k p_k^\beta$, with
    $\beta$ from 1/10 at the first step to 8 at the last, or to .9 for an example that has crossed
    to another prediction: a small order raises all other classes, which pays when the ball reaches
    far; a large one lowers the highest probability itself. A point that has lost the prediction is
    led back, its entropy raised on the way, and the steps of an example are halved at each
    crossing. Each step keeps a share of the direction of those before, since gradients alternate
    where classes tie. After 10 steps, and then 20, 40, … more, all of this begins again from the
    best point, in turn with $\beta$ from 1/2, to 2 after a crossing, and from 1/10; so a longer
    attack never finds less, from 10 steps on. After the first 10 each step turns four times on its
    way, by a linear model of the label and the nine highest other classes that all steps so far
    have taught. This takes ten times the memory of the inputs and no more passes. Returns, per
    example, the least confident point seen.

    Steps are cut to where, by the gradient, the classes that they move are level, down to a
    sixteenth, so that in a large ball they are much like those in a smaller one. Still a larger
    radius can find less: from a radius to the next the mean confidence of small networks rose by up
    to .06 at 10 steps, .05 at 20 and .001 at 40 or more. The least of what is found at smaller
    radii too, as `confidence_envelope` takes it, cannot rise.

    Uses the predicted labels only; `labels` are checked. No prediction changes, which a last
    forward pass makes sure of: accuracy is exactly the clean one.

    Args:
        model: Inputs `(n, ...)` to logits `(n, classes)`.
        inputs: The inputs within `bounds`, shape `(n, ...)`.
        labels: Integer labels, shape `(n,)`; only checked.
        eps: The radius, in units of `inputs`: a number, or one for each example, shape `(n,)`.
        norm: `"linf"`, `"l2"` or `"l1"`.
        steps: The number of steps; with random search the number of queries.
        step_size: The length of a step in `norm` until the first crossing, at most, but for twice
            as much along a way that turns; if None `8 * eps / n`, with `n` the 10, 20, 40, … steps
            until the attack begins again, or `eps / steps` below 10 steps. Random search has no use
            for it.
        random_start: Whether to start at a random point of the ball instead of at the input.
        method: `"gradient"`, or `"random_search"`, which uses the logits only and no `step_size`.
        bounds: The lowest and highest valid value: numbers, tensors that broadcast, or None.
        generator: The source of random numbers; a copy of the global one if None.

    Returns:
        Inputs of lower confidence, of the shape, dtype and device of `inputs`.

    Raises:
        TypeError: If an argument is of the wrong kind or dtype.
        ValueError: If a shape, value or device is wrong, or the model returns NaN.

    Example:
        >>> from advcal.attacks import uca
        >>> model = lambda inputs: inputs @ torch.tensor([[8.0, -8.0], [0.0, 0.0]])
        >>> found = uca(model, torch.tensor([[0.5, 0.5]]), torch.tensor([0]), eps=0.25)
        >>> print(f"{float(model(found).softmax(dim=1).max()):.4f}")
        0.9820

    References:
        Obadinma, Zhu & Guo, Calibration Attacks, arXiv 2401.02718, section 3. Their code lowers
        another objective.
    """
    how = _How(steps, step_size, random_start, method)
    return _steer(model, ball(norm, inputs, eps, bounds), labels, how, _lowest, generator)


def oca(
    model: Model,
    inputs: Tensor,
    labels: Tensor,
    *,
    eps: float | Tensor,
    norm: Norm = "linf",
    steps: int = 10,
    step_size: float | None = None,
    random_start: bool = False,
    method: Method = "gradient",
    bounds: Bounds = (0.0, 1.0),
    generator: torch.Generator | None = None,
) -> Tensor:
    r"""Raise the confidence and keep the prediction: the overconfidence attack.

    Maximises $z_y - \log\sum_{k \ne y} e^{z_k}$ for the predicted class $y$, which rises with its
    probability and has a gradient even when that is 1 in floating point. Each step keeps a share of
    the direction of those before. Returns, per example, the most confident point seen.

    Uses the predicted labels only; `labels` are checked. No prediction changes, which a last
    forward pass makes sure of: accuracy is exactly the clean one.

    Args:
        model: Inputs `(n, ...)` to logits `(n, classes)`.
        inputs: The inputs within `bounds`, shape `(n, ...)`.
        labels: Integer labels, shape `(n,)`; only checked.
        eps: The radius, in units of `inputs`: a number, or one for each example, shape `(n,)`.
        norm: `"linf"`, `"l2"` or `"l1"`.
        steps: The number of steps; with random search the number of queries.
        step_size: The first length of a step in `norm`; if None `2.5 * eps / n`, with `n` the 10,
            20, 40, … steps until the attack begins again from the best point, or all if fewer.
        random_start: Whether to start at a random point of the ball instead of at the input.
        method: `"gradient"`, or `"random_search"`, which uses the logits only and no `step_size`.
        bounds: The lowest and highest valid value: numbers, tensors that broadcast, or None.
        generator: The source of random numbers; a copy of the global one if None.

    Returns:
        Inputs of higher confidence, of the shape, dtype and device of `inputs`.

    Raises:
        TypeError: If an argument is of the wrong kind or dtype.
        ValueError: If a shape, value or device is wrong, or the model returns NaN.

    Example:
        >>> from advcal.attacks import oca
        >>> model = lambda inputs: inputs @ torch.tensor([[2.0, -2.0], [0.0, 0.0]])
        >>> found = oca(model, torch.tensor([[0.5, 0.5]]), torch.tensor([0]), eps=0.25)
        >>> print(f"{float(model(found).softmax(dim=1).max()):.4f}")
        0.9526

    References:
        Obadinma, Zhu & Guo, Calibration Attacks, arXiv 2401.02718, section 3.
    """
    how = _How(steps, step_size, random_start, method)
    return _steer(model, ball(norm, inputs, eps, bounds), labels, how, _highest, generator)


def mma(
    model: Model,
    inputs: Tensor,
    labels: Tensor,
    *,
    eps: float | Tensor,
    norm: Norm = "linf",
    steps: int = 10,
    step_size: float | None = None,
    random_start: bool = False,
    method: Method = "gradient",
    bounds: Bounds = (0.0, 1.0),
    generator: torch.Generator | None = None,
) -> Tensor:
    r"""Lower the confidence of right predictions and raise that of wrong ones.

    The maximum miscalibration attack: `uca` on correct predictions and `oca` on the others. At
    accuracy $q$ the calibration error that it can reach is $1 - q/K$.

    **Uses the true labels**, to know which predictions are correct. No prediction changes, which a
    last forward pass makes sure of: accuracy is exactly the clean one.

    Args:
        model: Inputs `(n, ...)` to logits `(n, classes)`.
        inputs: The inputs within `bounds`, shape `(n, ...)`.
        labels: The true integer labels, shape `(n,)`.
        eps: The radius, in units of `inputs`: a number, or one for each example, shape `(n,)`.
        norm: `"linf"`, `"l2"` or `"l1"`.
        steps: The number of steps; with random search the number of queries.
        step_size: The first length of a step in `norm`; that of `uca` or `oca` if None.
        random_start: Whether to start at a random point of the ball instead of at the input.
        method: `"gradient"`, or `"random_search"`, which uses the logits only and no `step_size`.
        bounds: The lowest and highest valid value: numbers, tensors that broadcast, or None.
        generator: The source of random numbers; a copy of the global one if None.

    Returns:
        Miscalibrated inputs, of the shape, dtype and device of `inputs`.

    Raises:
        TypeError: If an argument is of the wrong kind or dtype.
        ValueError: If a shape, value or device is wrong, or the model returns NaN.

    Example:
        >>> from advcal.attacks import mma
        >>> model = lambda inputs: inputs @ torch.tensor([[2.0, -2.0], [0.0, 0.0]])
        >>> inputs, labels = torch.full((2, 2), 0.5), torch.tensor([0, 1])
        >>> found = mma(model, inputs, labels, eps=0.25)
        >>> [round(p, 2) for p in model(found).softmax(dim=1)[:, 0].tolist()]
        [0.73, 0.95]

    References:
        Obadinma, Zhu & Guo, Calibration Attacks, arXiv 2401.02718, section 3.
    """
    how = _How(steps, step_size, random_start, method)
    return _steer(model, ball(norm, inputs, eps, bounds), labels, how, _wrong, generator)


def rca(
    model: Model,
    inputs: Tensor,
    labels: Tensor,
    *,
    eps: float | Tensor,
    norm: Norm = "linf",
    tol: float = 0.01,
    steps: int = 10,
    step_size: float | None = None,
    random_start: bool = False,
    method: Method = "gradient",
    bounds: Bounds = (0.0, 1.0),
    generator: torch.Generator | None = None,
) -> Tensor:
    r"""Move the confidence of each prediction to a random target and keep the prediction.

    The random confidence attack: the target is drawn from $U(1/K + .05, .99)$ per example. Above it
    steps climb the entropy that `uca` climbs, of orders from 1/4 to 8, and below it the objective
    of `oca`; they are halved at each crossing. The first point within `tol` of the target is
    returned, and otherwise the one whose log-odds are nearest.

    Uses the predicted labels only; `labels` are checked. No prediction changes, which a last
    forward pass makes sure of: accuracy is exactly the clean one.

    Args:
        model: Inputs `(n, ...)` to logits `(n, classes)`.
        inputs: The inputs within `bounds`, shape `(n, ...)`.
        labels: Integer labels, shape `(n,)`; only checked.
        eps: The radius, in units of `inputs`: a number, or one for each example, shape `(n,)`.
        norm: `"linf"`, `"l2"` or `"l1"`.
        tol: How near to its target a confidence must come, at least 0.
        steps: The number of steps; with random search the number of queries.
        step_size: The first length of a step in `norm`; if None `4 * eps / steps` for a target
            below the confidence (`eps / steps` below 10 steps) and `2.5 * eps / steps` above.
        random_start: Whether to start at a random point of the ball instead of at the input.
        method: `"gradient"`, or `"random_search"`, which uses the logits only and no `step_size`.
        bounds: The lowest and highest valid value: numbers, tensors that broadcast, or None.
        generator: The source of random numbers, targets first; a copy of the global one if None.

    Returns:
        Inputs of random confidence, of the shape, dtype and device of `inputs`.

    Raises:
        TypeError: If an argument is of the wrong kind or dtype.
        ValueError: If a shape, value or device is wrong, or the model returns NaN.

    Example:
        >>> from advcal.attacks import rca
        >>> model = lambda inputs: inputs @ torch.tensor([[8.0, -8.0], [0.0, 0.0]])
        >>> inputs, labels = torch.full((4, 2), 0.5), torch.tensor([0, 0, 0, 0])
        >>> found = rca(model, inputs, labels, eps=0.5, generator=torch.Generator().manual_seed(0))
        >>> model(found).softmax(dim=1)[:, 0].std().item() > 0.1
        True

    References:
        Obadinma, Zhu & Guo, Calibration Attacks, arXiv 2401.02718, section 3.
    """
    how = _How(steps, step_size, random_start, method, tol)
    return _steer(model, ball(norm, inputs, eps, bounds), labels, how, _random, generator)


def _lowest(clean: Tensor, labels: Tensor, generator: torch.Generator | None) -> Tensor:
    return torch.zeros(labels.shape, dtype=widest(labels.device), device=labels.device)


def _highest(clean: Tensor, labels: Tensor, generator: torch.Generator | None) -> Tensor:
    return torch.ones(labels.shape, dtype=widest(labels.device), device=labels.device)


def _wrong(clean: Tensor, labels: Tensor, generator: torch.Generator | None) -> Tensor:
    return wide(clean.argmax(dim=1) != labels)


def _random(clean: Tensor, labels: Tensor, generator: torch.Generator | None) -> Tensor:
    n_classes = wide((~masked(clean)).sum(dim=1))
    low, high = (1 / n_classes + 0.05).clamp_max(0.99), 0.99
    share = draw(
        torch.rand,
        low,
        generator,
        dtype=widest(low.device if generator is None else generator.device),
    )
    return low + (high - low) * share


class _How(NamedTuple):
    """The options that the four attacks share."""

    steps: int
    step_size: float | None
    random_start: bool
    method: Method
    tol: float | None = None  # how near to a confidence between 0 and 1


def _steer(
    model: Model,
    region: Ball,
    labels: Tensor,
    how: _How,
    wanted_of: Callable[[Tensor, Tensor, torch.Generator | None], Tensor],
    generator: torch.Generator | None,
) -> Tensor:
    """Bring the confidence of each prediction as near to what is wanted as the ball allows.

    What is wanted comes of the clean logits, the labels and the generator.
    """
    inputs, steps = region.centre, how.steps
    clean = logits_at(model, inputs)
    _checks.label_range(labels, clean.shape[1])
    kept, wanted = predicted(clean), wanted_of(clean, labels, generator)
    falls = how.tol is None and wanted_of is not _highest
    aim = Towards(wanted, how.tol, kept, falls=falls)
    start = region.random_point(generator) if how.random_start else inputs
    if how.method == "random_search":
        points = search_keeping(model, start, kept, aim.score, region, steps, generator)
    else:
        down = clean.softmax(dim=1).amax(dim=1) > wanted
        radius, anew = each_of(region.radius, inputs, torch.float32), how.tol is None

        def first(length: int) -> Tensor:
            kind = "short" if length < FIRST else "lowest" if anew else "target"
            longest = _SPANS_DOWN[kind]
            return torch.where(down, longest, _SPANS_UP) * radius / length

        size = how.step_size or first
        points = descend_keeping(model, start, kept, aim, region, steps, size, anew=anew)
    return unchanged_or(model, points, kept, inputs)
