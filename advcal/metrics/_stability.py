"""How much predictions differ between runs, and which examples are how robust."""

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from advcal import _checks, _probs
from advcal._typing import Array


def stacked(runs: Sequence[Array], from_logits: bool) -> tuple[Tensor, Callable[[Tensor], Array]]:
    """Check the probabilities of two or more runs; return them as `(runs, n, classes)`."""
    _checks.arguments(from_logits=from_logits)
    _checks.several("runs", runs)
    runs = list(runs)
    checked = [_probs.matrix(each) for each in runs]
    if len({isinstance(each, Tensor) for each in runs}) > 1:
        raise TypeError("expected runs of one kind, got tensors and arrays")
    if len(checked) < 2 or len({tuple(p.shape) for p, _ in checked}) > 1:
        shapes = ", ".join(str(tuple(p.shape)) for p, _ in checked) or "none"
        raise ValueError(f"expected two or more runs of one shape, got {shapes}")
    wide = [
        torch.cat([rows.double() for rows, _ in _probs.checked_rows(p, p[:, 0], from_logits)])
        for p, _ in checked
    ]
    return torch.stack(wide), checked[0][1]


def variance(runs: Sequence[Array], *, from_logits: bool = False) -> Array:
    r"""Compute the variance of the predicted probability over independent runs.

    $\frac{1}{M - 1} \frac{1}{n} \sum_m \sum_i (p_{mi} - \overline{p}_i)^2$ over `M` trained models,
    where `p` is the probability of the class that the mean over the runs predicts; the source
    leaves open which class it is.

    Args:
        runs: Probabilities of the same examples in each run, `(n, classes)`; tensors or arrays.
        from_logits: Whether `runs` are logits, whose softmax is taken in float64.

    Returns:
        A scalar in `[0, 1/2]`, float64, of the kind of `runs`.

    Raises:
        TypeError: If a run is of another kind or dtype.
        ValueError: If there is one run only, or a shape or value is wrong.

    Example:
        >>> import torch
        >>> runs = [torch.tensor([[0.5, 0.5]]), torch.tensor([[0.75, 0.25]])]
        >>> float(variance(runs))
        0.03125

    References:
        Qin et al., Improving Calibration through the Relationship with Adversarial Robustness,
        NeurIPS 2021.
    """
    members, own_kind = stacked(runs, from_logits)
    predicted = members.mean(dim=0).argmax(dim=1)
    chosen = members[:, torch.arange(len(predicted), device=predicted.device), predicted]
    return own_kind(chosen.var(dim=0).mean())


def churn(runs: Sequence[Array], *, from_logits: bool = False) -> Array:
    """Compute the share of examples on which two runs predict different classes.

    With more than two runs it is the mean over all pairs.

    Args:
        runs: Probabilities of the same examples in each run, `(n, classes)`; tensors or arrays.
        from_logits: Whether `runs` are logits, whose softmax is taken in float64.

    Returns:
        A scalar in `[0, 1]`, float64, of the kind of `runs`.

    Raises:
        TypeError: If a run is of another kind or dtype.
        ValueError: If there is one run only, or a shape or value is wrong.

    Example:
        >>> import torch
        >>> runs = [torch.tensor([[0.9, 0.1], [0.4, 0.6]]), torch.tensor([[0.9, 0.1], [0.6, 0.4]])]
        >>> float(churn(runs))
        0.5

    References:
        Milani Fard et al., Launch and Iterate: Reducing Prediction Churn, NeurIPS 2016.
    """
    members, own_kind = stacked(runs, from_logits)
    votes = torch.nn.functional.one_hot(members.argmax(dim=2), members.shape[2]).sum(dim=0)
    m = len(members)
    agreeing = (votes * (votes - 1)).sum(dim=1).double() / (m * (m - 1))
    return own_kind((1 - agreeing).mean())


def robustness_levels(distances: Array, *, n_levels: int = 10) -> Array:
    """Cut examples into levels of equal size by their distance to the decision boundary.

    Any metric per level: `ece(probs[levels == r], labels[levels == r])`. Equal distances are cut in
    the order of the examples; infinity, if no attack succeeded, ranks last.

    Args:
        distances: Adversarial distances, shape `(n,)`; a tensor or a NumPy array.
        n_levels: The number of levels, at most `n`.

    Returns:
        Levels from 0, the least robust, to `n_levels - 1`: int64, shape `(n,)`, of the kind of
        `distances`.

    Raises:
        TypeError: If `distances` is of another kind or dtype.
        ValueError: If a shape or value is wrong, a distance is NaN, or there are too many levels.

    Example:
        >>> import torch
        >>> robustness_levels(torch.tensor([0.3, 0.1, torch.inf, 0.2]), n_levels=2).tolist()
        [1, 0, 1, 0]

    References:
        Qin et al., Improving Calibration through the Relationship with Adversarial Robustness,
        NeurIPS 2021.
    """
    d, own_kind = _probs.vector("distances", distances, finite=False)
    _checks.arguments(n_levels=n_levels)
    if n_levels > len(d):
        raise ValueError(f"expected n_levels <= {len(d)}, got {n_levels}")
    levels = torch.empty(len(d), dtype=torch.int64, device=d.device)
    ranks = torch.arange(len(d), device=d.device)
    levels[d.argsort(stable=True)] = ranks * n_levels // len(d)
    result: Array = own_kind(levels)
    return result
