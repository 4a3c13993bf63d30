"""HopSkipJump side by side: advcal and Foolbox on the same images, with the queries counted.

Prints, for each norm and number of queries, the median distance that each finds, in how many
queries an example, and in which time. Foolbox's number of rounds is the least that takes about as
many queries or more. The network is one of digits, which trains in seconds.

    python tests/benchmarks/against_hopskipjump.py --json docs/benchmarks/hopskipjump.json
"""

import argparse
import time
from pathlib import Path
from typing import Any

import peers
import torch
from torch import Tensor, nn

from advcal import attacks

ORDERS: dict[Any, float] = {"l2": 2, "linf": torch.inf}


class Counted(nn.Module):
    """A model that answers with its decision alone, and counts the images that it is asked of."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model, self.images = model, 0

    def forward(self, inputs: Tensor) -> Tensor:
        self.images += len(inputs)
        logits = self.model(inputs)
        return nn.functional.one_hot(logits.argmax(dim=1), logits.shape[1]).float()


def ours(model: nn.Module, x: Tensor, y: Tensor, norm: Any, queries: int) -> Tensor:
    """Run our own."""
    return attacks.hopskipjump(model, x, y, norm=norm, steps=queries, generator=seeded())


def theirs(model: nn.Module, x: Tensor, y: Tensor, norm: Any, queries: int) -> Tensor:
    """Run Foolbox's, whose rounds take about 100 times their root in queries and 20 besides."""
    import foolbox

    rounds, used = 0, 50.0
    while used < queries:
        rounds += 1
        used += 100 * rounds**0.5 + 25
    attack = foolbox.attacks.HopSkipJumpAttack(steps=rounds, constraint=norm)
    torch.manual_seed(0)
    wrapped = foolbox.PyTorchModel(model, bounds=(0, 1), device="cpu")
    points: Tensor = attack.run(wrapped, x, foolbox.criteria.Misclassification(y))
    return points


def seeded() -> torch.Generator:
    """Return the same generator each time."""
    return torch.Generator().manual_seed(0)


def row(run: Any, network: nn.Module, x: Tensor, y: Tensor, norm: Any, queries: int) -> Any:
    """Run one attack and say what came of it."""
    model, began = Counted(network).eval(), time.process_time()
    points = run(model, x, y, norm, queries)
    spent, asked = time.process_time() - began, model.images / len(x)
    fooled = network(points).argmax(dim=1) != y
    distance = torch.linalg.vector_norm((points - x).flatten(1), ORDERS[norm], dim=1)
    distance = torch.where(fooled, distance, torch.inf)
    return {
        "median distance": distance.median().item(),
        "fooled": int(fooled.sum()),
        "queries an example": asked,
        "processor seconds": spent,
    }


def digits(n: int) -> tuple[nn.Module, Tensor, Tensor]:
    """Train a network and return it with images that it gets right."""
    from sklearn.datasets import load_digits

    images, classes = load_digits(return_X_y=True)
    x = torch.tensor(images / 16, dtype=torch.float32).reshape(-1, 1, 8, 8)
    y = torch.tensor(classes)
    torch.manual_seed(0)
    network = nn.Sequential(
        *(nn.Conv2d(1, 16, 3), nn.ReLU(), nn.Conv2d(16, 32, 3), nn.ReLU(), nn.Flatten()),
        nn.Linear(512, 10),
    )
    optimizer = torch.optim.Adam(network.parameters(), lr=0.003)
    for _ in range(150):
        optimizer.zero_grad()
        nn.functional.cross_entropy(network(x[:1400]), y[:1400]).backward()
        optimizer.step()
    right = (network.eval()(x).argmax(dim=1) == y).nonzero()[:, 0]
    kept = right[right >= 1400][:n]
    return network, x[kept], y[kept]


def main() -> None:
    """Compare, print and keep."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--n", type=int, default=64, help="test images (64)")
    parser.add_argument("--queries", type=int, nargs="+", default=[250, 1000], help="(250 1000)")
    parser.add_argument("--json", type=Path, help="where to keep the figures")
    args = parser.parse_args()
    network, x, y = digits(args.n)
    record: dict[str, object] = {"n": len(x)}
    for norm in ORDERS:
        for queries in args.queries:
            each = {"advcal": ours} | ({"Foolbox": theirs} if peers.installed("foolbox") else {})
            rows = [
                {"attack": k} | row(run, network, x, y, norm, queries) for k, run in each.items()
            ]
            print(f"\n{norm}, {queries} queries")
            peers.print_table(rows)
            record[f"{norm}, {queries} queries"] = rows
    peers.write_json(args.json, record | {"versions": peers.versions(["foolbox"])})


if __name__ == "__main__":
    main()
