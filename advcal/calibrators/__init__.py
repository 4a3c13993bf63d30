"""Post-hoc calibration: `fit_x(logits, labels) -> calibrator`, `calibrator(logits) -> probs`.

Every fit takes logits `(n, classes)` and integer labels `(n,)` of examples that the model was not
trained on, tensors or NumPy arrays, and draws nothing at random. L-BFGS goes on in float64 until no
entry of the gradient is above 1e-8, and a `RuntimeWarning` says so if it stops with one above 1e-6,
as it can on separable data. A fit that is likely to do harm to the probabilities of other examples
warns and names one that does not. A calibrator is an immutable value.
"""

from advcal.calibrators._affine import Affine, fit_platt
from advcal.calibrators._best import Choice, fit_best
from advcal.calibrators._beta import fit_beta, fit_quadratic, fit_spline
from advcal.calibrators._calibrator import Calibrator
from advcal.calibrators._class_temperature import fit_class_temperature
from advcal.calibrators._curves import (
    OneVsAll,
    TopLabel,
    fit_histogram,
    fit_irm,
    fit_irova,
    fit_isotonic,
)
from advcal.calibrators._ensemble import Ensemble, fit_ensemble
from advcal.calibrators._matrix import fit_dirichlet, fit_matrix, fit_vector
from advcal.calibrators._odds import LogOdds
from advcal.calibrators._save import load, save
from advcal.calibrators._structured import fit_sms, fit_svs
from advcal.calibrators._temperature import Temperature, fit_temperature
from advcal.calibrators._venn_abers import VennAbers, fit_venn_abers

__all__ = [
    "Affine",
    "Calibrator",
    "Choice",
    "Ensemble",
    "LogOdds",
    "OneVsAll",
    "Temperature",
    "TopLabel",
    "VennAbers",
    "fit_best",
    "fit_beta",
    "fit_class_temperature",
    "fit_dirichlet",
    "fit_ensemble",
    "fit_histogram",
    "fit_irm",
    "fit_irova",
    "fit_isotonic",
    "fit_matrix",
    "fit_platt",
    "fit_quadratic",
    "fit_sms",
    "fit_spline",
    "fit_svs",
    "fit_temperature",
    "fit_vector",
    "fit_venn_abers",
    "load",
    "save",
]
