"""A thousand attacked digits against every certificate: how many pass it? None should.

In L2 the mean over noise is certified, of the softmax and of votes, and attacked with noise that
stays (`pgd`, `uca`, `oca`) and with fresh noise at each step (EOT); what was found is measured with
draws of its own. A violation is a class whose probability lies outside its bounds, or a label other
than the certified one, by more than four standard errors of that measurement. In L∞ there is no
noise, and a violation is one at all.

    OMP_NUM_THREADS=1 python tests/benchmarks/violations.py --json docs/benchmarks/violations.json
"""

import argparse
import itertools
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import peers
import torch
from against_certify import SIGMA, digits, network
from scipy import special
from torch import Tensor, nn

from advcal import attacks, certify, metrics
from advcal.certify._binomial import z_lower

PASSES = 16  # of the mean that is attacked


def seeded(seed: int) -> torch.Generator:
    """Make a generator."""
    return torch.Generator().manual_seed(seed)


def scores_of(logits: Tensor, *, votes: bool) -> Tensor:
    """Return what is averaged: the softmax, or a one for the predicted class."""
    if votes:
        return nn.functional.one_hot(logits.argmax(dim=1), logits.shape[1]).double()
    return logits.double().softmax(dim=1)


def attacked(
    model: nn.Module, inputs: Tensor, labels: Tensor, eps: float
) -> Iterator[tuple[str, Tensor]]:
    """Yield points of an L2 ball, by attacks on the mean over noise."""
    common: dict[str, Any] = {"eps": eps, "norm": "l2", "steps": 20, "bounds": (-9.0, 9.0)}
    average = partial(certify.smoothed, model, sigma=SIGMA, n=PASSES)
    predicted = average()(inputs).argmax(dim=1)
    yield "PGD", attacks.pgd(average(), inputs, labels, **common, generator=seeded(1))
    eot = average(generator=seeded(2))
    yield "PGD, EOT", attacks.pgd(eot, inputs, labels, **common, generator=seeded(3))
    yield "PGD, EOT, predicted", attacks.pgd(eot, inputs, predicted, **common, generator=seeded(4))
    yield "UCA", attacks.uca(average(), inputs, predicted, **common)
    yield "OCA", attacks.oca(average(), inputs, predicted, **common)


def measured(
    model: nn.Module, points: Tensor, n: int, *, votes: bool, generator: torch.Generator
) -> tuple[Tensor, Tensor]:
    """Return the mean over noise at some points, and its standard error."""
    total, squares = torch.zeros(()), torch.zeros(())
    with torch.no_grad():
        for _ in range(n):
            noise = torch.randn(points.shape, generator=generator)
            scores = scores_of(model(points + SIGMA * noise), votes=votes)
            total, squares = total + scores, squares + scores.square()
    mean = total / n
    return mean, ((squares / n - mean.square()).clamp_min(0) / n).sqrt() + 1 / n


def row(
    certificate: str,
    attack: str,
    eps: float,
    reach: certify.Reach,
    labels: Tensor,
    mean: Tensor,
    error: Tensor,
) -> dict[str, Any]:
    """Count violations, and say how close the attack came."""
    certain = certify.figures(reach, labels)
    outside = (mean + 4 * error < reach.lower) | (mean - 4 * error > reach.upper)
    two = mean.topk(2, dim=1).values
    clear = two[:, 0] - two[:, 1] > 8 * error.amax(dim=1)
    wrong = (reach.labels >= 0) & (mean.argmax(dim=1) != reach.labels) & clear
    low, high = (float(end.mean()) for end in reach.confidence)
    return {
        "certificate": certificate,
        "attack": attack,
        "eps": eps,
        "violations": int((outside.any(dim=1) | wrong).sum()),
        "of": len(labels),
        "accuracy": float(metrics.accuracy(mean, labels)),
        "certified accuracy": certain.accuracy_low,
        "confidence": float(mean.amax(dim=1).mean()),
        "certified confidence": [low, high],
        "ECE": float(metrics.ece(mean, labels)),
        "certified ECE": certain.ece_high,
        "Brier": float(metrics.brier(mean, labels)),
        "certified Brier": certain.brier_high,
    }


def in_l2(n: int, draws: int) -> Iterator[dict[str, Any]]:
    """Attack what smoothing certifies."""
    inputs, labels = digits()
    model = network(inputs[1000:], labels[1000:]).requires_grad_(False)
    inputs, labels = inputs[:n], labels[:n]
    for votes in (False, True):
        found = certify.certify(model, inputs, sigma=SIGMA, votes=votes, generator=seeded(0))
        # Votes have no gradient; a softmax that is sharp nearly votes.
        target = nn.Sequential(model, Sharp()) if votes else model
        for eps in (0.25, 0.5):
            name = "smoothing, votes" if votes else "smoothing, softmax"
            for attack, points in attacked(target, inputs, labels, eps):
                assert ((points - inputs).norm(dim=1) <= eps * (1 + 1e-5)).all()
                mean, error = measured(model, points, draws, votes=votes, generator=seeded(9))
                yield row(name, attack, eps, found.reach(eps), labels, mean, error)


class Sharp(nn.Module):
    """Logits at a low temperature."""

    def forward(self, logits: Tensor) -> Tensor:
        """Scale."""
        return 50 * logits


def in_linf(n: int) -> Iterator[dict[str, Any]]:
    """Attack what linear bounds and intervals certify."""
    inputs, labels = digits()
    model = network(inputs[1000:], labels[1000:]).requires_grad_(False)
    inputs, labels = inputs[:n], labels[:n]
    predicted = model(inputs).argmax(dim=1)
    ways = {
        "PGD": partial(attacks.pgd, steps=40, generator=seeded(0)),
        "UCA": partial(attacks.uca, steps=40),
        "OCA": partial(attacks.oca, steps=40),
        "UCA, random": partial(attacks.uca, steps=100, method="random_search", generator=seeded(1)),
    }
    for name, bounds in {"crown": certify.crown, "interval": certify.interval}.items():
        for eps in (0.03, 0.1):
            reach = bounds(model, inputs, eps=eps)
            for attack, way in ways.items():
                points = way(model, inputs, labels if attack == "PGD" else predicted, eps=eps)
                probs = model(points).double().softmax(dim=1)
                yield row(name, attack, eps, reach, labels, probs, torch.zeros_like(probs))


def main() -> None:
    """Attack, print and keep."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--n", type=int, default=1000, help="images (1000)")
    parser.add_argument("--draws", type=int, default=2000, help="draws to measure with (2000)")
    parser.add_argument("--json", type=Path, help="where to keep the figures")
    args = parser.parse_args()
    rows = []
    for each in itertools.chain(in_linf(args.n), in_l2(args.n, args.draws)):
        rows.append(each)
        print(*each.values(), flush=True)
    record = {"rows": rows, "violations": sum(each["violations"] for each in rows)}
    record["radii too large"] = too_large()
    print(summary(rows), record["radii too large"])
    peers.write_json(args.json, record | {"versions": peers.versions(["numpy", "scipy"])})


def too_large(n: int = 200_000, draws: int = 1000, alpha: float = 0.01) -> dict[str, float]:
    """Certify a linear model, whose radius is the distance, by votes, and count the failures."""
    rng = np.random.default_rng(0)
    distance = rng.uniform(-0.5, 3, n)  # in standard deviations of the noise
    votes = rng.binomial(draws, special.ndtr(distance))
    radius = z_lower(votes[:, None], np.full(n, draws), alpha)[:, 0]
    return {"alpha": alpha, "draws": draws, "of": n, "share": float((radius > distance).mean())}


def summary(rows: list[dict[str, Any]]) -> str:
    """Lay out the worst of all attacks on each certificate as Markdown."""
    lines = ["| certificate | radius | passed it | accuracy | confidence | ECE | Brier score |"]
    lines.append("|:--|--:|--:|--:|--:|--:|--:|")
    for (name, eps), group in itertools.groupby(rows, lambda row: (row["certificate"], row["eps"])):
        own = list(group)
        low, high = own[0]["certified confidence"]
        moved = [row["confidence"] for row in own]
        cells = [name, f"{eps:g}"]
        cells.append(f"{sum(r['violations'] for r in own)} of {sum(r['of'] for r in own):,}")
        cells.append(
            f"{own[0]['certified accuracy']:.3f} ≤ {min(row['accuracy'] for row in own):.3f}"
        )
        cells.append(f"{low:.3f} ≤ {min(moved):.3f} to {max(moved):.3f} ≤ {high:.3f}")
        for figure in ("ECE", "Brier"):
            worst = max(row[figure] for row in own)
            cells.append(f"{worst:.3f} ≤ {own[0][f'certified {figure}']:.3f}")
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


if __name__ == "__main__":
    main()
