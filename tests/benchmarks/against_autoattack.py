"""AutoAttack side by side: advcal, AutoAttack's own package and torchattacks, same models, images.

Prints, for each network and norm, the robust accuracy, the passes per example, the processor time
relative to that of advcal, and whether gradients were left on the model's parameters. `--queries`
shortens the Square attack of all three alike. The networks are any that examples/fgsm_training.py,
examples/cifar10.py, examples/defenses.py or attackbench_networks.py has trained. torchattacks has
no L1. What the JSON has of as many images and queries is not run again.

    python tests/benchmarks/attackbench_networks.py robust --data cifar10 --out FOLDER
    python tests/benchmarks/attackbench_networks.py mnist --data mnist --out FOLDER
    python tests/benchmarks/against_autoattack.py --data cifar10 --mnist mnist \
        --weights FOLDER/robust.pt FOLDER/mnist.pt --json docs/benchmarks/autoattack_robust.json
"""

import argparse
import json
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import attackbench_networks
import peers
import torch
from torch import Tensor, nn

from advcal import attacks

EPS = {"linf": 8 / 255, "l2": 0.5, "l1": 12.0}
MNIST_EPS = {"linf": 0.3, "l2": 2.0, "l1": 8.0}
# A run of fewer seconds is mostly the first time that the machine sees its shapes: repeat it.
WARM = 10


def candidates(norm: str, eps: float, queries: int, only: list[str]) -> dict[str, peers.Attack]:
    """AutoAttack as each library has it."""
    ours = partial(attacks.autoattack, eps=eps, norm=norm, queries=queries)
    cast = attacks.autocast(ours)
    white_box = partial(ours, queries=0)

    def channels_last(attack: peers.Attack, model: nn.Module, x: Tensor, y: Tensor) -> Tensor:
        model.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        found = attack(model, x.contiguous(memory_format=torch.channels_last), y)
        model.to(memory_format=torch.contiguous_format)  # type: ignore[call-overload]
        return found.contiguous()

    found: dict[str, peers.Attack] = {
        "advcal": ours,
        "advcal, 20 steps": partial(ours, steps=20),  # torchattacks' runs have 10
        "advcal, autocast": cast,
        "advcal, autocast, channels last": partial(channels_last, cast),
        "advcal without Square": white_box,
        "advcal without Square, autocast, channels last": partial(
            channels_last, attacks.autocast(white_box)
        ),
    }
    if peers.installed("pyautoattack"):
        import pyautoattack

        def own(model: nn.Module, x: Tensor, y: Tensor) -> Tensor:
            whole = pyautoattack.AutoAttack(model, norm=norm.title(), eps=eps, seed=0)
            whole.verbose = False
            whole.square.n_queries = queries
            return whole.run_standard_evaluation(x, y, batch_size=len(x))[0]

        found["AutoAttack"] = own
    if norm != "l1" and peers.installed("torchattacks"):
        import torchattacks

        def torch_attacks(model: nn.Module, x: Tensor, y: Tensor) -> Tensor:
            whole = torchattacks.AutoAttack(model, norm=norm.title(), eps=eps, seed=0)
            whole._autoattack.attacks[3].n_queries = queries
            return whole(x, y)

        found["torchattacks"] = torch_attacks
    return {name: attack for name, attack in found.items() if not only or name in only}


def load(weights: Path, args: argparse.Namespace) -> tuple[nn.Module, Tensor, Tensor]:
    """Load a network and the images to attack it with."""
    make = attackbench_networks.NETWORKS.get(weights.stem)
    if make is None:
        model = peers.cifar10_model(weights)
    else:
        model = make()
        model.load_state_dict(torch.load(weights, weights_only=True))
    if weights.stem != "mnist":
        return (model.eval(), *peers.test_images(args.data, args.n))
    images, labels = attackbench_networks.mnist_images(args.mnist)
    chosen = torch.linspace(attackbench_networks.N_TRAIN_MNIST, len(images) - 1, args.n)
    chosen = chosen.round().long()
    return model.eval(), images[chosen], labels[chosen]


def compare(
    model: nn.Module,
    inputs: Tensor,
    labels: Tensor,
    tried: dict[str, peers.Attack],
    rows: list[dict[str, object]],
) -> Iterator[list[dict[str, object]]]:
    """Measure every library on one network, and yield all rows after each that is new."""
    for name, attack in tried.items():
        if any(row["attack"] == name for row in rows):
            continue
        counted = peers.Counted(model).eval()
        for parameter in model.parameters():
            parameter.grad = None
        found: list[Tensor] = []
        run = partial(attack, counted, inputs, labels)
        seconds = peers.cpu_seconds(lambda run=run, found=found: found.append(run()))  # type: ignore[misc]
        forwards, backwards = counted.forwards, counted.backwards
        if seconds < WARM:
            seconds = min(peers.cpu_seconds(run) for _ in range(3))
        row = {
            "attack": name,
            "robust accuracy": float(peers.right(model, found[0], labels).double().mean()),
            "forward": forwards / len(inputs),
            "backward": backwards / len(inputs),
            "seconds": seconds,
            "time / advcal": seconds / float(rows[0]["seconds"] if rows else seconds),  # the first
            "leaves .grad": any(p.grad is not None for p in model.parameters()),
        }
        rows = [*rows, row]
        yield rows


def table(record: dict[str, object], names: list[str]) -> str:
    """Write a table of robust accuracies, and of times relative to the first library's."""
    header = ["network, norm", *names, *(f"time, {name}" for name in names[1:])]
    lines = [header, [":--", *["--:"] * (len(header) - 1)]]
    for key, rows in record.items():
        if isinstance(rows, list):
            found = {row["attack"]: row for row in rows}
            cells = [(name, "robust accuracy", ".3f") for name in names]
            cells += [(name, "time / advcal", ".2f") for name in names[1:]]
            missing = "\N{EN DASH}"
            values = [format(found[n][k], f) if n in found else missing for n, k, f in cells]
            lines.append([key, *values])
    return "\n".join(f"| {' | '.join(line)} |" for line in lines).replace("| :--", "|:--")


def main() -> None:
    """Compare, print and keep."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--data", type=Path, required=True, help="folder that holds CIFAR-10")
    parser.add_argument("--mnist", type=Path, help="folder that holds MNIST, for its network")
    parser.add_argument("--weights", type=Path, nargs="+", required=True, help="trained networks")
    parser.add_argument("--n", type=int, default=128, help="test images, in one batch (128)")
    parser.add_argument("--queries", type=int, default=5000, help="of the Square attack (5000)")
    parser.add_argument("--norm", nargs="+", default=list(EPS), help="norms (linf l2 l1)")
    parser.add_argument("--only", nargs="+", default=[], help="libraries, by their names (all)")
    parser.add_argument("--json", type=Path, help="where to keep the figures")
    args = parser.parse_args()

    record: dict[str, object] = {"eps": EPS, "eps of mnist": MNIST_EPS}
    record |= {"n": args.n, "queries": args.queries}
    if args.json and args.json.exists():
        kept = json.loads(args.json.read_text())
        if all(kept[name] == record[name] for name in ("n", "queries")):
            record = kept | record
    record["versions"] = peers.versions(["pyautoattack", "torchattacks"])
    torch.manual_seed(0)
    for weights in args.weights:
        model, inputs, labels = load(weights, args)
        # AutoAttack's package takes no other layout.
        model.to(memory_format=torch.contiguous_format)  # type: ignore[call-overload]
        clean = float(peers.right(model, inputs, labels).double().mean())
        for norm in args.norm:
            key, eps = f"{weights.stem}, {norm}", EPS[norm]
            if weights.stem == "mnist":
                eps = MNIST_EPS[norm]
            chosen = candidates(norm, eps, args.queries, args.only)
            rows = record.setdefault(key, [])
            for record[key] in compare(model, inputs, labels, chosen, rows):  # type: ignore[arg-type]
                peers.write_json(args.json, record)
            print(f"\n{key}, {args.n} images, clean accuracy {clean:.3f}", flush=True)
            peers.print_table(record[key])  # type: ignore[arg-type]


if __name__ == "__main__":
    main()
