"""Transfer: craft on one model, score on another."""

from collections.abc import Callable, Iterable, Mapping
from typing import Any

import torch

from advcal import _checks
from advcal._pass import Way, one_pass
from advcal._targets import away
from advcal._typing import Attack, Batch, Forward, Model, Progress
from advcal.evaluation._evaluate import Evaluation, Tally, tallied


def transfer(
    sources: Mapping[str, Model],
    targets: Mapping[str, Model],
    batches: Iterable[Batch],
    attack: Attack,
    *,
    n_bins: int = 15,
    autocast: torch.dtype | None = None,
    channels_last: bool = False,
    device: torch.device | str | None = None,
    forward: Forward | None = None,
    progress: Progress | None = None,
) -> dict[tuple[str, str], Evaluation]:
    """Attack every source once per batch and score what comes of it on every target.

    A target predicts each batch once before the attacks and once after each source's. All models
    run as in `evaluate`. The same dict for both gives the whole matrix, its diagonal white-box.
    Memory does not grow with the data. Whether the attack uses the true labels is the attack's own
    choice; a label that it predicts is the source's.

    Args:
        sources: Names to the models to craft on.
        targets: Names to the models to score on. Models may be on different devices.
        batches: An iterable of `(inputs, labels, *rest)`, as in `evaluate`.
        attack: `(model, inputs, labels) -> inputs`.
        n_bins: The number of equal-width bins of the reliability tables.
        autocast: `torch.bfloat16` to run models and attack in mixed precision.
        channels_last: Whether to lay out four-dimensional inputs channels last.
        device: The device to compute on; that of each model if None.
        forward: `(model, batch) -> logits` for models that take more of a batch than the inputs.
        progress: A wrapper of an iterable that shows progress, such as `tqdm.tqdm`.

    Returns:
        `(source, target)` to an `Evaluation`, whose `clean_accuracy` is the target's. Print it with
        `table(records, columns=("source", "target"))`.

    Raises:
        TypeError: If an argument or a batch is of the wrong kind.
        ValueError: If there are no sources, targets or batches, a shape or value is wrong, or the
            attack is targeted.

    Example:
        >>> import functools, torch
        >>> from advcal.attacks import fgsm
        >>> models = {"same": lambda x: 8 * x, "swapped": lambda x: 8 * x.flip(1)}
        >>> batches = [(torch.eye(2), torch.tensor([0, 1]))]
        >>> records = transfer(models, models, batches, functools.partial(fgsm, eps=0.6))
        >>> {names: record.accuracy for names, record in records.items()}
        {('same', 'same'): 0.0, ('same', 'swapped'): 1.0, ('swapped', 'same'): 1.0,
         ('swapped', 'swapped'): 0.0}

    References:
        Papernot et al., Transferability in Machine Learning, arXiv 1605.07277.
    """
    models = [*named("sources", sources).values(), *named("targets", targets).values()]
    way = Way(autocast, channels_last, device, forward, progress)
    _checks.arguments(attack=attack, n_bins=n_bins)
    away(attack, "give transfer an attack away from the labels")
    tallies: dict[tuple[str, str], Tally] = {}
    with one_pass(models, batches, way) as parts:
        for _ in tallied(tallies, parts, sources, targets, attack, n_bins):
            pass
    return {names: counted.evaluation() for names, counted in tallies.items()}


def named(
    name: str,
    values: Any,
    kind: str = "models",
    check: Callable[[str, Any], object] = _checks.function,
) -> dict[str, Any]:
    """Check a mapping of names to models, or what else there is, one or more."""
    if not isinstance(values, Mapping) or not all(isinstance(key, str) for key in values):
        raise TypeError(
            f"expected {name} as a mapping of names to {kind}, got {_checks.kind(values)}"
        )
    if not values:
        raise ValueError(f"expected one or more in {name}, got none")
    for key, value in values.items():
        check(f"{name}[{key!r}]", value)
    return dict(values)
