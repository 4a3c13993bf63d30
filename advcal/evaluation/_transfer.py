"""Transfer: craft on one model, score on another."""

from collections.abc import Iterable, Mapping
from contextlib import ExitStack
from typing import Any

from torch import Tensor

from advcal import _checks
from advcal._batches import prepared
from advcal._frozen import attacked, device_of, frozen, logits_of
from advcal._typing import Attack, Batch, Model, Progress
from advcal.evaluation._evaluate import Evaluation, Tally, tally


def transfer(
    sources: Mapping[str, Model],
    targets: Mapping[str, Model],
    batches: Iterable[Batch],
    attack: Attack,
    *,
    n_bins: int = 15,
    progress: Progress | None = None,
) -> dict[tuple[str, str], Evaluation]:
    """Attack every source once per batch and score what comes of it on every target.

    A target predicts each batch once before the attacks and once after each source's, all models
    in eval mode and left as they were found. The same dict for both gives the whole matrix, its
    diagonal white-box. Memory does not grow with the data. Whether the attack uses the true labels
    is the attack's own choice; a label that it predicts is the source's.

    Args:
        sources: Names to the models to craft on.
        targets: Names to the models to score on. Models may be on different devices.
        batches: An iterable of `(inputs, labels, *rest)`; they go to the device of each model.
        attack: `(model, inputs, labels) -> inputs`.
        n_bins: The number of equal-width bins of the reliability tables.
        progress: A wrapper of an iterable that shows progress, such as `tqdm.tqdm`.

    Returns:
        `(source, target)` to an `Evaluation`, whose `clean_accuracy` is the target's. Print it with
        `table(records, names=("source", "target"))`.

    Raises:
        TypeError: If an argument or a batch is of the wrong kind.
        ValueError: If there are no sources, targets or batches, or a shape or value is wrong.

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
    _checks.function("attack", attack)
    n_bins = _checks.count("n_bins", n_bins)
    tallies: dict[tuple[str, str], Tally] = {}
    with ExitStack() as guards:
        for model in models:
            guards.enter_context(frozen(model, grad=False))
        for batch in prepared(batches, None, channels_last=False, progress=progress):
            inputs, labels = _checks.examples(*batch[:2])
            clean = {name: _logits(target, inputs) for name, target in targets.items()}
            for source_name, source in sources.items():
                device = device_of(source)
                points = attacked(attack, source, inputs.to(device), labels.to(device))
                for name, target in targets.items():
                    logits = _logits(target, points)
                    part = tally(clean[name], logits, labels.to(logits.device), n_bins)
                    key = source_name, name
                    tallies[key] = tallies[key].plus(part) if key in tallies else part
    if not tallies:
        raise ValueError("expected one batch or more, got none")
    return {names: counted.evaluation() for names, counted in tallies.items()}


def named(name: str, models: Any) -> dict[str, Model]:
    """Check a mapping of names to models, one or more."""
    if not isinstance(models, Mapping) or not all(isinstance(key, str) for key in models):
        raise TypeError(
            f"expected {name} as a mapping of names to models, got {_checks.kind(models)}"
        )
    if not models:
        raise ValueError(f"expected one model or more in {name}, got none")
    for key, model in models.items():
        _checks.function(f"{name}[{key!r}]", model)
    return dict(models)


def _logits(model: Model, inputs: Tensor) -> Tensor:
    return logits_of(model, inputs.to(device_of(model)))
