"""Information dropping: disks that hide joints, so that the others have to tell where they are.

Huang et al. 2020 (AID, arXiv:2008.07139; in its first version "a keypoint-aware strategy") erase
image regions and keep the targets, for top-down networks around joints; their bottom-up settings
erase squares anywhere (hide and seek). Here disks are around joints and as large as the person asks
for; their sizes are ours.
"""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np

from lib.dataset.samples import Sample
from lib.dataset.transforms.people import extents

RADII = (0.1, 0.2)  # of a disk / the extent of the person
SPREAD = 0.5  # deviation of its center from the joint / its radius
FILL = (124, 116, 104)  # mean color of ImageNet's images: 0 after normalization


@dataclass(frozen=True)
class DropJoints:
    """A disk of one color near a random joint of a person, with a probability for each person.

    DATASET.DROP_JOINTS. Labels stay: the network has to infer the hidden joint from the others.
    """

    probability: float

    def __call__(self, sample: Sample, rng: np.random.Generator) -> Sample:
        image, count = sample.image.copy(), 0
        for joints, extent in zip(sample.joints, extents(sample.joints), strict=True):
            happens = rng.random() < self.probability
            radius = min(extent * rng.uniform(*RADII), max(sample.size))
            place, offset = rng.random(), rng.normal(scale=SPREAD, size=2)
            visible = joints[inside(joints, sample.size)]
            if happens and radius >= 1 and len(visible):
                x, y = visible[int(place * len(visible)), :2] + radius * offset
                cv2.circle(image, (round(x), round(y)), round(radius), FILL, thickness=-1)
                count += 1
        if not count:
            return sample
        return sample._replace(image=image, steps=(*sample.steps, f"{count} disks on joints"))


def inside(joints: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """(K, 3) -> (K,) whether a labelled joint lies in an image of `size`, (width, height)."""
    xy = joints[:, :2]
    return (joints[:, 2] > 0) & (xy >= 0).all(axis=1) & (xy < size).all(axis=1)
