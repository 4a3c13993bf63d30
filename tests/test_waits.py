"""How often a device is waited for, what the host sends to it, what compiles and what is captured.

Counts, not times: they are the same on every machine.
"""

from functools import partial

import pytest
import torch
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.checkpoint import checkpoint

from advcal import _batches, _checks, losses, trainers
from advcal.attacks import (
    adversarial_distance,
    apgd,
    autoattack,
    cw_l2,
    ddn,
    deepfool,
    fgsm,
    fmn,
    foot,
    iaa,
    minimum_norm,
    mma,
    oca,
    pgd,
    rca,
    square,
    uca,
)
from tests.pretend_device import Pretend, inside

EPS = 0.05


def network(depth=2):
    torch.manual_seed(0)
    layers = [nn.Conv2d(1, 4, 3, padding=1)]
    for _ in range(depth):
        layers += [nn.BatchNorm2d(4), nn.ReLU(), nn.Conv2d(4, 4, 3, padding=1)]
    return nn.Sequential(*layers, nn.Flatten(), nn.Linear(256, 5))


def examples(n=8):
    generator = torch.Generator().manual_seed(1)
    return torch.rand(n, 1, 8, 8, generator=generator), torch.arange(n) % 5


def waits_of(attack, n=8, model=None):
    with Pretend("cuda") as device:
        model = device.module(model or network().eval())
        inputs, labels = map(device.tensor, examples(n))
        device.reset()
        attack(model, inputs, labels)
    return device.waits


# --- attacks ---------------------------------------------------------------------------------

IN_BALLS = {
    **{each.__name__: partial(each, eps=EPS) for each in (pgd, apgd, iaa, uca, oca, mma, rca)},
    **{f"pgd-{norm}": partial(pgd, eps=0.5, norm=norm) for norm in ("l2", "l1")},
    **{f"apgd-{norm}": partial(apgd, eps=0.5, norm=norm) for norm in ("l2", "l1")},
    **{f"pgd-{loss}": partial(pgd, eps=EPS, loss=loss) for loss in ("margin", "dlr", "kl")},
    "pgd-targeted": partial(pgd, eps=EPS, targeted=True),
    "pgd-library loss": partial(pgd, eps=EPS, loss=losses.focal),
    "apgd-targets": partial(apgd, eps=EPS, loss="dlr", n_targets=2),
    "iaa-predicted": partial(iaa, eps=EPS, label="predicted"),
    "iaa-random search": partial(iaa, eps=EPS, method="random_search"),
}
NO_WAIT = IN_BALLS | {"cw_l2": cw_l2, "ddn": ddn, "fmn": fmn, "fmn-l2": partial(fmn, norm="l2")}
NO_WAIT |= {f"minimum_norm-{n}": partial(minimum_norm, norm=n) for n in ("linf", "l2", "l1", "l0")}
NO_WAIT |= {"foot": foot, "foot-targeted": partial(foot, targeted=True)}


@pytest.mark.parametrize("n", [4, 8])
@pytest.mark.parametrize("name", NO_WAIT)
def test_no_step_waits(name, n):
    few, many = (waits_of(partial(NO_WAIT[name], steps=steps), n) for steps in (4, 8))
    assert few == many
    assert few.total() <= 6


SEVERAL = {
    "square": (partial(square, eps=EPS), 1),
    "square-l2": (partial(square, eps=0.5, norm="l2"), 1),
    "pgd": (partial(pgd, eps=EPS, stop_early=True), 1),
    "apgd": (partial(apgd, eps=EPS, stop_early=True), 1),
    "autoattack": (
        lambda *batch, steps: autoattack(*batch, eps=EPS, steps=steps, queries=steps),
        4,
    ),
}


@pytest.mark.parametrize("name", SEVERAL)
def test_examples_that_are_done_are_looked_for_now_and_then(name):
    attack, most = SEVERAL[name]
    counts = [waits_of(partial(attack, steps=steps)).total() for steps in (8, 16)]
    assert counts[1] - counts[0] <= 8 * most


@pytest.mark.parametrize("name", [*SEVERAL, "deepfool"])
def test_a_whole_call_waits_little_besides_looking_who_is_done(name):
    waits = waits_of(partial(SEVERAL.get(name, [deepfool])[0], steps=8))
    looks = sum(n for (kind, _), n in waits.items() if kind == "nonzero")
    assert 0 < looks <= (4 * 8 if name == "autoattack" else 8)
    assert waits.total() - looks <= 6


DISTANCES = {"linear": 3, "quick": 6, "fast": 4, "precise": 6}
EACH_SEARCH = 3  # to read its examples, to look for NaN, and whether its logits have a softmax


@pytest.mark.parametrize("name", DISTANCES)
def test_a_distance_waits_little_besides_looking_who_is_in_doubt(name):
    waits = waits_of(lambda model, inputs, _: adversarial_distance(model, inputs, attack=name))
    looks = sum(n for (kind, _), n in waits.items() if kind == "nonzero")
    # Once for each of the four other classes, whichever of the examples are left.
    assert looks == (4 if name in ("fast", "precise") else 0)
    assert waits.total() - looks <= DISTANCES[name] + EACH_SEARCH * looks


def test_what_was_read_of_a_tensor_is_read_again_once_somebody_wrote_to_it():
    inputs, labels, _ = _batches.attack_inputs(*examples(), (0.0, 1.0))
    assert _checks.noted(labels) == {"ends": (0, 4)}
    labels[3], inputs[0] = 9, 0.5
    assert _checks.noted(labels) == {}
    _batches.attack_inputs(inputs, labels, (0.0, 1.0))
    inputs[0] = torch.nan
    with pytest.raises(ValueError, match="got values from nan"):
        _batches.attack_inputs(inputs, labels, (0.0, 1.0))


@pytest.mark.parametrize("attack", [pgd, apgd, square])
def test_what_leaves_late_is_fooled_all_the_same(attack):
    options = {"eps": 0.02, "steps": 12} | ({} if attack is square else {"stop_early": True})
    model, (inputs, labels) = network().eval(), examples(40)
    wanted = attack(model, inputs, labels, generator=torch.Generator().manual_seed(2), **options)
    with Pretend("cuda") as device:
        generator = device.generator(2)
        there = device.module(model), device.tensor(inputs), device.tensor(labels)
        found = inside(attack(*there, generator=generator, **options))
    verdict = model(wanted).argmax(dim=1) != labels
    assert torch.equal(model(found).argmax(dim=1) != labels, verdict)
    assert 0 < verdict.sum() < 40
    torch.testing.assert_close(found, wanted)


class FromTheThird(nn.Module):
    """A network that is NaN at one example, from its third pass on."""

    def __init__(self):
        super().__init__()
        self.network, self.passes = network().eval(), 0

    def forward(self, inputs):
        self.passes += 1
        bad = torch.arange(len(inputs), device=inputs.device) == 2
        hidden = torch.where(bad[:, None], torch.nan if self.passes > 2 else 0.0, 0.0)
        return self.network(inputs) + hidden


@pytest.mark.parametrize("on_device", [False, True])
@pytest.mark.parametrize(
    "name", sorted(NO_WAIT.keys() - {"cw_l2"})
)  # which leaves the wrong ones out
def test_nan_is_told_at_the_end_by_its_example(name, on_device):
    attack, model = partial(NO_WAIT[name], steps=4), FromTheThird().eval()
    with pytest.raises(ValueError, match="got NaN at example 2 of the 4 that"):
        waits_of(attack, 4, model) if on_device else attack(model, *examples(4))


@pytest.mark.parametrize("label", [-1, 5, 2**40])
@pytest.mark.parametrize("name", NO_WAIT)
def test_labels_out_of_range_are_told_before_a_kernel_meets_them(name, label):
    with pytest.raises(ValueError, match=f"labels from 0 to 4, got {label}$"):
        waits_of(lambda m, x, y: NO_WAIT[name](m, x, y.masked_fill(y == 2, label), steps=2))


# --- training --------------------------------------------------------------------------------

COPIES = 2  # of a batch that is on the CPU and not pinned: its inputs and its labels
AT = trainers.adversarial(partial(pgd, eps=EPS))
OBJECTIVES = {
    "standard": (trainers.standard(), 1),
    "mixup": (trainers.mixup(), 3),
    "pgd": (AT, 8),
    "trades": (trainers.trades(), 8),
    "at + iat": (trainers.mixed(AT, trainers.adversarial(partial(iaa, eps=EPS))), 12),
}


@pytest.mark.parametrize("name", OBJECTIVES)
def test_training_waits_little_in_each_batch(name):
    objective, most = OBJECTIVES[name]
    counts = []
    for n in (1, 3):
        with Pretend("cuda") as device:
            model = device.module(network(20))
            optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
            device.reset()
            trainers.fit(model, [examples()] * n, objective, optimizer, n=1)
        counts.append(device.waits.total())
    assert counts[1] - counts[0] <= 2 * (most + COPIES)


LOSSES = {"its own": {}, "of the library": {"loss": losses.focal}}
FIRST = {
    "standard": trainers.standard,
    "mixup": trainers.mixup,
    "adversarial": partial(trainers.adversarial, lambda model, inputs, labels: inputs),
}


@pytest.mark.parametrize("on_device", [False, True])
@pytest.mark.parametrize("label", [-1, 5, 2**40])
@pytest.mark.parametrize("loss", LOSSES)
@pytest.mark.parametrize("name", FIRST)
def test_objectives_refuse_labels_out_of_range(name, loss, label, on_device):
    objective, (inputs, labels) = FIRST[name](**LOSSES[loss]), examples()
    labels[3] = label
    with Pretend("cuda") as device:
        model, batch = network(), (inputs, labels)
        if on_device:
            model, batch = device.module(model), tuple(map(device.tensor, batch))
        with pytest.raises(ValueError, match=f"from 0 to 4, got {label}$"):
            objective(model, batch)


@pytest.mark.parametrize("name", FIRST)
def test_cross_entropy_leaves_out_the_label_that_torch_does(name):
    objective, (inputs, labels) = FIRST[name](), examples()
    labels[3] = -100
    torch.manual_seed(0)
    assert objective(network(), (inputs, labels)).isfinite()


# --- what the host sends ---------------------------------------------------------------------


class Counted(TorchDispatchMode):
    """Count the operations that reach a device."""

    n = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        self.n += 1
        return func(*args, **(kwargs or {}))


def operations(work):
    with Counted() as counted:
        work()
    return counted.n


@pytest.mark.parametrize(("attack", "most"), [(pgd, 45), (apgd, 60), (iaa, 60), (uca, 290)])
def test_a_step_sends_few_operations_besides_the_passes(attack, most):
    model, (inputs, labels) = network().eval().requires_grad_(False), examples()

    def passes():
        points = inputs.detach().requires_grad_()
        torch.autograd.grad(model(points), points, torch.ones(8, 5))

    own = operations(passes) - 2  # the detach and the ones
    few, many = (
        operations(partial(attack, model, inputs, labels, eps=EPS, steps=steps))
        for steps in (8, 16)
    )
    assert (many - few) / 8 - own <= most


# --- compiled --------------------------------------------------------------------------------


def compiled(function):
    torch._dynamo.reset()
    return torch.compile(function, fullgraph=True, backend="aot_eager")


ATTACKED = {"attacked": torch.randn(8, 5, generator=torch.Generator().manual_seed(3))}
EACH_LOSS = {"mart": ATTACKED, "trades": ATTACKED}
EACH_LOSS |= {
    name: {}
    for name in (
        *("confidence_penalty", "dlr", "flsd53", "focal", "inverse_adversarial"),
        *("label_relaxation", "margin", "mbls"),
    )
}


@pytest.mark.parametrize("name", EACH_LOSS)
def test_losses_compile_in_one_graph(name):
    loss = partial(getattr(losses, name), **EACH_LOSS[name])
    logits, labels = torch.randn(8, 5, requires_grad=True), examples()[1]
    wanted, found = loss(logits, labels), compiled(loss)(logits, labels)
    torch.testing.assert_close(found, wanted)
    torch.testing.assert_close(*(torch.autograd.grad(each, logits)[0] for each in (found, wanted)))


@pytest.mark.parametrize(
    "options", [{}, {"norm": "l2"}, {"loss": "margin", "targeted": True}], ids=str
)
def test_a_step_of_pgd_compiles_in_one_graph(options):
    model = network().train()
    attack = partial(pgd, model, eps=EPS, steps=1, random_start=False, **options)
    assert torch.equal(compiled(attack)(*examples()), attack(*examples()))
    assert all(module.training for module in model.modules())
    assert model[1].num_batches_tracked == 0


@pytest.mark.parametrize(
    "objective",
    [
        trainers.standard(),
        trainers.adversarial(partial(pgd, eps=EPS, steps=2, random_start=False)),
        trainers.adversarial(partial(iaa, eps=EPS, steps=2)),
        trainers.trades(partial(fgsm, eps=EPS, random_start=False)),
    ],
    ids=["standard", "pgd", "iaa", "trades"],
)
def test_a_step_of_training_compiles_in_one_graph(objective):
    results = []
    for make in (compiled, lambda function: function):
        model = network()
        loss = make(partial(objective, model))(examples())
        loss.backward()
        results.append([loss.detach(), *(each.grad for each in model.parameters())])
        assert all(module.training for module in model.modules())
    torch.testing.assert_close(*results)


def test_random_starts_of_a_compiled_objective_are_fresh():
    attack = partial(pgd, eps=EPS, steps=1)
    craft = compiled(partial(trainers.craft, attack, network()))
    first, second = craft(*examples()), craft(*examples())
    assert not torch.equal(first, second)
    assert (first - examples()[0]).abs().max() <= EPS


class Checkpointed(nn.Module):
    """A network that keeps none of its activations."""

    def __init__(self, reentrant):
        super().__init__()
        self.network, self.reentrant = network().eval(), reentrant

    def forward(self, inputs):
        return checkpoint(self.network, inputs, use_reentrant=self.reentrant)


def test_reentrant_checkpoints_are_named():
    attack = partial(pgd, eps=EPS, steps=2, random_start=False)
    found = attack(Checkpointed(False), *examples())
    assert torch.equal(found, attack(network().eval(), *examples()))
    with pytest.raises(ValueError, match="reentrant checkpoints; pass use_reentrant=False"):
        attack(Checkpointed(True), *examples())


# --- captured --------------------------------------------------------------------------------

CAPTURED = {
    "pgd": partial(pgd, random_start=False),
    "l2": partial(pgd, norm="l2", random_start=False),
}
CAPTURED |= {"random": pgd, "targeted": partial(pgd, targeted=True, random_start=False)}


@pytest.mark.parametrize("name", CAPTURED)
def test_a_whole_attack_can_be_captured(name, monkeypatch):
    """By the rules of torch: no wait, no copy from the host, no random state read."""
    attack = partial(CAPTURED[name], eps=EPS, steps=3)
    with Pretend("cuda") as device:
        model = device.module(network().train())
        inputs, labels = map(device.tensor, examples())
        with monkeypatch.context() as patch, device.capture() as tape:
            patch.setattr(torch.cuda, "is_initialized", lambda: True)
            patch.setattr(torch.cuda, "is_current_stream_capturing", lambda: True)
            patch.setattr(torch.cuda, "get_rng_state", None)  # refused in a capture
            found = attack(model, inputs, labels)
        inputs.data_inside.copy_(inputs.data_inside.flip(0))
        labels.data_inside.copy_(labels.data_inside.flip(0))
        tape.replay()
    if name != "random":
        there = network().train(), inside(inputs), inside(labels)
        assert torch.equal(inside(found), attack(*there))
    assert (inside(found) - inside(inputs)).flatten(1).norm(dim=1).max() > 0
