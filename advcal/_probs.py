"""Probabilities and scores as users pass them: tensors or NumPy arrays, checked row by row.

What is computed of every row passes in runs of rows that fit a cache, each checked as it passes.
"""

import functools
import warnings
from collections.abc import Callable, Iterator
from typing import Any, cast

import numpy as np
import torch
from torch import Tensor

from advcal import _checks, _sums
from advcal._typing import Array

_NARROW = 64  # classes
_SHORT = 4096  # rows
_SLACK = 5e-3  # of the sum of a row: a softmax in bfloat16 is off by half of it
_BELOW = 1e-6  # what rounding makes of 0, as in 1 - p


def probabilities(
    probs: Array, labels: Array, **options: Any
) -> tuple[Tensor, Tensor, Callable[[Tensor], Array]]:
    """Check options, and the shapes of probabilities `(n, classes)` and labels `(n,)` of one kind.

    Returns:
        Both as tensors (a view where possible) and a function that gives a tensor back as the
        kind that came in.
    """
    _checks.arguments(**options)
    p, own_kind = as_tensor("probs", probs)
    _checks.class_rows("probs", p, given=probs)
    rows, n_classes = p.shape
    y = _checks.labels(labels_like("probs", probs, labels, n_classes), rows, device=p.device)
    # As whole numbers without a sign, what is below 0 is above all classes: one look, in NumPy.
    if not small(p) or np.maximum.reduce(y.numpy().view(np.uint64)) >= n_classes:
        _checks.label_range(y, n_classes)
    return p, y, own_kind


def matrix(probs: Array) -> tuple[Tensor, Callable[[Tensor], Array]]:
    """Check the shape of probabilities `(n, classes)`; return a tensor and the way back."""
    p, own_kind = as_tensor("probs", probs)
    _checks.class_rows("probs", p, given=probs)
    return p, own_kind


def scores(
    scores_: Array, labels: Array, *, finite: bool = False
) -> tuple[Tensor, Tensor, Callable[[Tensor], Array]]:
    """Check scores `(n,)` without NaN and labels of both kinds, 0 and 1, of the same kind.

    Returns:
        The scores in float64, the labels in int64 and the way back.
    """
    s, own_kind = vector("scores", scores_, finite=finite)
    y = labels_like("scores", scores_, labels, 2)
    y = _checks.labels(y, len(s), 2, device=s.device)
    if not _checks.recording() and int(y.sum()) in (0, len(y)):
        raise ValueError(f"expected labels 0 and 1, got {int(y[0])} only")
    return s, y, own_kind


def vector(name: str, value: Array, *, finite: bool = True) -> tuple[Tensor, Any]:
    """Check numbers `(n,)`; return them in float64 and the way back. NaN never passes."""
    v, own_kind = as_tensor(name, value)
    if v.is_complex() or v.dtype == torch.bool:
        raise TypeError(f"expected {name} of real numbers, got {_checks.kind(value)}")
    if v.ndim != 1 or len(v) == 0:
        raise ValueError(f"expected {name} of shape (n >= 1,), got {_checks.kind(value)}")
    v = v.double()
    bad = ~v.isfinite() if finite else v.isnan()
    if not _checks.recording() and bad.any():
        raise ValueError(f"expected {name} that are numbers, got {float(v[bad][0]):g}")
    return v, own_kind


def example_weights(probs: Array, weights: Array, y: Tensor) -> Tensor:
    """Check weights `(n,)`, one per label and of the kind of `probs`; return them in float64."""
    _same_kind("weights", weights, "probs", probs)
    w = vector("weights", weights)[0]
    if w.shape != y.shape or w.device != y.device:
        wanted, found = f"of shape ({len(y)},) on {y.device}", _checks.kind(weights)
        raise ValueError(f"expected weights {wanted}, got {found} on {w.device}")
    if not _checks.recording() and not 0 <= float(w.min()) <= float(w.max()) > 0:
        raise ValueError(f"expected weights >= 0, one of them above, got {float(w.min()):g}")
    return w


def as_tensor(name: str, value: Any) -> tuple[Tensor, Callable[[Tensor], Any]]:
    """View a tensor or a NumPy array as a tensor; return it and the way back."""
    if isinstance(value, Tensor):
        if value.is_meta:
            raise ValueError(f"expected {name} with data, got a tensor on the device 'meta'")
        _checks.dense(name, value)
        return _sums.home(_checks.plain(value.detach())), lambda result: result
    found = _checks.kind(value)
    if not isinstance(value, np.ndarray):
        raise TypeError(f"expected {name} as a torch.Tensor or a numpy.ndarray, got {found}")
    if isinstance(value, np.ma.MaskedArray):
        raise TypeError(f"expected {name} without a mask, got {type(value).__name__}")
    if value.dtype.kind not in "fiub":
        raise TypeError(f"expected {name} of numbers, got {found}")
    native = value.astype(value.dtype.newbyteorder("="), copy=False)
    if native.dtype == np.longdouble and native.dtype.itemsize > 8:
        native = native.astype(np.float64)
    if any(stride < 0 or stride % native.itemsize for stride in native.strides):
        native = np.ascontiguousarray(native)
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="The given NumPy array is not writable")
        return torch.from_numpy(native), _to_numpy


def _to_numpy(result: Tensor) -> Any:
    array = result.numpy()
    return cast(Any, array[()] if array.ndim == 0 else array)


def labels_like(name: str, value: Any, labels: Any, n_classes: int) -> Tensor:
    """Check that labels are of the kind of a value; True is the second of two classes."""
    _same_kind("labels", labels, name, value)
    y = as_tensor("labels", labels)[0]
    return y.to(torch.int64) if y.dtype == torch.bool and n_classes == 2 else y


def _same_kind(name: str, value: Any, other: str, like: Any) -> None:
    """Check that a value is a tensor or a NumPy array as another one is."""
    if not isinstance(value, Tensor if isinstance(like, Tensor) else np.ndarray):
        wanted = "a torch.Tensor" if isinstance(like, Tensor) else "a numpy.ndarray"
        raise TypeError(f"expected {name} as {wanted} like {other}, got {_checks.kind(value)}")


# --- runs of rows ----------------------------------------------------------------------------


def row_chunks(p: Tensor) -> list[slice]:
    """Cut `(n, classes)` into runs of rows that fit a processor's cache: 2048 or so."""
    entries = min(max(2048 * p.shape[1], 1 << 18), 1 << 21) if _sums.eager(p) else 1 << 28
    size = max(1, entries // p.shape[1])
    return [slice(start, start + size) for start in range(0, len(p), size)]


def checked_rows(
    p: Tensor, y: Tensor, from_logits: bool = False
) -> Iterator[tuple[Tensor, Tensor]]:
    """Yield runs of probabilities and labels, each checked as it passes."""
    if from_logits:
        for logits, row_labels in checked_logits(p, y):
            yield logits.double().softmax(dim=1), row_labels
        return
    for rows in row_chunks(p):
        yield sound(p[rows], rows.start), y[rows]


def checked_logits(z: Tensor, y: Tensor) -> Iterator[tuple[Tensor, Tensor]]:
    """Yield runs of logits and labels: no NaN, no infinity but -inf beside a number."""
    recording = _checks.recording()
    if not recording:
        _checks.warn_of_probabilities(z)
    for rows in row_chunks(z):
        highest = z[rows].amax(dim=1)
        if not recording and not bool(highest.isfinite().all()):
            row = int((~highest.isfinite()).nonzero()[0])
            raise ValueError(
                f"expected a finite highest logit in each row, got {float(highest[row]):g} in row "
                f"{rows.start + row}"
            )
        yield z[rows], y[rows]


def sound(rows: Any, first: int = 0) -> Any:
    """Return rows of probabilities, a tensor or an array, with rounding below 0 taken off.

    Args:
        rows: Probabilities, shape `(n, classes)`, checked not to be negative and to sum to one.
        first: The number of the first row, for the message.
    """
    if _checks.recording():
        return rows.clip(0, None)
    if isinstance(rows, np.ndarray):  # a sum of squares is one look, and no less than the largest
        least, off = np.minimum.reduce(rows, axis=None), rows @ _ones(rows.shape[1], rows.dtype) - 1
        if least >= 0 and off.dot(off) <= _SLACK**2:
            return rows
        return sound(torch.from_numpy(rows), first).numpy()
    half = _checks.SUM_TOLERANCE.get(rows.dtype)
    wide, slack = (rows, _SLACK) if half is None else (rows.float(), half)
    smallest = wide.min()  # the first to read the rows, which are in the cache from then on
    sums = wide.sum(dim=1)
    least, low, high = _checks.read(smallest, sums.min(), sums.max())
    if least >= -_BELOW and 1 - slack <= low <= high <= 1 + slack:
        return rows if least >= 0 else rows.clip(0, 1)
    bad = ~(((sums - 1).abs() <= slack) & (wide >= -_BELOW).all(dim=1))
    row = int(bad.nonzero()[0])
    low, high = (float(end) for end in wide[row].aminmax())
    found = f"a probability of {low:g}" if low < -_BELOW else f"a sum of {float(sums[row]):g}"
    hint = "pass logits through softmax first, or say from_logits=True"
    if -_BELOW <= low <= high <= 1 + _BELOW:
        hint = "if the classes exclude each other, divide each row by its sum"
    raise ValueError(
        f"expected each row of probs to be >= 0 and to sum to 1, got {found} in row {first + row}; "
        + hint
    )


@functools.lru_cache(8)
def _ones(n: int, dtype: Any) -> Any:
    return np.ones(n, dtype)


# --- the top label ---------------------------------------------------------------------------


def top_labels(
    probs: Array, labels: Array, from_logits: bool = False
) -> tuple[Tensor, Tensor, Callable[[Tensor], Array]]:
    """Check and return confidences `(n,)` (float64), whether right `(n,)`, and the way back."""
    p, y, own_kind = probabilities(probs, labels, from_logits=from_logits)
    tops = [top_label(rows, row_labels) for rows, row_labels in checked_rows(p, y, from_logits)]
    confidence, correct = (torch.cat(parts) for parts in zip(*tops, strict=True))
    return confidence, correct, own_kind


def top_label(p: Tensor, y: Tensor, positive: int | None = None) -> tuple[Tensor, Tensor]:
    """Return the highest probability (float64) and whether it is the label's, each `(n,)`.

    Of equal probabilities the first class is the prediction, as with `argmax`. With `positive`:
    the probability of this class, and whether it is the label.
    """
    if positive is not None:
        return _sums.exact(p[:, positive]), y == positive
    fast = in_numpy(p)
    if p.shape[1] > _NARROW or small(p) or not fast:
        predicted = torch.from_numpy(p.numpy().argmax(axis=1)) if fast else p.argmax(dim=1)
        return p.gather(1, predicted[:, None])[:, 0].double(), predicted == y
    # Over many rows of few classes argmax is slow; the label's probability against others' is not.
    own = p.gather(1, y[:, None])[:, 0]
    classes_first = torch.from_numpy(p.numpy().T.copy())
    others = classes_first.scatter_(0, y[None], -1).amax(dim=0)
    correct = own > others
    tied = (own == others).nonzero()[:, 0]
    correct[tied] = p[tied].argmax(dim=1) == y[tied]
    return torch.maximum(own, others).double(), correct


def in_numpy(p: Tensor) -> bool:
    """Tell whether NumPy reads it: argmax takes a third, a transposed copy two thirds there."""
    return _sums.eager(p) and p.dtype in (torch.float32, torch.float64)


def small(p: Tensor) -> bool:
    """Tell whether all is faster in NumPy, which starts in a tenth of the time of PyTorch."""
    return p.shape[0] <= _SHORT and in_numpy(p)
