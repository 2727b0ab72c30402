"""Predictions of a whole set, whoever makes them: this process, several, or a run before this."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
from torch import nn

from lib.core.inference import InferenceSettings
from lib.core.pipeline import Failure, LoaderSettings, Prediction, each_outcome
from lib.core.unfinished import Unfinished
from lib.dataset.build import EvaluationSet
from lib.utils.dist import ALONE, Process, broadcast, gather

logger = logging.getLogger(__name__)

DECIMALS = 3  # of a joint's numbers, in result files and journals

Outcome = Prediction | Failure


def predict_set(
    settings: InferenceSettings,
    model: nn.Module,
    data: EvaluationSet,
    process: Process = ALONE,
    unfinished: Unfinished | None = None,
    loading: LoaderSettings = LoaderSettings(),  # noqa: B008, which is frozen
) -> tuple[list[Prediction], list[str]]:
    """Predictions of `data` in its order, and one line for each picture that has none.

    Several processes share the pictures: the first returns everything, the others nothing. With
    `unfinished`, pictures that a run before this has finished are not looked at again. The model
    is left in the mode it came in.
    """
    outcomes = [from_json(data, entry) for entry in unfinished.known] if unfinished else []
    finished = everywhere(process, [outcome.image_id for outcome in outcomes])
    left = [picture for picture in data.records if picture.id not in finished]
    if len(left) < len(data.records):
        done = len(data.records) - len(left)
        logger.info("going on: %d of %d pictures are finished", done, len(data.records))
    share = data._replace(records=left[process.rank :: process.world_size])
    loading = replace(loading, progress=loading.progress and process.is_main)
    for outcome in each_outcome(settings, model, share, loading):
        outcomes.append(outcome)
        if unfinished and isinstance(outcome, Prediction):
            unfinished.add(**to_json(data, outcome))
    return in_order(data, on_first(process, data, outcomes))


def demand_some(predictions: Sequence[Prediction], problems: Sequence[str]) -> None:
    """ValueError where every picture failed: no figure would mean anything."""
    if problems and not predictions:
        raise ValueError(f"not one of {len(problems)} pictures could be evaluated; {problems[0]}")


def everywhere(process: Process, image_ids: list[int]) -> set[int]:
    """The ids that any process gives, on all of them."""
    given = gather(process, image_ids)
    return set(broadcast(process, [image_id for ids in given for image_id in ids]))


def on_first(process: Process, data: EvaluationSet, outcomes: list[Outcome]) -> list[Outcome]:
    """The outcomes of all processes on the first one, none on the others."""
    if process.world_size == 1:
        return outcomes
    given = gather(process, [to_json(data, outcome) for outcome in outcomes])
    return [from_json(data, entry) for entries in given for entry in entries]


def in_order(
    data: EvaluationSet, outcomes: Iterable[Outcome]
) -> tuple[list[Prediction], list[str]]:
    """Predictions, and what is said of failures, as the pictures come in `data`."""
    by_id = {outcome.image_id: outcome for outcome in outcomes}
    ordered = [by_id[picture.id] for picture in data.records if picture.id in by_id]
    predictions = [outcome for outcome in ordered if isinstance(outcome, Prediction)]
    return predictions, [outcome.problem for outcome in ordered if isinstance(outcome, Failure)]


def to_json(data: EvaluationSet, outcome: Outcome) -> dict[str, Any]:
    """Plain values: of a prediction, what a result file has of it."""
    if isinstance(outcome, Failure):
        return outcome._asdict()
    joints = outcome.people[:, : data.spec.num_joints, :3]
    return {
        "image_id": outcome.image_id,
        "people": [rounded(person) for person in joints],
        "scores": [float(score) for score in outcome.scores],
    }


def from_json(data: EvaluationSet, entry: Mapping[str, Any]) -> Outcome:
    """What `to_json` was given, but for rounding and tags."""
    if "problem" in entry:
        return Failure(entry["image_id"], entry["problem"])
    people = np.array(entry["people"], float).reshape(-1, data.spec.num_joints, 3)
    return Prediction(entry["image_id"], people, entry["scores"])


def rounded(joints: np.ndarray) -> list[float]:
    """The numbers of one person as they are written; rounding them again changes nothing."""
    return [round(float(value), DECIMALS) for value in joints.flatten()]
