"""Entries of an annotation file: what their keys must hold, and what follows from other keys.

Annotations of custom keypoints (docs/custom_data.md) may lack keys; `complete` derives them, so
that the reader and the evaluators find all of them.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from pycocotools import mask as rle_tools

from lib.keypoints import KeypointSpec

Entry = dict[str, Any]

BOX_AREA = 0.53  # area of a person without one, as a part of the box (CrowdPose's rule)


class Rule(NamedTuple):
    """What the value of a key must be."""

    wanted: str
    holds: Callable[[Any], bool]


def are_numbers(values: Any) -> bool:
    """Whether `values` is a list of finite numbers."""
    return isinstance(values, list) and all(
        isinstance(value, (int, float)) and math.isfinite(value) for value in values
    )


WHOLE = Rule("a whole number", lambda value: isinstance(value, int))
SIZE = Rule("a whole number above 0", lambda value: isinstance(value, int) and value > 0)
NUMBER = Rule("a number", lambda value: are_numbers([value]))
NUMBERS = Rule("a list of finite numbers", are_numbers)
BOX = Rule("4 numbers", lambda value: are_numbers(value) and len(value) == 4)
NAME = Rule("a file name", lambda value: isinstance(value, str) and value != "")

IMAGE_RULES = {"id": WHOLE, "file_name": NAME, "width": SIZE, "height": SIZE}
PERSON_RULES = {"keypoints": NUMBERS, "bbox": BOX, "iscrowd": WHOLE, "num_keypoints": WHOLE}
DERIVED = ("id", "category_id", "keypoints", "bbox", "area", "iscrowd", "num_keypoints")


def drop_unusable(
    entry: Any, rules: Mapping[str, Rule], optional: Collection[str] = ()
) -> tuple[Entry, str]:
    """The entry without its unusable keys, and a description of these ("": there are none)."""
    if not isinstance(entry, dict):
        return {}, f"is {repr(entry)[:40]}, no object with keys"
    lacking = [key for key in rules if key not in entry and key not in optional]
    wrong = [key for key in rules if key in entry and not rules[key].holds(entry[key])]
    reasons = [f"lacks {', '.join(lacking)}"] if lacking else []
    reasons += [f"{key} is {repr(entry[key])[:40]}, wanted {rules[key].wanted}" for key in wrong]
    return {key: entry[key] for key in entry if key not in wrong}, "; ".join(reasons)


def require(
    entry: Any, rules: Mapping[str, Rule], where: str, optional: Collection[str] = ()
) -> None:
    """ValueError naming `where` and every unusable key."""
    if wrong := drop_unusable(entry, rules, optional)[1]:
        raise ValueError(f"{where} {wrong}")


def complete(tree: Entry, spec: KeypointSpec, path: Path) -> Entry:
    """`tree` with the category of `spec` and its annotations alone, missing keys derived.

    ValueError names `path` and the first entry with an error.
    """
    if not isinstance(tree.get("annotations"), list):
        raise ValueError(f"{path} has no list of annotations")
    for place, entry in enumerate(tree["images"]):
        require(entry, IMAGE_RULES, f"{path}: images[{place}]")
    ids = {"image_id": WHOLE, "category_id": WHOLE}
    for place, entry in enumerate(tree["annotations"]):
        require(entry, ids, f"{path}: annotations[{place}]", optional=["category_id"])
    try:
        category = find_category(tree, tree["annotations"], spec)
    except ValueError as error:
        raise ValueError(f"{path} {error}") from None
    annotations = [
        fill_in(one, spec, category["id"], f"{path}: annotations[{place}]")
        for place, one in enumerate(tree["annotations"])
        if one.get("category_id", category["id"]) == category["id"]
    ]
    numbers = [one.get("id") for one in annotations]
    # pycocotools takes an annotation with id 0 for unmatched.
    usable = all(isinstance(number, int) and number > 0 for number in numbers)
    if not usable or len(set(numbers)) < len(numbers):
        annotations = [one | {"id": number} for number, one in enumerate(annotations, start=1)]
    return tree | {"categories": [category], "annotations": annotations}


def find_category(tree: Entry, annotations: list[Entry], spec: KeypointSpec) -> Entry:
    """The one category whose annotations have keypoints; its joints must be those of `spec`."""
    listed = {
        entry["id"]: entry
        for entry in tree.get("categories") or []
        if isinstance(entry, dict) and isinstance(entry.get("id"), int)
    }
    used = {one.get("category_id") for one in annotations if one.get("keypoints")} - {None}
    if len(used) > 1:
        names = sorted(str(listed.get(one, {}).get("name", one)) for one in used)
        raise ValueError(
            f"has keypoints of several categories, {', '.join(names)}; a network predicts one: "
            f"give them the same category_id, or a file each"
        )
    with_joints = [number for number, entry in listed.items() if entry.get("keypoints")]
    number = next(iter([*used, *with_joints, *listed]), 1)
    category = listed.get(number, {})
    check_joints(category, spec)
    joints = list(spec.joints)
    return {"name": spec.name, **category, "id": number, "keypoints": joints}


def check_joints(category: Entry, spec: KeypointSpec) -> None:
    """ValueError where a category names other joints than those of `spec`."""
    joints = category.get("keypoints") or list(spec.joints)
    if joints != list(spec.joints):
        raise ValueError(f"has the joints {joints}, {spec.name} has {list(spec.joints)}")


def fill_in(annotation: Entry, spec: KeypointSpec, category_id: int, where: str) -> Entry:
    """One annotation with all keys but its id."""
    keypoints = annotation.get("keypoints") or [0] * (3 * spec.num_joints)
    whole = annotation | {"keypoints": keypoints, "category_id": category_id}
    if not annotation.get("bbox"):
        whole.pop("bbox", None)
    require(whole, PERSON_RULES | {"area": NUMBER}, where, optional=DERIVED)
    if len(keypoints) != 3 * spec.num_joints:
        raise ValueError(f"{where}: {wrong_length(keypoints, spec)}")
    joints = np.array(keypoints, float).reshape(-1, 3)
    labelled = joints[joints[:, 2] > 0, :2]  # (n, 2)
    if "bbox" not in whole:
        if not len(labelled):
            raise ValueError(f"{where} {NO_BOX}")
        low, extent = labelled.min(axis=0), np.ptp(labelled, axis=0)
        whole["bbox"] = [*low.tolist(), *extent.tolist()]
    area = BOX_AREA * whole["bbox"][2] * whole["bbox"][3]
    return {"area": area, "iscrowd": 0, "num_keypoints": len(labelled)} | whole


NO_BOX = "lacks bbox, and no joint is labelled from which it could be derived"


def wrong_length(keypoints: Sequence[float], spec: KeypointSpec) -> str:
    """What is wrong with keypoints of another number of joints."""
    return (
        f"{len(keypoints)} numbers in keypoints, {spec.name} has 3 for each of "
        f"{spec.num_joints} joints"
    )


def to_rle(segmentation: list | dict, height: int, width: int) -> dict[str, Any]:
    """Polygons, or an RLE dict with a list or a string of counts -> a compressed RLE.

    ValueError when it is none of these, or of an image of another size.
    """
    encode: Any = rle_tools.frPyObjects  # its type hints lack some of the accepted forms
    pixels = height * width
    try:
        if not isinstance(segmentation, dict):
            return dict(rle_tools.merge(encode(segmentation, height, width)))
        size, counts = list(segmentation["size"]), segmentation["counts"]
        if isinstance(counts, list):
            segmentation, pixels = dict(encode(segmentation, *size)), sum(counts)
    except Exception as error:  # pycocotools raises this very class
        raise ValueError(f"the segmentation cannot be read: {error!r}") from None
    if size != [height, width]:
        raise ValueError(f"the segmentation's size is {size}, the image's {[height, width]}")
    if not isinstance(counts, (list, str, bytes)):
        raise ValueError(f"the segmentation's counts are {counts!r}, no list and no text")
    if pixels != height * width:
        raise ValueError(
            f"the segmentation's counts add up to {pixels}, the image has {height * width} pixels"
        )
    return segmentation
