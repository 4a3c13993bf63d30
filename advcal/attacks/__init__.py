"""Attacks: functions `(model, inputs, labels, *, eps, ...) -> adversarial inputs`.

Every attack returns inputs of the same shape, dtype and device, within `eps` of the originals
(where it takes one) and within `bounds`, and leaves the model exactly as it found it. It uses the
labels that it is given unless it says otherwise: the true ones make it an attack on accuracy, the
predicted ones measure the distance to the decision boundary. Configure one with
`functools.partial(pgd, eps=8 / 255)`.
"""

from advcal._typing import Attack
from advcal.attacks._ace import ace, generalised_ace
from advcal.attacks._apgd import apgd
from advcal.attacks._autoattack import autoattack
from advcal.attacks._balls import Ball, l1, l2, linf
from advcal.attacks._combine import autocast, batched, cascade, worst_case
from advcal.attacks._confidence import mma, oca, rca, uca
from advcal.attacks._cw import cw_l2
from advcal.attacks._ddn import ddn
from advcal.attacks._deepfool import deepfool
from advcal.attacks._distance import adversarial_distance
from advcal.attacks._expectation import expectation
from advcal.attacks._fgsm import fgsm, n_fgsm
from advcal.attacks._fmn import fmn
from advcal.attacks._foot import foot
from advcal.attacks._iaa import iaa
from advcal.attacks._minimum import minimum_norm
from advcal.attacks._noise import uniform_noise
from advcal.attacks._pgd import pgd
from advcal.attacks._pgd_conf import pgd_conf
from advcal.attacks._square import square

__all__ = [
    "Attack",
    "Ball",
    "ace",
    "adversarial_distance",
    "apgd",
    "autoattack",
    "autocast",
    "batched",
    "cascade",
    "cw_l2",
    "ddn",
    "deepfool",
    "expectation",
    "fgsm",
    "fmn",
    "foot",
    "generalised_ace",
    "iaa",
    "l1",
    "l2",
    "linf",
    "minimum_norm",
    "mma",
    "n_fgsm",
    "oca",
    "pgd",
    "pgd_conf",
    "rca",
    "square",
    "uca",
    "uniform_noise",
    "worst_case",
]
