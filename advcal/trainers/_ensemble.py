"""Ensembles: several models as one, whose prediction is the mean of theirs, and their loop."""

import os
import random
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import PurePath
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from advcal import _checks
from advcal._answers import logits_of, rows_of
from advcal._files import Path
from advcal._frozen import Around, bare
from advcal._logits import log_mean_probs
from advcal._typing import Progress


def ensemble(models: Sequence[nn.Module]) -> nn.Module:
    r"""Make one model of several: $f(x) = \log \frac1M \sum_m \mathrm{softmax}(f_m(x))$.

    Its logits are the logarithms of the mean probabilities, so a softmax gives the mean back, and
    an attack on it is an attack on the averaged prediction, finite even when the members are sure.
    It is a module that holds the members: modes, devices, parameters and saving are those of any
    module. A forward pass costs one of each member.

    Args:
        models: The members, one or more, of the same classes; not copied.

    Returns:
        Inputs to the logarithm of the mean probabilities, in float32 or wider.

    Raises:
        TypeError: If `models` is not a sequence of `nn.Module`.
        ValueError: If it is empty; when called, if the members differ in their classes.

    Example:
        >>> members = nn.Linear(2, 2), nn.Linear(2, 2)
        >>> ensemble(members)(torch.eye(2)).exp().sum(dim=1)
        tensor([1., 1.], grad_fn=<SumBackward1>)

    References:
        Lakshminarayanan et al., Simple and Scalable Predictive Uncertainty Estimation using Deep
        Ensembles, NeurIPS 2017, section 2.4.
    """
    if not isinstance(models, Sequence | nn.ModuleList):
        raise TypeError(f"expected models as a sequence of modules, got {_checks.kind(models)}")
    if len(models) == 0:
        raise ValueError("expected one model or more, got none")
    for model in models:
        if not isinstance(model, nn.Module):
            raise TypeError(f"expected models as torch.nn.Modules, got {_checks.kind(model)}")
    return _Ensemble(models)


class _Ensemble(Around):
    def __init__(self, models: Sequence[nn.Module]) -> None:
        super().__init__()
        self.models = nn.ModuleList(models)
        self._around = tuple(self.models)

    def of_rows(self, rows: Tensor | slice) -> "_Ensemble":
        """Take the members for some rows of a batch."""
        members: list[Any] = [rows_of(model, rows) for model in self.models]
        same = all(one is other for one, other in zip(members, self.models, strict=True))
        return self if same else _Ensemble(members)

    def forward(self, inputs: Tensor) -> Tensor:
        # Copies, since a member may write into what it gets.
        outputs = [logits_of(model, inputs.clone()) for model in self.models]
        if len({output.shape for output in outputs}) > 1:
            found = ", ".join(str(output.shape[1]) for output in outputs)
            raise ValueError(f"expected members of the same classes, got logits of {found}")
        return log_mean_probs(outputs)


def members_of(model: object) -> Sequence[nn.Module] | None:
    """Return the members of an ensemble; None if it is not one, or a wrapped one."""
    return list(model.models) if isinstance(model, _Ensemble) else None


def deep_ensemble(
    member: Callable[[int, str | None], nn.Module],
    seeds: Sequence[int],
    *,
    checkpoint: Path | None = None,
    progress: Progress | None = None,
) -> nn.Module:
    """Train one member for each seed, one after the other, and make an ensemble of them.

    The members are trained alike and apart: before each, the random states of torch, NumPy and
    Python are set by its seed, so it starts from other weights and sees the data in another order.
    A member is therefore the same alone and among others, in whatever order they come. Afterwards
    the random states are as they were.

    With `checkpoint="run.pt"` each member has a file of its own, `run-0.pt` for seed 0, that it
    passes on to `fit` or `epochs`. The same script, started again after it was stopped at any
    moment, then goes on where it stood; a member that is finished is only read. So more seeds later
    cost only the new ones, and several machines with a common disk can take some seeds each.

    For members that must advance together, epoch by epoch, see `lockstep`.

    Args:
        member: `(seed, checkpoint) -> trained model`. It makes model, optimizer and whatever else
            draws at random; `checkpoint` is the member's file, or None.
        seeds: One or more different integers from 0 to $2^{32} - 1$, such as `range(5)`.
        checkpoint: The file that the members' files are named after; none are written if None.
        progress: A wrapper of an iterable that shows progress, such as `tqdm.tqdm`.

    Returns:
        The ensemble, as `ensemble` makes it; its members are in the order of `seeds`.

    Raises:
        TypeError: If an argument is of the wrong kind, or `member` returns no `nn.Module`.
        ValueError: If there are no seeds, or two are the same or out of range, or two members have
            the same weights: their model was not made anew in `member`, or they have one file.

    Example:
        >>> from advcal.trainers import fit, standard
        >>> batches = [(torch.eye(2), torch.tensor([0, 1]))]
        >>> def member(seed, checkpoint):
        ...     model = nn.Linear(2, 2)
        ...     optimizer = torch.optim.SGD(model.parameters(), lr=1.0)
        ...     fit(model, batches, standard(), optimizer, n=5, checkpoint=checkpoint)
        ...     return model
        >>> deep_ensemble(member, range(3))(torch.eye(2)).argmax(dim=1)
        tensor([0, 1])

    References:
        Lakshminarayanan et al., Simple and Scalable Predictive Uncertainty Estimation using Deep
        Ensembles, NeurIPS 2017, section 2.4.
    """
    _checks.arguments(progress=progress)
    _checks.function("member", member)
    seeds = _seeds(seeds)
    if checkpoint is not None:
        _checks.path("checkpoint", checkpoint)
    models: dict[int, nn.Module] = {}
    for seed in seeds if progress is None else progress(seeds):
        with _seeded(seed):
            model = member(seed, None if checkpoint is None else _named(checkpoint, seed))
        if not isinstance(model, nn.Module):
            raise TypeError(f"expected member to return a Module, got {_checks.kind(model)}")
        for other, earlier in models.items():
            if _same(earlier, model):
                raise ValueError(
                    f"expected members that differ, got the same weights for seeds {other} and "
                    f"{seed}; make the model in member, and give each seed its own checkpoint"
                )
        models[seed] = model
    return ensemble(list(models.values()))


def _seeds(seeds: Any) -> list[int]:
    if not isinstance(seeds, Sequence) or isinstance(seeds, str):
        raise TypeError(f"expected seeds as a sequence of integers, got {_checks.kind(seeds)}")
    found = [_checks.count("seeds", seed, least=0) for seed in seeds]
    if not found or len({*found}) < len(found) or max(found) >= 2**32:
        raise ValueError(
            f"expected one seed or more, different ones from 0 to 2**32 - 1, got {found}"
        )
    return found


def _named(checkpoint: Path, seed: int) -> str:
    path = PurePath(os.fsdecode(checkpoint))
    return str(path.with_name(f"{path.stem}-{seed}{path.suffix}"))


@contextmanager
def _seeded(seed: int) -> Iterator[None]:
    """Set everything random by a seed for a while."""
    numpy: Any = np.random.get_state()  # noqa: NPY002 - the user's code may draw from it
    python = random.getstate()
    try:
        with torch.random.fork_rng(devices=range(torch.cuda.device_count())):
            torch.manual_seed(seed)
            np.random.seed(seed)  # noqa: NPY002
            random.seed(seed)
            yield
    finally:
        np.random.set_state(numpy)  # noqa: NPY002
        random.setstate(python)


def _same(one: nn.Module, other: nn.Module) -> bool:
    """Tell whether two members have one and the same parameters, some at least."""
    pairs = list(zip(bare(one).parameters(), bare(other).parameters(), strict=False))
    return bool(pairs) and all(
        a is b or (a.shape == b.shape and torch.equal(a, b.to(a.device))) for a, b in pairs
    )
