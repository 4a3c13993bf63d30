"""mixup: train on mixtures of two examples."""

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import cross_entropy

from advcal import _checks
from advcal._random import onward
from advcal._typing import Batch, Loss, Model, Objective
from advcal.trainers._passes import examples, once


def mixup(
    *,
    alpha: float = 0.2,
    loss: Loss = cross_entropy,
    generator: torch.Generator | None = None,
) -> Objective:
    r"""Minimise $\lambda L(f(\tilde x), y) + (1 - \lambda) L(f(\tilde x), y')$.

    $\tilde x = \lambda x + (1 - \lambda) x'$ mixes each example with another one of its batch, and
    $\lambda \sim \mathrm{Beta}(\alpha, \alpha)$ is drawn once per batch, as in the authors' code.
    The sum of two losses is the loss to the mixed labels where it is linear in them, as
    cross-entropy is.

    Args:
        alpha: $\alpha > 0$; the smaller, the nearer is $\lambda$ to 0 or 1. For calibration .1 to
            .4 is usual.
        loss: `(logits, labels) -> scalar`.
        generator: Where $\lambda$ and the pairs come from; the global random state, which a
            checkpoint has, if None. Put your own into the `state` of `epochs`.

    Returns:
        An objective.

    Raises:
        TypeError: If an argument is of the wrong kind.
        ValueError: If `alpha` is out of range.

    Example:
        >>> objective = mixup(alpha=0.4)
        >>> model, batch = torch.nn.Linear(2, 2), (torch.rand(4, 2), torch.tensor([0, 1, 1, 0]))
        >>> bool(objective(model, batch) != objective(model, batch))
        True

    References:
        Zhang et al., mixup: Beyond Empirical Risk Minimization, ICLR 2018, eq. 1; Thulasidasan et
        al., On Mixup Training: Improved Calibration and Predictive Uncertainty for Deep Neural
        Networks, NeurIPS 2019.
    """
    alpha = _checks.number("alpha", alpha, above=0)
    _checks.function("loss", loss)
    _checks.generator(generator)

    def draw(n: int) -> Tensor:
        """Draw the share, then a partner for each example."""
        source = onward(generator)
        seed = torch.randint(2**63 - 1, (), generator=source, device=source.device)
        share = np.random.default_rng(int(seed)).beta(alpha, alpha)
        pairs = torch.randperm(n, generator=source, device=source.device)
        return torch.cat([torch.tensor([share], dtype=torch.float64), pairs.cpu().double()])

    def objective(model: Model, batch: Batch) -> Tensor:
        inputs, labels = examples(batch)
        drawn = once((len(inputs) + 1,), lambda: draw(len(inputs)))
        share, pairs = float(drawn[0]), drawn[1:].long().to(inputs.device)
        logits = model(share * inputs + (1 - share) * inputs[pairs])
        return share * loss(logits, labels) + (1 - share) * loss(logits, labels[pairs])

    return objective
