"""The way into every attack: what is checked, copied and guarded alike for all of them."""

import inspect
import re
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial, wraps
from inspect import Parameter, signature
from typing import Any, Literal, ParamSpec, Protocol, Self, cast, get_args, get_origin, overload

from torch import Tensor

from advcal import _batches, _checks
from advcal._answers import starts_at, uncast_but
from advcal._frozen import frozen
from advcal._random import resolve
from advcal._typing import Model
from advcal.attacks._gradient import LOSSES
from advcal.attacks._levels import ROW, on_grid

Options = ParamSpec("Options")


class Public(Protocol[Options]):
    """An attack with an argument `levels`; with that, its other options are not typed."""

    __name__: str

    @overload
    def __call__(self, *args: Options.args, **kwargs: Options.kwargs) -> Tensor: ...
    @overload
    def __call__(
        self, model: Model, inputs: Tensor, labels: Tensor, *, levels: int | None, **options: Any
    ) -> Tensor: ...


def public(
    attack: Callable[Options, Tensor], *, keeps: bool | None = False, grad: bool = True
) -> Public[Options]:
    """Make an attack of its algorithm, a function of the same arguments that can rely on them.

    By their names, it gets: a `model` that is frozen and whose answers are checked; `inputs` and
    `labels` as copies that fit each other and `bounds`, which are two numbers or two tensors of the
    shape of the inputs; `eps` as a number or as float64 `(n,)`; a `loss` that is a name, or gives
    one value per example; a `generator` to draw from, None only if a compiler or a graph records.
    What is annotated as a Literal is one of its words, and what `_checks` declares is as declared.
    If `targeted`, the labels are not known to be the true ones.

    Args:
        attack: The algorithm.
        keeps: Whether it leaves the prediction as it is; None if it looks at no model.
        grad: Whether gradients flow.

    Returns:
        The attack. It has one more argument, `levels`, in its signature and its docstring too.
    """
    run, takes = cast(Callable[..., Tensor], attack), _Arguments.of(attack)

    @wraps(attack)
    def entered(model: Model, inputs: Tensor, labels: Tensor, **options: Any) -> Tensor:
        levels = options.pop("levels", None)
        if not takes.fit(options):
            run(model, inputs, labels, **options)  # which says so, as Python does
        inputs, labels, given = takes.checked(inputs, labels, options)
        _checks.arguments(levels=levels)
        with frozen(model, grad=grad), uncast_but(model, inputs.device) as answers:
            if levels is None:
                return run(answers, inputs, labels, **given)
            return on_grid(run, answers, inputs, labels, given, levels, keeps=keeps)

    entered.__module__ = "advcal.attacks"  # where it is found by its name, to be unpickled too
    del entered.__wrapped__  # whose signature is another
    entered.plain = attack  # type: ignore[attr-defined]  # whose source the documentation shows
    own = signature(attack)
    more = Parameter("levels", Parameter.KEYWORD_ONLY, default=None, annotation=int | None)
    described = own.replace(parameters=[*own.parameters.values(), more])
    entered.__signature__ = described  # type: ignore[attr-defined]
    row = "".join(rf"\1    {line}\n" for line in ROW.splitlines())
    doc = re.sub(r"\n( *)Returns:", rf"{row}\n\1Returns:", attack.__doc__ or "", count=1)
    entered.__doc__ = doc
    return cast(Public[Options], entered)


@dataclass(frozen=True)
class _Arguments:
    """What an algorithm takes besides a model, inputs and labels.

    Attributes:
        defaults: The defaults, by the names of the arguments that have one.
        needed: The names of the others.
        words: The words that an argument may be.
        declared: The names of those whose check `_checks` declares.
    """

    defaults: dict[str, Any]
    needed: set[str]
    words: dict[str, tuple[str, ...]]
    declared: list[str]

    @classmethod
    def of(cls, attack: Callable[..., Tensor]) -> Self:
        """Read them off a signature."""
        rows = [*signature(attack).parameters.values()][3:]
        defaults = {row.name: row.default for row in rows if row.default is not Parameter.empty}
        words = {
            row.name: get_args(row.annotation)
            for row in rows
            if get_origin(row.annotation) is Literal
        }
        others = [row.name for row in rows if row.name not in (*words, "loss")]
        needed = {row.name for row in rows} - defaults.keys()
        return cls(defaults, needed, words, [each for each in others if _checks.declares(each)])

    def fit(self, options: dict[str, Any]) -> bool:
        """Tell whether none is missing and none unknown."""
        return self.needed <= options.keys() <= self.needed | self.defaults.keys()

    def checked(
        self, inputs: Tensor, labels: Tensor, options: dict[str, Any]
    ) -> tuple[Tensor, Tensor, dict[str, Any]]:
        """Check all, fill in defaults, and give each as algorithms get it."""
        given = self.defaults | options
        inputs, labels, given["bounds"] = _batches.attack_inputs(inputs, labels, given["bounds"])
        for name, words in self.words.items():
            _checks.choice(name, given[name], words)
        if "eps" in given:
            given["eps"] = _batches.radius(given["eps"], inputs)
        _checks.arguments(**{name: given[name] for name in self.declared})
        targeted = given.get("targeted", False)
        _checks.aim(labels, targeted=targeted)
        started = given.get("random_start", True) or given.get("start") is not None
        if given.get("loss") == "kl" and not started:
            raise ValueError(
                "expected random_start with loss 'kl', which has no slope at the inputs, got False"
            )
        if "loss" in given:
            given["loss"] = _per_example(given["loss"], targeted)
        if "generator" in given:
            given["generator"] = resolve(given["generator"], inputs.device)
        return inputs, labels, given


def _per_example(loss: Any, targeted: bool) -> Any:
    """Check a loss; a callable that has a `reduction` is asked for `"none"`."""
    if not callable(loss):
        _checks.choice("loss", loss, [*LOSSES, "kl"])
        return loss
    try:
        reduced = "reduction" in inspect.signature(loss).parameters
    except ValueError:  # a builtin without a signature
        reduced = False
    return _Watched(partial(loss, reduction="none") if reduced else loss, targeted)


class _Watched:
    """A loss of the user's own, whose first values must be numbers."""

    def __init__(self, loss: Callable[..., Tensor], targeted: bool) -> None:
        self.loss, self.sign, self.begun = loss, -1 if targeted else 1, False

    def __call__(self, logits: Tensor, labels: Tensor) -> Tensor:
        values = self.loss(logits, labels)
        if not self.begun:
            self.begun = True
            starts_at(self.sign * _checks.losses(values, len(logits)), logits)
        return values
