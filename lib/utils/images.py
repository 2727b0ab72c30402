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
        image = decode_image(Path(path).read_bytes())
    except OSError as error:
        raise ValueError(f"cannot read {path}: {error.strerror}") from None
    if image is None:
        raise ValueError(f"{path} is not a readable image")
    return image


def decode_image(data: bytes, flags: int = cv2.IMREAD_COLOR) -> np.ndarray | None:
    """(H, W, 3) uint8 RGB; None when `data` is no image."""
    try:
        image = cv2.imdecode(np.frombuffer(data, np.uint8), flags) if data else None
    except cv2.error:  # a broken header that claims a huge image
        return None
    return None if image is None else cv2.cvtColor(image, cv2.COLOR_BGR2RGB)
