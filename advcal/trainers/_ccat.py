"""Confidence-calibrated adversarial training."""

from dataclasses import KW_ONLY, dataclass
from functools import partial

import torch
from torch import Tensor
from torch.nn.functional import cross_entropy

from advcal import _checks, losses
from advcal._logits import finite
from advcal._sums import wide, widest
from advcal._typing import Attack, Batch, Model
from advcal.attacks import pgd_conf
from advcal.trainers._crafting import Crafting, craft, labelled, logits_at, within_unit_range


@dataclass(frozen=True, slots=True, eq=False, repr=False)
class ccat(Crafting):
    r"""Train to be unsure of what is far from an input (CCAT), so that attacks can be rejected.

    On attacked inputs $x + \delta$ the target goes from the label to the uniform distribution
    $u$: $g\,e_y + (1 - g)\,u$ with $g = (1 - \min(1, \|\delta\|_\infty / \varepsilon))^\rho$.
    The first half of a batch stays as it is, the second is attacked (the smaller half if the number
    is odd); both go through the model in one pass.

    **The model is meant to be used with rejection**: take `advcal.metrics.rejection_threshold` on
    clean held-out data and report `advcal.metrics.robust_error` above it. Without rejection a model
    so trained has next to no robust accuracy.

    Args:
        attack: `(model, inputs, labels) -> adversarial inputs`; `advcal.attacks.pgd_conf` with its
            defaults if None, the authors' 40 steps.
        eps: The radius in L∞, in units of the inputs, at which the target is uniform.
        rho: $\rho > 0$, how fast the target goes there.
        generator: The source of the random starts of the authors' attack; the global random
            state, which a checkpoint has, if None. Put your own into the `state` of `epochs`.

    Returns:
        An objective; labels are integers.

    Raises:
        TypeError: If an argument is of the wrong kind.
        ValueError: If `eps` or `rho` is out of range.

    Example:
        >>> objective = ccat(eps=0.03)
        >>> model, batch = torch.nn.Linear(2, 2), (torch.rand(4, 2), torch.tensor([0, 1, 1, 0]))
        >>> objective(model, batch).shape
        torch.Size([])

    References:
        Stutz, Hein & Schiele, Confidence-Calibrated Adversarial Training, ICML 2020, algorithm 1.
    """

    attack: Attack | None = None
    _: KW_ONLY
    eps: float
    rho: float = 10.0
    generator: torch.Generator | None = None

    def __post_init__(self) -> None:
        _checks.number("eps", self.eps, above=0)
        _checks.number("rho", self.rho, above=0)
        if self.attack is not None:
            _checks.arguments(attack=self.attack)
        _checks.arguments(generator=self.generator)

    def craft(self, model: Model, batch: Batch) -> tuple[Tensor, Tensor, Tensor]:
        inputs, labels = labelled(batch)
        distances = torch.zeros(len(inputs), dtype=widest(inputs.device), device=inputs.device)
        clean = len(inputs) - len(inputs) // 2
        if clean < len(inputs):
            points = self._points(model, inputs[clean:], labels[clean:])
            offsets = (wide(points) - wide(inputs[clean:])).flatten(1)
            distances[clean:] = offsets.abs().amax(dim=1)
            inputs = torch.cat([inputs[:clean], points])
        return inputs, labels, (1 - (distances / self.eps).clamp_max(1)) ** self.rho

    def _points(self, model: Model, inputs: Tensor, labels: Tensor) -> Tensor:
        if self.attack is not None:
            return craft(self.attack, model, inputs, labels)
        with within_unit_range("give ccat an attack with bounds=, such as pgd_conf"):
            attack = partial(pgd_conf, eps=self.eps, generator=self.generator)
            return craft(attack, model, inputs, labels)

    def loss_of(self, model: Model, crafted: tuple[Tensor, Tensor, Tensor]) -> Tensor:
        inputs, labels, kept = crafted
        logits = logits_at(model, inputs)
        targets = losses.smooth_labels(labels, logits.shape[1], 1 - kept, logits)
        return cross_entropy(finite(logits), targets.to(logits.dtype))
