"""Adversarial training towards inputs of higher likelihood."""

from dataclasses import KW_ONLY, dataclass

from torch import Tensor
from torch.nn.functional import cross_entropy

from advcal._logits import divergence, lift
from advcal._typing import Attack, Batch, Model
from advcal.trainers._crafting import Crafting, both, craft, examples, loss_of


@dataclass(frozen=True, slots=True, eq=False, repr=False)
class anti_adversarial(Crafting):
    r"""Train to predict under attack what is predicted on inputs that were moved the other way.

    Minimises $\mathrm{CE}(f(x'), y) + \beta\,\mathrm{KL}(p(\check x) \| p(x'))$. $x'$ is attacked,
    and $\check x$ is moved the other way, to a *higher* likelihood of its label: a better example
    to be like than $x$ if the model is wrong. The idea is that of Dong et al., who call $\check x$
    an inverse adversarial example (here that is `iaa`); their class-wise universal perturbations
    and their schedule are not here, and the default of `beta` is not from them. The gradient runs
    through both sides of the divergence.

    Args:
        attack: What makes $x'$, for instance `functools.partial(advcal.attacks.pgd, eps=8 / 255)`.
        reference: What makes $\check x$, for instance `functools.partial(advcal.attacks.pgd,
            eps=4 / 255, targeted=True, random_start=False)`, whose target is the label.
        beta: $\beta \ge 0$, the weight of the divergence.
        joint: Whether both go through the model in one pass, so that BatchNorm normalises them
            together; by default in two.

    Returns:
        An objective; labels are integers.

    Raises:
        TypeError: If an argument is of the wrong kind.
        ValueError: If `beta` is out of range.

    Example:
        >>> import functools
        >>> from advcal.attacks import pgd
        >>> towards = functools.partial(pgd, eps=4 / 255, targeted=True, random_start=False)
        >>> objective = anti_adversarial(functools.partial(pgd, eps=8 / 255), reference=towards)

    References:
        Dong et al., The Enemy of My Enemy is My Friend, CVPR 2023.
    """

    attack: Attack
    _: KW_ONLY
    reference: Attack
    beta: float = 1.0
    joint: bool = False

    def craft(self, model: Model, batch: Batch) -> tuple[Tensor, Tensor, Tensor]:
        inputs, labels = examples(batch)
        points = craft(self.attack, model, inputs, labels)
        return points, craft(self.reference, model, inputs, labels), labels

    def loss_of(self, model: Model, crafted: tuple[Tensor, Tensor, Tensor]) -> Tensor:
        points, better, labels = crafted
        logits, others = (lift(each) for each in both(model, points, better, joint=self.joint))
        apart = divergence(others.log_softmax(dim=1), logits.log_softmax(dim=1)).mean()
        return loss_of(cross_entropy, logits, labels) + self.beta * apart
