"""Adaptive label smoothing: AdaLS with one level, AR-AdaLS with several."""

from __future__ import annotations

import dataclasses

import torch
from torch import Tensor

from advcal import _checks
from advcal._sums import wide
from advcal.losses._smoothing import checked, mixed

_ROUNDING = 1e-6  # of a mean in float32


@dataclasses.dataclass(frozen=True, eq=False)
class SmoothingState:
    r"""Soft labels that follow the calibration of validation data; an immutable state.

    After each epoch the probability $p_r$ that the labels of level $r$ get moves against the gap
    between confidence and accuracy that the validation data of that level show:
    $p_r \leftarrow \mathrm{clip}(p_r - \alpha(\mathrm{conf}_r - \mathrm{acc}_r), (1/K, 1])$. With
    one level it is AdaLS. With levels of adversarial robustness, cut by rank from the distance to
    the decision boundary, it is AR-AdaLS.

    The validation data steer training: temperature scaling, early stopping and the final report
    need data of their own. A step size that is large for small validation levels makes $p_r$
    wander; the authors publish none, and the default here is not theirs.

    Attributes:
        n_classes: The number of classes $K$.
        step_size: $\alpha$, the share of a gap that one update takes off.
        label_probs: $p_r$ of each level, float64, shape `(n_levels,)`.

    Example:
        >>> state = adaptive_smoothing(10, n_levels=2, step_size=0.5)
        >>> state = state.update(torch.tensor([0.9, 0.8]), torch.tensor([0.7, 0.8]))
        >>> state.label_probs
        tensor([0.9000, 1.0000], dtype=torch.float64)
        >>> state.targets(torch.tensor([3, 3]), torch.tensor([0, 1]))[:, 3]
        tensor([0.9000, 1.0000])

    References:
        Qin et al., Improving Calibration through the Relationship with Adversarial Robustness,
        NeurIPS 2021, algorithm 1.
    """

    n_classes: int
    step_size: float
    label_probs: Tensor

    @property
    def n_levels(self) -> int:
        """The number of levels $R$."""
        return len(self.label_probs)

    @property
    def smoothing(self) -> Tensor:
        r"""The smoothing $(1 - p_r)\,K/(K - 1)$ of each level, shape `(n_levels,)`."""
        return (1 - self.label_probs) * (self.n_classes / (self.n_classes - 1))

    def update(
        self, confidence: float | Tensor, accuracy: float | Tensor, *, n: Tensor | None = None
    ) -> SmoothingState:
        r"""Return the state after one epoch.

        Given the sizes `n`, the gaps are first shrunk to their common mean by what the sampling
        variance $v_r = a_r (1 - a_r) / n_r$ explains of their spread, $a_r$ the accuracy with one
        success and one failure added: $\hat g_r = \bar g + (g_r - \bar g)\,\tau^2 /
        (\tau^2 + v_r)$ with $\tau^2 = \max(0, s^2 - \bar v)$, $s^2$ the variance of the gaps.
        Without them it is the published rule.

        Args:
            confidence: Mean confidence of the validation data per level, shape `(n_levels,)`; one
                number or a scalar tensor if there is one level.
            accuracy: Their accuracy per level, likewise.
            n: Their number per level, integers, shape `(n_levels,)`, or None for no shrinkage.

        Returns:
            The new state.

        Raises:
            TypeError: If an argument is not a floating tensor or a number, or `n` not integers.
            ValueError: If a shape is wrong, a value outside `[0, 1]`, or a level empty.
        """
        conf, acc = self._share("confidence", confidence), self._share("accuracy", accuracy)
        gap = conf - acc if n is None else _shrunk(conf - acc, acc, self._sizes(n))
        # Strictly above 1/K, also in float32: at 1/K the label is one class among equals.
        floor = 1 / self.n_classes + 1e-6
        label_probs = (self.label_probs - self.step_size * gap).clamp(floor, 1.0)
        return dataclasses.replace(self, label_probs=label_probs)

    def targets(
        self, labels: Tensor, levels: Tensor | None = None, logits: Tensor | None = None
    ) -> Tensor:
        """Make soft labels: the label of an example of level `r` gets exactly `label_probs[r]`.

        Args:
            labels: Integer labels, shape `(n,)`.
            levels: Integer levels, shape `(n,)`; not needed if there is one level.
            logits: The logits that the targets are for, shape `(n, n_classes)`, or None. What the
                label leaves goes to the other classes that they do not mask.

        Returns:
            Target probabilities, float32, shape `(n, n_classes)`.

        Raises:
            TypeError: If `labels` or `levels` is not an integer tensor.
            ValueError: If a label or a level is out of range, or the shapes differ.
        """
        labels, off = checked(labels, self.n_classes, logits)
        if levels is None:
            if self.n_levels > 1:
                raise ValueError(f"expected levels, one of {self.n_levels} per example, got None")
            levels = torch.zeros_like(labels)
        levels = _checks.labels(levels, len(labels), self.n_levels, labels.device, name="levels")
        left = wide((~off).sum(dim=1))
        # The label is never less than an equal of the classes that are left.
        probs = torch.maximum(self.label_probs.to(left)[levels], 1 / left)
        smoothing = (1 - probs) * (left / (left - 1).clamp_min(1))
        return mixed(labels, smoothing[:, None], off).float()

    def _sizes(self, n: Tensor) -> Tensor:
        sizes = _checks.labels(n, self.n_levels, name="n")
        if int(sizes.min()) < 1:
            raise ValueError(f"expected n >= 1 in each level, got {sizes.tolist()}")
        return sizes.cpu().double()

    def _share(self, name: str, value: float | Tensor) -> Tensor:
        if not isinstance(value, Tensor):
            value = torch.tensor(_checks.number(name, value), dtype=torch.float64, device="cpu")
        if _checks.tensor(name, value).ndim == 0 and self.n_levels == 1:
            value = value[None]
        if value.shape != (self.n_levels,):
            raise ValueError(
                f"expected {name} of shape ({self.n_levels},), got {_checks.kind(value)}"
            )
        if not bool(((value >= -_ROUNDING) & (value <= 1 + _ROUNDING)).all()):
            raise ValueError(f"expected {name} from 0 to 1, got {value.tolist()}")
        return value.detach().cpu().double().clamp(0, 1)


def _shrunk(gap: Tensor, accuracy: Tensor, n: Tensor) -> Tensor:
    """Shrink the gaps of levels to their mean over all examples, by empirical Bayes."""
    if len(gap) == 1:
        return gap
    mean = (gap * n).sum() / n.sum()
    likely = (accuracy * n + 1) / (n + 2)
    noise = likely * (1 - likely) / n
    spread = ((gap - mean).square().sum() / (len(gap) - 1) - noise.mean()).clamp_min(0)
    return mean + (gap - mean) * spread / (spread + noise)


def adaptive_smoothing(
    n_classes: int, *, n_levels: int = 1, step_size: float = 0.01
) -> SmoothingState:
    r"""Start adaptive label smoothing from hard labels.

    Args:
        n_classes: The number of classes $K$.
        n_levels: The number of levels $R$; 1 is AdaLS, the authors' AR-AdaLS has 10.
        step_size: $\alpha$. The authors publish none; this default is not theirs. On validation
            levels of some 50 examples 0.1 was seen to drive $p_r$ to 0.16, 0.005 to work.

    Returns:
        The state before the first epoch.

    Raises:
        TypeError: If an argument is not a number.
        ValueError: If there are fewer than two classes or one level, or `step_size` is not above 0.

    Example:
        >>> adaptive_smoothing(10).label_probs
        tensor([1.], dtype=torch.float64)
    """
    _checks.arguments(n_classes=n_classes, n_levels=n_levels)
    _checks.number("step_size", step_size, above=0)
    return SmoothingState(
        n_classes, step_size, torch.ones(n_levels, dtype=torch.float64, device="cpu")
    )
