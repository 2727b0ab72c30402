"""What another tool's annotations say: images, their objects, and the joints of each category."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import Any, NamedTuple

Box = tuple[float, float, float, float]  # x, y, width, height
Point = tuple[float, float, int]  # x, y, visibility: 0 not labelled, 1 hidden, 2 visible

MAX_BOXES = 1000  # in an image without groups: each point is sought in each of them
MAX_FOLDERS = 20  # of an image name that are sought

HIDDEN = {"hidden", "invisible", "occluded"}  # names that annotators give to such a flag


@dataclass
class Object:
    """One annotated object."""

    points: dict[str, Point] = field(default_factory=dict)  # by joint; without unlabelled ones
    box: Box | None = None
    category: str = ""  # "": the source has none


class Item(NamedTuple):
    """One annotated image."""

    name: str  # of the file in the new data set, below its folder of images
    where: str  # that messages name
    read: Callable[[], bytes]  # the content of the image file
    objects: list[Object]
    size: tuple[int, int] | None = None  # width and height, if the source has them
    relative: bool = False  # coordinates are parts of width and height, not pixels


class Skeleton(NamedTuple):
    """The joints of a category."""

    joints: tuple[str, ...]
    limbs: tuple[tuple[str, str], ...] = ()
    flips: tuple[tuple[str, str], ...] = ()
    named: bool = True  # False: the source numbers its joints


class Labels(NamedTuple):
    """All that a source says."""

    splits: dict[str, list[Item]]
    skeletons: dict[str, Skeleton]  # by category; of others the joints are those of the objects
    notes: tuple[str, ...] = ()  # what was left out, in sentences


class Mark(NamedTuple):
    """A point or a box before it is known to which object it belongs."""

    label: str
    value: Any  # a Point or a Box
    group: Any = None  # equal for marks of the same object; None: not grouped


def as_number(value: Any, where: str) -> float:
    """A finite number from a number or its text."""
    try:
        number = math.nan if isinstance(value, bool) else float(value)
    except (TypeError, ValueError, OverflowError):
        number = math.nan
    if not math.isfinite(number):
        raise ValueError(f"{where}: {repr(value)[:40]} is not a finite number")
    return number


def corner_box(a: Sequence[float], b: Sequence[float]) -> Box:
    """The box between two opposite corners."""
    (left, right), (top, bottom) = sorted([a[0], b[0]]), sorted([a[1], b[1]])
    return left, top, right - left, bottom - top


def assemble(points: Sequence[Mark], boxes: Sequence[Mark], where: str) -> list[Object]:
    """Objects from marks: those of a group are one object.

    Points without a group belong to the only box without a group that contains them; where there is
    no such box at all, they are one object. ValueError where a point fits no box or several, or a
    joint stands twice in an object.
    """
    objects: dict[Any, Object] = {}
    loose: dict[int, Object] = {}  # by the place of their box; -1 for all points without boxes
    free = sum(box.group is None for box in boxes)
    if free > MAX_BOXES:
        raise ValueError(f"{where}: there are {free} boxes without a group, more than {MAX_BOXES}")
    for place, box in enumerate(boxes):
        if box.group is None:
            loose[place] = Object(box=box.value, category=box.label)
        else:
            one = objects.setdefault(box.group, Object())
            one.box, one.category = box.value, box.label
    for point in points:
        if point.group is not None:
            one = objects.setdefault(point.group, Object())
        elif not free:
            one = loose.setdefault(-1, Object())
        else:
            within = [one for one in loose.values() if _contains(one.box, point.value)]
            if len(within) != 1:
                raise ValueError(
                    f"{where}: the point {point.label} is in {len(within)} boxes; group it with "
                    f"its object"
                )
            one = within[0]
        add_point(one, point.label, point.value, where)
    return [*objects.values(), *loose.values()]


def add_point(one: Object, joint: str, value: Point, where: str) -> None:
    """Add a joint to an object that lacks it."""
    if joint in one.points:
        raise ValueError(f"{where}: an object has the joint {joint} twice; group its points")
    one.points[joint] = value


def _contains(box: Box | None, point: Point) -> bool:
    assert box is not None
    x, y, width, height = box
    return x <= point[0] <= x + width and y <= point[1] <= y + height


def find_image(root: Path, name: str, where: str) -> Path:
    """The file of an image that annotations call `name`, which may be a path on another machine.

    It is searched below `root`: first with all folders of `name`, then with fewer and fewer.
    """
    parts = [
        part for part in PurePosixPath(name.replace("\\", "/")).parts if part not in ("/", "..")
    ]
    first = max(0, len(parts) - MAX_FOLDERS)
    for path in (root.joinpath(*parts[start:]) for start in range(first, len(parts))):
        if _is_file(path):
            return path
    raise ValueError(f"{where}: no image {name[-200:]} below {root}; give its folder with --images")


def _is_file(path: Path) -> bool:
    try:
        return path.is_file()
    except (OSError, ValueError):  # a name that no file can have
        return False


def below(path: Path, root: Path) -> str:
    """The path of a file relative to `root`, with slashes."""
    return path.relative_to(root).as_posix()


def files_below(source: Path, pattern: str, what: str) -> Iterator[Path]:
    """`source` itself, or the files of a folder whose names match; ValueError for none."""
    if not source.exists():
        raise ValueError(f"{source} does not exist")
    files = sorted(source.rglob(pattern)) if source.is_dir() else [source]
    if not files:
        raise ValueError(f"{source} has no {what}, {pattern}")
    yield from files
