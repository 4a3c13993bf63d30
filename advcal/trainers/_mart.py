"""MART: adversarial training that leans on what is already wrong."""

from dataclasses import KW_ONLY, dataclass

from torch import Tensor

from advcal import losses
from advcal._typing import Attack, Batch, Model
from advcal.trainers._crafting import Crafting, both, craft, examples


@dataclass(frozen=True, slots=True, eq=False, repr=False)
class mart(Crafting):
    r"""Train on attacked inputs, with more weight on examples that the model gets wrong (MART).

    $\mathrm{CE}(f(x'), y) - \log(1.0001 - \max_{k \ne y} p_k(x'))
    + \lambda\,\mathrm{KL}(p(x) \| p(x'))\,(1 - p_y(x))$, see `advcal.losses.mart`. The authors'
    attack is that of adversarial training, on the cross-entropy.

    Args:
        attack: `(model, inputs, labels) -> adversarial inputs`, for instance
            `functools.partial(advcal.attacks.pgd, eps=8 / 255)`.
        lam: $\lambda \ge 0$, the weight of the divergence.
        joint: Whether inputs and attacked inputs go through the model in one pass, so that
            BatchNorm normalises them together; by default in two, as with the authors.

    Returns:
        An objective; labels are integers.

    Raises:
        TypeError: If an argument is of the wrong kind.
        ValueError: If `lam` is out of range.

    Example:
        >>> import functools
        >>> from advcal.attacks import pgd
        >>> objective = mart(functools.partial(pgd, eps=8 / 255))

    References:
        Wang et al., Improving Adversarial Robustness Requires Revisiting Misclassified Examples,
        ICLR 2020.
    """

    attack: Attack
    _: KW_ONLY
    lam: float = 5.0
    joint: bool = False

    def craft(self, model: Model, batch: Batch) -> tuple[Tensor, Tensor, Tensor]:
        inputs, labels = examples(batch)
        return inputs, craft(self.attack, model, inputs, labels), labels

    def loss_of(self, model: Model, crafted: tuple[Tensor, Tensor, Tensor]) -> Tensor:
        inputs, points, labels = crafted
        logits, others = both(model, inputs, points, joint=self.joint)
        return losses.mart(logits, labels, attacked=others, lam=self.lam)
