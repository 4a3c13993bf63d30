"""Linear bounds of small networks side by side: `certify.crown` and `interval`, and auto_LiRPA.

Prints for each network, radius and method how far our least margins lie above auto_LiRPA's, and how
far below the least that random corners of the ball reach. The release on the package index does not
import beside a current torch; take version 0.7.1 or later from the repository:

    git clone https://github.com/Verified-Intelligence/auto_LiRPA
    python -m pip install appdirs pyyaml ninja graphviz sortedcontainers packaging
    PYTHONPATH=auto_LiRPA python tests/benchmarks/against_auto_lirpa.py \
        --json docs/benchmarks/auto_lirpa.json
"""

import argparse
import warnings
from collections.abc import Iterator
from pathlib import Path

import peers
import torch
from torch import Tensor, nn

from advcal.certify._affine import affine_maps
from advcal.certify._linf import _pairs
from advcal.certify._relax import Box, crown_margins, interval_margins

METHODS = {"CROWN": crown_margins, "IBP": interval_margins}


def networks() -> Iterator[tuple[str, nn.Sequential, tuple[int, ...]]]:
    """Make networks with random weights, and say of which inputs."""
    torch.manual_seed(0)
    wide = [nn.Linear(16, 24), nn.ReLU(), nn.Linear(24, 20), nn.ReLU(), nn.Linear(20, 5)]
    yield "two hidden layers", nn.Sequential(*wide), (16,)
    deep = [layer for _ in range(4) for layer in (nn.Linear(16, 16), nn.ReLU())]
    yield "four hidden layers", nn.Sequential(*deep, nn.Linear(16, 4)), (16,)
    norm = nn.BatchNorm2d(4)
    norm.running_mean.normal_()  # type: ignore[union-attr]
    norm.running_var.uniform_(0.5, 2)  # type: ignore[union-attr]
    first = [nn.Conv2d(2, 4, 3, padding=1), norm, nn.ReLU(), nn.AvgPool2d(2)]
    rest = [nn.Conv2d(4, 6, 3), nn.ReLU(), nn.Flatten(), nn.Linear(24, 5)]
    yield "convolutions", nn.Sequential(*first, *rest), (2, 8, 8)


def theirs(model: nn.Module, inputs: Tensor, ends: Box, rows: Tensor, method: str) -> Tensor:
    """Bound `rows @ logits` from below by auto_LiRPA."""
    from auto_LiRPA import BoundedModule, BoundedTensor, PerturbationLpNorm

    bounded = BoundedModule(
        model, inputs[:1], bound_opts={"conv_mode": "matrix", "relu": "adaptive"}, device="cpu"
    )
    ball = PerturbationLpNorm(norm=float("inf"), x_L=ends.low, x_U=ends.high)
    matrix = rows[None].expand(len(inputs), -1, -1)
    found, _ = bounded.compute_bounds(
        x=(BoundedTensor(inputs, ball),), C=matrix, method=method, bound_upper=False
    )
    least: Tensor = found.detach()
    return least


def compare(name: str, model: nn.Sequential, shape: tuple[int, ...]) -> list[dict[str, object]]:
    """Bound the margins of a few inputs at three radii."""
    inputs, found = torch.rand(6, *shape), []
    maps = affine_maps(model, inputs, ())
    rows, _ = _pairs(len(maps[-1].offset), inputs.device)
    for eps in (0.01, 0.05, 0.2):
        ends = Box((inputs - eps).clamp(0, 1), (inputs + eps).clamp(0, 1))
        corners = torch.full((len(inputs), len(rows)), torch.inf)
        for _ in range(500):
            points = torch.where(torch.rand_like(inputs) < 0.5, *ends)
            corners = torch.minimum(corners, model(points).detach() @ rows.T)
        for method, margins in METHODS.items():
            ours = margins(Box(*(end.flatten(1) for end in ends)), maps, rows)
            above = ours - theirs(model, inputs, ends, rows, method)
            found.append(
                {
                    "network": name,
                    "eps": eps,
                    "method": method,
                    "ours - auto_LiRPA, least": float(above.min()),
                    "greatest": float(above.max()),
                    "corners - ours, least": float((corners - ours).min()),
                }
            )
    return found


def main() -> None:
    """Compare, print and keep."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--json", type=Path, help="where to keep the figures")
    args = parser.parse_args()
    if not peers.installed("auto_LiRPA"):
        return
    warnings.simplefilter("ignore")
    torch.set_default_dtype(torch.float64)
    found = [row for name, model, shape in networks() for row in compare(name, model.eval(), shape)]
    peers.print_table([{k: str(v) for k, v in row.items()} for row in found])
    import auto_LiRPA

    versions = peers.versions([]) | {"auto_LiRPA": auto_LiRPA.__version__}
    peers.write_json(args.json, {"rows": found, "versions": versions})


if __name__ == "__main__":
    main()
