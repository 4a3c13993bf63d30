"""Two real processes train as one does, to 1e-6."""

import importlib.util
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from torch import nn

from advcal._frozen import bare, parallel, unwrapped

SCRIPT = Path(__file__).with_name("processes.py")
SPEC = importlib.util.spec_from_file_location("processes", SCRIPT)
processes = importlib.util.module_from_spec(SPEC)
SPEC.loader.exec_module(processes)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Run the script on two processes and on one; what it asserts itself is tested here too."""
    path = tmp_path_factory.mktemp("processes")
    launcher = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    for start in (launcher, []):
        command = [sys.executable, *start, str(SCRIPT), str(path)]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr
    return path


@pytest.mark.parametrize("case", [*processes.CASES, "ar_adals"])
def test_two_processes_train_as_one(folder, case):
    two, one = (torch.load(folder / f"{case}.{n}.pt", weights_only=True) for n in (2, 1))
    assert [n for *_, n in two["records"]] == [n for *_, n in one["records"]] == [26] * 3
    options = {"rtol": 1e-6, "atol": 1e-6}
    torch.testing.assert_close(two["records"], one["records"], **options)
    torch.testing.assert_close(two["weights"], one["weights"], **options)
    first, *_, last = one["records"]
    assert last[1] < first[1] or case == "ar_adals"  # whose targets move


def test_processes_that_differ_all_raise_and_none_hangs(tmp_path):
    script = SCRIPT.with_name("differing.py")
    command = [sys.executable, str(script), str(tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "kinds refused in all processes" in done.stdout


class Fabric(nn.Module):
    """The names of Lightning Fabric's wrapper."""

    def __init__(self, module):
        super().__init__()
        self._forward_module = module
        self._original_module = module


def test_what_is_inside_the_wrappers():
    model = nn.Linear(2, 2)
    compiled = torch.compile(model, backend="eager")
    assert unwrapped(model) is unwrapped(Fabric(model)) is bare(model) is bare(compiled) is model
    assert unwrapped(compiled) is unwrapped(Fabric(compiled)) is compiled
    assert bare(Fabric(compiled)) is model
    assert unwrapped(print) is print
    assert parallel(model) is parallel(compiled) is parallel(Fabric(model)) is None
