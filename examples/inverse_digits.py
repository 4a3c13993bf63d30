"""Do inverse attacks, and training against them, do what they are for? Ten seeds, on digits.

Trains a network of the kind of examples/quickstart.py on scikit-learn's digits (8 x 8 images, no
download) plainly and with the defenses of the inverse attack's paper, each seed with its own split,
weights and order, and attacks accuracy and confidence as examples/defenses.py does. A seed that the
file has is not run again, so that the script may be stopped at any moment. About five minutes.

    python examples/inverse_digits.py --out results/
"""

import argparse
from typing import Any

import cifar10_data
import common
import defenses
import torch
from sklearn.datasets import load_digits
from torch import nn

from advcal import trainers

NAMES = ("standard", "PGD-AT", "IAT", "IAT, predicted", "AT+IAT", "TRADES", "entropy-AT", "CCAT")
EPS = 0.1
N_TRAIN, N_HELD_OUT = 400, 400


def main() -> None:
    """Train and attack the networks of every seed that is not there yet; print the table."""
    parser = common.parser(__doc__, data=False, bfloat16=False)
    parser.add_argument("--n-seeds", type=int, default=10, help="how many seeds (10)")
    parser.add_argument("--epochs", type=int, default=40, help="of training; CCAT has twice (40)")
    args = parser.parse_args()
    common.check_ranges(parser, args, n_seeds=(1, 1000), epochs=(1, 1000))
    common.make_folder(args.out)
    path = args.out / "inverse_digits.json"
    studies = common.read_json(path)
    for seed in range(args.n_seeds):
        if f"{NAMES[-1]}-{seed}" not in studies:
            studies |= of_seed(seed, args.epochs)
            common.write_json(path, studies)
            print(f"seed {seed} is done", flush=True)
    print(defenses.summary(studies))


def of_seed(seed: int, epochs: int) -> dict[str, dict[str, Any]]:
    """Train a network with each defense, and attack them all."""
    train, held_out, test = digits(seed)
    starts = torch.Generator().manual_seed(seed)
    objectives = defenses.defenses(EPS, 5, starts)
    studies = {}
    for name in NAMES:
        torch.manual_seed(seed)
        hidden = [nn.Linear(64, 256), nn.ReLU(), nn.Linear(256, 256), nn.ReLU()]
        model = nn.Sequential(nn.Flatten(), *hidden, nn.Linear(256, 10))
        n = 2 * epochs if name == "CCAT" else epochs
        optimizer = torch.optim.Adam(model.parameters(), lr=1e-3)
        trainers.fit(model, train, objectives[name], optimizer, n=n)
        attacked = argparse.Namespace(eps=EPS, bfloat16=False)
        studies[f"{name}-{seed}"] = {
            "defense": name,
            "settings": {
                "optimizer": "Adam, learning rate 1e-3, batches of 50",
                **{"model": "perceptron", "eps": EPS, "train_steps": 5, "epochs": n},
                **{"n_train": N_TRAIN, "n_validation": N_HELD_OUT, "n_test": len(test.labels)},
                **{"seed": seed, **common.date_and_versions()},
            },
            "results": defenses.attack_all(model, test, held_out, attacked),
        }
    return studies


def digits(seed: int) -> tuple[cifar10_data.Batches, ...]:
    """Split the digits at random: to train on, held out, to test on."""
    data = load_digits()
    order = torch.randperm(len(data.target), generator=torch.Generator().manual_seed(seed))
    images = torch.tensor(data.images * 255 / 16).round().to(torch.uint8).unsqueeze(1)[order]
    labels = torch.tensor(data.target)[order]
    sizes = [N_TRAIN, N_HELD_OUT, len(labels) - N_TRAIN - N_HELD_OUT]
    train, *others = zip(images.split(sizes), labels.split(sizes), strict=True)
    return (
        cifar10_data.Batches(*train, batch_size=50, shuffle=True, seed=seed),
        *(cifar10_data.Batches(*each, batch_size=1000) for each in others),
    )


if __name__ == "__main__":
    main()
