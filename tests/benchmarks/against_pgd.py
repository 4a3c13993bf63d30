"""PGD side by side: advcal and its peers on the same models, images, steps and starts at random.

Prints, for each network and number of steps, the robust accuracy, the passes per example, the
processor time relative to the bare passes of that many steps, and whether gradients were left on
the model's parameters. The networks are any that examples/fgsm_training.py or examples/cifar10.py
has trained.

    python examples/fgsm_training.py --data PATH --model small_cnn --out results/
    python tests/benchmarks/against_pgd.py --data PATH --weights results/small_cnn-*.pt \
        --json docs/benchmarks/pgd.json
"""

import argparse
from functools import partial
from pathlib import Path

import peers
import torch
from torch import Tensor, nn

from advcal import attacks

EPS = 8 / 255


def bare(model: nn.Module, inputs: Tensor, labels: Tensor, *, steps: int) -> Tensor:
    """Make the passes of PGD over frozen parameters and nothing else."""
    for parameter in model.parameters():
        parameter.requires_grad_(False)
    for _ in range(steps):
        points = inputs.detach().requires_grad_()
        loss = nn.functional.cross_entropy(model(points), labels, reduction="sum")
        torch.autograd.grad(loss, points)
    with torch.no_grad():
        model(inputs)
    for parameter in model.parameters():
        parameter.requires_grad_(True)
    return inputs


def ours(steps: int) -> dict[str, peers.Attack]:
    """The forms of `advcal.attacks.pgd` that a user would choose from."""
    step = {"eps": EPS, "steps": steps, "step_size": EPS / 4}
    early = partial(attacks.pgd, **step, stop_early=True)
    return {
        "advcal pgd": partial(attacks.pgd, **step),
        "advcal pgd, stop_early": early,
        "advcal pgd, stop_early, autocast": attacks.autocast(early),
    }


def theirs(steps: int) -> dict[str, peers.Attack]:
    """The same of every peer that is installed."""
    found: dict[str, peers.Attack] = {}
    if peers.installed("adv_lib.attacks"):
        from adv_lib.attacks import pgd_linf

        found["adv-lib"] = lambda model, x, y: pgd_linf(
            model, x, y, ε=EPS, steps=steps, absolute_step_size=EPS / 4
        )
    if peers.installed("torchattacks"):
        import torchattacks

        found["torchattacks"] = lambda model, x, y: torchattacks.PGD(
            model, eps=EPS, alpha=EPS / 4, steps=steps
        )(x, y)
    if peers.installed("foolbox"):
        import foolbox

        found["foolbox"] = lambda model, x, y: foolbox.attacks.LinfPGD(
            abs_stepsize=EPS / 4, steps=steps
        )(foolbox.PyTorchModel(model, bounds=(0, 1), device="cpu"), x, y, epsilons=EPS)[1]
    if peers.installed("art.attacks.evasion"):
        from art.attacks.evasion import ProjectedGradientDescentPyTorch
        from art.estimators.classification import PyTorchClassifier

        def art(model: nn.Module, x: Tensor, y: Tensor) -> Tensor:
            classifier = PyTorchClassifier(
                model,
                nn.CrossEntropyLoss(),
                tuple(x.shape[1:]),
                10,
                clip_values=(0, 1),
                device_type="cpu",
            )
            attack = ProjectedGradientDescentPyTorch(
                classifier,
                eps=EPS,
                eps_step=EPS / 4,
                max_iter=steps,
                num_random_init=1,
                batch_size=len(x),
                verbose=False,
            )
            return torch.from_numpy(attack.generate(x.numpy(), y.numpy()))

        found["ART"] = art
    return found


def compare(
    model: nn.Module, inputs: Tensor, labels: Tensor, steps: int, args: argparse.Namespace
) -> list[dict[str, object]]:
    """Measure every attack on one network."""
    floor = peers.in_parts(partial(bare, steps=steps), args.batch)
    candidates = {
        name: peers.in_parts(attack, args.batch)
        for name, attack in (ours(steps) | theirs(steps)).items()
    }
    rows = []
    for name, attack in candidates.items():
        counted = peers.Counted(model).eval()
        for parameter in model.parameters():
            parameter.grad = None
        found = attack(counted, inputs, labels)
        rows.append(
            {
                "attack": name,
                "robust accuracy": float(peers.right(model, found, labels).double().mean()),
                "forward": counted.forwards / len(inputs),
                "backward": counted.backwards / len(inputs),
                "leaves .grad": any(p.grad is not None for p in model.parameters()),
            }
        )
    functions = {
        name: partial(attack, model, inputs, labels)
        for name, attack in ({"bare": floor} | candidates).items()
    }
    seconds = peers.time_in_turn(functions, args.rounds)
    for row in rows:
        row["time / bare passes"] = seconds[str(row["attack"])] / seconds["bare"]
    return rows


def main() -> None:
    """Compare, print and keep."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--data", type=Path, required=True, help="folder that holds CIFAR-10")
    parser.add_argument("--weights", type=Path, nargs="+", required=True, help="trained networks")
    parser.add_argument("--n", type=int, default=512, help="test images (512)")
    parser.add_argument("--batch", type=int, default=128, help="examples in a batch (128)")
    parser.add_argument("--steps", type=int, nargs="+", default=[10, 50], help="steps (10 50)")
    parser.add_argument("--rounds", type=int, default=3, help="timed rounds (3)")
    parser.add_argument("--json", type=Path, help="where to keep the figures")
    args = parser.parse_args()

    inputs, labels = peers.test_images(args.data, args.n)
    inputs = inputs.contiguous(memory_format=torch.channels_last)
    record: dict[str, object] = {"eps": EPS, "n": args.n, "batch": args.batch}
    torch.manual_seed(0)
    for name, model in peers.networks(args.weights).items():
        for steps in args.steps:
            rows = compare(model, inputs, labels, steps, args)
            clean = float(peers.right(model, inputs, labels).double().mean())
            print(f"\n{name}, PGD-{steps}, {args.n} images, clean accuracy {clean:.3f}")
            peers.print_table(rows)
            record[f"{name}, PGD-{steps}"] = rows
    names = ["adv-lib", "torchattacks", "foolbox", "adversarial-robustness-toolbox"]
    peers.write_json(args.json, record | {"versions": peers.versions(names)})


if __name__ == "__main__":
    main()
