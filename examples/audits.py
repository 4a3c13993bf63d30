"""Train small networks on CIFAR-10 in four ways, audit them, and put the reports side by side.

A plain network, one trained against PGD, one by AT+IAT and one on noise, all small enough for
linear bounds, and the mean of the last over noise, which is certified by randomized smoothing.
Every report is in L∞. What is there is not made again, and the script may be stopped at any moment
and started again. `--weights` adds networks that other studies trained; they have no certificate.

    python examples/audits.py --data PATH --strange cifar100-part.npz --out results/
"""

import argparse
import functools
import math
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import cifar10_data
import common
import numpy as np
import torch
import training
from torch import Tensor, nn

from advcal import attacks, certify, evaluation, trainers

SIGMA = 0.25  # deviation of the noise that is trained with and averaged over
SMOOTHED = "noise, smoothed"


def network(n_classes: int = 10) -> nn.Module:
    """Build a network of two convolutions that `certify.crown` bounds in about a second an image.

    Maps (n, 3, 32, 32) to (n, n_classes) with 68,722 parameters at ten classes.
    """
    convolutions = [nn.Conv2d(3, 8, 4, 2, 1), nn.ReLU(), nn.Conv2d(8, 16, 4, 2, 1), nn.ReLU()]
    return nn.Sequential(
        *convolutions, nn.Flatten(), nn.Linear(1024, 64), nn.ReLU(), nn.Linear(64, n_classes)
    )


def objectives(eps: float, generator: torch.Generator) -> dict[str, Callable[..., Tensor]]:
    """Name the ways to train; attacks in training take twice the radius of the audit."""
    options: dict[str, Any] = {"eps": 2 * eps, "steps": 3, "generator": generator}
    at = trainers.adversarial(functools.partial(attacks.pgd, **options))
    iat = trainers.adversarial(functools.partial(attacks.iaa, random_start=True, **options))
    return {
        "standard": trainers.standard(),
        "PGD-AT": at,
        "AT+IAT": trainers.mixed(at, iat),
        "noise": trainers.noisy(trainers.standard(), sigma=SIGMA, generator=generator),
    }


def main() -> None:
    """Train what is not trained yet, audit it, print the leaderboard and write the page."""
    args = parse()
    common.make_folder(args.out)
    data = cifar10_data.load_or_exit(args.data)
    train, held_out = cifar10_data.split(data.train_images, data.train_labels, args.n_validation)
    train = (train[0][: args.n_train], train[1][: args.n_train])
    chosen = torch.linspace(0, len(data.test_labels) - 1, args.n_test).round().long()
    sets = {
        "held_out": cifar10_data.Batches(*held_out, batch_size=500),
        "out_batches": None if args.strange is None else [(strange(args.strange, args.n_test),)],
    }
    test = data.test_images[chosen].float() / 255, data.test_labels[chosen]
    models: dict[str, tuple[nn.Module, Callable[..., certify.Reach] | None]] = {}
    for name in objectives(args.eps, torch.Generator()):
        models[name] = trained(name, train, args), linear_bounds()
    if not args.train_only:
        noisy = models["noise"][0]
        average = certify.smoothed(noisy, sigma=SIGMA, n=args.n_passes)
        models[SMOOTHED] = average, smoothing(noisy, test[0], args.n_draws)
        models |= {training.name_of(path): (training.load(path), None) for path in args.weights}
        audits = {
            name: audited(name, model, certified, test, sets, args)
            for name, (model, certified) in models.items()
        }
        common.write_json(args.out / "audits.json", {k: v.as_dict() for k, v in audits.items()})
        page = evaluation.compare(audits, format="html")
        (args.out / "audits.html").write_text(page, encoding="utf-8")
        print(evaluation.compare(audits))


def parse() -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--data", type=Path, required=True, help="folder that holds CIFAR-10")
    parser.add_argument("--out", type=Path, default=Path("results"), help="folder for all it makes")
    parser.add_argument("--strange", type=Path, help="images to be told apart, as .npz (none)")
    parser.add_argument("--weights", type=Path, nargs="+", default=[], help="more networks (none)")
    parser.add_argument("--eps", type=float, default=2 / 255, help="radius of the audit (2/255)")
    parser.add_argument("--epochs", type=int, default=8, help="epochs of each training (8)")
    parser.add_argument("--n-train", type=int, default=25_000, help="images to train on (25000)")
    parser.add_argument("--n-validation", type=int, default=1000, help="held out (1000)")
    parser.add_argument("--n-test", type=int, default=50, help="images to audit on (50)")
    parser.add_argument("--n-passes", type=int, default=16, help="passes of the mean (16)")
    parser.add_argument("--n-draws", type=int, default=10_000, help="draws to certify it (10000)")
    parser.add_argument("--steps", type=int, default=20, help="steps of the attacks (20)")
    parser.add_argument("--train-only", action="store_true", help="train and do not audit yet")
    args = parser.parse_args()
    common.check_ranges(
        parser,
        args,
        eps=(1e-4, 1),
        epochs=(1, 1000),
        n_validation=(100, 25_000),
        n_train=(128, 50_000 - args.n_validation),
        n_test=(20, 10_000),
        n_passes=(1, 1000),
        n_draws=(100, 10**6),
        steps=(1, 1000),
    )
    return args


def trained(name: str, train: tuple[Tensor, Tensor], args: argparse.Namespace) -> nn.Module:
    """Train one network, or go on from its checkpoint."""
    torch.manual_seed(0)
    model = network()
    starts = torch.Generator().manual_seed(0)
    batches = cifar10_data.Batches(*train, batch_size=128, shuffle=True, augment=True)
    optimizer = torch.optim.Adam(model.parameters(), lr=2e-3)
    n_steps = args.epochs * len(batches)
    training.train(
        name,
        model,
        batches,
        objectives(args.eps, starts)[name],
        optimizer,
        n=args.epochs,
        schedule=torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, n_steps),
        checkpoint=args.out / f"audited-{name}.checkpoint",
        every=100,
        state={"starts": starts},
    )
    return model.eval()


def linear_bounds() -> Callable[..., certify.Reach]:
    """Bound by `crown`, once for each radius of the one batch."""
    known: dict[float, certify.Reach] = {}

    def certified(model: nn.Module, points: Tensor, *, eps: float) -> certify.Reach:
        if eps not in known:
            known[eps] = certify.crown(model, points, eps=eps)
        return known[eps]

    return certified


def smoothing(model: nn.Module, inputs: Tensor, n: int) -> Callable[..., certify.Reach]:
    """Certify the mean over noise in the L2 ball around the L∞ ball, once for all radii."""

    @functools.cache
    def found() -> certify.Certificates:
        generator = torch.Generator().manual_seed(0)
        return certify.certify(model, inputs, sigma=SIGMA, n=n, generator=generator)

    def certified(_: object, points: Tensor, *, eps: float) -> certify.Reach:
        return found().reach(eps * math.sqrt(points[0].numel()))

    return certified


def strange(path: Path, n: int) -> Tensor:
    """Read images of other classes."""
    with np.load(path) as arrays:
        return torch.from_numpy(arrays["images"][:n]).permute(0, 3, 1, 2).float() / 255


def audited(
    name: str,
    model: nn.Module,
    certified: Callable[..., certify.Reach] | None,
    test: tuple[Tensor, Tensor],
    sets: dict[str, Any],
    args: argparse.Namespace,
) -> evaluation.Audit:
    """Audit one network, and say what it took."""
    start = time.process_time()
    found = evaluation.audit(
        model,
        [test],
        eps=args.eps,
        steps=args.steps,
        certified=certified,
        path=args.out / f"audit-{name}.json",
        generator=torch.Generator().manual_seed(0),
        **sets,
    )
    print(f"{name}: {time.process_time() - start:.0f} s\n{found}\n", flush=True)
    return found


if __name__ == "__main__":
    main()
