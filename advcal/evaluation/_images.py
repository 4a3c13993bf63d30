"""Image files as arrays: 8 and 16 bits, grey and colour; Pillow decodes them."""

from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from advcal._looks import looks

SUFFIXES = (".jpeg", ".jpg", ".png")


def pixels(file: Path) -> npt.NDArray[Any]:
    """Read an image as float32 in [0, 1], shape `(3, height, width)`, grey as three equal channels.

    Raises:
        ImportError: If Pillow is not there.
        ValueError: If the file is not a whole JPEG or PNG image of 8 or 16 bits.
        OSError: If the file cannot be opened.
    """
    try:
        from PIL import Image
    except ImportError:
        raise ImportError("reading images needs Pillow: pip install 'advcal[images]'") from None
    with file.open("rb") as opened:
        try:
            with Image.open(opened, formats=("JPEG", "PNG")) as image:
                deep = image.mode[:1] == "I"  # what a PNG of 16 bits is: converted, it would clip
                found = np.asarray(image if deep else image.convert("RGB"))
        except Exception:  # Pillow has many ways of saying "damaged", and none has the name
            raise ValueError(f"expected an image in {file}, got {looks(file)}") from None
    scaled = found.astype(np.float32) / (65535 if deep else 255)
    return np.stack([scaled] * 3) if deep else np.ascontiguousarray(scaled.transpose(2, 0, 1))
