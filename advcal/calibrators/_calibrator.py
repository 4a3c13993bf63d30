"""What every calibrator is: an immutable function from logits to probabilities."""

import dataclasses
import math
from typing import Any

import numpy as np
import torch
from torch import Tensor

from advcal import _checks, _sums


@dataclasses.dataclass(frozen=True, eq=False)
class Calibrator:
    """A function from logits `(n, classes)` to calibrated probabilities `(n, classes)`.

    `calibrator(logits)` are the probabilities and `calibrator.log_probs(logits)` their logarithms,
    of the dtype and on the device of the logits, computed in float64. Rounding to a narrower dtype
    changes no prediction: the highest class stays so, by the last place. Log-probabilities
    are logits too: `lambda inputs: calibrator.log_probs(model(inputs))` is a calibrated model that
    an attack takes as any other.

    Attributes:
        n_classes: The number of classes.
    """

    n_classes: int

    def __call__(self, logits: Tensor) -> Tensor:
        return _narrowed(self._probs(self._wide(logits)), logits.dtype).to(logits.device)

    def log_probs(self, logits: Tensor) -> Tensor:
        """Compute the logarithms of the calibrated probabilities, which are logits again.

        Args:
            logits: Finite logits, shape `(n, classes)`.

        Returns:
            Log-probabilities of the same shape, dtype and device, differentiable in the logits.

        Raises:
            TypeError: If the logits are not a floating tensor.
            ValueError: If a shape is wrong or a logit is not finite.
        """
        return _narrowed(self._log_probs(self._wide(logits)), logits.dtype).to(logits.device)

    def _wide(self, logits: Tensor) -> Tensor:
        return _sums.exact(finite_logits(logits, self.n_classes))

    # Each calibrator has one of the two, and the other follows.
    def _probs(self, z: Tensor) -> Tensor:
        """Map float64 logits to probabilities."""
        return self._log_probs(z).exp()

    def _log_probs(self, z: Tensor) -> Tensor:
        """Map float64 logits to log-probabilities."""
        return self._probs(z).log()


def _narrowed(wide: Tensor, dtype: torch.dtype) -> Tensor:
    """Round to a dtype; where that makes a tie of it, the highest class stays the highest."""
    narrow, top = wide.to(dtype), wide.detach().argmax(dim=1, keepdim=True)
    highest = narrow.detach().amax(dim=1, keepdim=True)
    tied = narrow.detach().argmax(dim=1, keepdim=True) != top
    if not bool(tied.any()):
        return narrow
    raised = highest + highest.abs() * torch.finfo(dtype).eps
    return narrow.scatter_add(1, top, torch.where(tied, raised - narrow.detach().gather(1, top), 0))


def finite_logits(value: Any, n_classes: int | None = None) -> Tensor:
    """Check finite logits `(n, classes)`."""
    if not isinstance(value, Tensor):
        raise TypeError(f"expected logits as a torch.Tensor, got {_checks.kind(value)}")
    _checks.class_rows("logits", value)
    if n_classes is not None and value.shape[1] != n_classes:
        raise ValueError(f"expected logits of {n_classes} classes, got {_checks.kind(value)}")
    least, most = (float(end) for end in value.detach().aminmax())
    if not -math.inf < least <= most < math.inf:
        raise ValueError(f"expected finite logits, got values from {least:g} to {most:g}")
    return value


def calibration_data(
    logits: Any, labels: Any, n_classes: int | None = None, **options: Any
) -> tuple[Tensor, Tensor]:
    """Check options, and finite logits `(n, classes)` and labels `(n,)` to fit to."""
    _checks.arguments(**options)
    z = _sums.home(finite_logits(logits, n_classes).detach())
    _checks.warn_of_probabilities(z)
    labels = _sums.home(labels) if isinstance(labels, Tensor) else labels
    return z, _checks.labels(labels, len(z), z.shape[1], device=z.device)


def parameter(value: Any) -> Tensor:
    """Make a float64 tensor to keep, one that autograd takes whatever mode it was fitted in."""
    array = value.cpu().numpy() if isinstance(value, Tensor) else value
    with torch.inference_mode(False):
        return torch.tensor(np.asarray(array, dtype=np.float64), device="cpu")
