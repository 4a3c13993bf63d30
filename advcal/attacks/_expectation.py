"""Expectation over transformation: a stochastic model as the mean of many passes."""

from torch import Tensor, nn

from advcal import _checks
from advcal._answers import logits_of, rows_of
from advcal._frozen import Around
from advcal._logits import log_mean_probs
from advcal._typing import Model


def expectation(model: Model, *, n: int = 16) -> nn.Module:
    r"""Average a stochastic model over `n` forward passes, for an attack to see through its noise.

    $f_n(x) = \log \frac1n \sum_i \mathrm{softmax}(f(x; \omega_i))$. What comes back is a model
    again: every attack on it follows the gradient of the mean probability, and every call costs `n`
    passes. It is a module that holds the model, so that an attack guards the model as ever, and its
    mode is the model's: `model.eval()` and then `model.drop.train()` keep the noise of a dropout.

    The noise is the model's own. Dropout makes some if the model is in eval mode and its dropout
    layers are in train mode: `model.eval()`, then `.train()` of the layers. If the noise comes from
    the global random state, an attack moves that, the one thing that it then does not leave as it
    was; its result is reproducible after `torch.manual_seed`.

    Args:
        model: Inputs `(n, ...)` to logits `(n, classes)`, other ones at each call.
        n: The number of passes.

    Returns:
        Inputs to the logarithm of the mean probabilities.

    Raises:
        TypeError: If `model` is not a callable or `n` not an int.
        ValueError: If `n` is not positive.

    Example:
        >>> import torch
        >>> noisy = lambda inputs: inputs + torch.randn_like(inputs)
        >>> average = expectation(noisy, n=1000)
        >>> probs = average(torch.zeros(1, 2)).exp()
        >>> bool((probs - 0.5).abs().max() < 0.05)
        True

    References:
        Athalye et al., Synthesizing Robust Adversarial Examples, ICML 2018; Athalye et al.,
        Obfuscated Gradients Give a False Sense of Security, ICML 2018, section 4.2.
    """
    _checks.arguments(model=model, n=n)
    return _Expectation(model, n)


class _Expectation(Around):
    def __init__(self, model: Model, n: int) -> None:
        super().__init__()
        self.model, self.n = model, n
        self._around = (model,)

    def __repr__(self) -> str:
        model = getattr(self.model, "__qualname__", self.model)
        return f"expectation({model}, n={self.n})"

    def of_rows(self, rows: Tensor | slice) -> "_Expectation":
        """Take the model for some rows of a batch."""
        return _Expectation(rows_of(self.model, rows), self.n)

    def forward(self, inputs: Tensor) -> Tensor:
        # Copies, since a model may write into what it gets.
        return log_mean_probs([logits_of(self.model, inputs.clone()) for _ in range(self.n)])
