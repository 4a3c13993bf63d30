"""Can a robust network be calibrated, clean and under attack? Soft labels on adversarial training.

What the three papers propose, put together: adversarial training (PGD-AT), AT+IAT and TRADES whose
soft labels come by level of robustness (AR-AdaLS) and are steered by validation images *under
attack*, those of AT+IAT's inverse part by clean ones; the same with one level (AdaLS); training on
attacks on confidence in the place of inverse ones (CAAT), with hard and with soft labels, and as a
fine-tuning of AT+IAT, beside which AT+IAT and TRADES are trained on for as long; and after
training, a temperature for each level, that of the image as it comes, attacked or not.

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
import composition_tables as tables
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
    "AT+IAT, longer",
    "TRADES, longer",
    "CAAT, hard labels",
    "CAAT, AdaLS",
)
WEIGHTS = {"PGD-AT": [1.0], "AT+IAT": [0.5, 0.5], "CAAT": [0.5, 0.25, 0.25]}  # of its examples
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
            print(f"{key}: {study['runs'][key]['plain']['none']}", flush=True)
    rows = tables.figures(tables.by_seed(study["runs"]))
    print(tables.table(rows))
    if len(args.seeds) > 1:
        print(f"\n{tables.comparison(rows)}")


def parse() -> argparse.Namespace:
    """Read the command line."""
    parser = common.parser(__doc__)
    parser.add_argument("--model", choices=models.NAMES, default="fastnet", help="(fastnet)")
    parser.add_argument(
        "--only",
        nargs="*",
        choices=RECIPES,
        default=RECIPES,
        metavar="RECIPE",
        help=f"recipes in quotes (all; none for the baselines alone): {'; '.join(RECIPES)}",
    )
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
    """Train one network from the plain weights of its seed, or on from those of its baseline."""
    base, labels = name.split(", ")
    torch.manual_seed(seed)
    model = training.network(args.model, splits.train[0])
    start = base if labels in tables.GOES_ON else adaptive_smoothing.PLAIN
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
    objective, steering = recipe(name, model, splits, generator, args)
    if steering is None:
        return fit(objective, state={"starts": generator})
    return fit(objective, watch=steering.update, state=steering.state | {"starts": generator})


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


def recipe(
    name: str,
    model: nn.Module,
    splits: adaptive_smoothing.Splits,
    generator: torch.Generator,
    args: argparse.Namespace,
) -> tuple[Objective, Steering | None]:
    """Make the objective of a recipe or a baseline, and what steers its labels if soft."""
    base, _, labels = name.partition(", ")
    if "AdaLS" in labels:
        steering = Steering(model, splits, 1 if labels == "AdaLS" else args.n_levels, args)
        return soft_objective(base, steering, generator, args), steering
    return hard_objective(labels if labels == "CAAT" else base, generator, args), None


def hard_objective(base: str, generator: torch.Generator, args: argparse.Namespace) -> Objective:
    """Make an objective with hard labels, for batches that say their rows too."""
    known = defenses.defenses(args.eps, args.train_steps, generator)
    if base not in known:
        parts = [trainers.adversarial(attack) for attack in parts_of(base, generator, args)]
        known[base] = trainers.mixed(*parts, weights=WEIGHTS[base])
    return lambda model, batch: known[base](model, batch[:2])


def soft_objective(
    base: str, steering: Steering, generator: torch.Generator, args: argparse.Namespace
) -> Objective:
    """Make the objective of a baseline with soft labels in the place of hard ones.

    Those of the examples on which the model is to be right are steered by attacked images, those of
    the examples that move its confidence alone by clean ones.
    """
    if base == "TRADES":
        return soft_trades(steering.attacked, attack_of("KL", generator, args))
    pgd, *others = parts_of(base, generator, args)
    parts = [softly(steering.attacked, pgd), *(softly(steering.clean, each) for each in others)]
    return trainers.mixed(*parts, weights=WEIGHTS[base])


def parts_of(base: str, generator: torch.Generator, args: argparse.Namespace) -> list[Objective]:
    """Name the attacks whose examples a baseline is trained on, PGD first."""
    kinds = {"PGD-AT": ["PGD"], "AT+IAT": ["PGD", "IAA"], "CAAT": ["PGD", "UCA", "OCA"]}
    return [attack_of(kind, generator, args) for kind in kinds[base]]


def attack_of(kind: str, generator: torch.Generator, args: argparse.Namespace) -> Objective:
    """Make the attack that is trained with."""
    common: dict[str, Any] = {"eps": args.eps, "steps": args.train_steps, "generator": generator}
    if kind in ("PGD", "KL"):
        loss = "kl" if kind == "KL" else "cross_entropy"
        return functools.partial(attacks.pgd, loss=loss, **common)
    of_confidence = {"IAA": attacks.iaa, "UCA": attacks.uca, "OCA": attacks.oca}
    return functools.partial(of_confidence[kind], random_start=True, **common)


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


def softly(smoothing: trainers.AdaptiveSmoothing, attack: Objective) -> Objective:
    """Train on an attack's examples with soft labels; the attack goes on to see the hard ones."""

    def objective(model: nn.Module, batch: tuple[Tensor, ...]) -> Tensor:
        soft = targets(smoothing, batch)
        hard = trainers.adversarial(attack, loss=lambda logits, _: cross_entropy(logits, soft))
        return hard(model, batch[:2])

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


# --- figures ---------------------------------------------------------------------------------


def measure(
    model: nn.Module,
    splits: adaptive_smoothing.Splits,
    few: tuple[Tensor, Tensor],
    args: argparse.Namespace,
) -> dict[str, Any]:
    """Attack a network; take its figures as it is, with a temperature, and with one by level.

    A temperature is fitted to clean validation images, or to them clean and under PGD alike, as
    those by level are. Attacks are crafted on the network as it is: a temperature changes no
    prediction, but an attacker may know it.
    """
    pgd = functools.partial(attacks.pgd, eps=args.eps, steps=10)
    seen = [seen_by(model, splits.validation, each, args) for each in (None, pgd)]
    clean = calibrators.fit_temperature(*seen[0][:2])
    logits, labels, distances = (torch.cat(parts) for parts in zip(*seen, strict=True))
    fitted = calibrators.fit_temperature(logits, labels)
    by_level = TemperatureByLevel(logits, labels, distances, args.n_levels)
    found: dict[str, dict[str, Any]] = {kind: {} for kind in tables.KINDS}
    for name, attack in defenses.attackers(args.eps).items():
        logits, labels, distances = seen_by(model, few, attack, args)
        for kind, probs in {
            "plain": logits.double().softmax(dim=1),
            "clean temperature": clean(logits),
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
    whole = evaluation.evaluate(model, Batches(*splits.test, batch_size=500), channels_last=True)
    return {"all": {"accuracy": whole.accuracy, "ece": whole.ece, "mcs": whole.mcs}, **found}


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
            calibrators.fit_temperature(logits[levels == level], labels[levels == level], prior=0.5)
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


if __name__ == "__main__":
    main()
