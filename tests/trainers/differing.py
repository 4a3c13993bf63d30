"""Processes that differ, have disks of their own, or die; a script that test_distributed.py runs.

    python differing.py FOLDER [PROCESSES ...]

Each scenario runs in two and in three processes over gloo (forks, so that torch is loaded once).
What each of them came to is asserted here: the same error in all of them, and never a hang.
"""

import os
import pickle
import shutil
import signal
import sys
import time
from datetime import timedelta
from pathlib import Path

import torch
from torch import nn
from torch.nn.parallel import DistributedDataParallel

from advcal import _files, evaluation, metrics, trainers
from advcal.trainers import standard

LIMIT = 600  # seconds, for a scenario that hangs


def batches(n, rank=0):
    generator = torch.Generator().manual_seed(10 + rank)
    return [(torch.rand(4, 4, generator=generator), torch.arange(4) % 3) for _ in range(n)]


class Unsized:
    def __init__(self, rows):
        self.rows = rows

    def __iter__(self):
        return iter(self.rows)


def fit(rank, data=None, *, n=1, objective=None, buffers=True, **options):
    """Train; return the losses and the weights."""
    torch.manual_seed(0)
    norm = nn.BatchNorm1d(5) if buffers else nn.Identity()
    # Else its gradients are laid out anew after the first step of a process, which decides in what
    # order three terms are added: a run that goes on would differ from one in a piece by rounding.
    layout = {"find_unused_parameters": torch.distributed.get_world_size() > 2}
    network = nn.Sequential(nn.Linear(4, 5), norm, nn.Linear(5, 3))
    model = DistributedDataParallel(network, **layout)
    optimizer = torch.optim.SGD(model.parameters(), lr=options.pop("lr", 0.1))
    data = batches(3, rank) if data is None else data
    records = trainers.fit(model, data, objective or standard(), optimizer, n=n, **options)
    weights = [value.tolist() for value in model.module.parameters()]
    return [record.loss for record in records], weights


def own(folder, rank):
    """Return the path of a checkpoint on a disk that only this process has."""
    disk = folder / str(rank)
    disk.mkdir(exist_ok=True)
    return disk / "run.pt"


# --- what each process does, given its rank and a folder ---------------------------------------


def other_number_of_batches(rank, folder):
    fit(rank, batches(3 + 2 * (rank == 1), rank))


def other_number_without_a_length(rank, folder):
    fit(rank, Unsized(batches(3 + 2 * (rank == 1), rank)), checkpoint=folder / "run.pt", every=1)


def one_has_nothing(rank, folder):
    fit(rank, Unsized(batches(2 * (rank == 0), rank)))


def other_n(rank, folder):
    fit(rank, n=1 + rank, checkpoint=folder / "run.pt")


def other_objective(rank, folder):
    loss = nn.functional.multi_margin_loss if rank == 1 else nn.functional.cross_entropy
    fit(rank, objective=standard(loss=loss))


def other_rate(rank, folder):
    fit(rank, lr=0.1 + rank)


def other_accumulate(rank, folder):
    fit(rank, accumulate=1 + rank)


def one_has_a_checkpoint(rank, folder):
    fit(rank, checkpoint=folder / "run.pt" if rank == 0 else None)


def other_dimensions(rank, folder):
    data = batches(3, rank)
    fit(rank, [(x[None], y[:1]) for x, y in data] if rank == 1 else data, buffers=False)


def no_folder_for_the_file(rank, folder):
    fit(rank, checkpoint=folder / "nowhere" / "run.pt")


def damaged(rank, folder):
    path = own(folder, rank)
    path.write_bytes(b"nothing")
    fit(rank, checkpoint=path)


def of_another_run(rank, folder):
    path = own(folder, rank)
    fit(rank, checkpoint=path)
    fit(rank, n=2, lr=0.5, checkpoint=path)


def other_data_in_one(rank, folder):
    path = own(folder, rank)
    fit(rank, checkpoint=path)
    fit(rank, batches(3, rank=5 if rank == 1 else rank), n=2, checkpoint=path)


def cannot_be_written(rank, folder):
    def full(*_):
        raise OSError(28, "No space left on device")

    os.fsync = full
    fit(rank, checkpoint=own(folder, rank))


def held_by_another(rank, folder):
    path = folder / "run.pt"
    if rank == 0 and (pid := os.fork()) == 0:
        with _files.held(path):
            (folder / "held").touch()
            signal.pause()
    while not (folder / "held").exists():
        time.sleep(0.005)
    try:
        fit(rank, checkpoint=path)
    finally:
        if rank == 0:
            os.kill(pid, signal.SIGKILL)
            os.waitpid(pid, 0)


def cannot_be_saved(rank, folder):
    fit(rank, checkpoint=folder / "run.pt", state={"history": [object()]})


def other_bins(rank, folder):
    evaluation.evaluate(nn.Linear(4, 3), batches(2, rank), n_bins=15 + rank, all_reduce=True)


def other_bins_of_tables(rank, folder):
    probs = torch.rand(10, 3).softmax(dim=1)
    metrics.reliability_bins(probs, torch.arange(10) % 3, n_bins=15 + rank).all_reduce()


REFUSED = {
    other_number_of_batches: (ValueError, "expected data length to be the same in all processes"),
    other_number_without_a_length: (ValueError, "expected as many batches in all processes"),
    one_has_nothing: (ValueError, "expected as many batches in all processes"),
    other_n: (ValueError, "expected n to be the same in all processes, got 1 in process 0 and 2"),
    other_objective: (ValueError, "expected objective to be the same in all processes"),
    other_rate: (ValueError, "expected optimizer lr to be the same in all processes"),
    other_accumulate: (ValueError, "expected accumulate to be the same in all processes"),
    one_has_a_checkpoint: (ValueError, "checkpoint to be the same in all processes"),
    other_dimensions: (ValueError, "expected inputs of as many dimensions in all processes"),
    no_folder_for_the_file: (ValueError, "expected checkpoint in a folder that exists"),
    damaged: (ValueError, "run.pt to be a checkpoint of epochs, got a file of text"),
    of_another_run: (ValueError, "run.pt to be of this run, with optimizer lr 0.5"),
    other_data_in_one: (ValueError, "run.pt to be of this run, with data whose first batch"),
    cannot_be_written: (OSError, "run.pt, got: No space left on device"),
    held_by_another: (BlockingIOError, "run.pt to be written by one at a time"),
    cannot_be_saved: (TypeError, "got object in state['history'][0]"),
    other_bins: (ValueError, "expected n_bins to be the same in all processes"),
    other_bins_of_tables: (ValueError, "expected reliability bins of the same edges in all"),
}


def undisturbed(rank, folder):
    return fit(rank, n=3)


def again_in_one_job(rank, folder):
    path = own(folder, rank)
    for n in (1, 2, 3):
        found = fit(rank, n=n, checkpoint=path)
    return found


def until_one_is_killed(rank, folder):
    seen = 0

    def objective(model, batch):
        nonlocal seen
        seen += 1
        if seen == 5 and rank == 1:
            os.kill(os.getpid(), signal.SIGKILL)
        return standard()(model, batch)

    options = {"checkpoint": own(folder, rank), "every": 1, "changed": ["objective"]}
    return fit(rank, n=3, objective=objective, **options)


def goes_on(rank, folder):
    """Start again, on disks that the first process alone has a file on."""
    options = {"checkpoint": own(folder, rank), "every": 1, "changed": ["objective"]}
    return fit(rank, n=3, **options)


# --- processes -------------------------------------------------------------------------------


def child(work, rank, size, folder, living):
    signal.alarm(LIMIT)
    torch.set_num_threads(1)
    torch.distributed.init_process_group(
        "gloo",
        init_method=f"file://{folder}/group{work.__name__}",
        rank=rank,
        world_size=size,
        timeout=timedelta(seconds=LIMIT),
    )
    try:
        found = work(rank, folder)
    except Exception as error:
        found = error
    (folder / f"{rank}.new").write_bytes(pickle.dumps(found))
    os.rename(folder / f"{rank}.new", folder / f"{work.__name__}{rank}")
    # Who leaves closes its connections, also to one that has not read its last word yet.
    while not all((folder / f"{work.__name__}{other}").exists() for other in living):
        time.sleep(0.005)
    os._exit(0)


def outcomes(work, size, folder, *, dead=()):
    """Run something in processes of a group; return what it gave or raised in each that lives."""
    pids, living = [], [rank for rank in range(size) if rank not in dead]
    for rank in range(size):
        if (pid := os.fork()) == 0:
            try:
                child(work, rank, size, folder, living)
            finally:
                os._exit(99)
        pids.append(pid)
    codes = [os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) for pid in pids]
    wanted = [-signal.SIGKILL if rank in dead else 0 for rank in range(size)]
    assert codes == wanted, f"{work.__name__} of {size}: {codes}"
    return [pickle.loads((folder / f"{work.__name__}{rank}").read_bytes()) for rank in living]


def main(folder, *sizes):
    torch.set_num_threads(1)
    model = nn.Linear(4, 3)  # what is loaded on first use is loaded here, once
    sgd = torch.optim.SGD(model.parameters(), lr=0.1)
    trainers.fit(model, batches(1), standard(), sgd, n=1, checkpoint=f"{folder}/run.pt")
    for size in map(int, sizes or (2, 3)):
        place = Path(folder) / str(size)
        chosen = REFUSED.items() if size == 2 or sizes else [*REFUSED.items()][1::6]
        for work, (kind, told) in chosen:
            place.mkdir()
            for rank, found in enumerate(outcomes(work, size, place)):
                assert type(found) is kind, f"{work.__name__}, {rank} of {size}: {found!r}"
                assert told in str(found), f"{work.__name__}, {rank} of {size}: {found!r}"
            left = [each.name for each in place.rglob(".*")]
            killed = [".run.pt.lock"] if work is held_by_another else []  # what held it was
            assert left == killed, f"{work.__name__} left {left}"
            shutil.rmtree(place)
        place.mkdir()
        wanted = outcomes(undisturbed, size, place)
        assert outcomes(again_in_one_job, size, place) == wanted
        (path,) = place.rglob("run.pt")
        assert path.parent.name == "0"
        assert list(torch.load(path, weights_only=True)["model"])[:2] == ["0.weight", "0.bias"]
        shutil.rmtree(place)
        place.mkdir()
        for found in outcomes(until_one_is_killed, size, place, dead=[1]):
            assert isinstance(found, RuntimeError), found
        assert outcomes(goes_on, size, place) == wanted
        shutil.rmtree(place)
    print(f"{len(REFUSED)} kinds refused in all processes, one killed, disks of their own")


if __name__ == "__main__":
    main(*sys.argv[1:])
