"""What an ensemble, or passes with dropout, are unsure of: the data, or themselves."""

from collections.abc import Sequence
from typing import Generic, NamedTuple

import torch

from advcal._typing import Array
from advcal.metrics._stability import stacked


class Uncertainty(NamedTuple, Generic[Array]):
    """The uncertainty of each example and its two parts, in nats, each `(n,)`.

    Attributes:
        total: The entropy of the mean prediction.
        aleatoric: The mean entropy of the predictions: what more members would not settle.
        epistemic: The rest, which is the mutual information of prediction and member: how much the
            members disagree.
    """

    total: Array
    aleatoric: Array
    epistemic: Array


def uncertainty(runs: Sequence[Array], *, from_logits: bool = False) -> Uncertainty[Array]:
    r"""Split the predictive entropy of each example into aleatoric and epistemic parts.

    $H(\overline{p}) = \frac{1}{M} \sum_m H(p_m) + I$, over the members of an ensemble, or passes of
    a model with dropout, as `trainers.predict` has them. The mutual information `I`, known as BALD,
    is computed as $\frac{1}{M} \sum_m \mathrm{KL}(p_m \| \overline{p})$, so that small values are
    not lost in a difference, and is not negative.

    Args:
        runs: Probabilities of the same examples of each member or pass, `(n, classes)`; tensors or
            arrays.
        from_logits: Whether `runs` are logits, whose softmax is taken in float64.

    Returns:
        Three values per example, float64, of the kind of `runs`.

    Raises:
        TypeError: If a run is of another kind or dtype.
        ValueError: If there is one run only, or a shape or value is wrong.

    Example:
        >>> import torch
        >>> agreed, torn = torch.tensor([0.5, 0.5]), torch.eye(2)
        >>> runs = [torch.stack([agreed, torn[0]]), torch.stack([agreed, torn[1]])]
        >>> found = uncertainty(runs)
        >>> found.total.tolist(), found.aleatoric.tolist(), found.epistemic.tolist()
        ([0.6931, 0.6931], [0.6931, 0.0], [0.0, 0.6931])

    References:
        Depeweg et al., Decomposition of Uncertainty in Bayesian Deep Learning, ICML 2018. Houlsby
        et al., Bayesian Active Learning for Classification and Preference Learning, 2011.
    """
    members, own_kind = stacked(runs, from_logits)
    mean = members.mean(dim=0)
    entropies = torch.special.entr(members).sum(dim=2).mean(dim=0)
    # At most as many as there are members, also if the mean is too small for float64.
    ratios = torch.where(members > 0, members / mean, 1.0).clamp(max=len(members))
    apart = torch.special.xlogy(members, ratios).sum(dim=2).mean(dim=0).clamp(min=0)
    total = torch.special.entr(mean).sum(dim=1)
    return Uncertainty(own_kind(total), own_kind(entropies), own_kind(apart))
