"""What every comparison with other libraries needs: their imports, counted passes, fair timing.

Install the peers beside advcal, without their dependencies, which no attack here needs:

    python -m pip install --no-deps adv-lib torchattacks foolbox eagerpy \
        adversarial-robustness-toolbox pyautoattack
    python -m pip install six
"""

import importlib
import json
import platform
import re
import statistics
import sys
import time
import types
from collections.abc import Callable, Iterable
from pathlib import Path

import torch
from torch import Tensor, nn

import advcal

sys.path.insert(0, str(Path(__file__).parents[2] / "examples"))
import cifar10_data
import models

Attack = Callable[[nn.Module, Tensor, Tensor], Tensor]


class _Stub(types.ModuleType):
    """Stands for a module that a peer imports and its attacks do not use."""

    def __init__(self, name: str) -> None:
        super().__init__(name)
        self.__path__: list[str] = []

    def __getattr__(self, name: str) -> type:
        if name.startswith("__"):
            raise AttributeError(name)
        return type(name, (), {})


def stub_missing() -> None:
    """Put stubs in the place of what is not installed."""
    for name in ("git", "git.exc", "visdom", "torchvision"):
        stub(name)
    for part in ("models", "transforms", "datasets", "utils"):
        stub(f"torchvision.{part}")


def stub(name: str) -> None:
    """Put a stub in the place of one module unless it can be imported."""
    try:
        importlib.import_module(name)
    except ImportError:
        sys.modules[name] = _Stub(name)


def installed(name: str) -> bool:
    """Tell whether a peer can be imported, and say so if not."""
    stub_missing()
    try:
        importlib.import_module(name)
    except ImportError as error:
        print(f"left out: {name} ({error})", file=sys.stderr)
        return False
    return True


class Counted(nn.Module):
    """A model that counts the examples that go forward and backward through it."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model
        self.forwards = self.backwards = 0

    def forward(self, inputs: Tensor) -> Tensor:
        """Count and call."""
        self.forwards += len(inputs)
        output: Tensor = self.model(inputs)
        if output.requires_grad:
            output.register_hook(self._backward)
        return output

    def _backward(self, gradient: Tensor) -> None:
        self.backwards += int(gradient.flatten(1).any(dim=1).sum())


def cpu_seconds(function: Callable[[], object]) -> float:
    """Measure processor time, all threads together."""
    start = time.process_time()
    function()
    return time.process_time() - start


def time_in_turn(functions: dict[str, Callable[[], object]], rounds: int) -> dict[str, float]:
    """Time functions in turn, `rounds` times, and return the median seconds of each."""
    seconds: dict[str, list[float]] = {name: [] for name in functions}
    for _ in range(rounds):
        for name, function in functions.items():
            seconds[name].append(cpu_seconds(function))
    return {name: statistics.median(each) for name, each in seconds.items()}


def cifar10_model(weights: Path) -> nn.Module:
    """Load a network that one of the CIFAR-10 examples has trained."""
    state = torch.load(weights, weights_only=True)
    for make in (models.small_cnn, models.published_cnn, models.fastnet):
        model = make()
        if model.state_dict().keys() == state.keys() and all(
            value.shape == state[name].shape for name, value in model.state_dict().items()
        ):
            model.load_state_dict(state)
            return model.to(memory_format=torch.channels_last).eval()
    raise SystemExit(f"{weights} holds the weights of none of small_cnn, published_cnn and fastnet")


def networks(weights: Iterable[Path]) -> dict[str, nn.Module]:
    """Load several such networks, by the names of their files."""
    return {path.stem: cifar10_model(path) for path in weights}


def test_images(folder: Path, n: int) -> tuple[Tensor, Tensor]:
    """Load `n` test images of CIFAR-10 in [0, 1], spread over all, since files come by class."""
    data = cifar10_data.load_or_exit(folder)
    chosen = torch.linspace(0, len(data.test_labels) - 1, n).round().long()
    return data.test_images[chosen].float() / 255, data.test_labels[chosen].long()


def right(model: nn.Module, inputs: Tensor, labels: Tensor) -> Tensor:
    """Tell which predictions are right, in the precision of the inputs."""
    with torch.no_grad():
        return model(inputs).argmax(dim=1) == labels


def in_parts(attack: Attack, size: int) -> Attack:
    """Run an attack, a peer's too, on `size` examples at a time."""

    def whole(model: nn.Module, inputs: Tensor, labels: Tensor) -> Tensor:
        parts = zip(inputs.split(size), labels.split(size), strict=True)
        return torch.cat([attack(model, x, y).detach() for x, y in parts])

    return whole


def versions(names: Iterable[str]) -> dict[str, str]:
    """Collect what a reader needs to run this again."""
    found = {"advcal": advcal.__version__, "python": platform.python_version()}
    for name in ("torch", *names):
        try:
            found[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    return found


def print_table(rows: list[dict[str, object]]) -> None:
    """Print records as an aligned table."""
    cells = [[str(key) for key in rows[0]]]
    for row in rows:
        cells.append([f"{v:.3f}" if isinstance(v, float) else str(v) for v in row.values()])
    widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
    for line in cells:
        print("  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)))


def write_json(path: Path | None, record: dict[str, object]) -> None:
    """Keep the figures, a list of numbers in one line."""
    if path:
        path.parent.mkdir(parents=True, exist_ok=True)
        text = json.dumps(record, indent=1)
        text = re.sub(r"\[\s([^\[\]{}\"]*)\]", lambda m: f"[{' '.join(m[1].split())}]", text)
        path.write_text(text + "\n")
