"""Training for the studies: it can be stopped at any moment, and counts its processor time."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import cifar10_data
import models
import torch
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel

from advcal import trainers

Point = dict[str, float]


class Clock:
    """Processor seconds of a run, those before it was stopped included."""

    def __init__(self) -> None:
        self._before = 0.0
        self._start = time.process_time()

    @property
    def seconds(self) -> float:
        """The processor seconds so far."""
        return self._before + time.process_time() - self._start

    def state_dict(self) -> dict[str, float]:
        return {"seconds": self.seconds}

    def load_state_dict(self, state: dict[str, float]) -> None:
        self._before, self._start = state["seconds"], time.process_time()


class Run(NamedTuple):
    """What a training did: a point per epoch, and the processor seconds it took."""

    curve: list[Point]
    seconds: float


def train(
    name: str,
    model: nn.Module,
    batches: cifar10_data.Batches,
    objective: Callable[..., Tensor],
    optimizer: torch.optim.Optimizer,
    *,
    n: int,
    checkpoint: Path,
    watch: Callable[[], Mapping[str, float]] = dict,
    every: int | None = None,
    bfloat16: bool = False,
    schedule: Any = None,
    average: AveragedModel | None = None,
    state: Mapping[str, Any] | None = None,
) -> Run:
    """Train for `n` epochs; go on from the checkpoint, which stays, if it is there.

    Args:
        name: What the printed lines begin with.
        model: The model, trained in place.
        batches: The batches; the state of their order is kept with the run.
        objective: `(model, batch) -> scalar loss`.
        optimizer: The optimizer.
        n: The number of epochs.
        checkpoint: The file to write to and go on from. Of a finished run it gives model and curve
            back at once.
        watch: Figures to note after each epoch.
        every: Steps between checkpoints within an epoch; none if None.
        bfloat16: Whether to train in mixed precision.
        schedule: A learning-rate scheduler, stepped after each step.
        average: Averaged weights.
        state: What else changes while it trains, such as the generators of attacks.
    """
    model.to(batches.images.device)
    curve: list[Point] = []
    clock = Clock()
    for epoch in trainers.epochs(
        model,
        batches,
        objective,
        optimizer,
        n=n,
        schedule=schedule,
        average=average,
        autocast=torch.bfloat16 if bfloat16 else None,
        channels_last=True,
        checkpoint=checkpoint,
        every=every,
        state={"curve": curve, "clock": clock, "order": batches.generator, **(state or {})},
    ):
        curve.append({"epoch": epoch.epoch, "loss": epoch.loss, **watch()})
        figures = "  ".join(f"{key} {value:.4f}" for key, value in curve[-1].items())
        print(f"{name}: {figures}  {clock.seconds:.0f} s", flush=True)
    return Run(curve, clock.seconds)


def fast_optimizer(
    model: nn.Module, n_steps: int, *, peak: float = 0.4
) -> tuple[torch.optim.Optimizer, torch.optim.lr_scheduler.LRScheduler]:
    """Make the optimizer of :func:`models.fastnet`, in the manner of the speed runs.

    SGD with Nesterov momentum; the learning rate rises to its peak for a fifth of the steps and
    falls to zero, both in a straight line. A BatchNorm whose scale is fixed has a bias that learns
    16 times as fast. Biases and scales do not decay.

    Reference:
        Jordan, "94% on CIFAR-10 in 3.29 Seconds on a Single GPU", arXiv 2404.00498, section 3.
    """
    norms = [m for m in model.modules() if isinstance(m, nn.BatchNorm2d)]
    shifts = [m.bias for m in norms if not m.weight.requires_grad]
    others = [p for p in model.parameters() if p.requires_grad and all(p is not s for s in shifts)]
    groups = [
        {"params": [p for p in others if p.ndim > 1], "lr": peak, "weight_decay": 1e-3},
        {"params": [p for p in others if p.ndim == 1], "lr": peak},
        {"params": shifts, "lr": 16 * peak},
    ]
    optimizer = torch.optim.SGD(groups, momentum=0.85, nesterov=True)
    rise = n_steps // 5

    def factor(step: int) -> float:
        return (step + 1) / (rise + 1) if step < rise else (n_steps - step) / (n_steps - rise)

    return optimizer, torch.optim.lr_scheduler.LambdaLR(optimizer, factor)


def network(name: str, images: Tensor) -> nn.Module:
    """Make a network of :mod:`models`, which may take its first layer from the training images."""
    options = {"images": images} if name.startswith("fastnet") else {}
    model: nn.Module = getattr(models, name)(**options)
    return model.to(images.device)


def train_fast(
    name: str,
    model: nn.Module,
    batches: cifar10_data.Batches,
    objective: Callable[..., Tensor],
    *,
    n: int,
    peak: float,
    path: Path,
    bfloat16: bool = False,
    watch: Callable[[], Mapping[str, float]] = dict,
    state: Mapping[str, Any] | None = None,
) -> Run:
    """Train in the manner of the speed runs; keep checkpoint and weights under the name of `path`.

    The other arguments are those of :func:`train` and :func:`fast_optimizer`.
    """
    optimizer, schedule = fast_optimizer(model, n * len(batches), peak=peak)
    run = train(
        name,
        model,
        batches,
        objective,
        optimizer,
        n=n,
        schedule=schedule,
        checkpoint=path.with_name(f"{path.name}.checkpoint"),
        every=50,
        bfloat16=bfloat16,
        watch=watch,
        state=state,
    )
    torch.save(model.state_dict(), path.with_name(f"{path.name}.pt"))
    return run


def load(path: Path, device: str = "cpu") -> nn.Module:
    """Read a network from weights named after it, as in small_cnn-standard.pt.

    A file that is not there, or not so named, or holds something else, ends the program with one
    line.
    """
    kinds = [name for name in models.NAMES if name_of(path).startswith(f"{name}-")]
    if not kinds:
        raise SystemExit(f"{path}: expected the name of a network: {', '.join(models.NAMES)}")
    model: nn.Module = getattr(models, kinds[0])()
    try:
        model.load_state_dict(torch.load(path, map_location="cpu", weights_only=True))
    except OSError as error:
        raise SystemExit(f"{path}: {error.strerror}") from None
    except Exception:  # torch has many for what a file may hold
        raise SystemExit(f"{path}: expected weights of {kinds[0]}") from None
    model.to(device, memory_format=torch.channels_last)  # type: ignore[call-overload]
    return model.eval()


class _Mirror(nn.Module):
    def forward(self, images: Tensor) -> Tensor:
        return images.flip(3)


def mirrored(model: nn.Module) -> nn.Module:
    """Average what a network says of an image and of its mirror image, as the speed runs do."""
    return trainers.ensemble([model, nn.Sequential(_Mirror(), model)])


def name_of(path: Path) -> str:
    """Name a network after its file: fastnet-IAT-0 of defense-fastnet-IAT-0.pt."""
    return path.stem.removeprefix("defense-").removeprefix("smoothing-")
