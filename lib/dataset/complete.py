"""Completes annotation files: what entries lack is derived, so that every reader finds it.

One completion serves the layouts of COCO, CrowdPose and custom keypoints. An entry from which
nothing right can be derived is an error that names it. docs/data.md has the table.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from statistics import median
from typing import Any, NamedTuple

from lib.dataset.annotations import (
    ANNOTATION_RULES,
    BOX_AREA,
    DERIVED,
    Entry,
    box_around,
    count_labelled,
    has_extent,
    has_scale,
    image_rules,
    is_whole,
    labelled_points,
    read_keypoints,
    require,
    square,
)
from lib.dataset.categories import find_category
from lib.dataset.regions import box_of, region_of
from lib.keypoints import CROWDING_COLUMNS, KeypointSpec


class Completed(NamedTuple):
    """An annotation tree in which no key is missing, and lines on what was not in the file."""

    tree: Entry
    derived: list[str]
    left_out: list[str]


def complete(tree: Entry, spec: KeypointSpec, path: Path) -> Completed:
    """`tree` with the annotations of one category, and all keys of these and of the images.

    ValueError names `path`, the entry and the key.
    """
    filling = Filling(spec, path)
    filling.read_images(tree["images"])
    entries = tree.get("annotations")
    if entries is None and is_hidden(path):
        entries = []
    if not isinstance(entries, list):
        raise ValueError(f"{path} has no list of annotations; wanted COCO's keypoint format")
    entries = [
        require(entry, ANNOTATION_RULES, f"{path}: annotations[{index}]", DERIVED)
        for index, entry in enumerate(entries)
    ]
    try:
        category = find_category(tree, entries, spec)
    except ValueError as error:
        raise ValueError(f"{path} {error}") from None
    if not tree.get("categories"):
        filling.derived.add("no categories, so one is added", spec.category)
    annotations = filling.annotations(entries, category["id"])
    refuse_relative(annotations, path)
    whole = {
        **tree,
        "images": [image for number, image in filling.images.items() if image["id"] == number],
        "categories": [category],
        "annotations": annotations,
    }
    return Completed(whole, filling.derived.lines(), filling.left_out.lines())


def is_hidden(path: Path) -> bool:
    """Whether the annotations are not public: COCO test-dev, which a server scores."""
    return path.name.startswith("image_info")


def refuse_relative(annotations: Sequence[Entry], path: Path) -> None:
    """ValueError if all coordinates are from 0 to 1: relative to the image, not in pixels."""
    places = set()
    for one in annotations:
        points = labelled_points(one["keypoints"])
        if any(max(point) > 1 or min(point) < 0 for point in points):
            return
        places.update(points)
    if len(places) > 1:
        raise ValueError(
            f"{path}: the coordinates of all keypoints are from 0 to 1; wanted pixels: multiply x "
            f"by the image's width and y by its height (tools.convert does so for YOLO's labels)"
        )


class Notes:
    """Counts of like things, each with the place of the first."""

    def __init__(self) -> None:
        self.places: dict[str, list[str]] = {}

    def add(self, what: str, place: str) -> None:
        self.places.setdefault(what, []).append(place)

    def lines(self) -> list[str]:
        return [
            f"{what}: {len(places)}, such as {places[0]}" for what, places in self.places.items()
        ]


class Filling:
    """Fills in the images and annotations of one file, and takes notes."""

    def __init__(self, spec: KeypointSpec, path: Path) -> None:
        self.spec = spec
        self.path = path
        self.images: dict[int, Entry] = {}  # by each id, also those that share a file
        self.derived, self.left_out = Notes(), Notes()
        self.sides: list[float] = []  # of squares as large as the boxes of labelled people

    def read_images(self, entries: Sequence[Any]) -> None:
        """Fill `images`; a file that is listed twice, be it with two ids, is one image."""
        first_of: dict[str, Entry] = {}
        for index, entry in enumerate(entries):
            place = f"images[{index}]"
            image = require(
                entry, image_rules(self.spec), f"{self.path}: {place}", optional=["crowdIndex"]
            )
            image |= {key: int(image[key]) for key in ("id", "width", "height")}
            if self.spec.metric.by_crowding and not math.isfinite(
                image.get("crowdIndex", math.nan)
            ):
                image.pop("crowdIndex", None)
                columns = ", ".join(CROWDING_COLUMNS)
                self.derived.add(f"images without crowdIndex, so {columns} stay open", place)
            first = first_of.setdefault(image["file_name"], image)
            if self.images.setdefault(image["id"], first) is not first:
                raise ValueError(
                    f"{self.path}: {place}: {image['file_name']} has the id {image['id']} of "
                    f"another image; give each image an id of its own"
                )
            if first is image:
                continue
            if (first["width"], first["height"]) != (image["width"], image["height"]):
                raise ValueError(
                    f"{self.path}: {place}: {image['file_name']} is listed twice, with other sizes"
                )
            self.left_out.add("images listed twice, which count once", place)

    def annotations(self, entries: Sequence[Entry], category_id: int) -> list[Entry]:
        """The completed annotations of the category.

        They get new ids where these are not distinct whole numbers above 0; pycocotools takes an
        annotation with id 0 for unmatched.
        """
        annotations, without_scale = [], []
        labelled: dict[int, list[Any]] = {number: [] for number in self.images}  # keypoints
        for index, entry in enumerate(entries):
            place = f"annotations[{index}]"
            image = self.images.get(entry["image_id"])
            if entry.get("category_id", category_id) != category_id:
                self.left_out.add("annotations of other categories", place)
            elif image is None:
                self.left_out.add("annotations of images that the file does not list", place)
            elif self.fill_in(entry, image, category_id, place):
                if entry["num_keypoints"] and entry["keypoints"] in labelled[image["id"]]:
                    self.left_out.add("repetitions of annotations, joint by joint", place)
                    continue
                labelled[image["id"]].append(entry["keypoints"])
                annotations.append(entry)
                if not entry["bbox"][2]:
                    without_scale.append((place, entry))
        self.give_scale(without_scale)
        numbers = [one.get("id") for one in annotations]
        if not all(map(is_id, numbers)) or len(set(numbers)) < len(numbers):
            numbers = range(1, len(numbers) + 1)
            what = "new ids of annotations, which had no distinct ids above 0"
            self.derived.places[what] = ["annotations[0]"] * len(annotations)
        for one, number in zip(annotations, numbers, strict=True):
            one["id"] = int(number)
        return annotations

    def fill_in(self, entry: Entry, image: Entry, category_id: int, place: str) -> bool:
        """Complete one annotation, in place, but for its id; False if nothing is known of it."""
        if "keypoints" not in entry:
            self.derived.add("annotations without keypoints, where no joint is labelled", place)
        keypoints = entry.get("keypoints", [0] * (3 * self.spec.num_joints))
        entry["keypoints"] = read_keypoints(keypoints, self.spec, f"{self.path}: {place}")
        points = labelled_points(entry["keypoints"])
        entry["image_id"] = image["id"]
        entry["category_id"] = int(self.given(entry, "category_id", category_id, place))
        entry["iscrowd"] = int(self.given(entry, "iscrowd", 0, place))
        if entry["iscrowd"] and points:
            self.derived.add("crowds (iscrowd 1) with labelled joints, which are not judged", place)
        count = count_labelled(entry["keypoints"], self.spec)
        if self.given(entry, "num_keypoints", count, place) != count:
            self.derived.add("num_keypoints unlike the labelled joints, which count", place)
        entry["num_keypoints"] = count
        return self.fill_in_scale(entry, points, image, place)

    def given(self, entry: Entry, key: str, derived: Any, place: str) -> Any:
        """The value of a key, or `derived`, with a note."""
        if key not in entry:
            self.derived.add(f"no {key}, which is derived", place)
        return entry.get(key, derived)

    def fill_in_scale(
        self, entry: Entry, points: list[tuple[float, float]], image: Entry, place: str
    ) -> bool:
        """Derive box and area where they are missing or impossible; False if nothing is known."""
        box, area = entry.get("bbox"), entry.get("area")
        has_area = area is not None and has_scale(area, image["width"] * image["height"])
        if box is None or not has_extent(box, image):
            box = box_around(points) if points else self.outline_box(entry, image, place)
            if box is None:
                self.left_out.add("annotations without labelled joints, box and outline", place)
                return False
            source = "the labelled joints" if points else "the outline"
            self.derived.add(f"no bbox with an extent, so it is that of {source}", place)
            if not box[2] and has_area:
                x, y = points[0]
                box = square(x, y, side=math.sqrt(entry["area"] / BOX_AREA))
        entry["bbox"] = box
        if points and box[2]:
            self.sides.append(math.sqrt(box[2] * box[3]))
        if self.spec.use_area and not has_area:
            self.derived.add(f"no possible area, so it is {BOX_AREA} of the box", place)
            entry["area"] = BOX_AREA * box[2] * box[3]
        return True

    def outline_box(self, entry: Entry, image: Entry, place: str) -> list[float] | None:
        """The box around the segmentation; None where it covers nothing."""
        region = region_of(entry, image["height"], image["width"], f"{self.path}: {place}")
        return box_of(region) if region else None

    def give_scale(self, annotations: Sequence[tuple[str, Entry]]) -> None:
        """Give annotations of a single joint, without box and area, the others' median scale."""
        for place, entry in annotations:
            if not self.sides:
                raise ValueError(
                    f"{self.path}: {place} has labelled joints at one point, and no bbox or area "
                    f"from which OKS could take its scale; give annotations a bbox or an area"
                )
            side = median(self.sides)
            x, y = entry["bbox"][:2]
            entry["bbox"] = square(x, y, side)
            if self.spec.use_area:
                entry["area"] = BOX_AREA * side**2
            self.derived.add("joints at one point and no scale, so the median scale", place)


def why_nobody_is_judged(annotations: Sequence[Entry], spec: KeypointSpec) -> str:
    """Why no completed annotation counts in AP; "" if one does."""
    people = [one for one in annotations if labelled_points(one["keypoints"])]
    if not people:
        return "nobody is labelled"
    if all(one["iscrowd"] for one in people):
        return "nobody is judged, as everybody labelled is a crowd (iscrowd 1)"
    if not any(one["num_keypoints"] for one in people if not one["iscrowd"]):
        uncounted = " and ".join(spec.uncounted)
        return f"nobody is judged, as num_keypoints does not count {uncounted}, the labelled joints"
    return ""


def is_id(number: Any) -> bool:
    """Whether an annotation can keep its id."""
    return is_whole(number) and number > 0
