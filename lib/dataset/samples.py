"""Training samples and batches.

They are small enough to cross a process boundary: images are uint8, targets are made later.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence
from torch.utils._pytree import tree_map_only

from lib.utils.device import to_device


class Sample(NamedTuple):
    """One image with its annotations, before, between and after the transforms."""

    image: np.ndarray  # (H, W, 3) uint8 RGB
    joints: np.ndarray  # (P, K, 3) float32: x, y in pixels of an image of `size`, visibility
    sigmas: np.ndarray  # (P,) float32, pixels of a map; below 0: map size / 64
    # (h, w) uint8, 255 where the heatmap loss counts, else 0. Before the crop one mask of the whole
    # image, after it one per output stage; bool after the last transform.
    masks: list[np.ndarray]
    image_id: int
    size: tuple[int, int]  # width, height; of the whole image, `image` may be a shrunk copy
    flipped: bool = False
    steps: tuple[str, ...] = ()  # a description of each applied transform, for captions
    labelled: np.ndarray | None = None  # (K,) bool: joints that the data set labels; None: all


class Batch(NamedTuple):
    """Samples stacked; P is the largest number of people among them, absent people are zeros."""

    images: Tensor  # (B, H, W, 3) uint8
    joints: Tensor  # (B, P, K, 3) float32
    sigmas: Tensor  # (B, P) float32
    flipped: Tensor  # (B,) bool
    masks: list[Tensor]  # S of (B, h, w) bool
    image_ids: Tensor  # (B,) int64
    largest_sigma: float  # none of `sigmas` is above it
    labelled: Tensor | None = None  # (B, K) bool: joints that the data sets label; None: all

    def to(self, device: torch.device) -> Batch:
        """The same batch on `device`."""
        return tree_map_only(Tensor, lambda tensor: to_device(tensor, device), self)


def collate(samples: Sequence[Sample]) -> Batch:
    """Stack samples of one crop size; absent people are padded with zeros, their sigmas are 1."""
    joints = [torch.from_numpy(sample.joints) for sample in samples]
    sigmas = [torch.from_numpy(sample.sigmas) for sample in samples]
    padded_sigmas = pad_sequence(sigmas, batch_first=True, padding_value=1)
    return Batch(
        images=torch.from_numpy(np.stack([sample.image for sample in samples])),
        joints=pad_sequence(joints, batch_first=True),
        sigmas=padded_sigmas,
        flipped=torch.tensor([sample.flipped for sample in samples]),
        masks=[
            torch.from_numpy(np.stack(masks))
            for masks in zip(*(sample.masks for sample in samples), strict=True)
        ],
        image_ids=torch.tensor([sample.image_id for sample in samples]),
        largest_sigma=float(padded_sigmas.numpy().max(initial=0)),
        labelled=collate_labelled(samples),
    )


def collate_labelled(samples: Sequence[Sample]) -> Tensor | None:
    """(B, K) bool: the joints that the data set of each sample labels; None: all of them."""
    if all(sample.labelled is None for sample in samples):
        return None
    every = np.ones(samples[0].joints.shape[1], bool)
    rows = [every if sample.labelled is None else sample.labelled for sample in samples]
    return torch.from_numpy(np.stack(rows))
