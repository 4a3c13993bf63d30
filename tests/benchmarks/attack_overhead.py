"""What each attack costs beyond the forward and backward passes that it makes.

An attack runs once on a model that writes down how many examples each forward pass had, and how
often a gradient was taken of it. The bare passes are these again and nothing else. Both are timed
in turn, in one process, by processor time; the ratio is that of the medians. Radii are small, so
that nobody is fooled and no example leaves.

    python tests/benchmarks/attack_overhead.py --json docs/benchmarks/attack_overhead.json
"""

import argparse
from functools import partial
from pathlib import Path

import attackbench_networks
import peers
import torch
from torch import Tensor, nn

from advcal import attacks

SMALL = {"linf": 1e-4, "l2": 1e-3, "l1": 1e-2}


def within(name: str, **options: object) -> dict[str, peers.Attack]:
    """Make an attack in the balls of three norms."""
    attack = partial(getattr(attacks, name), **options)
    return {f"{name} {norm}": partial(attack, eps=eps, norm=norm) for norm, eps in SMALL.items()}


TABLE: dict[str, peers.Attack] = {
    **within("fgsm"),
    **within("pgd", steps=10),
    **within("apgd", steps=10),
    "apgd l1 sparse": partial(attacks.apgd, eps=12.0, norm="l1", variant="sparse", steps=10),
    **within("square", steps=20),
    **within("uca", steps=10),
    **within("oca", steps=10),
    "iaa linf": partial(attacks.iaa, eps=SMALL["linf"], steps=10),
    "pgd_conf linf": partial(attacks.pgd_conf, eps=SMALL["linf"], steps=10),
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

    def __init__(self, model: nn.Module) -> None:
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


def bare(model: nn.Module, inputs: Tensor, passes: list[list[int]]) -> None:
    """Make the passes and nothing else."""
    for n, backwards in passes:
        with torch.set_grad_enabled(backwards > 0):
            points = inputs[:n].detach().requires_grad_(backwards > 0)
            output = model(points)
        upstream = torch.ones_like(output)
        for i in range(backwards):
            torch.autograd.grad(output, points, upstream, retain_graph=i + 1 < backwards)


def main() -> None:
    """Measure, print and keep."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rounds", type=int, default=7, help="runs of each, in turn (7)")
    parser.add_argument("--batches", type=int, nargs="+", default=[16, 128], help="sizes (16 128)")
    parser.add_argument("--only", default="", help="a part of the names of the attacks to run")
    parser.add_argument("--json", type=Path, help="where to keep the figures")
    args = parser.parse_args()
    torch.manual_seed(0)
    model = attackbench_networks.robust().eval().requires_grad_(False)
    rows: list[dict[str, object]] = []
    for name, attack in TABLE.items():
        if args.only not in name:
            continue
        row: dict[str, object] = {"attack": name}
        for size in args.batches:
            inputs = torch.rand(size, 3, 32, 32)
            labels, written = model(inputs).argmax(dim=1), Written(model)
            attack(written, inputs, labels)
            runs = {
                "attack": partial(attack, model, inputs, labels),
                "bare": partial(bare, model, inputs, written.passes),
            }
            median = peers.time_in_turn(runs, args.rounds)
            row[f"batch {size}"] = median["attack"] / median["bare"]
        rows.append(row)
        print("  ".join(map(str, row.values())), flush=True)
    peers.print_table(rows)
    record = {"rounds": args.rounds, "rows": rows, "versions": peers.versions([])}
    peers.write_json(args.json, record)


if __name__ == "__main__":
    main()
