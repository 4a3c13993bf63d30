"""What 8-bit images leave of every attack: of its successes, of its distances, of its confidence.

Each attack runs as it is, and with `levels=256`; that result is written as uint8, as a user saves
it, read again, and judged. Beside it stands what naive rounding leaves of the result as it is: to
the nearest image, or, if that is outside the ball, towards the input. All images are right at
first. A radius in linf of no whole number of levels counts as the whole number below it, since no
image is between the two: the attack as it is runs at both.

Nearest images are measured against the least that 8 bits allow, too: in linf and l1 lengths are
whole numbers of levels, and in l2 the nearest image is taken beyond the tangent plane of the
boundary, at the point that the attack as it is has found.

    python tests/benchmarks/eight_bit.py --weights FOLDER --cifar10 PATH \
        --json docs/benchmarks/eight_bit.json

FOLDER holds what attackbench_networks.py has trained. What the JSON has is not run again.
"""

import argparse
import json
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import against_attackbench
import peers
import torch
from torch import Tensor, nn

from advcal import attacks

ORDERS = {"linf": torch.inf, "l2": 2.0, "l1": 1.0, "l0": 0.0}
# Radii of each network, in levels; those in linf are no whole number, but for the first.
RADII = {
    "robust": {"linf": (8.0, 7.6), "l2": 128.0, "l1": 3000.0},
    "vit": {"linf": (1.0, 1.6), "l2": 25.0, "l1": 500.0},
}
IMAGES = {"robust": 128, "vit": 64}  # at most; half of them for attacks on confidence
Record = dict[str, Any]


@dataclass(frozen=True, eq=False)
class Case:
    """A network with images that it gets right.

    Attributes:
        model: The network.
        inputs: The images.
        labels: Their labels.
        radii: The radii to attack them at, in levels, by norm.
    """

    model: nn.Module
    inputs: Tensor
    labels: Tensor
    radii: dict[str, Any]

    def first(self, n: int) -> "Case":
        """Keep n images, spread over all."""
        rows = torch.linspace(0, len(self.inputs) - 1, min(n, len(self.inputs))).round().long()
        return Case(self.model, self.inputs[rows], self.labels[rows], self.radii)

    def run(self, attack: Callable[..., Tensor], **options: Any) -> Tensor:
        """Attack, with the same draws each time."""
        torch.manual_seed(0)
        return attack(self.model, self.inputs, self.labels, **options).detach()

    def said(self, points: Tensor) -> tuple[Tensor, Tensor]:
        """Return the confidence and the prediction."""
        with torch.no_grad():
            confidence, prediction = self.model(points).softmax(dim=1).max(dim=1)
        return confidence, prediction

    def fooled(self, points: Tensor) -> Tensor:
        """Tell which are misclassified."""
        return self.said(points)[1] != self.labels

    def lengths(self, points: Tensor, norm: str) -> Tensor:
        """Measure how far points are from the images, in levels, whole ones exactly."""
        offset = (points.double() - self.inputs.double()).flatten(1) * 255
        offset = torch.where((offset - offset.round()).abs() < 1e-4, offset.round(), offset)
        length: Tensor = torch.linalg.vector_norm(offset, ORDERS[norm], dim=1)
        return length


def saved(points: Tensor) -> Tensor:
    """Write images as 8 bits and read them again."""
    return (points * 255).round().to(torch.uint8).float() / 255


def naive(case: Case, points: Tensor, norm: str | None = None, radius: float = 0.0) -> Tensor:
    """Round to the nearest image, or towards the input if that is outside the ball."""
    nearest = saved(points)
    if norm is None:
        return nearest
    inside = case.lengths(nearest, norm) <= radius + 1e-4
    first = (case.inputs * 255).round()
    moved = (points - case.inputs) * 255
    inward = (first + (moved + 1e-3 * moved.sign()).trunc()) / 255
    return torch.where(inside[:, None, None, None], nearest, inward)


# --- the attacks ---


def within(radii: dict[str, Any]) -> dict[str, tuple[str, float, Any]]:
    """List attacks within a radius: norm, radius in levels, attack."""
    rows: dict[str, tuple[str, float, Any]] = {}
    quick: dict[str, Any] = {
        "fgsm": attacks.fgsm,
        "pgd": partial(attacks.pgd, steps=10),
        "apgd": partial(attacks.apgd, steps=10),
        "pgd_conf": partial(attacks.pgd_conf, steps=10),
        "square": partial(attacks.square, steps=100),
        "autoattack": partial(attacks.autoattack, steps=10, queries=50),
    }
    for norm, given in radii.items():
        for radius in given if isinstance(given, tuple) else (given,):
            for name, attack in quick.items():
                rows[f"{name}, {norm}, {radius:g}"] = norm, radius, attack
    sparse = partial(attacks.apgd, steps=10, variant="sparse")
    rows[f"apgd, sparse, l1, {radii['l1']:g}"] = "l1", radii["l1"], sparse
    for radius in radii["linf"]:
        free = partial(attacks.n_fgsm, noise=1.0)
        rows[f"n_fgsm, linf, {radius:g}"] = "", radius, free
        rows[f"uniform_noise, linf, {radius:g}"] = "linf", radius, attacks.uniform_noise
    return rows


NEAREST: dict[str, tuple[str, Any]] = {
    "minimum_norm, l0": ("l0", partial(attacks.minimum_norm, norm="l0", steps=30)),
    "minimum_norm, l1": ("l1", partial(attacks.minimum_norm, norm="l1", steps=30)),
    "minimum_norm, l2": ("l2", partial(attacks.minimum_norm, norm="l2", steps=30)),
    "foot, l2": ("l2", partial(attacks.foot, steps=30)),
    "ddn, l2": ("l2", partial(attacks.ddn, steps=50)),
    "fmn, l2": ("l2", partial(attacks.fmn, norm="l2", steps=50)),
    "deepfool, l2": ("l2", partial(attacks.deepfool, norm="l2")),
    "cw_l2, l2": ("l2", partial(attacks.cw_l2, search_steps=3, steps=50, initial_c=0.1)),
    "hopskipjump, l2": ("l2", partial(attacks.hopskipjump, norm="l2", steps=300)),
    "minimum_norm, linf": ("linf", partial(attacks.minimum_norm, steps=30)),
    "fmn, linf": ("linf", partial(attacks.fmn, steps=50)),
    "deepfool, linf": ("linf", attacks.deepfool),
    "hopskipjump, linf": ("linf", partial(attacks.hopskipjump, steps=300)),
    "adv-lib ddn, l2": ("l2", "ddn"),
}


def moving(radii: dict[str, Any]) -> dict[str, tuple[str, float, Any]]:
    """List attacks on confidence: norm, radius in levels, attack."""
    uniform = torch.full((10,), 0.1, dtype=torch.float64)
    every: dict[str, Any] = {
        "iaa": attacks.iaa,
        "iaa, predicted": partial(attacks.iaa, label="predicted"),
        "uca": attacks.uca,
        "uca, random search": partial(attacks.uca, steps=100, method="random_search"),
        "oca": attacks.oca,
        "mma": attacks.mma,
        "rca": attacks.rca,
        "ace": attacks.ace,
        "generalised_ace": partial(attacks.generalised_ace, eta=-1.0, omega=uniform),
    }
    rows = {}
    for norm, given in radii.items():
        for i, radius in enumerate(given if isinstance(given, tuple) else (given,)):
            for name in every if norm == "linf" and i == 0 else ("uca", "oca", "iaa"):
                rows[f"{name}, {norm}, {radius:g}"] = norm, radius, every[name]
    return rows


# --- what is measured ---


def of_radius(case: Case, norm: str, radius: float, attack: Any) -> Record:
    """Count the successes of an attack within a radius."""
    options = {"norm": norm} if norm else {}
    most = float(int(radius)) if norm == "linf" else radius
    plain = case.run(attack, eps=radius / 255, **options)
    whole = plain if most == radius else case.run(attack, eps=most / 255, **options)
    found = case.run(attack, eps=radius / 255, levels=256, **options)
    held = saved(found)
    cut = naive(case, whole, norm or None, most)
    done, stay = case.fooled(whole), case.fooled(held)
    return {
        "n": len(done),
        "unrounded": int(case.fooled(plain).sum()),
        "unrounded, whole levels": int(done.sum()),
        "levels=256": int(stay.sum()),
        "stay": int((done & stay).sum()),
        "stay, naive": int((done & case.fooled(cut)).sum()),
        "lost, but there is one": missed(case, done & ~stay, norm, most),
        "in the ball": not norm or bool((case.lengths(held, norm) <= most + 1e-4).all()),
        "on the grid": torch.equal(held, found),
    }


def missed(case: Case, lost: Tensor, norm: str, radius: float) -> int:
    """Count lost successes where another attack knows of an image in the ball."""
    if not norm or not lost.any():
        return 0
    part = Case(case.model, case.inputs[lost], case.labels[lost], case.radii)
    found = part.run(attacks.minimum_norm, norm=norm, levels=256)
    return int((part.fooled(found) & (part.lengths(found, norm) <= radius + 1e-4)).sum())


def of_nearest(case: Case, norm: str, attack: Any) -> Record:
    """Measure how much further away the nearest image is."""
    if attack == "ddn":
        plain = case.run(against_attackbench.library("ddn", steps=50, levels=None))
        found = case.run(against_attackbench.library("ddn", steps=50, levels=256))
    else:
        plain, found = case.run(attack), case.run(attack, levels=256)
    held = saved(found)
    done, stay = case.fooled(plain), case.fooled(held)
    first = case.lengths(plain, norm)
    ratio = (case.lengths(held, norm) / first)[done & stay]
    least = (floors(case, plain, norm) / first)[done & stay]
    return {
        "n": len(done),
        "unrounded": int(done.sum()),
        "levels=256": int(stay.sum()),
        "stay": int((done & stay).sum()),
        "stay, naive": int((done & case.fooled(naive(case, plain))).sum()),
        "median distance, levels": float(first[done].median()),
        "ratio, median": float(ratio.median()),
        "ratio, mean": float(ratio.mean()),
        "least, median": float(least.median()),
        "least, mean": float(least.mean()),
        "within 5 %": int((ratio <= 1.05).sum()),
        "could be within 5 %": int((least <= 1.05).sum()),
        "on the grid": bool((held - found).abs().max() < 1e-6),
    }


def floors(case: Case, points: Tensor, norm: str) -> Tensor:
    """Bound from below how far the nearest image is, in levels, if no nearer point is adversarial.

    In l2 if the boundary is its tangent plane, whose normal's multiples are rounded.
    """
    length = case.lengths(points, norm)
    if norm != "l2":
        return (length - 1e-4).ceil()
    normal = normals(case, points).double()
    start = (case.inputs.double() * 255).flatten(1)
    offset = points.double().flatten(1) * 255 - start
    wanted = (offset * normal).sum(dim=1)
    low, high = torch.zeros_like(length), 1 / normal.abs().amax(dim=1) + 2 * length
    size = torch.full_like(length, torch.inf)
    for _ in range(40):  # both what a multiple reaches and its length grow with it
        reach = (low + high) / 2
        moves = (start + (reach[:, None] * normal)).round().clamp(0, 255) - start
        there = (moves * normal).sum(dim=1) >= wanted * (1 - 1e-9)
        size = torch.where(there, torch.linalg.vector_norm(moves, dim=1), size)
        low, high = torch.where(there, low, reach), torch.where(there, reach, high)
    return size


def normals(case: Case, points: Tensor) -> Tensor:
    """Return the unit gradients of the lead of the best other class, shape `(n, d)`."""
    points = points.clone().requires_grad_()
    logits = case.model(points)
    label = nn.functional.one_hot(case.labels, logits.shape[1]).bool()
    lead = logits.masked_fill(label, -torch.inf).amax(dim=1) - logits[label]
    (gradient,) = torch.autograd.grad(lead.sum(), points)
    return nn.functional.normalize(gradient.flatten(1), dim=1)


def of_confidence(case: Case, norm: str, radius: float, attack: Any) -> Record:
    """Measure the mean confidence that an attack reaches at unchanged predictions."""
    most = float(int(radius)) if norm == "linf" else radius
    plain = case.run(attack, eps=most / 255, norm=norm)
    found = case.run(attack, eps=radius / 255, norm=norm, levels=256)
    held = saved(found)
    seen = {
        "clean": case.inputs,
        "unrounded": plain,
        "levels=256": held,
        "naive": naive(case, plain, norm, most),
    }
    record: Record = {"n": len(plain)}
    for name, points in seen.items():
        confidence, prediction = case.said(points)
        record[name] = float(confidence.mean())
        if name != "clean":
            record[f"kept, {name}"] = int((prediction == case.labels).sum())
    inside = bool((case.lengths(held, norm) <= most + 1e-4).all())
    return record | {"in the ball": inside, "on the grid": torch.equal(held, found)}


def exhausted() -> dict[str, Record]:
    """Compare with the nearest of all images there are, for inputs of five values in 16 levels."""
    top = 15
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(5, 16), nn.Tanh(), nn.Linear(16, 3))
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.mul_(3)
        inputs = torch.randint(0, top + 1, (64, 5)).float() / top
        labels = model(inputs).argmax(dim=1)
        every = torch.cartesian_prod(*[torch.arange(top + 1.0)] * 5) / top
        said = torch.cat([model(part).argmax(dim=1) for part in every.split(2**16)])
    found = {}
    for norm, order in ORDERS.items():
        options = {"norm": norm, "steps": 50}
        plain = attacks.minimum_norm(model, inputs, labels, **options)
        held = attacks.minimum_norm(model, inputs, labels, levels=top + 1, **options)
        assert not peers.right(model, held, labels).any()
        least = [
            torch.linalg.vector_norm(every[said != label] - image, order, dim=1).min()
            for image, label in zip(inputs, labels, strict=True)
        ]
        best = torch.stack(least)
        lengths = [torch.linalg.vector_norm(each - inputs, order, dim=1) for each in (plain, held)]
        ratio, cost = lengths[1] / best, best / lengths[0]
        found[norm] = {
            "n": len(inputs),
            "nearest of all": int((ratio < 1 + 1e-4).sum()),
            "found / nearest of all, mean": float(ratio.mean()),
            "nearest of all / unrounded, mean": float(cost.mean()),
        }
    return found


def main() -> None:
    """Measure what is missing, print and keep."""
    parser = against_attackbench.parser(__doc__)
    parser.add_argument("--networks", nargs="+", choices=RADII, default=list(RADII))
    parser.add_argument("--only", default="", help="a part of the names of the attacks to run")
    parser.add_argument("--json", type=Path, required=True, help="where the figures are kept")
    args = parser.parse_args()
    peers.stub_missing()
    record = json.loads(args.json.read_text()) if args.json.exists() else {}
    for network in args.networks:
        case = right_at_first(network, IMAGES[network], args)
        half = case.first(IMAGES[network] // 2)
        kinds: dict[str, dict[str, Callable[[], Record]]] = {
            "nearest": {
                name: partial(of_nearest, case, norm, attack)
                for name, (norm, attack) in NEAREST.items()
            },
            "within": {
                name: partial(of_radius, case, norm, radius, attack)
                for name, (norm, radius, attack) in within(case.radii).items()
            },
            "confidence": {
                name: partial(of_confidence, half, norm, radius, attack)
                for name, (norm, radius, attack) in moving(case.radii).items()
            },
        }
        for kind, rows in kinds.items():
            kept = record.setdefault(network, {}).setdefault(kind, {})
            for name, measure in rows.items():
                if name in kept or args.only not in name:
                    continue
                kept[name] = measure()
                print(network, name, kept[name], flush=True)
                peers.write_json(args.json, record)
    record["all images of five values"] = exhausted()
    record["versions"] = peers.versions(["adv-lib"])
    peers.write_json(args.json, record)
    if not args.only and set(IMAGES) <= set(record):
        for table in TABLES:
            print("\n" + "\n".join(table(record)))


# --- tables ---


def markdown(headings: list[str], rows: list[list[str]]) -> list[str]:
    """Lay out a table."""
    return [
        f"| {' | '.join(headings)} |",
        "|:--|" + "--:|" * (len(headings) - 1),
        *(f"| {' | '.join(row)} |" for row in rows),
    ]


def of_all_nearest(record: Record) -> list[str]:
    """Tabulate the nearest images."""
    rows = []
    for network in RADII:
        for name in NEAREST:
            found = record[network]["nearest"][name]
            counts = [found[key] for key in ("unrounded", "stay", "stay, naive")]
            ratios = [
                f"{found[f'{of}, median']:.3f}, {found[f'{of}, mean']:.3f}"
                for of in ("ratio", "least")
            ]
            close = [found["within 5 %"], found["could be within 5 %"]]
            rows.append([f"{name} ({network})", *map(str, counts), *ratios, *map(str, close)])
    headings = ["attack", "found", "stay", "naive", "ratio", "least", "within 5 %", "could be"]
    return markdown(headings, rows)


def of_all_within(record: Record) -> list[str]:
    """Tabulate successes within a radius, those of all radii of a norm together."""
    keys = ("n", "unrounded, whole levels", "stay", "lost, but there is one", "stay, naive")
    sums: dict[str, list[int]] = {}
    for network in RADII:
        for name, found in record[network]["within"].items():
            cells = sums.setdefault(f"{name.rpartition(', ')[0]} ({network})", [0] * len(keys))
            for i, key in enumerate(keys):
                cells[i] += found[key]
    headings = ["attack", "images", "successes", "stay", "missed", "naive"]
    return markdown(headings, [[name, *map(str, cells)] for name, cells in sums.items()])


def of_all_confidence(record: Record) -> list[str]:
    """Tabulate mean confidences, at the first radius of each norm."""
    rows = []
    for network, radii in RADII.items():
        for name, found in record[network]["confidence"].items():
            name, _, radius = name.rpartition(", ")
            if radius == f"{radii['linf'][1]:g}":
                continue
            cells = [f"{found[key]:.3f}" for key in ("clean", "unrounded", "levels=256", "naive")]
            lost = [found["n"] - found[f"kept, {key}"] for key in ("levels=256", "naive")]
            rows.append([f"{name} ({network})", *cells, f"{lost[0]}, {lost[1]}"])
    return markdown(["attack", "clean", "unrounded", "levels=256", "naive", "lost"], rows)


def of_all_images(record: Record) -> list[str]:
    """Tabulate what was compared with the nearest of all images."""
    rows = [
        [norm, *(f"{value:.3f}" if isinstance(value, float) else str(value) for value in row)]
        for norm, found in record["all images of five values"].items()
        for row in [found.values()]
    ]
    return markdown(["norm", *next(iter(record["all images of five values"].values()))], rows)


TABLES = (of_all_nearest, of_all_within, of_all_confidence, of_all_images)


def right_at_first(network: str, n: int, args: argparse.Namespace) -> Case:
    """Load a network and images of all classes that it gets right."""
    many = argparse.Namespace(weights=args.weights, cifar10=args.cifar10, n=3 * n)
    model, (inputs, labels) = against_attackbench.load(network, many)
    right = peers.right(model, inputs, labels)
    return Case(model, inputs[right], labels[right], RADII[network]).first(n)


if __name__ == "__main__":
    main()
