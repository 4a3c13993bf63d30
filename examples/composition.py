"""Can a robust network be calibrated, clean and under attack? Soft labels on adversarial training.

What the three papers propose, put together: adversarial training (PGD-AT), AT+IAT and TRADES whose
soft labels come by level of robustness (AR-AdaLS) and are steered by validation images *under
attack*, those of AT+IAT's inverse part by clean ones; the same with one level (AdaLS); AT+IAT
fine-tuned on attacks on confidence (CAAT); and after training, a temperature for each level, the
level being that of the image as it comes, attacked or not.

The networks that they are compared with are those of examples/defenses.py, in the same folder: the
plain ones are where all of these start. Figures are of test images under the attacks of that
script, and the width of the confidence envelope: by how much UCA and OCA move the confidence
between them. One JSON file and one file of weights per recipe and seed; what is there is not made
again, and the script may be stopped at any moment and started again.

    python examples/composition.py --data PATH --bfloat16 --out results/
"""

import argparse
import functools
import itertools
from collections.abc import Callable, Iterator
from typing import Any

import adaptive_smoothing
import cifar10_data
import common
import defenses
import models
import torch
import training
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from advcal import attacks, calibrators, evaluation, losses, metrics, trainers

Batches = cifar10_data.Batches
Objective = Callable[..., Tensor]

BASELINES = ("PGD-AT", "AT+IAT", "TRADES")
RECIPES = (
    *(f"{base}, {labels}" for base in BASELINES for labels in ("AdaLS", "AR-AdaLS")),
    "AT+IAT, CAAT",
)
BETA = 6.0  # of TRADES
RANK_EVERY = 4  # epochs


class Attacked:
    """Minibatches whose inputs are attacked anew, as the model stands, in each pass."""

    def __init__(self, model: nn.Module, batches: Batches, attack: Objective) -> None:
        self.model, self.batches, self.attack = model, batches, attack

    def __len__(self) -> int:
        return len(self.batches)

    def __iter__(self) -> Iterator[tuple[Tensor, ...]]:
        for inputs, labels, *rest in self.batches:
            yield self.attack(self.model, inputs, labels), labels, *rest


def main() -> None:
    """Train what is not trained yet, attack it, print the table, write the JSON file."""
    args = parse()
    common.make_folder(args.out)
    splits = adaptive_smoothing.split(cifar10_data.load_or_exit(args.data, args.device), args)
    for seed, name in itertools.product(args.seeds, args.only):
        path = args.out / f"{stem(args.model, name, seed)}.json"
        if "curve" not in common.read_json(path):
            run = train(name, seed, splits, args)
            record = {"settings": settings(args) | {"recipe": name, "seed": seed}}
            common.write_json(path, record | {"curve": run.curve, "seconds": run.seconds})
    if args.train_only:
        return
    path = args.out / "composition.json"
    study: dict[str, Any] = {"settings": settings(args), "runs": {}} | common.read_json(path)
    chosen = torch.linspace(0, len(splits.test[1]) - 1, args.n_attacked).round().long().unique()
    few = splits.test[0][chosen], splits.test[1][chosen]
    for seed, name in itertools.product(args.seeds, (*BASELINES, *args.only)):
        if (key := f"{name} / {seed}") not in study["runs"]:
            study["runs"][key] = measure(network(name, seed, args), splits, few, args)
            common.write_json(path, study)
            print(f"{key}: {study['runs'][key]['plain']}", flush=True)
    print(table(study["runs"]))


def parse() -> argparse.Namespace:
    """Read the command line."""
    parser = common.parser(__doc__)
    parser.add_argument("--model", choices=models.NAMES, default="fastnet", help="(fastnet)")
    parser.add_argument("--only", nargs="*", choices=RECIPES, default=RECIPES, help="recipes (all)")
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1, 2], help="(0 1 2)")
    parser.add_argument("--train-only", action="store_true", help="train and measure nothing yet")
    parser.add_argument("--eps", type=float, default=8 / 255, help="radius of all attacks (8/255)")
    parser.add_argument("--train-steps", type=int, default=3, help="steps in training (3)")
    parser.add_argument("--epochs", type=int, default=12, help="epochs, from plain weights on (12)")
    parser.add_argument("--step-size", type=float, default=0.2, help="of the soft labels (0.2)")
    parser.add_argument("--n-levels", type=int, default=10, help="levels of robustness (10)")
    parser.add_argument("--n-train", type=int, default=45_000, help="images to train on (45000)")
    parser.add_argument("--n-validation", type=int, default=5_000, help="to steer by (5000)")
    parser.add_argument("--n-test", type=int, default=10_000, help="test images (10000)")
    parser.add_argument("--n-attacked", type=int, default=1_000, help="of these to attack (1000)")
    args = parser.parse_args()
    common.check_ranges(
        parser,
        args,
        eps=(1e-4, 1),
        train_steps=(1, 1000),
        epochs=(1, 1000),
        step_size=(1e-6, 1),
        n_levels=(2, 100),
        n_validation=(100, 25_000),
        n_train=(100, 50_000 - args.n_validation),
        n_test=(100, 10_000),
        n_attacked=(10, args.n_test),
    )
    return args


def settings(args: argparse.Namespace) -> dict[str, object]:
    """Collect what a reader needs to run this again."""
    chosen = {key: value for key, value in vars(args).items() if key not in ("data", "out")}
    return {
        **chosen,
        "ranks": f"linear distances in the network in training, every {RANK_EVERY} epochs",
        **common.date_and_versions(),
    }


def stem(model: str, name: str, seed: int) -> str:
    """Name the files of a network, without their suffix."""
    if name in defenses.defenses(1.0, 1, torch.Generator()):
        return defenses.stem(model, name, seed)
    return f"smoothing-{model}-{name.replace(', ', '-')}-{seed}"


def network(name: str, seed: int, args: argparse.Namespace) -> nn.Module:
    """Read a network that is trained already."""
    return training.load(args.out / f"{stem(args.model, name, seed)}.pt", args.device)


# --- training --------------------------------------------------------------------------------


def train(
    name: str, seed: int, splits: adaptive_smoothing.Splits, args: argparse.Namespace
) -> training.Run:
    """Train one network from the plain weights of its seed, or from AT+IAT's for CAAT."""
    base, labels = name.split(", ")
    torch.manual_seed(seed)
    model = training.network(args.model, splits.train[0])
    start = base if labels == "CAAT" else adaptive_smoothing.PLAIN
    model.load_state_dict(network(start, seed, args).state_dict())
    generator = torch.Generator().manual_seed(seed)
    fit = functools.partial(
        training.train_fast,
        f"{name}, seed {seed}",
        model,
        Batches(*splits.train, batch_size=256, shuffle=True, seed=seed, augment=True, indices=True),
        n=args.epochs,
        peak=defenses.PEAK_WARM,
        path=args.out / stem(args.model, name, seed),
        bfloat16=args.bfloat16,
    )
    if labels == "CAAT":
        return fit(fine_tuning(generator, args), state={"starts": generator})
    n_levels = 1 if labels == "AdaLS" else args.n_levels
    steering = Steering(model, splits, n_levels, args)
    return fit(
        objective_of(base, steering, generator, args),
        watch=steering.update,
        state=steering.state | {"starts": generator},
    )


class Steering:
    """Soft labels of a network in training, steered by validation images, attacked and clean."""

    def __init__(
        self,
        model: nn.Module,
        splits: adaptive_smoothing.Splits,
        n_levels: int,
        args: argparse.Namespace,
    ) -> None:
        self.model, self.splits = model, splits
        self.n_levels, self.bfloat16 = n_levels, args.bfloat16
        pgd = functools.partial(attacks.pgd, eps=args.eps, steps=10)
        attack = attacks.autocast(pgd) if args.bfloat16 else pgd
        clean = Batches(*splits.validation, batch_size=500, indices=True)
        self.attacked = smoothing_of(Attacked(model, clean, attack), n_levels, splits, args)
        self.clean = smoothing_of(clean, n_levels, splits, args)
        self.passed = {"epochs": 0}

    @property
    def state(self) -> dict[str, Any]:
        """What belongs into a checkpoint."""
        return {"under attack": self.attacked, "clean": self.clean, "passed": self.passed}

    def update(self) -> dict[str, float]:
        """Steer after an epoch, every few with new ranks; return the gaps and the lowest label."""
        if self.n_levels > 1 and self.passed["epochs"] % RANK_EVERY == 0:
            of_training, of_validation = (
                adaptive_smoothing.measured(self.model, part, "linear", self.bfloat16)
                for part in (self.splits.train, self.splits.validation)
            )
            for smoothing in (self.attacked, self.clean):
                smoothing.rank_by(of_training, of_validation)
        self.passed["epochs"] += 1
        point: dict[str, float] = {}
        for kind, smoothing in {"attacked": self.attacked, "clean": self.clean}.items():
            gaps, probs = smoothing.update(self.model), smoothing.state.label_probs
            point |= {f"{kind} gap": float(gaps.mean()), f"{kind} label": float(probs.min())}
        return point


def objective_of(
    base: str, steering: Steering, generator: torch.Generator, args: argparse.Namespace
) -> Objective:
    """Make the objective of a baseline with soft labels in the place of hard ones."""
    if base == "TRADES":
        return soft_trades(steering.attacked, attack_of("KL", generator, args))
    pgd = attack_of("PGD", generator, args)
    at = softly(steering.attacked, lambda loss: trainers.adversarial(pgd, loss=loss))
    if base == "PGD-AT":
        return at
    iaa = attack_of("IAA", generator, args)
    iat = softly(steering.clean, lambda loss: trainers.adversarial(iaa, loss=loss))
    return trainers.mixed(at, iat)


def attack_of(kind: str, generator: torch.Generator, args: argparse.Namespace) -> Objective:
    """Make the attack that is trained with."""
    common: dict[str, Any] = {"eps": args.eps, "steps": args.train_steps, "generator": generator}
    if kind == "IAA":
        return functools.partial(attacks.iaa, random_start=True, **common)
    loss = "kl" if kind == "KL" else "cross_entropy"
    return functools.partial(attacks.pgd, loss=loss, **common)


def smoothing_of(
    validation: Any, n_levels: int, splits: adaptive_smoothing.Splits, args: argparse.Namespace
) -> trainers.AdaptiveSmoothing:
    """Make soft labels that a validation split steers, attacked or not."""
    return trainers.adaptive_smoothing(
        Batches(*splits.train, batch_size=500, indices=True),
        validation,
        10,
        n_levels=n_levels,
        step_size=args.step_size,
        autocast=torch.bfloat16 if args.bfloat16 else None,
        channels_last=True,
    )


def targets(smoothing: trainers.AdaptiveSmoothing, batch: tuple[Tensor, ...]) -> Tensor:
    """Return the soft labels of a batch."""
    _, labels, rows = batch
    levels = smoothing.levels[rows] if smoothing.state.n_levels > 1 else None
    return smoothing.state.targets(labels, levels)


def softly(
    smoothing: trainers.AdaptiveSmoothing, make: Callable[[Objective], Objective]
) -> Objective:
    """Give an objective soft labels; its attack goes on to see the hard ones."""

    def objective(model: nn.Module, batch: tuple[Tensor, ...]) -> Tensor:
        soft = targets(smoothing, batch)
        return make(lambda logits, _: cross_entropy(logits, soft))(model, batch[:2])

    return objective


def soft_trades(smoothing: trainers.AdaptiveSmoothing, attack: Objective) -> Objective:
    """Make TRADES with soft labels on the clean side."""

    def objective(model: nn.Module, batch: tuple[Tensor, ...]) -> Tensor:
        inputs, labels, _ = batch
        attacked = attack(model, inputs, labels)
        logits = model(inputs)
        loss = losses.trades(logits, labels, attacked=model(attacked), beta=BETA)
        soft = cross_entropy(logits, targets(smoothing, batch))
        return loss - cross_entropy(logits, labels) + soft

    return objective


def fine_tuning(generator: torch.Generator, args: argparse.Namespace) -> Objective:
    """Mix adversarial training, which keeps the robustness, with attacks on confidence (CAAT)."""
    common: dict[str, Any] = {"eps": args.eps, "steps": args.train_steps, "generator": generator}
    under, over = (
        trainers.adversarial(functools.partial(attack, random_start=True, **common))
        for attack in (attacks.uca, attacks.oca)
    )
    at = trainers.adversarial(attack_of("PGD", generator, args))
    return trainers.mixed(at, under, over, weights=[0.5, 0.25, 0.25])


# --- figures ---------------------------------------------------------------------------------


def measure(
    model: nn.Module,
    splits: adaptive_smoothing.Splits,
    few: tuple[Tensor, Tensor],
    args: argparse.Namespace,
) -> dict[str, Any]:
    """Attack a network; take its figures as it is, with one temperature, and with one by level.

    Temperatures are fitted to validation images, clean and under PGD alike. Attacks are crafted on
    the network as it is: a temperature changes no prediction, but an attacker may know it.
    """
    pgd = functools.partial(attacks.pgd, eps=args.eps, steps=10)
    seen = [seen_by(model, splits.validation, each, args) for each in (None, pgd)]
    logits, labels, distances = (torch.cat(parts) for parts in zip(*seen, strict=True))
    fitted = calibrators.fit_temperature(logits, labels)
    by_level = TemperatureByLevel(logits, labels, distances, args.n_levels)
    found: dict[str, dict[str, Any]] = {"plain": {}, "temperature": {}, "by level": {}}
    for name, attack in defenses.attackers(args.eps).items():
        logits, labels, distances = seen_by(model, few, attack, args)
        for kind, probs in {
            "plain": logits.double().softmax(dim=1),
            "temperature": fitted(logits),
            "by level": by_level(logits, distances),
        }.items():
            found[kind][name] = {
                "accuracy": float(metrics.accuracy(probs, labels)),
                "confidence": float(metrics.confidence(probs, labels)),
                "ece": float(metrics.ece(probs, labels)),
                "mcs": float(metrics.mcs(probs, labels)),
                "nll": float(metrics.nll(probs, labels)),
            }
    clean = evaluation.evaluate(model, Batches(*splits.test, batch_size=500), channels_last=True)
    return {"all": {"accuracy": clean.accuracy, "ece": clean.ece, "mcs": clean.mcs}, **found}


def seen_by(
    model: nn.Module,
    part: tuple[Tensor, Tensor],
    attack: Objective | None,
    args: argparse.Namespace,
) -> tuple[Tensor, Tensor, Tensor]:
    """Return logits, labels and distances to the boundary of images as they come, attacked."""
    if attack is not None and args.bfloat16:
        attack = attacks.autocast(attack)
    logits, distances = [], []
    for inputs, labels in Batches(*part, batch_size=250):
        inputs = inputs.contiguous(memory_format=torch.channels_last)
        if attack is not None:
            inputs = attack(model, inputs, labels)
        with torch.no_grad():
            logits.append(model(inputs))
        distances.append(attacks.adversarial_distance(model, inputs, attack="linear"))
    return torch.cat(logits), part[1], torch.cat(distances)


class TemperatureByLevel:
    """A temperature for each level of robustness of the inputs as they come."""

    def __init__(self, logits: Tensor, labels: Tensor, distances: Tensor, n_levels: int) -> None:
        shares = torch.arange(1, n_levels, dtype=distances.dtype) / n_levels
        self.edges = distances.quantile(shares)
        levels = torch.bucketize(distances, self.edges)
        self.fits = [
            calibrators.fit_temperature(logits[levels == level], labels[levels == level])
            for level in range(n_levels)
        ]

    def __call__(self, logits: Tensor, distances: Tensor) -> Tensor:
        """Return probabilities."""
        levels = torch.bucketize(distances, self.edges)
        probs = torch.zeros(logits.shape, dtype=torch.float64)
        for level, fit in enumerate(self.fits):
            rows = levels == level
            if rows.any():
                probs[rows] = fit(logits[rows]).double()
        return probs


def table(runs: dict[str, dict[str, Any]]) -> str:
    """Lay out what matters as Markdown: a row per network and calibration."""
    columns = ["clean", "clean ECE", "PGD-20", "PGD-20 ECE", "IAA, predicted ECE", "envelope"]
    lines = ["| network | calibration | " + " | ".join(columns) + " |"]
    lines.append("|:--|:--|" + "--:|" * len(columns))
    for key, found in runs.items():
        for kind in ("plain", "temperature", "by level"):
            each = found[kind]
            width = each["OCA"]["confidence"] - each["UCA"]["confidence"]
            cells = (
                each["none"]["accuracy"],
                each["none"]["ece"],
                each["PGD-20"]["accuracy"],
                each["PGD-20"]["ece"],
                each["IAA, predicted"]["ece"],
                width,
            )
            name = key.replace(" / ", ", seed ")
            lines.append(f"| {name} | {kind} | " + " | ".join(f"{c:.3f}" for c in cells) + " |")
    return "\n".join(lines)


if __name__ == "__main__":
    main()
