"""Counts of a checked data set, its splits compared, and its faults as lines."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from pathlib import Path

from lib.dataset.annotations import Entry
from lib.dataset.checks.faults import KINDS, Checked, Fault, Split
from lib.dataset.checks.split import labelled_joints


def people_per_image(annotations: Iterable[Entry]) -> Counter[int]:
    """Image id -> annotations of it that have a labelled joint."""
    return Counter(a["image_id"] for a in annotations if "image_id" in a and labelled_joints(a))


def summarize(split: Split, checked: Checked) -> str:
    """One line: images, people, joints, crowds."""
    annotations = checked.annotations
    joints = [labelled_joints(annotation) for annotation in annotations]
    crowds = sum(bool(annotation.get("iscrowd")) for annotation in annotations)
    alone = sum(n == 0 and not a.get("iscrowd") for n, a in zip(joints, annotations, strict=True))
    annotated = {annotation.get("image_id") for annotation in annotations}
    empty = sum(number not in annotated for number in checked.images)
    return (
        f"{len(split.tree['images'])} images ({empty} empty), "
        f"{sum(n > 0 for n in joints)} people with {sum(joints)} labelled joints, "
        f"{alone} people without keypoints, {crowds} crowd regions, "
        f"at most {max(people_per_image(annotations).values(), default=0)} people in an image"
    )


def note_crowded(split: Split, checked: Checked, max_people: int) -> list[str]:
    """A line on the images with more people than training uses."""
    counts = people_per_image(checked.annotations)
    crowded = [image for image in checked.images if counts[image] > max_people]
    if not crowded:
        return []
    first = crowded[0]
    return [
        f"{len(crowded)} images have more than MAX_NUM_PEOPLE {max_people} people; "
        f"the first is {split.where(checked.images[first])}: {counts[first]} people"
    ]


def note_unnamed(splits: list[Split]) -> list[str]:
    """A line for each image folder with files that none of `splits` names."""
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
    """Images that are trained on and tested on, by id and by file name."""
    names = {image.get("file_name") for image in test_images.values()} - {None}
    faults = []
    for number, image in train_images.items():
        shared = [f"id {number}"] if number in test_images else []
        shared += [image["file_name"]] if image.get("file_name") in names else []
        if shared:
            what = f"{' and '.join(shared)} is in {test.name}, too"
            faults.append(Fault("image in both splits", train.where(image), what))
    return faults


def fault_lines(faults: Iterable[Fault], limit: int = 20) -> list[str]:
    """Broken things first; of each kind `limit` lines and the number of the rest."""
    by_kind: dict[str, list[Fault]] = {kind: [] for kind in KINDS}
    for fault in faults:
        by_kind[fault.kind].append(fault)
    lines = []
    for kind, of_kind in by_kind.items():
        lines += map(str, of_kind[:limit])
        if len(of_kind) > limit:
            lines.append(f"{KINDS[kind]}: {len(of_kind) - limit} more: {kind}")
    return lines
