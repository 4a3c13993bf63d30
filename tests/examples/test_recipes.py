"""The recipes for other libraries run, and learn."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
LAUNCHER = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]


@pytest.mark.parametrize(
    "start",
    [
        [*LAUNCHER, "examples/recipes/torchrun.py"],
        ["examples/recipes/with_fabric.py"],
        ["examples/recipes/with_fabric.py", "--devices", "2"],
        ["examples/recipes/with_accelerate.py"],
    ],
    ids=["torchrun", "fabric", "fabric on two", "accelerate"],
)
def test_recipes(start):
    command = [sys.executable, *start, "--epochs", "4"]
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        command, capture_output=True, text=True, check=False, cwd=ROOT, env=environment
    )
    assert done.returncode == 0, done.stderr
    losses = [float(loss) for loss in re.findall(r"loss (\S+) over 1000 examples", done.stdout)]
    assert len(losses) == 4
    assert losses[-1] < losses[0]
    clean, attacked = map(
        float, re.search(r"accuracy (\S+), under PGD (\S+)", done.stdout).groups()
    )
    assert clean > 0.5
    assert 0.1 < attacked < clean
