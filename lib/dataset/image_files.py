"""The image files of a data set, in a folder or an archive."""

from __future__ import annotations

import lzma
import os
import struct
import zipfile
import zlib
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from lib.utils.images import AS_STORED, MAX_BYTES, decode_image
from lib.utils.reading import read_bytes
from lib.utils.text import printable

ENCRYPTED = 1  # bit of a member's flags
# What zipfile raises for damaged members, and for unknown ways to compress them.
ZIP_ERRORS = (
    OSError,
    EOFError,
    RuntimeError,
    ValueError,
    LookupError,
    struct.error,
    zlib.error,
    lzma.LZMAError,
    zipfile.BadZipFile,
)


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
    """An image that cannot be read, or is not as annotated; the message names its id and file."""


class WrongSize(ValueError):
    """An image of another size than annotated."""


class ImageFiles:
    """The images of one split: `read(record)` returns (H, W, 3) uint8 RGB, upright."""

    def __init__(self, path: Path) -> None:
        """ValueError when `path` is neither a folder nor, with a name in .zip, an archive."""
        self.path = path
        self.is_archive = path.suffix == ".zip"
        self._archive: zipfile.ZipFile | None = None
        kind = "archive" if self.is_archive else "folder"
        if not path.exists():
            raise ValueError(f"the image {kind} {path} does not exist")
        if not (path.is_file() if self.is_archive else path.is_dir()):
            raise ValueError(f"the image {kind} {path} is no {kind}")
        if self.is_archive:
            open_archive(path).close()  # processes that read open it themselves

    def where(self, file_name: Any) -> str:
        """The name that messages use for a file."""
        separator = "@" if self.is_archive else "/"
        return printable(f"{self.path}{separator}{file_name}").replace("\n", " ")

    def load(self, file_name: Any, size: tuple[Any, Any] | None = None) -> np.ndarray:
        """(H, W, 3) uint8 RGB, upright; a ValueError says why a file cannot be read.

        WrongSize if its (width, height) is not `size`, if that is given.
        """
        data = self.content(file_name)
        image = decode_image(data)
        if size is not None and image.shape[1::-1] != size:
            raise WrongSize(_wrong_size(data, image, size))
        return image

    def read(self, record: ImageRecord) -> np.ndarray:
        """ReadError, too, when the size is not as annotated: joints would be off."""
        where = self.where(record.file_name)
        try:
            return self.load(record.file_name, (record.width, record.height))
        except WrongSize as error:
            raise ReadError(f"image {record.id}: {where}: {error}") from None
        except ValueError as error:
            raise ReadError(f"image {record.id}: cannot read {where}: {error}") from None

    def has(self, file_name: str) -> bool:
        """Whether the folder or archive has such a file."""
        if self.is_archive:
            return self._member(file_name) is not None
        return (self.path / file_name).is_file()

    def content(self, file_name: Any) -> bytes:
        """The bytes of a file."""
        if not _is_name(file_name):
            raise ValueError(f"file_name is {ascii(file_name)[:60]}, which is no file's name")
        if self.is_archive:
            return self._read_member(file_name)
        path = self.path / file_name
        try:
            return read_bytes(path, "file", MAX_BYTES)
        except ValueError as error:  # names the path, as our callers do
            reason = str(error).replace(f" {path}", "").removeprefix("cannot read the file: ")
            raise ValueError(reason) from None

    @property
    def archive(self) -> zipfile.ZipFile:
        """Opened in the process that reads."""
        if self._archive is None:
            self._archive = open_archive(self.path)
        return self._archive

    def _member(self, name: str) -> zipfile.ZipInfo | None:
        """Archives hold their images at the top or in a folder of the archive's name."""
        members = self.archive.NameToInfo
        return members.get(name) or members.get(f"{self.path.stem}/{name}")

    def _read_member(self, name: str) -> bytes:
        member = self._member(name)
        if member is None:
            raise ValueError("the archive has no such file")
        if member.flag_bits & ENCRYPTED:
            raise ValueError("the file is encrypted in the archive")
        if member.file_size > MAX_BYTES:  # zipfile reads no more than this
            raise ValueError(f"the file has more than {MAX_BYTES} bytes")
        try:
            return self.archive.read(member)
        except ZIP_ERRORS as error:
            raise ValueError(f"the file is damaged in the archive: {error}") from None

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_archive": None}


def open_archive(path: Path) -> zipfile.ZipFile:
    """ValueError when the file is no zip archive."""
    try:
        return zipfile.ZipFile(path)
    except ZIP_ERRORS as error:
        raise ValueError(f"the image archive {path} is no zip archive: {error}") from None


def _is_name(name: Any) -> bool:
    """Whether the system accepts `name` as the name of a file."""
    try:
        return isinstance(name, str) and bool(name) and b"\0" not in os.fsencode(name)
    except UnicodeEncodeError:  # a lone surrogate
        return False


def _wrong_size(data: bytes, image: np.ndarray, annotated: tuple[Any, Any]) -> str:
    """What is wrong with an image file of another size than annotated, and the remedy."""
    height, width = image.shape[:2]
    what = f"the image is {width} x {height}, annotated as {annotated[0]} x {annotated[1]}"
    if decode_image(data, AS_STORED).shape[1::-1] == annotated:
        return (
            f"{what}, its size before it is turned upright by its EXIF orientation: "
            "remove that orientation from the file, or annotate the upright image"
        )
    return f"{what}: it was resized or turned after it was annotated, or is another image"
