"""How right and how honestly confident: functions `(probs, labels) -> number`.

Every metric takes probabilities `(n, classes)` and integer labels `(n,)`, both as tensors or both
as NumPy arrays, and returns a result of that kind in float64. Logits are taken if
`from_logits=True` says so; they are never guessed.
"""

from advcal.metrics._binless import kde_ece, ks_error, smooth_ece
from advcal.metrics._bins import ece
from advcal.metrics._bootstrap import bootstrap
from advcal.metrics._classwise import (
    classwise_bins,
    classwise_ece,
    classwise_mcs,
    debiased_classwise_rmsce,
)
from advcal.metrics._clopper_pearson import clopper_pearson
from advcal.metrics._crossfit import CrossfitError, crossfit_ece
from advcal.metrics._decomposition import Decomposition, decompose_brier, decompose_nll
from advcal.metrics._detection import aupr, auroc, entropy, fpr95
from advcal.metrics._errors import debiased_rmsce, ece_sweep, mce, rmsce
from advcal.metrics._information import Uncertainty, uncertainty
from advcal.metrics._intervals import Interval
from advcal.metrics._labelled import labelled
from advcal.metrics._paired import PairedTest, paired_test
from advcal.metrics._ranked import detection_interval
from advcal.metrics._scores import accuracy, brier, confidence, mcs, nll
from advcal.metrics._selective import (
    augrc,
    aurc,
    e_aurc,
    rejection_threshold,
    robust_error,
    selective_risk,
)
from advcal.metrics._significance import CalibrationTest
from advcal.metrics._sketch import ReliabilitySketch, reliability_sketch
from advcal.metrics._stability import churn, robustness_levels, variance
from advcal.metrics._summary import Summary, summary
from advcal.metrics._table import ReliabilityBins, reliability_bins
from advcal.metrics._uncertainty import calibration_test, consistency_bands, ece_interval

__all__ = [
    "CalibrationTest",
    "CrossfitError",
    "Decomposition",
    "Interval",
    "PairedTest",
    "ReliabilityBins",
    "ReliabilitySketch",
    "Summary",
    "Uncertainty",
    "accuracy",
    "augrc",
    "aupr",
    "aurc",
    "auroc",
    "bootstrap",
    "brier",
    "calibration_test",
    "churn",
    "classwise_bins",
    "classwise_ece",
    "classwise_mcs",
    "clopper_pearson",
    "confidence",
    "consistency_bands",
    "crossfit_ece",
    "debiased_classwise_rmsce",
    "debiased_rmsce",
    "decompose_brier",
    "decompose_nll",
    "detection_interval",
    "e_aurc",
    "ece",
    "ece_interval",
    "ece_sweep",
    "entropy",
    "fpr95",
    "kde_ece",
    "ks_error",
    "labelled",
    "mce",
    "mcs",
    "nll",
    "paired_test",
    "rejection_threshold",
    "reliability_bins",
    "reliability_sketch",
    "rmsce",
    "robust_error",
    "robustness_levels",
    "selective_risk",
    "smooth_ece",
    "summary",
    "uncertainty",
    "variance",
]
