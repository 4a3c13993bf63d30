"""The recipes for other libraries run, and learn."""

import importlib.util
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
CLEAN = r"accuracy(?:, clean:)? (\d\S*)"
ATTACKED = r"(?:accuracy, PGD:|under PGD) (\d\S*)"
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


@pytest.mark.parametrize(
    ("package", "recipe"),
    [("lightning", "with_lightning.py"), ("transformers", "with_transformers.py")],
)
def test_recipes_of_frameworks_that_keep_their_loop(package, recipe):
    if importlib.util.find_spec(package) is None:
        pytest.skip(f"{package} is not installed")
    command = [sys.executable, f"examples/recipes/{recipe}", "--epochs", "4"]
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        command, capture_output=True, text=True, check=False, cwd=ROOT, env=environment
    )
    assert done.returncode == 0, done.stderr
    found = {}
    for name, pattern in {"clean": CLEAN, "attacked": ATTACKED}.items():
        found[name] = float(re.search(pattern, done.stdout)[1])
    assert found["clean"] > 0.5
    assert 0.1 < found["attacked"] < found["clean"]
