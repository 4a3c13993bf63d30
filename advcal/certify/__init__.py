"""What no attack can pass: certificates of labels, of confidences and of calibration."""

from advcal.certify._certify import Certificates, certify
from advcal.certify._coverage import SetFigures, set_figures
from advcal.certify._figures import CertifiedFigures, figures
from advcal.certify._linf import crown, interval
from advcal.certify._reach import Reach
from advcal.certify._sets import PredictionSets, conformal
from advcal.certify._smoothed import smoothed

__all__ = [
    "Certificates",
    "CertifiedFigures",
    "PredictionSets",
    "Reach",
    "SetFigures",
    "certify",
    "conformal",
    "crown",
    "figures",
    "interval",
    "set_figures",
    "smoothed",
]
