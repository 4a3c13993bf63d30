"""Two processes evaluate their parts and agree on the record of the whole."""

import json
import subprocess
import sys
from functools import partial
from pathlib import Path

import pytest
import torch
from torch import distributed, nn

from advcal.attacks import fgsm
from advcal.evaluation import evaluate, sweep
from tests.leaving import leave

ROOT = Path(__file__).parent.parent.parent


def model():
    torch.manual_seed(0)
    return nn.Linear(4, 3).double()


def data(n):
    torch.manual_seed(1)
    return torch.rand(n, 4).double(), torch.randint(3, (n,))


def part(n, rank, empty):
    inputs, labels = data(n)
    if empty:
        return [(inputs, labels)] if rank == 0 else []
    rows = slice(rank, None, 2)
    return list(zip(inputs[rows].split(4), labels[rows].split(4), strict=True))


def work(rank, folder):
    """What each of two processes does."""
    where = (Path(folder) / "rendezvous").as_uri()
    distributed.init_process_group("gloo", init_method=where, rank=rank, world_size=2)
    attack = partial(fgsm, eps=0.1)
    found = [
        evaluate(model(), part(31, rank, empty), attack, all_reduce=True).as_dict()
        for empty in (False, True)
    ]
    try:
        evaluate(model(), [], all_reduce=True)
    except ValueError as error:
        found.append(str(error))
    found.append(evaluate(model(), part(31, rank, False)).n)
    file = Path(folder) / "sweep.jsonl" if rank == 0 else Path(folder) / "nowhere.jsonl"
    for attacks in ({"none": None}, {"none": None, "FGSM": fgsm}):
        batches = {"test": part(31, rank, False)}
        records = sweep({"m": model()}, batches, attacks, file, eps=[0.1], all_reduce=True)
    found.append(records)
    try:
        sweep({"other": model()}, batches, attacks, file, eps=[0.1], all_reduce=True)
    except ValueError as error:
        found.append(str(error))
    (Path(folder) / f"{rank}.json").write_text(json.dumps(found))
    leave(folder)


@pytest.fixture(scope="module")
def results(tmp_path_factory):
    folder = tmp_path_factory.mktemp("processes")
    code = "import sys; from tests.evaluation.test_processes import work; "
    command = [sys.executable, "-c", code + "work(int(sys.argv[1]), sys.argv[2])"]
    running = [
        subprocess.Popen([*command, str(rank), str(folder)], cwd=ROOT, stderr=subprocess.PIPE)
        for rank in range(2)
    ]
    for process in running:
        _, error = process.communicate(timeout=300)
        assert process.returncode == 0, error.decode()
    assert not (folder / "nowhere.jsonl").exists()
    lines = (folder / "sweep.jsonl").read_text().splitlines()
    found = [json.loads((folder / f"{rank}.json").read_text()) for rank in range(2)]
    return found, [json.loads(line) for line in lines]


@pytest.mark.parametrize("case", [0, 1], ids=["halves", "one has none"])
def test_every_process_has_the_record_of_all_data(results, case):
    (first, second), _ = results
    whole = evaluate(model(), [data(31)], partial(fgsm, eps=0.1)).as_dict()
    assert first[case] == second[case]
    got = dict(first[case])
    bins, wanted = got.pop("bins"), whole.pop("bins")
    intervals = got.pop("intervals"), whole.pop("intervals")
    assert got == pytest.approx(whole, rel=1e-12, abs=1e-12)
    for name in intervals[1]:
        assert intervals[0][name] == pytest.approx(intervals[1][name], rel=1e-9, abs=1e-12)
    assert bins["counts"] == wanted["counts"]
    assert bins["corrects"] == wanted["corrects"]
    assert bins["edges"] == wanted["edges"]
    assert bins["confidences"] == pytest.approx(wanted["confidences"], rel=1e-12)


def test_no_data_anywhere_is_said_by_every_process(results):
    for found in results[0]:
        assert found[2] == "expected one batch or more, got none"


def test_nothing_is_summed_unless_asked_for(results):
    assert [found[3] for found in results[0]] == [16, 15]


def test_a_sweep_of_two_processes_has_one_file(results):
    (first, second), lines = results
    assert first[4] == second[4] == lines
    assert [record["n"] for record in lines] == [31, 31]
    assert "of this sweep alone" in first[5]
    assert first[5] == second[5]


def test_without_a_process_group_there_is_one_process():
    one = evaluate(model(), [data(9)], all_reduce=True)
    assert one.as_dict() == evaluate(model(), [data(9)]).as_dict()
    with pytest.raises(ValueError, match="expected one batch or more, got none"):
        evaluate(model(), [], all_reduce=True)
