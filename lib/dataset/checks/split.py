"""Every fault of a data set, one line each; no fault hides another.

The annotation file is checked as it is: the reader refuses much of what is listed here.
"""

from __future__ import annotations

from collections.abc import Callable

from yacs.config import CfgNode

from lib.dataset.annotations import ANNOTATION_RULES, DERIVED, Entry, drop_unusable, image_rules
from lib.dataset.categories import find_category
from lib.dataset.checks.entries import content_faults
from lib.dataset.checks.faults import Checked, Fault, Split
from lib.dataset.checks.images import check_image_files, list_files, note_turned
from lib.dataset.complete import complete, is_hidden, why_nobody_is_judged
from lib.dataset.image_files import ImageFiles
from lib.dataset.reader import Layout, layout_in, layout_of, read_tree
from lib.keypoints import KeypointSpec, keypoints_of
from lib.utils.mix import mix_of


def open_split(cfg: CfgNode, is_train: bool) -> Split:
    """The training or test split of `cfg`; ValueError when a folder or file of it is missing."""
    name = cfg.DATASET.TRAIN if is_train else cfg.DATASET.TEST
    return _open(name, layout_of(cfg, is_train), keypoints_of(cfg, is_train))


def open_mix(cfg: CfgNode) -> list[Split]:
    """The data sets of DATASET.MIX, each with its own joints; [] without a mix."""
    splits = []
    for entry in mix_of(cfg):
        layout = layout_in(cfg, f"{entry.place}: ROOT", entry.root, entry.spec, entry.split)
        splits.append(_open(f"{entry.root}, {entry.split}", layout, entry.spec))
    return splits


def _open(name: str, layout: Layout, spec: KeypointSpec) -> Split:
    files = ImageFiles(layout.images)
    return Split(
        name=name,
        spec=spec,
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
    notes, more = check_completion(split, any(fault.broken for fault in faults))
    faults += more + check_image_files(split, images, decode, workers, tick)
    notes = notes + (note_turned(split, images) if decode else [])
    return Checked(images, annotations, faults, notes)


def check_images(split: Split) -> tuple[dict[int, Entry], list[Fault]]:
    """The images by id, and the faults of their entries."""
    images: dict[int, Entry] = {}
    faults, first_of = [], {}
    for index, entry in enumerate(split.tree["images"]):
        image, wrong = drop_unusable(entry, image_rules(split.spec), optional=["crowdIndex"])
        where, number, name = split.where(image), image.get("id"), image.get("file_name")
        if wrong:
            faults.append(Fault("unusable entry", where, f"images[{index}] {wrong}"))
        if number in images and images[number].get("file_name") == name:
            faults.append(Fault("image listed twice", where, "it counts once"))
        elif number in images:
            faults.append(Fault("duplicate id", where, "another image has this id"))
        elif name in first_of:
            what = f"{first_of[name]} has the same file"
            faults.append(Fault("file named twice", where, what))
        if number is not None:
            images.setdefault(number, image)
        if name is not None:
            first_of.setdefault(name, f"image {number}")
    return images, faults


def check_annotations(split: Split, images: dict[int, Entry]) -> tuple[list[Entry], list[Fault]]:
    """The annotations without unusable keys, and their faults."""
    entries = split.tree.get("annotations")
    if not isinstance(entries, list):
        if entries is None and is_hidden(split.annotations):
            return [], []
        what = "has no list of annotations"
        return [], [Fault("unusable entry", str(split.annotations), what)]
    annotations, faults, seen = [], [], set()
    for index, entry in enumerate(entries):
        annotation, wrong = drop_unusable(entry, ANNOTATION_RULES, DERIVED)
        image_id = annotation.get("image_id")
        image = {} if image_id is None else images.get(image_id, {"id": image_id})
        pairs = list(content_faults(annotation, image, split.spec))
        if wrong:
            pairs.append(("unusable entry", f"annotations[{index}] {wrong}"))
        if image_id is not None and image_id not in images:
            pairs.append(("annotation of no image", "no image has this id"))
        number = repr(annotation["id"]) if "id" in annotation else None
        if number in seen:
            pairs.append(("repeated annotation id", "another annotation has this id"))
        elif number is not None:
            seen.add(number)
        faults += [Fault(kind, split.where(image, annotation), what) for kind, what in pairs]
        annotations.append(annotation)
    return annotations, faults


def labelled_joints(annotation: Entry) -> int:
    """The labelled joints of an annotation without unusable keys."""
    return sum((visibility or 0) > 0 for visibility in annotation.get("keypoints", ())[2::3])


def check_categories(split: Split, annotations: list[Entry]) -> list[Fault]:
    """The file's joints must be the config's, name by name."""
    try:
        find_category(split.tree, annotations, split.spec)
    except ValueError as error:
        return [Fault("wrong category", str(split.annotations), str(error))]
    return []


def check_completion(split: Split, is_broken: bool) -> tuple[list[str], list[Fault]]:
    """What is derived and left out when the split is read; the reader's error, if it has one.

    is_broken: the error is known already.
    """
    try:
        completed = complete(split.tree, split.spec, split.annotations)
    except ValueError as error:
        what = str(error).removeprefix(f"{split.annotations}").lstrip(": ")
        return [], [] if is_broken else [Fault("unusable entry", str(split.annotations), what)]
    notes = [f"derived: {line}" for line in completed.derived]
    notes += [f"left out: {line}" for line in completed.left_out]
    reason = why_nobody_is_judged(completed.tree["annotations"], split.spec)
    if not reason or is_hidden(split.annotations):
        return notes, []
    return notes, [Fault("nobody to learn from or to judge", str(split.annotations), reason)]
