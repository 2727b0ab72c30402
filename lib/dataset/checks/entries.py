"""What a single entry of an annotation file says wrong, as (kind, what) pairs.

The kinds are those of `lib.dataset.checks.split`.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Iterator
from typing import Any, NamedTuple

from pycocotools import mask as rle_tools

from lib.dataset.reader import to_rle
from lib.keypoints import KeypointSpec

Entry = dict[str, Any]


class Rule(NamedTuple):
    """What the value of a key must be."""

    wanted: str
    holds: Callable[[Any], bool]


def are_numbers(values: Any) -> bool:
    return isinstance(values, list) and all(
        isinstance(value, (int, float)) and math.isfinite(value) for value in values
    )


WHOLE = Rule("a whole number", lambda value: isinstance(value, int))
SIZE = Rule("a whole number above 0", lambda value: isinstance(value, int) and value > 0)
NUMBER = Rule("a number", lambda value: are_numbers([value]))
NUMBERS = Rule("a list of numbers", are_numbers)
BOX = Rule("4 numbers", lambda value: are_numbers(value) and len(value) == 4)
NAME = Rule("a file name", lambda value: isinstance(value, str) and value != "")

IMAGE_RULES = {"id": WHOLE, "file_name": NAME, "width": SIZE, "height": SIZE}
ANNOTATION_RULES = {  # what the reader and the evaluators look at
    **{"id": WHOLE, "image_id": WHOLE, "category_id": WHOLE, "iscrowd": WHOLE},
    **{"bbox": BOX, "keypoints": NUMBERS, "num_keypoints": WHOLE},
}


def sift(entry: Any, rules: dict[str, Rule], optional: Collection[str] = ()) -> tuple[Entry, str]:
    """The entry without its unusable keys, and what is wrong with those ("": nothing)."""
    if not isinstance(entry, dict):
        return {}, f"is {repr(entry)[:40]}, no object with keys"
    lacking = [key for key in rules if key not in entry and key not in optional]
    wrong = [key for key in rules if key in entry and not rules[key].holds(entry[key])]
    reasons = [f"lacks {', '.join(lacking)}"] if lacking else []
    reasons += [f"{key} is {repr(entry[key])[:40]}, wanted {rules[key].wanted}" for key in wrong]
    return {key: entry[key] for key in entry if key not in wrong}, "; ".join(reasons)


def content_faults(
    annotation: Entry, image: Entry, spec: KeypointSpec
) -> Iterator[tuple[str, str]]:
    """(kind, what) of what the usable keys hold."""
    width, height = image.get("width", math.inf), image.get("height", math.inf)
    if "bbox" in annotation:
        yield from box_faults(annotation["bbox"], width, height)
    if annotation.get("keypoints"):  # none: a person without joints, which is no fault
        yield from keypoint_faults(annotation, spec, width, height)
    if annotation.get("segmentation") and "width" in image and "height" in image:
        try:
            check_region(annotation["segmentation"], height, width)
        except ValueError as error:
            yield "unreadable segmentation", str(error)


def box_faults(box: list[float], width: float, height: float) -> Iterator[tuple[str, str]]:
    """A pixel beyond the picture is rounding."""
    x, y, w, h = box
    if w <= 0 or h <= 0:
        yield "box without extent", f"bbox {box} has no extent"
    elif min(x, y) < -1 or x + w > width + 1 or y + h > height + 1:
        yield "box outside the picture", f"bbox {box} leaves the {width} x {height} picture"


def keypoint_faults(
    annotation: Entry, spec: KeypointSpec, width: float, height: float
) -> Iterator[tuple[str, str]]:
    """Joints stand on the pixel that their coordinates are truncated to, as in training."""
    values = annotation["keypoints"]
    if len(values) != 3 * spec.num_joints:
        yield (
            "keypoints of wrong length",
            f"{len(values)} numbers in keypoints, {spec.name} has 3 for each of "
            f"{spec.num_joints} joints",
        )
        return
    joints = list(zip(spec.joints, values[::3], values[1::3], values[2::3], strict=True))
    unknown = [f"{name} {v}" for name, _, _, v in joints if v not in (0, 1, 2)]
    if unknown:
        yield "unknown visibility", f"visibility is neither 0, 1 nor 2: {', '.join(unknown)}"
    outside = [
        f"{name} ({x}, {y})"
        for name, x, y, v in joints
        if v > 0 and not (-1 < x < width and -1 < y < height)
    ]
    if outside:
        what = f"outside the {width} x {height} picture: {', '.join(outside)}"
        yield "joint outside the picture", what
    labelled = sum(v > 0 for name, _, _, v in joints if name not in spec.uncounted)
    said = annotation.get("num_keypoints", labelled)
    if said != labelled:
        yield "wrong num_keypoints", f"num_keypoints is {said}, {labelled} joints are labelled"


def check_region(segmentation: list | dict, height: int, width: int) -> None:
    """ValueError when pycocotools cannot read it, or reads it as a region of another picture."""
    rle = to_rle(segmentation, height, width)
    if not isinstance(segmentation, dict):
        return
    counts = segmentation["counts"]
    if not isinstance(counts, (list, str)):
        raise ValueError(f"the segmentation's counts are {counts!r}, no list and no text")
    if isinstance(counts, list) and sum(counts) != height * width:
        raise ValueError(
            f"the segmentation's counts add up to {sum(counts)}, "
            f"the picture has {height * width} pixels"
        )
    rle_tools.decode(rle)
