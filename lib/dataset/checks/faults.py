"""What the checks of a data set pass on: a split as it is on disk, and its faults."""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

from lib.dataset.annotations import Entry
from lib.dataset.image_files import ImageFiles
from lib.keypoints import KeypointSpec

BROKEN, ODD = "broken", "odd"  # broken: training or evaluation stops, or learns what is wrong
KINDS = {
    "unusable entry": BROKEN,
    "duplicate id": BROKEN,
    "unusable keypoints": BROKEN,
    "unreadable segmentation": BROKEN,
    "wrong category": BROKEN,
    "nobody to learn from or to judge": BROKEN,
    "missing image": BROKEN,
    "unreadable image": BROKEN,
    "wrong size": BROKEN,
    "image listed twice": ODD,
    "annotation of no image": ODD,
    "repeated annotation id": ODD,
    "box without extent": ODD,
    "box outside the image": ODD,
    "joint outside the image": ODD,
    "joint at 0, 0": ODD,
    "joints within one pixel": ODD,
    "impossible area": ODD,
    "wrong num_keypoints": ODD,
    "unknown visibility": ODD,
    "file named twice": ODD,
    "image in both splits": ODD,
}


class Fault(NamedTuple):
    """One error in a data set."""

    kind: str  # a key of KINDS
    where: str  # image, annotation and file
    what: str

    @property
    def broken(self) -> bool:
        return KINDS[self.kind] == BROKEN

    def __str__(self) -> str:
        return f"{KINDS[self.kind]}: {self.where}: {self.what}"


class Split(NamedTuple):
    """An annotation file as it is, and the image files that it refers to."""

    name: str
    spec: KeypointSpec
    annotations: Path
    tree: Entry
    files: ImageFiles
    present: frozenset[str]  # names in the folder or archive of images

    def where(self, image: Entry, annotation: Entry | None = None) -> str:
        """`image 5, annotation 7, FILE`; the annotation file where no image is known."""
        parts = [f"image {image['id']}"] if "id" in image else []
        if annotation is not None and "id" in annotation:
            parts.append(f"annotation {annotation['id']}")
        name = image.get("file_name")
        parts.append(self.files.where(name) if name else str(self.annotations))
        return ", ".join(parts)


class Checked(NamedTuple):
    """The usable part of a split, and its faults."""

    images: dict[int, Entry]  # by id, without unusable keys
    annotations: list[Entry]  # without unusable keys
    faults: list[Fault]
    notes: list[str]  # what is derived or left out when the split is read
