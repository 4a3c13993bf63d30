"""The loss of MART: what is already wrong counts for more."""

from torch import Tensor
from torch.nn.functional import cross_entropy

from advcal._logits import divergence, lift, log_odds, without_label
from advcal.losses._reduce import Reduction, checked, checked_attacked, reduced

_ONE = 1.0001  # the authors', so that the logarithm is finite


def mart(
    logits: Tensor,
    labels: Tensor,
    *,
    attacked: Tensor,
    lam: float = 5.0,
    reduction: Reduction = "mean",
) -> Tensor:
    r"""Compute the loss of MART: right under attack, and stable if the model is unsure.

    $\mathrm{CE}(f(x'), y) - \log(1.0001 - \max_{k \ne y} p_k(x'))
    + \lambda\,\mathrm{KL}(p(x) \| p(x'))\,(1 - p_y(x))$. The first two terms look at the attacked
    input only; the third weighs its distance from the input by how wrong the input is. The gradient
    runs through all of it, the weight included, as in the authors' code.

    Args:
        logits: Logits of the inputs, $f(x)$, shape `(n, classes)`.
        labels: Integer labels, shape `(n,)`.
        attacked: Logits of the attacked inputs, $f(x')$, shape `(n, classes)`.
        lam: $\lambda \ge 0$, the weight of the divergence.
        reduction: `"mean"`, `"sum"` or `"none"`.

    Returns:
        A scalar, or shape `(n,)` with `reduction="none"`.

    Raises:
        TypeError: If an argument is of the wrong kind or dtype.
        ValueError: If a shape, a label or `lam` is out of range.

    Example:
        >>> import torch
        >>> logits, label = torch.tensor([[0.75, 0.25]]).log(), torch.tensor([0])
        >>> print(f"{float(mart(logits, label, attacked=logits)):.3f}")  # -log .75 - log(1 - .25)
        0.575

    References:
        Wang et al., Improving Adversarial Robustness Requires Revisiting Misclassified Examples,
        ICLR 2020.
    """
    logits, labels = checked(logits, labels, lam=lam, reduction=reduction)
    wide, other = lift(logits), checked_attacked(attacked, logits)
    log_p, log_q = wide.log_softmax(dim=1), other.log_softmax(dim=1)
    rival = without_label(log_q, labels).amax(dim=1).exp()
    boosted = cross_entropy(other, labels, reduction="none") - (_ONE - rival).log()
    wrong = log_odds(wide, labels).sigmoid()
    return reduced(boosted + lam * divergence(log_p, log_q) * wrong, reduction, logits.dtype)
