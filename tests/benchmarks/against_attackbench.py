"""Minimal-norm attacks by AttackBench's measure, ours and the peers', in L0, L1, L2 and linf.

Every attack has the same budget of propagations per example, forward and backward passes together.
A query beyond it is answered with the label and no gradient. What counts is the nearest point that
was ever asked for and misclassified within the budget, or returned. The *local optimality* of an
attack is the area between its curve of robust accuracy and clean accuracy relative to that of the
pointwise best of all runs here; 1 is the best (arXiv 2404.19460). Attacks whose steps follow a
schedule are given as many steps as the budget allows. Attacks within a radius are put into a
bisection of it, as there.

    python tests/benchmarks/against_attackbench.py --weights FOLDER --cifar10 PATH --mnist PATH \
        --json docs/benchmarks/attackbench.json

FOLDER holds what attackbench_networks.py has trained, and fastnet.pt if that is asked for. Only
images that a network gets right are attacked. What the JSON has is not run again. A peer that is
missing or fails is listed with its reason. With `--leading 3` the peers are those three that were
ahead on the network, in the norm, at the greatest smaller budget.
"""

import argparse
import contextlib
import importlib
import json
import math
import statistics
import time
import warnings
from collections.abc import Callable
from functools import partial
from pathlib import Path

import attackbench_networks
import peers
import torch
from torch import Tensor, nn

from advcal.attacks import ddn, fmn, foot, minimum_norm

ORDERS = {"l0": 0.0, "l1": 1.0, "l2": 2.0, "linf": math.inf}
FIRST_RADII = {"l1": 10.0, "l2": 1.0, "linf": 1 / 255}
NETWORKS = "plain", "robust-16", "vit-8", "mnist"
SEARCHES = 20  # of a radius
MOST = 4  # budgets, after which an attack that does not end by itself is stopped


class SpentError(RuntimeError):
    """Raised when an attack goes on long after its budget is spent."""


class Tracked(nn.Module):
    """A model that answers within a budget and keeps the distance of the nearest success."""

    def __init__(self, model: nn.Module, inputs: Tensor, labels: Tensor, norm: str, budget: int):
        super().__init__()
        self.model, self.inputs, self.labels, self.norm = model, inputs, labels, norm
        self.budget, self.queries = budget, torch.zeros(len(labels), dtype=torch.int64)
        self.nearest = torch.full((len(labels),), torch.inf)

    def forward(self, inputs: Tensor) -> Tensor:
        """Answer, count and keep."""
        inputs = inputs.clamp(0, 1)
        which = self._which(inputs.detach())
        asked = self.queries[which] + _repeats(which)
        if (self.queries[which] > MOST * self.budget).all():
            raise SpentError
        allowed = asked < self.budget
        self.queries.index_add_(0, which, torch.ones_like(which))
        label = nn.functional.one_hot(self.labels[which], 10).float() * 10
        if not allowed.any():
            return label + 0 * inputs.flatten(1)[:, :1]
        output: Tensor = self.model(inputs)
        self.keep(inputs.detach(), output.detach(), which, allowed)
        if output.requires_grad:
            output.register_hook(partial(self._backward, which))
        return torch.where(allowed[:, None], output, label)

    def keep(self, inputs: Tensor, output: Tensor, which: Tensor, allowed: Tensor) -> None:
        """Keep what is nearer."""
        fooled = allowed & (output.argmax(dim=1) != self.labels[which])
        offset = (inputs - self.inputs[which]).flatten(1)
        distance = torch.linalg.vector_norm(offset, ORDERS[self.norm], dim=1)
        distance = torch.where(fooled, distance, torch.inf)
        self.nearest.scatter_reduce_(0, which, distance, "amin")

    def _backward(self, which: Tensor, gradient: Tensor) -> Tensor:
        allowed = self.queries[which] < self.budget
        self.queries.index_add_(0, which, torch.ones_like(which))
        return gradient * allowed[:, None]

    def _which(self, inputs: Tensor) -> Tensor:
        """Tell whose neighbours the inputs are: in order if they are as many as the examples."""
        if len(inputs) == len(self.inputs):
            return torch.arange(len(inputs))
        return torch.cdist(inputs.flatten(1), self.inputs.flatten(1)).argmin(dim=1)


def _repeats(which: Tensor) -> Tensor:
    """Count how often each was there before in the batch."""
    same = which[:, None] == which
    return same.tril(-1).sum(dim=1)


def in_a_bisection(attack: Callable[..., Tensor], norm: str) -> peers.Attack:
    """Look for the least radius at which an attack succeeds."""

    def bisected(model: nn.Module, inputs: Tensor, labels: Tensor) -> Tensor:
        low, best = torch.zeros(len(inputs)), torch.full((len(inputs),), torch.inf)
        radius, found = torch.full_like(low, FIRST_RADII[norm]), inputs.clone()
        for _ in range(SEARCHES):
            points = attack(model, inputs, labels, eps=radius).detach()
            fooled = ~peers.right(model, points, labels) & (radius < best)
            found[fooled], best[fooled] = points[fooled], radius[fooled]
            low = torch.where(fooled, low, radius)
            radius = torch.where(best.isfinite(), (low + best) / 2, 2 * low)
            if norm == "linf":
                radius = radius.clamp_max(1)
        return found

    return bisected


def library(name: str, **options: object) -> peers.Attack:
    """Wrap one of adversarial-library's attacks."""

    def attack(model: nn.Module, inputs: Tensor, labels: Tensor, **more: object) -> Tensor:
        found: Tensor = getattr(importlib.import_module("adv_lib.attacks"), name)(
            model, inputs, labels, **options, **more
        )
        return found

    return attack


def foolbox_attack(name: str, **options: object) -> peers.Attack:
    """Wrap one of Foolbox's attacks."""

    def attack(model: nn.Module, inputs: Tensor, labels: Tensor) -> Tensor:
        foolbox = importlib.import_module("foolbox")
        method = getattr(foolbox.attacks, name)(**options)
        found: Tensor = method(
            foolbox.PyTorchModel(model, bounds=(0, 1)), inputs, labels, epsilons=None
        )[0]
        return found

    return attack


def torchattacks_attack(name: str, **options: object) -> peers.Attack:
    """Wrap one of torchattacks' attacks."""

    def attack(model: nn.Module, inputs: Tensor, labels: Tensor) -> Tensor:
        made = getattr(importlib.import_module("torchattacks"), name)(model, **options)
        found: Tensor = made(inputs, labels)
        return found

    return attack


def table(norm: str, budget: int) -> dict[str, peers.Attack]:
    """List the attacks of a norm, with the steps that the budget allows."""
    steps, ours = budget // 2, (budget - 1) // 2
    order = ORDERS[norm]
    apgd = partial(library, "apgd", norm=order, loss_function="dlr", n_iter=min(100, steps // 5))
    rows: dict[str, peers.Attack] = {
        "advcal minimum_norm": partial(minimum_norm, norm=norm, steps=ours),
        "adv-lib FMN": library(
            "fmn",
            norm=order,
            steps=steps,
            **({"\N{GREEK SMALL LETTER ALPHA}_init": 10.0} if norm == "linf" else {}),
        ),
    }
    if norm == "l0":
        return rows | {
            "adv-lib sigma-zero": library("sigma_zero", num_steps=steps),
            "adv-lib PDPGD": library("pdpgd", norm=0, num_steps=steps, proximal_operator=23),
            "adv-lib VFGA": library("vfga", max_iter=steps, targeted=False),
        }
    rows["adv-lib APGD, bisected"] = in_a_bisection(apgd(use_large_reps=norm == "l1"), norm)
    rows["adv-lib FAB"] = library("fab", norm=order, n_iter=100)
    if norm != "l2":
        rows["adv-lib PDPGD"] = library("pdpgd", norm=order, num_steps=steps)
    if norm != "linf":
        first = {"l1": 0.5, "l2": 0.1}[norm]
        rows["adv-lib ALMA"] = library(
            "alma", distance=norm, num_steps=steps, init_lr_distance=first
        )
    if norm == "l1":
        return rows | {
            "foolbox EAD": foolbox_attack("EADAttack", binary_search_steps=2, steps=steps)
        }
    if norm == "linf":
        return rows | {
            "advcal fmn, step 10": partial(fmn, steps=ours, step_size=10.0),
            "adv-lib TR": library("tr", p=order, iter=100),
            "foolbox FMN": foolbox_attack("LInfFMNAttack", steps=steps),
            "foolbox DeepFool": foolbox_attack("LinfDeepFoolAttack", steps=50),
        }
    return rows | {
        "advcal foot": partial(foot, steps=ours),
        "advcal ddn": partial(ddn, steps=ours),
        "adv-lib DDN": library("ddn", steps=steps, levels=None),
        "adv-lib PDGD": library("pdgd", num_steps=steps),
        "adv-lib SuperDeepFool": library("sdf"),
        "adv-lib TR": library("tr", p=order, iter=100),
        "foolbox DDN": foolbox_attack("DDNAttack", steps=steps),
        "torchattacks CW": torchattacks_attack("CW", steps=steps),
    }


def distances(
    model: nn.Module, examples: tuple[Tensor, Tensor], attack: peers.Attack, norm: str, budget: int
) -> list[float | None]:
    """Attack the images that are right, in batches of 100; None for what was never fooled."""
    torch.manual_seed(42)
    right = peers.right(model, *examples)
    nearest = []
    for inputs, labels in zip(*(each[right].split(100) for each in examples), strict=True):
        tracked = Tracked(model, inputs, labels, norm, budget).eval()
        with contextlib.suppress(SpentError):
            found = attack(tracked, inputs.clone(), labels.clone()).detach().clamp(0, 1)
            with torch.no_grad():
                output = model(found)
            tracked.keep(found, output, torch.arange(len(found)), torch.ones_like(labels) > 0)
        nearest.append(tracked.nearest)
    every = torch.cat(nearest).tolist()
    return [float(f"{each:.4g}") if math.isfinite(each) else None for each in every]


Runs = dict[str, dict[str, object]]


def kept(run: dict[str, object]) -> list[float]:
    """Read the distances of a run."""
    distances: list[float | None] = run["distances"]  # type: ignore[assignment]
    return [math.inf if each is None else each for each in distances]


def optimality(nearest: list[float], best: Tensor) -> float:
    """Measure how much of the best reduction of robust accuracy an attack reached."""
    last = best[best.isfinite()].max()  # up to here the areas under the curves are taken
    every = torch.tensor(nearest, dtype=torch.float64)
    taken, wanted = (last - each.clamp_max(last).mean() for each in (every, best))
    return float((taken / wanted).clamp(0, 1))


def reached(runs: Runs, network: str, norm: str, budget: int | None = None) -> dict[str, float]:
    """Measure the local optimality of each attack among those of one budget, or of all."""
    start = f"{network}|{norm}|" + ("" if budget is None else f"{budget}|")
    mine = {key[len(start) :]: kept(run) for key, run in runs.items() if key.startswith(start)}
    if not mine:
        return {}
    best = torch.tensor(list(mine.values()), dtype=torch.float64).amin(dim=0)
    return {name: optimality(each, best) for name, each in mine.items()}


def budgets(runs: Runs, network: str, norm: str) -> list[int]:
    """List the budgets of which there are runs."""
    keys = (key.split("|") for key in runs)
    return sorted({int(key[2]) for key in keys if key[:2] == [network, norm]})


def leading(runs: Runs, network: str, norm: str, budget: int, n: int) -> set[str]:
    """Name the peers that were ahead at the greatest smaller budget."""
    last = max(each for each in budgets(runs, network, norm) if each < budget)
    values = reached(runs, network, norm, last)
    return set(sorted(filter(_is_peer, values), key=lambda name: values[name])[-n:])


def _is_peer(name: str) -> bool:
    return not name.startswith("advcal")


def table_of_means(runs: Runs, norm: str) -> str:
    """Write a table of each attack's local optimality at each budget, the mean over networks."""
    networks = sorted({key.split("|")[0] for key in runs})
    columns = sorted({each for n in networks for each in budgets(runs, n, norm)})
    every = {b: [reached(runs, n, norm, b) for n in networks] for b in columns}
    means = {
        (name, b): statistics.fmean(each[name] for each in every[b])
        for b in columns
        for name in every[b][0]
        if all(name in each for each in every[b])
    }
    names = {name for name, b in means if b == columns[0]}
    rows = [f"| {norm} | {' | '.join(f'{b:,}' for b in columns)} |", _rule(len(columns))]
    for name in sorted(names, key=lambda name: (-means[name, columns[0]], name)):
        cells = [_figure(means.get((name, b), math.nan)) for b in columns]
        rows.append(f"| {name} | {' | '.join(cells)} |")
    return "\n".join(rows)


def table_of_networks(runs: Runs, ours: str = "advcal minimum_norm") -> str:
    """Write a table of ours and the best of the peers for each norm, budget and network."""
    networks = sorted({key.split("|")[0] for key in runs})
    rows = [f"| norm, propagations | {' | '.join(networks)} | mean |", _rule(len(networks) + 1)]
    for norm in ORDERS:
        for budget in budgets(runs, networks[0], norm):
            every = [reached(runs, network, norm, budget) for network in networks]
            mine = [each.get(ours, math.nan) for each in every]
            best = [max((v for n, v in e.items() if _is_peer(n)), default=math.nan) for e in every]
            mine.append(statistics.fmean(mine))
            best.append(statistics.fmean(best))
            cells = [
                f"**{_figure(a)}**, {_figure(b)}" if a > b else f"{_figure(a)}, {_figure(b)}"
                for a, b in zip(mine, best, strict=True)
            ]
            rows.append(f"| {norm}, {budget:,} | {' | '.join(cells)} |")
    return "\n".join(rows)


def _rule(n_columns: int) -> str:
    return "|:--" + "|--:" * n_columns + "|"


def _figure(value: float) -> str:
    return "\N{EN DASH}" if math.isnan(value) else f"{value:.3f}"


def parser(text: str | None) -> argparse.ArgumentParser:
    """Make a parser of what `load` needs, but for MNIST."""
    found = argparse.ArgumentParser(
        description=text, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    found.add_argument("--weights", type=Path, required=True, help="folder of the networks")
    found.add_argument("--cifar10", type=Path, required=True, help="folder that holds CIFAR-10")
    return found


def load(name: str, args: argparse.Namespace) -> tuple[nn.Module, tuple[Tensor, Tensor]]:
    """Load a network and its images, spread over all classes."""
    make = attackbench_networks.NETWORKS.get(name) or peers.models.fastnet
    model: nn.Module = make()
    state = torch.load(args.weights / f"{name}.pt", weights_only=True)
    model.load_state_dict({key: value.float() for key, value in state.items()}, strict=False)
    model.eval().requires_grad_(False)
    if name == "mnist":
        images, labels = attackbench_networks.mnist_images(args.mnist)
        return model, (images[-args.n :], labels[-args.n :])
    return model, peers.test_images(args.cifar10, args.n)


def chosen(
    args: argparse.Namespace, runs: Runs, network: str, norm: str, budget: int
) -> dict[str, peers.Attack]:
    """List the attacks that are asked for and not in the record."""
    every = {
        name: attack
        for name, attack in table(norm, budget).items()
        if args.only in name and not (args.skip and args.skip in name)
    }
    if args.leading:
        ahead = leading(runs, network, norm, budget, args.leading)
        every = {n: each for n, each in every.items() if n in ahead or not _is_peer(n)}
    return {n: each for n, each in every.items() if f"{network}|{norm}|{budget}|{n}" not in runs}


def main() -> None:
    """Run what is missing, print and keep."""
    options = parser(__doc__)
    options.add_argument("--mnist", type=Path, required=True, help="folder that holds MNIST")
    names = [*attackbench_networks.NETWORKS, "fastnet"]
    options.add_argument("--networks", nargs="+", choices=names, default=NETWORKS)
    options.add_argument("--norms", nargs="+", choices=ORDERS, default=list(ORDERS))
    options.add_argument("--budgets", nargs="+", type=int, default=[50, 250, 1000])
    options.add_argument("--only", default="", help="a part of the names of the attacks to run")
    options.add_argument("--skip", help="a part of the names of the attacks not to run")
    options.add_argument("--leading", type=int, help="how many of the peers (all)")
    options.add_argument("--n", type=int, default=500, help="test images (500)")
    options.add_argument("--json", type=Path, required=True, help="where the figures are kept")
    args = options.parse_args()
    peers.stub_missing()
    warnings.simplefilter("ignore")
    record = json.loads(args.json.read_text()) if args.json.exists() else {"n": args.n, "runs": {}}
    if record["n"] != args.n:
        raise SystemExit(f"expected the JSON of {args.n} images, got one of {record['n']}")
    runs = record["runs"]
    for budget in args.budgets:
        for network in args.networks:
            model, examples = load(network, args)
            for norm in args.norms:
                for name, attack in chosen(args, runs, network, norm, budget).items():
                    key = f"{network}|{norm}|{budget}|{name}"
                    start = time.process_time()
                    try:
                        found = distances(model, examples, attack, norm, budget)
                    except Exception as error:  # a peer that is missing or broken is told
                        print(f"left out: {key} ({type(error).__name__}: {error})", flush=True)
                        continue
                    runs[key] = {"distances": found, "seconds": time.process_time() - start}
                    print(key, f"{runs[key]['seconds']:.0f} s", flush=True)
                    peers.write_json(args.json, record)
    for norm in args.norms:
        print(f"\n{table_of_means(runs, norm)}")
    print(f"\n{table_of_networks(runs)}")
    record["versions"] = peers.versions(["adv-lib", "foolbox", "torchattacks"])
    peers.write_json(args.json, record)


if __name__ == "__main__":
    main()
