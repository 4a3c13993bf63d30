"""What models answer, and in which precision: logits, checked at once, and watched later."""

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from contextvars import ContextVar
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import torch
from torch import Tensor

from advcal import _checks
from advcal._typing import Model


def answering(model: Model) -> "_Answering":
    """Give a model whose every answer is checked as `logits_of` does."""
    return model if isinstance(model, _Answering) else _Answering(model)


def uncast(device: torch.device) -> AbstractContextManager[Any]:
    """Leave the caller's autocast inside, for what is not a network's to round."""
    if torch.amp.is_autocast_available(device.type):
        return torch.autocast(device.type, enabled=False)
    return nullcontext()


@contextmanager
def uncast_but(model: Model, device: torch.device) -> Iterator[Model]:
    """Leave the caller's autocast inside but for the passes of a model; give that model."""
    kind, answers = device.type, answering(model)
    known = not _checks.recording() and torch.amp.is_autocast_available(kind)
    if not (known and torch.is_autocast_enabled(kind)):
        yield answers
        return
    dtype, cached = torch.get_autocast_dtype(kind), torch.is_autocast_cache_enabled()
    with uncast(device):
        yield replace(answers, casts=partial(torch.autocast, kind, dtype, cache_enabled=cached))


@dataclass(frozen=True, eq=False)
class _Answering:
    model: Model
    casts: Callable[[], AbstractContextManager[Any]] = nullcontext

    def __call__(self, inputs: Tensor) -> Tensor:
        with self.casts():
            return logits_of(self.model, inputs)

    def of_rows(self, rows: Tensor | slice) -> "_Answering":
        """Take the model for some rows of a batch."""
        return replace(self, model=rows_of(self.model, rows))


def rows_of(model: Model, rows: Tensor | slice) -> Model:
    """Return a model for some rows of a batch, the same if it has nothing of a batch in it.

    It is asked of the type: a wrapper may hand on the attributes of what it wraps.
    """
    taken: Any = model
    return taken.of_rows(rows) if hasattr(type(model), "of_rows") else model


def logits_of(model: Model, inputs: Tensor, *, finite: bool = False) -> Tensor:
    """Run a model and check that it gave logits `(n, classes)` without NaN, or of finite maximum.

    Warns if the first ones within `frozen` look like probabilities. A model may write into its
    inputs: into a copy of them if they ask for a gradient, where torch lets nobody write.
    """
    output = model(inputs) if _checks.recording() else _run(model, inputs)
    logits = logits_in(output, len(inputs))
    if not _checks.recording():
        (_watch.get() or _Watch(late=False, unseen=[False])).see(logits, finite)
    return logits


def _run(model: Model, inputs: Tensor) -> Any:
    asking = inputs.requires_grad and inputs.is_leaf
    version = inputs._version if asking else 0
    try:
        output = model(inputs)
    except RuntimeError as error:
        if "Inference tensors cannot be saved" in str(error):
            raise ValueError(
                "expected a model whose weights take part in gradients, got one that was made or "
                "loaded in torch.inference_mode; outside of it, pass copy.deepcopy(model)"
            ) from error
        if not (asking and "in-place operation" in str(error)):
            raise
        output = model(inputs.clone())
    if asking and inputs._version != version:
        raise ValueError(
            "expected a model that leaves its inputs as they are under no_grad, got one that "
            "writes into them; pass lambda x: model(x.clone())"
        )
    return output


def answer(value: Any) -> Tensor:
    """Check that a model returned a floating tensor."""
    if not isinstance(value, Tensor):
        hint = ""
        if isinstance(value, (tuple, list)) and value and isinstance(value[0], Tensor):
            hint = "; pass lambda x: model(x)[0] if they come first"
        elif isinstance(value, dict) or hasattr(value, "logits"):
            said = f"[{next(iter(value), 'logits')!r}]" if isinstance(value, dict) else ".logits"
            hint = f"; pass lambda x: model(x){said}"
        found = _checks.kind(value)
        raise TypeError(f"expected the model to return a tensor of logits, got {found}{hint}")
    return _checks.plain(_checks.tensor("logits", value))


def logits_in(value: Any, n: int) -> Tensor:
    """Check that a model returned logits `(n, classes)`."""
    checked = answer(value)
    _checks.class_rows("logits", checked, n)
    return checked


def with_softmax(value: Tensor) -> Tensor:
    """Check that logits have a softmax, which takes a finite highest one in each row."""
    highest = value.detach().amax(dim=1)
    if not bool(highest.isfinite().all()):
        _refuse_logits(highest)
    return value


# --- what is told late -----------------------------------------------------------------------


class _Watch:
    """What is to be said of logits, at once or late: then a device is waited for once."""

    def __init__(self, *, late: bool, unseen: list[bool]) -> None:
        self.late, self.unseen = late, unseen
        self.highest: dict[tuple[int, torch.device], Tensor] = {}  # logit of each example
        self.starts: list[tuple[Tensor, Tensor]] = []  # losses, and which are no start
        self.alike: list[Tensor] = []  # whether all of them look like probabilities

    def see(self, logits: Tensor, finite: bool) -> None:
        """Take in logits `(n, classes)`."""
        with torch.no_grad():
            highest, key = logits.amax(dim=1), (len(logits), logits.device)
            held = self.highest.get(key)
            self.highest[key] = highest if held is None else torch.maximum(highest, held)
            if self.unseen[0]:
                self.unseen[0] = False
                self.alike.append(_checks.all_like_probabilities(logits))
        if finite or not self.late:
            self.say(finite)

    def say(self, finite: bool = False) -> None:
        """Raise of NaN, which every maximum has kept, and warn of probabilities."""
        seen, starts, alike = list(self.highest.values()), self.starts, self.alike
        self.highest, self.starts, self.alike = {}, [], []
        bad = [(~highest.isfinite() if finite else highest.isnan()).any() for highest in seen]
        bad += [no_start.any() for _, no_start in starts]
        say = [partial(_refuse_logits, highest) for highest in seen]
        say += [partial(_refuse_start, *start) for start in starts]
        told = _checks.read(*bad, *alike)
        for refuse, refused in zip(say, told, strict=False):
            if refused:
                refuse()
        if any(told[len(say) :]):
            _checks.warn(
                "expected logits, got rows that are >= 0 and sum to 1, which look like "
                "probabilities; return logits, or pass lambda x: model(x).log(), and see what "
                "evaluation.diagnose says"
            )


_watch: ContextVar[_Watch | None] = ContextVar("_watch", default=None)


@contextmanager
def watching(*, warn: bool = True, late: bool = False) -> Iterator[None]:
    """Watch logits inside; of probabilities the outermost use says whether to warn, and once."""
    outer = _watch.get()
    if late and outer is not None and outer.late:
        yield  # the outermost tells what is told late, and waits for a device once
        return
    inside = _Watch(late=late, unseen=[warn] if outer is None else outer.unseen)
    try:
        try:
            _watch.set(inside)
            yield
            inside.say()
        except Exception:
            inside.say()  # NaN, if that is what is behind it
            raise
        finally:
            _watch.set(outer)
    finally:
        _watch.set(outer)  # if Ctrl-C came into the first


def starts_at(values: Tensor, logits: Tensor) -> None:
    """Check the losses `(n,)` that an attack starts from, early or late as logits are."""
    if not _checks.recording():
        with torch.no_grad():
            start = values.detach(), _no_start(values, logits)
        watch = _watch.get() or _Watch(late=False, unseen=[False])
        watch.starts.append(start)
        if not watch.late:
            watch.say()


def _refuse_logits(value: Tensor) -> None:
    """Check the highest logit of each example `(n,)`, which is NaN if one of the logits is."""
    for bad, wanted in (
        (value.isnan(), "without NaN, got NaN"),
        (~value.isfinite(), "of finite maximum, got {}"),
    ):
        if bad.any():
            first = int(bad.nonzero()[0])
            raise ValueError(
                f"expected logits {wanted.format(float(value[first]))} at example {first} of the "
                f"{len(value)} that the model was called with"
            )


def _no_start(values: Tensor, logits: Tensor) -> Tensor:
    """Tell which losses of an attack at its start are NaN or -inf, from where there is no way on.

    Not those that come of the model, which has no softmax there.
    """
    bad = values.isnan() | values.isneginf()
    return bad & logits.amax(dim=1).isfinite()


def _refuse_start(values: Tensor, bad: Tensor) -> None:
    """Check that an attack can start from its losses."""
    if bad.any():
        first = int(bad.nonzero()[0])
        raise ValueError(
            f"expected a loss that is a number where the attack starts, got "
            f"{float(values[first])} at example {first}"
        )
