"""Attacks: functions `(model, inputs, labels, *, eps, ...) -> adversarial inputs`.

Every attack returns inputs of the same shape, dtype and device, within `eps` of the originals
(if it takes one) and within `bounds`, and leaves the model exactly as it found it. It uses the
labels that it is given unless it says otherwise: the true ones make it an attack on accuracy, the
predicted ones measure the distance to the decision boundary. Configure one with
`functools.partial(pgd, eps=8 / 255)`. With `levels=256` each returns 8-bit images that still do
what it is for.
"""

from advcal._typing import Attack
from advcal.attacks import (
    _ace,
    _apgd,
    _autoattack,
    _confidence,
    _cw,
    _ddn,
    _deepfool,
    _fgsm,
    _fmn,
    _foot,
    _hopskipjump,
    _iaa,
    _minimum,
    _noise,
    _pgd,
    _pgd_conf,
    _square,
)
from advcal.attacks._alongside import alongside
from advcal.attacks._balls import Ball
from advcal.attacks._columns import two_columns
from advcal.attacks._combine import autocast, batched, cascade, worst_case
from advcal.attacks._distance import adversarial_distance
from advcal.attacks._expectation import expectation
from advcal.attacks._norms import l1, l2, linf
from advcal.attacks._public import public as _public
from advcal.attacks._through import through

ace = _public(_ace.ace, keeps=True)
apgd = _public(_apgd.apgd)
autoattack = _public(_autoattack.autoattack)
cw_l2 = _public(_cw.cw_l2)
ddn = _public(_ddn.ddn)
deepfool = _public(_deepfool.deepfool)
fgsm = _public(_fgsm.fgsm)
fmn = _public(_fmn.fmn)
foot = _public(_foot.foot)
generalised_ace = _public(_ace.generalised_ace, keeps=True)
hopskipjump = _public(_hopskipjump.hopskipjump, grad=False)
iaa = _public(_iaa.iaa, keeps=True)
minimum_norm = _public(_minimum.minimum_norm)
mma = _public(_confidence.mma, keeps=True)
n_fgsm = _public(_fgsm.n_fgsm)
oca = _public(_confidence.oca, keeps=True)
pgd = _public(_pgd.pgd)
pgd_conf = _public(_pgd_conf.pgd_conf)
rca = _public(_confidence.rca, keeps=True)
square = _public(_square.square, grad=False)
uca = _public(_confidence.uca, keeps=True)
uniform_noise = _public(_noise.uniform_noise, keeps=None, grad=False)

__all__ = [
    "Attack",
    "Ball",
    "ace",
    "adversarial_distance",
    "alongside",
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
    "hopskipjump",
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
    "through",
    "two_columns",
    "uca",
    "uniform_noise",
    "worst_case",
]
