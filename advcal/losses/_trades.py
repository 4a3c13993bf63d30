"""The loss of TRADES: right on the inputs, and the same around them."""

from torch import Tensor
from torch.nn.functional import cross_entropy

from advcal._logits import divergence, lift
from advcal.losses._reduce import Reduction, checked, checked_attacked, reduced


def trades(
    logits: Tensor,
    labels: Tensor,
    *,
    attacked: Tensor,
    beta: float = 6.0,
    reduction: Reduction = "mean",
) -> Tensor:
    r"""Compute the loss of TRADES: right on clean inputs, and the same prediction under attack.

    $\mathrm{CE}(f(x), y) + \beta\,\mathrm{KL}(p(x) \| p(x'))$. The gradient runs through both sides
    of the divergence. Each term is computed from log-probabilities, so that it is finite wherever
    the logits are.

    Args:
        logits: Logits of the inputs, $f(x)$, shape `(n, classes)`.
        labels: Integer labels, shape `(n,)`.
        attacked: Logits of the attacked inputs, $f(x')$, shape `(n, classes)`.
        beta: $\beta \ge 0$, what robustness weighs; 0 is cross-entropy.
        reduction: `"mean"`, `"sum"` or `"none"`.

    Returns:
        A scalar, or shape `(n,)` with `reduction="none"`.

    Raises:
        TypeError: If an argument is of the wrong kind or dtype.
        ValueError: If a shape, a label or `beta` is out of range.

    Example:
        >>> import torch
        >>> logits = torch.tensor([[0.75, 0.25]]).log()
        >>> print(f"{float(trades(logits, torch.tensor([0]), attacked=logits)):.4f}")  # -log .75
        0.2877

    References:
        Zhang et al., Theoretically Principled Trade-off between Robustness and Accuracy, ICML
        2019.
    """
    logits, labels = checked(logits, labels, beta=beta, reduction=reduction)
    wide, other = lift(logits), checked_attacked(attacked, logits)
    apart = divergence(wide.log_softmax(dim=1), other.log_softmax(dim=1))
    losses = cross_entropy(wide, labels, reduction="none") + beta * apart
    return reduced(losses, reduction, logits.dtype)
