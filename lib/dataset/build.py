"""From the config to loaders."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import cv2
import torch
from torch.utils.data import DataLoader, Sampler
from yacs.config import CfgNode

from lib.dataset.cache import ImageCache, cache_path
from lib.dataset.pose_dataset import PoseDataset, SampleSettings, SigmaRule
from lib.dataset.reader import (
    ImageFiles,
    ImageRecord,
    category_in,
    ground_truth_of,
    layout_of,
    read_annotations,
    records_of,
    select_records,
)
from lib.dataset.samples import collate
from lib.dataset.transforms import build_transforms
from lib.keypoints import KeypointSpec, keypoints_of


class EpochSampler(Sampler):
    """The (epoch, index) keys of one process for one epoch: a function of (seed, epoch, rank).

    Every process gets equally many; where they do not divide, some pictures are seen twice.
    """

    def __init__(
        self, length: int, shuffle: bool = True, seed: int = 0, rank: int = 0, world_size: int = 1
    ) -> None:
        self.length = length
        self.shuffle = shuffle
        self.seed = seed
        self.rank = rank
        self.world_size = world_size
        self.epoch = 0
        self.skipped = 0

    def set_epoch(self, epoch: int, skip: int = 0) -> None:
        """Call before each epoch; the next iterations are of this one, less its first `skip` keys.

        What is skipped is not read.
        """
        self.epoch = epoch
        self.skipped = skip

    def __len__(self) -> int:
        return -(-self.length // self.world_size)

    def __iter__(self) -> Iterator[tuple[int, int]]:
        order = torch.arange(self.length)
        if self.shuffle:
            generator = torch.Generator().manual_seed(self.seed * 1_000_003 + self.epoch)
            order = torch.randperm(self.length, generator=generator)
        even = order[torch.arange(len(self) * self.world_size) % self.length]
        for index in even[self.rank :: self.world_size][self.skipped :].tolist():
            yield self.epoch, index


def build_dataset(cfg: CfgNode) -> PoseDataset:
    """The training split of `cfg`; pictures without any annotation are left out."""
    pictures = annotated_records(cfg)
    return _pose_dataset(cfg, pictures[: cfg.DATASET.MAX_IMAGES or None])


def build_search_sets(cfg: CfgNode, count: int) -> tuple[PoseDataset, EvaluationSet]:
    """The training split without its last `count` annotated pictures, and these to evaluate on.

    Architectures are compared on the latter, which a supernet should not have been trained on:
    train it with DATASET.MAX_IMAGES at most the number of the others. MAX_IMAGES counts only there.
    """
    tree, pictures = _read_training_split(cfg)
    if not 0 < count < len(pictures):
        raise ValueError(
            f"{count} pictures to search on; {cfg.DATASET.TRAIN} has {len(pictures)} annotated "
            f"ones, so 1 to {len(pictures) - 1} are possible"
        )
    training = _pose_dataset(cfg, pictures[:-count])
    spec, path = keypoints_of(cfg, is_train=False), layout_of(cfg, is_train=True).annotations
    held_out = EvaluationSet(
        spec=spec,
        split=cfg.DATASET.TRAIN,
        annotations=path,
        records=pictures[-count:],
        files=training.files,
        ground_truth=ground_truth_of(tree, pictures[-count:]),
    )
    if not held_out.has_people:
        raise ValueError(f"nobody is labelled in the last {count} pictures of {path}")
    return training, held_out


def annotated_records(cfg: CfgNode) -> list[ImageRecord]:
    """Those of the training split that a network can learn from, whatever MAX_IMAGES says."""
    return _read_training_split(cfg)[1]


def _read_training_split(cfg: CfgNode) -> tuple[dict[str, Any], list[ImageRecord]]:
    """The annotation tree of the training split, and `annotated_records` of it."""
    path, spec = layout_of(cfg, is_train=True).annotations, keypoints_of(cfg, is_train=True)
    tree = read_annotations(path, spec)
    annotated = [
        record for record in records_of(tree, spec, path) if len(record.joints) or record.ignore
    ]
    records = select_records(annotated, cfg.DATASET.MIN_LABELLED_JOINTS)
    if not records:
        raise ValueError(f"{path} has no annotated picture to train on")
    return tree, records


def _pose_dataset(cfg: CfgNode, records: Sequence[ImageRecord]) -> PoseDataset:
    data, spec = cfg.DATASET, keypoints_of(cfg, is_train=True)
    sigma = SigmaRule(
        sigma=data.SIGMA,
        scale_aware=data.SCALE_AWARE_SIGMA,
        base_sigma=data.BASE_SIGMA,
        base_size=data.BASE_SIZE,
        int_sigma=data.INT_SIGMA,
    )
    return PoseDataset(
        spec=spec,
        records=records,
        files=ImageFiles(layout_of(cfg, is_train=True).images),
        transforms=build_transforms(cfg, spec.with_center() if data.WITH_CENTER else spec),
        settings=SampleSettings(
            sigma=sigma,
            max_people=data.MAX_NUM_PEOPLE,
            with_center=data.WITH_CENTER,
            skip_unreadable=data.UNREADABLE == "skip",
            seed=cfg.SEED,
        ),
        cache=ImageCache.open(cache_path(cfg)) if data.CACHE else None,
    )


def make_dataloader(
    cfg: CfgNode, dataset: PoseDataset, rank: int = 0, world_size: int = 1
) -> DataLoader:
    """Batches of IMAGES_PER_GPU for one process; `loader.sampler.set_epoch` before each epoch."""
    workers = min(cfg.WORKERS, available_cores())
    return DataLoader(
        dataset,
        batch_size=cfg.TRAIN.IMAGES_PER_GPU,
        sampler=EpochSampler(len(dataset), cfg.TRAIN.SHUFFLE, cfg.SEED, rank, world_size),
        num_workers=workers,
        collate_fn=collate,
        pin_memory=cfg.PIN_MEMORY and torch.cuda.is_available(),
        persistent_workers=workers > 0,
        worker_init_fn=start_worker,
        generator=torch.Generator(),  # whose numbers nobody uses; the global ones stay as they are
    )


class EvaluationSet(NamedTuple):
    """A test split: the images to run on and the ground truth to score with."""

    spec: KeypointSpec
    split: str
    annotations: Path
    records: list[ImageRecord]
    files: ImageFiles
    ground_truth: Mapping[str, Any]  # annotation tree of `records`, without outlines; parsed once.
    # Evaluators write into annotations: give them copies.

    @property
    def category_id(self) -> int:
        """Of people, in annotations and results."""
        return category_in(self.ground_truth, self.spec)

    @property
    def has_people(self) -> bool:
        """False for COCO test-dev, whose truth is kept by a server."""
        return any(len(picture.joints) for picture in self.records)


def build_evaluation_set(cfg: CfgNode) -> EvaluationSet:
    """The test split of `cfg`, pictures without people included."""
    data = cfg.DATASET
    spec = keypoints_of(cfg, is_train=False)
    layout = layout_of(cfg, is_train=False)
    tree = read_annotations(layout.annotations, spec)
    everything = records_of(tree, spec, layout.annotations)
    pictures = select_records(everything, data.MIN_LABELLED_JOINTS, data.MAX_IMAGES)
    if not pictures:
        raise ValueError(f"{layout.annotations} has no picture to evaluate on")
    found = EvaluationSet(
        spec=spec,
        split=data.TEST,
        annotations=layout.annotations,
        records=pictures,
        files=ImageFiles(layout.images),
        ground_truth=ground_truth_of(tree, pictures),
    )
    if spec.is_custom and not found.has_people:
        raise ValueError(f"nobody is labelled in {layout.annotations}")
    return found


def available_cores() -> int:
    """Cores that this process may use, where the system tells; else all."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def start_worker(_: int) -> None:
    """Workers share the machine with the training process, but not what it is told.

    A signal to the whole process group, as Ctrl-C and torchrun's end, is the training process's
    to answer; a worker that died of it would cost the step that is to be finished.
    """
    cv2.setNumThreads(0)
    if hasattr(os, "setpgrp"):
        os.setpgrp()
