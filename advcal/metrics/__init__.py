"""How right and how honestly confident: functions `(probs, labels) -> number`.

Every metric takes probabilities `(n, classes)` and integer labels `(n,)`, both as tensors or both
as NumPy arrays, and returns a result of that kind in float64.
"""

from advcal.metrics._bins import ReliabilityBins, ece, mce, reliability_bins
from advcal.metrics._scores import accuracy, brier, confidence, mcs, nll

__all__ = [
    "ReliabilityBins",
    "accuracy",
    "brier",
    "confidence",
    "ece",
    "mce",
    "mcs",
    "nll",
    "reliability_bins",
]
