"""TRADES: the objective, and its attack on the divergence."""

from dataclasses import KW_ONLY, dataclass
from functools import partial

import torch
from torch import Tensor

from advcal import _batches, losses
from advcal._answers import answering
from advcal._frozen import frozen
from advcal._random import draw, onward
from advcal._typing import Attack, Batch, Model
from advcal.attacks import linf
from advcal.attacks._gradient import climb, goal_of
from advcal.attacks._pgd import Steepest
from advcal.trainers._crafting import Crafting, both, craft, examples, within_unit_range

_EPS, _STEPS, _STEP_SIZE, _NOISE = 0.031, 10, 0.007, 0.001  # the authors'


@dataclass(frozen=True, slots=True, eq=False, repr=False)
class trades(Crafting):
    r"""Train to be right on clean inputs and to predict the same under attack (TRADES).

    Minimises $\mathrm{CE}(f(x), y) + \beta\,\mathrm{KL}(p(x) \| p(x'))$, with $x'$ attacked to
    raise the divergence. The gradient runs through both sides of the divergence. Without `attack`
    it is the authors', from $x + .001\,\mathcal N(0, 1)$, 10 steps of .007 within .031 in L∞, for
    inputs in `[0, 1]`, the last point; in eval mode, like every attack here. For another radius
    give `functools.partial(advcal.attacks.pgd, eps=..., loss="kl")`.

    BatchNorm normalises inputs and attacked inputs each by their own statistics, and its running
    statistics see both. (The authors make a third pass, which repeats the first.)

    Args:
        attack: `(model, inputs, labels) -> adversarial inputs`; the authors' if None.
        beta: $\beta \ge 0$, what robustness weighs.
        joint: Whether both go through the model in one pass, and are normalised together.
        generator: The source of the noise of the authors' attack; the global random state, which
            a checkpoint has, if None. Put your own into the `state` of `epochs`.

    Returns:
        An objective; labels are integers.

    Raises:
        TypeError: If an argument is of the wrong kind.
        ValueError: If `beta` is out of range.

    Example:
        >>> objective = trades()
        >>> model, batch = torch.nn.Linear(2, 2), (torch.rand(3, 2), torch.tensor([0, 1, 1]))
        >>> bool(
        ...     objective(model, batch)
        ...     > torch.nn.functional.cross_entropy(model(batch[0]), batch[1])
        ... )
        True

    References:
        Zhang et al., Theoretically Principled Trade-off between Robustness and Accuracy, ICML
        2019, algorithm 1.
    """

    attack: Attack | None = None
    _: KW_ONLY
    beta: float = 6.0
    joint: bool = False
    generator: torch.Generator | None = None

    def craft(self, model: Model, batch: Batch) -> tuple[Tensor, Tensor, Tensor]:
        inputs, labels = examples(batch)
        if self.attack is not None:
            return inputs, craft(self.attack, model, inputs, labels), labels
        with within_unit_range("give trades an attack with bounds=, such as pgd with loss='kl'"):
            attack = partial(_climb, generator=self.generator)
            return inputs, craft(attack, model, inputs, labels), labels

    def loss_of(self, model: Model, crafted: tuple[Tensor, Tensor, Tensor]) -> Tensor:
        inputs, points, labels = crafted
        logits, others = both(model, inputs, points, joint=self.joint)
        return losses.trades(logits, labels, attacked=others, beta=self.beta)


def _climb(
    model: Model, inputs: Tensor, labels: Tensor, *, generator: torch.Generator | None
) -> Tensor:
    """Climb the divergence from what the model says of the inputs."""
    inputs, labels, bounds = _batches.attack_inputs(inputs, labels, (0.0, 1.0))
    with frozen(model, grad=True):
        model = answering(model)
        region = linf(inputs, eps=_EPS, bounds=bounds)
        goal = goal_of("kl", model, inputs, labels)
        source = onward(generator)
        start = region.project(inputs + _NOISE * draw(torch.randn, inputs, source))
        return climb(model, start, goal, Steepest(region, _STEP_SIZE), _STEPS)
