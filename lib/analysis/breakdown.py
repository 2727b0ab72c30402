"""AP broken down: precision against recall, by joint, by size of a person, by crowding.

Each part is one run of the evaluator (faster-coco-eval; equal to pycocotools up to rounding) on
annotations that are edited first. Example: for the left wrist, all other labels are removed from
the annotations, so the usual OKS is a similarity over this joint alone; detections and their scores
stay as they are.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from faster_coco_eval import COCO, COCOeval_faster

from lib.core.evaluate import fast_evaluation, has_crowding
from lib.dataset.annotations import BOX_AREA
from lib.keypoints import KeypointSpec

Tree = dict[str, Any]  # an annotation file
Rows = Sequence[Mapping[str, Any]]  # a result file
Range = tuple[float, float]

EVERY_SIZE = (0.0, 1e5)
SIDES: dict[str, Range] = {  # side of a square with the area of the person, in pixels
    "small, below 32": (0, 32),
    "medium, 32 to 96": (32, 96),
    "large, 96 and more": (96, 1e5),
    "32 to 64": (32, 64),
    "64 to 96": (64, 96),
    "96 to 144": (96, 144),
    "144 to 216": (144, 216),
    "216 and more": (216, 1e5),
}
CROWDING: dict[str, Range] = {  # CrowdPose's index of an image, the upper end excluded
    "easy, below 0.2": (-math.inf, 0.2),
    "medium, 0.2 to 0.8": (0.2, 0.8),
    "hard, 0.8 and more": (0.8, math.inf),
}
OKS_50, OKS_75 = 0, 5  # places among the thresholds .50, .55 ... .95


class Part(NamedTuple):
    """Metrics of a part of the people; nan where nobody is judged."""

    people: int  # judged people
    ap: float
    ap_50: float
    ap_75: float
    ar: float


class Breakdown(NamedTuple):
    """An evaluation in parts."""

    precision: dict[str, list[float]]  # by OKS: at recall 0, .01 ... 1; empty if nobody is judged
    joints: dict[str, Part]
    sizes: dict[str, Part]
    crowding: dict[str, Part]  # empty unless the data set's metric and each image has it


def break_down(spec: KeypointSpec, ground_truth: Mapping[str, Any], rows: Rows) -> Breakdown:
    """Break result rows down over all images of `ground_truth`; neither is modified."""
    tree = with_areas(spec, ground_truth)
    detections = load_rows(tree, rows)
    whole = evaluate(spec, tree, detections, [EVERY_SIZE, *SIDES.values()])
    sizes = {
        name: part_of(whole, tree, sides, number)
        for number, (name, sides) in enumerate(SIDES.items(), start=1)
    }
    joints = {}
    for k, name in enumerate(spec.joints):
        subset = only_joint(tree, k)
        joints[name] = part_of(evaluate(spec, subset, detections), subset)
    crowding = {}
    if spec.metric.by_crowding and has_crowding(tree):
        for name, (low, high) in CROWDING.items():
            subset, subset_rows = only_crowding(tree, rows, low, high)
            detections = load_rows(subset, subset_rows)
            crowding[name] = part_of(evaluate(spec, subset, detections), subset)
    return Breakdown(precision_curves(whole), joints, sizes, crowding)


# --- annotations of one part ------------------------------------------------------------


def with_areas(spec: KeypointSpec, tree: Mapping[str, Any]) -> Tree:
    """A copy in which everybody has an area, by CrowdPose's rule a part of the box."""
    people = [dict(one) for one in tree["annotations"]]
    if not spec.use_area:
        for one in people:
            one["area"] = BOX_AREA * one["bbox"][2] * one["bbox"][3]
    return {**tree, "annotations": people}


def only_joint(tree: Tree, joint: int) -> Tree:
    """The annotations with the labels of one joint alone.

    People without this label are not judged, as the evaluators judge nobody without labels.
    """
    place = slice(3 * joint, 3 * joint + 3)
    people = []
    for one in tree["annotations"]:
        keypoints = [0] * len(one["keypoints"])
        keypoints[place] = one["keypoints"][place]
        labelled = int(one.get("num_keypoints", 0) > 0 and keypoints[place][2] > 0)
        people.append({**one, "keypoints": keypoints, "num_keypoints": labelled})
    return {**tree, "annotations": people}


def only_crowding(tree: Tree, rows: Rows, low: float, high: float) -> tuple[Tree, Rows]:
    """Annotations and result rows of images with low <= crowding index < high."""
    images = [image for image in tree["images"] if low <= image["crowdIndex"] < high]
    ids = {image["id"] for image in images}
    people = [one for one in tree["annotations"] if one["image_id"] in ids]
    return (
        {**tree, "images": images, "annotations": people},
        [row for row in rows if row["image_id"] in ids],
    )


def count_judged(tree: Tree, sides: Range) -> int:
    """Number of people whom the evaluators judge, with areas between the squares of `sides`."""
    low, high = sides
    return sum(
        one.get("num_keypoints", 0) > 0
        and not one.get("iscrowd")
        and low**2 <= one["area"] <= high**2
        for one in tree["annotations"]
    )


# --- the evaluator ----------------------------------------------------------------------


def load_rows(tree: Tree, rows: Rows) -> COCO:
    """Result rows for an annotation tree, as copies: the evaluator writes into them."""
    return COCO(tree).loadRes([dict(row) for row in rows])


def evaluate(
    spec: KeypointSpec, tree: Tree, detections: COCO, ranges: Sequence[Range] = (EVERY_SIZE,)
) -> COCOeval_faster:
    """A finished evaluation; its area range number i judges people of sides `ranges[i]`."""
    evaluation = fast_evaluation(spec, COCO(tree), detections, "keypoints")
    evaluation.params.areaRng = [[low**2, high**2] for low, high in ranges]
    evaluation.params.areaRngLbl = [str(number) for number in range(len(ranges))]
    evaluation.evaluate()
    evaluation.accumulate()
    return evaluation


def precision_curves(evaluation: COCOeval_faster) -> dict[str, list[float]]:
    """Precision at 101 recalls by OKS threshold; empty if nobody is judged."""
    by_threshold = evaluation.eval["precision"][:, :, 0, 0, 0]  # (10, 101)
    if by_threshold.min() < 0:
        return {}
    return {
        ".50": by_threshold[OKS_50].tolist(),
        ".75": by_threshold[OKS_75].tolist(),
        ".50 to .95, mean": by_threshold.mean(axis=0).tolist(),
    }


def part_of(
    evaluation: COCOeval_faster, tree: Tree, sides: Range = EVERY_SIZE, number: int = 0
) -> Part:
    """Metrics of people of these sides: the evaluation's area range with this number."""
    precision = evaluation.eval["precision"][..., number, 0]  # (10, 101, categories)
    recall = evaluation.eval["recall"][..., number, 0]  # (10, categories)
    return Part(
        people=count_judged(tree, sides),
        ap=_mean(precision),
        ap_50=_mean(precision[OKS_50]),
        ap_75=_mean(precision[OKS_75]),
        ar=_mean(recall),
    )


def _mean(values: np.ndarray) -> float:
    """Mean without the evaluator's -1, which stands for "nobody is judged"."""
    judged = values[values > -1]
    return float(judged.mean()) if judged.size else math.nan
