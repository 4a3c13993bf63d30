"""Progress through an attack, which is counted by the calls of the model."""

from collections.abc import Iterator
from contextlib import contextmanager

from torch import Tensor

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
    watched = _Shown(model, progress, n, calls)
    try:
        yield watched
        watched.until(0)
        next(watched.units, None)  # which tells what shows them that this is the end
    finally:
        getattr(watched.units, "close", lambda: None)()


class _Shown(Around):
    def __init__(self, model: Model, progress: Progress, n: int, calls: int) -> None:
        super().__init__()
        self.model, self._around = model, (model,)
        self.units, self._left, self._calls = iter(progress(range(n * calls))), n * calls, calls

    def forward(self, inputs: Tensor) -> Tensor:
        logits = self.model(inputs)
        self._calls -= 1
        self.until(len(inputs) * max(self._calls, 0))
        return logits

    def until(self, left: int) -> None:
        """Go on until so many units are left."""
        for _ in range(self._left - left):
            next(self.units, None)
        self._left = min(self._left, left)
