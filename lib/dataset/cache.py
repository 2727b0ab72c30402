"""Images decoded and shrunk once, for trainings on small inputs.

A cache is a folder (DATASET.CACHE) that `python -m tools.cache_images` fills; for a split it has

    <split>_<side>.pixels   uint8 RGB, row by row, one image after the other
    <split>_<side>.json     {"version": 2, "images": [[id, file name, annotated size, width, height,
                            offset in bytes], ...]}

where the side of SCALE_TYPE is at most `cache_side`, so that the smallest crop still has a pixel
for each of the input's. Smaller images stay as they are. All processes of a machine read a cache
through one memory map. Caches of version 1 held images that were not turned upright by their EXIF
orientation; they are refused.
"""

from __future__ import annotations

import json
import math
import shutil
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import NamedTuple

import cv2
import numpy as np
from yacs.config import CfgNode

from lib.dataset.image_files import ImageRecord, ReadError
from lib.utils.files import replacing, reported, write_file

VERSION = 2  # of the rule by which images are read (lib/utils/images.py)


class Place(NamedTuple):
    """Where a cached image is, and which one it is."""

    file_name: str
    annotated: list[int]  # width and height of the image file
    width: int
    height: int
    offset: int  # in bytes


class ImageCache:
    """The images of one split: `read(record)` returns (h, w, 3) uint8 RGB, read only."""

    def __init__(self, path: Path, places: dict[int, Place]) -> None:
        self.path = path
        self.places = places
        self._pixels: np.memmap | None = None

    @classmethod
    def open(cls, path: Path) -> ImageCache:
        """The cache whose pixels are at `path`; ValueError when it is missing or damaged."""
        index = path.with_suffix(".json")
        try:
            tree = json.loads(index.read_text(encoding="utf-8"))
            old = tree.get("version", 1) != VERSION
            places = {} if old else {row[0]: Place(*row[1:]) for row in tree["images"]}
            size = path.stat().st_size
        except OSError:
            raise ValueError(
                f"DATASET.CACHE: there is no {path}; python -m tools.cache_images makes it"
            ) from None
        except (ValueError, LookupError, TypeError, AttributeError):
            raise ValueError(f"DATASET.CACHE: {index} is no index of a cache") from None
        if old:
            raise ValueError(
                f"DATASET.CACHE: {path} was made when images were not turned upright by their "
                "EXIF orientation; delete it and its .json, and run tools.cache_images again"
            )
        if size != sum(3 * place.width * place.height for place in places.values()):
            raise ValueError(f"DATASET.CACHE: {path} has another size than {index.name} says")
        return cls(path, places)

    def read(self, record: ImageRecord) -> np.ndarray:
        """ReadError when the image is not in the cache, or is another one there."""
        place = self.places.get(record.id)
        if place is None:
            raise ReadError(f"image {record.id}: {record.file_name} is not in {self.path}")
        if place[:2] != (record.file_name, [record.width, record.height]):
            cached = "{} of {} x {}".format(place.file_name, *place.annotated)
            raise ReadError(
                f"image {record.id}: {record.file_name} of {record.width} x {record.height} is "
                f"{cached} in {self.path}; delete the cache and run tools.cache_images again"
            )
        if self._pixels is None:  # mapped in the process that reads
            self._pixels = np.memmap(self.path, np.uint8, mode="r")
        pixels = self._pixels[place.offset : place.offset + 3 * place.width * place.height]
        return np.asarray(pixels).reshape(place.height, place.width, 3)

    def __getstate__(self) -> dict:
        return {"path": self.path, "places": self.places, "_pixels": None}


def cache_path(cfg: CfgNode) -> Path:
    """Where the pixels of the training split are cached."""
    data = cfg.DATASET
    return Path(data.CACHE) / f"{data.TRAIN}_{data.SCALE_TYPE}{cache_side(cfg)}.pixels"


def cache_side(cfg: CfgNode) -> int:
    """The largest short (SCALE_TYPE long: long) side of a cached image, in pixels."""
    return math.ceil(cfg.DATASET.INPUT_SIZE / cfg.DATASET.MIN_SCALE)


def shrunk_size(record: ImageRecord, cfg: CfgNode) -> tuple[int, int]:
    """Width and height of the cached image: its side is at most `cache_side`."""
    sides = record.width, record.height
    side = min(sides) if cfg.DATASET.SCALE_TYPE == "short" else max(sides)
    ratio = min(1.0, cache_side(cfg) / side)
    return max(1, round(record.width * ratio)), max(1, round(record.height * ratio))


def shrink(image: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """(H, W, 3) -> (h, w, 3), each pixel the mean of those that it covers; size: (w, h)."""
    return cv2.resize(image, size, interpolation=cv2.INTER_AREA)


def write_cache(
    path: Path, records: Sequence[ImageRecord], images: Iterable[np.ndarray | None], cfg: CfgNode
) -> None:
    """Write shrunk `images` of the `records`, in their order, to `path`; None is left out.

    The index is written last, so a cache without one is incomplete. ValueError when the disk has
    too little space.
    """
    with reported(path):
        path.parent.mkdir(parents=True, exist_ok=True)
    sizes = [shrunk_size(record, cfg) for record in records]
    need, free = sum(3 * w * h for w, h in sizes), shutil.disk_usage(path.parent).free
    if need > free:
        raise ValueError(
            f"DATASET.CACHE: {path} needs {need / 1e9:.1f} GB, there are {free / 1e9:.1f} GB free"
        )
    index = path.with_suffix(".json")
    rows, offset = [], 0
    with replacing(path) as partial, partial.open("wb") as file:
        for record, (width, height), image in zip(records, sizes, images, strict=True):
            if image is None:
                continue
            file.write(image.tobytes())
            annotated = [record.width, record.height]
            rows.append([record.id, record.file_name, annotated, width, height, offset])
            offset += image.nbytes
        index.unlink(missing_ok=True)
    write_file(index, json.dumps({"version": VERSION, "images": rows}))
