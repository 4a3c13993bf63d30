"""What an objective costs beyond the same training step written by hand.

Times a step of training with an objective and the same step written out, in turn, in one process,
and prints the ratio pair by pair, and that of the fastest of each, which other work on the machine
disturbs least: the small CNN of the examples, standard training, PGD-AT (PGD-10, with the pass that
scores its last point) and TRADES (10 steps). By hand, gradients go to the inputs only while
crafting, as in a careful script. The control is a step by hand against itself.

    python tests/benchmarks/objective_overhead.py --json docs/benchmarks/objectives.json
"""

import argparse
import functools
import json
import platform
import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy, kl_div

import advcal
from advcal import attacks, trainers

sys.path.insert(0, str(Path(__file__).parents[2] / "examples"))
import models

EPS, STEPS = 8 / 255, 10


def crafted(
    model: nn.Module,
    inputs: Tensor,
    start: Tensor,
    eps: float,
    size: float,
    loss: Callable[[Tensor], Tensor],
) -> Tensor:
    """Craft by hand: sign steps on a loss of the logits, the model in eval mode and frozen."""
    model.eval()
    model.requires_grad_(False)
    points = start.clamp(0, 1)
    for _ in range(STEPS):
        points = points.detach().requires_grad_()
        (gradient,) = torch.autograd.grad(loss(model(points)), points)
        points = points.detach() + size * gradient.sign()
        points = torch.max(torch.min(points, inputs + eps), inputs - eps).clamp(0, 1)
    model.requires_grad_(True)
    model.train()
    return points


def standard(model: nn.Module, inputs: Tensor, labels: Tensor) -> Tensor:
    """Write standard training out."""
    return cross_entropy(model(inputs), labels)


def pgd_at(model: nn.Module, inputs: Tensor, labels: Tensor) -> Tensor:
    """Write adversarial training out, with the pass in which `pgd` looks at its last point."""
    start = inputs + EPS * (2 * torch.rand_like(inputs) - 1)
    loss = functools.partial(cross_entropy, target=labels, reduction="sum")
    points = crafted(model, inputs, start, EPS, 2.5 * EPS / STEPS, loss)
    model.eval()
    with torch.no_grad():
        model(points)
    model.train()
    return cross_entropy(model(points), labels)


def trades(model: nn.Module, inputs: Tensor, labels: Tensor) -> Tensor:
    """Write TRADES out."""
    model.eval()
    with torch.no_grad():
        clean = model(inputs).softmax(dim=1)

    def divergence(logits: Tensor) -> Tensor:
        return kl_div(logits.log_softmax(dim=1), clean, reduction="sum")

    start = inputs + 0.001 * torch.randn_like(inputs)
    points = crafted(model, inputs, start, 0.031, 0.007, divergence)
    logits, attacked = model(inputs), model(points)
    apart = kl_div(attacked.log_softmax(dim=1), logits.softmax(dim=1), reduction="batchmean")
    return cross_entropy(logits, labels) + 6 * apart


PAIRS = {
    "control": (lambda model, batch: standard(model, *batch), standard),
    "standard": (trainers.standard(), standard),
    "PGD-AT": (
        trainers.adversarial(functools.partial(attacks.pgd, eps=EPS, steps=STEPS)),
        pgd_at,
    ),
    "TRADES": (trainers.trades(), trades),
}


def seconds(step: Callable[[], Tensor], optimizer: torch.optim.Optimizer) -> float:
    """Measure the processor time of one step, all threads together."""
    start = time.process_time()
    optimizer.zero_grad()
    step().backward()
    optimizer.step()
    return time.process_time() - start


def main() -> None:
    """Measure in turn and print the ratios."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--pairs", type=int, default=21, help="pairs of steps (21)")
    parser.add_argument("--batch", type=int, default=64, help="examples in the batch (64)")
    parser.add_argument("--json", type=Path, help="where to keep the figures")
    args = parser.parse_args()

    torch.manual_seed(0)
    torch.set_num_threads(1)
    inputs, labels = torch.rand(args.batch, 3, 32, 32), torch.randint(10, (args.batch,))
    table = []
    for name, (objective, by_hand) in PAIRS.items():
        model = models.small_cnn().train()
        optimizer = torch.optim.SGD(model.parameters(), lr=1e-3)
        ours = functools.partial(objective, model, (inputs, labels))
        theirs = functools.partial(by_hand, model, inputs, labels)
        seconds(ours, optimizer), seconds(theirs, optimizer)
        times = []
        for pair in range(args.pairs):  # each goes first every other time
            order = [ours, theirs] if pair % 2 else [theirs, ours]
            measured = {step: seconds(step, optimizer) for step in order}
            times.append((measured[ours], measured[theirs]))
        ratios = sorted(one / other for one, other in times)
        quartiles = statistics.quantiles(ratios, n=4)
        best, best_by_hand = (min(each) for each in zip(*times, strict=True))
        row = {"objective": name, "fastest": best / best_by_hand}
        row |= {"median": statistics.median(ratios), "lower": quartiles[0], "upper": quartiles[2]}
        table.append(row)

    print(f"time of a step relative to the same by hand, {args.pairs} pairs, batch {args.batch}:")
    for row in table:
        print(
            "  {objective:9} fastest {fastest:.3f}   median {median:.3f}   quartiles {lower:.3f} "
            "to {upper:.3f}".format(**row)
        )
    if args.json:
        args.json.parent.mkdir(parents=True, exist_ok=True)
        versions = {"torch": str(torch.__version__), "python": platform.python_version()}
        record = {"ratios": table, "pairs": args.pairs, "batch": args.batch}
        record |= {"versions": versions | {"advcal": advcal.__version__}}
        args.json.write_text(json.dumps(record, indent=1) + "\n")


if __name__ == "__main__":
    main()
