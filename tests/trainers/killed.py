"""Train, be killed, go on, many times; a script that test_checkpoint.py runs.

    python killed.py FOLDER [KILLS]

Each run is a process of its own (a fork, so that torch is loaded once), which gets SIGKILL after a
random time, or in the middle of writing a checkpoint. A chain of runs goes on from one checkpoint
until training is done; there are five kinds of run. Prints how many kills there were, 20 if not
told; ends with an error if any weight differs or a file is left over.
"""

import contextlib
import hashlib
import os
import random
import signal
import sys
import time
import traceback
from functools import partial
from pathlib import Path

import numpy as np
import torch
from torch import nn
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn
from torch.utils.data import DataLoader, Dataset

from advcal import trainers
from advcal.attacks import pgd

IN_THE_FILE = 4  # every fourth kill is in the middle of a write


class Noisy(Dataset):
    """Inputs with noise from every global generator, so that each of them matters."""

    def __len__(self):
        return 40

    def __getitem__(self, i):
        inputs = torch.linspace(0, 1, 4) * (i % 5) / 5
        noise = random.random() + np.random.random() + torch.rand(4)  # noqa: NPY002
        return (inputs + 0.1 * noise).clamp(0, 1), i % 3


def net():
    torch.manual_seed(0)
    random.seed(0)
    np.random.seed(0)  # noqa: NPY002
    return nn.Sequential(nn.Linear(4, 8), nn.BatchNorm1d(8), nn.Dropout(0.2), nn.Linear(8, 3))


def digest(models, *others):
    found = hashlib.sha256()
    for each in models:
        values = each.state_dict()
        values = values.get("weights", values)
        for value in values.values():
            found.update(value.numpy().tobytes())
    found.update(repr((*others, torch.rand(3))).encode())
    return found.hexdigest()


def everything(checkpoint):
    """Train with all that has a state; return a digest of all that came out."""
    model = net()
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
    options |= {"n": 8, "checkpoint": checkpoint, "every": 1, "state": state}
    for epoch in trainers.epochs(model, loader, trainers.adversarial(attack), optimizer, **options):
        history.append((epoch.epoch, epoch.loss, float(torch.rand(()))))
        plateau.step(epoch.loss)
        stopping.update(model, -epoch.loss)
    return digest([model, average, stopping], history, stopping.score, plateau.state_dict())


def plain(checkpoint):
    """Train with `fit` and a checkpoint after each epoch alone."""
    model = net()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
    loader = DataLoader(Noisy(), batch_size=8, shuffle=True)
    options = {"n": 8, "checkpoint": checkpoint}
    return digest([model], trainers.fit(model, loader, trainers.standard(), optimizer, **options))


def smoothed(checkpoint):
    """Train with labels that are smoothed by a validation split."""
    model = net()
    optimizer = torch.optim.RMSprop(model.parameters(), lr=1e-3)
    generator = torch.Generator().manual_seed(2)
    inputs, labels = torch.rand(60, 4, generator=generator), torch.arange(60) % 3
    train, validation = [(inputs[:40], labels[:40])], [(inputs[40:], labels[40:])]
    smoothing = trainers.adaptive_smoothing(train, validation, 3, n_levels=1)
    batches = list(zip(inputs[:40].split(8), labels[:40].split(8), strict=True))
    options = {"n": 8, "checkpoint": checkpoint, "every": 2, "state": {"smoothing": smoothing}}
    for _ in trainers.epochs(model, batches, smoothing, optimizer, **options):
        smoothing.update(model)
    return digest([model], smoothing.state.label_probs.tolist())


def perturbed(checkpoint):
    """Train with weights that are perturbed in each step (AWP), from compiled parts."""
    model = net()
    model[3] = torch.compile(model[3], backend="eager")
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2)
    schedule = torch.optim.lr_scheduler.LambdaLR(
        optimizer, lambda step: np.interp([step], [0, 10, 40], [0.1, 1, 0])[0]
    )
    objective = trainers.awp(trainers.trades(partial(pgd, eps=0.1, steps=1)), gamma=0.01)
    loader = DataLoader(Noisy(), batch_size=8, shuffle=True)
    options = {"n": 6, "checkpoint": checkpoint, "every": 1, "schedule": schedule}
    return digest([model], trainers.fit(model, loader, objective, optimizer, **options))


def worked(checkpoint):
    """Train from a loader with a worker process and a generator of its own."""
    model = net()
    optimizer = torch.optim.Adagrad(model.parameters(), lr=1e-2)
    own, history = torch.Generator().manual_seed(3), []
    loader = DataLoader(Noisy(), batch_size=10, shuffle=True, num_workers=1, generator=own)
    options = {"n": 4, "checkpoint": checkpoint, "every": 1, "state": {"history": history}}
    for epoch in trainers.epochs(model, loader, trainers.standard(), optimizer, **options):
        history.append(np.float64(epoch.loss))
    return digest([model], [float(each) for each in history])


KINDS = [everything, plain, smoothed, perturbed, worked]


def forked(run, path, result):
    """Start `run(path)` in a fork with a group of its own; what it returns goes to a file."""
    if pid := os.fork():
        return pid
    try:
        os.setsid()
        found = run(path)
        Path(f"{result}.new").write_text(found)
        os.rename(f"{result}.new", result)
    except BaseException:
        traceback.print_exc()
        raise
    finally:
        os._exit(0 if Path(result).exists() else 1)


def dies_in_the_file(train, path):
    """Train until the file that is to replace a checkpoint is half written, then die."""
    replace, writes = os.replace, random.SystemRandom().randint(1, 4)

    def dying(source, target):
        nonlocal writes
        writes -= 1
        if writes == 0:
            os.truncate(source, os.path.getsize(source) // 2)
            os.kill(os.getpid(), signal.SIGKILL)
        replace(source, target)

    os.replace = dying
    return train(path)


def killed(train, wanted, span, path, most):
    """Train in a chain of runs that are killed, `most` times or fewer; return how often."""
    kills, result = 0, Path(f"{path}.txt")
    while not result.exists():
        inside = kills % IN_THE_FILE == 1
        pid = forked(partial(dies_in_the_file, train) if inside else train, path, result)
        if not inside and kills < most:
            time.sleep(random.SystemRandom().uniform(0, span / 6))
            os.kill(pid, signal.SIGKILL)
        _, status = os.waitpid(pid, 0)
        with contextlib.suppress(ProcessLookupError):
            # A worker whose parent died before it looked for its parent would live for ever, and
            # so would the pipe to whoever reads what this script prints.
            os.killpg(pid, signal.SIGKILL)
        assert os.WIFSIGNALED(status) or os.waitstatus_to_exitcode(status) == 0, status
        kills += os.WIFSIGNALED(status)
    assert result.read_text() == wanted, f"{path} came out different"
    left = [each for each in os.listdir(os.path.dirname(path)) if each.startswith(".")]
    assert not left, left
    return kills


def main(folder, most=20):
    torch.set_num_threads(1)
    total = 0
    for train in KINDS:
        start = time.monotonic()
        wanted, kills, chains = train(None), 0, 0
        span = time.monotonic() - start
        while kills < most / len(KINDS):
            chains += 1
            path = f"{folder}/{train.__name__}{chains}.pt"
            kills += killed(train, wanted, span, path, most // len(KINDS) - kills)
        total += kills
        print(f"{train.__name__}: {kills} kills in {chains} chains, {span:.1f} s undisturbed")
        sys.stdout.flush()
    print(total)


if __name__ == "__main__":
    main(sys.argv[1], *map(int, sys.argv[2:]))
