"""One step of an optimizer, over one batch or over several as if they were one."""

import inspect
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel

from advcal import _checks
from advcal._weights import check_weights, weights
from advcal.trainers._contents import has_state


@dataclass(kw_only=True)
class Step:
    """Gather the gradients of batches and step once there are enough.

    The gradient is that of the mean over all examples of all batches and processes: each batch
    counts by its examples. The fields are as in `epochs`.
    """

    model: nn.Module
    optimizer: torch.optim.Optimizer
    accumulate: int
    processes: int  # over which gradients are averaged
    max_norm: float | None
    schedule: Any
    average: AveragedModel | None
    backward: Callable[[Tensor], object]
    scaler: torch.amp.GradScaler | None
    pending: int = 0
    _examples: int = field(default=0, init=False)  # of the batches that are in
    _expected: int = field(default=0, init=False)  # of a step, if all batches are like the first

    def parts(self) -> dict[str, Any]:
        """Name what of a run has a state."""
        names = ("model", "optimizer", "schedule", "average", "scaler")
        return {name: part for name in names if (part := getattr(self, name)) is not None}

    def begin(self) -> None:
        """Drop the gradients of the step before."""
        if self.pending == 0:
            self.optimizer.zero_grad()

    def add(self, loss: Tensor, n: int, total: int) -> bool:
        """Take the gradient of the mean loss over `n` examples, `total` in all processes.

        If the batch is the last one of a step, take the step, and return True.
        """
        if self.pending == 0:
            self._examples, self._expected = 0, self.accumulate * total
        if n * self.processes != self._expected:
            loss = loss * (n * self.processes / self._expected)
        self.backward(loss if self.scaler is None else self.scaler.scale(loss))
        self.pending += 1
        self._examples += total
        if self.pending == self.accumulate:
            self.take()
        return self.pending == 0

    def take(self) -> None:
        """Step with the gradients that are there."""
        self.pending = 0
        if self.scaler is not None:
            self.scaler.unscale_(self.optimizer)
        if self._examples != self._expected or self.max_norm is not None:
            self._rescale()
        if self._stepped():
            if self.schedule is not None:
                self.schedule.step()
            if self.average is not None:
                self.average.update_parameters(self.model)

    def _rescale(self) -> None:
        parameters = [p for group in self.optimizer.param_groups for p in group["params"]]
        if self._examples != self._expected:
            for parameter in parameters:
                if parameter.grad is not None:
                    parameter.grad.mul_(self._expected / self._examples)
        if self.max_norm is not None:
            nn.utils.clip_grad_norm_(parameters, self.max_norm)

    def _stepped(self) -> bool:
        if self.scaler is None:
            self.optimizer.step()
            return True
        self.scaler.step(self.optimizer)  # leaves the weights alone if a gradient overflowed
        scale = self.scaler.get_scale()
        self.scaler.update()
        return self.scaler.get_scale() >= scale


def check_optimizer(optimizer: Any, model: Any) -> None:
    """Check an optimizer of a model."""
    if not isinstance(model, nn.Module):
        raise TypeError(f"expected model as a torch.nn.Module, got {_checks.kind(model)}")
    if not isinstance(optimizer, torch.optim.Optimizer):
        raise TypeError(
            f"expected optimizer as a torch.optim.Optimizer, got {_checks.kind(optimizer)}"
        )
    own = {id(parameter) for parameter in model.parameters()}
    if not any(id(p) in own for group in optimizer.param_groups for p in group["params"]):
        raise ValueError("expected optimizer of the model's parameters, got one of none of them")
    closure = inspect.signature(optimizer.step).parameters.get("closure")
    if closure is not None and closure.default is closure.empty:
        raise TypeError(
            "expected optimizer as one that steps by the gradients that are there, got "
            f"{_checks.kind(optimizer)}, whose step wants a closure; use it in a loop of your own"
        )


def check_schedule(schedule: Any, optimizer: torch.optim.Optimizer) -> None:
    """Check a schedule of an optimizer, or none."""
    if schedule is None:
        return
    if isinstance(schedule, torch.optim.lr_scheduler.ReduceLROnPlateau):
        raise ValueError(
            "expected a schedule that steps without a score, got ReduceLROnPlateau; step it in "
            "the body of the for"
        )
    if not (callable(getattr(schedule, "step", None)) and has_state(schedule)):
        raise TypeError(
            f"expected schedule as a scheduler of learning rates, got {_checks.kind(schedule)}"
        )
    steered = getattr(schedule, "optimizer", None)
    inside = getattr(optimizer, "optimizer", None)  # of what another library has wrapped
    if isinstance(steered, torch.optim.Optimizer) and steered is not inside:
        groups = {id(group) for group in steered.param_groups}
        if all(id(group) not in groups for group in optimizer.param_groups):
            raise ValueError("expected schedule of this optimizer, got one of another")


def check_average(average: Any, model: nn.Module) -> None:
    """Check averaged weights of a model, or none."""
    if average is None:
        return
    if not isinstance(average, AveragedModel):
        raise TypeError(f"expected average as an AveragedModel, got {_checks.kind(average)}")
    check_weights("average of this model, got one", model, weights(average.module))
