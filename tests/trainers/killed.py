"""Train, be killed, go on, twenty times; a script that test_checkpoint.py runs.

    python killed.py FOLDER

Each run is a process of its own (a fork, so that torch is loaded once), which gets SIGKILL after a
random time, or in the middle of writing a checkpoint. A chain of runs goes on from one checkpoint
until training is done. Prints how many kills there were; ends with an error if any weight differs.
"""

import hashlib
import os
import random
import signal
import sys
import time
from functools import partial
from pathlib import Path

import numpy as np
import torch
from torch import nn
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn
from torch.utils.data import DataLoader, Dataset

from advcal import trainers
from advcal.attacks import pgd

KILLS, IN_THE_FILE = 20, 4


class Noisy(Dataset):
    """Inputs with noise from every global generator, so that each of them matters."""

    def __len__(self):
        return 40

    def __getitem__(self, i):
        inputs = torch.linspace(0, 1, 4) * (i % 5) / 5
        noise = random.random() + np.random.random() + torch.rand(4)  # noqa: NPY002
        return (inputs + 0.1 * noise).clamp(0, 1), i % 3


def train(checkpoint):
    """Train with all that has a state; return a digest of all that came out."""
    torch.manual_seed(0)
    random.seed(0)
    np.random.seed(0)  # noqa: NPY002
    model = nn.Sequential(nn.Linear(4, 8), nn.BatchNorm1d(8), nn.Dropout(0.2), nn.Linear(8, 3))
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-2)
    schedule = torch.optim.lr_scheduler.MultiStepLR(optimizer, [10, 20], gamma=0.7)
    plateau = torch.optim.lr_scheduler.ReduceLROnPlateau(optimizer, patience=1)
    average = AveragedModel(model, multi_avg_fn=get_ema_multi_avg_fn(0.9), use_buffers=True)
    starts = torch.Generator().manual_seed(1)
    stopping, history = trainers.EarlyStopping(), []
    attack = partial(pgd, eps=0.1, steps=2, generator=starts)
    loader = DataLoader(Noisy(), batch_size=5, shuffle=True)
    state = {"starts": starts, "stopping": stopping, "history": history, "plateau": plateau}
    options = {"schedule": schedule, "average": average, "accumulate": 2, "max_norm": 1.0}
    objective = trainers.adversarial(attack)
    for epoch in trainers.epochs(
        model,
        loader,
        objective,
        optimizer,
        n=8,
        checkpoint=checkpoint,
        every=1,
        state=state,
        **options,
    ):
        history.append((epoch.epoch, epoch.loss, float(torch.rand(()))))
        plateau.step(epoch.loss)
        stopping.update(model, -epoch.loss)
    digest = hashlib.sha256()
    for each in (model, average, stopping):
        values = each.state_dict()
        values = values.get("weights", values)
        for value in values.values():
            digest.update(value.numpy().tobytes())
    digest.update(repr((history, stopping.score, plateau.state_dict(), torch.rand(3))).encode())
    return digest.hexdigest()


def forked(run, path, result):
    """Start `run(path)` in a fork that writes what it returns to a file."""
    if pid := os.fork():
        return pid
    try:
        Path(result).write_text(run(path))
    finally:
        os._exit(0 if Path(result).exists() else 1)


def dies_in_the_file(path):
    """Train until the file that is to replace a checkpoint is half written, then die."""
    replace, writes = os.replace, random.SystemRandom().randint(1, 9)

    def dying(source, target):
        nonlocal writes
        writes -= 1
        if writes == 0:
            os.truncate(source, os.path.getsize(source) // 2)
            os.kill(os.getpid(), signal.SIGKILL)
        replace(source, target)

    os.replace = dying
    return train(path)


def main(folder):
    torch.set_num_threads(1)
    dice = random.Random()
    start = time.monotonic()
    wanted, kills, chains = train(None), 0, 0
    span = time.monotonic() - start
    while kills < KILLS:
        chains += 1
        path, result = f"{folder}/{chains}.pt", Path(f"{folder}/{chains}.txt")
        while not result.exists():
            inside = kills % (KILLS // IN_THE_FILE) == 1
            pid = forked(dies_in_the_file if inside else train, path, result)
            if not inside and kills < KILLS:
                time.sleep(dice.uniform(0, span / 6))
                os.kill(pid, signal.SIGKILL)
            _, status = os.waitpid(pid, 0)
            assert os.WIFSIGNALED(status) or os.waitstatus_to_exitcode(status) == 0, status
            kills += os.WIFSIGNALED(status)
        assert result.read_text() == wanted, f"chain {chains} came out different"
    print(f"{kills} kills in {chains} chains, {span:.1f} s undisturbed")


if __name__ == "__main__":
    main(sys.argv[1])
