"""Checks of the image files of a split."""

from __future__ import annotations

import zipfile
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from lib.dataset.annotations import Entry
from lib.dataset.checks.faults import Fault, Split


def check_image_files(
    split: Split,
    images: dict[int, Entry],
    decode: bool,
    workers: int,
    tick: Callable[[], object],
) -> list[Fault]:
    """Files that are missing, no images, or of another size than annotated."""
    named = [image for image in images.values() if "file_name" in image]
    faults = [
        Fault("missing image", split.where(image), "the image is missing")
        for image in named
        if image["file_name"] not in split.present
    ]

    def check(image: Entry) -> Fault | None:
        pixels = split.files.load(image["file_name"])
        if pixels is None:
            return Fault("unreadable image", split.where(image), "the file is no image")
        height, width = pixels.shape[:2]
        size = image.get("width", width), image.get("height", height)
        if size == (width, height):
            return None
        what = f"the image is {width} x {height}, annotated as {size[0]} x {size[1]}"
        return Fault("wrong size", split.where(image), what)

    if decode:
        with ThreadPoolExecutor(workers) as pool:
            there = [image for image in named if image["file_name"] in split.present]
            for fault in pool.map(check, there):
                faults += [fault] if fault else []
                tick()
    return faults


def list_files(path: Path) -> frozenset[str]:
    """The names in an image folder or archive, as annotations give them."""
    if path.suffix != ".zip":
        files = (file for file in path.rglob("*") if file.is_file())
        return frozenset(file.relative_to(path).as_posix() for file in files)
    try:
        with zipfile.ZipFile(path) as archive:
            names = [name for name in archive.namelist() if not name.endswith("/")]
    except zipfile.BadZipFile:
        raise ValueError(f"{path} is no zip archive") from None
    return frozenset(name.removeprefix(f"{path.stem}/") for name in names)
