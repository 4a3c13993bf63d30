"""Pictures: functions that draw on matplotlib `Axes` and return them.

Colours are told apart by people with colour-blindness, and type is legible in a column of print,
3.3 inches wide, which is the width of a figure made here. Nothing is shown or saved. matplotlib is
imported when a picture is drawn: `pip install advcal[plots]`, or each raises an `ImportError`.
"""

from advcal.plots._curves import curves
from advcal.plots._envelope import confidence_envelope
from advcal.plots._images import image_grid
from advcal.plots._levels import robustness_levels
from advcal.plots._pareto import pareto_front
from advcal.plots._reliability import reliability_diagram
from advcal.plots._scores import score_histograms
from advcal.plots._shifts import shift_boxes
from advcal.plots._transfer import transfer_matrix

__all__ = [
    "confidence_envelope",
    "curves",
    "image_grid",
    "pareto_front",
    "reliability_diagram",
    "robustness_levels",
    "score_histograms",
    "shift_boxes",
    "transfer_matrix",
]
