"""Structured vector and matrix scaling: corrections of a temperature, held small by a prior."""

from collections.abc import Callable

from advcal._typing import Array
from advcal.calibrators._affine import Affine
from advcal.calibrators._calibrator import calibration_data
from advcal.calibrators._folds import best_strength
from advcal.calibrators._prior import corrected


def fit_svs(logits: Array, labels: Array, *, strength: float | None = 1.0) -> Affine:
    r"""Fit structured vector scaling (SVS): a temperature, then a small weight and bias per class.

    With $\ell = \log \mathrm{softmax}(z / T)$ and $T$ as `fit_temperature(prior=0.5)` finds it,
    $\min_{d, b} \frac{1}{n} \sum_i -\log \mathrm{softmax}(\ell_i + d \odot \ell_i + b)_{y_i} +
    \frac{c K}{n} (\|d\|^2 + \|b\|^2)$, convex, by L-BFGS in float64 until no entry of the gradient
    is above 1e-8. The penalty is that of a fixed normal prior on the sum, so it scales with the
    number of examples: with few of them little more than the temperature is left. The authors mix
    the temperature's probabilities with the uniform distribution; this has instead a prior on $T$.

    Args:
        logits: Logits, shape `(n, classes)`, of examples that the model was not trained on; minus
            infinity masks a class. A tensor or a NumPy array.
        labels: Integer labels of the same kind, shape `(n,)`.
        strength: $c$; 3 does a little better below 200 examples. None for what five-fold
            cross-validation chooses of .3, 1, 3, 10 and 100.

    Returns:
        The calibrator. It can change predictions.

    Raises:
        TypeError: If an argument is of another kind or dtype.
        ValueError: If a shape or value is wrong.

    Example:
        >>> import torch
        >>> logits = torch.tensor([[9.0, 0.0], [9.0, 0.0], [0.0, 9.0], [0.0, 9.0]])
        >>> calibrator = fit_svs(logits, torch.tensor([0, 0, 1, 0]))
        >>> calibrator(logits[1:3])
        tensor([[0.9856, 0.0144],
                [0.2064, 0.7936]])

    References:
        Berta, Holzmüller, Jordan & Bach, Structured Matrix Scaling for Multi-Class Calibration,
        arXiv 2511.03685, 2025.
    """
    return _fit(fit_svs, logits, labels, strength)


def fit_sms(logits: Array, labels: Array, *, strength: float | None = 1.0) -> Affine:
    r"""Fit structured matrix scaling (SMS): a temperature, then a small matrix and bias.

    As `fit_svs` with a matrix $D$ for the weights, $\ell + D \ell + b$, whose entries off the
    diagonal are held smaller: $\frac{c}{n} (K \|b\|^2 + K \sum_i D_{ii}^2 + K (K - 1)
    \sum_{i \neq j} D_{ij}^2)$.

    Args:
        logits: Logits, shape `(n, classes)`, of examples that the model was not trained on; minus
            infinity masks a class. A tensor or a NumPy array.
        labels: Integer labels of the same kind, shape `(n,)`.
        strength: $c$; 3 does a little better below 200 examples. None for what five-fold
            cross-validation chooses of .3, 1, 3, 10 and 100.

    Returns:
        The calibrator. It can change predictions.

    Raises:
        TypeError: If an argument is of another kind or dtype.
        ValueError: If a shape or value is wrong.

    Example:
        >>> import torch
        >>> logits = torch.tensor([[9.0, 0.0], [9.0, 0.0], [0.0, 9.0], [0.0, 9.0]])
        >>> calibrator = fit_sms(logits, torch.tensor([0, 0, 1, 0]))
        >>> calibrator(logits[1:3])
        tensor([[0.9858, 0.0142],
                [0.3090, 0.6910]])

    References:
        Berta, Holzmüller, Jordan & Bach, Structured Matrix Scaling for Multi-Class Calibration,
        arXiv 2511.03685, 2025.
    """
    return _fit(fit_sms, logits, labels, strength)


def _fit(
    fit: Callable[..., Affine], logits: Array, labels: Array, strength: float | None
) -> Affine:
    z, y = calibration_data(logits, labels, strength=strength)
    if strength is None:
        strength = best_strength(fit, z, y)
    return corrected(z, y, strength, full=fit is fit_sms, of_log_probs=True)
