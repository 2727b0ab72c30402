"""Images and maps as tensors: ImageNet's normalization, bilinear resizing, flipping back."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lib.utils.device import to_device

MEAN = (0.485, 0.456, 0.406)  # of ImageNet's images, RGB, 0 to 1
STD = (0.229, 0.224, 0.225)


def normalize(images: Tensor) -> Tensor:
    """(B, H, W, 3) uint8 RGB -> (B, 3, H, W) float32, channels last in memory."""
    mean, std = (to_device(torch.tensor(x), images.device) for x in (MEAN, STD))
    return ((images / 255.0 - mean) / std).permute(0, 3, 1, 2)


def input_of(network: nn.Module, images: Tensor) -> Tensor:
    """(B, 3, H, W) for `network`, from (B, H, W, 3) uint8 RGB.

    They are normalized, unless it does that itself, as a compiled network does, faster.
    """
    if getattr(network, "takes_pixels", False):
        return images.permute(0, 3, 1, 2)
    return normalize(images)


def without_black_borders(heatmaps: Tensor, images: Tensor) -> Tensor:
    """Heatmaps (B, K, h, w) of `images` (B, H, W, 3) uint8, 0 where a row or a column is all black.

    An image that is fitted into an input of another aspect ratio has black borders. The loss masks
    them in training, so a network may answer anything there.
    """
    # As bool: ONNX Runtime up to 1.20 cannot compare 8-bit numbers.
    rows = _at_size(images.amax(dim=(2, 3)).bool(), heatmaps.shape[2])
    columns = _at_size(images.amax(dim=(1, 3)).bool(), heatmaps.shape[3])
    return torch.where(rows[:, None, :, None] & columns[:, None, None, :], heatmaps, 0.0)


def _at_size(flags: Tensor, size: int) -> Tensor:
    """(B, N) -> (B, size): the flag at the middle of each pixel of a map; N / size is any ratio."""
    count = flags.shape[1]
    return flags[:, torch.arange(size, device=flags.device) * count // size + count // (2 * size)]


def tag_dimensions(tags: Tensor, num_joints: int) -> list[Tensor]:
    """(B, D * K, h, w) -> a (B, K, h, w) for each of the D dimensions; (B, 1, h, w) is one."""
    is_one = tags.shape[1] in (1, num_joints)
    return [tags] if is_one else list(tags.split(num_joints, dim=1))


def flipped_back(maps: Tensor, flip_index: Tensor) -> Tensor:
    """Maps (F, K + T, h, w) of flipped images as those of the images; T is D * K, 1 or 0."""
    joints = len(flip_index)
    maps = maps.flip(3)
    tags = tag_dimensions(maps[:, joints:], joints)
    swapped = [tag[:, flip_index] if tag.shape[1] == joints else tag for tag in tags]
    return torch.cat([maps[:, flip_index], *swapped], dim=1)


def resize_maps(maps: Tensor, size: Sequence[int]) -> Tensor:
    """(B, C, h, w) -> (B, C, *size), bilinear; size: (height, width). Unchanged if equal."""
    if tuple(maps.shape[2:]) == tuple(size):
        return maps
    return F.interpolate(maps, size=tuple(size), mode="bilinear", align_corners=False)
