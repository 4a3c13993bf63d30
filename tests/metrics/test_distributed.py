"""Two processes over gloo have the figures of one."""

import pickle
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from advcal import metrics

WORKER = """
import logging, os, pickle, sys, warnings
from datetime import timedelta
import torch
from advcal import metrics
from tests.leaving import leave
rank, folder = int(sys.argv[1]), sys.argv[2]
torch.distributed.init_process_group(
    "gloo", init_method=f"file://{folder}/group", rank=rank, world_size=2,
    timeout=timedelta(seconds=600),
)
data = torch.load(f"{folder}/data.pt", weights_only=True)
probs, labels = (part[:300] if rank == 0 else part[300:] for part in data)
found = {}
for kind in ("tensor", "array"):
    own = (probs, labels) if kind == "tensor" else (probs.numpy(), labels.numpy())
    table, sketch = metrics.reliability_bins(*own), metrics.reliability_sketch(*own)
    found[kind] = [table, table.all_reduce(), sketch, sketch.all_reduce()]
    found[kind, "summary"] = metrics.summary(*own).all_reduce()
    weights = own[0][:, 0]
    found[kind, "weighted"] = metrics.reliability_bins(*own, weights=weights).all_reduce()
unlike = [
    metrics.reliability_bins(probs, labels, n_bins=10 + rank),
    metrics.reliability_bins(probs, labels, n_bins=10, binning="quantile"),
    metrics.reliability_bins(probs, labels, weights=None if rank else probs[:, 0]),
]
found["errors"] = []
for table in unlike:
    try:
        table.all_reduce()
    except ValueError as error:
        found["errors"].append(str(error))
try:
    import lightning.pytorch as lightning
    from advcal.metrics.torchmetrics import Calibration
except ImportError:
    found["logged"] = None
else:
    class Model(lightning.LightningModule):
        def __init__(self):
            super().__init__()
            names = ("accuracy", "brier", "ece", "mcs", "nll")
            self.figures = torch.nn.ModuleDict({name: Calibration(name) for name in names})

        def validation_step(self, batch, index):
            for name, figure in self.figures.items():
                figure.update(*batch)
                self.log(name, figure)

    os.environ["LOCAL_RANK"] = str(rank)  # the group that there is becomes the trainer's
    warnings.simplefilter("ignore")
    logging.getLogger("lightning.pytorch").setLevel(logging.ERROR)
    batches = torch.utils.data.DataLoader(torch.utils.data.TensorDataset(probs, labels), 100)
    trainer = lightning.Trainer(
        accelerator="cpu", devices=2, strategy="ddp", logger=False, enable_checkpointing=False,
        enable_progress_bar=False, use_distributed_sampler=False,
    )
    (found["logged"],) = trainer.validate(Model(), batches, verbose=False)
with open(f"{folder}/{rank}.new", "wb") as file:
    pickle.dump(found, file)
os.rename(f"{folder}/{rank}.new", f"{folder}/{rank}.pickle")
if torch.distributed.is_initialized():
    leave(folder)
"""

pytestmark = [
    pytest.mark.skipif(
        not (torch.distributed.is_available() and torch.distributed.is_gloo_available()),
        reason="PyTorch without gloo",
    ),
    # PyTorch 2.4 and 2.5 warn of themselves when a tensor is unpickled.
    pytest.mark.filterwarnings("ignore:You are using `torch.load`:FutureWarning"),
]


@pytest.fixture(scope="module")
def data():
    generator = torch.Generator().manual_seed(0)
    probs = torch.randn(1000, 5, generator=generator).mul(2).softmax(dim=1)
    return probs, torch.multinomial(probs, 1, generator=generator)[:, 0]


@pytest.fixture(scope="module")
def found(data, tmp_path_factory):
    folder = tmp_path_factory.mktemp("gloo")
    torch.save(data, folder / "data.pt")
    root = Path(metrics.__file__).parents[2]
    command = [sys.executable, "-c", WORKER]
    processes = [
        subprocess.Popen([*command, str(rank), str(folder)], cwd=root, stderr=subprocess.PIPE)
        for rank in (0, 1)
    ]
    try:
        for process in processes:
            _, errors = process.communicate(timeout=900)
            assert process.returncode == 0, errors.decode()
    finally:
        for process in processes:
            process.kill()
    return [pickle.loads((folder / f"{rank}.pickle").read_bytes()) for rank in (0, 1)]


FIGURES = ("ece", "mce", "mcs", "rmsce", "debiased_rmsce", "accuracy", "confidence")


def assert_same(got, wanted):
    for field in ("edges", "counts", "corrects"):
        np.testing.assert_array_equal(getattr(got, field), getattr(wanted, field))
    for name in (*FIGURES, "overconfidence", "underconfidence"):
        assert float(getattr(got, name)) == pytest.approx(float(getattr(wanted, name)), abs=1e-14)


@pytest.mark.parametrize("kind", ["tensor", "array"])
def test_two_processes_have_the_tables_of_one(kind, found, data):
    own = data if kind == "tensor" else tuple(part.numpy() for part in data)
    whole, sketch = metrics.reliability_bins(*own), metrics.reliability_sketch(*own)
    ours, theirs = (each[kind] for each in found)
    for table, reduced, fine, reduced_fine in (ours, theirs):
        assert type(reduced.counts) is type(own[0])
        assert int(table.n) in (300, 700)  # it stays as it was
        assert int(fine.bins.n) in (300, 700)
        assert_same(reduced, whole)
        assert_same(reduced_fine.bins, sketch.bins)
        assert float(reduced_fine.smooth_ece) == pytest.approx(float(sketch.smooth_ece), abs=1e-12)
        assert_same(reduced_fine.quantile_bins(), sketch.quantile_bins())
    for merged in (ours[0] + theirs[0], theirs[0] + ours[0]):
        assert_same(merged, ours[1])


@pytest.mark.parametrize("kind", ["tensor", "array"])
def test_two_processes_have_the_summary_of_one(kind, found, data):
    own = data if kind == "tensor" else tuple(part.numpy() for part in data)
    whole, reduced = metrics.summary(*own), found[0][kind, "summary"]
    assert_same(reduced.bins, whole.bins)
    for name in ("nll", "brier"):
        got, wanted = (each.interval(name) for each in (reduced, whole))
        assert list(map(float, got)) == pytest.approx(list(map(float, wanted)), rel=1e-12)


@pytest.mark.parametrize("kind", ["tensor", "array"])
def test_two_processes_have_the_weighted_table_of_one(kind, found, data):
    own = data if kind == "tensor" else tuple(part.numpy() for part in data)
    whole = metrics.reliability_bins(*own, weights=own[0][:, 0])
    for each in found:
        for name in ("ece", "mcs", "rmsce", "effective_n"):
            got, wanted = (getattr(table, name) for table in (each[kind, "weighted"], whole))
            assert float(got) == pytest.approx(float(wanted), rel=1e-12)


def test_lightning_logs_in_two_processes_what_one_has(found, data):
    if found[0]["logged"] is None:
        pytest.skip("without Lightning and torchmetrics")
    for each in found:
        assert len(each["logged"]) == 5
        for name, value in each["logged"].items():
            assert value == pytest.approx(float(getattr(metrics, name)(*data)), rel=1e-6)


def test_all_processes_have_the_same_to_the_last_bit(found):
    ours, theirs = (each["tensor"] for each in found)
    assert torch.equal(ours[1].confidences, theirs[1].confidences)
    assert torch.equal(ours[3].residuals, theirs[3].residuals)


def test_unlike_tables_are_refused_in_every_process(found):
    for each in found:
        assert len(each["errors"]) == 3
        for message in each["errors"]:
            assert message.startswith(
                "expected reliability bins of the same edges in all processes"
            )


def test_without_a_group_one_process_is_all(data):
    table, sketch = metrics.reliability_bins(*data), metrics.reliability_sketch(*data)
    total = metrics.summary(*data)
    assert total.all_reduce() is total
    assert table.all_reduce() is table
    assert sketch.all_reduce() is sketch
