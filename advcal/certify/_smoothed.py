"""The smoothed classifier itself, as a model."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from advcal import _batches, _checks
from advcal._answers import logits_of, rows_of
from advcal._frozen import Around
from advcal._logits import log_mean_probs
from advcal._random import resolve
from advcal._typing import Model


def smoothed(
    model: Model,
    *,
    sigma: float,
    n: int = 100,
    generator: torch.Generator | None = None,
) -> nn.Module:
    r"""Average the softmax of a model over Gaussian noise: what `certify` certifies, sampled.

    $f_n(x) = \log \frac1n \sum_i \mathrm{softmax}(f(x + \sigma z_i))$. It is a model, which can be
    evaluated and attacked; gradients go through the mean (SmoothAdv). A certificate is of the limit
    of many draws; a prediction with few can differ from it if the classes are close.

    Args:
        model: Inputs `(n, ...)` to logits `(n, classes)`.
        sigma: The standard deviation of the noise, in units of the inputs.
        n: The number of passes at each call.
        generator: Draws the noise, anew at each call; with None every call takes a copy of the
            global generator, so that all calls have the same noise until it moves.

    Returns:
        Inputs to the logarithm of the mean probabilities.

    Raises:
        TypeError: If an argument is of the wrong kind.
        ValueError: If `sigma` or `n` is not positive.

    Example:
        >>> model = lambda inputs: 100 * inputs
        >>> average = smoothed(model, sigma=1.0, n=1000)
        >>> probs = average(torch.zeros(1, 2)).exp()
        >>> bool((probs - 0.5).abs().max() < 0.05)
        True

    References:
        Salman et al., Provably Robust Deep Learning via Adversarially Trained Smoothed Classifiers,
        NeurIPS 2019, equation 6.
    """
    _checks.arguments(model=model, sigma=sigma, n=n, generator=generator)
    return _Smoothed(model, float(sigma), n, generator)


class _Smoothed(Around):
    def __init__(
        self, model: Model, sigma: float, n: int, generator: torch.Generator | None
    ) -> None:
        super().__init__()
        self.model, self.sigma, self.n, self.generator = model, sigma, n, generator
        self._around = (model,)

    def of_rows(self, rows: Tensor | slice) -> _Smoothed:
        """Take the model for some rows of a batch."""
        model = rows_of(self.model, rows)
        same = model is self.model
        return self if same else _Smoothed(model, self.sigma, self.n, self.generator)

    def forward(self, inputs: Tensor) -> Tensor:
        source = resolve(self.generator, _batches.inputs(inputs).device)
        passes = []
        for _ in range(self.n):
            noise = torch.randn(
                inputs.shape, generator=source, dtype=inputs.dtype, device=source.device
            )
            points = inputs + self.sigma * noise.to(inputs.device)
            passes.append(logits_of(self.model, points))
        return log_mean_probs(passes)
