"""Predictions of a whole set by one or several processes; an interrupted run can be resumed."""

from __future__ import annotations

import glob
import logging
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from torch import nn

from lib.core.inference import InferenceSettings
from lib.core.pipeline import SEQUENTIAL, LoaderSettings, each_outcome
from lib.core.results import Outcome, Prediction, in_order, rounded
from lib.dataset.build import EvaluationSet
from lib.utils.dist import ALONE, Process, broadcast, gather
from lib.utils.files import WriteError, reported
from lib.utils.journal import Journal

logger = logging.getLogger(__name__)


def predict_set(
    settings: InferenceSettings,
    model: nn.Module,
    data: EvaluationSet,
    process: Process = ALONE,
    journals: PredictionJournals | None = None,
    loading: LoaderSettings = SEQUENTIAL,
) -> tuple[list[Prediction], list[str]]:
    """`predictions_of` what `model` finds. The model's training mode is restored at the end."""
    loading = replace(loading, progress=loading.progress and process.is_main)
    return predictions_of(
        lambda share: each_outcome(settings, model, share, loading), data, process, journals
    )


def predictions_of(
    outcomes_of: Callable[[EvaluationSet], Iterator[Outcome]],
    data: EvaluationSet,
    process: Process = ALONE,
    journals: PredictionJournals | None = None,
) -> tuple[list[Prediction], list[str]]:
    """Predictions of `data` in its order, and a line for each image that failed.

    outcomes_of: one outcome for each image of a set, in any order. The processes share the images;
    rank 0 returns everything, the others empty lists. With `journals`, predictions of an
    interrupted run are reused.
    """
    entries = journals.entries if journals else []
    outcomes: list[Outcome] = [from_json(data, entry) for entry in entries]
    finished = _union(process, [outcome.image_id for outcome in outcomes])
    remaining = [record for record in data.records if record.id not in finished]
    if len(remaining) < len(data.records):
        done = len(data.records) - len(remaining)
        logger.info("resuming: %d of %d images are finished", done, len(data.records))
    share = data._replace(records=remaining[process.rank :: process.world_size])
    for outcome in outcomes_of(share):
        outcomes.append(outcome)
        if journals and isinstance(outcome, Prediction):
            journals.add(**to_json(data, outcome))
    gathered = gather(process, outcomes)  # empty, except on rank 0
    return in_order(data, [outcome for part in gathered for outcome in part])


def _union(process: Process, image_ids: list[int]) -> set[int]:
    """The ids of all processes, on each of them."""
    gathered = gather(process, image_ids)
    return set(broadcast(process, [image_id for ids in gathered for image_id in ids]))


def to_json(data: EvaluationSet, prediction: Prediction) -> dict[str, Any]:
    """The prediction as in the result file: rounded, without tags."""
    joints = prediction.people[:, : data.spec.num_joints, :3]
    return {
        "image_id": prediction.image_id,
        "people": [rounded(person) for person in joints],
        "scores": [float(score) for score in prediction.scores],
    }


def from_json(data: EvaluationSet, entry: Mapping[str, Any]) -> Prediction:
    """The inverse of `to_json`, up to rounding and without tags."""
    people = np.array(entry["people"], float).reshape(-1, data.spec.num_joints, 3)
    return Prediction(entry["image_id"], people, entry["scores"])


class PredictionJournals:
    """Finished predictions next to the result file: <results>.unfinished-<rank>.jsonl.

    Each process writes its journal. All journals of an interrupted run are read, each by one
    process, also when the next run has more or fewer processes: of 4 journals, the first of 2
    processes reads numbers 0 and 2. Predictions of other weights or settings are discarded.
    """

    def __init__(self, results: Path, header: Mapping[str, Any], process: Process = ALONE) -> None:
        """`results`: the result file to be written; `header`: all that predictions depend on."""
        with reported(results):
            results.parent.mkdir(parents=True, exist_ok=True)
        prefix = f"{results.stem}.unfinished-"
        journal = results.with_name(f"{prefix}{process.rank}.jsonl")
        numbers = {
            path: path.name.removeprefix(prefix).removesuffix(".jsonl")
            for path in sorted(results.parent.glob(f"{glob.escape(prefix)}*.jsonl"))
        }
        share = [
            path
            for path, number in numbers.items()
            if number.isdecimal() and int(number) % process.world_size == process.rank
        ]
        journals = {path: _resume(path, header) for path in dict.fromkeys([journal, *share])}
        self.journal, self.paths = journals[journal], list(journals)
        self.entries = [entry for one in journals.values() for entry in one.entries.values()]

    def add(self, image_id: int, **values: Any) -> None:
        """Append the prediction of an image; the arguments are the entries of `to_json`."""
        self.journal.add((image_id,), image_id=image_id, **values)

    def remove(self) -> None:
        """Delete the journals, when the result file is written."""
        self.journal.close()
        for path in self.paths:
            path.unlink(missing_ok=True)


def _resume(path: Path, header: Mapping[str, Any]) -> Journal:
    """The journal at `path`; a new one replaces it if its header differs or it is damaged."""
    try:
        return Journal(path, header, sync=False)
    except WriteError:
        raise
    except ValueError as error:
        logger.info("%s: starting again", error)
        with reported(path):
            path.unlink()
        return Journal(path, header, sync=False)
