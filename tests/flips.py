"""Flip random bits in checkpoints, calibrators and sweeps; a script, and tests of a short form.

    python tests/flips.py [FLIPS]

Each flip is of one bit of a whole file. The file must be refused by an error of ours, or all that
is read from it must be as it was. Prints how many were which; ends with an error if one is misread.
"""

import importlib.util
import random
import sys
import tempfile
from functools import partial
from pathlib import Path

import torch
from torch import nn

from advcal import calibrators, evaluation, trainers
from advcal.attacks import fgsm

DATA = [(torch.linspace(0, 1, 16).view(4, 4), torch.arange(4) % 3)]


def checkpoint(path):
    """Write a checkpoint or go on from it; return all that is in it."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(4, 3), nn.BatchNorm1d(3))
    optimizer = torch.optim.Adam(model.parameters())
    schedule = torch.optim.lr_scheduler.StepLR(optimizer, 2)
    starts, history = torch.Generator().manual_seed(1), [0.25, 3]
    attack = partial(fgsm, eps=0.1, random_start=True, generator=starts)
    records = trainers.fit(
        model,
        DATA,
        trainers.adversarial(attack),
        optimizer,
        n=2,
        schedule=schedule,
        checkpoint=path,
        state={"starts": starts, "history": history},
    )
    parts = (model.state_dict(), optimizer.state_dict(), schedule.state_dict(), starts.get_state())
    return repr((parts, records, history, torch.rand(3)))


def calibrator(path):
    logits = torch.linspace(-2, 2, 60).sin().view(20, 3) * 3
    if not path.exists():
        calibrators.save(calibrators.fit_svs(logits, torch.arange(20) % 3), path)
    found = calibrators.load(path)
    return repr((found, found(logits)))


def sweep(path):
    torch.manual_seed(0)
    attacks = {"none": None, "FGSM": fgsm}
    records = evaluation.sweep({"m": nn.Linear(4, 3)}, {"d": DATA}, attacks, path, eps=[0.1])
    for record in records:
        del record["settings"]  # which are compared with those of the call
    return repr(records)


KINDS = {"checkpoint": checkpoint, "calibrator": calibrator, "sweep": sweep}
if importlib.util.find_spec("advcal.evaluation._lines") is None:
    del KINDS["sweep"]  # a sweep that does not seal its lines yet


def flip(read, count, seed=0):
    """Return how many flips were refused and how many harmless."""
    dice, refused = random.Random(seed), 0
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "file"
        read(path)
        whole, wanted = path.read_bytes(), read(path)
        for _ in range(count):
            at = dice.randrange(8 * len(whole))
            flipped = bytearray(whole)
            flipped[at // 8] ^= 1 << at % 8
            path.write_bytes(flipped)
            told = ""
            try:
                found = read(path)
            except ValueError as error:
                told, found = str(error), wanted
            assert found == wanted, f"bit {at % 8} of byte {at // 8} of {len(whole)}"
            if told:
                refused += 1
                assert told.startswith("expected "), told
                assert str(path) in told, told
                assert "weights_only" not in told, told
    return refused, count - refused


def main(count=1000):
    torch.set_num_threads(1)
    torch.set_printoptions(precision=17, threshold=10**6)
    for i, (name, read) in enumerate(KINDS.items()):
        share = count // len(KINDS) + (i < count % len(KINDS))
        refused, harmless = flip(read, share, random.SystemRandom().randrange(10**6))
        print(f"{name}: {share} flips, {refused} refused, {harmless} harmless, none misread")


if __name__ == "__main__":
    main(*map(int, sys.argv[1:]))
