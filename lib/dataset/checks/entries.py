"""Checks of what the keys of one annotation hold: (kind, what) pairs, kinds as in split.KINDS."""

from __future__ import annotations

import math
from collections.abc import Iterator

from lib.dataset.annotations import Entry, to_rle, wrong_length
from lib.keypoints import KeypointSpec


def content_faults(
    annotation: Entry, image: Entry, spec: KeypointSpec
) -> Iterator[tuple[str, str]]:
    """The faults of one annotation and its image, both without unusable keys."""
    width, height = image.get("width", math.inf), image.get("height", math.inf)
    if "bbox" in annotation:
        yield from box_faults(annotation["bbox"], width, height)
    if annotation.get("keypoints"):  # none: a person without joints, which is no fault
        yield from keypoint_faults(annotation, spec, width, height)
    if annotation.get("segmentation") and "width" in image and "height" in image:
        try:
            to_rle(annotation["segmentation"], height, width)
        except ValueError as error:
            yield "unreadable segmentation", str(error)


def box_faults(box: list[float], width: float, height: float) -> Iterator[tuple[str, str]]:
    """One pixel outside the image is rounding."""
    x, y, w, h = box
    if w <= 0 or h <= 0:
        yield "box without extent", f"bbox {box} has no extent"
    elif min(x, y) < -1 or x + w > width + 1 or y + h > height + 1:
        yield "box outside the image", f"bbox {box} leaves the {width} x {height} image"


def keypoint_faults(
    annotation: Entry, spec: KeypointSpec, width: float, height: float
) -> Iterator[tuple[str, str]]:
    """A joint lies on the pixel that its coordinates are truncated to, as in training."""
    values = annotation["keypoints"]
    if len(values) != 3 * spec.num_joints:
        yield "keypoints of wrong length", wrong_length(values, spec)
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
        what = f"outside the {width} x {height} image: {', '.join(outside)}"
        yield "joint outside the image", what
    labelled = sum(v > 0 for name, _, _, v in joints if name not in spec.uncounted)
    number = annotation.get("num_keypoints", labelled)
    if number != labelled:
        yield "wrong num_keypoints", f"num_keypoints is {number}, {labelled} joints are labelled"
