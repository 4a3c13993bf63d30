"""Attacks for the smallest perturbation, ours and the peers': how near, how often, at what cost.

Runs them side by side on the same networks and images, from the predicted class: median L2,
success, forward and backward passes per example, and processor time relative to the bare passes
(one forward and one backward pass at a time on the whole batch, as often as the attack makes them
per example). A peer that is missing or fails is listed with its reason. The networks are any that
examples/fgsm_training.py or examples/cifar10.py has trained.

    python examples/fgsm_training.py --data PATH --model small_cnn --out results/
    python tests/benchmarks/against_minimal_norm.py --data PATH --weights results/small_cnn-*.pt \
        --json docs/benchmarks/minimal_norm.json
"""

import argparse
import importlib
from functools import partial
from pathlib import Path

import peers
import torch
from scipy.stats import spearmanr
from torch import Tensor, nn

from advcal.attacks import cw_l2, ddn, deepfool, fmn, foot

MOST_TIMED = 100  # bare passes; the time of more is in proportion
GROUPS = ["ddn", "fmn", "deepfool", "cw", "nearest", "full"]


def foolbox_attack(name: str, **options: object) -> peers.Attack:
    """Wrap one of Foolbox's attacks."""

    def attack(model: nn.Module, inputs: Tensor, labels: Tensor) -> Tensor:
        foolbox = importlib.import_module("foolbox")
        attacked = foolbox.PyTorchModel(model, bounds=(0, 1), device=inputs.device)
        method = getattr(foolbox.attacks, name)(**options)
        found: Tensor = method(attacked, inputs, labels, epsilons=None)[0]
        return found

    return attack


def library_attack(name: str, **options: object) -> peers.Attack:
    """Wrap one of adversarial-library's attacks."""

    def attack(model: nn.Module, inputs: Tensor, labels: Tensor) -> Tensor:
        library = importlib.import_module("adv_lib.attacks")
        found: Tensor = getattr(library, name)(model, inputs, labels, **options)
        return found

    return attack


def torchattacks_attack(name: str, **options: object) -> peers.Attack:
    """Wrap one of torchattacks' attacks."""

    def attack(model: nn.Module, inputs: Tensor, labels: Tensor) -> Tensor:
        library = importlib.import_module("torchattacks")
        found: Tensor = getattr(library, name)(model, **options)(inputs, labels)
        return found

    return attack


def table() -> list[tuple[str, str, peers.Attack]]:
    """List group, name and attack; ours first in each group."""
    cw = {"binary_search_steps": 5, "steps": 100, "stepsize": 0.01, "abort_early": False}
    published = {"binary_search_steps": 9, "max_iterations": 1000}
    return [
        ("ddn", "advcal ddn 100", ddn),
        ("ddn", "adv-lib ddn 100", library_attack("ddn", steps=100, levels=None)),
        ("ddn", "adv-lib ddn 100, quantised", library_attack("ddn", steps=100)),
        ("ddn", "foolbox DDN 100", foolbox_attack("DDNAttack", steps=100)),
        ("fmn", "advcal fmn 100", partial(fmn, norm="l2")),
        ("fmn", "adv-lib fmn 100", library_attack("fmn", norm=2, steps=100)),
        ("fmn", "foolbox FMN 100", foolbox_attack("L2FMNAttack", steps=100)),
        ("deepfool", "advcal deepfool", partial(deepfool, norm="l2")),
        ("deepfool", "adv-lib DeepFool", library_attack("df", norm=2, steps=50)),
        ("deepfool", "foolbox DeepFool", foolbox_attack("L2DeepFoolAttack", steps=50)),
        ("deepfool", "torchattacks DeepFool", torchattacks_attack("DeepFool", steps=50)),
        ("cw", "advcal cw_l2 5 x 100", partial(cw_l2, search_steps=5, steps=100)),
        (
            "cw",
            "adv-lib CW 5 x 100",
            library_attack("carlini_wagner_l2", binary_search_steps=5, max_iterations=100),
        ),
        ("cw", "foolbox CW 5 x 100", foolbox_attack("L2CarliniWagnerAttack", **cw)),
        ("cw", "torchattacks CW 1 x 500", torchattacks_attack("CW", steps=500)),
        ("nearest", "advcal foot 17", partial(foot, steps=17, candidates=2)),
        ("nearest", "advcal foot 30", partial(foot, steps=27, candidates=3)),
        ("nearest", "advcal foot 47", partial(foot, steps=47, candidates=3)),
        ("nearest", "adv-lib SuperDeepFool", library_attack("sdf")),
        ("full", "adv-lib ddn 1000", library_attack("ddn", steps=1000, levels=None)),
        ("full", "adv-lib CW 9 x 1000", library_attack("carlini_wagner_l2", **published)),
    ]


def bare_passes(model: nn.Module, inputs: Tensor, forward: float, backward: float) -> None:
    """Make so many passes of the whole batch and nothing else."""
    for i in range(max(round(forward), round(backward))):
        points = inputs.detach().requires_grad_(i < backward)
        output = model(points)
        if i < backward:
            torch.autograd.grad(output.sum(), points)


def compare(model: nn.Module, inputs: Tensor, groups: list[str]) -> list[dict[str, object]]:
    """Measure every attack on one network."""
    labels = model(inputs).argmax(dim=1)
    bare_passes(model, inputs, 10, 10)  # to warm up
    rows: list[dict[str, object]] = []
    distances: dict[str, Tensor] = {}
    for group, name, attack in table():
        if group not in groups:
            continue
        counted = peers.Counted(model).eval()
        result: list[Tensor] = []
        try:
            taken = peers.cpu_seconds(
                lambda attack=attack, result=result, counted=counted: result.append(  # type: ignore[misc]
                    attack(counted, inputs, labels).detach()
                )
            )
        except Exception as error:  # a peer that is missing or broken is told, and left out
            print(f"left out: {name} ({type(error).__name__}: {error})")
            continue
        forward, backward = counted.forwards / len(inputs), counted.backwards / len(inputs)
        part = min(1.0, MOST_TIMED / max(forward, backward))
        bare = peers.cpu_seconds(
            lambda f=part * forward, b=part * backward: bare_passes(model, inputs, f, b)  # type: ignore[misc]
        )
        length = (result[0] - inputs).flatten(1).norm(dim=1).double()
        fooled = ~peers.right(model, result[0], labels)
        distances[name] = torch.where(fooled, length, torch.inf)
        rows.append(
            {
                "attack": name,
                "median L2": float(distances[name].median()),
                "success": float(fooled.double().mean()),
                "forward": forward,
                "backward": backward,
                "time / bare passes": taken * part / bare,
            }
        )
        print("  ".join(str(value) for value in rows[-1].values()), flush=True)
    full = distances.get("adv-lib ddn 1000")
    for row in rows:
        of = spearmanr(distances[str(row["attack"])], full).statistic if full is not None else None
        row["Spearman with ddn 1000"] = of if of is None else float(of)
    return rows


def main() -> None:
    """Compare, print and keep."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--data", type=Path, required=True, help="folder that holds CIFAR-10")
    parser.add_argument("--weights", type=Path, nargs="+", required=True, help="trained networks")
    parser.add_argument("--n", type=int, default=128, help="test images, in one batch (128)")
    parser.add_argument("--groups", nargs="+", choices=GROUPS, default=GROUPS, help="what to run")
    parser.add_argument("--json", type=Path, help="where to keep the figures")
    args = parser.parse_args()
    peers.stub_missing()

    inputs, _ = peers.test_images(args.data, args.n)
    record: dict[str, object] = {"n": args.n}
    torch.manual_seed(0)
    for name, model in peers.networks(args.weights).items():
        model.to(memory_format=torch.contiguous_format).requires_grad_(False)  # type: ignore[call-overload]
        rows = compare(model, inputs, args.groups)
        print(f"\n{name}, {args.n} images")
        peers.print_table(rows)
        record[name] = rows
    names = ["adv-lib", "torchattacks", "foolbox"]
    peers.write_json(args.json, record | {"versions": peers.versions(names)})


if __name__ == "__main__":
    main()
