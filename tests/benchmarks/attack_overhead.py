"""What each attack costs beyond the forward and backward passes that it makes.

An attack runs once on a model that writes down how many examples each forward pass had, and how
often a gradient was taken of it. The bare passes are these again and nothing else. Both run in
turn, in one process; each pair gives a ratio of processor times, and the table has the median. The
control, bare passes against themselves, says what such a ratio can tell.

The networks are the small CNN of the examples, on which the goal is judged, a small ResNet, whose
passes are short, and the network of the speed runs, whose passes are those of a network that is
right nine times in ten. Their weights are random, which no pass is faster or slower for, and 100
is added to one logit, so that no attack in a ball is done before its time; not for the attacks of
least norm. Images are those of CIFAR-10, whose pixels reach the bounds, or random ones without
`--data`.

With `--estimate` an attack and the bare passes run on a linear model, whose passes cost next to
nothing; what the attack takes more is set against the network's passes, timed once. That is quick,
and quiet on a busy machine, but leaves out that a network's passes push an attack's values out of
the cache.

A network that the JSON does not have yet gets columns beside the others.

    python tests/benchmarks/attack_overhead.py --data PATH \\
        --json docs/benchmarks/attack_overhead.json
"""

import argparse
import itertools
import json
import statistics
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import NamedTuple

import attackbench_networks
import peers
import torch
from torch import Tensor, nn

from advcal import attacks

RADII = {"linf": 8 / 255, "l2": 0.5, "l1": 12.0}
NETWORKS = {
    "small_cnn": peers.models.small_cnn,
    "resnet": attackbench_networks.NETWORKS["robust"],
    "fastnet": peers.models.fastnet,
}


def within(name: str, **options: object) -> dict[str, peers.Attack]:
    """Make an attack in the balls of three norms."""
    attack = partial(getattr(attacks, name), **options)
    return {f"{name} {norm}": partial(attack, eps=eps, norm=norm) for norm, eps in RADII.items()}


IN_A_BALL: dict[str, peers.Attack] = {
    **within("fgsm"),
    **within("pgd", steps=10),
    **within("apgd", steps=10),
    "apgd l1 sparse": partial(attacks.apgd, eps=12.0, norm="l1", variant="sparse", steps=10),
    **within("square", steps=20),
    **within("uca", steps=10),
    **within("oca", steps=10),
    "uca linf, search": partial(attacks.uca, eps=8 / 255, method="random_search", steps=20),
    "iaa linf": partial(attacks.iaa, eps=8 / 255, steps=10),
    "pgd_conf linf": partial(attacks.pgd_conf, eps=8 / 255, steps=10),
}
OF_LEAST_NORM: dict[str, peers.Attack] = {
    **{
        f"minimum_norm {norm}": partial(attacks.minimum_norm, norm=norm, steps=20)
        for norm in ("linf", "l2", "l1", "l0")
    },
    **{f"fmn {norm}": partial(attacks.fmn, norm=norm, steps=10) for norm in ("linf", "l2")},
    **{f"deepfool {norm}": partial(attacks.deepfool, norm=norm) for norm in ("linf", "l2")},
    "ddn": partial(attacks.ddn, steps=10),
    "foot": partial(attacks.foot, steps=10),
    "cw_l2": partial(attacks.cw_l2, search_steps=2, steps=10),
}


class Written(nn.Module):
    """A model that writes down its passes: of each forward, its examples and its gradients."""

    def __init__(self, model: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.model = model
        self.passes: list[list[int]] = []

    def forward(self, inputs: Tensor) -> Tensor:
        """Write down and call."""
        here = [len(inputs), 0]
        self.passes.append(here)
        output: Tensor = self.model(inputs)
        if output.requires_grad:
            output.register_hook(lambda _: here.__setitem__(1, here[1] + 1))
        return output


def bare(model: Callable[[Tensor], Tensor], inputs: Tensor, passes: list[list[int]]) -> None:
    """Make the passes and nothing else."""
    for n, backwards in passes:
        with torch.set_grad_enabled(backwards > 0):
            points = inputs[:n].detach().requires_grad_(backwards > 0)
            output = model(points)
        upstream = torch.ones_like(output)
        for i in range(backwards):
            torch.autograd.grad(output, points, upstream, retain_graph=i + 1 < backwards)


def network(name: str, *, held: bool) -> nn.Module:
    """Build a network; a held one gives all images the same class."""
    torch.manual_seed(0)
    model = NETWORKS[name]().eval().requires_grad_(False)
    if held:
        shift = torch.tensor([100.0] + [0.0] * 9)
        model.register_forward_hook(lambda _module, _inputs, logits: logits + shift)
    return model


def ratio(run: Callable[[], object], passes: Callable[[], object], rounds: int) -> float:
    """Run both in turn and return the median of the ratios of their processor times."""
    pairs = [(peers.cpu_seconds(run), peers.cpu_seconds(passes)) for _ in range(rounds)]
    return statistics.median(one / other for one, other in pairs)


def overhead(attack: peers.Attack | None, model: nn.Module, inputs: Tensor, rounds: int) -> float:
    """Return what an attack takes relative to its bare passes; None are the passes themselves."""
    labels, written = model(inputs).argmax(dim=1), Written(model)
    (attack or IN_A_BALL["pgd linf"])(written, inputs, labels)
    passes = partial(bare, model, inputs, written.passes)
    run = passes if attack is None else partial(attack, model, inputs, labels)
    return ratio(run, passes, rounds)


class Costs(NamedTuple):
    """What the passes of a network cost, in seconds, as medians of some rounds."""

    rounds: int
    forward: float
    backward: float

    @classmethod
    def of(cls, model: nn.Module, inputs: Tensor, rounds: int) -> "Costs":
        """Time them in turn."""
        runs = {str(i): partial(bare, model, inputs, [[len(inputs), i]]) for i in (0, 1)}
        took = peers.time_in_turn(runs, rounds)
        return cls(rounds, took["0"], took["1"] - took["0"])


def estimate(attack: peers.Attack | None, held: bool, inputs: Tensor, costs: Costs) -> float:
    """Return the same of what an attack does on a linear model, and of what passes cost."""
    torch.manual_seed(0)
    weight, bias = 0.02 * torch.randn(inputs[0].numel(), 10), torch.zeros(10)
    bias[0] = 100.0 * held

    def linear(points: Tensor) -> Tensor:
        return (points - 0.5).flatten(1) @ weight + bias

    labels, written = linear(inputs).argmax(dim=1), Written(linear)
    (attack or IN_A_BALL["pgd linf"])(written, inputs, labels)
    passes = partial(bare, linear, inputs, written.passes)
    run = passes if attack is None else partial(attack, linear, inputs, labels)
    took = peers.time_in_turn({"attack": run, "bare": passes}, costs.rounds)
    forward = sum(n for n, _ in written.passes) / len(inputs) * costs.forward
    backward = sum(n * i for n, i in written.passes) / len(inputs) * costs.backward
    return 1 + (took["attack"] - took["bare"]) / (forward + backward)


def main() -> None:
    """Measure, print and keep."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--data", type=Path, help="folder of CIFAR-10")
    parser.add_argument("--rounds", type=int, default=7, help="pairs of runs of each (7)")
    parser.add_argument("--networks", choices=NETWORKS, nargs="+", default=list(NETWORKS))
    parser.add_argument("--batches", type=int, nargs="+", default=[16, 128], help="sizes (16 128)")
    parser.add_argument("--only", default="", help="a part of the names of the attacks to run")
    parser.add_argument("--estimate", action="store_true", help="time attacks and passes apart")
    parser.add_argument("--json", type=Path, help="where to keep the figures")
    args = parser.parse_args()
    torch.set_num_threads(1)
    most = max(args.batches)
    images = peers.test_images(args.data, most)[0] if args.data else torch.rand(most, 3, 32, 32)
    table: dict[str, peers.Attack | None] = {"control": None, **IN_A_BALL, **OF_LEAST_NORM}
    table = {name: attack for name, attack in table.items() if args.only in name}
    cases = list(itertools.product(args.networks, args.batches))
    costs = {}
    if args.estimate:
        costs = {(w, n): Costs.of(network(w, held=True), images[:n], args.rounds) for w, n in cases}
    rows: list[dict[str, object]] = []
    for name, attack in table.items():
        row: dict[str, object] = {"attack": name}
        held = name not in OF_LEAST_NORM
        for which, size in cases:
            if args.estimate:
                value = estimate(attack, held, images[:size], costs[which, size])
            else:
                value = overhead(attack, network(which, held=held), images[:size], args.rounds)
            row[f"{which} {size}"] = round(value, 4)
        rows.append(row)
        print("  ".join(map(str, row.values())), flush=True)
    peers.print_table(rows)
    kept = json.loads(args.json.read_text()) if args.json and args.json.exists() else {}
    record = {
        "estimate": args.estimate,
        "rounds": kept.get("rounds", {}) | dict.fromkeys(args.networks, args.rounds),
        "rows": joined(kept.get("rows", []), rows),
        "versions": peers.versions([]),
    }
    peers.write_json(args.json, record)


def joined(kept: list[dict[str, object]], new: list[dict[str, object]]) -> list[dict[str, object]]:
    """Put new columns and rows beside those that a file has."""
    rows = {row["attack"]: row for row in kept}
    for row in new:
        rows[row["attack"]] = rows.get(row["attack"], {}) | row
    return list(rows.values())


if __name__ == "__main__":
    main()
