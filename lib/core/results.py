"""Predictions of images, and the result file that COCO's tools and server read."""

from __future__ import annotations

import json
import logging
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from lib.dataset.build import EvaluationSet
from lib.keypoints import KeypointSpec
from lib.utils.files import atomic_write, reported

logger = logging.getLogger(__name__)

DECIMALS = 3  # of coordinates and joint scores, in result files and journals

Row = dict[str, Any]


class Prediction(NamedTuple):
    """The people in one image."""

    image_id: int
    people: np.ndarray  # (N, K, 3 or more): x, y, score in pixels of the image
    scores: Sequence[float]  # N


class Failure(NamedTuple):
    """An image without a prediction."""

    image_id: int
    problem: str  # one line that names the image


Outcome = Prediction | Failure


def in_order(
    data: EvaluationSet, outcomes: Iterable[Outcome]
) -> tuple[list[Prediction], list[str]]:
    """Predictions and the problems of failures, in the order of the images in `data`."""
    by_id = {outcome.image_id: outcome for outcome in outcomes}
    ordered = [by_id[record.id] for record in data.records if record.id in by_id]
    predictions = [outcome for outcome in ordered if isinstance(outcome, Prediction)]
    return predictions, [outcome.problem for outcome in ordered if isinstance(outcome, Failure)]


def require_some(predictions: Sequence[Prediction], problems: Sequence[str]) -> None:
    """ValueError if every image failed."""
    if problems and not predictions:
        raise ValueError(f"none of {len(problems)} images could be evaluated; {problems[0]}")


def rounded(joints: np.ndarray) -> list[float]:
    """Joints of one person as a flat list, rounded to DECIMALS; rounding twice changes nothing."""
    return [round(float(value), DECIMALS) for value in joints.flatten()]


def result_rows(
    spec: KeypointSpec, predictions: Iterable[Prediction], category_id: int = 1
) -> list[Row]:
    """COCO result entries, one per person, by image and descending score; no center joint."""
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
    """ValueError if COCO's server would refuse a row; it names the row and the reason."""
    image_ids, category_id = {record.id for record in data.records}, data.category_id
    length = 3 * data.spec.num_joints
    for number, row in enumerate(rows):
        joints = row.get("keypoints", ())
        checks = {
            f"its image_id is not in {data.split}": row.get("image_id") in image_ids,
            f"its category_id is not {category_id}": row.get("category_id") == category_id,
            f"it has {len(joints)} keypoint numbers, not {length}": len(joints) == length,
            "a keypoint number is not finite": np.isfinite(joints).all(),
            "its score is missing or not finite": np.isfinite(row.get("score", np.nan)),
        }
        if problem := next((text for text, holds in checks.items() if not holds), None):
            raise ValueError(f"result {number} (image {row.get('image_id')}): {problem}")


def result_path(data: EvaluationSet, out_dir: Path) -> Path:
    """OUT_DIR/results/<name>.json; for test-dev, the name that COCO's server requires."""
    if "test" in data.split and not data.has_people:
        return out_dir / "results" / f"person_keypoints_{data.split}_litepose_results.json"
    return out_dir / "results" / f"keypoints_{data.split}_results.json"


def write_results(
    data: EvaluationSet, predictions: Iterable[Prediction], out_dir: Path
) -> list[Row]:
    """Check and write the result file. Return its rows."""
    path = result_path(data, out_dir)
    rows = result_rows(data.spec, predictions, data.category_id)
    check_rows(data, rows)
    with reported(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        atomic_write(path, json.dumps(rows))
    logger.info("%d people written to %s", len(rows), path)
    return rows
