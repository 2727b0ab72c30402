"""The network's input: a batch normalized and resized for a sub-network, with its targets."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from lib.codec import Codec
from lib.core.images import normalize
from lib.dataset.samples import Batch
from lib.dataset.target_generators import Targets, make_targets

if TYPE_CHECKING:  # importing it would load all networks
    from lib.models.arch import ArchSpec


@dataclass(frozen=True)
class ViewSettings:
    """Settings that inputs and targets depend on."""

    crop_size: int  # DATASET.INPUT_SIZE, pixels
    codec: Codec
    tag_per_joint: bool = True
    channels_last: bool = True  # MODEL.CHANNELS_LAST: memory format of the images
    flip_share: float = 0.0  # of the images that have a flipped copy (lib/core/flips.py)


class View(NamedTuple):
    """A batch at one resolution, and the network that is trained on it."""

    images: Tensor  # (B + F, 3, H, W), normalized: F flipped copies are last, F may be 0
    targets: Targets
    arch: ArchSpec | None = None  # a sub-network of the supernet; None: any other network

    def without_copies(self, outputs: list[Tensor]) -> list[Tensor]:
        """Those of the outputs (B + F, C, h, w) that have targets: (B, C, h, w)."""
        count = len(self.targets.masks[0])
        return outputs if len(self.images) == count else [output[:count] for output in outputs]


def make_views(
    batch: Batch, archs: Sequence[ArchSpec | None], settings: ViewSettings
) -> list[View]:
    """One view per architecture at its resolution; for None, at the size of the crop."""
    sizes = [arch.img_size if arch else settings.crop_size for arch in archs]
    at_size = {size: make_view(batch, size, settings) for size in set(sizes)}
    return [at_size[size]._replace(arch=arch) for size, arch in zip(sizes, archs, strict=True)]


def make_view(batch: Batch, size: int, settings: ViewSettings) -> View:
    """`batch`, on its device, at `size` x `size` pixels, with targets rendered at that size."""
    images = normalize(batch.images)
    if size != settings.crop_size:
        images = F.interpolate(images, size=(size, size), mode="bilinear", align_corners=False)
    if settings.flip_share:
        count = math.ceil(settings.flip_share * len(images))
        images = torch.cat([images, images[:count].flip(3)])
    if not settings.channels_last:
        images = images.contiguous()  # the maps of a network are in the format of its images
    targets = make_targets(
        batch.joints,
        batch.flipped,
        batch.sigmas,
        [resize_mask(mask, mask.shape[-1] * size // settings.crop_size) for mask in batch.masks],
        crop_size=settings.crop_size,
        tag_per_joint=settings.tag_per_joint,
        codec=settings.codec,
        largest_sigma=batch.largest_sigma,
    )
    if batch.labelled is not None:
        targets = targets._replace(labelled=batch.labelled.to(batch.joints.dtype))
    return View(images, targets)


def resize_mask(mask: Tensor, size: int) -> Tensor:
    """(B, h, w) bool -> (B, size, size) bool, by nearest-neighbor interpolation."""
    if mask.shape[-1] == size:
        return mask
    return F.interpolate(mask[:, None].float(), size=(size, size), mode="nearest")[:, 0] > 0
