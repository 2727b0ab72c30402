"""Decoded images are 8-bit RGB of a bounded size, whatever a file holds."""

from __future__ import annotations

import contextlib
import struct
import time
import zlib

import cv2
import numpy as np
import pytest

from lib.utils import images
from lib.utils.images import MAX_PIXELS, decode_image, exif_orientation, read_image, to_8_bits


def black_png(width: int, height: int) -> bytes:
    """A PNG of a black image, one bit a pixel: 30000 x 30000 pixels are 0.1 MB."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return (
            struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))
        )

    packer = zlib.compressobj(1)
    rows = bytes((1 + (width + 7) // 8) * 100)
    packed = b"".join(packer.compress(rows) for _ in range(height // 100)) + packer.flush()
    header = struct.pack(">IIBBBBB", width, height, 1, 0, 0, 0, 0)
    chunks = chunk(b"IHDR", header) + chunk(b"IDAT", packed) + chunk(b"IEND", b"")
    return b"\x89PNG\r\n\x1a\n" + chunks


def encoded(image: np.ndarray, suffix: str = ".png") -> bytes:
    return cv2.imencode(suffix, image)[1].tobytes()


# --- 16 bits ------------------------------------------------------------------------------


def test_a_png_of_all_16_bits_gives_the_upper_8(tmp_path):
    image = np.random.default_rng(0).integers(0, 2**16, (40, 50, 3)).astype(np.uint16)
    (tmp_path / "a.png").write_bytes(encoded(image))
    np.testing.assert_array_equal(read_image(tmp_path / "a.png"), image[..., ::-1] >> 8)


@pytest.mark.parametrize("bits", range(1, 17))
def test_the_highest_8_of_the_bits_in_use_are_taken(bits):
    image = np.random.default_rng(bits).integers(0, 2**bits, (40, 50)).astype(np.uint16)
    image[0, 0], image[0, 1] = 2**bits - 1, 3 % 2**bits
    shift = max(0, bits - 8)
    np.testing.assert_array_equal(to_8_bits(image), image // 2**shift)
    np.testing.assert_array_equal(decode_image(encoded(image))[..., 1], image // 2**shift)


@pytest.mark.parametrize("factor", [256, 257])
def test_8_bits_stored_as_16_are_these_8_however_dark(factor):
    dark = np.random.default_rng(0).integers(0, 20, (40, 50)).astype(np.uint16)
    np.testing.assert_array_equal(to_8_bits(dark * factor), dark)


@pytest.mark.parametrize("suffix", [".tiff", ".hdr", ".pfm"])
def test_floating_point_values_are_refused(suffix):
    image = np.random.default_rng(0).random((20, 30, 3)).astype(np.float32)
    with pytest.raises(ValueError, match="has float32 values; save it with 8 or 16 bits"):
        decode_image(encoded(image, suffix))


# --- size ---------------------------------------------------------------------------------


def test_a_huge_image_is_refused_before_it_is_decoded(tmp_path):
    (tmp_path / "huge.png").write_bytes(black_png(30_000, 30_000))
    message = rf"huge\.png .*: the image has 30000 x 30000 pixels; at most {MAX_PIXELS} are"
    begin = time.process_time()
    with pytest.raises(ValueError, match=message):
        read_image(tmp_path / "huge.png")
    assert time.process_time() - begin < 1  # decoding it takes ten seconds and 3 GB


@pytest.mark.parametrize("suffix", [".png", ".jpg", ".webp", ".tiff", ".bmp", ".ppm", ".gif"])
def test_the_limit_holds_for_every_format_and_is_inclusive(monkeypatch, suffix):
    data = encoded(np.zeros((20, 30, 3), np.uint8), suffix)
    monkeypatch.setattr(images, "MAX_PIXELS", 600)
    assert decode_image(data).shape == (20, 30, 3)
    monkeypatch.setattr(images, "MAX_PIXELS", 599)
    monkeypatch.setattr(cv2, "imdecode", None)  # the header decides
    with pytest.raises(ValueError, match="30 x 20 pixels; at most 599"):
        decode_image(data)


def test_a_png_chunk_longer_than_the_file_is_not_allocated(monkeypatch):
    data = encoded(np.zeros((20, 30, 3), np.uint8))
    place = data.index(b"IDAT") - 4
    assert decode_image(data + b"more").shape == (20, 30, 3)
    monkeypatch.setattr(cv2, "imdecode", None)  # it would take seconds and 4 GB
    with pytest.raises(ValueError, match="the file is no image"):
        decode_image(data[:place] + b"\xff" + data[place + 1 :])


def test_the_limit_holds_where_the_header_is_unknown(monkeypatch):
    monkeypatch.setattr(images, "HEADERS", {})
    monkeypatch.setattr(images, "MAX_PIXELS", 599)
    with pytest.raises(ValueError, match="30 x 20 pixels; at most 599"):
        decode_image(encoded(np.zeros((20, 30, 3), np.uint8)))


@pytest.mark.filterwarnings("ignore::UserWarning")  # Pillow's, of damaged EXIF data
def test_damaged_files_are_pixels_or_a_value_error():
    """Cut and changed files of several formats, seeded; reading the orientation never fails."""
    rng = np.random.default_rng(0)
    noise = rng.integers(0, 256, (20, 30, 3)).astype(np.uint8)
    for suffix in (".png", ".jpg", ".webp", ".tiff", ".bmp", ".ppm", ".gif"):
        whole = encoded(noise, suffix)
        for _ in range(20):
            data = bytearray(whole[: rng.integers(1, len(whole))])
            data[rng.integers(min(64, len(data)))] = rng.integers(256)
            assert exif_orientation(bytes(data)) in range(1, 9)
            with contextlib.suppress(ValueError):
                assert decode_image(bytes(data)).dtype == np.uint8
