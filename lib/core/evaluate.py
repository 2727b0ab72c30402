"""From people to AP: result rows, the result file, the table in HigherHRNet's names."""

from __future__ import annotations

import contextlib
import io
import json
import logging
from collections import OrderedDict
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import faster_coco_eval
import numpy as np
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval
from torch import nn

from lib.core.inference import InferenceSettings
from lib.core.pipeline import LoaderSettings, Prediction
from lib.core.predictions import demand_some, predict_set, rounded
from lib.dataset.build import EvaluationSet
from lib.dataset.reader import category_in, read_annotations
from lib.keypoints import KeypointSpec

logger = logging.getLogger(__name__)


def evaluate_predictions(
    data: EvaluationSet, predictions: Iterable[Prediction], out_dir: Path
) -> OrderedDict[str, float]:
    """Write the result file, then score it: the AP table, column names as HigherHRNet's.

    The file is OUT_DIR/results/<name>.json (see `result_path`). A split without annotations (COCO
    test-dev) gives an empty table.
    """
    path = result_path(data, out_dir)
    rows = result_rows(data.spec, predictions, data.category_id)
    check_rows(data, rows)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(rows))
    logger.info("%d people written to %s", len(rows), path)
    if not data.has_people:
        return OrderedDict()
    image_ids = [picture.id for picture in data.records]
    return score_rows(data.spec, data.annotations, rows, image_ids)


def average_precision(
    settings: InferenceSettings,
    model: nn.Module,
    data: EvaluationSet,
    loading: LoaderSettings = LoaderSettings(),  # noqa: B008, which is frozen
) -> float:
    """AP of `model` on `data`, 0 to 1; nothing is written."""
    predictions, problems = predict_set(settings, model, data, loading=loading)
    demand_some(predictions, problems)
    for problem in problems:
        logger.warning("%s", problem)
    rows = result_rows(data.spec, predictions)
    image_ids = [picture.id for picture in data.records]
    return score_rows(data.spec, data.annotations, rows, image_ids)["AP"]


def result_path(data: EvaluationSet, out_dir: Path) -> Path:
    """Where results go; for test-dev, under the name that COCO's server asks for."""
    if "test" in data.split and not data.has_people:
        return out_dir / "results" / f"person_keypoints_{data.split}_litepose_results.json"
    return out_dir / "results" / f"keypoints_{data.split}_results.json"


def result_rows(
    spec: KeypointSpec, predictions: Iterable[Prediction], category_id: int = 1
) -> list[dict[str, Any]]:
    """One COCO result entry per person, by image and falling score; a center joint is left out."""
    rows = [
        {
            "image_id": prediction.image_id,
            "category_id": category_id,
            "keypoints": rounded(person[: spec.num_joints, :3]),
            "score": float(score),
        }
        for prediction in predictions
        for person, score in zip(prediction.people, prediction.scores, strict=True)
    ]
    return sorted(rows, key=lambda row: (row["image_id"], -row["score"]))


def check_rows(data: EvaluationSet, rows: Iterable[Mapping[str, Any]]) -> None:
    """ValueError naming the first row that COCO's server would refuse, and why."""
    image_ids = {picture.id for picture in data.records}
    numbers = 3 * data.spec.num_joints
    for place, row in enumerate(rows):
        joints = row.get("keypoints", ())
        checks = {
            f"its image_id is none of {data.split}": row.get("image_id") in image_ids,
            f"its category_id is not {data.category_id}": row.get("category_id")
            == data.category_id,
            f"it has {len(joints)} keypoint numbers, not {numbers}": len(joints) == numbers,
            "a keypoint number is not finite": np.isfinite(joints).all(),
            "its score is missing or not finite": np.isfinite(row.get("score", np.nan)),
        }
        if wrong := next((said for said, holds in checks.items() if not holds), None):
            raise ValueError(f"result {place} (image {row.get('image_id')}): {wrong}")


def score_rows(
    spec: KeypointSpec,
    annotations: Path,
    rows: list[dict[str, Any]],
    image_ids: Sequence[int] | None = None,
) -> OrderedDict[str, float]:
    """The table of `rows` on `image_ids` (None: all pictures); no rows at all are AP 0."""
    names = spec.metric.columns
    if not rows:
        return OrderedDict.fromkeys(names, 0.0)
    prepare = EVALUATORS[spec.metric.name]
    with contextlib.redirect_stdout(io.StringIO()):  # the evaluators print as they go
        evaluation = prepare(spec, annotations, rows, image_ids)
        evaluation.evaluate()
        evaluation.accumulate()
        evaluation.summarize()
    return OrderedDict(zip(names, map(float, evaluation.stats), strict=True))


def markdown_table(table: OrderedDict[str, float], arch: str) -> str:
    """One row in HigherHRNet's form."""
    head = "".join(f"| {name} " for name in table)
    values = "".join(f"| {value:.3f} " for value in table.values())
    return f"| Arch {head}|\n{'|---' * (len(table) + 1)}|\n| {arch} {values}|"


def _coco_evaluation(
    spec: KeypointSpec, annotations: Path, rows: list, image_ids: Sequence[int] | None
) -> COCOeval:
    truth = COCO()
    truth.dataset = read_annotations(annotations, spec)
    truth.createIndex()
    category = {"category_id": category_in(truth.dataset, spec)}
    found = truth.loadRes([row | category for row in rows])
    evaluation = COCOeval(truth, found, "keypoints")
    evaluation.params.kpt_oks_sigmas = np.array(spec.sigmas)
    if image_ids is not None:
        evaluation.params.imgIds = sorted(image_ids)
    return evaluation


def _crowd_pose_evaluation(
    spec: KeypointSpec, annotations: Path, rows: list, image_ids: Sequence[int] | None
) -> COCOeval:
    """The official tool is on no package index; this one gives its figures (see README).

    Its figures by crowding are of all pictures it knows, so it knows only those of `image_ids`.
    """
    truth = faster_coco_eval.COCO(read_known(spec, annotations, image_ids))
    return fast_evaluation(spec, truth, truth.loadRes(rows), "keypoints_crowd")


def read_known(
    spec: KeypointSpec, annotations: Path, image_ids: Sequence[int] | None
) -> dict[str, Any]:
    """An annotation file as if it had only these pictures; None: all."""
    tree = read_annotations(annotations, spec)
    if image_ids is not None:
        known = set(image_ids)
        tree["images"] = [entry for entry in tree["images"] if entry["id"] in known]
        tree["annotations"] = [one for one in tree["annotations"] if one["image_id"] in known]
    return tree


def fast_evaluation(
    spec: KeypointSpec, truth: faster_coco_eval.COCO, found: faster_coco_eval.COCO, kind: str
) -> faster_coco_eval.COCOeval_faster:
    """Of people found; kind: keypoints, or keypoints_crowd for the figures by crowding, too."""
    return faster_coco_eval.COCOeval_faster(
        truth,
        found,
        iouType=kind,
        kpt_oks_sigmas=list(spec.sigmas),
        use_area=spec.use_area,  # CrowdPose has no areas: .53 * width * height of the box
        print_function=lambda *_: None,
    )


EVALUATORS = {"coco": _coco_evaluation, "crowd_pose": _crowd_pose_evaluation}
