"""The first hour on a card: what attacks, `evaluate` and training cost there, beside the peers.

ResNet-18 in the form for CIFAR, random images, batches of 1, 32, 128 and 1024. An attack's time a
step is given over that of the bare forward and backward passes of the same network, measured in
turn with it; eager, with the network compiled, and, on CUDA, with the whole attack captured in a
graph. Stops at the time it is given, and says what it left out:

    python tests/benchmarks/on_device.py --json docs/benchmarks/on_device.json
    python tests/benchmarks/on_device.py --device cpu --model small_cnn --batches 2 --minutes 1
"""

import argparse
import statistics
import sys
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import peers
import torch
from torch import Tensor, nn

from advcal import attacks, evaluation, trainers

sys.path.insert(0, str(Path(__file__).parents[2] / "examples"))
import models

EPS = 8 / 255
Attack = Callable[..., Any]
Data = tuple[Tensor, Tensor]


def default_device() -> str:
    """Return the first kind of device that there is."""
    if torch.cuda.is_available():
        return "cuda"
    return "mps" if torch.backends.mps.is_available() else "cpu"


def waited(device: str) -> None:
    """Wait until a device has done all that it was given."""
    if device != "cpu":
        getattr(torch, device).synchronize()


class Clock:
    """Measures calls until a deadline.

    Args:
        device: Where the work is done.
        minutes: How long all may take.
        least: The seconds for which a call is repeated, at least twice.
        backend: What compiles.
    """

    def __init__(self, device: str, minutes: float, least: float, backend: str) -> None:
        self.device, self.least, self.backend = device, least, backend
        self.end = time.perf_counter() + 60 * minutes
        self.left_out: list[str] = []

    def seconds(self, *calls: Callable[[], Any]) -> list[float]:
        """Return the median seconds of each of several calls, made in turn after a first one."""
        found: list[list[float]] = [[] for _ in calls]
        for call in calls:
            call()
        waited(self.device)
        begun = time.perf_counter()
        while len(found[0]) < 2 or time.perf_counter() - begun < self.least:
            for call, times in zip(calls, found, strict=True):
                start = time.perf_counter()
                call()
                waited(self.device)
                times.append(time.perf_counter() - start)
        return [statistics.median(times) for times in found]

    def tried(self, name: str, measure: Callable[[], dict[str, Any]]) -> dict[str, Any] | None:
        """Measure unless it is too late; say what fails, such as what no graph can hold."""
        if time.perf_counter() > self.end:
            self.left_out.append(name)
            return None
        try:
            return measure()
        except Exception as error:
            self.left_out.append(f"{name} ({type(error).__name__}: {str(error).splitlines()[0]})")
            return None


def bare(model: nn.Module, inputs: Tensor, steps: int) -> None:
    """Make the passes of an attack and nothing else."""
    for _ in range(steps):
        points = inputs.detach().requires_grad_()
        output = model(points)
        torch.autograd.grad(output, points, output.detach())


def ours(steps: int) -> dict[str, Attack]:
    """Every attack that takes steps, with its other settings as they are by default."""
    within = ("pgd", "apgd", "iaa", "uca", "oca", "mma", "rca", "pgd_conf", "square")
    found: dict[str, Attack] = {
        name: partial(getattr(attacks, name), eps=EPS, steps=steps) for name in within
    }
    for name in ("ddn", "fmn", "foot", "deepfool"):
        found[name] = partial(getattr(attacks, name), steps=steps)
    found["pgd, l2"] = partial(attacks.pgd, eps=0.5, norm="l2", steps=steps)
    found["pgd, l1"] = partial(attacks.pgd, eps=12.0, norm="l1", steps=steps)
    found["autoattack"] = partial(attacks.autoattack, eps=EPS, steps=steps, queries=steps)
    found["cw_l2"] = partial(attacks.cw_l2, steps=steps, search_steps=1)
    return found


def theirs(steps: int) -> dict[str, Attack]:
    """The same of the peers that are installed."""
    found: dict[str, Attack] = {}
    if peers.installed("torchattacks"):
        import torchattacks

        for name in ("PGD", "APGD"):
            make = getattr(torchattacks, name)
            found[f"torchattacks {name}"] = lambda model, x, y, make=make: make(
                model, eps=EPS, steps=steps
            )(x, y)
    if peers.installed("adv_lib.attacks"):
        from adv_lib.attacks import ddn, fmn, pgd_linf

        found["adv-lib pgd_linf"] = partial(pgd_linf, ε=EPS, steps=steps)
        found["adv-lib ddn"] = partial(ddn, steps=steps)
        found["adv-lib fmn"] = partial(fmn, norm=2, steps=steps)
    return found


def captured(attack: Attack, model: nn.Module, inputs: Tensor, labels: Tensor) -> Callable[[], Any]:
    """Capture an attack without a random start in a CUDA graph; return what runs it again."""
    side = torch.cuda.Stream()
    side.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(side):
        for _ in range(3):
            attack(model, inputs, labels)
    torch.cuda.current_stream().wait_stream(side)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        attack(model, inputs, labels)
    return graph.replay


def attack_rows(clock: Clock, model: nn.Module, data: Data, steps: int) -> Iterator[dict[str, Any]]:
    """Measure attacks on one batch: eager, compiled and captured."""
    compiled = torch.compile(model, backend=clock.backend)
    fixed = partial(attacks.pgd, eps=EPS, steps=steps, random_start=False)
    calls: dict[tuple[str, str], tuple[nn.Module, Callable[[], Callable[[], Any]]]] = {}
    for name, attack in (*ours(steps).items(), *theirs(steps).items()):
        calls[name, "eager"] = model, lambda a=attack: partial(a, model, *data)
    for name, attack in (("pgd", fixed), *theirs(steps).items()):
        calls[name, "compiled"] = compiled, lambda a=attack: partial(a, compiled, *data)
    if clock.device == "cuda":
        for name in ("pgd", "iaa"):
            attack = fixed if name == "pgd" else ours(steps)[name]
            calls[name, "captured"] = model, lambda a=attack: captured(a, model, *data)
    for (name, form), (network, prepare) in calls.items():
        passes = partial(bare, network, data[0], steps)

        def measure(passes: Any = passes, prepare: Any = prepare) -> dict[str, Any]:
            base, taken = clock.seconds(passes, prepare())
            return {"ms a step": 1e3 * taken / steps, "over bare": taken / base}

        label = {"attack": name, "form": form, "batch": len(data[0])}
        found = clock.tried(" ".join(map(str, label.values())), measure)
        if found:
            yield label | found


def pass_rows(clock: Clock, make: Callable[[], nn.Module], data: Data) -> Iterator[dict[str, Any]]:
    """Measure `evaluate` and steps of training on one batch, eager and compiled."""
    pgd, iaa = partial(attacks.pgd, eps=EPS, steps=10), partial(attacks.iaa, eps=EPS, steps=10)
    at, iat = trainers.adversarial(pgd), trainers.adversarial(iaa)
    objectives = {"training": trainers.standard(), "AT": at, "AT+IAT": trainers.mixed(at, iat)}
    for form in ("eager", "compiled"):
        model = make()
        network = torch.compile(model, backend=clock.backend) if form == "compiled" else model
        optimizer = torch.optim.SGD(model.parameters(), lr=1e-4)
        calls: dict[str, Callable[[], Any]] = {
            "evaluate": partial(evaluation.evaluate, network, [data]),
            "evaluate, PGD-10": partial(evaluation.evaluate, network, [data], pgd),
        }
        for name, objective in objectives.items():
            calls[name] = partial(trainers.fit, network, [data], objective, optimizer, n=1)
        for name, call in calls.items():
            label = {"pass": name, "form": form, "batch": len(data[0])}
            found = clock.tried(
                " ".join(map(str, label.values())),
                lambda call=call: {"ms a batch": 1e3 * clock.seconds(call)[0]},
            )
            if found:
                yield label | found


def main() -> None:
    """Measure all and print two tables."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--device", default=default_device())
    parser.add_argument("--model", default="resnet18", choices=models.NAMES)
    parser.add_argument("--batches", type=int, nargs="+", default=[128, 32, 1, 1024])
    parser.add_argument("--steps", type=int, default=10)
    parser.add_argument("--minutes", type=float, default=9.0, help="when to begin nothing more (9)")
    parser.add_argument("--least", type=float, default=0.3, help="seconds a measurement (.3)")
    parser.add_argument("--backend", default="inductor", help="what compiles (inductor)")
    parser.add_argument("--json", type=Path, help="where to keep the figures")
    args = parser.parse_args()

    def make() -> nn.Module:
        torch.manual_seed(0)
        model: nn.Module = getattr(models, args.model)()
        return model.to(args.device)

    clock = Clock(args.device, args.minutes, args.least, args.backend)
    attacked: list[dict[str, Any]] = []
    passes: list[dict[str, Any]] = []
    for n in args.batches:
        inputs = torch.rand(n, 3, 32, 32, device=args.device)
        data = inputs, torch.randint(10, (n,), device=args.device)
        attacked += attack_rows(clock, make().eval().requires_grad_(False), data, args.steps)
        passes += pass_rows(clock, make, data)
    for table in filter(None, (attacked, passes)):
        peers.print_table(table)
    for name in clock.left_out:
        print(f"left out: {name}", file=sys.stderr)
    name = torch.cuda.get_device_name() if args.device == "cuda" else args.device
    record = {"device": name, "model": args.model, "steps": args.steps, "attacks": attacked}
    record |= {"passes": passes, "left out": clock.left_out}
    record |= {"versions": peers.versions(("torchattacks", "adv-lib"))}
    peers.write_json(args.json, record)


if __name__ == "__main__":
    main()
