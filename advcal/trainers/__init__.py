"""Train: objectives `(model, batch) -> scalar loss`, and one small loop that knows none of them.

An objective is an ordinary function, so any other loop can call it too.
"""

from advcal.trainers._disjoint import check_disjoint
from advcal.trainers._loop import Epoch, epochs, fit
from advcal.trainers._objectives import adversarial, inverse_adversarial, mixed, standard
from advcal.trainers._overfitting import Overfitting, catastrophic_overfitting
from advcal.trainers._predict import Predictions, predict
from advcal.trainers._stopping import EarlyStopping

__all__ = [
    "EarlyStopping",
    "Epoch",
    "Overfitting",
    "Predictions",
    "adversarial",
    "catastrophic_overfitting",
    "check_disjoint",
    "epochs",
    "fit",
    "inverse_adversarial",
    "mixed",
    "predict",
    "standard",
]
