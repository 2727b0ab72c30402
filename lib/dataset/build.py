"""Data sets and loaders of a config."""

from __future__ import annotations

import logging
import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import cv2
import torch
from torch.utils.data import DataLoader, Sampler
from yacs.config import CfgNode

from lib.dataset.annotations import with_joints_of
from lib.dataset.cache import ImageCache, cache_path
from lib.dataset.complete import is_hidden, why_nobody_is_judged
from lib.dataset.image_files import ImageFiles, ImageRecord
from lib.dataset.mixed import MixedDataset, Part, TrainingSet
from lib.dataset.pose_dataset import PoseDataset, SampleSettings, SigmaRule
from lib.dataset.progressive import Growing
from lib.dataset.reader import (
    Layout,
    ground_truth_of,
    layout_in,
    layout_of,
    read_annotations,
    records_of,
    select_records,
)
from lib.dataset.samples import collate
from lib.dataset.transforms import build_transforms
from lib.keypoints import KeypointSpec, keypoints_of
from lib.utils.mix import MixEntry, mix_of

logger = logging.getLogger(__name__)


@dataclass
class EpochSampler(Sampler):
    """The (epoch, index) keys of one process for one epoch: a function of (seed, epoch, rank).

    Every process gets the same number of keys; where the images do not divide evenly, some are
    read twice.
    """

    length: int
    shuffle: bool = True
    seed: int = 0
    rank: int = 0
    world_size: int = 1
    epoch: int = 0
    skipped: int = 0

    def set_epoch(self, epoch: int, skip: int = 0) -> None:
        """Call before each epoch; its first `skip` keys are left out, and not read."""
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
    """The training split of `cfg`, without images that have no annotation (WITH_BACKGROUND)."""
    return _pose_dataset(cfg, annotated_records(cfg)[: cfg.DATASET.MAX_IMAGES or None])


def build_training_set(cfg: CfgNode) -> TrainingSet:
    """The data sets of DATASET.MIX as one; without a mix, `build_dataset`."""
    entries = mix_of(cfg)
    if not entries:
        return build_dataset(cfg)
    mixed = MixedDataset([_part(cfg, entry) for entry in entries])
    for entry, part in zip(entries, mixed.parts, strict=True):
        logger.info(
            f"{entry.place}: {part.name}: {len(part.dataset)} images x {part.weight:g} = "
            f"{part.samples} samples an epoch, of {len(part.dataset.labelled_names)} of "
            f"{part.dataset.spec.num_joints} joints"
        )
    return mixed


def _part(cfg: CfgNode, entry: MixEntry) -> Part:
    """One data set of a mix, with the joints of DATASET.DATASET."""
    layout = layout_in(cfg, f"{entry.place}: ROOT", entry.root, entry.spec, entry.split)
    target = keypoints_of(cfg, is_train=True)
    tree, labelled = read_annotations(layout.annotations, entry.spec), None
    if entry.spec.joints != target.joints:
        tree = with_joints_of(tree, entry.spec, target)
        labelled = tuple(name in entry.spec.joints for name in target.joints)
        labelled = None if all(labelled) else labelled
    records = _training_records(cfg, tree, layout.annotations)[: cfg.DATASET.MAX_IMAGES or None]
    dataset = _pose_dataset(cfg, records, layout, labelled)
    return Part(f"{entry.root}, {entry.split} ({entry.spec.name})", dataset, entry.weight)


def build_search_sets(cfg: CfgNode, count: int) -> tuple[PoseDataset, EvaluationSet]:
    """The training split without its last `count` annotated images, and these to evaluate on.

    The search compares architectures on the latter; the supernet should not have been trained on
    them: train it with DATASET.MAX_IMAGES at most the number of the others. Here MAX_IMAGES has no
    effect.
    """
    tree, records = _read_training_split(cfg)
    if not 0 < count < len(records):
        raise ValueError(
            f"{count} images to search on; {cfg.DATASET.TRAIN} has {len(records)} annotated "
            f"ones, so 1 to {len(records) - 1} are possible"
        )
    training = _pose_dataset(cfg, records[:-count])
    spec, path = keypoints_of(cfg, is_train=False), layout_of(cfg, is_train=True).annotations
    held_out = EvaluationSet(
        spec=spec,
        split=cfg.DATASET.TRAIN,
        annotations=path,
        records=records[-count:],
        files=training.files,
        ground_truth=ground_truth_of(tree, records[-count:]),
    )
    require_judged(held_out)
    return training, held_out


def annotated_records(cfg: CfgNode) -> list[ImageRecord]:
    """The images of the training split with annotations to learn from, regardless of MAX_IMAGES."""
    return _read_training_split(cfg)[1]


def _read_training_split(cfg: CfgNode) -> tuple[dict[str, Any], list[ImageRecord]]:
    """The annotation tree of the training split, and `annotated_records` of it."""
    path = layout_of(cfg, is_train=True).annotations
    tree = read_annotations(path, keypoints_of(cfg, is_train=True))
    return tree, _training_records(cfg, tree, path)


def _training_records(cfg: CfgNode, tree: Mapping[str, Any], path: Path) -> list[ImageRecord]:
    """The images to learn from; the tree has the joints of DATASET.DATASET, errors name `path`."""
    every = records_of(tree, keypoints_of(cfg, is_train=True), path)
    records = [record for record in every if len(record.joints) or record.ignore]
    if background := len(every) - len(records):
        kept = cfg.DATASET.WITH_BACKGROUND
        what = "trained on" if kept else "left out (DATASET.WITH_BACKGROUND True keeps them)"
        logger.info("%s: %d images without annotations are %s", path, background, what)
        records = every if kept else records
    records = select_records(records, cfg.DATASET.MIN_LABELLED_JOINTS)
    if not records:
        raise ValueError(f"{path} has no annotated image to train on")
    if not any(len(record.joints) for record in records):
        raise ValueError(f"{path}: nobody is labelled in the {len(records)} images to train on")
    return records


def _pose_dataset(
    cfg: CfgNode,
    records: Sequence[ImageRecord],
    layout: Layout | None = None,
    labelled: tuple[bool, ...] | None = None,
) -> PoseDataset:
    """The samples of `records`, whose images are those of `layout`; None: of DATASET.ROOT."""
    layout = layout or layout_of(cfg, is_train=True)
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
        files=ImageFiles(layout.images),
        transforms=build_transforms(cfg, spec.with_center() if data.WITH_CENTER else spec),
        settings=SampleSettings(
            sigma=sigma,
            max_people=data.MAX_NUM_PEOPLE,
            with_center=data.WITH_CENTER,
            skip_unreadable=data.UNREADABLE == "skip",
            seed=cfg.SEED,
            labelled=labelled,
        ),
        cache=ImageCache.open(cache_path(cfg)) if data.CACHE else None,
    )


def make_dataloader(
    cfg: CfgNode, dataset: TrainingSet | Growing, rank: int = 0, world_size: int = 1
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
        generator=torch.Generator(),  # unused, but keeps the loader from the global generator
    )


class EvaluationSet(NamedTuple):
    """A test split: the images to run on and the ground truth to score with."""

    spec: KeypointSpec
    split: str
    annotations: Path
    records: list[ImageRecord]
    files: ImageFiles
    # The annotation tree of `records` without outlines, parsed once. Evaluators write into
    # annotations: give them copies.
    ground_truth: Mapping[str, Any]

    @property
    def category_id(self) -> int:
        """Of people, in annotations and results."""
        return self.ground_truth["categories"][0]["id"]

    @property
    def has_people(self) -> bool:
        """False for COCO test-dev, whose ground truth is not public."""
        return any(len(record.joints) for record in self.records)


def build_evaluation_set(cfg: CfgNode) -> EvaluationSet:
    """The test split of `cfg`, images without people included."""
    data = cfg.DATASET
    spec = keypoints_of(cfg, is_train=False)
    layout = layout_of(cfg, is_train=False)
    tree = read_annotations(layout.annotations, spec)
    every = records_of(tree, spec, layout.annotations)
    records = select_records(every, data.MIN_LABELLED_JOINTS, data.MAX_IMAGES)
    if not records:
        raise ValueError(f"{layout.annotations} has no image to evaluate on")
    result = EvaluationSet(
        spec=spec,
        split=data.TEST,
        annotations=layout.annotations,
        records=records,
        files=ImageFiles(layout.images),
        ground_truth=ground_truth_of(tree, records),
    )
    if result.has_people or not is_hidden(layout.annotations):
        require_judged(result)
    return result


def require_judged(data: EvaluationSet) -> None:
    """ValueError if no annotation of `data` counts in AP: a table would say -1 in every column."""
    if reason := why_nobody_is_judged(data.ground_truth["annotations"], data.spec):
        images = f"the {len(data.records)} images of {data.split}"
        raise ValueError(f"{data.annotations}: {reason} in {images}")


def available_cores() -> int:
    """Cores that this process may use, where the system knows; else all."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def start_worker(_: int) -> None:
    """One thread for OpenCV, and a separate process group.

    Ctrl-C and torchrun signal the whole process group; the training process then finishes its
    step, for which it still needs its workers.
    """
    cv2.setNumThreads(0)
    if hasattr(os, "setpgrp"):
        os.setpgrp()
