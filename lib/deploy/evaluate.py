"""Finds people in every image of a set with an exported network."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Sequence
from typing import Any

from tqdm import tqdm

from lib.core.pipeline import IMAGE_ERRORS, failure_of
from lib.core.results import Failure, Outcome, Prediction
from lib.dataset.build import EvaluationSet
from lib.dataset.image_files import ImageRecord
from lib.deploy.exported import CandidateNetwork, MapNetwork
from lib.utils.ahead import ahead, spread

Exported = CandidateNetwork | MapNetwork
Step = tuple[ImageRecord, Any]  # and the result of the last step, or the Failure of an earlier one


def each_exported_outcome(
    network: Exported,
    data: EvaluationSet,
    scored: Sequence[int] | None = None,
    progress: bool = False,
) -> Iterator[Outcome]:
    """One outcome per image, in the order of the set; reading, network and grouping overlap.

    scored: joints of the network that people consist of, in order; None: all.
    progress: show a progress bar, if the output is a terminal.
    """

    def read(record: ImageRecord) -> Any:
        return network.prepare(data.files.read(record))

    def group(record: ImageRecord, maps: Any) -> Outcome:
        people, scores, _ = network.group(maps)
        return Prediction(record.id, people if scored is None else people[:, scored], scores)

    def compute(step: Step) -> Step:
        record, prepared = step
        return record, attempt(record, network.compute, prepared)

    inputs = ((record, attempt(record, read, record)) for record in data.records)
    items = ahead(spread(compute, ahead(inputs), network.callers))
    disable = None if progress else True  # None: a bar on a terminal only
    with contextlib.closing(items):
        for record, maps in tqdm(
            items, "evaluate", len(data.records), disable=disable, mininterval=1
        ):
            yield attempt(record, lambda maps, record=record: group(record, maps), maps)


def attempt(record: ImageRecord, step: Callable[[Any], Any], value: Any) -> Any:
    """`step(value)`, or the Failure of the image; a Failure stays one."""
    if isinstance(value, Failure):
        return value
    try:
        return step(value)
    except IMAGE_ERRORS as error:
        return failure_of(record, error)
