"""Annotations of an own data set (docs/custom_data.md), made whole for reader and evaluators.

What an entry may go without is derived; whatever else is missing or odd is one line that names the
first entry.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from lib.keypoints import KeypointSpec

Entry = dict[str, Any]

# What entries must have, and of what type.
NEEDED = {
    "images": {"id": int, "file_name": str, "width": int, "height": int},
    "annotations": {"image_id": int},
}
DERIVED = ("id", "category_id", "keypoints", "bbox", "area", "iscrowd", "num_keypoints")
BOX_AREA = 0.53  # of who has no area, as a part of the box (CrowdPose's rule)


def complete(tree: Entry, spec: KeypointSpec, path: Path) -> Entry:
    """`tree` with one category, `spec`'s, and its annotations alone, all their keys filled in.

    ValueError names `path` and the first entry of which something is missing or malformed.
    """
    if not isinstance(tree.get("annotations"), list):
        raise ValueError(f"{path} has no list of annotations")
    for key, needed in NEEDED.items():
        for place, entry in enumerate(tree[key]):
            _check_entry(entry, needed, f"{path}: {key}[{place}]")
    category = find_category(tree, spec, path)
    annotations = [
        fill_in(one, spec, category["id"], f"{path}: annotations[{place}]")
        for place, one in enumerate(tree["annotations"])
        if one.get("category_id", category["id"]) == category["id"]
    ]
    ids = [one.get("id") for one in annotations]
    # To pycocotools, whoever has id 0 was never found.
    if not all(isinstance(one, int) and one > 0 for one in ids) or len(set(ids)) < len(ids):
        annotations = [one | {"id": number} for number, one in enumerate(annotations, start=1)]
    return tree | {"categories": [category], "annotations": annotations}


def find_category(tree: Entry, spec: KeypointSpec, path: Path) -> Entry:
    """The one category whose annotations have keypoints; its joints must be those of `spec`."""
    listed = {
        entry["id"]: entry
        for entry in tree.get("categories") or []
        if isinstance(entry, dict) and isinstance(entry.get("id"), int)
    }
    used = {one.get("category_id") for one in tree["annotations"] if one.get("keypoints")} - {None}
    if len(used) > 1:
        names = sorted(str(listed.get(one, {}).get("name", one)) for one in used)
        raise ValueError(
            f"{path} has keypoints of several categories, {', '.join(names)}; a network finds one: "
            f"give them the same category_id, or a file each"
        )
    with_joints = [number for number, entry in listed.items() if entry.get("keypoints")]
    number = next(iter([*used, *with_joints, *listed]), 1)
    category = listed.get(number, {})
    joints = category.get("keypoints") or list(spec.joints)
    if joints != list(spec.joints):
        raise ValueError(
            f"{path}: its joints are {joints}, those of {spec.name} {list(spec.joints)}"
        )
    return {"name": spec.name, **category, "id": number, "keypoints": joints}


def fill_in(annotation: Entry, spec: KeypointSpec, category_id: int, where: str) -> Entry:
    """One annotation with all keys that it went without, but for its id."""
    keypoints = annotation.get("keypoints") or [0] * (3 * spec.num_joints)
    joints = _numbers(keypoints, f"{where}: keypoints")
    if len(joints) != 3 * spec.num_joints:
        raise ValueError(
            f"{where}: {len(joints)} numbers in keypoints, {spec.name} has 3 for each of "
            f"{spec.num_joints} joints"
        )
    labelled = joints.reshape(-1, 3)[joints[2::3] > 0, :2]
    box = annotation.get("bbox") or _box_around(labelled, where)
    if len(_numbers(box, f"{where}: bbox")) != 4:
        raise ValueError(f"{where}: bbox is {box}; wanted x, y, width, height")
    derived = {"area": BOX_AREA * box[2] * box[3], "iscrowd": 0, "num_keypoints": len(labelled)}
    whole = derived | annotation
    for key in derived:
        _numbers([whole[key]], f"{where}: {key}")
    return whole | {"keypoints": keypoints, "bbox": box, "category_id": category_id}


def _check_entry(entry: Any, needed: dict[str, type], where: str) -> None:
    if not isinstance(entry, dict):
        raise ValueError(f"{where} is {repr(entry)[:40]}, no object with keys")
    for key, kind in needed.items():
        if key not in entry:
            raise ValueError(f"{where} lacks {key}")
        if not isinstance(entry[key], kind):
            wanted = "a whole number" if kind is int else "a text"
            raise ValueError(f"{where}: {key} is {repr(entry[key])[:40]}; wanted {wanted}")
    if not isinstance(entry.get("category_id", 1), int):
        raise ValueError(f"{where}: category_id is {entry['category_id']!r}; wanted a whole number")


def _box_around(labelled: np.ndarray, where: str) -> list[float]:
    """x, y, width, height around joints (n, 2)."""
    if not len(labelled):
        raise ValueError(f"{where} lacks bbox, and no joint is labelled that would tell it")
    return [*labelled.min(axis=0).tolist(), *np.ptp(labelled, axis=0).tolist()]


def _numbers(values: Any, where: str) -> np.ndarray:
    try:
        numbers = np.array(values, float)
    except (TypeError, ValueError):
        numbers = np.array(np.nan)
    if numbers.ndim != 1 or not np.isfinite(numbers).all():
        raise ValueError(f"{where} is {repr(values)[:60]}; wanted finite numbers")
    return numbers
