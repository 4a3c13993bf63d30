"""The attacks on confidence against the best that long searches find, on small networks.

Each attack steers the confidence of all images at several radii and keeps every prediction. The
best known confidence of an image is the lowest (for oca the highest) that any run in the file
reached at its radius or at a smaller one: all attacks, uca and oca with 635 steps, and uca from two
random starts with 314. An attack's *shortfall* is how far its mean confidence is from the mean of
the best known.

    python tests/benchmarks/confidence_attacks.py --weights FOLDER --cifar10 PATH --mnist PATH \
        --json docs/benchmarks/confidence_attacks.json

FOLDER holds what attackbench_networks.py has trained; the two networks of digits are trained here.
What the JSON has is not run again.
"""

import argparse
import json
from collections.abc import Callable
from functools import partial
from pathlib import Path

import attackbench_networks
import peers
import torch
from sklearn.datasets import load_digits
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from advcal.attacks import generalised_ace, iaa, oca, pgd, uca

Data = tuple[nn.Module, Tensor]
UNIFORM = torch.full((10,), 0.1)
STEPS = (10, 20, 40, 150)
RADII = {
    ("digits", "linf"): [0.04, 0.08, 0.12, 0.2, 0.3, 0.5],
    ("digits", "l2"): [0.2, 0.4, 0.6, 1.0, 1.5, 2.5],
    ("mnist", "linf"): [0.1, 0.2, 0.3, 0.4, 0.5, 0.65],
    ("mnist", "l2"): [0.5, 1.0, 1.5, 2.0, 3.0, 4.0],
    ("cifar10", "linf"): [each / 255 for each in (1, 2, 4, 8, 16, 32)],
    ("cifar10", "l2"): [0.0625, 0.125, 0.25, 0.5, 1.0, 2.0],
}
FOR_THE_BEST = ("clean", "uca long 1", "uca long 2")  # without a row of their own
KINDS = {"digits": "digits", "digits, robust": "digits", "mnist": "mnist"}  # others: cifar10


def attacks() -> dict[str, Callable[..., Tensor]]:
    """Name the attacks, those downwards before those upwards; long ones are for the best known."""
    found: dict[str, Callable[..., Tensor]] = {}
    for steps in STEPS:
        found[f"uca {steps}"] = partial(uca, steps=steps)
    for steps in (10, 150):
        found[f"iaa {steps}"] = partial(iaa, label="predicted", steps=steps)
        to_uniform = partial(generalised_ace, eta=-1.0, omega=UNIFORM)
        found[f"generalised_ace {steps}"] = partial(to_uniform, steps=steps)
    published = partial(iaa, label="predicted", variant="published")
    found["iaa published 10"] = partial(published, generator=torch.Generator().manual_seed(0))
    for steps in STEPS:
        found[f"oca {steps}"] = partial(oca, steps=steps)
    for name, attack in {"uca": uca, "oca": oca}.items():
        found[f"{name} long"] = partial(attack, steps=635)
    for seed in (1, 2):
        start = {"random_start": True, "generator": torch.Generator().manual_seed(seed)}
        found[f"uca long {seed}"] = partial(uca, steps=314, **start)
    return found


def digits(n: int, eps: float) -> Data:
    """Train a CNN on 1,200 digits, adversarially if there is a radius; take other images."""
    images, targets = load_digits(return_X_y=True)
    inputs = torch.tensor(images / 16, dtype=torch.float32).reshape(-1, 1, 8, 8)
    labels = torch.tensor(targets)
    torch.manual_seed(0)
    first, second = nn.Conv2d(1, 16, 3, padding=1), nn.Conv2d(16, 32, 3, 2, padding=1)
    head = [nn.Flatten(), nn.Linear(512, 64), nn.ReLU(), nn.Linear(64, 10)]
    model = nn.Sequential(first, nn.ReLU(), second, nn.ReLU(), *head)
    optimizer = torch.optim.Adam(model.parameters(), 5e-3)
    for _ in range(30):
        for rows in torch.randperm(1200).split(100):
            x, y = inputs[rows], labels[rows]
            if eps:
                x = pgd(model, x, y, eps=eps, steps=4, step_size=0.4 * eps, random_start=True)
            optimizer.zero_grad()
            cross_entropy(model(x), y).backward()
            optimizer.step()
    return model, inputs[1200 : 1200 + n]


def load(name: str, args: argparse.Namespace) -> Data:
    """Make a network and take its images."""
    if KINDS.get(name) == "digits":
        return digits(3 * args.n, 0.1 if "robust" in name else 0.0)
    model = attackbench_networks.NETWORKS[name]()
    model.load_state_dict(torch.load(args.weights / f"{name}.pt", weights_only=True))
    if name == "mnist":
        return model, attackbench_networks.mnist_images(args.mnist)[0][-args.n :]
    return model, peers.test_images(args.cifar10, args.n)[0]


@torch.no_grad()
def answers(model: nn.Module, inputs: Tensor) -> tuple[Tensor, Tensor]:
    """Return confidences and predictions."""
    confidence, predicted = model(inputs).double().softmax(dim=1).max(dim=1)
    return confidence, predicted


def run(data: Data, norm: str, radii: list[float]) -> dict[str, list[list[float]]]:
    """Return the confidence of each image at each radius under each attack."""
    model, images = data
    model.eval().requires_grad_(False)
    inputs = images.repeat(len(radii), *[1] * (images.ndim - 1))  # all radii in one batch
    eps = torch.tensor(radii).repeat_interleave(len(images))
    clean, labels = answers(model, inputs)
    found = {"clean": clean}
    for name, attack in attacks().items():
        points = attack(model, inputs, labels, eps=eps, norm=norm)
        confidence, predicted = answers(model, points)
        found[name] = torch.where(predicted == labels, confidence, clean)
        if "published" not in name:
            assert torch.equal(predicted, labels), name
    return {
        name: [[round(x, 5) for x in row] for row in each.reshape(len(radii), -1).tolist()]
        for name, each in found.items()
    }


def summary(runs: dict[str, dict[str, list[list[float]]]]) -> dict[str, list[float]]:
    """Measure each attack over all networks: shortfalls and how far it is from monotone.

    Returns:
        By attack, the mean and the largest shortfall of the means over images; the share of images
        within .005 of the best known; the largest step of the mean against the way, from a radius
        to the next, and the largest of an image.
    """
    gaps: dict[str, list[Tensor]] = {}
    turns: dict[str, list[Tensor]] = {}
    for each in runs.values():
        found = {name: torch.tensor(rows, dtype=torch.float64) for name, rows in each.items()}
        for way, names in ((1, [n for n in found if not n.startswith("oca")]), (-1, [*found])):
            least = torch.stack([way * found[name] for name in names]).amin(dim=0)
            best = least.cummin(dim=0).values  # what is within a radius is within a larger one
            for name in names:
                if name.startswith("oca") == (way < 0) and name not in FOR_THE_BEST:
                    values = way * found[name]
                    gaps.setdefault(name, []).append(values - best)
                    turns.setdefault(name, []).append(values.diff(dim=0))
    return {
        name: [
            float(torch.cat([gap.mean(dim=1) for gap in each]).mean()),
            float(torch.cat([gap.mean(dim=1) for gap in each]).max()),
            float(torch.cat([(gap <= 0.005).flatten().double() for gap in each]).mean()),
            max(0.0, float(torch.cat([turn.mean(dim=1) for turn in turns[name]]).max())),
            max(0.0, float(torch.cat([turn.flatten() for turn in turns[name]]).max())),
        ]
        for name, each in gaps.items()
    }


def table(runs: dict[str, dict[str, list[list[float]]]]) -> str:
    """Put the shortfalls on each network in a table, and how far uca is from monotone."""
    names = [*(f"uca {steps}" for steps in STEPS), "uca long", "iaa 150", "generalised_ace 150"]
    header = [*names[:4], "uca 635", *names[5:], "uca 150, largest"]
    rows = [["network", *header, "uca 10, rise"]]
    rows.append([":--", *["--:"] * (len(rows[0]) - 1)])
    for network, found in runs.items():
        each = summary({network: found})
        values = [each[name][0] for name in names] + [each["uca 150"][1]]
        values.append(each["uca 10"][3])
        rows.append([network, *(f"{value:.3f}" for value in values)])
    return "\n".join(f"| {' | '.join(row)} |" for row in rows)


def main() -> None:
    """Run what is missing, print and keep."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    names = ["digits", "digits, robust", "mnist", "plain", "robust", "vit"]
    parser.add_argument("--weights", type=Path, help="folder of the networks")
    parser.add_argument("--cifar10", type=Path, help="CIFAR-10, for three networks")
    parser.add_argument("--mnist", type=Path, help="MNIST, for one")
    parser.add_argument("--networks", nargs="+", choices=names, default=names)
    parser.add_argument(
        "--n", type=int, default=10, help="images (10), of digits three times so many"
    )
    parser.add_argument("--json", type=Path, required=True, help="where the figures are kept")
    args = parser.parse_args()
    record = json.loads(args.json.read_text()) if args.json.exists() else {"n": args.n, "runs": {}}
    if record["n"] != args.n:
        parser.error(f"expected --n {record['n']} as in {args.json}, got {args.n}")
    for name in args.networks:
        data = load(name, args)
        for norm in ("linf", "l2"):
            if f"{name}, {norm}" not in record["runs"]:
                radii = RADII[KINDS.get(name, "cifar10"), norm]
                record["runs"][f"{name}, {norm}"] = run(data, norm, radii)
                record["versions"] = peers.versions(["scikit-learn"])
                peers.write_json(args.json, record)
                print(f"{name}, {norm}: done", flush=True)
    titles = ("shortfall", "largest", "within .005", "rise", "rise of an image")
    rows = summary(record["runs"])
    peers.print_table([{"attack": n, **dict(zip(titles, r, strict=True))} for n, r in rows.items()])
    print(table(record["runs"]))


if __name__ == "__main__":
    main()
