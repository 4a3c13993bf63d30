"""Random numbers that leave the global random state as it was."""

import torch

from advcal import _checks


def resolve(generator: torch.Generator | None, device: torch.device) -> torch.Generator:
    """Return the caller's generator, or a copy of the global one.

    The copy starts where the global generator of the device stands, so that `torch.manual_seed`
    governs it, and leaves the original where it was: a second call draws the same numbers.
    """
    _checks.generator(generator)
    if generator is not None:
        return generator
    if device.type == "cuda":
        return torch.Generator(device).set_state(torch.cuda.get_rng_state(device))
    return torch.Generator().set_state(torch.get_rng_state())


def onward(generator: torch.Generator | None) -> torch.Generator:
    """Return the caller's generator, or a new one that the global random state seeds and moves by.

    For what trains: each call draws anew, and a checkpoint, which has the global state, knows where
    to go on.
    """
    if generator is not None:
        return generator
    return torch.Generator().manual_seed(int(torch.randint(2**62, ())))
