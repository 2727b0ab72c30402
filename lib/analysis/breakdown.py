"""AP taken apart: precision against recall, by joint, by size of a person, by crowding.

The figures are an evaluator's, faster-coco-eval's, which are pycocotools' but for rounding.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from faster_coco_eval import COCO, COCOeval_faster

from lib.core.evaluate import fast_evaluation, read_known
from lib.dataset.annotations import BOX_AREA
from lib.keypoints import KeypointSpec

Tree = dict[str, Any]  # an annotation file
Rows = Sequence[Mapping[str, Any]]  # a result file

EVERY_SIZE = (0.0, 1e5)
SIDES = {  # of a square of the person's area, in pixels
    "small, below 32": (0, 32),
    "medium, 32 to 96": (32, 96),
    "large, 96 and more": (96, 1e5),
    "32 to 64": (32, 64),
    "64 to 96": (64, 96),
    "96 to 144": (96, 144),
    "144 to 216": (144, 216),
    "216 and more": (216, 1e5),
}
CROWDING = {  # CrowdPose's index of a picture, the upper end not included
    "easy, below 0.2": (-math.inf, 0.2),
    "medium, 0.2 to 0.8": (0.2, 0.8),
    "hard, 0.8 and more": (0.8, math.inf),
}
LENIENT, STRICT = 0, 5  # of the OKS thresholds .50, .55 ... .95: .50, .75


class Part(NamedTuple):
    """Figures of some of the people; nan where there is nobody."""

    people: int  # judged ones
    ap: float
    ap_50: float
    ap_75: float
    ar: float


class Breakdown(NamedTuple):
    """An evaluation in parts."""

    precision: dict[str, list[float]]  # by OKS: at recall 0, .01 ... 1; empty if nobody is judged
    joints: dict[str, Part]
    sizes: dict[str, Part]
    crowding: dict[str, Part]  # empty where pictures have no index


def break_down(
    spec: KeypointSpec, annotations: Path, rows: Rows, image_ids: Sequence[int]
) -> Breakdown:
    """Of result rows on `image_ids`."""
    tree = with_areas(spec, read_known(spec, annotations, image_ids))
    found = load_rows(tree, rows)
    whole = evaluated(spec, tree, found, [EVERY_SIZE, *SIDES.values()])
    sizes = {
        name: _part(whole, number, count_judged(tree, sides))
        for number, (name, sides) in enumerate(SIDES.items(), 1)
    }
    joints = {name: part_of(spec, only_joint(tree, k), found) for k, name in enumerate(spec.joints)}
    crowding = {}
    if spec.metric.by_crowding:
        for name, ends in CROWDING.items():
            few, own_rows = only_crowding(tree, rows, *ends)
            crowding[name] = part_of(spec, few, load_rows(few, own_rows))
    return Breakdown(precision_curves(whole), joints, sizes, crowding)


def load_rows(tree: Tree, rows: Rows) -> COCO:
    """Results on an annotation tree; the evaluator writes into its own copies."""
    return COCO(tree).loadRes([dict(row) for row in rows])


def part_of(spec: KeypointSpec, tree: Tree, found: COCO) -> Part:
    """The figures of one annotation tree."""
    people = count_judged(tree, EVERY_SIZE)
    return _part(evaluated(spec, tree, found, [EVERY_SIZE]), 0, people)


def only_joint(tree: Tree, joint: int) -> Tree:
    """The annotations with the labels of one joint alone.

    Who has no such label is not judged, as the evaluators judge nobody without labels.
    """
    own = slice(3 * joint, 3 * joint + 3)
    people = []
    for one in tree["annotations"]:
        keypoints = [0] * len(one["keypoints"])
        keypoints[own] = one["keypoints"][own]
        labelled = int(one.get("num_keypoints", 0) > 0 and keypoints[own][2] > 0)
        people.append({**one, "keypoints": keypoints, "num_keypoints": labelled})
    return {**tree, "annotations": people}


def only_crowding(tree: Tree, rows: Rows, low: float, high: float) -> tuple[Tree, Rows]:
    """What is on pictures whose index is at least `low` and below `high`."""
    images = [image for image in tree["images"] if low <= image["crowdIndex"] < high]
    ids = {image["id"] for image in images}
    people = [one for one in tree["annotations"] if one["image_id"] in ids]
    own = [row for row in rows if row["image_id"] in ids]
    return {**tree, "images": images, "annotations": people}, own


def with_areas(spec: KeypointSpec, tree: Tree) -> Tree:
    """CrowdPose's people have no area; by its rule it is a part of the box."""
    if spec.use_area:
        return tree
    people = [
        {**one, "area": BOX_AREA * one["bbox"][2] * one["bbox"][3]} for one in tree["annotations"]
    ]
    return {**tree, "annotations": people}


def count_judged(tree: Tree, sides: tuple[float, float]) -> int:
    """People whom the evaluators judge, with areas between the squares of `sides`."""
    low, high = sides
    return sum(
        one.get("num_keypoints", 0) > 0
        and not one.get("iscrowd")
        and low**2 <= one["area"] <= high**2
        for one in tree["annotations"]
    )


def evaluated(
    spec: KeypointSpec, tree: Tree, found: COCO, ranges: Sequence[tuple[float, float]]
) -> COCOeval_faster:
    """With people of each of `ranges` of sides judged alone."""
    evaluation = fast_evaluation(spec, COCO(tree), found, "keypoints")
    evaluation.params.areaRng = [[low**2, high**2] for low, high in ranges]
    evaluation.params.areaRngLbl = [str(number) for number in range(len(ranges))]
    evaluation.evaluate()
    evaluation.accumulate()
    return evaluation


def precision_curves(evaluation: COCOeval_faster) -> dict[str, list[float]]:
    """Precision of all people by OKS threshold; empty where nobody is judged."""
    by_threshold = evaluation.eval["precision"][:, :, 0, 0, 0]  # (10, 101)
    if by_threshold.min() < 0:
        return {}
    curves = {
        ".50": by_threshold[LENIENT],
        ".75": by_threshold[STRICT],
        ".50 to .95, mean": by_threshold.mean(axis=0),
    }
    return {name: curve.tolist() for name, curve in curves.items()}


def _part(evaluation: COCOeval_faster, number: int, people: int) -> Part:
    """`number`: of the range of sides."""
    precision = evaluation.eval["precision"][..., number, 0]  # (10, 101, categories)
    recall = evaluation.eval["recall"][..., number, 0]  # (10, categories)
    thresholds = (precision, precision[LENIENT], precision[STRICT], recall)
    return Part(people, *map(_mean, thresholds))


def _mean(values: np.ndarray) -> float:
    """-1 is the evaluator's word for nobody to judge."""
    judged = values[values > -1]
    return float(judged.mean()) if judged.size else math.nan
