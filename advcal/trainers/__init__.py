"""Train: objectives `(model, batch) -> scalar loss`, and one small loop that knows none of them.

An objective is a value that is called, or any function, so any other loop can call it too.
"""

from advcal._typing import Batch, Objective
from advcal.trainers._adaptive import AdaptiveSmoothing, adaptive_smoothing
from advcal.trainers._anti import anti_adversarial
from advcal.trainers._awp import awp
from advcal.trainers._ccat import ccat
from advcal.trainers._crafting import craft
from advcal.trainers._disjoint import check_disjoint
from advcal.trainers._ensemble import deep_ensemble, ensemble
from advcal.trainers._lockstep import lockstep
from advcal.trainers._loop import epochs, fit
from advcal.trainers._mart import mart
from advcal.trainers._mixup import mixup
from advcal.trainers._noise import noisy, smooth_adversarial
from advcal.trainers._objectives import adversarial, mixed, standard
from advcal.trainers._overfitting import Overfitting, catastrophic_overfitting
from advcal.trainers._predict import Predictions, predict
from advcal.trainers._run import Epoch
from advcal.trainers._stopping import EarlyStopping
from advcal.trainers._trades import trades

__all__ = [
    "AdaptiveSmoothing",
    "Batch",
    "EarlyStopping",
    "Epoch",
    "Objective",
    "Overfitting",
    "Predictions",
    "adaptive_smoothing",
    "adversarial",
    "anti_adversarial",
    "awp",
    "catastrophic_overfitting",
    "ccat",
    "check_disjoint",
    "craft",
    "deep_ensemble",
    "ensemble",
    "epochs",
    "fit",
    "lockstep",
    "mart",
    "mixed",
    "mixup",
    "noisy",
    "predict",
    "smooth_adversarial",
    "standard",
    "trades",
]
