"""Can a robust network be calibrated, clean and under attack? Ten seeds, on digits.

The recipes of examples/composition.py, and the defenses that they start from, for networks of the
kind of examples/quickstart.py on scikit-learn's digits (8 x 8 images, no download); each seed has
its own split, weights and order. Each network is measured as it is and with temperatures, and
compared over the seeds with AT+IAT as it is: AT+IAT that was trained as long. A seed that the file
has is not run again, so that the script may be stopped at any moment. About a quarter of an hour.

    python examples/composition_digits.py --out results/
"""

import argparse
from typing import Any

import adaptive_smoothing
import common
import composition
import composition_tables as tables
import inverse_digits
import torch
from torch import nn

from advcal import trainers


def main() -> None:
    """Train and measure the networks of every seed that is not there yet; print the tables."""
    parser = common.parser(__doc__, data=False, bfloat16=False)
    parser.add_argument("--n-seeds", type=int, default=10, help="how many seeds (10)")
    parser.add_argument("--epochs", type=int, default=40, help="of training (40)")
    args = parser.parse_args()
    common.check_ranges(parser, args, n_seeds=(2, 1000), epochs=(1, 1000))
    common.make_folder(args.out)
    path = args.out / "composition_digits.json"
    study: dict[str, Any] = {"settings": settings(args), "seeds": {}} | common.read_json(path)
    for seed in range(args.n_seeds):
        if str(seed) not in study["seeds"]:
            study["seeds"][str(seed)] = of_seed(seed, args.epochs)
            common.write_json(path, study)
            print(f"seed {seed} is done", flush=True)
    rows = tables.figures(study["seeds"])
    print(tables.table(rows), tables.comparison(rows), sep="\n\n")


def settings(args: argparse.Namespace) -> dict[str, object]:
    """Collect what a reader needs to run this again."""
    return {
        "optimizer": "Adam, learning rate 1e-3, batches of 50",
        **{"model": "perceptron", "epochs": args.epochs, **options()},
        **{"n_train": inverse_digits.N_TRAIN, "n_validation": inverse_digits.N_HELD_OUT},
        **common.date_and_versions(),
    }


def options() -> dict[str, Any]:
    """Return what the functions of composition.py take from their command line."""
    return {
        **{"eps": inverse_digits.EPS, "train_steps": 5, "bfloat16": False},
        **{"step_size": 0.2, "n_levels": 5},
    }


# --- networks ---


def of_seed(seed: int, epochs: int) -> dict[str, dict[str, float]]:
    """Train a network by each recipe; take the figures of all, with each calibration."""
    splits, args = split(seed), argparse.Namespace(**options())
    rows: dict[str, dict[str, float]] = {}
    trained: dict[str, Any] = {}
    for name in (*composition.BASELINES, *composition.RECIPES):
        torch.manual_seed(seed)
        model = network()
        base, _, labels = name.partition(", ")
        if labels in tables.GOES_ON:
            model.load_state_dict(trained[base])
        train(name, model, splits, seed, epochs, args)
        trained[name] = model.state_dict()
        run = composition.measure(model.eval(), splits, splits.test, args)
        rows |= tables.rows_of(name, run)
    return rows


def split(seed: int) -> adaptive_smoothing.Splits:
    """Split the digits as inverse_digits.py does; nothing else is held out."""
    train, held_out, test = ((each.images, each.labels) for each in inverse_digits.digits(seed))
    nothing = held_out[0][:0], held_out[1][:0]
    return adaptive_smoothing.Splits(train, held_out, nothing, test)


def network() -> nn.Module:
    """Build the network of inverse_digits.py."""
    hidden = [nn.Linear(64, 256), nn.ReLU(), nn.Linear(256, 256), nn.ReLU()]
    return nn.Sequential(nn.Flatten(), *hidden, nn.Linear(256, 10))


def train(
    name: str,
    model: nn.Module,
    splits: adaptive_smoothing.Splits,
    seed: int,
    epochs: int,
    args: argparse.Namespace,
) -> None:
    """Train one network, and steer its soft labels after each epoch if it has some."""
    generator = torch.Generator().manual_seed(seed)
    objective, steering = composition.recipe(name, model, splits, generator, args)
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-3)
    batches = composition.Batches(
        *splits.train, batch_size=50, shuffle=True, seed=seed, indices=True
    )
    for _ in trainers.epochs(model, batches, objective, optimizer, n=epochs):
        if steering is not None:
            steering.update()


if __name__ == "__main__":
    main()
