"""Put the forms in which one network is deployed side by side: what they keep, and what they cost.

The network as it was trained, in bfloat16, pruned, and in int8, dynamically and statically
quantised. Of each form accuracy and calibration, the accuracy under AutoAttack and how far its
confidence can be moved, both attacked through the float network's gradient where the form has none;
then size and latency of all, measured in turns. What is there is not made again, and the script may
be stopped at any moment and started again.

    python examples/deployed.py --data PATH \
        --weights results/defense-fastnet-PGD-AT-0.pt --out results/
"""

import argparse
import copy
import functools
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import cifar10_data
import common
import torch
import training
from torch import Tensor, nn
from torch.ao.quantization import get_default_qconfig_mapping, quantize_dynamic, quantize_fx
from torch.nn.utils import prune

from advcal import attacks, evaluation

HEADINGS = {
    "accuracy": "accuracy",
    "ece": "ECE",
    "mcs": "MCS",
    "robust": "AutoAttack",
    "lowest_mcs": "lowest MCS",
    "highest_mcs": "highest MCS",
}


def main() -> None:
    """Attack each form that has no results yet, measure what all cost, print the table."""
    args = parse()
    common.make_folder(args.out)
    data = cifar10_data.load_or_exit(args.data)
    network = training.load(args.weights)
    made = forms(network, data.train_images[:: len(data.train_images) // 512].float() / 255)
    clean = every(data, args.n_clean)
    some = every(data, args.n_test)
    path = args.out / "deployed.json"
    study = common.read_json(path) or {"settings": settings(args), "forms": {}}
    for name, form in made.items():
        if name not in study["forms"]:
            study["forms"][name] = figures(form, network, clean, some, args)
            common.write_json(path, study)
            print(f"{name}: {study['forms'][name]}", flush=True)
    found = evaluation.costs(made, some.images.float() / 255, n=args.n, channels_last=True)
    study["costs"] = {name: cost.as_dict() for name, cost in found.items()}
    common.write_json(path, study)
    print(table(study))


def parse() -> argparse.Namespace:
    """Read the command line."""
    parser = common.parser(__doc__, bfloat16=False)
    parser.add_argument("--weights", type=Path, required=True, help="weights of a float network")
    parser.add_argument("--eps", type=float, default=8 / 255, help="radius in L∞ (8/255)")
    parser.add_argument("--steps", type=int, default=100, help="steps of AutoAttack's parts (100)")
    parser.add_argument("--queries", type=int, default=5000, help="calls of its last part (5000)")
    parser.add_argument("--envelope-steps", type=int, default=50, help="of each attack (50)")
    parser.add_argument("--n-test", type=int, default=500, help="images to attack (500)")
    parser.add_argument("--n-clean", type=int, default=10_000, help="images not attacked (10000)")
    parser.add_argument("--n", type=int, default=50, help="timed runs of each form (50)")
    args = parser.parse_args()
    common.check_ranges(
        parser,
        args,
        eps=(1e-4, 1),
        steps=(1, 1000),
        queries=(0, 100_000),
        envelope_steps=(1, 1000),
        n_test=(10, 10_000),
        n_clean=(10, 10_000),
        n=(1, 10_000),
    )
    return args


def settings(args: argparse.Namespace) -> dict[str, object]:
    """Collect what a reader needs to run this again."""
    names = ("eps", "steps", "queries", "envelope_steps", "n_test", "n_clean", "n")
    return {
        "weights": args.weights.name,
        **{name: getattr(args, name) for name in names},
        "threads": torch.get_num_threads(),
        **common.date_and_versions(),
    }


def every(data: cifar10_data.Cifar10, n: int) -> cifar10_data.Batches:
    """Take test images of all classes."""
    chosen = torch.linspace(0, len(data.test_labels) - 1, min(n, len(data.test_labels))).round()
    rows = chosen.long()
    return cifar10_data.Batches(data.test_images[rows], data.test_labels[rows], batch_size=100)


# --- the forms ---


class Half(nn.Module):
    """A network in bfloat16, but for its first layer, which takes the images."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        first, *rest = copy.deepcopy(network).children()
        self.first, self.rest = first, nn.Sequential(*rest).bfloat16()

    def forward(self, inputs: Tensor) -> Tensor:
        logits: Tensor = self.rest(self.first(inputs).bfloat16())
        return logits.float()


def forms(network: nn.Module, images: Tensor) -> dict[str, nn.Module]:
    """Make every form of a network; images are to set the ranges of the static one."""
    return {
        "float32": network,
        "bfloat16": Half(network),
        "half of the weights 0": pruned(network),
        "int8, dynamic": dynamic(network),
        "int8, static": static(network, images),
    }


def pruned(network: nn.Module) -> nn.Module:
    """Set the half of all weights to 0 that is smallest, with no training after it."""
    made = copy.deepcopy(network)
    made.to(memory_format=torch.contiguous_format)  # type: ignore[call-overload]  # prune wants it
    layers = [(m, "weight") for m in made.modules() if isinstance(m, (nn.Conv2d, nn.Linear))]
    prune.global_unstructured(layers, prune.L1Unstructured, amount=0.5)
    for layer, name in layers:
        prune.remove(layer, name)
    made.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    return made


def dynamic(network: nn.Module) -> nn.Module:
    """Quantise the linear layers alone, which is all that can be done without images."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # that all of it moves to another package
        made: nn.Module = quantize_dynamic(network, {nn.Linear})
    return made


def static(network: nn.Module, images: Tensor) -> nn.Module:
    """Quantise weights and what runs between the layers, whose ranges images have shown."""
    with warnings.catch_warnings(), torch.no_grad():
        warnings.simplefilter("ignore")
        mapping = get_default_qconfig_mapping(torch.backends.quantized.engine)
        ready = quantize_fx.prepare_fx(copy.deepcopy(network), mapping, (images[:1],))
        for part in images.split(128):
            ready(part)
        made: nn.Module = quantize_fx.convert_fx(ready)
    return made


# --- figures ---


def figures(
    form: nn.Module,
    network: nn.Module,
    clean: cifar10_data.Batches,
    some: cifar10_data.Batches,
    args: argparse.Namespace,
) -> dict[str, Any]:
    """Take all figures of one form; int8 has the float network's gradient."""
    attacked = attacks.through(form, network) if has_int8(form) else form
    strong: Callable[..., Tensor] = functools.partial(
        attacks.autoattack,
        eps=args.eps,
        steps=args.steps,
        queries=args.queries,
        generator=torch.Generator().manual_seed(0),
    )
    found = evaluation.evaluate(form, clean, channels_last=True)
    robust = evaluation.evaluate(attacked, some, strong, channels_last=True)
    moved = evaluation.confidence_envelope(
        attacked,
        some,
        eps=[args.eps],
        steps=args.envelope_steps,
        generator=torch.Generator().manual_seed(0),
        channels_last=True,
    )
    return {
        **{name: getattr(found, name) for name in ("n", "accuracy", "ece", "mcs", "nll")},
        "attacked": robust.n,
        "robust": robust.accuracy,
        "robust interval": robust.intervals["accuracy"],
        "lowest_mcs": moved.lowest_mcs[0],
        "highest_mcs": moved.highest_mcs[0],
    }


def has_int8(form: nn.Module) -> bool:
    """Tell whether a layer is quantised."""
    return any(type(each).__module__.startswith("torch.ao.nn") for each in form.modules())


def table(study: dict[str, Any]) -> str:
    """Lay the study out as a Markdown table, a row per form."""
    of = study["costs"]
    times = [*next(iter(of.values()))["latency"]]
    headings = [*HEADINGS.values(), "MB", *(f"ms, batch of {n}" for n in times)]
    lines = [f"| form | {' | '.join(headings)} |", "|:--|" + "--:|" * len(headings)]
    for name, found in study["forms"].items():
        cells = [f"{found[key]:{'+' if 'mcs' in key else ''}.3f}" for key in HEADINGS]
        cells.append(f"{of[name]['bytes'] / 1e6:.2f}")
        cells += [f"{of[name]['latency'][n]['median']:.2f}" for n in times]
        lines.append(f"| {name} | {' | '.join(cells)} |")
    return "\n".join(lines)


if __name__ == "__main__":
    torch.set_num_threads(1)  # as on a small device, and for times that others can compare
    main()
