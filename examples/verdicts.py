"""Which claims of a paper stand? A table for each paper, from the results of the studies.

Its claims and the rows of its tables: the paper's figure and ours, a 95 % interval, a p-value and
the verdict that follows. Of networks that have several seeds, interval and p-value are those of the
paired t-test over the seeds. A network of one seed has them over its test images, as if each
network had images of its own. Since the answers on single images are not kept, these are bounds:
networks that tend to be right on the same images differ more surely than that.

A claim about a direction is reproduced if p is below .05 and the sign is the paper's. A figure of
a table is reproduced if ours is within .03 of it. Nothing is trained.

    python examples/verdicts.py --results docs/results --only fgsm_training
"""

import argparse
import json
from pathlib import Path
from typing import Any

import claims_fgsm
import claims_inverse
import claims_smoothing
import evidence

PAGES = {
    "fgsm_training": claims_fgsm.rows,
    "defenses": claims_inverse.rows,
    "adaptive_smoothing": claims_smoothing.rows,
}


def main() -> None:
    """Print the tables."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--results", type=Path, required=True, help="folder of the JSON files")
    parser.add_argument("--only", nargs="+", choices=PAGES, default=list(PAGES), help="pages (all)")
    args = parser.parse_args()

    def read(name: str) -> Any:
        return json.loads((args.results / name).read_text())

    for page in args.only:
        try:
            print(evidence.table(PAGES[page](read)))
        except (OSError, ValueError) as error:
            raise SystemExit(f"--results {args.results}: {error}") from None
        print()


if __name__ == "__main__":
    main()
