"""Run many of the comparisons, one after the other, and keep the figures.

Takes hours on a processor: the attacks of full budget are most of it. Each comparison is a script
of its own beside this one and says what it prints.

    python examples/fgsm_training.py --data PATH --model small_cnn --out results/
    python tests/benchmarks/run.py --data PATH --weights results/small_cnn-*.pt
"""

import argparse
import subprocess
import sys
from pathlib import Path

HERE = Path(__file__).parent
# Whether a comparison attacks the trained networks, and needs them and the images.
COMPARISONS = {
    "against_pgd": True,
    "against_minimal_norm": True,
    "against_hopskipjump": False,
    "against_metrics": False,
    "against_temperature": False,
    "against_calibrators": False,
    "calibrator_harm": False,
    "estimators": False,
    "interval_coverage": False,
    "coverage_sun": False,
    "power": False,
    "against_certify": False,
    "against_auto_lirpa": False,
    "violations": False,
    "thirty_audits": False,
}
FILES = {name: name.removeprefix("against_") for name in COMPARISONS} | {
    "interval_coverage": "coverage"
}


def main() -> None:
    """Run them in turn; stop at the first that fails."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--data", type=Path, required=True, help="folder that holds CIFAR-10")
    parser.add_argument("--weights", nargs="+", required=True, help="trained networks")
    parser.add_argument("--only", nargs="+", choices=COMPARISONS, default=list(COMPARISONS))
    parser.add_argument("--out", type=Path, default=HERE.parents[1] / "docs" / "benchmarks")
    args = parser.parse_args()
    for name in args.only:
        print(f"\n== {name}", flush=True)
        attacked = ["--data", str(args.data), "--weights", *args.weights]
        command = [sys.executable, str(HERE / f"{name}.py")]
        command += attacked if COMPARISONS[name] else []
        subprocess.run(
            [*command, "--json", str(args.out / f"{FILES.get(name, name)}.json")],
            check=True,
        )


if __name__ == "__main__":
    main()
