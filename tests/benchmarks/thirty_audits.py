"""Thirty small networks, trained, audited and compared: what does it take?

Ten seeds each of plain training, of training against PGD and of training on noise, on
scikit-learn's digits. The audit is the whole one: every figure with its interval, clean and under
two runs of APGD, the envelope of the confidence, `diagnose`, linear bounds, and prediction sets.

    OMP_NUM_THREADS=1 python tests/benchmarks/thirty_audits.py \
        --json docs/benchmarks/thirty_audits.json
"""

import argparse
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import peers
import torch
from against_certify import digits
from torch import nn

from advcal import attacks, certify, evaluation, trainers

EPS = 0.05


def objectives(generator: torch.Generator) -> dict[str, Callable[..., Any]]:
    """Name the ways to train."""
    pgd = partial(attacks.pgd, eps=EPS, steps=5, generator=generator)
    return {
        "standard": trainers.standard(),
        "AT": trainers.adversarial(pgd),
        "noise": trainers.noisy(trainers.standard(), sigma=0.2, generator=generator),
    }


def main() -> None:
    """Train, audit, compare, and add up processor time."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--seeds", type=int, default=10, help="networks of each kind (10)")
    parser.add_argument("--n", type=int, default=300, help="digits to audit on (300)")
    parser.add_argument("--json", type=Path, help="where to keep the figures")
    args = parser.parse_args()
    inputs, labels = digits()
    train = list(zip(inputs[:1000].split(50), labels[:1000].split(50), strict=True))
    held_out = [(inputs[1000:1300], labels[1000:1300])]
    test = [(inputs[1300:][: args.n], labels[1300:][: args.n])]
    audits, rows = {}, []
    for seed in range(args.seeds):
        for name, objective in objectives(torch.Generator().manual_seed(seed)).items():
            start = time.process_time()
            torch.manual_seed(seed)
            hidden = [nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 64), nn.ReLU()]
            model = nn.Sequential(*hidden, nn.Linear(64, 10))
            optimizer = torch.optim.Adam(model.parameters(), lr=2e-3)
            trainers.fit(model, train, objective, optimizer, n=15)
            trained = time.process_time()
            found = evaluation.audit(
                model, test, eps=EPS, certified=certify.crown, held_out=held_out
            )
            audits[f"{name} {seed}"] = found
            certain, robust = found.robust_accuracy
            row = {"network": name, "seed": seed, "training": trained - start}
            row |= {"audit": time.process_time() - trained}
            row |= {"certified accuracy": certain, "attacked accuracy": robust}
            rows.append(row | {"verdict": found.verdict})
            print(*rows[-1].values(), flush=True)
    start = time.process_time()
    page = evaluation.compare(audits, format="html")
    record: dict[str, object] = {"rows": rows, "threads": torch.get_num_threads()}
    record["seconds"] = {
        "training": sum(row["training"] for row in rows),
        "audits": sum(row["audit"] for row in rows),
        "page": time.process_time() - start,
    }
    print(record["seconds"], f"a page of {len(page):,} letters")
    peers.write_json(args.json, record | {"versions": peers.versions(["numpy", "scipy"])})


if __name__ == "__main__":
    main()
