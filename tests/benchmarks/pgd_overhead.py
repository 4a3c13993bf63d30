"""What `pgd` costs beyond the forward and backward passes that it makes.

Times `pgd` and the bare passes in turn, in one process, and prints the ratio pair by pair: the
small CNN of the examples, batch 128, PGD-10 in linf. The bare passes are one forward and one
backward pass to the inputs per step, and a last forward pass, over frozen parameters.

    python tests/benchmarks/pgd_overhead.py --json docs/results/pgd_overhead.json
"""

import argparse
import json
import platform
import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor, nn

import advcal
from advcal.attacks import pgd

sys.path.insert(0, str(Path(__file__).parents[2] / "examples"))
import models

STEPS = 10
EPS = 8 / 255


def bare_passes(model: nn.Module, inputs: Tensor, labels: Tensor) -> None:
    """Make the passes of PGD and nothing else."""
    for _ in range(STEPS):
        points = inputs.detach().requires_grad_()
        loss = nn.functional.cross_entropy(model(points), labels, reduction="sum")
        torch.autograd.grad(loss, points)
    with torch.no_grad():
        model(inputs)


def counted_passes(inputs: Tensor, labels: Tensor) -> dict[str, int]:
    """Count the forward and backward passes of one call."""
    counts = {"forward": 0, "backward": 0}
    model = models.small_cnn().eval()

    def called(module: nn.Module, args: object, output: Tensor) -> None:
        counts["forward"] += 1
        if output.requires_grad:
            output.register_hook(lambda _: counts.update(backward=counts["backward"] + 1))

    model.register_forward_hook(called)
    pgd(model, inputs, labels, eps=EPS, steps=STEPS)
    return counts


def seconds(function: Callable[[], object]) -> float:
    """Measure processor time, all threads together."""
    start = time.process_time()
    function()
    return time.process_time() - start


def main() -> None:
    """Measure in turn and print the ratios."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--pairs", type=int, default=11, help="pairs of runs (11)")
    parser.add_argument("--batch", type=int, default=128, help="examples in the batch (128)")
    parser.add_argument("--json", type=Path, help="where to keep the figures")
    args = parser.parse_args()

    torch.manual_seed(0)
    inputs, labels = torch.rand(args.batch, 3, 32, 32), torch.randint(10, (args.batch,))
    table = []
    for layout, memory_format in (
        ("contiguous", torch.contiguous_format),
        ("channels_last", torch.channels_last),
    ):
        model = models.small_cnn().to(memory_format=memory_format).eval().requires_grad_(False)
        images = inputs.contiguous(memory_format=memory_format)

        def attack(model: nn.Module = model, images: Tensor = images) -> None:
            pgd(model, images, labels, eps=EPS, steps=STEPS)

        def bare(model: nn.Module = model, images: Tensor = images) -> None:
            bare_passes(model, images, labels)

        attack(), bare()
        ratios = sorted(seconds(attack) / seconds(bare) for _ in range(args.pairs))
        row = {"layout": layout, "median": statistics.median(ratios)}
        table.append(row | {"least": ratios[0], "most": ratios[-1]})
    passes = counted_passes(inputs, labels)

    print(
        f"pgd, {STEPS} steps: {passes['forward']} forward and {passes['backward']} backward passes"
    )
    print(f"time relative to the bare passes, {args.pairs} pairs, batch {args.batch}:")
    for row in table:
        print(
            "  {layout:14} median {median:.3f}   least {least:.3f}   most {most:.3f}".format(**row)
        )
    if args.json:
        args.json.parent.mkdir(parents=True, exist_ok=True)
        versions = {"torch": str(torch.__version__), "python": platform.python_version()}
        record = {"passes": passes, "ratios": table, "pairs": args.pairs, "batch": args.batch}
        record |= {"versions": versions | {"advcal": advcal.__version__}}
        args.json.write_text(json.dumps(record, indent=1) + "\n")


if __name__ == "__main__":
    main()
