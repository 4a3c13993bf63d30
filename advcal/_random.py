"""Random numbers that leave the global random state as it was, or move it by one number."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, cast

import torch
from torch import Tensor

from advcal import _checks


def resolve(value: torch.Generator | None, device: torch.device) -> torch.Generator:
    """Check a generator; None stands for a copy of the global one.

    The copy starts where the global generator of the device stands, so that `torch.manual_seed`
    governs it, and leaves the original where it was: a second call draws the same numbers. Where no
    state can be read, None stands for the global one itself.
    """
    _checks.generator("generator", value)
    if value is not None or _checks.recording():
        return cast(torch.Generator, value)
    if device.type == "cuda":
        return torch.Generator(device).set_state(torch.cuda.get_rng_state(device))
    return torch.Generator().set_state(torch.get_rng_state())


def onward(generator: torch.Generator | None) -> torch.Generator:
    """Return the caller's generator, or a new one that the global random state seeds and moves by.

    For what trains: each call draws anew, and a checkpoint, which has the global state, knows where
    to go on.
    """
    if generator is not None or _checks.recording():
        return cast(torch.Generator, generator)
    return torch.Generator().manual_seed(_seed())


def draw(
    sampler: Callable[..., Tensor], like: Tensor, generator: torch.Generator | None, **options: Any
) -> Tensor:
    """Draw numbers of the shape, dtype and device of a tensor; None is the global state itself."""
    device = like.device if generator is None else generator.device
    if sampler in (torch.rand, torch.randn):  # whatever torch's default dtype is
        options = {"dtype": torch.float32, **options}
    noise = sampler(like.shape, generator=generator, device=device, **options)
    return noise.to(like.device, like.dtype)


def steady(generator: torch.Generator | None) -> torch.Generator:
    """Return the caller's generator, or a copy of the global one, or what takes an mps's place.

    For draws of float64 and of what only the CPU and CUDA draw: a CPU generator that the caller's
    seeds, and moves it by one number.
    """
    source = resolve(generator, torch.device("cpu"))
    if source.device.type != "mps":
        return source
    seed = torch.randint(2**62, (), generator=source, device=source.device)
    return torch.Generator().manual_seed(int(seed))


@contextmanager
def anew(device: torch.device) -> Iterator[None]:
    """Do the same for what takes no generator: inside, the global random state is a new one.

    Afterwards it is moved by the one number that seeded the new one, whatever was drawn. Two copies
    of a state that only moved by a number or two would be all but the same draws.
    """
    if _checks.recording():  # what is drawn then comes of the global state itself
        yield
        return
    seed, cuda = _seed(), [device] if device.type == "cuda" else []
    with torch.random.fork_rng(cuda):
        torch.default_generator.manual_seed(seed)
        for each in cuda:
            with torch.cuda.device(each):
                torch.cuda.manual_seed(seed)
        yield


def _seed() -> int:
    return int(torch.randint(2**62, (), device="cpu"))
