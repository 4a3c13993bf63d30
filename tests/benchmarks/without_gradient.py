"""What attacks reach on models without a gradient: alone, from the float network, and `through`.

Networks in real int8, dynamically and statically quantised, and networks behind rounding, JPEG and
a threshold. Each is attacked by the same PGD three times: as it is; by what was found on the float
network without the step that has no gradient; and with that network's gradient, or a straight one,
lent by `attacks.through`. Judged is each time what the deployed model itself says. Only images that
it gets right at first are attacked.

    python tests/benchmarks/without_gradient.py --weights FOLDER --cifar10 PATH --mnist PATH \
        --json docs/benchmarks/without_gradient.json

FOLDER holds what attackbench_networks.py has trained.
"""

import io
import sys
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import against_attackbench
import numpy as np
import peers
import torch
from PIL import Image
from torch import Tensor, nn

from advcal import attacks

sys.path.insert(0, str(Path(__file__).parents[2] / "examples"))
import deployed

COLUMNS = ("alone", "from the float network", "through")


def rounding(images: Tensor) -> Tensor:
    """Keep 16 levels."""
    return (images * 15).round() / 15


def jpeg(images: Tensor) -> Tensor:
    """Write and read JPEG files of quality 75, with Pillow."""
    read = []
    for image in (images * 255).round().byte().permute(0, 2, 3, 1).numpy():
        file = io.BytesIO()
        Image.fromarray(image).save(file, "jpeg", quality=75)
        read.append(np.asarray(Image.open(file)))
    return torch.tensor(np.stack(read)).permute(0, 3, 1, 2).float() / 255


def threshold(images: Tensor) -> Tensor:
    """Make images black and white."""
    return (images > 0.5).float()


def soft_threshold(images: Tensor) -> Tensor:
    """Do it with a slope."""
    return torch.sigmoid(8 * images - 4)


def cases(
    networks: dict[str, nn.Module], images: Tensor
) -> dict[str, tuple[str, float, nn.Module, nn.Module]]:
    """List models: the network in each, the radius in linf, as deployed, with a gradient lent."""
    robust, vit, mnist = networks["robust"], networks["vit"], networks["mnist"]
    dynamic, static = deployed.dynamic(vit), deployed.static(robust, images)
    bare, lent = Bare, attacks.through
    own, soft = nn.Sequential, lent(threshold, soft_threshold)
    return {
        "int8, dynamic": ("vit", 1 / 255, dynamic, lent(dynamic, vit)),
        "int8, static": ("robust", 4 / 255, static, lent(static, robust)),
        "16 levels": ("robust", 4 / 255, own(bare(rounding), robust), own(lent(rounding), robust)),
        "JPEG, quality 75": ("robust", 4 / 255, own(bare(jpeg), robust), own(lent(jpeg), robust)),
        "threshold": ("mnist", 0.4, own(bare(threshold), mnist), own(soft, mnist)),
    }


class Bare(nn.Module):
    """A step that is deployed as it is."""

    def __init__(self, step: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.step = step

    def forward(self, images: Tensor) -> Tensor:
        """Take the step, where NumPy may be on the way."""
        return self.step(images.detach() if self.step is jpeg else images)


def row(
    network: nn.Module, inputs: Tensor, labels: Tensor, eps: float, model: nn.Module, lent: Any
) -> dict[str, object]:
    """Attack one model in every way, and count which images it then gets wrong."""
    right = peers.right(model, inputs, labels)
    inputs, labels = inputs[right], labels[right]
    found: dict[str, object] = {"radius": eps, "right at first": len(labels)}
    for column, crafted_on in zip(COLUMNS, (model, network, lent), strict=True):
        torch.manual_seed(0)
        try:
            points = attacks.pgd(crafted_on, inputs, labels, eps=eps, steps=20)
        except ValueError:  # which says that there is no gradient
            found[column] = None
        else:
            found[column] = int((~peers.right(model, points, labels)).sum())
    return found


def main() -> None:
    """Attack, print and keep."""
    parser = against_attackbench.parser(__doc__)
    parser.add_argument("--mnist", type=Path, required=True, help="folder that holds MNIST")
    parser.add_argument("--n", type=int, default=128, help="test images (128)")
    parser.add_argument("--json", type=Path, help="where to keep the figures")
    args = parser.parse_args()
    warnings.simplefilter("ignore")  # of torch, about its own int8
    loaded = {name: against_attackbench.load(name, args) for name in ("robust", "vit", "mnist")}
    networks = {name: network for name, (network, _) in loaded.items()}
    rows = {}
    for name, (of, eps, model, lent) in cases(networks, loaded["robust"][1][0]).items():
        rows[f"{name} ({of})"] = row(networks[of], *loaded[of][1], eps, model.eval(), lent)
    peers.print_table([{"model": name} | each for name, each in rows.items()])
    record = {"n": args.n, "models": rows, "versions": peers.versions([])}
    peers.write_json(args.json, record)


if __name__ == "__main__":
    main()
