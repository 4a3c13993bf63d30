"""The attacks under test, one row each, and the small models that they are tried on.

A new attack is tested by adding its row to `ROWS`.
"""

import inspect
from collections.abc import Callable
from functools import partial
from typing import NamedTuple

import pytest
import torch
from torch import nn
from torch.nn.functional import cross_entropy

from advcal.attacks import (
    ace,
    apgd,
    autoattack,
    autocast,
    batched,
    cascade,
    cw_l2,
    ddn,
    deepfool,
    fgsm,
    fmn,
    foot,
    generalised_ace,
    hopskipjump,
    iaa,
    minimum_norm,
    mma,
    n_fgsm,
    oca,
    pgd,
    pgd_conf,
    rca,
    square,
    uca,
    uniform_noise,
    worst_case,
)

SHAPE = (1, 4, 4)
N_CLASSES = 3
DEVICES = ["cpu"] + ["cuda"] * torch.cuda.is_available()


class Row(NamedTuple):
    """An attack with a small budget.

    Attributes:
        make: `eps`, `bounds` and `generator` to an attack; it leaves out what the attack lacks.
        norm: The norm of its ball, None where it has no ball.
        random: Whether the generator matters.
        forwards: How often it calls the model on one batch.
        backwards: How often it goes backward.
        fewer: Whether both are upper limits, since examples that are done leave the batch.
    """

    make: Callable
    norm: str | None
    random: bool
    forwards: int
    backwards: int
    fewer: bool = False


def configured(attack, **options):
    known = inspect.signature(attack).parameters

    def make(**common):
        common.setdefault("eps", 0.1)
        return partial(attack, **{k: v for k, v in common.items() if k in known}, **options)

    return make


def combined(combine, *makers):
    return lambda **common: combine(*[make(**common) for make in makers])


def each_cross_entropy(logits, labels):
    return cross_entropy(logits, labels, reduction="none")


UNIFORM = torch.full((N_CLASSES,), 1 / N_CLASSES, dtype=torch.float64)
PGD = configured(pgd, steps=3)
PGD_ZERO = configured(pgd, steps=3, random_start=False)
FGSM = configured(fgsm)
CW = configured(cw_l2, search_steps=2, steps=6, step_size=0.2, initial_c=0.5)
DEEPFOOL = configured(deepfool, steps=1, overshoot=0.5)
DEEPFOOL_L2 = configured(deepfool, steps=1, norm="l2", overshoot=0.5)

ROWS = {
    "fgsm": Row(FGSM, "linf", False, 1, 1),
    "fgsm-l2": Row(configured(fgsm, norm="l2"), "l2", False, 1, 1),
    "fgsm-l1": Row(configured(fgsm, norm="l1"), "l1", False, 1, 1),
    "fgsm-random": Row(configured(fgsm, random_start=True), "linf", True, 1, 1),
    "n_fgsm": Row(configured(n_fgsm), None, True, 1, 1),
    "fgsm-targeted": Row(configured(fgsm, targeted=True), "linf", False, 1, 1),
    "pgd": Row(PGD, "linf", True, 4, 3),
    "pgd-l2": Row(configured(pgd, steps=3, norm="l2"), "l2", True, 4, 3),
    "pgd-l1": Row(configured(pgd, steps=3, norm="l1", step_size=0.01), "l1", True, 4, 3),
    "pgd-dlr": Row(configured(pgd, steps=3, loss="dlr"), "linf", True, 4, 3),
    "pgd-kl": Row(configured(pgd, steps=3, loss="kl"), "linf", True, 5, 3),
    "pgd-momentum": Row(configured(pgd, steps=3, momentum=0.9), "linf", True, 4, 3),
    "pgd-stop_early": Row(
        configured(pgd, steps=3, restarts=2, stop_early=True), "linf", True, 8, 6, fewer=True
    ),
    "pgd-zero-stop_early": Row(
        configured(pgd, steps=3, random_start=False, stop_early=True),
        "linf",
        False,
        4,
        3,
        fewer=True,
    ),
    "pgd-zero-l1": Row(configured(pgd, steps=3, norm="l1", random_start=False), "l1", False, 4, 3),
    "pgd-zero-momentum": Row(
        configured(pgd, steps=3, momentum=1.0, random_start=False), "linf", False, 4, 3
    ),
    "pgd-targeted": Row(configured(pgd, steps=3, targeted=True), "linf", True, 4, 3),
    "pgd-margin": Row(configured(pgd, steps=3, loss="margin"), "linf", True, 4, 3),
    "pgd-restarts": Row(configured(pgd, steps=2, restarts=3), "linf", True, 9, 6),
    "pgd-zero": Row(PGD_ZERO, "linf", False, 4, 3),
    "pgd-zero-l2": Row(configured(pgd, steps=3, norm="l2", random_start=False), "l2", False, 4, 3),
    "pgd-callable": Row(configured(pgd, steps=3, loss=each_cross_entropy), "linf", True, 4, 3),
    "apgd": Row(configured(apgd, steps=5), "linf", True, 6, 5),
    "apgd-zero": Row(configured(apgd, steps=12, random_start=False), "linf", False, 13, 12),
    "apgd-zero-l2": Row(
        configured(apgd, steps=12, norm="l2", random_start=False), "l2", False, 13, 12
    ),
    "apgd-zero-l1": Row(
        configured(apgd, steps=5, norm="l1", random_start=False), "l1", False, 6, 5
    ),
    "apgd-sparse": Row(configured(apgd, steps=3, norm="l1", variant="sparse"), "l1", True, 6, 3),
    "apgd-sparse-zero": Row(
        configured(apgd, steps=5, norm="l1", variant="sparse", random_start=False, stop_early=True),
        "l1",
        False,
        8,
        5,
        fewer=True,
    ),
    "apgd-targeted": Row(configured(apgd, steps=5, targeted=True), "linf", True, 6, 5),
    "apgd-n_targets": Row(
        configured(apgd, steps=5, loss="margin", n_targets=9, random_start=False),
        "linf",
        False,
        1 + 2 * 6,
        2 * 5,
    ),
    "apgd-stop_early": Row(
        configured(apgd, steps=5, loss="dlr", random_start=False, stop_early=True),
        "linf",
        False,
        6,
        5,
        fewer=True,
    ),
    "square": Row(configured(square, steps=6), "linf", True, 6, 0, fewer=True),
    "square-l2": Row(configured(square, steps=6, norm="l2"), "l2", True, 6, 0, fewer=True),
    "square-l1": Row(configured(square, steps=6, norm="l1"), "l1", True, 6, 0, fewer=True),
    "square-targeted": Row(
        configured(square, steps=6, targeted=True), "linf", True, 6, 0, fewer=True
    ),
    "autoattack": Row(
        configured(autoattack, steps=3, queries=3, norm="l2"),
        "l2",
        True,
        1 + 1 + 3 + (4 + 1) + (1 + 2 * 4 + 1) + (4 + 1) + (3 + 1),
        1 + 3 + 2 * 3 + 3,
        fewer=True,
    ),
    "iaa": Row(configured(iaa, steps=4), "linf", False, 5, 4),
    "iaa-predicted": Row(configured(iaa, steps=4, label="predicted"), "linf", False, 7, 4),
    "iaa-published": Row(configured(iaa, steps=4, variant="published"), "linf", True, 4, 4),
    "iaa-search": Row(configured(iaa, steps=6, method="random_search"), "linf", True, 7, 0),
    "iaa-l2": Row(configured(iaa, steps=4, norm="l2"), "l2", False, 5, 4),
    "iaa-random": Row(configured(iaa, steps=4, random_start=True), "linf", True, 6, 4),
    "uca": Row(configured(uca, steps=3), "linf", False, 6, 3),
    "uca-l2": Row(configured(uca, steps=3, norm="l2"), "l2", False, 6, 3),
    "uca-anew": Row(configured(uca, steps=13), "linf", False, 16, 12),
    "uca-random": Row(configured(uca, steps=3, random_start=True), "linf", True, 6, 3),
    "uca-search": Row(configured(uca, steps=6, method="random_search"), "linf", True, 9, 0),
    "uca-search-l2": Row(
        configured(uca, steps=6, method="random_search", norm="l2"), "l2", True, 9, 0
    ),
    "oca": Row(configured(oca, steps=3), "linf", False, 6, 3),
    "mma": Row(configured(mma, steps=3), "linf", False, 6, 3),
    "rca": Row(configured(rca, steps=3), "linf", True, 6, 3),
    "ace": Row(configured(ace, search_steps=1), "linf", False, 2, 1),
    "generalised_ace": Row(
        configured(generalised_ace, steps=3, eta=-1.0, omega=UNIFORM), "linf", False, 6, 3
    ),
    "generalised_ace-search": Row(
        configured(
            generalised_ace, steps=6, eta=-1.0, omega=UNIFORM, method="random_search", norm="l2"
        ),
        *("l2", True, 9, 0),
    ),
    "pgd_conf": Row(configured(pgd_conf, steps=3), "linf", True, 4, 3),
    "pgd_conf-zero": Row(configured(pgd_conf, steps=3, random_start=False), "linf", False, 4, 3),
    "pgd_conf-l2": Row(configured(pgd_conf, steps=3, norm="l2"), "l2", True, 4, 3),
    "pgd_conf-l1": Row(
        configured(pgd_conf, steps=3, norm="l1", random_start=False), "l1", False, 4, 3
    ),
    "cw_l2": Row(CW, None, False, 1 + 2 * (7 + 8), 2 * 6, fewer=True),
    "cw_l2-targeted": Row(
        configured(cw_l2, search_steps=2, steps=6, step_size=0.2, initial_c=0.5, targeted=True),
        None,
        False,
        1 + 2 * (7 + 8),
        2 * 6,
        fewer=True,
    ),
    "ddn": Row(configured(ddn, steps=8), None, False, 9, 8),
    "ddn-targeted": Row(configured(ddn, steps=8, targeted=True), None, False, 9, 8),
    "fmn": Row(configured(fmn, steps=8), None, False, 9, 8),
    "fmn-l2": Row(configured(fmn, steps=8, norm="l2"), None, False, 9, 8),
    "fmn-targeted": Row(configured(fmn, steps=8, targeted=True), None, False, 9, 8),
    "deepfool": Row(DEEPFOOL, None, False, 2, 2, fewer=True),
    "deepfool-l2": Row(DEEPFOOL_L2, None, False, 2, 2, fewer=True),
    "foot": Row(configured(foot, steps=8, candidates=2), None, False, 9, 8),
    "foot-one": Row(configured(foot, steps=8, candidates=9), None, False, 9, 8),
    "foot-targeted": Row(configured(foot, steps=8, targeted=True), None, False, 9, 8),
    "hopskipjump": Row(configured(hopskipjump, steps=40), None, True, 40, 0, fewer=True),
    "hopskipjump-l2": Row(
        configured(hopskipjump, steps=40, norm="l2"), None, True, 40, 0, fewer=True
    ),
    "foot-levels": Row(
        configured(foot, steps=8, candidates=2, levels=256), None, False, 9 + 1 + 14, 8
    ),
    "minimum_norm": Row(configured(minimum_norm, steps=8), None, False, 9, 8),
    "minimum_norm-l2": Row(configured(minimum_norm, steps=8, norm="l2"), None, False, 9, 8),
    "minimum_norm-l1": Row(configured(minimum_norm, steps=8, norm="l1"), None, False, 9, 8),
    "minimum_norm-l0": Row(configured(minimum_norm, steps=8, norm="l0"), None, False, 9, 8),
    "minimum_norm-targeted": Row(
        configured(minimum_norm, steps=8, targeted=True), None, False, 9, 8
    ),
    "uniform_noise": Row(configured(uniform_noise), "linf", True, 0, 0),
    "uniform_noise-l2": Row(configured(uniform_noise, norm="l2"), "l2", True, 0, 0),
    "worst_case": Row(combined(worst_case, FGSM, PGD_ZERO), "linf", False, 3 + 1 + 4, 1 + 3),
    "worst_case-random": Row(combined(worst_case, FGSM, PGD), "linf", True, 3 + 1 + 4, 1 + 3),
    "cascade": Row(combined(cascade, FGSM, PGD_ZERO), "linf", False, 3 + 1 + 4, 1 + 3, fewer=True),
    "autocast": Row(combined(autocast, PGD_ZERO), "linf", False, 4 + 4, 3),
    "batched": Row(combined(partial(batched, size=2), PGD_ZERO), "linf", False, 2 * 4, 2 * 3),
    "batched-random": Row(combined(partial(batched, size=2), PGD), "linf", True, 2 * 4, 2 * 3),
}
N = 3  # the number of examples, for which `forwards` and `backwards` hold

DETERMINISTIC = [name for name, row in ROWS.items() if not row.random]
RANDOM = [name for name, row in ROWS.items() if row.random]
# Where a ball as small as the rows' leaves a random start no way to show in the end.
VARYING = [name for name in RANDOM if name not in ("apgd-sparse", "autoattack")]
IN_A_BALL = [name for name, row in ROWS.items() if row.norm]
CALLING = [name for name, row in ROWS.items() if row.forwards]

every_row = pytest.mark.parametrize("row", ROWS.values(), ids=ROWS)


def rows(names):
    return pytest.mark.parametrize("row", [ROWS[name] for name in names], ids=names)


def seeded(seed=0, device="cpu"):
    return torch.Generator(device).manual_seed(seed)


def linear(seed=0, shape=SHAPE, n_classes=N_CLASSES, dtype=torch.float32):
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        size = torch.Size(shape).numel()
        return nn.Sequential(nn.Flatten(), nn.Linear(size, n_classes)).to(dtype)


def mlp(seed=0, shape=SHAPE, n_classes=N_CLASSES, dtype=torch.float32, gain=3.0):
    """A smooth classifier, confident enough for its gradients to differ between examples."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        size = torch.Size(shape).numel()
        model = nn.Sequential(nn.Flatten(), nn.Linear(size, 8), nn.Tanh(), nn.Linear(8, n_classes))
        with torch.no_grad():
            for parameter in model.parameters():
                parameter.mul_(gain)
        return model.to(dtype)


class Delicate(nn.Module):
    """A convolutional classifier full of state that an attack could disturb."""

    def __init__(self, fail_at=None):
        super().__init__()
        self.layers = nn.Sequential(
            nn.Conv2d(1, 4, 3, padding=1), nn.BatchNorm2d(4), nn.ReLU(), nn.Dropout(0.5)
        )
        self.frozen = nn.Sequential(nn.Conv2d(4, 4, 3), nn.BatchNorm2d(4), nn.Dropout(0.5))
        self.head = nn.Sequential(nn.Flatten(), nn.Linear(16, N_CLASSES))
        self.register_buffer("written", torch.zeros((), dtype=torch.int64))
        self.register_buffer("replaced", torch.zeros(2), persistent=False)
        self.register_buffer("missing", None)
        self.calls = 0
        self.fail_at = fail_at

    def forward(self, inputs):
        self.calls += 1
        self.written += 1
        self.replaced = self.replaced + 1
        if self.calls == self.fail_at:
            raise InterruptedError("the model failed")
        return self.head(self.frozen(self.layers(inputs)))


def delicate(device="cpu", fail_at=None):
    """Some modules in train mode and some not, some parameters frozen, some with a gradient."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = Delicate(fail_at)
        for norm in (model.layers[1], model.frozen[1]):
            norm.running_mean.uniform_(-0.5, 0.5)
            norm.running_var.uniform_(0.5, 2)
    model.to(device).train()
    model.frozen.eval().requires_grad_(False)
    model.layers[0].bias.requires_grad_(False)
    for parameter in (model.layers[0].weight, model.frozen[0].weight, model.head[1].bias):
        parameter.grad = torch.full_like(parameter, 0.5)
    return model


def state(model):
    """Everything about a model that an attack must leave alone; equal if nothing changed."""
    return (
        [(name, id(p), p.tolist(), p.requires_grad) for name, p in model.named_parameters()],
        [
            (name, id(p.grad), p.grad if p.grad is None else p.grad.tolist())
            for name, p in model.named_parameters()
        ],
        [(name, id(buffer), buffer.tolist()) for name, buffer in model.named_buffers()],
        [(name, module.training) for name, module in model.named_modules()],
    )


def examples(n=N, shape=SHAPE, seed=0, dtype=torch.float32, device="cpu", bounds=(0.0, 1.0)):
    """Inputs all over the box, some exactly at its ends, and labels."""
    generator = seeded(seed)
    low, high = bounds
    spread = torch.rand(n, *shape, generator=generator, dtype=torch.float64) * 1.4 - 0.2
    inputs = (low + (high - low) * spread).clamp(low, high)
    labels = torch.randint(N_CLASSES, (n,), generator=generator)
    return inputs.to(device, dtype), labels.to(device)


class Counted:
    """A model that is not a module and counts its forward and backward passes."""

    def __init__(self, model):
        self.model = model
        self.forwards = self.backwards = 0

    def __call__(self, inputs):
        self.forwards += 1
        logits = self.model(inputs)
        if logits.requires_grad:
            logits.register_hook(self._count)
        return logits

    def _count(self, gradient):
        self.backwards += 1
        return gradient


class Rows:
    """A model that lists how many examples each call has."""

    def __init__(self, model):
        self.model, self.rows = model, []

    def __call__(self, inputs):
        self.rows.append(len(inputs))
        return self.model(inputs)
