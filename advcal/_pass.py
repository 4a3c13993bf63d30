"""The one pass over batches: checked, moved, laid out, cast, through models that are frozen."""

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager, nullcontext
from dataclasses import dataclass, fields
from functools import cached_property
from itertools import islice
from typing import Any, Self

import torch
from torch import Tensor

from advcal import _checks
from advcal._answers import logits_of, rows_of
from advcal._frozen import Around, attacked, device_of, frozen, unwrapped
from advcal._typing import Attack, Batch, Forward, Model, Progress


@dataclass(frozen=True)
class Way:
    """How batches go through models, each argument as it is documented in `evaluate`."""

    autocast: torch.dtype | None = None
    channels_last: bool = False
    device: torch.device | str | int | None = None
    forward: Forward | None = None
    progress: Progress | None = None

    def __post_init__(self) -> None:
        _checks.arguments(**{field.name: getattr(self, field.name) for field in fields(self)})

    def place(self, model: object) -> torch.device | None:
        """Return where batches for a model go; None is where they are."""
        return device_of(model) if self.device is None else torch.device(self.device)


@contextmanager
def one_pass(
    models: Sequence[Model],
    batches: Iterable[Batch],
    way: Way,
    *,
    labelled: bool = True,
    empty: bool = False,
) -> Iterator[Iterator["Part"]]:
    """Freeze models and go through batches, on the device of the first model.

    `labelled` says whether a batch must have labels, `empty` whether there may be no batches.
    """
    for model in models:
        _checks.function("model", model)
    check_source(batches, way.progress)
    with ExitStack() as guards:
        for model in models:
            guards.enter_context(frozen(model, grad=False, late=False))
        yield _parts(batches, way, way.place(models[0]), labelled, empty)


def _parts(
    batches: Iterable[Batch], way: Way, device: torch.device | None, labelled: bool, empty: bool
) -> Iterator["Part"]:
    number = 0
    shown = batches if way.progress is None else way.progress(batches)
    for number, batch in enumerate(shown, 1):
        yield Part(_moved(number, batch, device, way.channels_last, 1 + labelled), way, labelled)
    if number == 0 and not empty:
        raise ValueError("expected one batch or more, got none")


class Part:
    """One batch on its way. The caller's own tensors are in it: they are read, and never written.

    Attributes:
        inputs: The inputs, on the device of the first model.
        labelled: Whether there are labels.
    """

    def __init__(self, batch: Batch, way: Way, labelled: bool) -> None:
        self.inputs: Tensor = _ordinary(batch[0])
        self._others = [_ordinary(part) for part in batch[1:]]
        if self.inputs.ndim == 0 or len(self.inputs) == 0:
            found = _checks.kind(self.inputs)
            raise ValueError(f"expected inputs of shape (n >= 1, ...), got {found}")
        self._way = way
        self.labelled = labelled or (bool(self._others) and self._others[0] is not None)

    @cached_property
    def labels(self) -> Tensor:
        """The labels, int64; -1 each if there are none."""
        n, device = len(self.inputs), self.inputs.device
        if not self.labelled:
            return torch.full((n,), -1, device=device)
        return _checks.labels(self._others[0], n).to(device)

    @property
    def floats(self) -> Tensor:
        """The inputs as an attack takes them: whole numbers as float32 of the same values."""
        return self.inputs.float() if _checks.is_integer(self.inputs.dtype) else self.inputs

    @property
    def rest(self) -> list[Any]:
        """What comes after the labels."""
        return self._others[1:]

    def logits(self, model: Model, points: Tensor | None = None) -> Tensor:
        """Run a model on the inputs, or on other points; its logits have a softmax."""
        points = self.inputs if points is None else points
        with self.casting():
            copied = points.to(self._way.place(model), copy=True)
            return logits_of(self.taking(model), copied, finite=True)

    def attacked(self, attack: Attack, model: Model, labels: Tensor | None = None) -> Tensor:
        """Attack a model from the inputs, with their labels or with others."""
        device = self._way.place(model)
        aims = (self.labels if labels is None else labels).to(device, copy=True)
        if labels is None:
            aims = _checks.note(aims, true=True)
        with self.casting():
            taking = self.taking(unwrapped(model))
            return attacked(attack, taking, self.floats.to(device), aims)

    def taking(self, model: Model) -> Model:
        """Return a model of inputs alone, which knows the rest of this batch."""
        if self._way.forward is None:
            return model
        n = len(self.inputs)
        others = _to(self._way.place(model), self._others)
        own = [isinstance(part, Tensor) and part.shape[:1] == (n,) for part in others]
        return Bound(model, self._way.forward, n, list(zip(own, others, strict=True)))

    def casting(self) -> AbstractContextManager[Any]:
        """Compute in mixed precision inside, if that is the way."""
        if self._way.autocast is None:
            return nullcontext()
        return torch.autocast(self.inputs.device.type, self._way.autocast)


class Bound(Around):
    """A model with all of a batch but the inputs, for attacks, which know of inputs alone.

    It takes the inputs of the whole batch, in its order, or any number of inputs if the batch is
    of one example. Attacks that leave examples out ask `of_rows` for a part. A tensor as long as
    the batch has a row for each example; whatever else a batch has goes along as it is.
    """

    def __init__(
        self, model: Model, forward: Forward, n: int, others: Sequence[tuple[bool, Any]]
    ) -> None:
        super().__init__()
        self.model, self._forward, self._n, self._others = model, forward, n, others
        self._around = (model,)

    def forward(self, inputs: Tensor) -> Tensor:
        rows = torch.arange(len(inputs), device="cpu")
        if self._n == 1:
            rows.zero_()
        elif self._n != len(inputs):
            raise ValueError(
                f"expected all {self._n} inputs of the batch, got {len(inputs)}, whose other rows "
                "are not known; make an attack that leaves examples out attacks.batched(attack, 1)"
            )
        return self._forward(self.model, (inputs, *(part for _, part in self._picked(rows))))

    def of_rows(self, rows: Tensor | slice) -> Self:
        """Bind the model to these rows of the batch, or to those of a mask."""
        rows = torch.arange(self._n, device="cpu")[rows if isinstance(rows, slice) else rows.cpu()]
        model = rows_of(self.model, rows)
        return type(self)(model, self._forward, len(rows), self._picked(rows))

    def _picked(self, rows: Tensor) -> list[tuple[bool, Any]]:
        """Copy the rows, so that a model may write into them."""
        return [(own, part[rows.to(part.device)] if own else part) for own, part in self._others]


def _ordinary(part: Any) -> Any:
    return part.clone() if isinstance(part, Tensor) and part.is_inference() else part


# --- for the loop of training, too -----------------------------------------------------------


def prepared(
    batches: Iterable[Batch],
    model: object,
    *,
    channels_last: bool,
    progress: Progress | None,
    skip: int = 0,
) -> Iterator[Batch]:
    """Return batches on the model's device, the inputs in the memory format asked for.

    The first `skip` batches are taken from the source at once and dropped.
    """
    check_source(batches, progress)
    source = iter(batches if progress is None else progress(batches))
    skipped = sum(1 for _ in islice(source, skip))
    if skipped < skip:
        raise ValueError(f"expected {skip} batches or more, as before the stop, got {skipped}")
    device = device_of(model)
    return (_moved(*each, device, channels_last, 2) for each in enumerate(source, skip + 1))


def check_source(batches: object, progress: object = None, name: str = "batches") -> None:
    """Check what gives the batches and what shows progress through them."""
    if not isinstance(batches, Iterable):
        raise TypeError(f"expected {name} as an iterable, got {_checks.kind(batches)}")
    _checks.arguments(progress=progress)


def sourced(name: str, batches: Any) -> Iterator[Batch]:
    """Go through checked batches on no way to a model, as they are."""
    check_source(batches, name=name)
    return (_moved(*each, None, False, 1) for each in enumerate(batches, 1))


def again(batches: object) -> None:
    """Check batches that can be read more than once."""
    check_source(batches)
    if isinstance(batches, Iterator):
        wanted = "batches that can be read again, such as a list or a DataLoader"
        raise TypeError(f"expected {wanted}, got {_checks.kind(batches)}")


def _moved(
    number: int, batch: Batch, device: torch.device | None, channels_last: bool, least: int
) -> Batch:
    listed = isinstance(batch, (tuple, list))
    found = _checks.kind(batch) + (f" of length {len(batch)}" if listed else "")
    if not listed or len(batch) < least:
        raise TypeError(f"expected batches as (inputs, labels, ...), got {found} in batch {number}")
    if not isinstance(batch[0], Tensor):
        found = _checks.kind(batch[0])
        raise TypeError(f"expected inputs as a torch.Tensor, got {found} in batch {number}")
    if any(isinstance(part, Tensor) and part.is_meta for part in batch):
        raise ValueError(f"expected batches with data, got tensors on 'meta' in batch {number}")
    inputs, *others = _to(device, batch)
    if channels_last and inputs.ndim == 4:
        inputs = inputs.contiguous(memory_format=torch.channels_last)
    labels = [
        _known(whole(moved), given) for moved, given in zip(others[:1], batch[1:], strict=False)
    ]
    return (inputs, *labels, *others[1:])


def _known(labels: Any, given: Any) -> Any:
    """Read the range of integer labels before they go to a device, which would be waited for."""
    moved = isinstance(given, Tensor) and given.device.type == "cpu" != labels.device.type
    if not moved or not _checks.is_integer(given.dtype) or given.numel() == 0:
        return labels
    return _checks.note(labels, ends=tuple(float(end) for end in given.aminmax()))


def _to(device: torch.device | None, parts: Sequence[Any]) -> list[Any]:
    return [part.to(device) if isinstance(part, Tensor) else part for part in parts]


def whole(labels: Any) -> Any:
    """Return integer labels as int64 and anything else, such as soft labels, as it is."""
    integers = isinstance(labels, Tensor) and _checks.is_integer(labels.dtype)
    return labels.long() if integers else labels


def casting(model: object, dtype: torch.dtype | None) -> Callable[[], AbstractContextManager[Any]]:
    """Return what opens autocast to `dtype` on the model's device, or nothing where it is None."""
    _checks.arguments(autocast=dtype)
    if dtype is None:
        return nullcontext
    device = device_of(model) or torch.device("cpu")
    return lambda: torch.autocast(device.type, dtype)
