"""Adversarial training towards inputs of higher likelihood."""

from torch import Tensor
from torch.nn.functional import cross_entropy

from advcal import _checks
from advcal._logits import divergence, lift
from advcal._typing import Attack, Batch, Model, Objective
from advcal.trainers._passes import both, craft, examples


def anti_adversarial(
    attack: Attack, *, reference: Attack, beta: float = 1.0, joint: bool = False
) -> Objective:
    r"""Minimise $\mathrm{CE}(f(x'), y) + \beta\,\mathrm{KL}(p(\check x) \| p(x'))$.

    $x'$ is attacked, and $\check x$ is moved the other way, to a *higher* likelihood of its label:
    a better example to be like than $x$ where the model is wrong. Dong et al. call $\check x$ an
    inverse adversarial example, which here, as with Cheng et al., is something else (`iaa`, lower
    confidence); `inverse_adversarial` is no relative of this. The idea is theirs; their class-wise
    universal perturbations and their schedule are not here, and the default of `beta` is not from
    them. The gradient runs through both sides of the divergence.

    Args:
        attack: What makes $x'$, for instance `functools.partial(advcal.attacks.pgd, eps=8 / 255)`.
        reference: What makes $\check x$, for instance
            `functools.partial(advcal.attacks.anti_adversary, eps=4 / 255)`.
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
        >>> from advcal.attacks import anti_adversary, pgd
        >>> towards = functools.partial(anti_adversary, eps=4 / 255)
        >>> objective = anti_adversarial(functools.partial(pgd, eps=8 / 255), reference=towards)

    References:
        Dong et al., The Enemy of My Enemy is My Friend: Exploring Inverse Adversaries for Improving
        Adversarial Training, CVPR 2023.
    """
    _checks.function("attack", attack)
    _checks.function("reference", reference)
    beta = _checks.number("beta", beta, least=0)
    _checks.switch("joint", joint)

    def objective(model: Model, batch: Batch) -> Tensor:
        inputs, labels = examples(batch)
        points = craft(attack, model, inputs, labels)
        better = craft(reference, model, inputs, labels)
        logits, others = (lift(each) for each in both(model, points, better, joint=joint))
        apart = divergence(others.log_softmax(dim=1), logits.log_softmax(dim=1)).mean()
        return cross_entropy(logits, labels) + beta * apart

    return objective
