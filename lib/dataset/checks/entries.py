"""Checks of what the keys of one annotation hold: (kind, what) pairs, kinds as in faults.KINDS."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence

from lib.dataset.annotations import (
    Entry,
    count_labelled,
    has_scale,
    labelled_points,
    read_keypoints,
)
from lib.dataset.regions import region_of
from lib.keypoints import KeypointSpec


def content_faults(
    annotation: Entry, image: Entry, spec: KeypointSpec
) -> Iterator[tuple[str, str]]:
    """The faults of one annotation and its image, both without unusable keys."""
    width, height = image.get("width", math.inf), image.get("height", math.inf)
    if "bbox" in annotation:
        yield from box_faults(annotation["bbox"], width, height)
    if "keypoints" in annotation:  # none: a person without joints, which is no fault
        yield from keypoint_faults(annotation, spec, width, height)
    if "area" in annotation and not has_scale(annotation["area"], width * height):
        yield "impossible area", f"area {annotation['area']} in a {width} x {height} image"
    if "width" in image and "height" in image:
        try:
            region_of(annotation, height, width, "")
        except ValueError as error:
            yield "unreadable segmentation", str(error).removeprefix(": ")


def box_faults(box: Sequence[float], width: float, height: float) -> Iterator[tuple[str, str]]:
    """One pixel outside the image is rounding."""
    x, y, w, h = box
    if not (w > 0 and h > 0):
        yield "box without extent", f"bbox {box} has no extent"
    elif not (min(x, y) >= -1 and x + w <= width + 1 and y + h <= height + 1):
        yield "box outside the image", f"bbox {box} leaves the {width} x {height} image"


def keypoint_faults(
    annotation: Entry, spec: KeypointSpec, width: float, height: float
) -> Iterator[tuple[str, str]]:
    """A joint lies on the pixel that its coordinates are truncated to, as in training."""
    try:
        values = read_keypoints(annotation["keypoints"], spec, "")
    except ValueError as error:
        yield "unusable keypoints", str(error).removeprefix(": ")
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
    corner = [name for name, x, y, v in joints if v > 0 and x == y == 0]
    if corner:
        yield "joint at 0, 0", f"labelled at 0, 0: {', '.join(corner)}; is the visibility right?"
    points = set(labelled_points(values))
    if len(points) > 1 and all(0 <= min(point) and max(point) <= 1 for point in points):
        what = "all coordinates are from 0 to 1; wanted pixels, not parts of the image's size"
        yield "joints within one pixel", what
    labelled = count_labelled(values, spec)
    number = annotation.get("num_keypoints", labelled)
    if number != labelled:
        yield "wrong num_keypoints", f"num_keypoints is {number}, {labelled} joints are labelled"
