"""The training split as a PyTorch dataset of augmented crops."""

from __future__ import annotations

import copy
import logging
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np
from torch.utils.data import Dataset

from lib.dataset.cache import ImageCache
from lib.dataset.image_files import ImageFiles, ImageRecord, ReadError
from lib.dataset.reader import ignore_mask
from lib.dataset.samples import Sample
from lib.dataset.transforms import RandomAffine, Transform
from lib.keypoints import KeypointSpec

logger = logging.getLogger(__name__)

MIN_SIGMA = 0.5  # map pixels, of a scale-aware Gaussian: a box may have no extent


class SigmaRule(NamedTuple):
    """The width of a person's Gaussians (DATASET.* keys of the same names)."""

    sigma: float = 2.0
    scale_aware: bool = False
    base_sigma: float = 2.0
    base_size: float = 256.0
    int_sigma: bool = False

    def of(self, boxes: np.ndarray) -> np.ndarray:
        """(P, 4) boxes in the image -> (P,) map pixels."""
        if not self.scale_aware:
            return np.full(len(boxes), self.sigma, np.float32)
        sigmas = boxes[:, 2:].max(axis=1, initial=0) / self.base_size * self.base_sigma
        return np.round(sigmas + 0.5) if self.int_sigma else sigmas.clip(min=MIN_SIGMA)


@dataclass(frozen=True)
class SampleSettings:
    """Settings of samples, except those of augmentation."""

    sigma: SigmaRule = field(default_factory=SigmaRule)
    max_people: int = 30  # per image; of more, the largest are used
    with_center: bool = False  # one more joint, see `add_center`
    skip_unreadable: bool = False  # use the next image instead of raising ReadError
    seed: int = 0
    labelled: tuple[bool, ...] | None = None  # per joint: whether the data set labels it; None: all


class PoseDataset(Dataset):
    """Augmented crops of annotated images.

    The key of an item is (epoch, index): its random augmentation is a function of
    (seed, epoch, index) alone, whatever the number of workers and the order of reading.
    """

    def __init__(
        self,
        spec: KeypointSpec,
        records: Sequence[ImageRecord],
        files: ImageFiles,
        transforms: Sequence[Transform],
        settings: SampleSettings = SampleSettings(),  # noqa: B008 (frozen)
        cache: ImageCache | None = None,
    ) -> None:
        self.spec = spec.with_center() if settings.with_center else spec
        self.records = [keep_largest(record, settings.max_people) for record in records]
        self.files = files
        self.transforms = transforms
        self.settings = settings
        self.cache = cache
        flags = settings.labelled
        self.labelled = None if flags is None else np.array(flags)  # (K,)
        self.dropped_people = sum(
            len(before.joints) - len(after.joints)
            for before, after in zip(records, self.records, strict=True)
        )
        if self.dropped_people:
            logger.warning(
                "%d people are left out: their images have more than MAX_NUM_PEOPLE %d, "
                "of which the largest are kept",
                self.dropped_people,
                settings.max_people,
            )

    def at_size(self, size: int) -> PoseDataset:
        """The same images in crops of another size; masks are scaled accordingly."""
        resized = copy.copy(self)
        resized.transforms = [
            transform.at_size(size) if isinstance(transform, RandomAffine) else transform
            for transform in self.transforms
        ]
        return resized

    @property
    def labelled_names(self) -> list[str]:
        """The joints that the data set labels."""
        flags = self.settings.labelled or [True] * self.spec.num_joints
        return [name for name, flag in zip(self.spec.joints, flags, strict=True) if flag]

    def __len__(self) -> int:
        return len(self.records)

    def __getitem__(self, key: tuple[int, int]) -> Sample:
        record, image = self._read(key[1])
        return self.sample(record, image, key)

    def sample(self, record: ImageRecord, image: np.ndarray, key: tuple[int, int]) -> Sample:
        """The sample of (epoch, index) `key`; `image`: the whole image, or a shrunk copy of it."""
        epoch, index = key
        rng = np.random.default_rng((self.settings.seed, epoch, index))
        sample = Sample(
            image=image,
            joints=add_center(record.joints) if self.settings.with_center else record.joints,
            sigmas=self.settings.sigma.of(record.boxes).astype(np.float32),
            masks=[ignore_mask(record)],
            image_id=record.id,
            size=(record.width, record.height),
            labelled=self.labelled,
        )
        for transform in self.transforms:
            sample = transform(sample, rng)
        return sample._replace(masks=[mask > 127 for mask in sample.masks])

    def _read(self, index: int) -> tuple[ImageRecord, np.ndarray]:
        """The image of `index`; where unreadable ones are skipped, the next that can be read."""
        for step in range(len(self)):
            record = self.records[(index + step) % len(self)]
            try:
                if self.cache is not None:
                    return record, self.cache.read(record)
                return record, self.files.read(record)
            except ReadError as error:
                if not self.settings.skip_unreadable:
                    raise
                logger.warning("%s; the next image is used instead", error)
        raise ReadError(f"none of the {len(self)} images in {self.files.path} can be read")


def add_center(joints: np.ndarray) -> np.ndarray:
    """(P, K, 3) -> (P, K + 1, 3): the mean of the labelled joints as one more."""
    labelled = joints[..., 2:] > 0  # (P, K, 1); every person kept by the reader has some
    center = (joints[..., :2] * labelled).sum(1) / labelled.sum(1)  # (P, 2)
    center = np.concatenate([center, np.ones((len(joints), 1))], axis=1)[:, None]
    return np.concatenate([joints, center.astype(np.float32)], axis=1)


def keep_largest(record: ImageRecord, max_people: int) -> ImageRecord:
    """At most `max_people` people, those with the largest boxes, in their order."""
    if len(record.joints) <= max_people:
        return record
    areas = record.boxes[:, 2] * record.boxes[:, 3]
    largest = np.sort(np.argsort(-areas, kind="stable")[:max_people])
    return record._replace(joints=record.joints[largest], boxes=record.boxes[largest])
