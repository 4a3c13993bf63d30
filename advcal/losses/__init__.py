"""What to minimise: functions `(logits, targets) -> loss`, and the targets themselves.

Soft labels need no loss of their own: `torch.nn.functional.cross_entropy` takes them, and is finite
wherever the logits are.
"""

from advcal._typing import Loss
from advcal.losses._adaptive import AdaptiveSmoothing, adaptive_smoothing
from advcal.losses._dlr import dlr
from advcal.losses._focal import flsd53, focal
from advcal.losses._inverse import inverse_adversarial
from advcal.losses._margin import margin
from advcal.losses._mart import mart
from advcal.losses._mbls import mbls
from advcal.losses._penalty import confidence_penalty
from advcal.losses._relaxation import label_relaxation
from advcal.losses._smoothing import smooth_labels
from advcal.losses._trades import trades

__all__ = [
    "AdaptiveSmoothing",
    "Loss",
    "adaptive_smoothing",
    "confidence_penalty",
    "dlr",
    "flsd53",
    "focal",
    "inverse_adversarial",
    "label_relaxation",
    "margin",
    "mart",
    "mbls",
    "smooth_labels",
    "trades",
]
