"""The people in each picture of a set, by one process that waits for nothing it could do meanwhile.

While the network computes the maps of one batch, loader processes read and warp the next ones and
a thread groups the people of the last one.
"""

from __future__ import annotations

import copy
import logging
from collections import defaultdict, deque
from collections.abc import Hashable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import NamedTuple

import cv2
import numpy as np
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset, get_worker_info
from yacs.config import CfgNode

from lib.core.inference import Input, find_people, network_maps, prepare
from lib.dataset.build import EvaluationSet, available_cores, start_worker
from lib.dataset.reader import ImageFiles, ImageRecord
from lib.utils.transforms import get_multi_scale_size

logger = logging.getLogger(__name__)

# What may be wrong with one picture; a size of 0 divides by it.
IMAGE_ERRORS = (ValueError, RuntimeError, ZeroDivisionError, cv2.error)
WAITING = 1  # pictures beyond one batch whose people are not found yet


class Prediction(NamedTuple):
    """What was found in one picture."""

    image_id: int
    people: np.ndarray  # (N, K, 3 or more): x, y, score in pixels of the picture
    scores: Sequence[float]  # N


class Failure(NamedTuple):
    """A picture without a prediction."""

    image_id: int
    problem: str  # one line that names the picture


class Loaded(NamedTuple):
    """A picture that comes from a loader process."""

    index: int  # in the set
    given: Input | Failure


def each_outcome(
    cfg: CfgNode, model: nn.Module, data: EvaluationSet
) -> Iterator[Prediction | Failure]:
    """One outcome for each picture, in about the order of the set.

    A model that has a method `look_at(*pictures)` is told what its next inputs show. The model is
    left in the mode it came in.
    """
    training = model.training
    model.eval()
    waiting: deque[Future] = deque()
    limit = cfg.TEST.IMAGES_PER_GPU + WAITING
    try:
        with ThreadPoolExecutor(max_workers=1) as grouping:
            for loaded in input_loader(cfg, data):
                yield from (one.given for one in loaded if isinstance(one.given, Failure))
                for batch in equal_inputs(loaded):
                    for outcome in batch_maps(cfg, model, data.records, batch):
                        if isinstance(outcome, Failure):
                            yield outcome
                            continue
                        waiting.append(grouping.submit(group, cfg, data.records, *outcome))
                while len(waiting) > limit:
                    yield waiting.popleft().result()
            while waiting:
                yield waiting.popleft().result()
    finally:
        model.train(training)


def batch_maps(
    cfg: CfgNode, model: nn.Module, pictures: Sequence[ImageRecord], batch: Sequence[Loaded]
) -> Iterator[tuple[Loaded, Tensor, Tensor] | Failure]:
    """Heatmaps (1, K, H, W) and tags (1, K, H, W, L) of each input of a batch.

    Where the batch cannot be computed, its inputs are tried one by one.
    """
    look_at = getattr(model, "look_at", None)
    try:
        if look_at is not None:
            look_at(*(pictures[one.index] for one in batch))
        heatmaps, tags = network_maps(cfg, model, [one.given for one in batch])
    except IMAGE_ERRORS as error:
        failure = failure_of(pictures[batch[0].index], error)
    else:
        for i, one in enumerate(batch):
            yield one, heatmaps[i : i + 1], tags[i : i + 1]
        return
    if len(batch) == 1:
        yield failure
        return
    for one in batch:
        yield from batch_maps(cfg, model, pictures, [one])


def group(
    cfg: CfgNode, pictures: Sequence[ImageRecord], one: Loaded, heatmaps: Tensor, tags: Tensor
) -> Prediction | Failure:
    """The people of one picture, from its maps."""
    picture = pictures[one.index]
    try:
        people, scores = find_people(cfg, heatmaps, tags, one.given)
        if not (np.isfinite(people[..., :3]).all() and np.isfinite(scores).all()):
            raise ValueError("the network's maps are not finite")
    except IMAGE_ERRORS as error:
        return failure_of(picture, error)
    return Prediction(picture.id, people, scores)


def failure_of(picture: ImageRecord, error: Exception) -> Failure:
    """The first line of `error`, with the picture's id."""
    logger.debug("image %s", picture.id, exc_info=error)  # the log file keeps the whole story
    name = f"image {picture.id}: "
    lines = str(error).strip().splitlines() or [type(error).__name__]
    return Failure(picture.id, name + lines[0].removeprefix(name))


class Inputs(Dataset):
    """The inputs of a set's pictures, read and warped by the process that asks for them."""

    def __init__(self, cfg: CfgNode, pictures: Sequence[ImageRecord], files: ImageFiles) -> None:
        self.cfg = cfg
        self.records = pictures
        self.files = files

    def __len__(self) -> int:
        return len(self.records)

    def __getitem__(self, index: int) -> Loaded:
        picture = self.records[index]
        try:
            return Loaded(index, prepare(self.cfg, self.files.read(picture)))
        except IMAGE_ERRORS as error:
            return Loaded(index, failure_of(picture, error))


def input_loader(cfg: CfgNode, data: EvaluationSet) -> DataLoader:
    """Lists of TEST.IMAGES_PER_GPU `Loaded`; loader processes as in training."""
    batches = expected_batches(cfg, data.records)
    return DataLoader(
        Inputs(cfg, data.records, data.files),
        batch_sampler=batches,
        num_workers=min(cfg.WORKERS, available_cores(), len(batches)),
        collate_fn=list,
        worker_init_fn=_start_worker,
        generator=torch.Generator(),  # whose numbers nobody uses; the global ones stay as they are
    )


def expected_batches(cfg: CfgNode, pictures: Sequence[ImageRecord]) -> list[list[int]]:
    """Indices, TEST.IMAGES_PER_GPU at a time, of pictures whose inputs should be equally large."""
    count = cfg.TEST.IMAGES_PER_GPU
    if count == 1:
        return [[index] for index in range(len(pictures))]
    batches, begun = [], defaultdict(list)
    for index, picture in enumerate(pictures):
        size = expected_size(cfg, picture)
        begun[size].append(index)
        if len(begun[size]) == count:
            batches.append(begun.pop(size))
    return batches + list(begun.values())


def expected_size(cfg: CfgNode, picture: ImageRecord) -> tuple[int, int] | None:
    """Width and height of the input that the annotated size promises; None: it is no size."""
    smallest, kind = min(cfg.TEST.SCALE_FACTOR), cfg.TEST.SCALE_TYPE
    try:
        canvas = np.empty((picture.height, picture.width, 0))
        return get_multi_scale_size(canvas, cfg.DATASET.INPUT_SIZE, 1.0, smallest, kind)[0]
    except (TypeError, *IMAGE_ERRORS):
        return None


def equal_inputs(loaded: Sequence[Loaded]) -> list[list[Loaded]]:
    """Those without failures, together where all their pictures really have the same sizes."""
    groups: dict[Hashable, list[Loaded]] = defaultdict(list)
    for one in loaded:
        if isinstance(one.given, Input):
            shapes = tuple(picture.shape for picture in one.given.images)
            groups[one.given.base_size, shapes].append(one)
    return list(groups.values())


def _start_worker(number: int) -> None:
    """Workers share the machine with the process that computes, and no open archive with it."""
    start_worker(number)
    inputs = get_worker_info().dataset
    inputs.files = copy.copy(inputs.files)
