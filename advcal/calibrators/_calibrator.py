"""What every calibrator is: an immutable function from logits to probabilities."""

import dataclasses
import math
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import Tensor

from advcal import _checks, _probs, _sums
from advcal._typing import Array

# Nats of the mean NLL, and of the sum: what one parameter gains by chance in one case of a hundred.
_HARM, _NOISE = 0.01, 3.3
_MOST = 1e150  # size of a logit to fit to: the square of a difference has to be finite


@dataclasses.dataclass(frozen=True, eq=False)
class Calibrator:
    """A function from logits `(n, classes)` to calibrated probabilities `(n, classes)`.

    `calibrator(logits)` are the probabilities and `calibrator.log_probs(logits)` their logarithms,
    of the dtype and on the device of the logits, computed in float64; of a NumPy array they are
    arrays. Rounding to a narrower dtype changes no prediction: the highest class stays so, by the
    last place. Log-probabilities are logits too: `lambda inputs:
    calibrator.log_probs(model(inputs))` is a calibrated model that an attack takes as any other.

    A logit of minus infinity masks its class: its probability is 0, and the others' are the same
    as with the class sliced off, in the fit as well. Of two classes none is the positive one: if
    they change places in logits and labels, the probabilities do.

    Attributes:
        n_classes: The number of classes.
    """

    n_classes: int

    @property
    def _keeps(self) -> bool:
        """Tell whether the predictions are those of the logits."""
        return False

    def __call__(self, logits: Array) -> Array:
        z, own_kind = sound_logits(logits, self.n_classes)
        return own_kind(self._narrowed(self._probs, z))

    def log_probs(self, logits: Array) -> Array:
        """Compute the logarithms of the calibrated probabilities, which are logits again.

        Args:
            logits: Logits, shape `(n, classes)`, finite or minus infinity for masked classes.

        Returns:
            Log-probabilities of the same kind, shape, dtype and device; those of a tensor are
            differentiable in the logits.

        Raises:
            TypeError: If the logits are not a floating tensor or array.
            ValueError: If a shape is wrong, a logit is NaN or infinity, or all of a row are masked.
        """
        z, own_kind = sound_logits(logits, self.n_classes)
        return own_kind(self._narrowed(self._log_probs, z))

    def _narrowed(self, compute: Callable[[Tensor], Tensor], z: Tensor) -> Tensor:
        """Compute in float64 and round to the dtype of the logits, on their device."""
        exact = _sums.exact(z)
        wide = compute(exact)
        return _narrowed(wide, z.dtype, exact if self._keeps else wide).to(z.device)

    # Each calibrator has one of the two, and the other follows.
    def _probs(self, z: Tensor) -> Tensor:
        """Map float64 logits to probabilities."""
        return self._log_probs(z).exp()

    def _log_probs(self, z: Tensor) -> Tensor:
        """Map float64 logits to log-probabilities."""
        p = self._probs(z)
        return torch.where(p > 0, p, 1.0).log().masked_fill(p <= 0, -torch.inf)  # no 0 by 0


def _narrowed(wide: Tensor, dtype: torch.dtype, ranked: Tensor) -> Tensor:
    """Round to a dtype; if a tie comes of it, the class that is ranked highest is the highest."""
    narrow, top = wide.to(dtype), ranked.detach().argmax(dim=1, keepdim=True)
    highest = narrow.detach().amax(dim=1, keepdim=True)
    tied = narrow.detach().argmax(dim=1, keepdim=True) != top
    if not bool(tied.any()):
        return narrow
    raised = highest + highest.abs() * torch.finfo(dtype).eps
    return narrow.scatter_add(1, top, torch.where(tied, raised - narrow.detach().gather(1, top), 0))


def sound_logits(
    value: Array, n_classes: int | None = None
) -> tuple[Tensor, Callable[[Tensor], Array]]:
    """Check logits `(n, classes)`, finite or masked; return a tensor and the way back."""
    viewed, own_kind = _probs.as_tensor("logits", value)
    z = value if isinstance(value, Tensor) else viewed
    _checks.class_rows("logits", z, given=value)
    if n_classes is not None and z.shape[1] != n_classes:
        raise ValueError(f"expected logits of {n_classes} classes, got {_checks.kind(value)}")
    least, most = (float(end) for end in z.detach().aminmax())
    if not -math.inf < least <= most < math.inf:
        highest = z.detach().amax(dim=1)
        if not bool(highest.isfinite().all()):
            raise ValueError(
                "expected logits that are finite, or minus infinity beside finite ones, got "
                f"values from {least:g} to {most:g}"
            )
    return z, own_kind


def calibration_data(
    logits: Any, labels: Any, n_classes: int | None = None, **options: Any
) -> tuple[Tensor, Tensor]:
    """Check options, and logits `(n, classes)` and labels `(n,)` of one kind to fit to."""
    _checks.arguments(**options)
    z = _sums.home(sound_logits(logits, n_classes)[0].detach())
    _checks.warn_of_probabilities(z)
    if z.dtype == torch.float64 and len(far := z[(z.abs() > _MOST) & (z > -math.inf)]):
        raise ValueError(
            f"expected logits from {-_MOST:g} to {_MOST:g}, or minus infinity for masked classes, "
            f"got {float(far[0]):g}"
        )
    y = _probs.labels_like("logits", logits, labels, z.shape[1])
    y = _checks.labels(_sums.home(y), len(z), z.shape[1], device=z.device)
    if bool(z.gather(1, y[:, None]).isneginf().any()):
        row = int(z.gather(1, y[:, None])[:, 0].isneginf().nonzero()[0])
        raise ValueError(
            f"expected labels of classes that are not masked, got {y[row]} in row {row}"
        )
    return z, y


def unmasked(z: Tensor, y: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Slice off the classes that are masked in all rows; return which stay, as well."""
    stay = (~z.isneginf().all(dim=0)).nonzero()[:, 0]
    if len(stay) == z.shape[1]:
        return z, y, stay
    stay = (
        stay
        if len(stay) > 1
        else torch.arange(2, device=z.device) + min(int(stay[0]), z.shape[1] - 2)
    )
    return z[:, stay], torch.searchsorted(stay, y), stay


def warn_of_harm(change: float, trace: float, z: Tensor) -> None:
    """Warn if a fit is likely to make the NLL of other examples worse than none does.

    Args:
        change: Of the mean NLL on the data of the fit.
        trace: Of the covariance of the gradients in units of the curvature, both summed over
            examples. Over n it is what the NLL on others is above that here (Takeuchi, 1976).
        z: The logits of the fit.
    """
    n, k = z.shape
    if change + trace / n > _HARM - _NOISE / n:
        _checks.warn(
            f"expected enough examples to mend more than they spoil, got {n} of {k} classes, which "
            f"change the NLL of others by about {change + trace / n:+.2g}; use fit_best or "
            "fit_temperature(prior=0.5), or a greater strength"
        )


def mean_nll(log_probs: Tensor, y: Tensor) -> float:
    """Return the mean NLL."""
    return -float(log_probs.gather(1, y[:, None]).mean())


def parameter(value: Any) -> Tensor:
    """Make a float64 tensor to keep, one that autograd takes whatever mode it was fitted in."""
    array = value.cpu().numpy() if isinstance(value, Tensor) else value
    with torch.inference_mode(False):
        return torch.tensor(np.asarray(array, dtype=np.float64), device="cpu")
