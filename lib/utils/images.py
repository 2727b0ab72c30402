"""Image files as arrays."""

from __future__ import annotations

import os
from pathlib import Path

import cv2
import numpy as np


def read_image(path: str | os.PathLike[str]) -> np.ndarray:
    """(H, W, 3) uint8 RGB, upright by its EXIF orientation; gray, 16 bits and alpha are converted.

    ValueError when the file cannot be read.
    """
    try:
        data = np.frombuffer(Path(path).read_bytes(), np.uint8)
        image = cv2.imdecode(data, cv2.IMREAD_COLOR) if data.size else None
    except OSError as error:
        raise ValueError(f"cannot read {path}: {error.strerror}") from None
    except cv2.error:  # a header that claims a huge image
        image = None
    if image is None:
        raise ValueError(f"{path} is not a readable image")
    return cv2.cvtColor(image, cv2.COLOR_BGR2RGB)
