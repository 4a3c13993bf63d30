"""What no attack can pass: certificates of labels, of confidences and of calibration."""

from advcal.certify._bounds import Bounds
from advcal.certify._certify import Certificates, certify
from advcal.certify._smoothed import smoothed

__all__ = ["Bounds", "Certificates", "certify", "smoothed"]
