"""The splits of adaptive smoothing: data whose examples have an index, and are known by digests."""

from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor

from advcal import _checks, _digest
from advcal._pass import Part, Way, one_pass
from advcal._typing import Batch, Model


class Split:
    """A data set that is gone through again and again, each of its examples once in each pass.

    Attributes:
        name: What messages call it.
        digests: A digest of each input, by index if there are indices, else in order.
    """

    def __init__(
        self, name: str, batches: Iterable[Batch], shapes: set[tuple[int, ...]], *, indexed: bool
    ) -> None:
        self.name, self._batches, self._indexed = name, batches, indexed
        self.digests: list[bytes] = []
        indices: list[Tensor] = []
        with torch.random.fork_rng(devices=[]):
            for batch, keys in _digest.examples(name, batches, shapes):
                self.digests += keys
                if indexed:
                    indices.append(self.indices(batch[2:], len(batch[0]), None).cpu())
        if not self.digests:
            raise ValueError(f"expected {name} with one batch or more, got none")
        if indexed:
            order = torch.cat(indices)
            _checks.label_range(order, len(self), f"indices of {name}")
            self._check_once(torch.bincount(order, minlength=len(self)))
            self.digests = [self.digests[i] for i in order.argsort().tolist()]

    def __len__(self) -> int:
        return len(self.digests)

    def indices(self, rest: Sequence[Any], n: int, n_all: int | None) -> Tensor:
        """Return the indices of the `n` examples of a batch, the first of what comes after labels.

        Args:
            rest: What a batch has after inputs and labels.
            n: The number of its examples.
            n_all: The number of examples of the split, if it is known yet.
        """
        if len(rest) == 0:
            raise ValueError(
                f"expected batches of {self.name} as (inputs, labels, indices), got two parts; "
                "TensorDataset(inputs, labels, torch.arange(n)) has all three"
            )
        return _checks.labels(rest[0], n, n_all, name=f"indices of {self.name}")

    @contextmanager
    def passing(self, model: Model, way: Way) -> Iterator[Iterator[tuple[Part, Tensor]]]:
        """Freeze a model and go through the split, each batch with the indices of its examples."""
        with torch.random.fork_rng(devices=[]), one_pass([model], self._batches, way) as parts:
            yield self._numbered(parts)

    def _numbered(self, parts: Iterator[Part]) -> Iterator[tuple[Part, Tensor]]:
        position, counts = 0, torch.zeros(len(self), dtype=torch.int64, device="cpu")
        for part in parts:
            size = len(part.inputs)
            in_order = [position + torch.arange(size, device="cpu")]
            rest = part.rest if self._indexed else in_order
            indices = self.indices(rest, size, len(self)).cpu()
            counts.index_add_(0, indices, torch.ones_like(indices))
            position += size
            yield part, indices
        self._check_once(counts)

    def _check_once(self, counts: Tensor) -> None:
        wrong = (counts != 1).nonzero()
        if len(wrong):
            first = int(wrong[0])
            raise ValueError(
                f"expected every example of {self.name} once in each pass, got example {first} "
                f"{int(counts[first])} times; does the loader drop the last batch or draw at "
                "random?"
            )

    def shared(self, digests: Iterable[bytes]) -> tuple[int, int]:
        """Count the digests that are among the split's, and say which of them is the first."""
        known, found = set(self.digests), list(digests)
        places = [i for i, each in enumerate(found) if each in known]
        return len({found[i] for i in places}), next(iter(places), -1)
