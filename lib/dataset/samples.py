"""Training samples and batches.

They are small enough to cross a process boundary: images are uint8, targets are made later.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor


class Sample(NamedTuple):
    """One image with its annotations, before, between and after the transforms."""

    image: np.ndarray  # (H, W, 3) uint8 RGB
    joints: np.ndarray  # (P, K, 3) float32: x, y in pixels of an image of `size`, visibility
    sigmas: np.ndarray  # (P,) float32, pixels of a map; below 0: map size / 64
    masks: list[np.ndarray]  # (h, w) uint8, 0 where no loss counts, else 255: of the whole image;
    # after the crop, one per output stage; in the end, bool
    image_id: int
    size: tuple[int, int]  # width, height; of the whole image, `image` may be a shrunk copy
    flipped: bool = False
    steps: tuple[str, ...] = ()  # what the transforms did, for captions


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
        return self.map(lambda tensor: tensor.to(device, non_blocking=True))

    def pin_memory(self) -> Batch:
        """Called by the loader when PIN_MEMORY is set."""
        return self.map(Tensor.pin_memory)

    def map(self, function: Callable[[Tensor], Tensor]) -> Batch:
        """The same batch with `function` applied to every tensor."""
        return Batch(
            images=function(self.images),
            joints=function(self.joints),
            sigmas=function(self.sigmas),
            flipped=function(self.flipped),
            masks=[function(mask) for mask in self.masks],
            image_ids=function(self.image_ids),
            largest_sigma=self.largest_sigma,
        )


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
