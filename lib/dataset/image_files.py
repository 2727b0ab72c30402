"""The image files of a data set, in a folder or an archive."""

from __future__ import annotations

import zipfile
from pathlib import Path
from typing import Any, NamedTuple

import cv2
import numpy as np

from lib.utils.images import decode_image


class ImageRecord(NamedTuple):
    """The annotations of one image, in its pixels."""

    id: int
    file_name: str
    width: int
    height: int
    joints: np.ndarray  # (P, K, 3) float32: x, y, visibility (0: not labelled)
    boxes: np.ndarray  # (P, 4) float32: x, y, width, height
    ignore: tuple[dict[str, Any], ...]  # compressed RLEs of regions without a heatmap loss


class ReadError(ValueError):
    """An image that cannot be read; the message names its id and file."""


class ImageFiles:
    """The images of one split: `read(record)` returns (H, W, 3) uint8 RGB."""

    def __init__(self, path: Path) -> None:
        if not path.exists():
            kind = "archive" if path.suffix == ".zip" else "folder"
            raise ValueError(f"the image {kind} {path} does not exist")
        self.path = path
        self._archive: zipfile.ZipFile | None = None

    def where(self, file_name: str) -> str:
        """The name that messages use for a file."""
        separator = "@" if self.path.suffix == ".zip" else "/"
        return f"{self.path}{separator}{file_name}"

    def load(self, file_name: str) -> np.ndarray | None:
        """(H, W, 3) uint8 RGB; None when the file is missing or no image."""
        try:
            if self.path.suffix == ".zip":
                data = self._read_member(file_name)
            else:
                data = (self.path / file_name).read_bytes()
        except (OSError, KeyError, zipfile.BadZipFile):
            return None
        return decode_image(data, cv2.IMREAD_COLOR | cv2.IMREAD_IGNORE_ORIENTATION)

    def read(self, record: ImageRecord) -> np.ndarray:
        """ReadError when the file is missing or no image."""
        image = self.load(record.file_name)
        if image is None:
            raise ReadError(f"image {record.id}: cannot read {self.where(record.file_name)}")
        return image

    def read_checked(self, record: ImageRecord) -> np.ndarray:
        """`read`; ReadError, too, when the size is not as annotated: joints would be off."""
        image = self.read(record)
        height, width = image.shape[:2]
        if (width, height) != (record.width, record.height):
            raise ReadError(
                f"image {record.id}: {self.where(record.file_name)} is {width} x {height}, "
                f"annotated as {record.width} x {record.height}"
            )
        return image

    def _read_member(self, name: str) -> bytes:
        """Archives hold their images at the top or in a folder of the archive's name."""
        if self._archive is None:  # opened in the process that reads
            self._archive = zipfile.ZipFile(self.path)
        try:
            return self._archive.read(name)
        except KeyError:
            return self._archive.read(f"{self.path.stem}/{name}")

    def __getstate__(self) -> dict[str, Any]:
        return {"path": self.path, "_archive": None}
