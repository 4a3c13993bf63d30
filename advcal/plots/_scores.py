"""Histograms of a score within the distribution and outside."""

from typing import Any

import numpy as np
from torch import Tensor

from advcal import _checks, _probs
from advcal.metrics import auroc
from advcal.plots._style import COLOURS, Axes, array, finish, named, one


def score_histograms(
    scores: Any,
    labels: Any,
    *,
    names: tuple[str, str] = ("in distribution", "out of distribution"),
    figure: str = "predictive entropy (nats)",
    n_bins: int = 15,
    ax: Axes | None = None,
    title: str | None = None,
) -> Axes:
    """Draw how a score is spread within the distribution and outside, with the AUROC.

    Args:
        scores: Finite scores, shape `(n,)`, higher for what looks out of distribution, as in
            `evaluation.Detection`; a tensor or what NumPy makes an array of.
        labels: 0 for within and 1 for outside, integers of the same kind, shape `(n,)`.
        names: What to call the two.
        figure: What the score is, for the axis.
        n_bins: The number of bars of each histogram, over the range of both.
        ax: The axes to draw on; a new figure if None.
        title: A title; none if None.

    Returns:
        The axes.

    Raises:
        TypeError: If `scores` or `labels` is of another kind or dtype.
        ValueError: If a shape or value is wrong or there is one kind of label only.

    Example:
        >>> import torch
        >>> scores, labels = torch.tensor([0.1, 0.2, 1.2, 2.0]), torch.tensor([0, 0, 1, 1])
        >>> score_histograms(scores, labels).get_title()
        'AUROC 1.000'

    References:
        Qin et al., Improving Calibration through the Relationship with Adversarial Robustness,
        NeurIPS 2021, figure 4.
    """
    given: Any = [
        each if isinstance(each, Tensor) else np.asarray(each) for each in (scores, labels)
    ]
    s, y, _ = _probs.scores(*given, finite=True)
    _checks.arguments(n_bins=n_bins, figure=figure, title=title)
    if not isinstance(names, (list, tuple)) or len(names) != 2:
        raise ValueError(f"expected two names, got {names!r}")
    area = float(auroc(s, y))
    low, high = (float(end) for end in s.aminmax())
    edges = np.linspace(low, high if high > low else low + 1, n_bins + 1).tolist()
    ax = one(ax)
    for i, name in enumerate(names):
        part = array(s[y == i])
        shares = np.full(len(part), 1 / len(part))
        ax.hist(part, edges, weights=shares, color=COLOURS[i], alpha=0.35)
        ax.hist(
            part, edges, weights=shares, histtype="step", color=COLOURS[i], linewidth=1.2,
            linestyle=("-", "--")[i], label=named(name),
        )  # fmt: skip
    ax.set(xlabel=figure, ylabel="share of examples")
    shown = f"AUROC {area:.3f}" if title is None else f"{title}, AUROC {area:.3f}"
    return finish(ax, shown, legend=True)
