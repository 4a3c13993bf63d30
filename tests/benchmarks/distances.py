"""How far the settings of `adversarial_distance` are from the best distances that are known.

Prints, for each network and setting, the Spearman correlation with the best distances, the mean
ratio to them, and the passes per example. The best are the nearest of what all attacks here find,
`minimum_norm` in 300 steps, `foot` in 75, a search of 100 steps towards each other class and, for
the networks of against_attackbench.py, all of its attacks, whose distances are read from its JSON.
Networks of digits are trained here. What the JSON has is not run again.

    python tests/benchmarks/distances.py --weights FOLDER --cifar10 PATH --mnist PATH \
        --known docs/benchmarks/attackbench.json --json docs/benchmarks/distances.json

FOLDER holds what attackbench_networks.py has trained; `--more` names weights of the examples'
networks for CIFAR-10.
"""

import json
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Literal

import against_attackbench as bench
import peers
import torch
from scipy.stats import spearmanr
from sklearn.datasets import load_digits
from torch import Tensor, nn
from torch.nn import functional

from advcal._logits import rivals
from advcal.attacks import adversarial_distance, foot, minimum_norm
from advcal.attacks._minimum import from_the_input
from advcal.attacks._public import public

N_TRAIN = 1200  # digits
SETTINGS: tuple[Literal["linear", "quick", "fast", "precise"], ...] = (
    *("linear", "quick"),
    *("fast", "precise"),
)
Distances = Callable[[nn.Module, Tensor], Tensor]


def digits(name: str) -> tuple[nn.Module, Tensor]:
    """Train a network on digits, and return it with the images that it has not seen."""
    data = load_digits()
    images = torch.tensor(data.data, dtype=torch.float32) / 16
    labels = torch.tensor(data.target)
    torch.manual_seed(0)
    unit = {"digits": nn.ReLU, "steep tanh": nn.Tanh, "saturated": nn.Tanh}.get(name)
    if unit is None:
        first, second = nn.Conv2d(1, 16, 3, padding=1), nn.Conv2d(16, 32, 3, padding=1)
        head = [nn.Unflatten(1, (1, 8, 8)), first, nn.BatchNorm2d(16), nn.ReLU(), nn.MaxPool2d(2)]
        tail = [second, nn.BatchNorm2d(32), nn.ReLU(), nn.Flatten(), nn.Linear(512, 10)]
        model: nn.Module = nn.Sequential(*head, *tail)
    else:
        hidden = [nn.Linear(64, 64), unit(), nn.Linear(64, 64), unit()]
        model = nn.Sequential(*hidden, nn.Linear(64, 10))
    epochs, rate = (15, 3e-3) if unit is None else (60, 1e-2)
    optimizer = torch.optim.Adam(model.parameters(), rate)
    for _ in range(epochs):
        for rows in torch.randperm(N_TRAIN).split(128):
            optimizer.zero_grad()
            functional.cross_entropy(model(images[rows]), labels[rows]).backward()
            optimizer.step()
    if name == "steep tanh":
        for layer in (model[0], model[2]):  # type: ignore[index]
            layer.weight.data *= 8
            layer.bias.data *= 8
    if name == "saturated":
        model = nn.Sequential(model, nn.Sigmoid())
    return model.eval().requires_grad_(False), images[N_TRAIN:]


def reached(attack: peers.Attack, model: nn.Module, inputs: Tensor) -> Tensor:
    """Return how far an attack goes from the predictions."""
    return adversarial_distance(model, inputs, attack=attack)


def nearer(*ways: Distances) -> Distances:
    """Take the least of several distances."""
    return lambda model, inputs: torch.stack([way(model, inputs) for way in ways]).amin(dim=0)


def ways() -> dict[str, Distances]:
    """List what is measured: the settings, what they were made of, and long budgets."""
    search = partial(minimum_norm, norm="l2")
    short = partial(reached, partial(search, steps=29)), partial(reached, partial(foot, steps=16))
    return {
        **{name: partial(adversarial_distance, attack=name) for name in SETTINGS},
        "minimum_norm, 17 steps": partial(reached, partial(search, steps=17)),
        "minimum_norm, 29, and foot, 16": nearer(*short),
        "minimum_norm, 100 steps": partial(reached, partial(search, steps=100)),
        "foot, 47 steps": partial(reached, partial(foot, steps=47)),
    }


def best(model: nn.Module, inputs: Tensor) -> Tensor:
    """Look for the nearest mistakes in as many ways as are affordable."""
    logits = model(inputs)
    others = rivals(logits, logits.argmax(dim=1), 9).unbind(dim=1)
    towards = [partial(public(from_the_input), towards=other, steps=100) for other in others]
    long = [partial(minimum_norm, norm="l2", steps=300), partial(foot, steps=75)]
    box = (0.0, 1.0)
    attacks = [*long, *(partial(attack, bounds=box) for attack in towards)]
    return nearer(*(partial(reached, attack) for attack in attacks))(model, inputs)


def row(way: Distances, model: nn.Module, inputs: Tensor) -> dict[str, object]:
    """Measure in one way, in batches of 100, and count the passes."""
    counted = peers.Counted(model).eval()
    start = time.process_time()
    found = torch.cat([way(counted, part) for part in inputs.split(100)])
    return {
        "seconds": time.process_time() - start,
        "forward": counted.forwards / len(inputs),
        "backward": counted.backwards / len(inputs),
        "distances": [float(f"{each:.5g}") for each in found.tolist()],
    }


def known(record: dict[str, object], name: str, rows: Tensor) -> Tensor:
    """Read the nearest of all that attacks of the record found, for these of its images."""
    runs = [bench.kept(run) for key, run in record.items() if key.startswith(f"{name}|l2|")]  # type: ignore[arg-type]
    return torch.tensor(runs, dtype=torch.float64).amin(dim=0)[rows]


def table(networks: dict[str, dict[str, dict[str, list[float]]]], names: list[str]) -> str:
    """Write a table of correlations, ratios and passes, in the mean over the images."""
    lines = [["network", "images", *names], [":--", *["--:"] * (len(names) + 1)]]
    for network, found in networks.items():
        every = torch.tensor([each["distances"] for each in found.values()], dtype=torch.float64)
        estimates = [name in ("linear", "quick") for name in found]
        least = every[~torch.tensor(estimates)].amin(dim=0)
        cells = []
        for name in names:
            distances = torch.tensor(found[name]["distances"], dtype=torch.float64)
            correlation, ratio = spearmanr(distances, least).statistic, (distances / least).mean()
            passes = f"{found[name]['forward']:.0f}, {found[name]['backward']:.0f}"
            cells.append(f"{correlation:.3f}")
            if name not in ("linear", "quick"):
                cells[-1] += f", {ratio:.3f}"
            if name in ("fast", "precise"):  # the others take as many on all networks
                cells[-1] += f" ({passes})"
        lines.append([network, str(every.shape[1]), *cells])
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def main() -> None:
    """Measure what is missing, print and keep."""
    options = bench.parser(__doc__)
    options.add_argument("--mnist", type=Path, required=True, help="folder that holds MNIST")
    options.add_argument("--known", type=Path, required=True, help="JSON of against_attackbench")
    options.add_argument("--more", type=Path, nargs="*", default=[], help="other weights")
    options.add_argument(
        "--n",
        type=int,
        default=64,
        help="images (64), three times as many digits, an eighth on --more",
    )
    options.add_argument("--json", type=Path, required=True, help="where the figures are kept")
    args = options.parse_args()
    n, args.n = args.n, 500  # of which the record has distances
    record: dict[str, object] = {"n": n, "networks": {}}
    if args.json.exists():
        record = json.loads(args.json.read_text())
    networks: dict[str, dict[str, object]] = record["networks"]  # type: ignore[assignment]
    runs = json.loads(args.known.read_text())["runs"]
    chosen = ["digits", "steep tanh", "saturated", "BatchNorm", *reversed(bench.NETWORKS)]
    for name in [*chosen, *args.more]:
        before = None
        if isinstance(name, Path):
            model: nn.Module = peers.cifar10_model(name).requires_grad_(False)
            inputs = peers.test_images(args.cifar10, n // 8)[0]
        elif name in bench.NETWORKS:
            model, (inputs, labels) = bench.load(name, args)
            inputs = inputs[peers.right(model, inputs, labels)]
            rows = torch.linspace(0, len(inputs) - 1, n).round().long()
            inputs, before = inputs[rows], known(runs, name, rows)
        else:
            model, inputs = digits(name)
            inputs = inputs[: 3 * n]
        mine = networks.setdefault(name.stem if isinstance(name, Path) else name, {})
        for way, measure in [*ways().items(), ("best", best)]:
            if way not in mine:
                mine[way] = row(measure, model, inputs)
                peers.write_json(args.json, record)
        if before is not None and "attackbench" not in mine:
            mine["attackbench"] = {"distances": before.tolist()}
    record["versions"] = peers.versions(["scipy"])
    peers.write_json(args.json, record)
    print(table(networks, list(ways())))  # type: ignore[arg-type]


if __name__ == "__main__":
    main()
