"""How right, and how honestly confident, is a classifier under attack? The whole job on digits.

Trains a small network on scikit-learn's digits (8 x 8 images, no download) twice, plainly and with
AT+IAT, attacks both in six ways, prints a table and draws two pictures into the folder
quickstart-results. Under a minute on a CPU.

    python examples/quickstart.py
"""

import argparse
import json
from functools import partial
from pathlib import Path

import matplotlib.pyplot as plt
import torch
from sklearn.datasets import load_digits
from torch import nn

from advcal import attacks, evaluation, plots, trainers

EPS = 0.1  # how far each pixel may be moved; pixels are in [0, 1]
Batches = list[tuple[torch.Tensor, torch.Tensor]]
RADII = [0, 0.025, 0.05, 0.075, 0.1, 0.15, 0.2]


def digits() -> tuple[Batches, Batches]:
    """Load the digits in random order: eight batches of 50 to train on, all others to test on."""
    data = load_digits()
    order = torch.randperm(len(data.target), generator=torch.Generator().manual_seed(0))
    images = torch.tensor(data.images / 16, dtype=torch.float32)[order]
    labels = torch.tensor(data.target)[order]
    train = list(zip(images[:400].split(50), labels[:400].split(50), strict=True))
    return train, [(images[400:], labels[400:])]


def trained(objective: trainers.Objective, batches: Batches) -> nn.Module:
    """Train a network to minimise what the objective computes from each batch."""
    torch.manual_seed(0)
    hidden = [nn.Linear(64, 256), nn.ReLU(), nn.Linear(256, 256), nn.ReLU()]
    model = nn.Sequential(nn.Flatten(), *hidden, nn.Linear(256, 10))
    trainers.fit(model, batches, objective, torch.optim.Adam(model.parameters(), lr=1e-3), n=40)
    return model


def main() -> None:
    """Train, attack, print the table, draw the pictures."""
    out = Path("quickstart-results")
    out.mkdir(exist_ok=True)
    train, test = digits()

    # Adversarial training (AT) trains on what PGD makes of each batch, IAT on what IAA makes of it.
    at = trainers.adversarial(partial(attacks.pgd, eps=EPS))
    iat = trainers.adversarial(partial(attacks.iaa, eps=EPS, random_start=True))
    ways_to_train = {"standard": trainers.standard(), "AT+IAT": trainers.mixed(at, iat)}
    models = {name: trained(objective, train) for name, objective in ways_to_train.items()}

    # PGD makes a network wrong and sure of it, IAA leaves it right and unsure.
    iaa = partial(attacks.iaa, eps=EPS)
    ways = {
        "none": None,
        "uniform noise": partial(attacks.uniform_noise, eps=EPS),
        "FGSM": partial(attacks.fgsm, eps=EPS),
        "PGD-10": partial(attacks.pgd, eps=EPS),
        "IAA": iaa,
        "IAA, as published": partial(iaa, variant="published"),
        "IAA, predicted label": partial(iaa, label="predicted"),
    }
    records = {}
    for name, model in models.items():
        for way, attack in ways.items():
            records[name, way] = evaluation.evaluate(model, test, attack)
    print(evaluation.table(records, columns=("model", "attack")))

    # Where does confidence leave accuracy?
    figure, axes = plt.subplots(2, 3, figsize=(8, 6.4), layout="constrained")
    for row, name in zip(axes, models, strict=True):
        for ax, way in zip(row, ["none", "PGD-10", "IAA"], strict=True):
            plots.reliability_diagram(records[name, way].bins, ax=ax, title=f"{name}, {way}")
    gaps = {f"{name}, {way}": record.mcs for (name, way), record in records.items()}
    figure.savefig(out / "quickstart-reliability.png", metadata={"Comment": json.dumps(gaps)})

    # How does that depend on the radius? Confidence minus accuracy (MCS) over the radii.
    kinds = {"uniform noise": attacks.uniform_noise, "PGD-10": attacks.pgd, "IAA": attacks.iaa}
    figure, axes = plt.subplots(1, 2, figsize=(7.2, 3.2), sharey=True, layout="constrained")
    curves = {}
    for ax, (name, model) in zip(axes, models.items(), strict=True):
        curves[name] = {
            kind: [evaluation.evaluate(model, test, partial(attack, eps=r)).mcs for r in RADII]
            for kind, attack in kinds.items()
        }
        plots.curves(RADII, curves[name], figures="MCS", axes=ax, title=name)
        ax.set(ylim=(-1, 1))
    figure.savefig(out / "quickstart-mcs.png", metadata={"Comment": json.dumps(curves)})
    print(f"Pictures: {out}/quickstart-reliability.png and {out}/quickstart-mcs.png")


if __name__ == "__main__":
    argparse.ArgumentParser(description=__doc__).parse_args()
    main()
