"""AutoAttack side by side: advcal, AutoAttack's own package and torchattacks, same models, images.

Prints, for each network and norm, the robust accuracy, the passes per example, the processor time
relative to that of advcal, and whether gradients were left on the model's parameters. `--queries`
shortens the Square attack of all three alike. The networks are any that examples/fgsm_training.py
or examples/cifar10.py has trained.

    python examples/fgsm_training.py --data PATH --model small_cnn --out results/
    python tests/benchmarks/against_autoattack.py --data PATH --weights results/small_cnn-*.pt \
        --json docs/benchmarks/autoattack.json
"""

import argparse
from functools import partial
from pathlib import Path

import peers
import torch
from torch import Tensor, nn

from advcal import attacks

EPS = {"linf": 8 / 255, "l2": 0.5}
# A run of fewer seconds is mostly the first time that the machine sees its shapes: repeat it.
WARM = 60


def candidates(norm: str, queries: int, only: list[str]) -> dict[str, peers.Attack]:
    """AutoAttack as each library has it."""
    eps = EPS[norm]
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
    if peers.installed("torchattacks"):
        import torchattacks

        def torch_attacks(model: nn.Module, x: Tensor, y: Tensor) -> Tensor:
            whole = torchattacks.AutoAttack(model, norm=norm.title(), eps=eps, seed=0)
            whole._autoattack.attacks[3].n_queries = queries
            return whole(x, y)

        found["torchattacks"] = torch_attacks
    return {name: attack for name, attack in found.items() if not only or name in only}


def compare(
    model: nn.Module, inputs: Tensor, labels: Tensor, norm: str, queries: int, only: list[str]
) -> list[dict[str, object]]:
    """Measure every library on one network."""
    rows: list[dict[str, object]] = []
    first = 0.0
    for name, attack in candidates(norm, queries, only).items():
        counted = peers.Counted(model).eval()
        for parameter in model.parameters():
            parameter.grad = None
        found: list[Tensor] = []
        run = partial(attack, counted, inputs, labels)
        seconds = peers.cpu_seconds(lambda run=run, found=found: found.append(run()))  # type: ignore[misc]
        forwards, backwards = counted.forwards, counted.backwards
        if seconds < WARM:
            seconds = min(peers.cpu_seconds(run) for _ in range(3))
        first = first or seconds
        rows.append(
            {
                "attack": name,
                "robust accuracy": float(peers.right(model, found[0], labels).double().mean()),
                "forward": forwards / len(inputs),
                "backward": backwards / len(inputs),
                "time / advcal": seconds / first,
                "leaves .grad": any(p.grad is not None for p in model.parameters()),
            }
        )
    return rows


def main() -> None:
    """Compare, print and keep."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--data", type=Path, required=True, help="folder that holds CIFAR-10")
    parser.add_argument("--weights", type=Path, nargs="+", required=True, help="trained networks")
    parser.add_argument("--n", type=int, default=128, help="test images, in one batch (128)")
    parser.add_argument("--queries", type=int, default=5000, help="of the Square attack (5000)")
    parser.add_argument("--norm", nargs="+", default=["linf", "l2"], help="norms (linf l2)")
    parser.add_argument("--only", nargs="+", default=[], help="libraries, by their names (all)")
    parser.add_argument("--json", type=Path, help="where to keep the figures")
    args = parser.parse_args()

    inputs, labels = peers.test_images(args.data, args.n)
    record: dict[str, object] = {"eps": EPS, "n": args.n, "queries": args.queries}
    torch.manual_seed(0)
    for name, model in peers.networks(args.weights).items():
        # AutoAttack's package takes no other layout.
        model.to(memory_format=torch.contiguous_format)  # type: ignore[call-overload]
        clean = float(peers.right(model, inputs, labels).double().mean())
        for norm in args.norm:
            rows = compare(model, inputs, labels, norm, args.queries, args.only)
            print(f"\n{name}, {norm}, {args.n} images, clean accuracy {clean:.3f}")
            peers.print_table(rows)
            record[f"{name}, {norm}"] = rows
    versions = peers.versions(["pyautoattack", "torchattacks"])
    peers.write_json(args.json, record | {"versions": versions})


if __name__ == "__main__":
    main()
