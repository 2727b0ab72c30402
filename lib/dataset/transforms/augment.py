"""Augmentation: the list of transforms that a training sample goes through.

A transform takes a sample and a random generator and returns a new sample; it changes image, masks
and joints alike and leaves its input as it is. The generator belongs to one (seed, epoch, image),
so what a transform samples depends on nothing else but the transforms before it: append, and the
crops of old runs stay as they are.

To add an augmentation, edit three files: this one (the transform, and its line in
`build_transforms`), lib/config/default.py (its DATASET.* keys) and lib/config/ranges.py.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Protocol

import cv2
import numpy as np
from yacs.config import CfgNode

from lib.codec import codec_of
from lib.dataset.samples import Sample
from lib.dataset.transforms.affine import Affine
from lib.dataset.transforms.occlude import DropJoints
from lib.dataset.transforms.people import extents, joint_boxes
from lib.dataset.transforms.photometric import RandomBlur, RandomColor, RandomJpeg
from lib.keypoints import KeypointSpec


class Transform(Protocol):
    """One step of augmentation."""

    def __call__(self, sample: Sample, rng: np.random.Generator) -> Sample: ...


def build_transforms(cfg: CfgNode, spec: KeypointSpec) -> list[Transform]:
    """The transforms of training, in order; `spec` has the joints of the samples."""
    data, pixel_center = cfg.DATASET, codec_of(cfg).pixel_center
    transforms: list[Transform] = [
        RandomAffine(
            crop_size=data.INPUT_SIZE,
            map_sizes=tuple(data.OUTPUT_SIZE),
            scale_type=data.SCALE_TYPE,
            min_scale=data.MIN_SCALE,
            max_scale=data.MAX_SCALE,
            max_rotation=data.MAX_ROTATION,
            max_translate=data.MAX_TRANSLATE,
            pixel_center=pixel_center,
            small_people=data.SMALL_PEOPLE,
        ),
        RandomFlip(data.FLIP, tuple(spec.flip_index), pixel_center),
    ]
    color = RandomColor(
        brightness=data.BRIGHTNESS,
        contrast=data.CONTRAST,
        saturation=data.SATURATION,
        hue=data.HUE,
        gray=data.GRAY,
    )
    if color != RandomColor():
        transforms.append(color)
    if data.BLUR:
        transforms.append(RandomBlur(data.BLUR))
    if data.JPEG:
        transforms.append(RandomJpeg(data.JPEG))
    if data.DROP_JOINTS:
        transforms.append(DropJoints(data.DROP_JOINTS))
    return transforms


@dataclass(frozen=True)
class RandomAffine:
    """A crop at a random scale, place and angle (DATASET.* keys of the same names)."""

    crop_size: int
    map_sizes: Sequence[int]  # of the masks, one per output stage
    scale_type: str = "short"
    min_scale: float = 0.75
    max_scale: float = 1.5
    max_rotation: float = 30.0  # degrees
    max_translate: float = 40.0  # pixels, times the crop's scale
    pixel_center: float = 0.0
    small_people: float = 0.0  # probability of a crop around a person, see `moved_to_a_person`

    def at_size(self, size: int) -> RandomAffine:
        """The same crops at another size."""
        map_sizes = tuple(size * side // self.crop_size for side in self.map_sizes)
        return replace(self, crop_size=size, map_sizes=map_sizes)

    def sample(self, rng: np.random.Generator, width: int, height: int) -> Affine:
        """The crop of a width x height image."""
        side = min(width, height) if self.scale_type == "short" else max(width, height)
        side *= rng.uniform(self.min_scale, self.max_scale)
        reach = int(self.max_translate * side / 200)
        shift = rng.integers(-reach, reach, size=2, endpoint=True)
        return Affine(
            center=(width / 2 + shift[0], height / 2 + shift[1]),
            side=side,
            degrees=rng.uniform(-self.max_rotation, self.max_rotation),
            pixel_center=self.pixel_center,
        )

    def moved_to_a_person(self, affine: Affine, sample: Sample, rng: np.random.Generator) -> Affine:
        """With probability `small_people`, `affine` around a person instead of the image's middle.

        A person half as large is taken twice as often. People of a single joint have no size.
        """
        happens, place = rng.random() < self.small_people, rng.random()
        sizes = extents(sample.joints)
        boxes, sizes = joint_boxes(sample.joints)[sizes > 0], sizes[sizes > 0]
        if not happens or not len(sizes):
            return affine
        shares = np.cumsum(1 / sizes)
        chosen = boxes[np.searchsorted(shares, place * shares[-1], side="right")]
        x, y = chosen.mean(axis=0) - np.array(sample.size) / 2 + affine.center + self.pixel_center
        return replace(affine, center=(float(x), float(y)))

    def __call__(self, sample: Sample, rng: np.random.Generator) -> Sample:
        width, height = sample.size
        affine = self.sample(rng, width, height)
        if self.small_people:
            affine = self.moved_to_a_person(affine, sample, rng)
        [mask] = sample.masks
        step = f"crop of {affine.side:.0f} pixels, {affine.degrees:.0f} degrees"
        return sample._replace(
            image=affine.warp(sample.image, self.crop_size, sample.size),
            joints=affine.move(sample.joints, self.crop_size),
            masks=[affine.warp(mask, size) for size in self.map_sizes],
            size=(self.crop_size, self.crop_size),
            steps=(*sample.steps, step),
        )


@dataclass(frozen=True)
class RandomFlip:
    """The image flipped left to right; left and right joints change places."""

    probability: float
    flip_index: Sequence[int]  # of the joints
    pixel_center: float = 0.0

    def __call__(self, sample: Sample, rng: np.random.Generator) -> Sample:
        if not rng.random() < self.probability:
            return sample
        joints = sample.joints[:, self.flip_index]
        # x becomes size - x, or size - x - 1 where a coordinate is the corner of its pixel.
        joints[..., 0] = sample.size[0] - joints[..., 0] - (1 - 2 * self.pixel_center)
        return sample._replace(
            image=cv2.flip(sample.image, 1),
            joints=joints,
            masks=[cv2.flip(mask, 1) for mask in sample.masks],
            flipped=not sample.flipped,
            labelled=None if sample.labelled is None else sample.labelled[list(self.flip_index)],
            steps=(*sample.steps, "flipped"),
        )
