"""Small data sets in each layout whose annotations are changed as tools and people change them.

`CASES` lists the changes, and what reading the changed file must give: everybody, fewer people, or
an error of one line.
"""

from __future__ import annotations

import copy
import functools
import json
import math
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import cv2
import numpy as np
from yacs.config import CfgNode

from lib.config import load_config
from lib.core.evaluate import score_predictions
from lib.core.results import Prediction
from lib.dataset.build import EvaluationSet
from lib.dataset.synthetic.animals import ANIMAL
from lib.keypoints import COCO, CROWD_POSE, KeypointSpec
from tests.helpers import ROOT, YAMLS

Tree = dict[str, Any]
Change = Callable[[Tree], object]  # changes a tree in place

WIDTH, HEIGHT, BOX = 192, 160, (60.0, 120.0)
INSIDE = {  # joints in a box of 1 x 1
    "head": (0.5, 0.0),
    "neck": (0.5, 0.17),
    "nose": (0.5, 0.08),
    "eye": (0.56, 0.05),
    "ear": (0.64, 0.07),
    "shoulder": (0.75, 0.22),
    "elbow": (0.9, 0.38),
    "wrist": (1.0, 0.52),
    "hip": (0.64, 0.52),
    "knee": (0.68, 0.75),
    "ankle": (0.7, 1.0),
}


class Layout(NamedTuple):
    """A kind of data set, the settings to read it with, and where its files are."""

    spec: KeypointSpec
    yaml: Path
    file: str  # the annotations
    images: str  # a folder
    opts: tuple[str, ...]


ONE_SPLIT = ("DATASET.TRAIN", "val", "DATASET.TEST", "val")
LAYOUTS = {
    "coco": Layout(
        COCO,
        ROOT / "experiments/synthetic/quickstart.yaml",
        "annotations/person_keypoints_val2017.json",
        "images/val2017",
        ("DATASET.TRAIN", "val2017", "MODEL.CODEC", "unbiased"),
    ),
    "custom": Layout(ANIMAL, YAMLS["animal"], "annotations/val.json", "images/val", ONE_SPLIT),
    "crowd_pose": Layout(
        CROWD_POSE, YAMLS["crowd_pose"], "json/crowdpose_val.json", "images", ONE_SPLIT
    ),
}
EVERY = tuple(LAYOUTS)


def inside(spec: KeypointSpec) -> list[tuple[float, float]]:
    """Where the joints of `spec` are in a box of 1 x 1."""
    if spec.is_custom:
        return [(k / (spec.num_joints - 1), 0.375 * k % 1) for k in range(spec.num_joints)]
    return [
        (1 - x if name.startswith("right") else x, y)
        for name in spec.joints
        for x, y in [INSIDE[name.split("_")[-1]]]
    ]


def base_tree(layout: str) -> Tree:
    """Well-formed annotations: 3 images with 2 people each, all joints visible."""
    spec = LAYOUTS[layout].spec
    images = [
        {"id": i, "file_name": f"{i:06d}.jpg", "width": WIDTH, "height": HEIGHT} for i in (1, 2, 3)
    ]
    annotations: list[Tree] = []
    for image in images:
        if spec.metric.by_crowding:
            image["crowdIndex"] = (0.05, 0.5, 0.9)[image["id"] - 1]
        for left in (9, 99):
            x, y = left + 3.0 * image["id"], 10.0 + 4 * image["id"] + left // 33
            joints = [(x + BOX[0] * u, y + BOX[1] * v, 2) for u, v in inside(spec)]
            entry = {
                "id": len(annotations) + 1,
                "image_id": image["id"],
                "category_id": 1,
                "iscrowd": 0,
                "num_keypoints": spec.num_joints - len(spec.uncounted),
                "keypoints": [round(float(value), 2) for joint in joints for value in joint],
                "bbox": [x, y, *BOX],
            }
            annotations.append(entry | ({"area": AREA} if spec.use_area else {}))
    category = {"id": 1, "name": "person", "keypoints": list(spec.joints), "skeleton": []}
    return {"images": images, "annotations": annotations, "categories": [category]}


def changed(layout: str, change: Change) -> Tree:
    """The well-formed annotations after `change`."""
    tree = copy.deepcopy(base_tree(layout))
    change(tree)
    return tree


@functools.cache
def _config(layout: str, opts: tuple[str, ...]) -> CfgNode:
    settings = ("VERBOSE", "False", "WORKERS", "0", *LAYOUTS[layout].opts, *opts)
    return load_config(LAYOUTS[layout].yaml, settings)


def config_of(layout: str, root: Path, *opts: str) -> CfgNode:
    """The settings of a layout for the data set in `root`; the file is both splits."""
    cfg = _config(layout, opts).clone()
    cfg.defrost()
    cfg.DATASET.ROOT = str(root)
    cfg.freeze()
    return cfg


def write_case(root: Path, layout: str, tree: object) -> Path:
    """A data set in `root` with the annotations `tree` and three gray images; its annotations."""
    files = LAYOUTS[layout]
    folder, path = root / files.images, root / files.file
    if not folder.exists():
        folder.mkdir(parents=True)
        path.parent.mkdir(parents=True)
        _, data = cv2.imencode(".jpg", np.full((HEIGHT, WIDTH, 3), 90, np.uint8))
        (folder / "000001.jpg").write_bytes(data.tobytes())
        for name in ("000002.jpg", "000003.jpg"):
            os.link(folder / "000001.jpg", folder / name)
    path.write_text(json.dumps(tree))
    return path


# --- predictions --------------------------------------------------------------------------

AREA = 0.53 * BOX[0] * BOX[1]  # of everybody
OKS = 0.72  # of every shifted person: passes 5 of the 10 thresholds of AP
CLEAN = 0.5  # AP of the shifted people on the well-formed annotations


@functools.cache
def shifted(layout: str) -> dict[str, np.ndarray]:
    """The people of each image file, every joint shifted so that its part of OKS is OKS.

    Then AP stays the same without some joints or people; only a larger scale raises it.
    """
    spec, tree = LAYOUTS[layout].spec, base_tree(layout)
    rng = np.random.default_rng(0)
    people: dict[int, list[np.ndarray]] = {image["id"]: [] for image in tree["images"]}
    for annotation in tree["annotations"]:
        joints = np.array(annotation["keypoints"], float).reshape(-1, 3)
        length = 2 * np.array(spec.sigmas) * np.sqrt(-2 * AREA * math.log(OKS))
        angle = rng.uniform(0, 2 * math.pi, len(joints))
        joints[:, :2] += (length * [np.cos(angle), np.sin(angle)]).T
        people[annotation["image_id"]].append(joints)
    return {image["file_name"]: np.stack(people[image["id"]]) for image in tree["images"]}


def ap_of_shifted(data: EvaluationSet, layout: str) -> float:
    """AP of the shifted people in the images of a set, known by their files."""
    people = shifted(layout)
    predictions = [
        Prediction(record.id, people[record.file_name], [0.9] * len(people[record.file_name]))
        for record in data.records
        if record.file_name in people
    ]
    return score_predictions(data, predictions)["AP"]


# --- changes ------------------------------------------------------------------------------

ABSENT = object()


def put(entry: Tree, values: dict[str, Any], place: int = 0) -> None:
    """Set keys; a function gets (place, the old value), ABSENT removes the key."""
    for key, value in values.items():
        if callable(value):
            value = value(place, entry.get(key))
        if value is ABSENT:
            entry.pop(key, None)
        else:
            entry[key] = copy.deepcopy(value)


def each(**values: Any) -> Change:
    """Set keys of every annotation."""
    return lambda tree: [put(a, values, i) for i, a in enumerate(tree["annotations"])]


def one(**values: Any) -> Change:
    """Set keys of the third annotation."""
    return lambda tree: put(tree["annotations"][2], values, 2)


def half(**values: Any) -> Change:
    """Set keys of the first annotation of each image."""
    return lambda tree: [put(a, values, i) for i, a in enumerate(tree["annotations"]) if i % 2 == 0]


def each_image(**values: Any) -> Change:
    return lambda tree: [put(image, values, i) for i, image in enumerate(tree["images"])]


def an_image(**values: Any) -> Change:
    """Set keys of the second image."""
    return lambda tree: put(tree["images"][1], values, 1)


def top(**values: Any) -> Change:
    return lambda tree: put(tree, values)


def category(**values: Any) -> Change:
    return lambda tree: put(tree["categories"][0], values)


def together(*changes: Change) -> Change:
    return lambda tree: [change(tree) for change in changes]


def more(**values: Any) -> Change:
    """One more annotation of the first image, without joints."""
    entry = {"id": 70, "image_id": 1, "category_id": 1, "iscrowd": 0, "bbox": [3, 3, 30, 20]}
    put(entry, values)
    return lambda tree: tree["annotations"].append(entry)


def one_more_image(**values: Any) -> Change:
    """List the first image again, with these keys changed."""
    return lambda tree: tree["images"].append(tree["images"][0] | values)


def an_image_entry_each(tree: Tree) -> None:
    """List the image of each annotation again, with an id of its own."""
    files = {image["id"]: image for image in tree["images"]}
    tree["images"] = []
    for annotation in tree["annotations"]:
        number = 10 + annotation["id"]
        tree["images"].append(files[annotation["image_id"]] | {"id": number})
        annotation["image_id"] = number


def everything_twice(tree: Tree) -> None:
    """A file that was joined with itself."""
    for key in ("images", "annotations"):
        tree[key] += copy.deepcopy(tree[key])


def joint(*values: Any, at: int = 4) -> Change:
    """Set x, y and visibility of a joint of the third annotation."""

    def change(tree: Tree) -> None:
        tree["annotations"][2]["keypoints"][3 * at : 3 * at + 3] = values

    return change


def keep_joints(*kept: int, count: bool = True) -> Change:
    """Label these joints of everybody alone."""

    def change(tree: Tree) -> None:
        for annotation in tree["annotations"]:
            values = annotation["keypoints"]
            for k in set(range(len(values) // 3)) - set(kept):
                values[3 * k : 3 * k + 3] = [0, 0, 0]
            if count:
                annotation["num_keypoints"] = sum(k < 12 or len(values) != 42 for k in kept)

    return change


def scaled(_: int, values: list[float]) -> list[float]:
    """Coordinates from 0 to 1."""
    size = (WIDTH, HEIGHT, 1)
    return [round(value / size[i % 3], 4) for i, value in enumerate(values)]


def triples(_: int, values: list[float]) -> list[list[float]]:
    return [values[i : i + 3] for i in range(0, len(values), 3)]


def zeros(_: int, values: list[float]) -> list[float]:
    return [0] * len(values)


def other_way(_: int, box: list[float]) -> list[float]:
    """The same box from its right side, with a negative width."""
    return [box[0] + box[2], box[1], -box[2], box[3]]


CAR = {"id": 3, "name": "car"}
WHOLE_IMAGE = [[0, 0, WIDTH, 0, WIDTH, HEIGHT, 0, HEIGHT]]


class Case(NamedTuple):
    """A change of the annotations, and what comes of it."""

    change: Change
    layouts: tuple[str, ...] = EVERY
    people: int | None = 6  # that are read, each found by ground-truth maps; None: an error
    line: str = ""  # a pattern in the error
    least: float = CLEAN  # AP of the shifted people; below CLEAN if labels or derived scales differ


COCO_ONLY, CUSTOM_ONLY, CROWD_ONLY = ("coco",), ("custom",), ("crowd_pose",)
BY_AREA = ("coco", "custom")
NAN, INF = float("nan"), float("inf")

# The reports of people, by the names of their folders: kind, then what is odd.
REPORTED = {
    "base": Case(lambda tree: None),
    "annotation-id-0": Case(each(id=lambda i, _: i)),
    "area-0": Case(each(area=0), BY_AREA),
    "area-negative": Case(each(area=-5.0), BY_AREA),
    "area-null": Case(each(area=None), BY_AREA),
    "bbox-negative-width": Case(each(bbox=other_way, area=ABSENT), least=0.4),
    "boxes-only": Case(
        each(keypoints=zeros, num_keypoints=0, segmentation=[[9, 9, 40, 9, 40, 60]]),
        people=None,
        line="nobody is labelled|no annotated image",
    ),
    "category-0": Case(together(each(category_id=0), category(id=0))),
    "category-5": Case(together(each(category_id=5), category(id=5))),
    "empty-image": Case(
        lambda tree: tree.update(
            annotations=[a for a in tree["annotations"] if a["id"] not in (3, 4)]
        ),
        people=4,
        least=0.4,
    ),
    "empty-polygon": Case(more(area=0, segmentation=[[]])),
    "float-ids": Case(
        together(
            each(id=lambda i, _: i + 1.0, image_id=lambda _, v: float(v)),
            each_image(id=lambda i, _: i + 1.0),
        ),
    ),
    "float-size": Case(each_image(width=192.0, height=160.0)),
    "ids-per-image": Case(each(id=lambda i, _: 1 + i % 2)),
    "image-twice": Case(one_more_image()),
    "iscrowd-1": Case(each(iscrowd=1), people=None, line="crowd"),
    "iscrowd-null": Case(each(iscrowd=None)),
    "keypoints-empty": Case(half(keypoints=[], num_keypoints=0), people=3, least=0.0),
    "keypoints-nested": Case(each(keypoints=triples), people=None, line=r"annotation.*keypoints"),
    "keypoints-null": Case(half(keypoints=None, num_keypoints=0), people=3, least=0.0),
    "merged-instances": Case(
        together(
            more(category_id=3, segmentation=WHOLE_IMAGE, area=30720.0, bbox=[0, 0, 192, 160]),
            lambda tree: tree["categories"].append(CAR),
        )
    ),
    "no-annotations-key": Case(top(annotations=ABSENT), people=None, line="annotations"),
    "nobody": Case(top(annotations=[]), people=None, line="nobody is labelled|no annotated image"),
    "normalised": Case(each(keypoints=scaled), people=None, line="from 0 to 1; wanted pixels"),
    "num_keypoints-0": Case(each(num_keypoints=0)),
    "one-label-derived": Case(
        together(
            keep_joints(0), each(bbox=ABSENT, area=ABSENT, iscrowd=ABSENT, num_keypoints=ABSENT)
        ),
        people=None,
        line="bbox",
    ),
    "orphans": Case(lambda tree: tree["images"].pop(), people=4, least=0.0),
    "point-segmentation": Case(more(area=0, segmentation=[[3, 3]])),
    "text-ids": Case(
        together(each(image_id=lambda _, v: f"{v:06d}"), each_image(id=lambda _, v: f"{v:06d}")),
        people=None,
        line="id",
    ),
    "text-image_id": Case(each(image_id=lambda _, v: str(v)), people=None, line="image_id"),
    "without-area": Case(each(area=ABSENT), BY_AREA),
    "without-bbox": Case(each(bbox=ABSENT)),
    "without-categories": Case(top(categories=ABSENT)),
    "without-id": Case(each(id=ABSENT)),
    "without-iscrowd": Case(each(iscrowd=ABSENT)),
    "without-num_keypoints": Case(each(num_keypoints=ABSENT)),
    "zero-boxes": Case(each(bbox=[0, 0, 0, 0], area=0, segmentation=[]), least=0.4),
    "index-null": Case(each_image(crowdIndex=None), CROWD_ONLY),
    "index-lacks": Case(each_image(crowdIndex=ABSENT), CROWD_ONLY),
    "index-lacks-in-one": Case(an_image(crowdIndex=ABSENT), CROWD_ONLY),
}

# More of the same kinds.
INVENTED = {
    # categories
    "category-text": Case(
        together(each(category_id="1"), category(id="1")), people=None, line="category_id"
    ),
    "category-text-in-annotations": Case(each(category_id="1"), people=None, line="category_id"),
    "category-null-in-annotations": Case(each(category_id=None)),
    "category-id-lacks": Case(each(category_id=ABSENT)),
    "categories-empty": Case(top(categories=[])),
    "categories-null": Case(top(categories=None)),
    "categories-object": Case(top(categories={"1": "person"})),
    "categories-text": Case(top(categories=["person"])),
    "categories-same-id": Case(
        lambda tree: tree["categories"].append({"id": 1, "name": "person again"}),
        people=None,
        line="categor",
    ),
    "category-not-listed": Case(each(category_id=8)),
    "category-joints-lack": Case(category(keypoints=ABSENT)),
    "category-other-joints": Case(category(keypoints=["a", "b"]), people=None, line="joints"),
    "category-two-with-joints": Case(
        together(
            half(category_id=2),
            lambda tree: tree["categories"].append(
                tree["categories"][0] | {"id": 2, "name": "rider"}
            ),
        ),
        people=None,
        line="categories",
    ),
    "category-of-one-unlisted": Case(one(category_id=9), people=None, line="categor"),
    # ids
    "image-id-0": Case(together(each_image(id=lambda i, _: i), each(image_id=lambda _, v: v - 1))),
    "image-id-negative": Case(
        together(each_image(id=lambda _, v: -v), each(image_id=lambda _, v: -v))
    ),
    "image-id-bool": Case(an_image(id=True), people=None, line="id"),
    "image-id-huge-float": Case(an_image(id=1e30), people=None, line="id"),
    "image-id-null": Case(an_image(id=None), people=None, line="id"),
    "image-id-lacks": Case(an_image(id=ABSENT), people=None, line="id"),
    "image-id-half": Case(an_image(id=2.5), people=None, line="id"),
    "image-id-float-in-annotations": Case(each(image_id=lambda _, v: float(v))),
    "image-id-beyond-64-bits": Case(
        together(each_image(id=lambda _, v: v + 2**70), each(image_id=lambda _, v: v + 2**70)),
        people=None,
        line="id",
    ),
    "image_id-null": Case(one(image_id=None), people=None, line="image_id"),
    "image_id-lacks": Case(one(image_id=ABSENT), people=None, line="image_id"),
    "image_id-list": Case(one(image_id=[1]), people=None, line="image_id"),
    "annotation-id-null": Case(one(id=None)),
    "annotation-id-text": Case(each(id=lambda _, v: f"a{v}")),
    "annotation-id-bool": Case(one(id=True)),
    "annotation-id-negative": Case(each(id=lambda _, v: -v)),
    "annotation-id-huge": Case(each(id=lambda _, v: v + 2**70)),
    "annotation-id-list": Case(one(id=[1])),
    "annotation-id-twice-in-an-image": Case(
        lambda tree: tree["annotations"][1].update(id=tree["annotations"][0]["id"])
    ),
    # area
    "area-beyond-floats": Case(each(area=10**400), BY_AREA, people=None, line="area"),
    "area-text": Case(each(area="3816"), BY_AREA, people=None, line="area"),
    "area-nan": Case(each(area=NAN), BY_AREA),
    "area-infinite": Case(each(area=INF), BY_AREA),
    "area-minus-0": Case(each(area=-0.0), BY_AREA),
    "area-list": Case(each(area=[1]), BY_AREA, people=None, line="area"),
    "area-bool": Case(each(area=True), BY_AREA, people=None, line="area"),
    "area-tiny": Case(each(area=1e-12), BY_AREA),
    "area-relative": Case(each(area=0.12), BY_AREA),
    "area-of-a-larger-image": Case(each(area=1e6), BY_AREA),
    # bbox
    "bbox-null": Case(each(bbox=None)),
    "bbox-empty": Case(each(bbox=[])),
    "bbox-three": Case(each(bbox=[1, 2, 3]), people=None, line="bbox"),
    "bbox-nan": Case(each(bbox=[1, NAN, 3, 4])),
    "bbox-text": Case(each(bbox=["1", "2", "3", "4"]), people=None, line="bbox"),
    "bbox-object": Case(each(bbox={"x": 1}), people=None, line="bbox"),
    "bbox-zero-width": Case(each(bbox=lambda _, b: [*b[:2], 0, b[3]])),
    "bbox-zero-height": Case(each(bbox=lambda _, b: [*b[:3], 0])),
    "bbox-zero-width-no-area": Case(
        each(bbox=lambda _, b: [*b[:2], 0, b[3]], area=ABSENT), least=0.4
    ),
    "bbox-corners": Case(each(bbox=lambda _, b: [b[0], b[1], b[0] + b[2], b[1] + b[3]]), BY_AREA),
    "bbox-beyond": Case(each(bbox=[-1e6, -1e6, 2e6, 2e6], area=ABSENT), least=0.4),
    "bbox-beyond-floats": Case(one(bbox=[1, 1, 10**400, 5.5]), people=None, line="bbox"),
    "bbox-relative": Case(each(bbox=[0.1, 0.1, 0.3, 0.7], area=ABSENT), least=0.4),
    "bbox-twice-the-image": Case(each(bbox=[-96, -80, 384, 320], area=ABSENT), least=0.4),
    "bbox-infinite": Case(each(bbox=[0, 0, INF, 5])),
    # iscrowd
    "iscrowd-false": Case(each(iscrowd=False)),
    "iscrowd-text": Case(each(iscrowd="0"), people=None, line="iscrowd"),
    "iscrowd-true": Case(each(iscrowd=True), people=None, line="crowd"),
    "iscrowd-2": Case(each(iscrowd=2), people=None, line="crowd"),
    "iscrowd-list": Case(each(iscrowd=[])),
    "iscrowd-0.0": Case(each(iscrowd=0.0)),
    # num_keypoints
    "num_keypoints-null": Case(each(num_keypoints=None)),
    "num_keypoints-text": Case(each(num_keypoints="17")),
    "num_keypoints-negative": Case(each(num_keypoints=-1)),
    "num_keypoints-99": Case(each(num_keypoints=99)),
    "num_keypoints-float": Case(each(num_keypoints=8.0)),
    # keypoints
    "keypoints-lack": Case(half(keypoints=ABSENT), people=3, least=0.0),
    "keypoints-text": Case(one(keypoints="none"), people=None, line="keypoints"),
    "keypoints-of-text": Case(
        one(keypoints=lambda _, v: list(map(str, v))), people=None, line="keyp"
    ),
    "keypoints-object": Case(one(keypoints={"nose": [1, 2, 2]}), people=None, line="keypoints"),
    "keypoints-short": Case(one(keypoints=lambda _, v: v[:-3]), people=None, line="keypoints"),
    "keypoints-long": Case(
        one(keypoints=lambda _, v: [*v, 1, 1, 2]), people=None, line="keypoints"
    ),
    "keypoints-two-each": Case(
        each(keypoints=lambda _, v: [x for i, x in enumerate(v) if i % 3 < 2]),
        people=None,
        line="keypoints",
    ),
    "keypoints-nan": Case(joint(NAN, 5, 2), people=None, line="wanted coordinates"),
    "keypoints-nan-not-labelled": Case(joint(NAN, NAN, 0)),
    "keypoints-null-not-labelled": Case(joint(None, None, 0)),
    "keypoints-infinite": Case(joint(INF, 5, 2), people=None, line="wanted coordinates"),
    "keypoints-1e308": Case(joint(1e308, 5, 2), people=None, line="wanted coordinates"),
    "keypoints-null-inside": Case(joint(None, 5, 2), people=None, line="wanted coordinates"),
    "visibility-3": Case(joint(60.0, 50.0, 3), least=0.4),
    "visibility-minus-1": Case(joint(60.0, 50.0, -1)),
    "visibility-2.0": Case(each(keypoints=lambda _, v: list(map(float, v)))),
    "visibility-null": Case(joint(60.0, 50.0, None), people=None, line="wanted coordinates"),
    "visibility-true": Case(joint(60.0, 50.0, True), people=None, line="keypoints|visibility"),
    "visibility-nan": Case(joint(60.0, 50.0, NAN), people=None, line="wanted coordinates"),
    # images
    "width-text": Case(an_image(width="192"), people=None, line="width"),
    "width-0": Case(an_image(width=0), people=None, line="width"),
    "height-negative": Case(an_image(height=-160), people=None, line="height"),
    "width-lacks": Case(an_image(width=ABSENT), people=None, line="width"),
    "height-null": Case(an_image(height=None), people=None, line="height"),
    "width-nan": Case(an_image(width=NAN), people=None, line="width"),
    "width-bool": Case(an_image(width=True), people=None, line="width"),
    "height-1e12": Case(an_image(height=10**12), people=None, line="height|image"),
    "file-name-lacks": Case(an_image(file_name=ABSENT), people=None, line="file_name"),
    "file-name-empty": Case(an_image(file_name=""), people=None, line="file_name"),
    "file-name-number": Case(an_image(file_name=2), people=None, line="file_name"),
    "file-name-nul": Case(an_image(file_name="a\0.jpg"), people=None, line="file_name"),
    "images-null": Case(top(images=None), people=None, line="images"),
    "images-object": Case(top(images={}), people=None, line="images"),
    "images-empty": Case(top(images=[]), people=None, line="image"),
    "image-null": Case(lambda tree: tree["images"].append(None), people=None, line=r"images\[3\]"),
    "image-listed-with-another-id": Case(one_more_image(id=7), line="images|file", least=0.0),
    "image-entry-for-each-object": Case(an_image_entry_each),
    "everything-twice": Case(everything_twice),
    "image-id-of-another-file": Case(
        one_more_image(file_name="000002.jpg"), people=None, line="id"
    ),
    # annotations
    "annotations-null": Case(top(annotations=None), people=None, line="annotations"),
    "annotations-object": Case(top(annotations={}), people=None, line="annotations"),
    "annotation-null": Case(
        lambda tree: tree["annotations"].append(None), people=None, line=r"annotations\[6\]"
    ),
    "annotation-list": Case(
        lambda tree: tree["annotations"].append([1]), people=None, line=r"annotations\[6\]"
    ),
    "orphans-all": Case(each(image_id=lambda _, v: v + 50), people=None, line="image"),
    # segmentation, of people with joints and without
    "segmentation-null": Case(each(segmentation=None)),
    "segmentation-text": Case(each(segmentation="outline")),
    "segmentation-point-of-people": Case(each(segmentation=[[3, 3]])),
    "segmentation-empty-polygon-of-people": Case(each(segmentation=[[]])),
    "segmentation-two-points": Case(more(segmentation=[[3, 3, 9, 9]])),
    "segmentation-text-of-nobody": Case(
        more(segmentation="outline"), people=None, line="segmentation"
    ),
    "segmentation-null-of-nobody": Case(more(segmentation=None)),
    "segmentation-empty-of-nobody": Case(more(segmentation=[])),
    "segmentation-rle-of-another-size": Case(
        more(segmentation={"size": [10, 10], "counts": [50, 50]}), people=None, line="segmentation"
    ),
    "segmentation-rle-of-another-sum": Case(
        more(segmentation={"size": [160, 192], "counts": [50, 50]}),
        people=None,
        line="segmentation",
    ),
    "segmentation-rle-negative": Case(
        more(segmentation={"size": [160, 192], "counts": [-5, 30725]}),
        people=None,
        line="segmentation",
    ),
    "segmentation-nan": Case(
        more(segmentation=[[3, 3, NAN, 9, 9, 9]]), people=None, line="segmentation"
    ),
    "segmentation-1e300": Case(
        more(segmentation=[[3, 3, 1e300, 9, 9, 9]]), people=None, line="segmentation"
    ),
    "segmentation-odd": Case(more(segmentation=[[3, 3, 20, 9, 9, 9, 5]])),
    "more-null-bbox": Case(more(bbox=None)),
    "more-bbox-lacks": Case(more(bbox=ABSENT)),
    # no scale
    "one-label": Case(together(keep_joints(0), each(bbox=lambda _, b: b))),
    "one-label-of-one": Case(
        together(
            one(bbox=ABSENT, area=ABSENT),
            lambda tree: keep_joints(0)({"annotations": tree["annotations"][2:3]}),
        ),
    ),
    "head-and-neck": Case(
        keep_joints(12, 13), CROWD_ONLY, people=None, line="num_keypoints|judged"
    ),
    "index-text": Case(an_image(crowdIndex="0.5"), CROWD_ONLY, people=None, line="crowdIndex"),
    "index-nan": Case(an_image(crowdIndex=NAN), CROWD_ONLY),
    "index-beyond-floats": Case(
        an_image(crowdIndex=10**400), CROWD_ONLY, people=None, line="crowdIndex"
    ),
    "index-5": Case(an_image(crowdIndex=5), CROWD_ONLY),
    "index-bool": Case(an_image(crowdIndex=True), CROWD_ONLY, people=None, line="crowdIndex"),
    "only-images": Case(
        lambda tree: [tree.pop("annotations"), tree.pop("categories")],
        people=None,
        line="annotations",
    ),
}
CASES = REPORTED | INVENTED
