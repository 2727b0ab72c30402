"""Every fault of a data set, one line each; no fault hides another.

The annotation file is checked as it is: the reader refuses much of what is listed here.
"""

from __future__ import annotations

from collections.abc import Callable

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
from lib.dataset.checks.faults import Checked, Fault, Split
from lib.dataset.checks.images import check_image_files, list_files
from lib.dataset.image_files import ImageFiles
from lib.dataset.reader import layout_of, read_tree
from lib.keypoints import keypoints_of


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
