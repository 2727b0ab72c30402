"""Writes a data set of custom keypoints (docs/custom_data.md) from labels of another tool."""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Iterable, Sequence
from pathlib import Path, PurePosixPath
from typing import Any

import yaml
from tqdm import tqdm

from lib.keypoints import KEYPOINTS, KeypointSpec
from lib.sides import left_and_right, without_counterpart
from lib.utils.files import write_file
from lib.utils.images import decode_image
from lib.utils.yaml_text import read_yaml
from tools.convert.source import Item, Labels, Object, Skeleton

MAX_JOINTS = 1000
SIGMA = 0.07  # of every joint, until tools.sigmas measures it


def write(labels: Labels, out: Path, category: str | None) -> list[str]:
    """Write images, annotations and joints.yaml below `out`; lines that say what was written.

    A joints.yaml that is already there stays, and its joints are those of the annotations.
    """
    name, skeleton, labels = select_category(labels, category)
    name = name or out.resolve().name
    path, lines = out / "joints.yaml", list(labels.notes)
    if path.exists():
        joints = KeypointSpec.from_dict(read_yaml(path, "joints file"), str(path)).joints
    else:
        joints = skeleton.joints
        text, notes = joints_file(name, skeleton)
        KeypointSpec.from_dict(yaml.safe_load(text), str(path))  # before anything is written
        write_below(path, text)
        lines += notes
    new_names = _new_names(skeleton, joints, path)
    for split, items in labels.splits.items():
        if not re.fullmatch(r"[\w-]+", split):
            raise ValueError(f"{split!r} is no name of a split; wanted letters, digits, _ and -")
        tree = _write_images(items, new_names, out / "images" / split)
        keypoints = {"keypoints": list(joints)} if skeleton.named else {}  # else: free to rename
        tree["categories"] = [{"id": 1, "name": name, **keypoints}]
        target = out / "annotations" / f"{split}.json"
        write_below(target, json.dumps(tree))
        counts = f"{len(tree['images'])} images, {len(tree['annotations'])} objects"
        lines.append(f"{split}: {counts}: {target}")
    return [*lines, f"{len(joints)} joints: {path}"]


def select_category(labels: Labels, wanted: str | None) -> tuple[str, Skeleton, Labels]:
    """Name and joints of the one category with joints, and the labels of it alone."""
    objects = [one for items in labels.splits.values() for item in items for one in item.objects]
    counts = Counter(one.category for one in objects if one.points and one.category)
    found = ", ".join(f"{name} ({number})" for name, number in counts.items()) or "none"
    if wanted and wanted not in counts:
        raise ValueError(f"no object of the category {wanted} has joints; of others: {found}")
    if not wanted and len(counts) > 1:
        raise ValueError(
            f"there are joints of several categories, {found}; a network predicts one: choose "
            f"with --category"
        )
    name = wanted or next(iter(counts), "")
    kept = {
        split: [item._replace(objects=_of(item.objects, name, wanted)) for item in items]
        for split, items in labels.splits.items()
    }
    skeleton = labels.skeletons.get(name) or labels.skeletons.get("")
    if not skeleton or not skeleton.joints:
        chosen = (one for items in kept.values() for item in items for one in item.objects)
        skeleton = Skeleton(tuple(dict.fromkeys(joint for one in chosen for joint in one.points)))
    if not 0 < len(skeleton.joints) <= MAX_JOINTS:
        raise ValueError(
            f"there are {len(skeleton.joints)} different joints in the annotations; wanted 1 to "
            f"{MAX_JOINTS}: the label of a point is its joint"
        )
    return name, skeleton, labels._replace(splits=kept)


def _of(objects: Iterable[Object], name: str, wanted: str | None) -> list[Object]:
    """Objects of a category, or without one; those without joints and box are nothing."""
    categories = {name} if wanted else {name, ""}
    return [one for one in objects if one.category in categories and (one.points or one.box)]


def joints_file(name: str, skeleton: Skeleton) -> tuple[str, list[str]]:
    """The text of a joints file, and lines that say what to complete in it."""
    flips = skeleton.flips or left_and_right(skeleton.joints)
    single = [joint for one in without_counterpart(skeleton.joints) for joint in one]
    single = [joint for joint in single if joint not in sum(flips, ())]
    tree: dict[str, Any] = {
        "name": _spec_name(name),
        "joints": list(skeleton.joints),
        "limbs": [list(limb) for limb in skeleton.limbs],
        "sigmas": SIGMA,
    }
    notes = []
    if flips or single:
        tree["flips"] = [list(pair) for pair in flips]
    else:
        notes.append(
            "no joints are known as left and right: if there are, add flips to joints.yaml"
        )
    if single:
        notes.append(
            f"{', '.join(map(repr, single))}: no counterpart; complete flips in joints.yaml"
        )
    if not skeleton.named:
        notes.append("the joints have no names in the source: rename them in joints.yaml")
    text = yaml.safe_dump(tree, sort_keys=False, allow_unicode=True, width=100)
    measured = f"sigmas: {SIGMA}  # of any joint; python -m tools.sigmas measures them\n"
    comments = "".join(f"# {note}\n" for note in notes)
    return text.replace(f"sigmas: {SIGMA}\n", measured) + comments, notes


def _spec_name(name: str) -> str:
    """A name as joints files want it: letters, digits, _ and -; none of a known data set."""
    small = re.sub(r"[^a-z0-9_-]+", "_", name.lower()).strip("_-")
    if not small[:1].isalpha():
        small = f"custom_{small}".strip("_")
    return f"{small}_custom" if small in KEYPOINTS else small


def _new_names(skeleton: Skeleton, joints: Sequence[str], path: Path) -> dict[str, str]:
    """Name in the source -> name in joints.yaml; the same but for joints without a name."""
    if not skeleton.named and len(skeleton.joints) == len(joints):
        return dict(zip(skeleton.joints, joints, strict=True))
    unknown = [joint for joint in skeleton.joints if joint not in joints]
    if unknown:
        raise ValueError(
            f"{path} has no joint {unknown[0]}; add it, or remove the file to have it written"
        )
    return {joint: joint for joint in joints}


def _write_images(items: Sequence[Item], new_names: dict[str, str], folder: Path) -> dict[str, Any]:
    """Copy the images of a split; images and annotations of its COCO file."""
    joints = list(new_names.values())
    images, annotations, names = [], [], set()
    for number, item in enumerate(tqdm(items, desc=folder.name, unit="image", disable=None), 1):
        if item.name in names or ".." in PurePosixPath(item.name).parts:
            raise ValueError(f"{item.where}: the image {item.name} is there twice, or outside")
        names.add(item.name)
        data = item.read()
        width, height = _size(data, item)
        write_below(folder / item.name, data)
        images.append({"id": number, "file_name": item.name, "width": width, "height": height})
        scale = (width, height) if item.relative else (1, 1)
        for one in item.objects:
            points = {new_names.get(name, name): point for name, point in one.points.items()}
            if unknown := [name for name in points if name not in joints]:
                raise ValueError(f"{item.where}: {unknown[0]} is none of the joints {joints}")
            entry = {"id": len(annotations) + 1, "image_id": number, "category_id": 1}
            annotations.append(entry | _entry(points, one, joints, scale))
    return {"images": images, "annotations": annotations}


def _entry(
    points: dict[str, tuple[float, float, int]],
    one: Object,
    joints: Sequence[str],
    scale: tuple[int, int],
) -> dict[str, Any]:
    """Keypoints and, if the source has one, the box of an object, in pixels."""
    keypoints = []
    for joint in joints:
        x, y, visibility = points.get(joint, (0, 0, 0))
        keypoints += [round(x * scale[0], 3), round(y * scale[1], 3), visibility]
    entry: dict[str, Any] = {"keypoints": keypoints, "num_keypoints": len(points), "iscrowd": 0}
    if one.box:
        entry["bbox"] = [round(part * scale[axis % 2], 3) for axis, part in enumerate(one.box)]
    return entry


def _size(data: bytes, item: Item) -> tuple[int, int]:
    """Width and height of an upright image; as the source says, or coordinates would be off."""
    image = decode_image(data)
    if image is None:
        raise ValueError(f"{item.where}: the image {item.name} is not readable")
    size = image.shape[1], image.shape[0]
    if item.size not in (None, size):
        width, height = item.size or size
        raise ValueError(
            f"{item.where}: the image {item.name} has {size[0]} x {size[1]} pixels, annotated with "
            f"{width} x {height}; convert with the images that were annotated"
        )
    return size


def write_below(path: Path, data: bytes | str) -> None:
    """Write a file and the folders it needs."""
    path.parent.mkdir(parents=True, exist_ok=True)
    write_file(path, data)
