"""AutoAttack: the standard worst case of several attacks without parameters to tune."""

from collections.abc import Callable
from functools import partial

import torch
from torch import Tensor

from advcal import _checks
from advcal._logits import masked
from advcal._typing import Attack, Bounds, Model, Norm, Progress
from advcal.attacks._apgd import apgd
from advcal.attacks._balls import ball
from advcal.attacks._combine import one_by_one
from advcal.attacks._doubts import doubt
from advcal.attacks._gradient import logits_at
from advcal.attacks._minimum import minimum_norm
from advcal.attacks._shown import shown
from advcal.attacks._square import square

_STARTS, _MOST_TARGETS = 5, 5  # in L1
_SCHEDULE = 10_000  # queries over which squares shrink, but in linf, where large ones help less


def autoattack(
    model: Model,
    inputs: Tensor,
    labels: Tensor,
    *,
    eps: float | Tensor,
    norm: Norm = "linf",
    steps: int = 100,
    n_targets: int = 9,
    queries: int = 5000,
    bounds: Bounds = (0.0, 1.0),
    generator: torch.Generator | None = None,
    progress: Progress | None = None,
) -> Tensor:
    r"""Run the standard sequence of attacks, each on the examples that withstood all before it.

    `apgd` on the cross-entropy, `minimum_norm`, `apgd` towards each of the `n_targets` most likely
    wrong classes on the targeted DLR loss (the margin, with fewer than four classes), and `square`.
    The third is left out if `n_targets` is 0, the last if `queries` is 0. `minimum_norm`, which
    looks for the nearest adversarial point, stands in for the targeted FAB of the published
    sequence, and comes second since it takes a ninth of the passes of the third; the order changes
    verdicts only by what is drawn. In `l1` `apgd` is the sparse variant, with five starts on the
    cross-entropy and at most five classes to aim at, as published. In `l2` and `l1` squares shrink
    as they would in 10,000 queries, however many are made.

    An example that is fooled, or wrong from the start, leaves the batch at once; what is drawn for
    an example depends on how many are left. It attacks accuracy, so it uses the true labels.

    Warns, before it begins, of what it may fail for instead of robustness: outputs that are random,
    rounded or probabilities, gradients that are zero or lead the wrong way. That takes two forward
    passes, and one with a gradient.

    Args:
        model: Inputs `(n, ...)` to logits `(n, classes)`.
        inputs: The inputs within `bounds`, shape `(n, ...)`.
        labels: The true integer labels, shape `(n,)`.
        eps: The radius, in units of `inputs`: a number, or one for each example, shape `(n,)`.
        norm: `"linf"`, `"l2"` or `"l1"`.
        steps: The steps of `apgd`, in each of its runs, and of `minimum_norm`.
        n_targets: How many wrong classes to aim at, at most.
        queries: How often `square` calls the model, at most.
        bounds: The lowest and highest valid value: numbers, tensors that broadcast, or None.
        generator: The source of random starts and squares; a copy of the global one if None.
        progress: A wrapper of an iterable that shows progress, such as `tqdm.tqdm`: over the
            examples times the calls of the model.

    Returns:
        Adversarial inputs, of the shape, dtype and device of `inputs`. For one that withstands,
        the point of the highest cross-entropy among what the attacks returned.

    Raises:
        TypeError: If an argument is of the wrong kind or dtype.
        ValueError: If a shape, value or device is wrong, or the model returns NaN.

    Example:
        >>> from advcal.attacks import autoattack
        >>> inputs, labels = torch.tensor([[0.5, 0.5], [1.0, 0.5]]), torch.tensor([0, 0])
        >>> model = lambda inputs: (inputs - 0.45) @ torch.tensor([[1.0, -1.0], [0.0, 0.0]])
        >>> adversarial = autoattack(model, inputs, labels, eps=0.25, queries=10)
        >>> model(adversarial).argmax(dim=1)
        tensor([1, 0])

    References:
        Croce & Hein, Reliable Evaluation of Adversarial Robustness with an Ensemble of Diverse
        Parameter-free Attacks, ICML 2020, section 5. Croce & Hein, Mind the Box: l1-APGD for Sparse
        Adversarial Attacks on Image Classifiers, ICML 2021, section 5.
    """
    region = ball(norm, inputs, eps, bounds)
    _checks.count("queries", queries, least=0)
    logits = logits_at(model, region.centre)
    doubt(model, region, labels, logits)
    n_classes = int((~masked(logits)).sum(dim=1).max())
    climb = partial(apgd, norm=norm, steps=steps, stop_early=True, generator=generator)
    sequence: dict[Callable[..., Tensor], int] = {climb: steps + 1}  # and calls of the model
    if norm == "l1":
        climb, n_targets = partial(climb, variant="sparse"), min(n_targets, _MOST_TARGETS)
        sequence = {partial(climb, restarts=_STARTS): _STARTS * (steps + 1)}
    sequence[partial(_nearest_within, norm=norm, steps=steps)] = steps + 1
    if n_targets:
        loss = "dlr" if n_classes >= 4 else "margin"
        aims = min(n_targets, n_classes - 1)
        sequence[partial(climb, loss=loss, n_targets=n_targets)] = 1 + aims * (steps + 1)
    if queries:
        over = None if norm == "linf" else _SCHEDULE
        own = partial(square, norm=norm, schedule_steps=over, generator=generator)
        sequence[partial(own, steps=queries)] = queries

    def of(attack: Callable[..., Tensor], rows: Tensor) -> Attack:
        part = region.of(rows)  # whose centre has been checked, unlike any copy of it
        options = {"eps": part.radius, "bounds": part.bounds}
        return lambda model, _, labels: attack(model, part.centre, labels, **options)

    calls = 1 + sum(each + 1 for each in sequence.values())
    with shown(model, progress, len(inputs), calls) as model:
        return one_by_one(model, region.centre, labels, [*sequence], of)


def _nearest_within(
    model: Model,
    inputs: Tensor,
    labels: Tensor,
    *,
    eps: float | Tensor,
    norm: Norm,
    steps: int,
    bounds: Bounds,
) -> Tensor:
    """Draw the nearest that `minimum_norm` finds into the ball."""
    found = minimum_norm(model, inputs, labels, norm=norm, steps=steps, bounds=bounds)
    return ball(norm, inputs, eps, bounds).project(found)
