"""Calibrators as files, which hold tensors and numbers and execute nothing."""

import dataclasses
import os
from typing import BinaryIO

import torch

from advcal import _checks
from advcal.calibrators._affine import Affine
from advcal.calibrators._calibrator import Calibrator
from advcal.calibrators._curves import OneVsAll, TopLabel
from advcal.calibrators._ensemble import Ensemble
from advcal.calibrators._odds import LogOdds
from advcal.calibrators._temperature import Temperature
from advcal.calibrators._venn_abers import VennAbers

_ALL = (Affine, Ensemble, LogOdds, OneVsAll, Temperature, TopLabel, VennAbers)
_KINDS = {kind.__name__: kind for kind in _ALL}


def save(calibrator: Calibrator, path: str | os.PathLike[str] | BinaryIO) -> None:
    """Write a calibrator to a file.

    Args:
        calibrator: What a `fit_x` of this module returned.
        path: Where to, or a binary file open for writing.

    Returns:
        Nothing.

    Raises:
        TypeError: If it is not a calibrator of this module.
        ValueError: If the path is empty, or in a folder that does not exist.

    Example:
        >>> import io
        >>> from advcal.calibrators import Temperature
        >>> save(Temperature(10, 1.5), io.BytesIO())
    """
    if _KINDS.get(type(calibrator).__name__) is not type(calibrator):
        raise TypeError(f"expected a calibrator, got {_checks.kind(calibrator)}")
    if isinstance(path, (str, os.PathLike)):
        _checks.path("path", path)
    fields = {f.name: getattr(calibrator, f.name) for f in dataclasses.fields(calibrator)}
    torch.save({"calibrator": type(calibrator).__name__, "fields": fields}, path)


def load(path: str | os.PathLike[str] | BinaryIO) -> Calibrator:
    """Read a calibrator that `save` wrote, the same to the last bit.

    The file is read by `torch.load` with `weights_only=True`: what is in it is not executed.

    Args:
        path: Where from, or a binary file open for reading.

    Returns:
        The calibrator.

    Raises:
        ValueError: If the file holds something else, or is cut short.
        UnpicklingError: If it holds more than tensors and numbers.

    Example:
        >>> import io
        >>> from advcal.calibrators import Temperature
        >>> file = io.BytesIO()
        >>> save(Temperature(10, 1.5), file)
        >>> position = file.seek(0)
        >>> load(file)
        Temperature(n_classes=10, temperature=1.5)
    """
    try:
        found = torch.load(path, weights_only=True)
    except (EOFError, LookupError, RuntimeError) as error:
        raise ValueError("expected a file that save wrote, got one that is not torch's") from error
    try:
        return _KINDS[found["calibrator"]](**found["fields"])
    except (LookupError, TypeError):
        raise ValueError(f"expected a file that save wrote, got {_checks.kind(found)}") from None
