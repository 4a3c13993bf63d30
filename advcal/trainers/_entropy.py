"""Adversarial training with a reward for entropy."""

from functools import partial

from advcal import _checks
from advcal._typing import Attack, Objective
from advcal.losses import confidence_penalty
from advcal.trainers._objectives import adversarial


def entropy_adversarial(attack: Attack, *, beta: float = 0.1) -> Objective:
    r"""Train on attacked inputs with a confidence penalty.

    Minimises $\mathrm{CE}(f(x'), y) - \beta H(p(x'))$, with $H$ the entropy. It stands where Cheng
    et al. compare with ACE-AT (Chen et al., Information Sciences 668:120532, 2024), whose loss is
    not public; it is not that method, and no figure of theirs can be expected of it.

    Args:
        attack: `(model, inputs, labels) -> adversarial inputs`.
        beta: $\beta \ge 0$, the weight of the entropy; 0 is `adversarial`.

    Returns:
        An objective; labels are integers.

    Raises:
        TypeError: If an argument is of the wrong kind.
        ValueError: If `beta` is out of range.

    Example:
        >>> from advcal.attacks import pgd
        >>> objective = entropy_adversarial(partial(pgd, eps=8 / 255), beta=0.5)
    """
    beta = _checks.number("beta", beta, least=0)
    return adversarial(attack, loss=partial(confidence_penalty, beta=beta))
