"""Training samples: a crop, its joints and masks. Small enough to cross a process boundary."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset

from lib.codec import REFERENCE, Codec
from lib.dataset.cache import ImageCache
from lib.dataset.reader import ImageFiles, ImageRecord, ReadError, ignore_mask
from lib.dataset.transforms import Affine, AffineRange
from lib.keypoints import KeypointSpec

logger = logging.getLogger(__name__)


class Sample(NamedTuple):
    """One augmented picture."""

    image: np.ndarray  # (H, W, 3) uint8 RGB
    joints: np.ndarray  # (P, K, 3) float32, pixels of the crop
    sigmas: np.ndarray  # (P,) float32, pixels of a map; below 0: map size / 64
    flipped: bool
    masks: list[np.ndarray]  # S of (h, w) bool
    image_id: int


class Batch(NamedTuple):
    """Samples stacked; P is the largest number of people among them, absent people are zeros."""

    images: Tensor  # (B, H, W, 3) uint8
    joints: Tensor  # (B, P, K, 3) float32
    sigmas: Tensor  # (B, P) float32
    flipped: Tensor  # (B,) bool
    masks: list[Tensor]  # S of (B, h, w) bool
    image_ids: Tensor  # (B,) int64
    largest_sigma: float  # none of `sigmas` is above it

    def to(self, device: torch.device) -> Batch:
        """The same batch on `device`."""
        return self.each(lambda tensor: tensor.to(device, non_blocking=True))

    def pin_memory(self) -> Batch:
        """Called by the loader when PIN_MEMORY is set."""
        return self.each(Tensor.pin_memory)

    def each(self, change: Callable[[Tensor], Tensor]) -> Batch:
        """The same batch, its tensors changed."""
        *tensors, masks, image_ids, largest_sigma = self
        return Batch(
            *map(change, tensors), list(map(change, masks)), change(image_ids), largest_sigma
        )


MIN_SIGMA = 0.5  # map pixels, of a scale-aware Gaussian: a box may have no extent


class SigmaRule(NamedTuple):
    """The width of a person's Gaussians (DATASET.* keys of the same names)."""

    sigma: float = 2.0
    scale_aware: bool = False
    base_sigma: float = 2.0
    base_size: float = 256.0
    whole: bool = False

    def of(self, boxes: np.ndarray) -> np.ndarray:
        """(P, 4) boxes in the picture -> (P,) map pixels."""
        if not self.scale_aware:
            return np.full(len(boxes), self.sigma, np.float32)
        sigmas = boxes[:, 2:].max(axis=1, initial=0) / self.base_size * self.base_sigma
        return np.round(sigmas + 0.5) if self.whole else sigmas.clip(min=MIN_SIGMA)


class PoseDataset(Dataset):
    """Augmented crops of annotated pictures.

    An item's key is (epoch, index): what is drawn for it is a function of (seed, epoch, index)
    alone, whatever the number of workers and the order of reading.
    """

    def __init__(
        self,
        spec: KeypointSpec,
        pictures: Sequence[ImageRecord],
        files: ImageFiles,
        crop_size: int,
        map_sizes: Sequence[int],
        affine: AffineRange,
        sigma: SigmaRule,
        max_people: int = 30,
        with_center: bool = False,
        skip_unreadable: bool = False,
        seed: int = 0,
        codec: Codec = REFERENCE,
        cache: ImageCache | None = None,
    ) -> None:
        self.spec = spec.with_center() if with_center else spec
        self.with_center = with_center
        self.records = [keep_largest(picture, max_people) for picture in pictures]
        self.files = files
        self.crop_size = crop_size
        self.map_sizes = list(map_sizes)
        self.affine = affine
        self.sigma = sigma
        self.skip_unreadable = skip_unreadable
        self.seed = seed
        self.codec = codec
        self.cache = cache
        self.dropped_people = sum(
            len(before.joints) - len(after.joints)
            for before, after in zip(pictures, self.records, strict=True)
        )
        if self.dropped_people:
            logger.warning(
                "%d people are left out: their pictures show more than MAX_NUM_PEOPLE %d, "
                "of which the largest are kept",
                *(self.dropped_people, max_people),
            )

    def __len__(self) -> int:
        return len(self.records)

    def __getitem__(self, key: tuple[int, int]) -> Sample:
        epoch, index = key
        picture, image = self._read(index)
        rng = np.random.default_rng((self.seed, epoch, index))
        return self.sample(picture, image, self.affine.draw(rng, picture.width, picture.height))

    def sample(self, picture: ImageRecord, image: np.ndarray, affine: Affine) -> Sample:
        """`picture` as `affine` shows it; `image`: the whole of it, perhaps shrunk."""
        people = add_center(picture.joints) if self.with_center else picture.joints
        joints = affine.move(people, self.crop_size)
        mask = ignore_mask(picture)
        return Sample(
            image=affine.warp(image, self.crop_size, (picture.width, picture.height)),
            joints=joints[:, self.spec.flip_index] if affine.flipped else joints,
            sigmas=self.sigma.of(picture.boxes).astype(np.float32),
            flipped=affine.flipped,
            masks=[affine.warp(mask, size) > 127 for size in self.map_sizes],
            image_id=picture.id,
        )

    def _read(self, index: int) -> tuple[ImageRecord, np.ndarray]:
        """The picture, or the next one that can be read when unreadable ones are skipped."""
        for step in range(len(self)):
            picture = self.records[(index + step) % len(self)]
            try:
                if self.cache is not None:
                    return picture, self.cache.read(picture)
                return picture, self.files.read_checked(picture)
            except ReadError as error:
                if not self.skip_unreadable:
                    raise
                logger.warning("%s; the next picture takes its place", error)
        raise ReadError(f"none of the {len(self)} pictures in {self.files.path} can be read")


def add_center(joints: np.ndarray) -> np.ndarray:
    """(P, K, 3) -> (P, K + 1, 3): the mean of the labelled joints as one more."""
    labelled = joints[..., 2:] > 0  # (P, K, 1); every person kept by the reader has some
    center = (joints[..., :2] * labelled).sum(1) / labelled.sum(1)  # (P, 2)
    center = np.concatenate([center, np.ones((len(joints), 1))], axis=1)[:, None]
    return np.concatenate([joints, center.astype(np.float32)], axis=1)


def keep_largest(picture: ImageRecord, max_people: int) -> ImageRecord:
    """At most `max_people` people, those with the largest boxes, in their order."""
    if len(picture.joints) <= max_people:
        return picture
    areas = picture.boxes[:, 2] * picture.boxes[:, 3]
    kept = np.sort(np.argsort(-areas, kind="stable")[:max_people])
    return picture._replace(joints=picture.joints[kept], boxes=picture.boxes[kept])


def collate(samples: Sequence[Sample]) -> Batch:
    """Stack samples of one crop size; people are padded with zeros."""
    slots = max(len(sample.joints) for sample in samples)
    num_joints = samples[0].joints.shape[1]
    joints = np.zeros((len(samples), slots, num_joints, 3), np.float32)
    sigmas = np.ones((len(samples), slots), np.float32)
    for i, sample in enumerate(samples):
        joints[i, : len(sample.joints)] = sample.joints
        sigmas[i, : len(sample.joints)] = sample.sigmas
    return Batch(
        images=torch.from_numpy(np.stack([sample.image for sample in samples])),
        joints=torch.from_numpy(joints),
        sigmas=torch.from_numpy(sigmas),
        flipped=torch.tensor([sample.flipped for sample in samples]),
        masks=[
            torch.from_numpy(np.stack(masks))
            for masks in zip(*(sample.masks for sample in samples), strict=True)
        ],
        image_ids=torch.tensor([sample.image_id for sample in samples]),
        largest_sigma=float(sigmas.max(initial=0)),
    )
