"""Checks of the image files of a split."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from lib.dataset.annotations import Entry
from lib.dataset.checks.faults import Fault, Split
from lib.dataset.image_files import WrongSize, open_archive
from lib.utils.images import exif_orientation


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
        if not _is_there(split, image["file_name"])
    ]

    def check(image: Entry) -> Fault | None:
        has_size = "width" in image and "height" in image
        size = (image["width"], image["height"]) if has_size else None
        try:
            split.files.load(image["file_name"], size)
        except WrongSize as error:
            return Fault("wrong size", split.where(image), str(error))
        except ValueError as error:
            return Fault("unreadable image", split.where(image), str(error))
        return None

    if decode:
        with ThreadPoolExecutor(workers) as pool:
            there = [image for image in named if _is_there(split, image["file_name"])]
            for fault in pool.map(check, there):
                faults += [fault] if fault else []
                tick()
    return faults


def note_turned(split: Split, images: dict[int, Entry]) -> list[str]:
    """A line if images have an EXIF orientation: annotations of the stored pixels do not fit."""

    def turned(image: Entry) -> bool:
        try:
            return exif_orientation(split.files.content(image.get("file_name"))) != 1
        except ValueError:
            return False

    names = [split.where(image) for image in images.values() if turned(image)]
    if not names:
        return []
    return [
        f"{len(names)} images have an EXIF orientation and are turned upright, as annotation tools "
        f"in a browser show them; the first is {names[0]}"
    ]


def _is_there(split: Split, name: str) -> bool:
    return name in split.present or split.files.has(name)


def list_files(path: Path) -> frozenset[str]:
    """The names in an image folder or archive, as annotations give them."""
    if path.suffix != ".zip":
        files = (file for file in path.rglob("*") if file.is_file())
        return frozenset(file.relative_to(path).as_posix() for file in files)
    with open_archive(path) as archive:
        names = [name for name in archive.namelist() if not name.endswith("/")]
    return frozenset(name.removeprefix(f"{path.stem}/") for name in names)
