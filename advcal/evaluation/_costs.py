"""What a model costs: how long it takes, how many parameters it has, how many bytes they take."""

import dataclasses
import io
import math
import time
import zipfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor, nn

from advcal import _batches, _checks
from advcal._answers import logits_of
from advcal._frozen import frozen
from advcal._markup import aligned, decimal, html
from advcal._pass import Way, casting
from advcal._typing import Model
from advcal.evaluation._transfer import named


class Latency(NamedTuple):
    """How long one batch takes, in milliseconds.

    Attributes:
        median: The median over the runs.
        low: The first quartile: a quarter of the runs took less.
        high: The third quartile: a quarter of the runs took more.
    """

    median: float
    low: float
    high: float


@dataclasses.dataclass(frozen=True)
class Cost:
    """What a model costs; `str` lays it out, and `table(records, costs=...)` has it in its rows.

    Attributes:
        parameters: The number of weights and biases, those inside quantised layers included; None
            if the model is not an `nn.Module`, or a script that shows none.
        bytes: What the parameters and buffers take as `torch.save` writes them, each once if it is
            shared; None if `parameters` is.
        latency: From the size of a batch to how long one takes.
    """

    parameters: int | None
    bytes: int | None
    latency: Mapping[int, Latency]

    def as_dict(self) -> dict[str, Any]:
        """Return plain numbers and dicts, ready for JSON."""
        return vars(self) | {"latency": {n: each._asdict() for n, each in self.latency.items()}}

    def _rows(self) -> list[list[str]]:
        rows = [["cost", "value", "half of the runs"]]
        rows += [[name, word, ""] for name, word in cost_words({"": self})[""].items()]
        for row, each in zip(
            rows[len(rows) - len(self.latency) :], self.latency.values(), strict=True
        ):
            row[2] = f"[{_three(each.low)}, {_three(each.high)}]"
        return rows

    def __str__(self) -> str:
        return aligned(self._rows(), n_names=1)

    def _repr_html_(self) -> str:
        return html(self._rows())


def costs(
    models: Mapping[str, Model],
    inputs: Tensor,
    *,
    batch_sizes: Sequence[int] = (1, 128),
    n: int = 20,
    autocast: torch.dtype | None = None,
    channels_last: bool = False,
) -> dict[str, Cost]:
    """Measure how long models take, how many parameters they have, and the bytes of these.

    The models take turns, so that whatever else the machine does is spread over all of them:
    compare models by one call. Each runs three times untimed first, and as in `evaluate`: in eval
    mode if it was in train mode, without gradients. Timed is the model alone, from inputs that are
    on its device already to the end of what that device does. Times are of this machine, its load
    and its number of threads.

    Args:
        models: Names to models. Give a quantised network itself, not `attacks.through` of it, which
            holds two networks.
        inputs: Some inputs `(n, ...)`; they are repeated, or cut, to the size of each batch.
        batch_sizes: How many inputs a batch has.
        n: The number of timed runs of each model at each size.
        autocast: `torch.bfloat16` to run in mixed precision.
        channels_last: Whether to lay out four-dimensional inputs channels last.

    Returns:
        From the name of each model to its `Cost`. Print it, or all beside their robustness by
        `table(records, costs=...)`.

    Raises:
        TypeError: If an argument is of the wrong kind.
        ValueError: If there are no models or sizes, or a shape or value is wrong.

    Example:
        >>> models = {"one": torch.nn.Linear(2, 3), "two": torch.nn.Linear(2, 3).bfloat16()}
        >>> models["two"].forward = lambda x: torch.nn.functional.linear(
        ...     x.bfloat16(), models["two"].weight, models["two"].bias
        ... )
        >>> found = costs(models, torch.rand(4, 2), batch_sizes=[4], n=3)
        >>> [(cost.parameters, cost.bytes) for cost in found.values()]
        [(9, 36), (9, 18)]
        >>> found["one"].latency[4].low <= found["one"].latency[4].median
        True
    """
    models = named("models", models)
    way = Way(autocast, channels_last)
    _checks.arguments(n=n)
    _checks.several("batch_sizes", batch_sizes)
    sizes = list(dict.fromkeys(_checks.count("a batch size", size) for size in batch_sizes))
    if not sizes:
        raise ValueError("expected one batch size or more, got none")
    whole = isinstance(inputs, Tensor) and _checks.is_integer(inputs.dtype)  # text, 8-bit images
    _checks.tensor("inputs", inputs, integer=whole)
    if inputs.ndim == 0 or inputs.numel() == 0:
        raise ValueError(f"expected inputs of shape (n >= 1, ...), got {_checks.kind(inputs)}")
    times: dict[tuple[str, int], list[float]] = {}
    with ExitStack() as guards:
        for model in models.values():
            guards.enter_context(frozen(model, grad=False))
        for key, seconds in _taken(models, _batches.copied(inputs), sizes, way, 2 + n):
            times.setdefault(key, []).append(1000 * seconds)
    return {
        name: Cost(*_size(model), {size: _spread(times[name, size][2:]) for size in sizes})
        for name, model in models.items()
    }


def _taken(
    models: Mapping[str, Model], inputs: Tensor, sizes: Sequence[int], way: Way, runs: int
) -> Iterator[tuple[tuple[str, int], float]]:
    """Yield how long each run took, in seconds; the models take turns."""
    for size in sizes:
        batch = inputs[torch.arange(size, device=inputs.device) % len(inputs)]
        if way.channels_last and batch.ndim == 4:
            batch = batch.contiguous(memory_format=torch.channels_last)
        for run in range(runs):
            for name, model in models.items():
                points = batch.to(way.place(model), copy=True)
                with casting(model, way.autocast)():
                    if run == 0:
                        logits_of(model, points.clone())
                    _wait(points)
                    start = time.perf_counter()
                    model(points)
                    _wait(points)
                    yield (name, size), time.perf_counter() - start


def _wait(points: Tensor) -> None:
    """Wait until the device is done."""
    if points.device.type != "cpu":
        points.flatten()[0].item()  # which comes after all that the device was given before


def _spread(times: Sequence[float]) -> Latency:
    low, median, high = np.quantile(times, [0.25, 0.5, 0.75])
    return Latency(float(median), float(low), float(high))


# --- parameters and bytes --------------------------------------------------------------------


def _size(model: Model) -> tuple[int | None, int | None]:
    """Count the parameters of a module and their bytes."""
    if not isinstance(model, nn.Module):
        return None, None
    held = {id(each): each for each in (*model.parameters(), *_packed(model))}
    if not held and isinstance(model, torch.jit.ScriptModule):  # whose weights are in its code
        return None, None
    return sum(each.numel() for each in held.values()), _bytes(model)


def _packed(model: nn.Module) -> Iterator[Tensor]:
    """Yield the weights and biases that quantised layers pack away."""
    for module in model.modules():
        if not type(module).__module__.startswith("torch.ao.nn"):
            continue
        for name in ("weight", "bias", "get_weight", "get_bias"):
            read = getattr(module, name, None)
            found = read() if callable(read) and not isinstance(read, Tensor) else None
            for each in found.values() if isinstance(found, dict) else [found]:
                if isinstance(each, Tensor):
                    yield each


def _bytes(model: nn.Module) -> int:
    """Sum the storages in a saved state; packed weights are in it, and what is shared is once."""
    file = io.BytesIO()
    torch.save(model.state_dict(), file)
    with zipfile.ZipFile(file) as saved:
        return sum(each.file_size for each in saved.infolist() if "/data/" in each.filename)


# --- beside records --------------------------------------------------------------------------


def check_costs(costs: Any, found: Sequence[Any], columns: Sequence[str]) -> None:
    """Check that each row that was found has a model, and each model a cost."""
    named("costs", costs, "costs", _checks.of_type("a Cost", Cost))
    if "model" not in columns:
        raise ValueError(f"expected a column 'model' in rows with costs, got {[*columns]}")
    for row in found:
        _checks.choice("each model", str(row.names["model"]), costs)


def with_costs(
    lines: Sequence[dict[str, Any]],
    found: Sequence[Any],
    costs: Mapping[str, Cost],
    *,
    ends: bool = True,
) -> list[dict[str, Any]]:
    """Add the numbers of its model's cost to each line, those of the quartiles if `ends`."""
    of = _numbers(costs, ends)
    return [line | of[str(row.names["model"])] for line, row in zip(lines, found, strict=True)]


def cost_words(costs: Mapping[str, Cost]) -> dict[str, dict[str, str]]:
    """Write the figures of each cost under their headings, the same for all."""
    found = {}
    for name, line in _numbers(costs, ends=False).items():
        count, size, *times = line.values()
        found[name] = {
            "parameters": "" if count is None else str(count),
            "MB": "" if size is None else _three(size / 1e6),
            **{
                f"ms, batch of {n}": "" if each is None else _three(each)
                for n, each in zip(_sizes(costs), times, strict=True)
            },
        }
    return found


def _numbers(costs: Mapping[str, Cost], ends: bool) -> dict[str, dict[str, Any]]:
    """Give each number of each cost a key of its own, the same keys for all."""
    found = {}
    for name, cost in costs.items():
        line: dict[str, Any] = {"parameters": cost.parameters, "bytes": cost.bytes}
        for n in _sizes(costs):
            taken = cost.latency.get(n, (None, None, None))
            keys = (f"ms_{n}", f"ms_{n}_low", f"ms_{n}_high")
            line |= dict(zip(keys, taken, strict=True) if ends else [(keys[0], taken[0])])
        found[name] = line
    return found


def _sizes(costs: Mapping[str, Cost]) -> list[int]:
    return list(dict.fromkeys(n for cost in costs.values() for n in cost.latency))


def _three(value: float) -> str:
    """Write three digits of a time or a size."""
    return decimal(value, max(0, 2 - math.floor(math.log10(value))) if value > 0 else 2)
