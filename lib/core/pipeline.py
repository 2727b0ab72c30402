"""Finds people in every image of a set; reading, network and grouping overlap.

While the network computes the maps of one batch, loader processes read and warp the next ones and
a thread groups the people of the previous one.
"""

from __future__ import annotations

import copy
import logging
from collections import defaultdict, deque
from collections.abc import Hashable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any, NamedTuple, cast

import cv2
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset, get_worker_info
from tqdm import tqdm
from yacs.config import CfgNode

from lib.core.inference import InferenceSettings, Input, find_people, network_maps, prepare
from lib.core.results import Failure, Outcome, Prediction
from lib.dataset.build import EvaluationSet, available_cores, start_worker
from lib.dataset.image_files import ImageFiles, ImageRecord
from lib.utils.text import first_line

logger = logging.getLogger(__name__)

# What a single bad image may raise (ZeroDivisionError: an image of size 0).
IMAGE_ERRORS = (ValueError, RuntimeError, ZeroDivisionError, cv2.error)
WAITING = 1  # images beyond one batch that may wait for grouping


@dataclass(frozen=True)
class LoaderSettings:
    """How images are loaded; predictions do not depend on it, but for rounding."""

    batch_size: int = 1  # images of equal input size per forward pass
    workers: int = 0  # loader processes; 0: this process loads the images
    progress: bool = False  # show a progress bar, if the output is a terminal

    @classmethod
    def from_config(cls, cfg: CfgNode) -> LoaderSettings:
        return cls(cfg.TEST.IMAGES_PER_GPU, cfg.WORKERS, cfg.VERBOSE)


SEQUENTIAL = LoaderSettings()  # one image at a time, loaded by this process


class Loaded(NamedTuple):
    """An image as a loader process returns it."""

    record: ImageRecord
    input: Input


def each_outcome(
    settings: InferenceSettings,
    model: nn.Module,
    data: EvaluationSet,
    loading: LoaderSettings = SEQUENTIAL,
) -> Iterator[Outcome]:
    """One outcome per image, approximately in the order of the set.

    If the model has a method `set_records(records)`, it is called with the annotations of the next
    inputs (`lib.analysis.oracle`).
    The model's training mode is restored at the end.
    """
    training = model.training
    model.eval()
    disable = None if loading.progress else True  # None: a bar on a terminal only
    try:
        with tqdm(total=len(data.records), desc="evaluate", disable=disable, mininterval=1) as bar:
            for outcome in _outcomes(settings, model, data, loading):
                yield outcome
                bar.update()
    finally:
        model.train(training)


def _outcomes(
    settings: InferenceSettings, model: nn.Module, data: EvaluationSet, loading: LoaderSettings
) -> Iterator[Outcome]:
    waiting: deque[Future] = deque()
    limit = loading.batch_size + WAITING
    with ThreadPoolExecutor(max_workers=1) as grouping:
        for loaded in input_loader(settings, data, loading):
            yield from (one for one in loaded if isinstance(one, Failure))
            for batch in equal_inputs(loaded):
                for maps in batch_maps(settings, model, batch):
                    if isinstance(maps, Failure):
                        yield maps
                    else:
                        waiting.append(grouping.submit(group, settings, *maps))
            while len(waiting) > limit:
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()


def batch_maps(
    settings: InferenceSettings, model: nn.Module, batch: Sequence[Loaded]
) -> Iterator[tuple[Loaded, Tensor, Tensor] | Failure]:
    """Heatmaps (1, K, H, W) and tags (1, K, H, W, L) of each input of a batch.

    When the batch fails, its inputs are tried one by one.
    """
    set_records = getattr(model, "set_records", lambda _: None)
    try:
        set_records([one.record for one in batch])
        heatmaps, tags = network_maps(settings, model, [one.input for one in batch], project=False)
        parts = zip(batch, heatmaps.split(1), tags.split(1), strict=True)
    except IMAGE_ERRORS as error:
        parts = [failure_of(batch[0].record, error)]
        if len(batch) > 1:
            parts = (part for one in batch for part in batch_maps(settings, model, [one]))
    yield from parts  # out of `except`: the traceback of the error holds tensors


def group(settings: InferenceSettings, one: Loaded, heatmaps: Tensor, tags: Tensor) -> Outcome:
    """The people of one image, from its maps."""
    try:
        people, scores, _ = find_people(settings, heatmaps, tags, one.input)
    except IMAGE_ERRORS as error:
        return failure_of(one.record, error)
    return Prediction(one.record.id, people, scores)


def failure_of(record: ImageRecord, error: Exception) -> Failure:
    """The failure of an image: its id and the first line of `error`."""
    logger.debug("image %s", record.id, exc_info=error)  # the traceback goes to the log file
    name = f"image {record.id}: "
    return Failure(record.id, name + first_line(error).removeprefix(name))


@dataclass(eq=False)
class Inputs(Dataset):
    """The inputs of a set of images; indexing it reads and warps an image."""

    settings: InferenceSettings
    records: Sequence[ImageRecord]
    files: ImageFiles

    def __len__(self) -> int:
        return len(self.records)

    def __getitem__(self, index: int) -> Loaded | Failure:
        record = self.records[index]
        try:
            return Loaded(record, prepare(self.settings, self.files.read(record)))
        except IMAGE_ERRORS as error:
            return failure_of(record, error)


def input_loader(
    settings: InferenceSettings, data: EvaluationSet, loading: LoaderSettings
) -> DataLoader:
    """Yields lists of `batch_size` images, each Loaded or a Failure."""
    batches = expected_batches(settings, data.records, loading.batch_size)
    return DataLoader(
        Inputs(settings, data.records, data.files),
        batch_sampler=batches,
        num_workers=min(loading.workers, available_cores(), len(batches)),
        collate_fn=list,
        worker_init_fn=_start_worker,
        generator=torch.Generator(),  # unused; without it the global generator would advance
    )


def expected_batches(
    settings: InferenceSettings, records: Sequence[ImageRecord], count: int
) -> list[list[int]]:
    """Lists of `count` indices of images whose inputs should have the same size."""
    if count == 1:
        return [[index] for index in range(len(records))]
    batches, open_batches = [], defaultdict(list)
    for index, record in enumerate(records):
        size = expected_size(settings, record)
        open_batches[size].append(index)
        if len(open_batches[size]) == count:
            batches.append(open_batches.pop(size))
    return batches + list(open_batches.values())


def expected_size(settings: InferenceSettings, record: ImageRecord) -> tuple[int, int] | None:
    """(width, height) of the input according to the annotated size; None if that is malformed."""
    try:
        return settings.geometry(record.width, record.height)[0]
    except (TypeError, *IMAGE_ERRORS):
        return None


def equal_inputs(loaded: Sequence[Loaded | Failure]) -> list[list[Loaded]]:
    """The loaded images in groups of equal input sizes: annotated sizes may be wrong."""
    groups: dict[Hashable, list[Loaded]] = defaultdict(list)
    for one in loaded:
        if isinstance(one, Loaded):
            shapes = tuple(image.shape for image in one.input.images)
            groups[one.input.base_size, shapes].append(one)
    return list(groups.values())


def _start_worker(number: int) -> None:
    """Set up a loader process; it opens image archives itself instead of sharing a handle."""
    start_worker(number)
    inputs = cast(Any, get_worker_info()).dataset
    inputs.files = copy.copy(inputs.files)
