"""The steps of the demo: read, network, group, draw; each in a thread."""

from __future__ import annotations

import contextlib
import logging
import time
from collections.abc import Callable, Generator, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np

from lib.core.pipeline import IMAGE_ERRORS
from lib.keypoints import KeypointSpec
from lib.predictor import Predictor
from lib.utils.ahead import ahead, spread
from lib.utils.tables import markdown
from lib.utils.text import first_line
from lib.utils.vis import draw_people
from tools.demo.media import Frame, Source
from tools.demo.output import Detections
from tools.demo.reading import read_source
from tools.demo.track import Tracker

logger = logging.getLogger(__name__)

MIN_JOINT = 0.1  # joints with a lower score are not drawn
LIMIT = "a joint was found DATASET.MAX_NUM_PEOPLE times"
PARTS = ("read", "network", "group", "draw", "write")


@dataclass
class Mean:
    """The mean time of a part, in a memory that does not grow.

    The first image, which allocates memory and loads code, counts only if it is alone.
    """

    first: float = 0.0
    rest: float = 0.0  # seconds of all others
    count: int = 0

    def add(self, seconds: float) -> None:
        if self.count == 0:
            self.first = seconds
        else:
            self.rest += seconds
        self.count += 1

    @property
    def seconds(self) -> float:
        return self.rest / (self.count - 1) if self.count > 1 else self.first


Times = dict[str, Mean]  # of each part


class Item(NamedTuple):
    """A frame, and the result of the last step: an input, maps, Detections, a Drawing."""

    frame: Frame
    result: Any = None


class Problem(NamedTuple):
    """Takes the place of an image or a video that could not be read."""

    message: str


class Drawing(NamedTuple):
    people: Detections
    image: np.ndarray  # (H, W, 3) uint8 RGB


def drawings(
    predictor: Predictor, sources: Sequence[Source], times: Times, track: bool, min_score: float
) -> Generator[Item | Problem]:
    """An Item with a Drawing for each frame, in order; every step runs in a thread."""
    steps: dict[str, Callable[[Item], Any]] = {
        "network": lambda item: predictor.compute(item.result),
        "group": grouping(predictor, track, min_score),
        "draw": lambda item: draw(predictor.keypoints, item),
    }
    items = ahead(read(predictor, sources, times["read"]))
    for part, step in steps.items():
        callers = predictor.callers if part == "network" else 1
        items = ahead(run_step(step, items, times[part], callers))
    return items


def read(predictor: Predictor, sources: Sequence[Source], times: Mean) -> Generator[Item | Problem]:
    """The frames of all sources as inputs of the network."""
    for source in sources:
        frames = read_source(source)
        while True:
            begin = time.perf_counter()
            try:
                frame = next(frames, None)
            except ValueError as error:
                yield Problem(str(error))
                break
            if frame is None:
                break
            item = attempt(lambda item: predictor.prepare(item.frame.image), Item(frame))
            times.add(time.perf_counter() - begin)
            yield item


def run_step(
    step: Callable[[Item], Any], items: Generator[Item | Problem], times: Mean, callers: int = 1
) -> Generator[Item | Problem]:
    """`attempt` on all items by so many threads; the time of each item is added to `times`."""

    def timed(item: Item | Problem) -> tuple[Item | Problem, float]:
        begin = time.perf_counter()
        result = attempt(step, item)
        return result, time.perf_counter() - begin

    with contextlib.closing(spread(timed, items, callers)) as results:
        for result, seconds in results:
            times.add(seconds)
            yield result


def grouping(predictor: Predictor, track: bool, min_score: float) -> Callable[[Item], Detections]:
    """A function from an item's maps to Detections; it holds the tracker of the current video.

    It warns once of an image in which there may be more people than the settings allow.
    """
    tracker, is_warned = Tracker(predictor.keypoints), False

    def group(item: Item) -> Detections:
        nonlocal tracker, is_warned
        keypoints, scores, _, is_full = predictor.group(item.result, min_score)
        if is_full and not is_warned:
            name = item.frame.source.name
            logger.warning("%s: %d people; there may be more: %s", name, len(scores), LIMIT)
            is_warned = True
        order = np.argsort(-scores, kind="stable")
        keypoints, scores = keypoints[order], scores[order].tolist()
        if not (track and item.frame.source.is_video):
            return Detections(keypoints, scores, ids=None)
        if item.frame.number == 1:
            tracker = Tracker(predictor.keypoints)
        keypoints, ids = tracker.update(keypoints, item.frame.seconds)
        return Detections(keypoints, scores, ids)

    return group


def draw(spec: KeypointSpec, item: Item) -> Drawing:
    """The frame with skeletons, colored by id or else by rank."""
    keypoints, scores, ids = item.result
    labels = [f"{score:.2f}" for score in scores]
    colors = list(range(len(scores)))
    if ids is not None:
        labels = [f"{number}  {label}" for number, label in zip(ids, labels, strict=True)]
        colors = [number - 1 for number in ids]
    image = draw_people(item.frame.image, keypoints, spec, MIN_JOINT, labels, colors)
    return Drawing(item.result, image)


def attempt(step: Callable[[Item], Any], item: Item | Problem) -> Item | Problem:
    """`item` with the result of `step`. An error skips an image; in a video it is raised."""
    if isinstance(item, Problem):
        return item
    try:
        return item._replace(result=step(item))
    except IMAGE_ERRORS as error:
        source = item.frame.source
        place = f"{source.name}, frame {item.frame.number}" if source.is_video else source.name
        message = f"{place}: {first_line(error)}"
        if source.is_video:
            raise ValueError(message) from error
        return Problem(message)


def time_table(times: Times, whole: float) -> str:
    """Markdown: the mean time of each part and, as parts overlap, the `whole` seconds per image."""
    means = [*(times[part].seconds for part in PARTS), whole]
    milliseconds = ["ms per image", *(f"{1000 * mean:.1f}" for mean in means)]
    rates = ["images/s", *(f"{1 / mean:.1f}" for mean in means)]
    return markdown(["part", *PARTS, "all, overlapping"], [milliseconds, rates])
