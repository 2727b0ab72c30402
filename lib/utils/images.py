"""Image files as arrays, by one rule for every reader: upright, 8 bits, RGB, of a bounded size."""

from __future__ import annotations

import io
import os
import struct
from pathlib import Path

import cv2
import numpy as np
from PIL import (
    BmpImagePlugin,
    GifImagePlugin,
    Image,
    Jpeg2KImagePlugin,
    JpegImagePlugin,
    PngImagePlugin,
    PpmImagePlugin,
    TiffImagePlugin,
    WebPImagePlugin,
)

from lib.utils.reading import read_bytes

MAX_BYTES = 2**30  # of an image file
MAX_PIXELS = 2**28  # of an image: 0.8 GB as RGB; OpenCV crashes beyond 2^31 bytes
ORIENTATION = 0x0112  # the EXIF tag
AS_STORED = cv2.IMREAD_IGNORE_ORIENTATION
PNG = b"\x89PNG\r\n\x1a\n"  # the first bytes of such a file
HEADERS = {  # first bytes of a file -> what reads its header
    b"\xff\xd8\xff": JpegImagePlugin.JpegImageFile,
    PNG: PngImagePlugin.PngImageFile,
    b"RIFF": WebPImagePlugin.WebPImageFile,
    b"II*\0": TiffImagePlugin.TiffImageFile,
    b"MM\0*": TiffImagePlugin.TiffImageFile,
    b"BM": BmpImagePlugin.BmpImageFile,
    b"GIF8": GifImagePlugin.GifImageFile,
    b"P": PpmImagePlugin.PpmImageFile,
    b"\xffO\xffQ": Jpeg2KImagePlugin.Jpeg2KImageFile,
    b"\0\0\0\x0cjP  \r\n\x87\n": Jpeg2KImagePlugin.Jpeg2KImageFile,
}
# What Pillow's readers raise for headers that they do not understand.
HEADER_ERRORS = (
    OSError,
    SyntaxError,
    ValueError,
    LookupError,
    TypeError,
    EOFError,
    struct.error,
    Image.DecompressionBombError,  # of WebP alone; check_pixels has the limit
)


def read_image(path: str | os.PathLike[str]) -> np.ndarray:
    """`decode_image` of a file; a ValueError names it."""
    data = read_bytes(os.fspath(path), "image", MAX_BYTES)
    try:
        return decode_image(data)
    except ValueError as error:
        raise ValueError(f"{path} is not a readable image: {error}") from None


def decode_image(data: bytes, flags: int = 0) -> np.ndarray:
    """(H, W, 3) uint8 RGB, turned upright by its EXIF orientation (flags AS_STORED: not turned).

    A gray channel is repeated, alpha is dropped, and 16 bits become 8 by `to_8_bits`.

    ValueError if `data` is no image, has floating-point values or more than MAX_PIXELS.
    """
    header = image_header(data)
    if header is not None:
        check_pixels(*header.size)
    flags |= cv2.IMREAD_COLOR | cv2.IMREAD_ANYDEPTH
    try:
        whole = data and not has_cut_chunk(data)
        image = cv2.imdecode(np.frombuffer(data, np.uint8), flags) if whole else None
    except cv2.error:  # a damaged header
        image = None
    if image is None:
        raise ValueError("the file is no image")
    check_pixels(image.shape[1], image.shape[0])
    if image.dtype == np.uint16:
        image = to_8_bits(image)
    if image.dtype != np.uint8:
        raise ValueError(f"the image has {image.dtype} values; save it with 8 or 16 bits")
    return cv2.cvtColor(image, cv2.COLOR_BGR2RGB)


def to_8_bits(image: np.ndarray) -> np.ndarray:
    """uint16 -> uint8: the 8 bits from the highest that the image uses, or the lowest 8.

    A 12-bit sensor's values, up to 4095, are divided by 16. Where 8 bits were stored as 16 (all
    values are multiples of 256 or 257), these 8 bits are taken, however dark the image is.
    """
    stored_as_16 = any(not (image % step).any() for step in (256, 257))
    shift = 8 if stored_as_16 else max(0, int(image.max()).bit_length() - 8)
    return (image >> shift).astype(np.uint8)


def check_pixels(width: int, height: int) -> None:
    """ValueError for an image of more than MAX_PIXELS."""
    if width * height > MAX_PIXELS:
        raise ValueError(
            f"the image has {width} x {height} pixels; at most {MAX_PIXELS} are possible: resize it"
        )


def image_header(data: bytes) -> Image.Image | None:
    """The image without its pixels; None for a format that is not in HEADERS.

    `Image.open` would warn of large images, and refuse them at a limit of the whole process.
    """
    reader = next((HEADERS[start] for start in HEADERS if data.startswith(start)), None)
    try:
        return None if reader is None else reader(io.BytesIO(data))
    except HEADER_ERRORS:
        return None


def is_image_file(path: Path) -> bool:
    """Whether a file begins like an image, which a GIF may not be; True if it cannot be read."""
    try:
        with path.open("rb") as file:
            head = file.read(16)
    except OSError:
        return True
    if head.startswith(b"RIFF"):  # AVI, too
        return head[8:12] == b"WEBP"
    return head.startswith(tuple(HEADERS)) and not head.startswith(b"GIF8")


def has_cut_chunk(data: bytes) -> bool:
    """Whether a PNG names a chunk longer than its rest: OpenCV would allocate up to 4 GB for it."""
    place = len(PNG)
    while (
        data.startswith(PNG) and place + 8 <= len(data) and data[place + 4 : place + 8] != b"IEND"
    ):
        place += 12 + int.from_bytes(data[place : place + 4], "big")  # length, name, data, CRC
    return place > len(data)


def exif_orientation(data: bytes) -> int:
    """The EXIF orientation of an image file, 1 to 8; 1 (upright) if there is none."""
    header = image_header(data)
    try:
        orientation = 1 if header is None else header.getexif().get(ORIENTATION, 1)
    except HEADER_ERRORS:
        return 1
    return orientation if orientation in range(1, 9) else 1
