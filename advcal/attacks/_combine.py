"""Attacks made of attacks."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from advcal import _batches, _checks
from advcal._answers import answering, rows_of
from advcal._frozen import attacked, frozen
from advcal._logits import log_odds
from advcal._targets import away
from advcal._typing import Attack, Model
from advcal._values import Value
from advcal.attacks._balls import of_rows
from advcal.attacks._gradient import Best, logits_at


@dataclass(frozen=True, slots=True, eq=False, repr=False, init=False)
class _Several(Value):
    attacks: tuple[Attack, ...]

    def __init__(self, *attacks: Attack) -> None:
        if not attacks:
            raise ValueError("expected one attack or more, got none")
        for each in attacks:
            _checks.function("attack", each)
        object.__setattr__(self, "attacks", attacks)

    def _away(self) -> tuple[Attack, ...]:
        """Return the attacks, none of which may lead to the labels, as the outcome must not."""
        for each in self.attacks:
            away(each, f"{type(self).__name__} keeps what is furthest from the labels")
        return self.attacks


class worst_case(_Several):
    """Run several attacks and keep, per example, the outcome that is worst for the model.

    An outcome that fools the model is worse than one that does not, and of two alike the one of
    higher cross-entropy is. The inputs themselves compete, so that accuracy is never above clean.

    Args:
        *attacks: One attack or more, `(model, inputs, labels) -> inputs`.

    Returns:
        An attack.

    Raises:
        TypeError: If an attack is not a callable.
        ValueError: If there is none, or when called one is targeted.

    Example:
        >>> from functools import partial
        >>> from advcal.attacks import fgsm, pgd
        >>> attack = worst_case(partial(fgsm, eps=0.1), partial(pgd, eps=0.1, loss="margin"))
    """

    def __call__(self, model: Model, inputs: Tensor, labels: Tensor) -> Tensor:
        """Attack a batch."""
        return one_by_one(model, inputs, labels, self._away(), drop=False)


class cascade(_Several):
    """Run several attacks, each only on the examples that withstood all before it.

    What comes of it is as bad for the model as the outcome of `worst_case`, for less: an example
    that is wrong from the start or fooled leaves the batch, so put the cheap attacks first. A
    fooled example comes back as the first point that fooled it, another as the point of the highest
    cross-entropy. What a random attack draws for an example depends on how many are left.

    Args:
        *attacks: One attack or more, `(model, inputs, labels) -> inputs`.

    Returns:
        An attack.

    Raises:
        TypeError: If an attack is not a callable.
        ValueError: If there is none, or when called one is targeted.

    Example:
        >>> from functools import partial
        >>> from advcal.attacks import fgsm, pgd
        >>> attack = cascade(partial(fgsm, eps=0.1), partial(pgd, eps=0.1, steps=100))
    """

    def __call__(self, model: Model, inputs: Tensor, labels: Tensor) -> Tensor:
        """Attack a batch."""
        return one_by_one(model, inputs, labels, self._away())


def one_by_one(
    model: Model,
    inputs: Tensor,
    labels: Tensor,
    attacks: Sequence[Callable[..., Tensor]],
    of: Callable[[Callable[..., Tensor], Any], Attack] = lambda attack, _: attack,
    *,
    drop: bool = True,
) -> Tensor:
    """Run attacks, each `of` the indices of the examples that withstood all before it.

    With `drop=False` all examples stay, and the indices are None.
    """
    inputs, labels = _batches.examples(inputs, labels)
    with frozen(model, grad=False):
        best, points, given = Best(inputs), inputs, labels
        rows = torch.arange(len(inputs), device=inputs.device) if drop else None
        for each in (None, *attacks):
            if each is not None:
                points = attacked(of(each, rows), model, inputs, given)
            logits = logits_at(answering(model), points)
            _checks.label_range(given, logits.shape[1])
            best.offer(points, logits.argmax(dim=1) != given, log_odds(logits, given), rows)
            if rows is not None:
                left = best.left(rows)
                if not len(left):
                    break
                if len(left) < len(rows):
                    rows, inputs, given = of_rows((rows, inputs, given), left)
                    model = rows_of(model, left)
        return best.points


@dataclass(frozen=True, slots=True, eq=False, repr=False)
class autocast(Value):
    """Craft in mixed precision, about twice as fast on a processor that computes in it.

    Each result is checked again in the inputs' precision. If the prediction differs there or at the
    input, that example is attacked again in full precision, with other draws if the attack is
    random. So what an attack promises of predictions holds in full precision too. This takes four
    more forward passes, two of them in full precision.

    Args:
        attack: `(model, inputs, labels) -> inputs`.
        dtype: `torch.bfloat16` or `torch.float16`.

    Returns:
        An attack.

    Raises:
        TypeError: If `attack` is not a callable.
        ValueError: If `dtype` is not one of the two.

    Example:
        >>> from functools import partial
        >>> from advcal.attacks import pgd
        >>> attack = autocast(partial(pgd, eps=0.1))
    """

    attack: Attack
    dtype: torch.dtype = field(default=torch.bfloat16, kw_only=True)

    def __post_init__(self) -> None:
        _checks.arguments(attack=self.attack)
        if self.dtype not in (torch.bfloat16, torch.float16):
            raise ValueError(f"expected dtype torch.bfloat16 or torch.float16, got {self.dtype}")

    def __call__(self, model: Model, inputs: Tensor, labels: Tensor) -> Tensor:
        """Attack a batch."""
        inputs, labels = _batches.examples(inputs, labels)
        with frozen(model, grad=False):

            def said() -> Tensor:
                logits = [logits_at(answering(model), each) for each in (inputs, points)]
                return torch.stack([each.argmax(dim=1) for each in logits])

            with torch.autocast(inputs.device.type, self.dtype):
                points = attacked(self.attack, model, inputs, labels).clone()
                cast = said()
            differs = (said() != cast).any(dim=0).nonzero()[:, 0]
            if len(differs):
                part = rows_of(model, differs)
                points[differs] = attacked(self.attack, part, inputs[differs], labels[differs])
            return points


@dataclass(frozen=True, slots=True, eq=False, repr=False)
class batched(Value):
    """Run an attack on `size` examples at a time, if memory does not hold them all.

    With one at a time a model that `alongside` made also takes attacks of yours that leave examples
    out.

    Args:
        attack: `(model, inputs, labels) -> inputs`.
        size: The number of examples at a time.

    Returns:
        An attack.

    Raises:
        TypeError: If `attack` is not a callable or `size` not an int.
        ValueError: If `size` is not positive.

    Example:
        >>> from functools import partial
        >>> from advcal.attacks import pgd
        >>> attack = batched(partial(pgd, eps=0.1), 128)
    """

    attack: Attack
    size: int

    def __post_init__(self) -> None:
        _checks.arguments(attack=self.attack, size=self.size)

    def __call__(self, model: Model, inputs: Tensor, labels: Tensor) -> Tensor:
        """Attack a batch."""
        inputs, labels = _batches.examples(inputs, labels)
        size = int(self.size)
        parts = (slice(i, i + size) for i in range(0, len(inputs), size))
        each = ((rows_of(model, part), *of_rows((inputs, labels), part)) for part in parts)
        return torch.cat([attacked(self.attack, *part) for part in each])
