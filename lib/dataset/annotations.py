"""Rules for the values of an annotation file, the same for its readers and for its checks."""

from __future__ import annotations

import math
import sys
from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Any, NamedTuple

from lib.keypoints import KeypointSpec

Entry = dict[str, Any]

BOX_AREA = 0.53  # area of a person without one, as a part of the box (CrowdPose's rule)
MAX_NUMBER = 2**53  # ids: larger whole numbers are not exact in every JSON reader
MAX_SIDE = 2**16  # pixels of an image
MAX_COORDINATE = 1e5  # pixels, of joints, boxes and outlines


class Rule(NamedTuple):
    """What the value of a key must be."""

    wanted: str
    holds: Callable[[Any], bool]


def is_number(value: Any) -> bool:
    """Whether `value` is an int or a float, NaN and infinity included; ints may be as large."""
    if type(value) is int:
        return abs(value) <= sys.float_info.max
    return type(value) is float


def is_whole(value: Any) -> bool:
    """Whether `value` is a whole number, also one that is written as a float: 7 or 7.0."""
    return is_number(value) and abs(value) < MAX_NUMBER and value == int(value)


def is_coordinate(value: Any) -> bool:
    """Whether `value` can be a place in an image; NaN cannot."""
    return is_number(value) and abs(value) <= MAX_COORDINATE


def all_coordinates(values: Sequence[float]) -> bool:
    """`is_coordinate` of all numbers, many times faster."""
    low, high = min(values, default=0), max(values, default=0)
    # min and max may miss a NaN, which a sum keeps.
    return -MAX_COORDINATE <= low and high <= MAX_COORDINATE and not math.isnan(sum(values))


def _is_name(value: Any) -> bool:
    if not isinstance(value, str) or not value or "\0" in value:
        return False
    try:
        value.encode(errors="surrogateescape")  # bytes that are not UTF-8 are escaped
    except UnicodeEncodeError:
        return False
    return True


def _holds(value: Any, *types: type) -> bool:
    return isinstance(value, list) and set(map(type, value)) <= {*types}


WHOLE = Rule("a whole number (ids are numbers: 1, 2, 3, ...)", is_whole)
SIZE = Rule(
    f"a whole number of pixels, 1 to {MAX_SIDE}",
    lambda value: is_whole(value) and 1 <= value <= MAX_SIDE,
)
NAME = Rule("a file name", _is_name)
KEYPOINTS = Rule(
    "a flat list of numbers: x, y, visibility of each joint",
    lambda value: _holds(value, int, float, type(None)),  # null: not labelled
)
BOX = Rule(
    "4 numbers: x, y, width, height",
    lambda value: isinstance(value, list) and len(value) == 4 and all(map(is_number, value)),
)
NUMBER = Rule("a number", is_number)
FLAG = Rule("0 or 1", lambda value: isinstance(value, (int, float)) and value in (0, 1))

IMAGE_RULES = {"id": WHOLE, "file_name": NAME, "width": SIZE, "height": SIZE}
ANNOTATION_RULES = {
    "image_id": WHOLE,
    "category_id": WHOLE,
    "keypoints": KEYPOINTS,
    "bbox": BOX,
    "area": NUMBER,
    "iscrowd": FLAG,
}
DERIVED = frozenset(ANNOTATION_RULES) - {"image_id"}  # null and [] are as if the key were missing
CROWD_RULES = IMAGE_RULES | {"crowdIndex": NUMBER}  # of data sets whose AP is split by crowding


def image_rules(spec: KeypointSpec) -> Mapping[str, Rule]:
    """The rules for images of a data set; crowdIndex may be missing."""
    return CROWD_RULES if spec.metric.by_crowding else IMAGE_RULES


def drop_unusable(
    entry: Any, rules: Mapping[str, Rule], optional: Collection[str] = ()
) -> tuple[Entry, str]:
    """The entry without its unusable keys, and a description of these ("": there are none).

    A key of `optional` that is null or [] is dropped, which is no fault.
    """
    if not isinstance(entry, dict):
        return {}, f"is {_short(entry)}, wanted an object with keys"
    entry = {
        key: entry[key] for key in entry if key not in optional or entry[key] not in (None, [])
    }
    lacking = [key for key in rules if key not in entry and key not in optional]
    wrong = [key for key in rules if key in entry and not rules[key].holds(entry[key])]
    reasons = [f"lacks {', '.join(lacking)}"] if lacking else []
    reasons += [f"{key} is {_short(entry[key])}, wanted {rules[key].wanted}" for key in wrong]
    return {key: entry[key] for key in entry if key not in wrong}, "; ".join(reasons)


def require(
    entry: Any, rules: Mapping[str, Rule], where: str, optional: Collection[str] = ()
) -> Entry:
    """The entry without empty optional keys; ValueError names `where` and each unusable key."""
    usable, wrong = drop_unusable(entry, rules, optional)
    if wrong:
        raise ValueError(f"{where} {wrong}")
    return usable


def wrong_length(keypoints: Sequence[Any], spec: KeypointSpec) -> str:
    """What is wrong with keypoints of another number of joints."""
    return (
        f"{len(keypoints)} numbers in keypoints, {spec.name} has 3 for each of "
        f"{spec.num_joints} joints"
    )


def read_keypoints(values: Sequence[Any], spec: KeypointSpec, where: str) -> list[float]:
    """x, y, visibility of each joint; those of an unlabelled joint are 0 where they are no numbers.

    ValueError, which names `where`, for another number of joints, and for a labelled joint without
    a place.
    """
    if len(values) != 3 * spec.num_joints:
        raise ValueError(f"{where}: {wrong_length(values, spec)}")
    if None not in values and all_coordinates(values):
        return list(values)
    keypoints = list(values)
    triples = zip(spec.joints, values[::3], values[1::3], values[2::3], strict=True)
    for index, (name, x, y, visibility) in enumerate(triples):
        if is_coordinate(x) and is_coordinate(y) and is_coordinate(visibility):
            continue
        if visibility is not None and visibility > 0 or is_coordinate(x) and is_coordinate(y):
            raise ValueError(
                f"{where}: {name} is {_short([x, y, visibility])}; wanted coordinates in pixels "
                f"and a visibility, or 0, 0, 0 for a joint that is not labelled"
            )
        keypoints[3 * index : 3 * index + 3] = 0, 0, 0
    return keypoints


def labelled_points(keypoints: Sequence[float]) -> list[tuple[float, float]]:
    """(x, y) of the joints with a visibility above 0."""
    return [
        (x, y)
        for x, y, visibility in zip(keypoints[::3], keypoints[1::3], keypoints[2::3], strict=True)
        if visibility > 0
    ]


def moved_keypoints(keypoints: Sequence[float], places: Sequence[int]) -> list[float]:
    """x, y, visibility of the joints at `places`, in their order; 0, 0, 0 for a place of -1."""
    triples = [
        keypoints[3 * place : 3 * place + 3] if place >= 0 else (0, 0, 0) for place in places
    ]
    return [number for triple in triples for number in triple]


def count_labelled(keypoints: Sequence[float], spec: KeypointSpec) -> int:
    """num_keypoints: the labelled joints that the data set counts; CrowdPose skips two."""
    visibilities = keypoints[2::3]
    labelled = sum([visibility > 0 for visibility in visibilities])
    return labelled - sum(visibilities[spec.joints.index(name)] > 0 for name in spec.uncounted)


def with_joints_of(
    tree: Mapping[str, Any], spec: KeypointSpec, target: KeypointSpec
) -> dict[str, Any]:
    """A completed annotation tree of `spec` with the joints of `target`, matched by name.

    Joints that `spec` lacks are not labelled; a person without any shared joint has none.
    """
    places = [spec.joints.index(name) if name in spec.joints else -1 for name in target.joints]
    annotations = []
    for one in tree["annotations"]:
        keypoints = moved_keypoints(one["keypoints"], places)
        count = count_labelled(keypoints, target)
        annotations.append({**one, "keypoints": keypoints, "num_keypoints": count})
    return {**tree, "annotations": annotations}


def has_scale(area: float, pixels: float) -> bool:
    """Whether an area can be that of an object in an image: at least a pixel, at most the image.

    OKS divides squared distances by the area, so a larger one would forgive any error.
    """
    return 1 <= area <= pixels


def has_extent(box: Sequence[float], image: Mapping[str, Any]) -> bool:
    """Whether a box can be that of an object; its area (BOX_AREA) must be possible, too."""
    x, y, width, height = box
    pixels = image["width"] * image["height"]
    return (
        is_coordinate(x)
        and is_coordinate(y)
        and width >= 1
        and height >= 1
        and BOX_AREA * width * height <= pixels
    )


def box_around(points: Sequence[tuple[float, float]]) -> list[float]:
    """The square around points whose diagonal is the largest distance between two of them.

    Its size does not depend on how the points lie: a box around three joints in a row would have no
    extent, and OKS would forgive no error. One point gives a square of side 0.
    """
    xs, ys = [x for x, _ in points], [y for _, y in points]
    largest = max(math.dist(one, other) for one in points for other in points)
    return square((min(xs) + max(xs)) / 2, (min(ys) + max(ys)) / 2, largest / math.sqrt(2))


def square(x: float, y: float, side: float) -> list[float]:
    """The box of a square around (x, y)."""
    return [x - side / 2, y - side / 2, side, side]


def _short(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 40 else text[:40] + "..."
