"""The pretend device sees what a real one would say: faults planted, and what is legal beside."""

from collections import Counter

import pytest
import torch
from torch import nn

from tests.pretend_device import WAITS, Held, MixedDevicesError, Pretend, inside, natives


@pytest.fixture
def cuda():
    with Pretend("cuda") as device:
        yield device


@pytest.fixture
def mps():
    with Pretend("mps") as device:
        yield device


def vector(device, n=4):
    return device.tensor(torch.arange(float(n)))


WAITING = {
    "item": lambda x: x[0].item(),
    "bool": lambda x: bool((x > 0).any()),
    "a branch": lambda x: 1 if x.sum() else 0,
    "in": lambda x: 3.0 in x,
    "float": lambda x: float(x[1]),
    "tolist": lambda x: x.tolist(),
    "printed": repr,
    "max of Python": lambda x: max(x[0], x[1]),
    "a step": lambda x: x.add(x, alpha=x[1]),
    "an index": lambda x: x[x.argmax()],
    "a slice": lambda x: x[: x.argmax()],
    "nonzero": lambda x: x.nonzero(),
    "where": lambda x: torch.where(x > 0),
    "a mask": lambda x: x[x > 1],
    "written by mask": lambda x: x.__setitem__(x > 1, x[:2] + 1),
    "a number of the device by mask": lambda x: x.__setitem__(x > 1, x[0]),
    "filled with a number of the device": lambda x: x.masked_fill(x > 1, x[0]),
    "masked_select": lambda x: x.masked_select(x > 1),
    "unique": lambda x: x.unique(),
    "repeat_interleave": lambda x: x.repeat_interleave(x.long()),
    "equal": lambda x: torch.equal(x, x + 1),
    "allclose": lambda x: torch.allclose(x, x + 1),
    "to the CPU": lambda x: x.cpu(),
    "a list": lambda x: torch.tensor([1.0, 2.0], device=x.device),
    "a number": lambda x: torch.tensor(1.0, device=x.device),
    "new_tensor": lambda x: x.new_tensor(1.0),
    "from the CPU": lambda x: torch.ones(4).to(x.device),
    "copied": lambda x: x.copy_(torch.ones(4)),
    "a number written in one place": lambda x: x.__setitem__(0, 5.0),
    "indices in Python": lambda x: x[[0, 2]],
    "indices on the CPU": lambda x: x[torch.tensor([0, 2])],
    "svd": lambda x: torch.linalg.svdvals(torch.eye(2, device=x.device)),
    "cholesky": lambda x: torch.linalg.cholesky(torch.eye(2, device=x.device)),
    "inv": lambda x: torch.linalg.inv(torch.eye(2, device=x.device)),
    "normal": lambda x: torch.normal(0.0, x),
}
STREAMING = {
    "where": lambda x: torch.where(x > 0, x, 0.0),
    "a branch on shape": lambda x: x if len(x) else None,
    "a number written in a slice": lambda x: x.__setitem__(slice(2), 5.0),
    "a number by mask": lambda x: x.__setitem__(x > 1, 0.0),
    "filled": lambda x: x.masked_fill(x > 1, 0.0),
    "gather": lambda x: x.gather(0, x.long()),
    "an integer index": lambda x: x[x.long()],
    "a constant index": lambda x: x[1],
    "sorted": lambda x: x.sort().values.cumsum(0),
    "full": lambda x: torch.full((2,), 3.0, device=x.device) + torch.arange(2, device=x.device),
    "a number of the host": lambda x: x + torch.tensor(2.0),
    "one's own storage": lambda x: torch.equal(x, x),
    "inv_ex": lambda x: torch.linalg.inv_ex(torch.eye(2, device=x.device)),
    "histc": lambda x: torch.histc(x, 3, 0, 1),
    "repeat_interleave": lambda x: x.repeat_interleave(x.long(), output_size=6),
    "drawn": lambda x: torch.rand_like(x) + torch.randn(4, device=x.device),
    "a copy that is not waited for": lambda x: x.to("cpu", non_blocking=True),
    "backward": lambda x: torch.autograd.grad((x.requires_grad_() ** 2).sum(), x),
}


@pytest.mark.parametrize("name", WAITING)
def test_what_waits_is_counted_once_and_by_line(cuda, name):
    x = vector(cuda)
    WAITING[name](x)
    assert sum(cuda.waits.values()) == 1
    ((_, line),) = cuda.waits
    assert line.startswith("test_pretend_device.py:")


@pytest.mark.parametrize("name", STREAMING)
def test_what_does_not_wait_is_not_counted(cuda, name):
    STREAMING[name](vector(cuda))
    assert cuda.waits == Counter()
    assert cuda.operations


def test_bincount_waits_for_both_ends(cuda):
    vector(cuda).long().bincount()
    assert sum(cuda.waits.values()) == 2


def test_each_operation_of_unknown_size_or_result_has_a_rule():
    tags = {"data_dependent_output", "dynamic_output_shape"}
    rows = natives().items()
    named = {name.split(".")[0] for name, row in rows if tags & set(_listed(row.get("tags")))}
    assert named - WAITS.keys() == set()
    assert len(named) > 10


def _listed(value):
    return [value] if isinstance(value, str) else value or []


MIXED = {
    "added": lambda x, y: x + y,
    "written": lambda x, y: y.add_(x),
    "gathered": lambda x, y: x.gather(0, y.long()),
    "joined": lambda x, y: torch.cat([x, y]),
    "chosen": lambda x, y: torch.where(x > 0, x, y),
    "a matrix": lambda x, y: x[None] @ y[:, None],
    "indexed": lambda x, y: y[x.long()],
    "put": lambda x, y: x.__setitem__(x.long(), y),
    "a layer": lambda x, y: nn.Linear(4, 2)(x),
    "a number that was gathered": lambda x, y: x.gather(0, torch.tensor(1)),
    "added to a number": lambda x, y: y.sum().add_(x.sum()),
    "numpy": lambda x, y: x.numpy(),
}


@pytest.mark.parametrize("name", MIXED)
def test_devices_that_meet_raise(cuda, name):
    error = TypeError if name == "numpy" else MixedDevicesError
    with pytest.raises(error, match="cuda:0"):
        MIXED[name](vector(cuda), torch.arange(4.0))


def test_a_generator_draws_on_its_own_device(cuda):
    x = vector(cuda)
    for source, device in ((torch.Generator(), x.device), (cuda.generator(), torch.device("cpu"))):
        with pytest.raises(MixedDevicesError, match="device type for generator"):
            torch.rand(3, generator=source, device=device)
    drawn = torch.rand(3, generator=cuda.generator(5), device="cuda")
    wanted = torch.rand(3, generator=torch.Generator().manual_seed(5))
    assert torch.equal(inside(drawn), wanted)
    assert isinstance(drawn, Held)
    assert drawn.device == torch.device("cuda", 0)


def test_the_device_has_a_global_generator_of_its_own(cuda):
    torch.manual_seed(3)
    host = torch.get_rng_state()
    first = inside(torch.rand(3, device="cuda"))
    assert torch.equal(torch.get_rng_state(), host)
    assert torch.equal(torch.rand(3), first)
    assert not torch.equal(inside(torch.rand(3, device="cuda")), first)


def test_mps_has_no_float64_and_not_every_operation(mps):
    x = vector(mps)
    for doubled in (
        lambda: x.double(),
        lambda: torch.zeros(2, dtype=torch.float64, device="mps"),
        lambda: torch.ones(2, dtype=torch.float64).to("mps"),
        lambda: x.sum(dtype=torch.float64),
    ):
        with pytest.raises(TypeError, match="MPS framework doesn't support float64"):
            doubled()
    assert x.cpu().double().dtype == torch.float64
    with pytest.raises(NotImplementedError, match="not implemented for MPS"):
        torch.poisson(x)
    assert torch.equal(inside(x.float() + 2.0), torch.arange(4.0) + 2)


def test_what_is_not_deterministic_is_told(cuda):
    x = vector(cuda)
    x.long().bincount(), x.long().cumsum(0), x.median(), x.sort()
    assert cuda.unrepeatable == Counter()
    x.long().bincount(x), x.cumsum(0), x.median(0)
    assert [name for name, _ in cuda.unrepeatable] == ["bincount", "cumsum", "median"]


def test_a_capture_replays_on_new_data_and_refuses_to_wait(cuda):
    x = vector(cuda)
    weight = vector(cuda).requires_grad_()
    with cuda.capture() as tape:
        step = torch.autograd.grad((weight * x).exp().sum(), weight)[0]
        y = torch.where(step > 2, step, -step)
        y[:1] = 5.0
    x.data_inside.copy_(torch.arange(4.0) / 4)
    tape.replay()
    wanted = torch.arange(4.0) / 4 * (torch.arange(4.0) ** 2 / 4).exp()
    wanted = torch.where(wanted > 2, wanted, -wanted)
    wanted[0] = 5
    torch.testing.assert_close(inside(y), wanted)
    with pytest.raises(RuntimeError, match="capturing"), cuda.capture():
        x.sum().item()


def test_the_device_may_be_the_default_one():
    with Pretend("cuda", default=True) as device:
        for made in (torch.zeros(2), torch.tensor([1.0]), torch.arange(3), torch.rand(2)):
            assert made.device == device.device
        assert torch.zeros(2, device="cpu").device.type == "cpu"
    assert torch.zeros(2).device.type == "cpu"


def test_a_module_trains_there_as_on_the_cpu(cuda):
    model = nn.Sequential(nn.Conv2d(1, 2, 3), nn.BatchNorm2d(2), nn.Flatten(), nn.Linear(8, 3))
    inputs = torch.linspace(0, 1, 64).view(4, 1, 4, 4)
    there = cuda.module(model)
    for each, points in ((model, inputs), (there, cuda.tensor(inputs))):
        optimizer = torch.optim.SGD(each.parameters(), lr=0.1)
        for _ in range(2):
            optimizer.zero_grad()
            each(points).logsumexp(dim=1).sum().backward()
            optimizer.step()
    for name, value in there.state_dict().items():
        assert torch.equal(inside(value), model.state_dict()[name])
