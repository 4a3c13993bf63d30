"""Train on two processes or on one; a script that test_distributed.py runs.

    torchrun --standalone --nproc-per-node 2 processes.py FOLDER
    python processes.py FOLDER

Writes `{name}.{processes}.pt` for each of `CASES`: the records and the weights. A new way to train
joins that table; its global batches must not depend on the number of processes.
"""

import os
import sys
from functools import partial

import pytest
import torch
from torch import distributed, nn
from torch.nn.parallel import DistributedDataParallel
from torch.utils.data import DataLoader, TensorDataset
from torch.utils.data.distributed import DistributedSampler

from advcal import attacks, evaluation, trainers
from tests.leaving import leave

PGD = partial(attacks.pgd, eps=0.1, steps=3, random_start=False)
CASES = {
    "standard": (trainers.standard(), {}),
    "pgd": (trainers.adversarial(PGD), {}),
    "accumulated": (trainers.adversarial(PGD), {"accumulate": 2, "max_norm": 0.5}),
}


def world():
    return distributed.get_world_size() if distributed.is_initialized() else 1


def setting():
    """Return a model, wrapped where there are several processes, and an optimizer."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(4, 16), nn.Tanh(), nn.Linear(16, 3)).double()
    wrapped = DistributedDataParallel(model) if world() > 1 else model
    return wrapped, torch.optim.SGD(wrapped.parameters(), lr=0.5, momentum=0.9)


def data():
    torch.manual_seed(1)
    return torch.rand(26, 4).double(), torch.randint(3, (26,))


class Halves:
    """Global batches of eight, the last of two; each process takes its part, not of equal sizes."""

    def __iter__(self):
        inputs, labels = data()
        for part in torch.arange(26).split(8):
            cut = len(part) * 3 // 4
            own = part
            if world() > 1:
                own = part[:cut] if distributed.get_rank() == 0 else part[cut:]
            yield inputs[own], labels[own], own


def save(name, folder, model, records):
    weights = getattr(model, "module", model).state_dict()
    contents = {"records": [tuple(record) for record in records], "weights": weights}
    if world() == 1 or distributed.get_rank() == 0:
        torch.save(contents, f"{folder}/{name}.{world()}.pt")


def cases(folder):
    for name, (objective, options) in CASES.items():
        model, optimizer = setting()
        records = trainers.fit(model, Halves(), objective, optimizer, n=3, **options)
        save(name, folder, model, records)


def adaptive(folder):
    """Train by AR-AdaLS, ranked on the fly; each measures all data, and trains on its share."""
    model, optimizer = setting()
    inputs, labels = data()
    train = [(inputs, labels, torch.arange(26))]
    others = torch.rand(20, 4, generator=torch.Generator().manual_seed(2)).double()
    validation = [(others, torch.arange(20) % 3, torch.arange(20))]
    smoothing = trainers.adaptive_smoothing(train, validation, 3, n_levels=2, step_size=0.3)
    records = []
    for epoch in trainers.epochs(model, Halves(), smoothing, optimizer, n=3):
        smoothing.rank(model)
        smoothing.update(model)
        records.append(epoch)
    assert (smoothing.state.label_probs < 1).any(), smoothing.state
    assert smoothing.levels.bincount().tolist() == [13, 13]
    save("ar_adals", folder, model, records)


def sampled():
    """Train with DataLoader and DistributedSampler: 16 examples, shuffled anew in each epoch."""
    inputs, labels = data()
    rows = TensorDataset(inputs[:16], labels[:16], torch.arange(16))
    loader = DataLoader(rows, batch_size=4, sampler=DistributedSampler(rows))
    model, optimizer = setting()
    seen = []

    def objective(model, batch):
        seen.append(batch[2].tolist())
        return trainers.standard()(model, batch[:2])

    for _ in trainers.epochs(model, loader, objective, optimizer, n=2):
        pass
    everyone = [None] * world()
    distributed.all_gather_object(everyone, seen)
    for epoch in (slice(0, 2), slice(2, 4)):
        rows = [row for own in everyone for batch in own[epoch] for row in batch]
        assert sorted(rows) == list(range(16)), rows
    assert seen[:2] != seen[2:], "the same order in both epochs"


def resumed(folder):
    """Stop after an epoch and a half and go on: the draws of each process are its own."""
    path = f"{folder}/run.checkpoint"

    def run(checkpoint, stop):
        model, optimizer = setting()
        starts = torch.Generator().manual_seed(distributed.get_rank())
        attack = partial(attacks.pgd, eps=0.1, steps=2, generator=starts)
        steps = 0

        def objective(model, batch):
            nonlocal steps
            if steps == stop:
                raise InterruptedError
            steps += 1
            return trainers.adversarial(attack)(model, batch)

        options = {"checkpoint": checkpoint, "every": 1, "state": {"starts": starts}}
        try:
            trainers.fit(model, Halves(), objective, optimizer, n=3, **options)
        except InterruptedError:
            return None
        return [*model.module.state_dict().values(), starts.get_state()]

    wanted = run(None, -1)
    assert run(path, 6) is None
    distributed.barrier()
    for got, value in zip(run(path, -1), wanted, strict=True):
        assert torch.equal(got, value)
    distributed.barrier()


def not_finite():
    """A loss that is NaN in one process stops both, before any weight takes it."""
    model, optimizer = setting()
    before = [value.clone() for value in model.state_dict().values()]

    def objective(model, batch):
        loss = trainers.standard()(model, batch)
        return loss * float("nan") if distributed.get_rank() == 1 else loss

    with pytest.raises(FloatingPointError, match="epoch 1, batch 1"):
        trainers.fit(model, Halves(), objective, optimizer, n=1)
    for value, then in zip(model.state_dict().values(), before, strict=True):
        assert torch.equal(value, then)


def one_process_alone():
    """Attacks and evaluation wait for no other process, also those of a model with buffers."""
    model = DistributedDataParallel(
        nn.Sequential(nn.Linear(4, 8), nn.BatchNorm1d(8), nn.Linear(8, 3))
    )
    inputs, labels = data()
    batch = inputs[:8].float(), labels[:8]
    if distributed.get_rank() == 0:
        attacks.pgd(model, *batch, eps=0.1, steps=2)
        evaluation.evaluate(model, [batch], PGD)
        trainers.predict(model, [batch], PGD)
    distributed.barrier()
    objective = trainers.adversarial(PGD)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    trainers.fit(model, [batch], objective, optimizer, n=2)  # and both still train together
    norm = model.module[1]
    assert norm.num_batches_tracked == 2  # crafting is not among them


def main(folder):
    torch.set_num_threads(1)
    if "RANK" in os.environ:
        distributed.init_process_group("gloo")
    cases(folder)
    adaptive(folder)
    if world() > 1:
        sampled()
        resumed(folder)
        not_finite()
        one_process_alone()
        leave(folder)


if __name__ == "__main__":
    main(sys.argv[1])
