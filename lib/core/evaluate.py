"""Scores predictions: a table of AP and AR with HigherHRNet's column names."""

from __future__ import annotations

import contextlib
import io
import logging
from collections import OrderedDict
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import faster_coco_eval
import numpy as np
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval
from torch import nn

from lib.core.inference import InferenceSettings
from lib.core.pipeline import SEQUENTIAL, LoaderSettings, each_outcome
from lib.core.results import Prediction, Row, in_order, require_some, result_rows, write_results
from lib.dataset.build import EvaluationSet
from lib.keypoints import CROWDING_COLUMNS, KeypointSpec
from lib.utils.tables import markdown

logger = logging.getLogger(__name__)

Table = OrderedDict[str, float]
Tree = Mapping[str, Any]  # content of an annotation file


def evaluate_predictions(
    data: EvaluationSet, predictions: Iterable[Prediction], out_dir: Path
) -> Table:
    """Write the result file (`result_path`), then return the table of its scores.

    The table is empty for a split without annotations, such as COCO test-dev.
    """
    rows = write_results(data, predictions, out_dir)
    return score_rows(data.spec, data.ground_truth, rows) if data.has_people else OrderedDict()


def average_precision(
    settings: InferenceSettings,
    model: nn.Module,
    data: EvaluationSet,
    loading: LoaderSettings = SEQUENTIAL,
) -> float:
    """AP of `model` on `data`, from 0 to 1; no file is written."""
    return score_rows(data.spec, data.ground_truth, find_rows(settings, model, data, loading))["AP"]


def find_rows(
    settings: InferenceSettings,
    model: nn.Module,
    data: EvaluationSet,
    loading: LoaderSettings = SEQUENTIAL,
) -> list[Row]:
    """The result rows of `model` on `data`; an image that cannot be read has a warning and no row.

    ValueError if no image can be read.
    """
    predictions, problems = in_order(data, each_outcome(settings, model, data, loading))
    require_some(predictions, problems)
    for problem in problems:
        logger.warning("%s", problem)
    return result_rows(data.spec, predictions, data.category_id)


def score_predictions(data: EvaluationSet, predictions: Iterable[Prediction]) -> Table:
    """The table of `predictions`, equal to that of their result file."""
    rows = result_rows(data.spec, predictions, data.category_id)
    return score_rows(data.spec, data.ground_truth, rows)


def score_rows(spec: KeypointSpec, ground_truth: Tree, rows: Sequence[Row]) -> Table:
    """The table of result rows, scored on all images of `ground_truth`.

    The columns are those of the data set's metric. A column is -1 where nobody is judged, such as
    AP (M) without people of medium size; so are AP (easy), ... if an image has no crowdIndex.
    """
    crowding_known = has_crowding(ground_truth)
    # Copies, since evaluators write into annotations and rows.
    ground_truth = {
        **ground_truth,
        "images": [{"crowdIndex": 0, **image} for image in ground_truth["images"]],
        "annotations": list(map(dict, ground_truth["annotations"])),
    }
    with contextlib.redirect_stdout(io.StringIO()):  # evaluators print their tables
        evaluation = EVALUATORS[spec.metric.name](spec, ground_truth, list(map(dict, rows)))
        evaluation.evaluate()
        evaluation.accumulate()
        evaluation.summarize()
    table = OrderedDict(zip(spec.metric.columns, map(float, evaluation.stats), strict=True))
    if spec.metric.by_crowding and not crowding_known:
        table |= dict.fromkeys(CROWDING_COLUMNS, -1.0)
    return table


def has_crowding(ground_truth: Tree) -> bool:
    """Whether each image has a crowdIndex."""
    return all("crowdIndex" in image for image in ground_truth["images"])


def markdown_table(table: Mapping[str, float], arch: str) -> str:
    """`table` as a Markdown table of one row, with HigherHRNet's first column "Arch".

    Where nobody is judged, a column has "-", and a sentence below the table says so.
    """
    text = markdown(["Arch", *table], [[arch, *map(three_digits, table.values())]])
    unknown = [name for name, value in table.items() if value < 0]
    note = f"\n\n-: nobody to judge, or no crowdIndex, in the ground truth: {', '.join(unknown)}."
    return text + (note if unknown else "")


def three_digits(value: float) -> str:
    """0.651; "-" where nobody is judged, which is -1 or NaN."""
    return f"{value:.3f}" if value >= 0 else "-"


def fast_evaluation(
    spec: KeypointSpec,
    ground_truth: faster_coco_eval.COCO,
    detections: faster_coco_eval.COCO,
    kind: Literal["keypoints", "keypoints_crowd"],
) -> faster_coco_eval.COCOeval_faster:
    """kind: with "keypoints_crowd", AP is also computed by crowding."""
    return faster_coco_eval.COCOeval_faster(
        ground_truth,
        detections,
        iouType=kind,
        kpt_oks_sigmas=list(spec.sigmas),
        use_area=spec.use_area,  # False: OKS uses .53 * width * height of the box
        print_function=lambda *_: None,
    )


def coco_evaluation(spec: KeypointSpec, ground_truth: dict[str, Any], rows: list[Row]) -> COCOeval:
    coco: Any = COCO()
    coco.dataset = ground_truth
    coco.createIndex()
    detections: Any = COCO()
    detections.dataset = {**ground_truth, "annotations": []}
    detections.createIndex()
    evaluation = COCOeval(coco, coco.loadRes(rows) if rows else detections, "keypoints")
    evaluation.params.kpt_oks_sigmas = np.array(spec.sigmas)
    return evaluation


def _crowd_pose_evaluation(
    spec: KeypointSpec, ground_truth: dict[str, Any], rows: list[Row]
) -> faster_coco_eval.COCOeval_faster:
    """Equal to CrowdPose's official tool, which is on no package index (docs/differences.md)."""
    coco = faster_coco_eval.COCO(ground_truth)
    return fast_evaluation(spec, coco, coco.loadRes(rows), "keypoints_crowd")


EVALUATORS = {"coco": coco_evaluation, "crowd_pose": _crowd_pose_evaluation}
