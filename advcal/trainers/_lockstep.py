"""An ensemble's members side by side: one step of each in every step."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from advcal import _checks
from advcal._typing import Batch, Model, Objective
from advcal.trainers._crafting import Crafting, two_steps
from advcal.trainers._ensemble import members_of


@dataclass(frozen=True, slots=True, eq=False, repr=False)
class lockstep(Crafting):
    r"""Train the members of an ensemble side by side: minimise $\sum_m L(f_m)$.

    Each member is trained by itself, on its own attacks, while all see the same batches; in one
    loop, with one checkpoint, the members are at the same epoch whenever its body looks at them. So
    what steers by the averaged prediction can do so, as AR-AdaLS of an ensemble does:
    `epochs(whole, batches, lockstep(smoothing), optimizer, n=n)` with `smoothing.update(whole)` in
    the body. A sum, and not a mean, gives each member the gradient that it has alone; `Epoch.loss`
    is the sum too.

    An objective that is given the ensemble without this trains the averaged prediction instead.
    Any other model counts as one member.

    Args:
        objective: Any `(model, batch) -> scalar loss`.

    Returns:
        An objective, for models that `ensemble` made.

    Raises:
        TypeError: If `objective` is not a callable; when called, if the ensemble is wrapped, as by
            `torch.compile`, `DistributedDataParallel` or `awp`: compile the members, and put other
            objectives inside, `lockstep(awp(...))`.

    Example:
        >>> from advcal.trainers import ensemble, epochs, standard
        >>> whole = ensemble([nn.Linear(2, 2) for _ in range(3)])
        >>> batches = [(torch.eye(2), torch.tensor([0, 1]))]
        >>> optimizer = torch.optim.SGD(whole.parameters(), lr=1.0)
        >>> for epoch in epochs(whole, batches, lockstep(standard()), optimizer, n=5):
        ...     pass
        >>> whole(torch.eye(2)).argmax(dim=1)
        tensor([0, 1])
    """

    objective: Objective

    def craft(self, model: Model, batch: Batch) -> list[Any]:
        step = two_steps(self.objective)[0]
        return [step(member, batch) for member in _members(model)]

    def loss_of(self, model: Model, crafted: list[Any]) -> Tensor:
        step = two_steps(self.objective)[1]
        pairs = zip(_members(model), crafted, strict=True)
        return torch.stack([step(member, part) for member, part in pairs]).sum()


def _members(model: Any) -> Sequence[Any]:
    found = members_of(model)
    if found is not None:
        return found
    if isinstance(model, nn.Module) and any(map(members_of, model.modules())):
        raise TypeError(f"expected model as ensemble made it, got one in {_checks.kind(model)}")
    return [model]
