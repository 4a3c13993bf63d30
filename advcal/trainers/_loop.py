"""The training loop, as a generator of records."""

from collections.abc import Callable, Collection, Generator, Iterable, Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel

from advcal import _checks, _processes
from advcal._files import Path
from advcal._frozen import bare, device_of, parallel
from advcal._pass import casting, check_source
from advcal._typing import Batch, Objective, Progress
from advcal.trainers._checkpoint import Checkpoint
from advcal.trainers._contents import check_state
from advcal.trainers._identity import check_changed, common, length, settings_of
from advcal.trainers._run import Epoch, Run
from advcal.trainers._step import Step, check_average, check_optimizer, check_schedule


def epochs(
    model: nn.Module,
    batches: Iterable[Batch],
    objective: Objective,
    optimizer: torch.optim.Optimizer,
    *,
    n: int,
    schedule: Any = None,
    max_norm: float | None = None,
    accumulate: int = 1,
    average: AveragedModel | None = None,
    autocast: torch.dtype | None = None,
    channels_last: bool = False,
    backward: Callable[[Tensor], object] | None = None,
    checkpoint: Path | None = None,
    every: int | None = None,
    changed: Collection[str] = (),
    state: Mapping[str, Any] | None = None,
    progress: Progress | None = None,
) -> Generator[Epoch, None, list[Epoch]]:
    """Train for `n` epochs and yield a record after each.

    The body of the `for` is the place for validation, early stopping and whatever else happens
    once per epoch; `break` ends training. Each epoch puts the model into train mode. Batches go to
    the device of the model; the model is never moved. Whatever the objective raises comes with a
    note of the epoch and the batch.

    **Checkpoints.** With `checkpoint=path` the run is written to that file whenever the body of
    the `for` is done, and after each `every` steps within an epoch. If the file is there already,
    training goes on from it: the same script, started again after it was killed at any moment,
    ends with the same weights to the last bit, on the same machine and versions, and on CUDA as far
    as its kernels are deterministic. The file has all that is trained, the random states of torch,
    NumPy and Python, the place in the epoch, and the records. It is replaced in one piece and
    executes nothing when read: `torch.load(path)["model"]` has the weights, by the names that they
    have without wrappers. What else changes while you train goes into `state`: generators of
    attacks, an `EarlyStopping`, smoothing, a list of your own figures, all of it tensors and plain
    values, which is checked before the first step. Epochs that the file has are not yielded again;
    one whose body was cut short is. Within an epoch the run goes through the batches that are done
    once more, so their order must be fixed or follow from the random states when the epoch began,
    as that of a `DataLoader` does. What persistent workers draw goes on from the epochs before, and
    is lost with them.

    A file belongs to one run. It knows the settings: the objective as it prints, and your functions
    in it by their code, their defaults, and the floats, functions and attacks in their closures,
    the data by their number of batches and the first one, the optimizer as it was constructed, the
    schedule, averaging, `accumulate`, `max_norm`, `autocast`, and the versions of this library and
    of torch. A class of yours has to print its settings, as a dataclass does. If one of them
    differs it says which, before anything is put back; `changed` names those that are meant to. A
    second run that would write the same file is refused while the first is at it.

    **Several processes.** Wrap the model in `DistributedDataParallel` and give each process its
    part of the data, as `DistributedSampler` does; its `set_epoch` is called here. Gradients, the
    record, and the stop at a loss that is not finite are then those of all processes together, and
    each example counts once, also if batches have unequal sizes. The first process alone reads and
    writes the checkpoint, so there need be no common disk; of three or more, torch may round a sum
    otherwise in the first step after a stop. Another number of batches, or other settings, in one
    of the processes is an error in all of them. BatchNorm takes its statistics from each process's
    own part; `torch.nn.SyncBatchNorm` does not.

    **Averaged weights.** `average` is updated after each step: with
    `multi_avg_fn=get_ema_multi_avg_fn(0.999)` an exponential moving average (EMA). Its BatchNorm
    statistics are the model's latest, or averaged too with `use_buffers=True`. For SWA, which
    averages once per epoch, call `update_parameters` in the body, put the averaged model into
    `state`, and compute its statistics by `torch.optim.swa_utils.update_bn`.

    Args:
        model: The model to train, in place; a compiled or a wrapped one too.
        batches: An iterable of `(inputs, labels, *rest)` that can be gone through `n` times, such
            as a `DataLoader` or a list.
        objective: `(model, batch) -> scalar loss`, a mean over the batch.
        optimizer: The optimizer of the model's parameters.
        n: The number of epochs, those in the checkpoint included.
        schedule: A learning-rate scheduler of torch, stepped after *each step of the optimizer*.
            One that counts epochs is stepped in the body, as is `ReduceLROnPlateau`; put it into
            `state`.
        max_norm: The L2 norm that the gradient is clipped to.
        accumulate: The number of batches to a step of the optimizer, which is then that of one
            big batch; each batch counts by its examples. An epoch's last step takes what is left.
        average: Averaged weights, torch's `AveragedModel`.
        autocast: `torch.bfloat16` to compute the objective in mixed precision, attacks included;
            on CUDA also `torch.float16`, with torch's `GradScaler`.
        channels_last: Whether to lay out four-dimensional inputs and weights channels last, which
            is faster for convolutions on most machines. It converts the model in place.
        backward: What takes the gradient of the loss, for instance `fabric.backward` or
            `accelerator.backward`; `Tensor.backward` if None.
        checkpoint: The file to write to and to go on from.
        every: The number of steps between checkpoints within an epoch; none if None.
        changed: What of the run is meant to differ from the checkpoint's, such as `["data"]`:
            `"objective"`, `"data"`, `"optimizer"`, `"schedule"`, `"average"`, `"accumulate"`,
            `"max_norm"`, `"autocast"`, or the versions, `"advcal"` and `"torch"`. An optimizer
            then has its settings from here and its moments from the file, if they fit, and a
            schedule begins anew.
        state: Names to what else belongs into the checkpoint: a `torch.Generator`, a list or dict
            of plain values, or anything with `state_dict` and `load_state_dict`. With several
            processes generators are kept for each, and the rest as the first process has it.
        progress: A wrapper of an iterable that shows progress, such as `tqdm.tqdm`.

    Yields:
        An `Epoch` after each epoch.

    Raises:
        TypeError: If an argument or a batch is of the wrong kind.
        ValueError: If a number is out of range, float16 is asked for without CUDA, an epoch has no
            batches, a batch is empty or has not one label per input, the objective is no scalar,
            the optimizer has none of the model's parameters, processes differ, or the checkpoint
            is damaged, of another run or of more epochs.
        FloatingPointError: If the loss is not finite, or a weight when a checkpoint is due. The
            weights are those before the step, and the checkpoint stays as it was; statistics of
            BatchNorm have seen the batch.
        OSError: If the checkpoint cannot be written, as on a full disk; the last one stays.
        BlockingIOError: If another run is at work on the checkpoint.

    Example:
        >>> _ = torch.manual_seed(0)
        >>> model = nn.Linear(2, 2)
        >>> batches = [(torch.eye(2), torch.tensor([0, 1]))]
        >>> from advcal.trainers import standard
        >>> optimizer = torch.optim.SGD(model.parameters(), lr=1.0)
        >>> for epoch in epochs(model, batches, standard(), optimizer, n=3):
        ...     print(epoch.epoch, epoch.n)
        1 2
        2 2
        3 2
    """
    _checks.arguments(objective=objective, n=n, max_norm=max_norm, accumulate=accumulate)
    _checks.arguments(channels_last=channels_last, backward=backward, every=every)
    check_source(batches, progress)
    check_optimizer(optimizer, model)
    check_schedule(schedule, optimizer)
    check_average(average, model)
    casts, wrapper = casting(model, autocast), parallel(model)
    group = None if wrapper is None else wrapper.process_group
    step = Step(
        model=bare(model),
        optimizer=optimizer,
        accumulate=accumulate,
        processes=1 if group is None else group.size(),
        max_norm=max_norm,
        schedule=schedule,
        average=average,
        backward=backward or Tensor.backward,
        scaler=_scaler(model, autocast),
    )
    state = {} if state is None else state
    check_state(state)
    check_changed(changed)
    parts, data = step.parts(), {"data length": length(batches)}
    own = {"accumulate": accumulate, "max_norm": max_norm, "autocast": autocast}
    settings = settings_of(objective, parts, **data, **own)
    alike = {"n": n, "every": every, "checkpoint": checkpoint is not None} | common(settings)
    _processes.same(alike, group)
    saved = None
    if checkpoint is not None:
        _processes.agreed(lambda: _checks.path("checkpoint", checkpoint), group)
        place = device_of(model), group
        saved = Checkpoint(checkpoint, parts, state, *place, settings, changed, batches)
    if channels_last:
        model.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    return Run(
        model=model,
        batches=batches,
        objective=objective,
        step=step,
        saved=saved,
        every=None if every is None else every * accumulate,
        casts=casts,
        channels_last=channels_last,
        group=group,
        progress=progress,
    ).epochs(n)


def fit(
    model: nn.Module,
    batches: Iterable[Batch],
    objective: Objective,
    optimizer: torch.optim.Optimizer,
    *,
    n: int,
    schedule: Any = None,
    max_norm: float | None = None,
    accumulate: int = 1,
    average: AveragedModel | None = None,
    autocast: torch.dtype | None = None,
    channels_last: bool = False,
    backward: Callable[[Tensor], object] | None = None,
    checkpoint: Path | None = None,
    every: int | None = None,
    changed: Collection[str] = (),
    state: Mapping[str, Any] | None = None,
    progress: Progress | None = None,
) -> list[Epoch]:
    """Train for `n` epochs: the short form of `epochs`, which says more.

    Args:
        model: The model to train, in place.
        batches: An iterable of `(inputs, labels, *rest)` that can be gone through `n` times.
        objective: `(model, batch) -> scalar loss`.
        optimizer: The optimizer of the model's parameters.
        n: The number of epochs.
        schedule: A learning-rate scheduler, stepped after each step of the optimizer.
        max_norm: The L2 norm that the gradient is clipped to.
        accumulate: The number of batches to a step of the optimizer.
        average: Averaged weights, updated after each step.
        autocast: `torch.bfloat16`, or on CUDA `torch.float16`, to compute in mixed precision.
        channels_last: Whether to lay out inputs and weights channels last.
        backward: What takes the gradient of the loss; `Tensor.backward` if None.
        checkpoint: The file to write to and to go on from.
        every: The number of steps between checkpoints within an epoch; none if None.
        changed: What of the run is meant to differ from the checkpoint's.
        state: Names to what else belongs into the checkpoint.
        progress: A wrapper of an iterable that shows progress, such as `tqdm.tqdm`.

    Returns:
        The record of each epoch, those in the checkpoint included.

    Raises:
        TypeError: If an argument or a batch is of the wrong kind.
        ValueError: If an argument, a batch or the checkpoint is not as `epochs` says.
        FloatingPointError: If the loss is not finite; the weights are those before that step.
        OSError: If the checkpoint cannot be written, or another run is at work on it.

    Example:
        >>> _ = torch.manual_seed(0)
        >>> model = nn.Linear(2, 2)
        >>> batches = [(torch.eye(2), torch.tensor([0, 1]))]
        >>> from advcal.trainers import standard
        >>> optimizer = torch.optim.SGD(model.parameters(), lr=1.0)
        >>> [epoch.n for epoch in fit(model, batches, standard(), optimizer, n=2)]
        [2, 2]
    """
    run = epochs(**locals())  # each argument as it is
    while True:
        try:
            next(run)
        except StopIteration as end:
            records: list[Epoch] = end.value
            return records


def _scaler(model: nn.Module, dtype: torch.dtype | None) -> torch.amp.GradScaler | None:
    if dtype != torch.float16:
        return None
    device = device_of(model) or torch.device("cpu")
    if device.type != "cuda":
        raise ValueError(
            f"expected autocast=torch.bfloat16 on {device.type}, got torch.float16, which is for "
            "training on CUDA"
        )
    return torch.amp.GradScaler(device.type)
