"""Calibrators as files, which hold tensors and numbers and execute nothing."""

import dataclasses
import os
from typing import BinaryIO

from advcal import _checks, _files
from advcal.calibrators import _fields
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
        path: The file to write, or a binary file open for writing.

    Returns:
        Nothing.

    Raises:
        TypeError: If it is not a calibrator of this module.
        ValueError: If the path is empty, or in a folder that does not exist, or a number of the
            calibrator is not what it may be.
        OSError: If the file cannot be written, as on a full disk; an old one stays as it was.

    Example:
        >>> import io
        >>> from advcal.calibrators import Temperature
        >>> save(Temperature(10, 1.5), io.BytesIO())
    """
    if _KINDS.get(type(calibrator).__name__) is not type(calibrator):
        raise TypeError(f"expected a calibrator, got {_checks.kind(calibrator)}")
    fields = {f.name: getattr(calibrator, f.name) for f in dataclasses.fields(calibrator)}
    _fields.check(type(calibrator), fields)
    contents = {"calibrator": type(calibrator).__name__, "fields": fields}
    if not isinstance(path, (str, os.PathLike)):
        if not callable(getattr(path, "write", None)):
            raise TypeError(f"expected path of a file or a binary file, got {_checks.kind(path)}")
        _files.dump(contents, path)
        return
    _checks.path("path", path)
    with _files.held(path, seconds=60), _files.whole(path) as file:
        _files.dump(contents, file)


def load(path: str | os.PathLike[str] | BinaryIO) -> Calibrator:
    """Read a calibrator that `save` wrote, the same to the last bit.

    What is in the file is not executed, and is checked: a temperature is positive, shapes and
    classes go together.

    Args:
        path: The file to read, or a binary file open for reading.

    Returns:
        The calibrator.

    Raises:
        TypeError: If the path is no path.
        ValueError: If the file is damaged or holds anything but a sound calibrator.
        FileNotFoundError: If there is none.

    Example:
        >>> import io
        >>> from advcal.calibrators import Temperature
        >>> file = io.BytesIO()
        >>> save(Temperature(10, 1.5), file)
        >>> position = file.seek(0)
        >>> load(file)
        Temperature(n_classes=10, temperature=1.5)
    """
    named = isinstance(path, (str, os.PathLike))
    if named or not callable(getattr(path, "read", None)):
        _checks.path("path", path)
    found = _files.load(path, "a calibrator")
    wanted = f"expected {os.fspath(path) if named else 'the file'} to be a calibrator, got"  # type: ignore[arg-type]
    if not isinstance(found, dict) or not found.keys() == {"calibrator", "fields"}:
        raise ValueError(f"{wanted} {_checks.kind(found)}")
    name = found["calibrator"]
    kind = _KINDS.get(name) if isinstance(name, str) else None
    if kind is None:
        raise ValueError(f"{wanted} one of an unknown kind, {name!r}")
    try:
        return _fields.check(kind, found["fields"])
    except ValueError as error:
        raise ValueError(f"{wanted} one that is not sound: {error}") from None
