"""Tests compute on one thread, as do the scripts that they start, which import this checkout.

What they compute is small, and a second thread costs more than it gives. A test that forks would
wait forever for threads that have computed before.
"""

import os
from pathlib import Path

import torch

ROOT = str(Path(__file__).parent.parent)
os.environ["PYTHONPATH"] = os.pathsep.join(filter(None, [ROOT, os.environ.get("PYTHONPATH")]))
os.environ["OMP_NUM_THREADS"] = "1"
torch.set_num_threads(1)
