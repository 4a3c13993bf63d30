"""Calibration by level of robustness."""

from collections.abc import Sequence
from typing import Any

from advcal import _checks, _probs
from advcal.metrics import accuracy, confidence, ece, variance
from advcal.plots._style import COLOURS, MARKERS, WIDTH, Axes, array, finish, several


def robustness_levels(
    probs: Any,
    labels: Any,
    levels: Any,
    *,
    runs: Sequence[Any] | None = None,
    n_bins: int = 15,
    axes: Any = None,
    title: str | None = None,
) -> list[Axes]:
    """Draw accuracy and confidence per level of robustness and, below, ECE and variance.

    Args:
        probs: Probabilities, shape `(n, classes)`; a tensor or a NumPy array.
        labels: Integer labels of the same kind, shape `(n,)`.
        levels: The level of each example, `(n,)`, from `metrics.robustness_levels`: 0 is the least
            robust.
        runs: The probabilities of the same examples in two or more independent runs, for
            `metrics.variance` per level; not drawn if None.
        n_bins: The number of equal-width bins of the ECE.
        axes: The axes to draw on, the upper and the lower; a new figure if None.
        title: A title; none if None.

    Returns:
        The two axes; the variance is on an axis of its own to the right of the lower one.

    Raises:
        TypeError: If `probs`, `labels` or `levels` is of another kind or dtype.
        ValueError: If a shape or value is wrong.

    Example:
        >>> import torch
        >>> probs, labels = torch.tensor([[0.9, 0.1]]).repeat(4, 1), torch.tensor([1, 0, 0, 0])
        >>> panels = robustness_levels(probs, labels, torch.tensor([0, 0, 1, 1]))
        >>> [ax.get_ylabel() for ax in panels]
        ['mean per level', 'ECE']

    References:
        Qin et al., Improving Calibration through the Relationship with Adversarial Robustness,
        NeurIPS 2021, figures 1 and 2.
    """
    p, y, _ = _probs.probabilities(probs, labels, n_bins=n_bins, title=title)
    groups = _probs.as_tensor("levels", levels)[0]
    groups = _checks.labels(groups, len(p), name="levels").to(p.device)
    rows = [groups == level for level in groups.unique()]
    names = array(groups.unique()) + 1
    drawn = {
        "accuracy": [float(accuracy(p[chosen], y[chosen])) for chosen in rows],
        "confidence": [float(confidence(p[chosen], y[chosen])) for chosen in rows],
    }
    errors = [float(ece(p[chosen], y[chosen], n_bins=n_bins)) for chosen in rows]
    spreads = None
    if runs is not None:
        _checks.several("runs", runs)
        members = [_probs.matrix(each)[0].to(p.device) for each in runs]
        for each in members:
            if len(each) != len(p):
                raise ValueError(f"expected runs of {len(p)} examples, got {len(each)}")
        spreads = [float(variance([each[chosen] for each in members])) for chosen in rows]
    upper, lower = several(axes, 2, 1, (WIDTH, 3.6), sharex=True).flat
    for i, (name, line) in enumerate(drawn.items()):
        upper.plot(names, line, color=COLOURS[i], marker=MARKERS[i], markersize=4, label=name)
    upper.set_ylabel("mean per level")
    lower.bar(names, errors, 0.7, color=COLOURS[5], label="ECE")
    lower.set(xlabel="level of robustness, least to most", ylabel="ECE")
    if len(names) <= 12:
        lower.set_xticks(names)
    finish(upper, title, legend=True)
    finish(lower, None)
    if spreads is not None:
        right = lower.twinx()
        right.plot(names, spreads, color=COLOURS[1], marker="^", markersize=4, label="variance")
        right.set(ylabel="variance", ylim=(0, 1.15 * max(*spreads, 1e-12)))
        finish(right, None)
        handles = [*lower.get_legend_handles_labels()[0], *right.get_legend_handles_labels()[0]]
        lower.legend(handles, ["ECE", "variance"], frameon=False, fontsize="x-small")
    bars = [bar for each in lower.get_shared_y_axes().get_siblings(lower) for bar in each.patches]
    lower.set_ylim(0, 1.15 * max(1e-12, *(bar.get_height() for bar in bars)))
    return [upper, lower]
