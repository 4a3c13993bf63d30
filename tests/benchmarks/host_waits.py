"""How often the host waits for a device, and how much it sends there, per step of an attack.

Counted, not timed, on the pretend CUDA device of the tests, in the same way for advcal and for the
peers that are installed: a wait is what makes the host stop until the device is done, such as
`item`, an index of booleans, or a copy from pageable memory; an operation is one call of PyTorch's
dispatcher below autograd, forward and backward. Per step is the difference of a long and a short
call over the steps between; the operations of the bare passes, which are the model's own, are taken
off. Another checkout, such as that before waits were counted, is measured by putting it in front:

    python tests/benchmarks/host_waits.py --json docs/benchmarks/host_waits.json
    PYTHONPATH=OTHER python tests/benchmarks/host_waits.py --json OTHER.json
"""

import argparse
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import peers
import torch
from torch import Tensor, nn

from advcal import attacks, evaluation, trainers

sys.path.append(str(Path(__file__).parents[2]))
import models

from tests.pretend_device import Pretend

EPS, SHORT, LONG, BATCH = 1e-4, 8, 16, 16  # a radius in which nothing is fooled and stops
Attack = Callable[..., Any]


def small() -> nn.Module:
    """Build the network of the tests of waits: 15 operations forward and backward."""
    torch.manual_seed(0)
    layers = [nn.Conv2d(3, 8, 3, stride=2), nn.ReLU(), nn.Conv2d(8, 8, 3, stride=2), nn.ReLU()]
    return nn.Sequential(*layers, nn.Flatten(), nn.Linear(392, 10))


def data(n: int = BATCH) -> tuple[Tensor, Tensor]:
    """Draw a batch."""
    generator = torch.Generator().manual_seed(0)
    return torch.rand(n, 3, 32, 32, generator=generator), torch.randint(
        10, (n,), generator=generator
    )


def counted(call: Callable[[Pretend], Any]) -> tuple[int, int]:
    """Count the waits and the operations of a call, which gets ready before it forgets them."""
    with Pretend("cuda") as device:
        call(device)
    return sum(device.waits.values()), device.operations


def attacked(attack: Callable[[int], Attack], steps: int) -> Callable[[Pretend], Any]:
    """Make a call of an attack of so many steps."""

    def call(device: Pretend) -> Any:
        model, (inputs, _) = small().eval(), data()
        labels = model(inputs).argmax(dim=1)
        model, points = device.module(model), (device.tensor(inputs), device.tensor(labels))
        device.reset()
        return attack(steps)(model, *points)

    return call


def bare(steps: int) -> Attack:
    """Make the passes of a step over frozen parameters, and nothing else."""

    def passes(model: nn.Module, inputs: Tensor, labels: Tensor) -> None:
        model.requires_grad_(False)
        for _ in range(steps):
            points = inputs.detach().requires_grad_()
            output = model(points)
            torch.autograd.grad(output, points, output.detach())

    return passes


def ours() -> dict[str, Callable[[int], Attack]]:
    """List the attacks whose work grows with their steps."""

    def of(attack: Attack, **options: Any) -> Callable[[int], Attack]:
        return lambda steps: partial(attack, steps=steps, **options)

    within = {name: of(getattr(attacks, name), eps=EPS) for name in _WITHIN}
    free = {name: of(getattr(attacks, name)) for name in ("ddn", "fmn", "foot")}
    return {
        **within,
        "pgd, l2": of(attacks.pgd, eps=1e-3, norm="l2"),
        "pgd, l1": of(attacks.pgd, eps=1e-2, norm="l1"),
        "pgd, stop_early": of(attacks.pgd, eps=EPS, stop_early=True),
        **free,
        "cw_l2": of(attacks.cw_l2, search_steps=1),
        "deepfool": of(attacks.deepfool),
        "autoattack": lambda steps: partial(
            attacks.autoattack, eps=EPS, steps=steps, queries=steps
        ),
    }


_WITHIN = ("pgd", "apgd", "iaa", "uca", "oca", "mma", "rca", "pgd_conf", "square")


def theirs() -> dict[str, Callable[[int], Attack]]:
    """List the same of every peer that is installed."""
    found: dict[str, Callable[[int], Attack]] = {}
    if peers.installed("torchattacks"):
        import torchattacks

        def of(name: str, **options: Any) -> Callable[[int], Attack]:
            make = getattr(torchattacks, name)
            return lambda steps: lambda model, x, y: make(model, steps=steps, **options)(x, y)

        found["torchattacks PGD"] = of("PGD", eps=EPS)
        found["torchattacks APGD"] = of("APGD", eps=EPS)
    if peers.installed("adv_lib.attacks"):
        from adv_lib.attacks import apgd, carlini_wagner_l2, ddn, fmn, pgd_linf

        common = {"adv-lib pgd_linf": partial(pgd_linf, ε=EPS), "adv-lib ddn": ddn}
        common |= {
            "adv-lib fmn": partial(fmn, norm=2),
            "adv-lib apgd": partial(apgd, eps=EPS, norm=torch.inf),
        }
        for name, attack in common.items():
            key = "n_iter" if name.endswith("apgd") else "steps"
            found[name] = lambda steps, a=attack, k=key: partial(a, **{k: steps})
        found["adv-lib carlini_wagner_l2"] = lambda steps: partial(
            carlini_wagner_l2, max_iterations=steps, binary_search_steps=1, abort_early=False
        )
    return found


def per_step(attack: Callable[[int], Attack], own: float = 0.0) -> dict[str, Any]:
    """Count per step, and what one call has besides."""
    counts = [counted(attacked(attack, steps)) for steps in (SHORT, LONG)]
    waits, operations = ((b - a) / (LONG - SHORT) for a, b in zip(*counts, strict=True))
    rest = counts[0][0] - SHORT * waits
    return {"waits a step": waits, "waits besides": rest, "operations a step": operations - own}


def batches_of(call: Callable[[nn.Module, list[Any]], Any]) -> dict[str, Any]:
    """Count the waits a batch of what goes through batches, with 20 layers of BatchNorm."""

    def of(n: int) -> Callable[[Pretend], Any]:
        def run(device: Pretend) -> Any:
            torch.manual_seed(0)
            model = device.module(models.resnet18())
            batches = [tuple(map(device.tensor, data(2)))] * n
            device.reset()
            return call(model, batches)

        return run

    (a, first), (b, second) = (counted(of(n)) for n in (1, 2))
    return {"waits a batch": b - a, "operations a batch": second - first}


def trained(objective: Any) -> Callable[[nn.Module, list[Any]], Any]:
    """Train a model by an objective."""

    def call(model: nn.Module, batches: list[Any]) -> Any:
        optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
        return trainers.fit(model, batches, objective, optimizer, n=1)

    return call


def loops() -> dict[str, Callable[[nn.Module, list[Any]], Any]]:
    """List what goes through batches."""
    pgd, iaa = partial(attacks.pgd, eps=EPS, steps=10), partial(attacks.iaa, eps=EPS, steps=10)
    at, iat = trainers.adversarial(pgd), trainers.adversarial(iaa)
    return {
        "evaluate": evaluation.evaluate,
        "evaluate, PGD-10": lambda model, batches: evaluation.evaluate(model, batches, pgd),
        "training": trained(trainers.standard()),
        "training, FGSM": trained(trainers.adversarial(partial(attacks.fgsm, eps=EPS))),
        "training, PGD-10": trained(at),
        "training, PGD-10 and IAA-10": trained(trainers.mixed(at, iat)),
    }


def main() -> None:
    """Count all and print two tables."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--json", type=Path, help="where to keep the figures")
    args = parser.parse_args()
    own = per_step(bare)["operations a step"]
    rows: list[dict[str, Any]] = []
    for name, attack in (*ours().items(), *theirs().items()):
        try:
            rows.append({"attack": name, **per_step(attack, own)})
        except Exception as error:  # a peer's, on tensors that are no plain ones
            print(f"left out: {name} ({type(error).__name__}: {error})", file=sys.stderr)
    passes = [{"pass": name, **batches_of(call)} for name, call in loops().items()]
    peers.print_table(rows)
    peers.print_table(passes)
    versions = peers.versions(("torchattacks", "adv-lib"))
    record = {"model operations": own, "attacks": rows, "passes": passes, "versions": versions}
    peers.write_json(args.json, record)


if __name__ == "__main__":
    main()
