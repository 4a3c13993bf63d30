"""Post-hoc calibration: `fit_x(logits, labels) -> calibrator`, `calibrator(logits) -> probs`.

Every fit takes logits `(n, classes)` and integer labels `(n,)` of examples that the model was not
trained on, and draws nothing at random. L-BFGS goes on in float64 until no entry of the gradient is
above 1e-8, and a `RuntimeWarning` says so if it stops with one above 1e-6, as it can on separable
data. A calibrator is an immutable value.
"""

from advcal.calibrators._affine import Affine, fit_dirichlet, fit_matrix, fit_platt, fit_vector
from advcal.calibrators._best import Choice, fit_best
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
from advcal.calibrators._save import load, save
from advcal.calibrators._structured import fit_sms, fit_svs
from advcal.calibrators._temperature import Temperature, fit_temperature

__all__ = [
    "Affine",
    "Calibrator",
    "Choice",
    "Ensemble",
    "OneVsAll",
    "Temperature",
    "TopLabel",
    "fit_best",
    "fit_class_temperature",
    "fit_dirichlet",
    "fit_ensemble",
    "fit_histogram",
    "fit_irm",
    "fit_irova",
    "fit_isotonic",
    "fit_matrix",
    "fit_platt",
    "fit_sms",
    "fit_svs",
    "fit_temperature",
    "fit_vector",
    "load",
    "save",
]
