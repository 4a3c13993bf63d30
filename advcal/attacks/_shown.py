"""Progress through an attack, which is counted by the calls of the model."""

from collections.abc import Iterator
from contextlib import contextmanager

from torch import Tensor

from advcal._answers import rows_of
from advcal._frozen import Around
from advcal._typing import Model, Progress


@contextmanager
def shown(model: Model, progress: Progress | None, n: int, calls: int) -> Iterator[Model]:
    """Give a model whose calls show how much is left of `n` examples times `calls`, the most.

    An example that leaves the batch takes all of its calls with it.
    """
    if progress is None:
        yield model
        return
    units = _Units(progress, n, calls)
    try:
        yield _Shown(model, units)
        units.until(0)
        next(units.shown, None)  # which tells what shows them that this is the end
    finally:
        getattr(units.shown, "close", lambda: None)()


class _Shown(Around):
    def __init__(self, model: Model, units: "_Units") -> None:
        super().__init__()
        self.model, self._units, self._around = model, units, (model,)

    def forward(self, inputs: Tensor) -> Tensor:
        logits = self.model(inputs)
        self._units.called(len(inputs))
        return logits

    def of_rows(self, rows: Tensor | slice) -> "_Shown":
        """Show the model for these rows of a batch."""
        return _Shown(rows_of(self.model, rows), self._units)


class _Units:
    def __init__(self, progress: Progress, n: int, calls: int) -> None:
        self.shown, self._left, self._calls = iter(progress(range(n * calls))), n * calls, calls

    def called(self, n: int) -> None:
        """Go on by a call of the model with `n` examples."""
        self._calls -= 1
        self.until(n * max(self._calls, 0))

    def until(self, left: int) -> None:
        """Go on until so many units are left."""
        for _ in range(self._left - left):
            next(self.shown, None)
        self._left = min(self._left, left)
