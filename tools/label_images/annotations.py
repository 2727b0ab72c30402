"""Annotations from the people that a network found: people, and regions to ignore."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple

import cv2
import numpy as np

from lib.dataset.annotations import BOX_AREA, Entry, count_labelled
from lib.keypoints import KeypointSpec

MIN_JOINTS = 3  # of an annotation: fewer joints tell no scale
MARGIN = 0.07  # of a box around the joints, in parts of its longer side: the median of CrowdPose
REACH = 0.1  # of a region around the joints, likewise
MIN_MARGIN = 2.0  # pixels
SAME_OKS = 0.3  # two people with more similar joints are one
SAME_IOU = 0.7  # two people with boxes that overlap more are one
INSIDE = 0.5  # a person with this part of the box in a region belongs to it
DECIMALS = 2  # of coordinates and scores


class Thresholds(NamedTuple):
    """Which people and joints are annotated."""

    score: float  # people below it become regions
    joint: float  # joints with a lower confidence are not labelled
    region: float  # people below it are left out


class Known(NamedTuple):
    """A person, or a region without joints, that an image has already."""

    joints: np.ndarray  # (K, 3): x, y, visibility (0: not labelled)
    box: np.ndarray  # (4,): x, y, width, height


def known_people(annotations: Iterable[Entry]) -> list[Known]:
    """The people and regions of completed annotations."""
    return [
        Known(np.reshape(one["keypoints"], (-1, 3)).astype(float), np.array(one["bbox"], float))
        for one in annotations
    ]


def annotate(
    spec: KeypointSpec,
    people: np.ndarray,
    scores: Sequence[float],
    size: tuple[int, int],
    limits: Thresholds,
    known: Sequence[Known] = (),
) -> list[Entry]:
    """The annotations of one image, without ids, best people first.

    people: (N, K, 3): x, y, confidence; size: (width, height) of the image. Whoever is `known`, or
    found twice, is left out.
    """
    known, entries = list(known), []
    for index in np.argsort(-np.asarray(scores, float), kind="stable"):
        score, person = float(scores[index]), people[index, : spec.num_joints, :3]
        inside = is_inside(person, size)
        is_labelled = inside & (person[:, 2] >= limits.joint)
        is_region = score < limits.score or is_labelled.sum() < MIN_JOINTS
        used = is_labelled if is_labelled.sum() >= MIN_JOINTS else inside & (person[:, 2] > 0)
        if score < limits.region or used.sum() < MIN_JOINTS:
            continue
        points = person[used, :2]
        joints = np.where(used[:, None], [1, 1, 0] * person + [0, 0, 2], 0)
        one = Known(joints, box_with_margin(points, size))
        if any(is_same(spec, one, other) for other in known):
            continue
        known.append(one)
        entry = region_entry(spec, points, size) if is_region else person_entry(spec, one)
        entries.append({**entry, "score": round(score, DECIMALS)})
    return entries


def is_inside(person: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """(K,) bool: which joints of a person (K, 3) lie in the image; 0, 0 is no place."""
    place = person[:, :2].round(DECIMALS)
    return np.all((place >= 0) & (place < size), axis=1) & place.any(axis=1)


def person_entry(spec: KeypointSpec, one: Known) -> Entry:
    keypoints = listed(one.joints)
    keypoints[2::3] = map(int, keypoints[2::3])
    return entry_of(spec, keypoints, one.box)


def region_entry(spec: KeypointSpec, points: np.ndarray, size: tuple[int, int]) -> Entry:
    """A person without labelled joints: training ignores the outline, evaluation the box."""
    outline = outline_around(points, size)
    corner = outline.min(axis=0)
    box = np.concatenate([corner, outline.max(axis=0) - corner])
    entry = entry_of(spec, [0.0] * (3 * spec.num_joints), box)
    return {**entry, "segmentation": [listed(outline)]}


def entry_of(spec: KeypointSpec, keypoints: list[float], box: np.ndarray) -> Entry:
    area = {"area": round(BOX_AREA * float(box[2] * box[3]), DECIMALS)} if spec.use_area else {}
    return {
        "iscrowd": 0,
        "num_keypoints": count_labelled(keypoints, spec),
        "keypoints": keypoints,
        "bbox": listed(box),
        **area,
    }


def listed(values: np.ndarray) -> list[Any]:
    return [round(float(value), DECIMALS) for value in values.flatten()]


# --- boxes and outlines -------------------------------------------------------------------


def margin_of(points: np.ndarray, part: float) -> float:
    """`part` of the longer side of the box around points (N, 2)."""
    return max(MIN_MARGIN, part * float(np.ptp(points, axis=0).max()))


def box_with_margin(points: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """(4,): x, y, width, height of the box around points (N, 2), within the image."""
    margin = margin_of(points, MARGIN)
    low = (points.min(axis=0) - margin).clip(0, size)
    high = (points.max(axis=0) + margin).clip(0, size)
    return np.concatenate([low, high - low])


def outline_around(points: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """(M, 2): the convex hull of discs around points (N, 2), within the image.

    It hides less of the people nearby than a box does.
    """
    angles = np.arange(8) * np.pi / 4
    disc = margin_of(points, REACH) * np.stack([np.cos(angles), np.sin(angles)], axis=1)
    corners = np.float32(points[:, None] + disc).reshape(-1, 2)
    return cv2.convexHull(corners).reshape(-1, 2).astype(float).clip(0, size)


# --- who is the same person ---------------------------------------------------------------


def is_same(spec: KeypointSpec, one: Known, other: Known) -> bool:
    """Whether two people are one, also with left and right exchanged, or `other` covers `one`."""
    if not other.joints[:, 2].any():
        return covers(other, one)
    swapped = one._replace(joints=one.joints[spec.flip_index])
    if max(similarity(spec, one, other), similarity(spec, swapped, other)) >= SAME_OKS:
        return True
    shared = overlap(one.box, other.box)
    return shared >= SAME_IOU * (one.box[2:].prod() + other.box[2:].prod() - shared)


def covers(region: Known, one: Known) -> bool:
    """Whether a part of INSIDE or more of a person's box lies in that of a region."""
    return overlap(one.box, region.box) >= INSIDE * one.box[2:].prod()


def similarity(spec: KeypointSpec, one: Known, other: Known) -> float:
    """OKS over the joints that both have, with the scale of `other`; 0 if there are none."""
    ks = joint_similarity(spec, one, other)
    return float(ks.mean()) if len(ks) else 0.0


def joint_similarity(spec: KeypointSpec, one: Known, other: Known) -> np.ndarray:
    """The keypoint similarity of each joint that both have."""
    both = (one.joints[:, 2] > 0) & (other.joints[:, 2] > 0)
    squared = ((one.joints - other.joints)[both, :2] ** 2).sum(axis=1)
    variance = (2 * np.array(spec.sigmas)[both]) ** 2 * BOX_AREA * other.box[2:].prod()
    return np.exp(-squared / (2 * variance))


def overlap(one: np.ndarray, other: np.ndarray) -> float:
    """The area that two boxes x, y, width, height share."""
    low = np.maximum(one[:2], other[:2])
    high = np.minimum(one[:2] + one[2:], other[:2] + other[2:])
    return float((high - low).clip(min=0).prod())
