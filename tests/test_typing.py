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
all_sketches = 0
for sketch in sketches:
    all_sketches += sketch
whole: ReliabilityBins[Tensor] = sum(tables[1:], tables[0])
whole += tables[0]
fine: ReliabilitySketch[Tensor] = sum(sketches[1:], sketches[0])
fine += sketches[0]
print(float(whole.ece), float(fine.smooth_ece))
"""

OBJECTIVES = """
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from advcal import attacks, evaluation, losses, trainers
from advcal.attacks import Attack
from advcal.losses import Loss
from advcal.trainers import Batch, Objective


def noise(model: nn.Module, inputs: Tensor, labels: Tensor, *, eps: float = 0.1) -> Tensor:
    return (inputs + eps * torch.randn_like(inputs)).clamp(0, 1)


def small_logits(logits: Tensor, labels: Tensor) -> Tensor:
    return cross_entropy(logits, labels) + logits.square().mean()


def plain(model: nn.Module, batch: tuple[Tensor, Tensor]) -> Tensor:
    inputs, labels = batch
    loss: Tensor = cross_entropy(model(inputs), labels)
    return loss


def on_anything(model: nn.Module, batch: Batch) -> Tensor:
    inputs, labels, *_ = batch
    loss: Tensor = cross_entropy(model(inputs), labels)
    return loss


@dataclass(frozen=True)
class Noisy:
    eps: float

    def craft(self, model: nn.Module, batch: tuple[Tensor, Tensor]) -> tuple[Tensor, Tensor]:
        inputs, labels = batch
        return trainers.craft(partial(noise, eps=self.eps), model, inputs, labels), labels

    def loss_of(self, model: nn.Module, crafted: tuple[Tensor, Tensor]) -> Tensor:
        return plain(model, crafted)

    def __call__(self, model: nn.Module, batch: tuple[Tensor, Tensor]) -> Tensor:
        return self.loss_of(model, self.craft(model, batch))


pgd = partial(attacks.pgd, eps=0.1)
objectives: list[Objective] = [plain, on_anything, Noisy(0.1), trainers.standard()]
objectives += [trainers.adversarial(noise, loss=small_logits), trainers.adversarial(pgd)]
objectives += [trainers.trades(noise), trainers.trades(), trainers.mart(pgd, lam=2.0)]
objectives += [trainers.mixed(plain, Noisy(0.1), weights=[1, 2]), trainers.ccat(noise, eps=0.1)]
objectives += [trainers.awp(plain), trainers.awp(Noisy(0.1)), trainers.mixup(alpha=0.4)]
objectives += [trainers.anti_adversarial(noise, reference=pgd)]
objectives += [trainers.standard(loss=losses.focal)]

model = nn.Linear(2, 2)
batches = [(torch.rand(4, 2), torch.tensor([0, 1, 1, 0]))]
optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
for objective in objectives:
    loss: Tensor = objective(model, batches[0])
    loss.backward()
    trainers.fit(model, batches, objective, optimizer, n=1)
own: list[Attack] = [noise, pgd, attacks.worst_case(noise, pgd), attacks.batched(noise, 2)]
climbed: list[Loss] = [small_logits, losses.margin, cross_entropy]
for attack in own:
    accuracy: float = evaluation.evaluate(model, batches, attack).accuracy
"""


@pytest.mark.parametrize("script", [SUMS, OBJECTIVES], ids=["sums", "objectives"])
def test_scripts_of_users_pass_the_strict_checks(script, tmp_path):
    path = tmp_path / "script.py"
    path.write_text(script, encoding="utf-8")
    command = [sys.executable, "-m", "mypy", "--strict", "--no-error-summary", str(path)]
    found = subprocess.run(command, capture_output=True, text=True, check=False, cwd=ROOT)
    assert found.stdout + found.stderr == ""


@pytest.mark.parametrize("script", [SUMS, OBJECTIVES], ids=["sums", "objectives"])
def test_scripts_of_users_run(script):
    exec(compile(script, "script", "exec"), {"__name__": "script"})
