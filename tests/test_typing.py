"""What a user writes passes mypy in strict mode."""

import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]

SUMS = """
import torch
from torch import Tensor

from advcal.metrics import ReliabilityBins, ReliabilitySketch, reliability_bins, reliability_sketch

probs, labels = torch.tensor([[0.9, 0.1]]), torch.tensor([0])
tables = [reliability_bins(probs, labels) for _ in range(3)]
sketches = [reliability_sketch(probs, labels) for _ in range(3)]

print(sum(tables), sum(sketches))
total = 0
for table in tables:
    total += table
for sketch in sketches:
    total += sketch
whole: ReliabilityBins[Tensor] = sum(tables[1:], tables[0])
whole += tables[0]
fine: ReliabilitySketch[Tensor] = sum(sketches[1:], sketches[0])
fine += sketches[0]
print(float(whole.ece), float(fine.smooth_ece))
"""


@pytest.mark.parametrize("script", [SUMS], ids=["sums"])
def test_scripts_of_users_pass_the_strict_checks(script, tmp_path):
    path = tmp_path / "script.py"
    path.write_text(script, encoding="utf-8")
    command = [sys.executable, "-m", "mypy", "--strict", "--no-error-summary", str(path)]
    found = subprocess.run(command, capture_output=True, text=True, check=False, cwd=ROOT)
    assert found.stdout + found.stderr == ""
