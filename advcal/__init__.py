"""Attacks, defenses and calibration metrics for classifiers in PyTorch.

Seven submodules, each usable on its own: `advcal.attacks`, `advcal.losses`, `advcal.metrics`,
`advcal.calibrators`, `advcal.trainers`, `advcal.certify`, `advcal.evaluation`, and `advcal.plots`
for the pictures.
A submodule is loaded when it is first used, so that `import advcal` costs next to nothing.
"""

import importlib
from types import ModuleType
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from advcal import (
        attacks,
        calibrators,
        certify,
        evaluation,
        losses,
        metrics,
        plots,
        trainers,
    )

__version__ = "0.2.0"
__all__ = [
    "attacks",
    "calibrators",
    "certify",
    "evaluation",
    "losses",
    "metrics",
    "plots",
    "trainers",
]


def __getattr__(name: str) -> ModuleType:
    if name in __all__:
        return importlib.import_module(f"advcal.{name}")
    raise AttributeError(f"module 'advcal' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted([*globals(), *__all__])
