"""Every fault of a data set, one line each; no fault hides another.

The annotation file is checked as it is: the reader refuses much of what is listed here.
"""

from __future__ import annotations

import zipfile
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import NamedTuple

from yacs.config import CfgNode

from lib.dataset.annotations import (
    DERIVED,
    IMAGE_RULES,
    NO_BOX,
    NUMBER,
    PERSON_RULES,
    WHOLE,
    Entry,
    check_joints,
    drop_unusable,
    find_category,
)
from lib.dataset.checks.entries import content_faults
from lib.dataset.reader import ImageFiles, layout_of, read_tree
from lib.keypoints import KeypointSpec, keypoints_of

BROKEN, ODD = "broken", "odd"  # broken: training or evaluation stops, or learns what is wrong
KINDS = {
    "unusable entry": BROKEN,
    "duplicate id": BROKEN,
    "annotation of no image": BROKEN,
    "keypoints of wrong length": BROKEN,
    "unreadable segmentation": BROKEN,
    "wrong category": BROKEN,
    "missing image": BROKEN,
    "unreadable image": BROKEN,
    "wrong size": BROKEN,
    "box without extent": ODD,
    "box outside the image": ODD,
    "joint outside the image": ODD,
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

    @property
    def is_unannotated(self) -> bool:
        """Whether its ground truth is not public: COCO test-dev."""
        return self.annotations.name.startswith("image_info") and "annotations" not in self.tree

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


def open_split(cfg: CfgNode, is_train: bool) -> Split:
    """The training or test split of `cfg`; ValueError when a folder or file of it is missing."""
    layout = layout_of(cfg, is_train)
    files = ImageFiles(layout.images)
    return Split(
        name=cfg.DATASET.TRAIN if is_train else cfg.DATASET.TEST,
        spec=keypoints_of(cfg, is_train),
        annotations=layout.annotations,
        tree=read_tree(layout.annotations),
        files=files,
        present=list_files(files.path),
    )


def check_split(
    split: Split,
    decode: bool = True,
    workers: int = 1,
    tick: Callable[[], object] = lambda: None,
) -> Checked:
    """Check everything; decode: the image files too, `workers` at a time.

    tick: called after each image file.
    """
    images, faults = check_images(split)
    annotations, more = check_annotations(split, images)
    faults += more + check_categories(split, annotations)
    faults += check_image_files(split, images, decode, workers, tick)
    return Checked(images, annotations, faults)


def check_images(split: Split) -> tuple[dict[int, Entry], list[Fault]]:
    """The images by id, and the faults of their entries."""
    images: dict[int, Entry] = {}
    faults, first_of = [], {}
    for index, entry in enumerate(split.tree["images"]):
        image, wrong = drop_unusable(entry, IMAGE_RULES)
        where = split.where(image)
        if wrong:
            faults.append(Fault("unusable entry", where, f"images[{index}] {wrong}"))
        if image.get("id") in images:
            faults.append(Fault("duplicate id", where, "another image has this id"))
        elif "id" in image:
            images[image["id"]] = image
        name = image.get("file_name")
        if name in first_of:
            what = f"{first_of[name]} has the same file"
            faults.append(Fault("file named twice", where, what))
        elif name:
            first_of[name] = f"image {image.get('id')}"
    return images, faults


def check_annotations(split: Split, images: dict[int, Entry]) -> tuple[list[Entry], list[Fault]]:
    """The annotations without unusable keys, and their faults."""
    entries = split.tree.get("annotations")
    if not isinstance(entries, list):
        if split.is_unannotated:
            return [], []
        what = "has no list of annotations"
        return [], [Fault("unusable entry", str(split.annotations), what)]
    rules = {"id": WHOLE, "image_id": WHOLE, "category_id": WHOLE, **PERSON_RULES}
    if split.spec.use_area:
        rules["area"] = NUMBER
    optional = DERIVED if split.spec.is_custom else ()
    annotations, faults, seen = [], [], set()
    for index, entry in enumerate(entries):
        annotation, wrong = drop_unusable(entry, rules, optional)
        image_id = annotation.get("image_id")
        image = {} if image_id is None else images.get(image_id, {"id": image_id})
        pairs = list(content_faults(annotation, image, split.spec))
        if wrong:
            pairs.append(("unusable entry", f"annotations[{index}] {wrong}"))
        if "bbox" in optional and "bbox" not in annotation and not labelled_joints(annotation):
            pairs.append(("unusable entry", f"annotations[{index}] {NO_BOX}"))
        if image_id is not None and image_id not in images:
            pairs.append(("annotation of no image", "no image has this id"))
        if annotation.get("id") in seen:
            pairs.append(("duplicate id", "another annotation has this id"))
        elif "id" in annotation:
            seen.add(annotation["id"])
        faults += [Fault(kind, split.where(image, annotation), what) for kind, what in pairs]
        annotations.append(annotation)
    return annotations, faults


def labelled_joints(annotation: Entry) -> int:
    return sum(visibility > 0 for visibility in annotation.get("keypoints", ())[2::3])


def check_categories(split: Split, annotations: list[Entry]) -> list[Fault]:
    """The file's joints must be the config's, name by name."""
    categories = split.tree.get("categories")
    try:
        if split.spec.is_custom:
            find_category(split.tree, annotations, split.spec)
        elif isinstance(categories, list):
            for category in categories:
                check_joints(category if isinstance(category, dict) else {}, split.spec)
        elif not split.is_unannotated:
            raise ValueError("has no list of categories")
    except ValueError as error:
        return [Fault("wrong category", str(split.annotations), str(error))]
    return []


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
