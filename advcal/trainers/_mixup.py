"""mixup: train on mixtures of two examples."""

from dataclasses import KW_ONLY, dataclass

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import cross_entropy

from advcal import _checks
from advcal._random import onward
from advcal._typing import Batch, Loss, Model
from advcal.trainers._crafting import Crafting, labelled, loss_of


@dataclass(frozen=True, slots=True, eq=False, repr=False)
class mixup(Crafting):
    r"""Train on mixtures of two examples, with their labels mixed alike.

    Minimises $\lambda L(f(\tilde x), y) + (1 - \lambda) L(f(\tilde x), y')$. $\tilde x = \lambda x
    + (1 - \lambda) x'$ mixes each example with another one of its batch, and $\lambda \sim
    \mathrm{Beta}(\alpha, \alpha)$ is drawn once per batch, as in the authors' code. The sum of two
    losses is the loss to the mixed labels if it is linear in them, as cross-entropy is.

    Args:
        alpha: $\alpha > 0$; the smaller, the nearer is $\lambda$ to 0 or 1. For calibration .1 to
            .4 is usual.
        loss: `(logits, labels) -> scalar`.
        generator: The source of $\lambda$ and the pairs; the global random state, which a
            checkpoint has, if None. Put your own into the `state` of `epochs`.

    Returns:
        An objective.

    Raises:
        TypeError: If an argument is of the wrong kind, or inputs when called are int32 or int64.
        ValueError: If `alpha` is out of range.

    Example:
        >>> objective = mixup(alpha=0.4)
        >>> model, batch = torch.nn.Linear(2, 2), (torch.rand(4, 2), torch.tensor([0, 1, 1, 0]))
        >>> bool(objective(model, batch) != objective(model, batch))
        True

    References:
        Zhang et al., mixup: Beyond Empirical Risk Minimization, ICLR 2018, eq. 1; Thulasidasan et
        al., On Mixup Training, NeurIPS 2019.
    """

    _: KW_ONLY
    alpha: float = 0.2
    loss: Loss = cross_entropy
    generator: torch.Generator | None = None

    def __post_init__(self) -> None:
        _checks.number("alpha", self.alpha, above=0)
        _checks.arguments(loss=self.loss, generator=self.generator)

    def craft(self, model: Model, batch: Batch) -> tuple[Tensor, Tensor, Tensor, float]:
        inputs, labels = labelled(batch)
        if inputs.dtype in (torch.int32, torch.int64):
            found = _checks.kind(inputs)
            raise TypeError(
                f"expected inputs to mix, floating or 8-bit, got {found}; of numbers that stand "
                "for words mix the embeddings"
            )
        source = onward(self.generator)
        seed = torch.randint(2**63 - 1, (), generator=source, device=source.device)
        share = float(np.random.default_rng(int(seed)).beta(self.alpha, self.alpha))
        pairs = torch.randperm(len(inputs), generator=source, device=source.device)
        pairs = pairs.to(inputs.device)
        return share * inputs + (1 - share) * inputs[pairs], labels, labels[pairs], share

    def loss_of(self, model: Model, crafted: tuple[Tensor, Tensor, Tensor, float]) -> Tensor:
        inputs, labels, others, share = crafted
        logits = model(inputs)
        first, second = (loss_of(self.loss, logits, each, model) for each in (labels, others))
        return share * first + (1 - share) * second
