"""The loss of the inverse adversarial attack."""

from torch import Tensor
from torch.nn.functional import log_softmax

from advcal._logits import mean_of_unmasked
from advcal.losses._reduce import Reduction, checked, reduced


def inverse_adversarial(
    logits: Tensor, labels: Tensor, *, lam: float = 5.0, reduction: Reduction = "mean"
) -> Tensor:
    r"""Compute the loss of IAA, which is low if the label leads and the model is unsure of it.

    $\mathrm{CE}(z, y) + \lambda\,\mathrm{CE}(z, \mathrm{uniform})$. Its minimiser over the logits
    keeps the label and gives up the confidence: the label has probability $(1 + \lambda/K)/(1 +
    \lambda)$, each other class $\lambda/(K(1 + \lambda))$. It is convex in the logits and equals
    $(1 + \lambda)$ times the cross-entropy to the label smoothed by $\lambda/(1 + \lambda)$. Masked
    classes do not count in $K$.

    Args:
        logits: Logits, shape `(n, classes)`.
        labels: Integer labels, shape `(n,)`.
        lam: $\lambda \ge 0$, the weight of the uniform term; 0 is plain cross-entropy.
        reduction: `"mean"`, `"sum"` or `"none"`.

    Returns:
        A scalar, or shape `(n,)` with `reduction="none"`.

    Raises:
        TypeError: If `logits` or `labels` is of the wrong kind or dtype.
        ValueError: If a shape, a label or `lam` is out of range.

    Example:
        >>> import torch
        >>> float(inverse_adversarial(torch.zeros(1, 4), torch.tensor([2]), lam=1.0))
        2.7725887298583984

    References:
        Cheng et al., Towards Calibration Enhanced Network by Inverse Adversarial Attack,
        arXiv 2504.06358, eq. 3.
    """
    logits, labels = checked(logits, labels, lam=lam, reduction=reduction)
    log_p = log_softmax(logits, dim=1)
    label = log_p.gather(1, labels[:, None])[:, 0]
    uniform = lam * mean_of_unmasked(log_p, logits) if lam > 0 else 0.0
    return reduced(-label - uniform, reduction)
