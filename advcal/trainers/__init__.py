"""Train: objectives `(model, batch) -> scalar loss`, and one small loop that knows none of them.

An objective is an ordinary function, so any other loop can call it too.
"""

from advcal.trainers._adaptive import AdaptiveSmoothing, adaptive_smoothing
from advcal.trainers._loop import Epoch, epochs, fit
from advcal.trainers._objectives import adversarial, inverse_adversarial, mixed, standard
from advcal.trainers._predict import Predictions, predict

__all__ = [
    "AdaptiveSmoothing",
    "Epoch",
    "Predictions",
    "adaptive_smoothing",
    "adversarial",
    "epochs",
    "fit",
    "inverse_adversarial",
    "mixed",
    "predict",
    "standard",
]
