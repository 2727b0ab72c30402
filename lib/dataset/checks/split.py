"""Every fault of a data set, one line each; no fault hides another.

Looks at the annotation file as it is: the reader refuses much of what is listed here.
"""

from __future__ import annotations

import zipfile
from collections import Counter
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from yacs.config import CfgNode

from lib.dataset.annotations import DERIVED
from lib.dataset.checks.entries import (
    ANNOTATION_RULES,
    IMAGE_RULES,
    NUMBER,
    Entry,
    content_faults,
    sift,
)
from lib.dataset.reader import ImageFiles, ImageRecord, ReadError, layout_of, read_json
from lib.keypoints import KeypointSpec, keypoints_of

BROKEN, ODD = "broken", "odd"  # broken: training or evaluation stops, or learns what is not so
KINDS = {
    "unusable entry": BROKEN,
    "duplicate id": BROKEN,
    "annotation of no picture": BROKEN,
    "keypoints of wrong length": BROKEN,
    "unreadable segmentation": BROKEN,
    "other joints": BROKEN,
    "several categories": BROKEN,
    "missing picture": BROKEN,
    "unreadable picture": BROKEN,
    "other size": BROKEN,
    "box without extent": ODD,
    "box outside the picture": ODD,
    "joint outside the picture": ODD,
    "wrong num_keypoints": ODD,
    "unknown visibility": ODD,
    "file named twice": ODD,
    "picture in both splits": ODD,
}


class Fault(NamedTuple):
    """One thing that is wrong."""

    kind: str  # a key of KINDS
    where: str  # image, annotation and file
    what: str

    @property
    def broken(self) -> bool:
        return KINDS[self.kind] == BROKEN

    def __str__(self) -> str:
        return f"{KINDS[self.kind]}: {self.where}: {self.what}"


class Split(NamedTuple):
    """An annotation file as it is, and the pictures it speaks of."""

    name: str
    spec: KeypointSpec
    annotations: Path
    tree: Entry
    files: ImageFiles
    present: frozenset[str]  # the files in that folder or archive

    def where(self, image: Entry, annotation: Entry | None = None) -> str:
        """`image 5, annotation 7, FILE`; the annotation file where no picture is known."""
        parts = [f"image {image['id']}"] if "id" in image else []
        if annotation is not None and "id" in annotation:
            parts.append(f"annotation {annotation['id']}")
        name = image.get("file_name")
        parts.append(self.files.where(as_image(image)) if name else str(self.annotations))
        return ", ".join(parts)


class Report(NamedTuple):
    """What a split holds, and what is wrong with it."""

    summary: str
    notes: list[str]  # counted, neither broken nor odd
    faults: list[Fault]
    images: dict[int, Entry]  # by id, without the keys that are unusable


def open_split(cfg: CfgNode, is_train: bool) -> Split:
    """The training or test split of `cfg`; ValueError when a folder or file of it is missing."""
    data = cfg.DATASET
    layout = layout_of(cfg, is_train)
    files = ImageFiles(layout.images)
    return Split(
        name=data.TRAIN if is_train else data.TEST,
        spec=keypoints_of(cfg, is_train),
        annotations=layout.annotations,
        tree=read_json(layout.annotations),
        files=files,
        present=list_files(files.path),
    )


def check_split(
    split: Split,
    max_people: int,
    decode: bool = True,
    workers: int = 1,
    tick: Callable[[], object] = lambda: None,
) -> Report:
    """Look at everything; decode: at the pictures too, `workers` at a time.

    tick: called after each picture.
    """
    images, faults = check_images(split)
    annotations, more = check_annotations(split, images)
    faults += more + check_categories(split, annotations)
    faults += check_image_files(split, images, decode, workers, tick)
    notes = note_crowded(split, images, annotations, max_people)
    return Report(summarize(split, annotations), notes, faults, images)


def check_images(split: Split) -> tuple[dict[int, Entry], list[Fault]]:
    """The images by id, and what is wrong with their entries."""
    images: dict[int, Entry] = {}
    faults, first_of = [], {}
    for index, entry in enumerate(split.tree["images"]):
        image, wrong = sift(entry, IMAGE_RULES)
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
    """The annotations without unusable keys, and what is wrong with them."""
    annotations, seen = [], set()
    entries, faults = entries_of(split)
    rules = ANNOTATION_RULES | ({"area": NUMBER} if split.spec.use_area else {})
    optional = DERIVED if split.spec.is_custom else ()
    for index, entry in enumerate(entries):
        annotation, wrong = sift(entry, rules, optional)
        image_id = annotation.get("image_id")
        image = images.get(image_id, {} if image_id is None else {"id": image_id})
        found = list(content_faults(annotation, image, split.spec))
        if wrong:
            found.append(("unusable entry", f"annotations[{index}] {wrong}"))
        if "bbox" in optional and "bbox" not in annotation and not labelled_joints(annotation):
            what = "lacks bbox, and no joint is labelled that would tell it"
            found.append(("unusable entry", f"annotations[{index}] {what}"))
        if image_id is not None and image_id not in images:
            found.append(("annotation of no picture", "no image has this id"))
        if annotation.get("id") in seen:
            found.append(("duplicate id", "another annotation has this id"))
        elif "id" in annotation:
            seen.add(annotation["id"])
        if found:
            where = split.where(image, annotation)
            faults += [Fault(kind, where, what) for kind, what in found]
        annotations.append(annotation)
    return annotations, faults


def entries_of(split: Split) -> tuple[list[Any], list[Fault]]:
    """The annotation entries; an image_info file (COCO test-dev) may go without."""
    entries = split.tree.get("annotations")
    if isinstance(entries, list):
        return entries, []
    if is_unannotated(split):
        return [], []
    return [], [Fault("unusable entry", str(split.annotations), "has no list of annotations")]


def is_unannotated(split: Split) -> bool:
    """COCO test-dev: the truth is kept by a server."""
    return split.annotations.name.startswith("image_info") and "annotations" not in split.tree


def check_categories(split: Split, annotations: list[Entry]) -> list[Fault]:
    """The file's joints must be the config's, name by name; of an own data set, of one category."""
    used = {one.get("category_id") for one in annotations if one.get("keypoints")} - {None}
    if split.spec.is_custom and len(used) > 1:
        what = f"has keypoints of the categories {sorted(used)}; a network finds one"
        return [Fault("several categories", str(split.annotations), what)]
    if is_unannotated(split) or (split.spec.is_custom and "categories" not in split.tree):
        return []
    categories = split.tree.get("categories")
    if not isinstance(categories, list):
        what = "has no list of categories"
        return [Fault("unusable entry", str(split.annotations), what)]
    for category in categories:
        joints = category.get("keypoints") if isinstance(category, dict) else None
        if joints and joints != list(split.spec.joints):
            what = f"its joints are {joints}, those of {split.spec.name} {list(split.spec.joints)}"
            return [Fault("other joints", str(split.annotations), what)]
    return []


def check_image_files(
    split: Split,
    images: dict[int, Entry],
    decode: bool,
    workers: int,
    tick: Callable[[], object],
) -> list[Fault]:
    """Files that are missing, no pictures, or of another size than annotated."""
    named = [image for image in images.values() if "file_name" in image]
    found = [image for image in named if image["file_name"] in split.present]
    faults = [
        Fault("missing picture", split.where(image), "the picture is missing")
        for image in named
        if image["file_name"] not in split.present
    ]
    if decode:
        with ThreadPoolExecutor(workers) as pool:
            for fault in pool.map(partial(look_at, split), found):
                faults += [fault] if fault else []
                tick()
    return faults


def look_at(split: Split, image: Entry) -> Fault | None:
    """What is wrong with the file of `image`."""
    try:
        height, width = split.files.read(as_image(image)).shape[:2]
    except ReadError:
        return Fault("unreadable picture", split.where(image), "the file is no picture")
    said = image.get("width", width), image.get("height", height)
    if said == (width, height):
        return None
    what = f"the picture is {width} x {height}, annotated as {said[0]} x {said[1]}"
    return Fault("other size", split.where(image), what)


def as_image(image: Entry) -> ImageRecord:
    """What ImageFiles asks for: the file's name and the id."""
    nobody = np.zeros((0, 0, 3), np.float32)
    return ImageRecord(image.get("id"), image["file_name"], 0, 0, nobody, nobody, ())


def list_files(path: Path) -> frozenset[str]:
    """The names of a picture folder or archive, as annotations give them."""
    if path.suffix != ".zip":
        files = (file for file in path.rglob("*") if file.is_file())
        return frozenset(file.relative_to(path).as_posix() for file in files)
    try:
        with zipfile.ZipFile(path) as archive:
            names = [name for name in archive.namelist() if not name.endswith("/")]
    except zipfile.BadZipFile:
        raise ValueError(f"{path} is no zip archive") from None
    return frozenset(name.removeprefix(f"{path.stem}/") for name in names)


# --- what is counted --------------------------------------------------------------------


def labelled_joints(annotation: Entry) -> int:
    return sum(visibility > 0 for visibility in annotation.get("keypoints", ())[2::3])


def people_per_image(annotations: Iterable[Entry]) -> Counter[int]:
    """Image id -> annotations of it that have a labelled joint."""
    return Counter(a["image_id"] for a in annotations if "image_id" in a and labelled_joints(a))


def summarize(split: Split, annotations: list[Entry]) -> str:
    """One line: pictures, people, joints, crowds."""
    joints = [labelled_joints(annotation) for annotation in annotations]
    crowds = sum(bool(annotation.get("iscrowd")) for annotation in annotations)
    alone = sum(n == 0 and not a.get("iscrowd") for n, a in zip(joints, annotations, strict=True))
    annotated = {annotation.get("image_id") for annotation in annotations}
    ids = [image.get("id") for image in split.tree["images"] if isinstance(image, dict)]
    return (
        f"{len(split.tree['images'])} pictures ({sum(i not in annotated for i in ids)} empty), "
        f"{sum(n > 0 for n in joints)} people with {sum(joints)} labelled joints, "
        f"{alone} people without keypoints, {crowds} crowd regions, "
        f"at most {max(people_per_image(annotations).values(), default=0)} people in a picture"
    )


def note_crowded(
    split: Split, images: dict[int, Entry], annotations: list[Entry], max_people: int
) -> list[str]:
    """A line on the pictures that show more people than training keeps."""
    counts = people_per_image(annotations)
    crowded = [image for image in images if counts[image] > max_people]
    if not crowded:
        return []
    first = crowded[0]
    return [
        f"{len(crowded)} pictures show more than MAX_NUM_PEOPLE {max_people} people; "
        f"the first is {split.where(images[first])}: {counts[first]} people"
    ]


def note_unnamed(splits: list[Split]) -> list[str]:
    """A line for each picture folder with files that none of `splits` names."""
    unnamed: dict[Path, frozenset[str]] = {}
    for split in splits:
        entries = [image for image in split.tree["images"] if isinstance(image, dict)]
        names = {str(image.get("file_name")) for image in entries}
        unnamed[split.files.path] = unnamed.get(split.files.path, split.present) - names
    asked = " and ".join(split.name for split in splits)
    return [
        f"{path}: {len(files)} files that no annotation of {asked} names, such as {min(files)}"
        for path, files in unnamed.items()
        if files
    ]


def compare_splits(
    train: Split, train_images: dict[int, Entry], test: Split, test_images: dict[int, Entry]
) -> list[Fault]:
    """Pictures that are trained on and tested on, by id and by file name."""
    names = {image.get("file_name") for image in test_images.values()} - {None}
    faults = []
    for number, image in train_images.items():
        shared = [f"id {number}"] if number in test_images else []
        shared += [image["file_name"]] if image.get("file_name") in names else []
        if shared:
            what = f"{' and '.join(shared)} is in {test.name}, too"
            faults.append(Fault("picture in both splits", train.where(image), what))
    return faults


def fault_lines(faults: Iterable[Fault], limit: int = 20) -> list[str]:
    """Broken things first; of each kind `limit` lines and the number of the rest."""
    by_kind: dict[str, list[Fault]] = {kind: [] for kind in KINDS}
    for fault in faults:
        by_kind[fault.kind].append(fault)
    lines = []
    for kind, found in by_kind.items():
        lines += map(str, found[:limit])
        if len(found) > limit:
            lines.append(f"{KINDS[kind]}: {len(found) - limit} more: {kind}")
    return lines
