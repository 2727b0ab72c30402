"""Heatmaps and tag addresses from joints, for a whole batch in one operation on its device.

All shapes follow from those of the inputs, so nothing is read from the device.

Joints are (B, P, K, 3): x, y in pixels of the map they are stamped on, and visibility (0: not
labelled). The codec decides where in or on its pixel a joint's Gaussian is centered; its tag is
read at the pixel that its coordinates are truncated to.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from lib.codec import REFERENCE, Codec


class Targets(NamedTuple):
    """The targets of the losses, one entry per output stage, coarse to fine."""

    heatmaps: list[Tensor]  # (B, K, H, W)
    masks: list[Tensor]  # (B, H, W), 1 where the heatmap loss counts
    nodes: list[Tensor]  # (B, P, K, 2): flat tag address and 1, packed from slot 0 per person
    labelled: Tensor | None = None  # (B, K), 1 where the heatmap loss counts; None: everywhere

    def first(self, count: int) -> Targets:
        """The targets of the first `count` images."""
        return Targets(
            heatmaps=[maps[:count] for maps in self.heatmaps],
            masks=[mask[:count] for mask in self.masks],
            nodes=[nodes[:count] for nodes in self.nodes],
            labelled=None if self.labelled is None else self.labelled[:count],
        )


def make_targets(
    joints: Tensor,
    flipped: Tensor,
    sigmas: Tensor,
    masks: list[Tensor],
    crop_size: int,
    tag_per_joint: bool = True,
    codec: Codec = REFERENCE,
    largest_sigma: float | None = None,
) -> Targets:
    """Targets of every output stage from joints (B, P, K, 3) in pixels of the crop.

    flipped: (B,) bool. sigmas: (B, P), map pixels, none above `largest_sigma`; below 0: map size /
    64. masks: one (B, H, W) per stage; their sizes are the map sizes.
    """
    targets = Targets([], [], [])
    for mask in masks:
        size = mask.shape[-1]
        on_map = map_joints(joints, flipped, size / crop_size, codec)
        sigma = torch.where(sigmas < 0, size / 64, sigmas)
        largest = None if largest_sigma is None else max(largest_sigma, size / 64)
        targets.heatmaps.append(heatmap_targets(on_map, sigma, size, codec, largest))
        targets.masks.append(mask.to(joints.dtype))
        targets.nodes.append(joint_nodes(on_map, size, tag_per_joint))
    return targets


def map_joints(joints: Tensor, flipped: Tensor, ratio: float, codec: Codec = REFERENCE) -> Tensor:
    """(B, P, K, 3), pixels of the crop -> pixels of a map `ratio` times its size.

    Where coordinates name the corners of pixels, a flip maps x to size - x - 1 on the crop and on
    every map alike, so it is undone before the scaling and repeated after it. For example, x = 3
    in a flipped crop of 512 was 508 before the flip: 127 on a map of 128, and flipped again 0.
    """
    shift = (1 - 2 * codec.pixel_center) * flipped.to(joints.dtype)[:, None, None]
    x = (joints[..., 0] + shift) * ratio - shift
    return torch.stack([x, joints[..., 1] * ratio, joints[..., 2]], dim=-1)


def heatmap_targets(
    joints: Tensor,
    sigmas: Tensor,
    size: int | tuple[int, int],
    codec: Codec = REFERENCE,
    largest_sigma: float | None = None,
) -> Tensor:
    """Gaussians of the visible joints, the largest value of all people: (B, K, H, W).

    size: (H, W), or one number for both. sigmas: (B, P), map pixels, none above `largest_sigma`; a
    caller who knows it spares a read from the device. A Gaussian ends 3 sigma + 1 pixels from the
    pixel that the joint is on.

    Every joint gets a patch of D x D pixels, as large as the largest sigma needs; one scatter then
    takes the maximum per pixel. For example, sigma 2 gives patches of 15 x 15.
    """
    batch, _, num_joints, _ = joints.shape
    height, width = (size, size) if isinstance(size, int) else size
    heatmaps = sigmas.new_zeros(batch, num_joints, height, width)
    if not sigmas.numel():
        return heatmaps
    if largest_sigma is None:
        largest_sigma = float(sigmas.max())
    radius = int(3 * largest_sigma + 1)
    offset = torch.arange(-radius, radius + 1, device=joints.device)  # (D,)
    pixel, visible = _pixels(joints, height, width)  # (B, P, K, 2), (B, P, K)
    # A Gaussian is separable: one profile along x, one along y, and their outer product.
    center = codec.centers(joints[..., :2]) - pixel  # relative to the pixel
    away = (offset - center[..., None]).to(sigmas.dtype)  # (B, P, K, 2, D)
    sigma = sigmas[..., None, None, None]
    profile = torch.exp(-away.square() / (2 * sigma.square()))
    profile = profile * (offset.abs() <= 3 * sigma + 1)  # smaller sigmas end sooner
    patch = profile[..., 1, :, None] * profile[..., 0, None, :]  # (B, P, K, D, D)
    # The address of every patch pixel in the flattened heatmaps. Pixels off the map, and patches of
    # unlabelled joints, become zeros at the border, where the maximum ignores them. (At one address
    # for all of them, the threads of a GPU would wait for each other.)
    x, y = (pixel[..., None] + offset).unbind(dim=3)  # (B, P, K, D) each
    column, row = x.clamp(0, width - 1)[..., None, :], y.clamp(0, height - 1)[..., :, None]
    x, y = x[..., None, :], y[..., :, None]
    inside = ((x >= 0) & (x < width)) & ((y >= 0) & (y < height)) & visible[..., None, None]
    image = torch.arange(batch, device=joints.device)[:, None, None]
    joint = torch.arange(num_joints, device=joints.device)
    first = ((image * num_joints + joint) * height * width)[..., None, None]  # (B, 1, K, 1, 1)
    address = first + row * width + column
    patch = torch.where(inside, patch, 0)
    heatmaps.view(-1).scatter_reduce_(0, address.flatten(), patch.flatten(), reduce="amax")
    return heatmaps


def joint_nodes(joints: Tensor, size: int, tag_per_joint: bool = True) -> Tensor:
    """(B, P, K, 3) -> (B, P, K, 2): where each person's tags are read, and 1; zeros after them.

    An address is joint * size^2 + y * size + x, or y * size + x when all joints share a tag map.
    """
    xy, visible = _pixels(joints, size, size)
    address = xy[..., 1] * size + xy[..., 0]
    if tag_per_joint:
        address = address + torch.arange(joints.shape[2], device=joints.device) * size * size
    nodes = torch.stack([address, torch.ones_like(address)], dim=-1) * visible[..., None]
    # Visible joints first, in their order: a stable sort packs them without a read from the device.
    packed = visible.long().argsort(dim=2, descending=True, stable=True)
    return nodes.gather(2, packed[..., None].expand_as(nodes))


class HeatmapGenerator:
    """`heatmap_targets` of one sample: (P, K, 3) -> (K, H, W) float32."""

    def __init__(self, output_res: int, num_joints: int, sigma: float = -1) -> None:
        self.output_res = output_res
        self.num_joints = num_joints
        self.sigma = output_res / 64 if sigma < 0 else sigma

    def __call__(self, joints: np.ndarray) -> np.ndarray:
        batch = _one_sample(joints, self.num_joints)
        sigmas = torch.full(batch.shape[:2], float(self.sigma))
        return heatmap_targets(batch, sigmas, self.output_res)[0].numpy()


@dataclass
class JointsGenerator:
    """`joint_nodes` of one sample: (P, K, 3) -> (max_num_people, K, 2) int32."""

    max_num_people: int
    num_joints: int
    output_res: int
    tag_per_joint: bool = True

    def __call__(self, joints: np.ndarray) -> np.ndarray:
        batch = _one_sample(joints, self.num_joints)
        people = batch.shape[1]
        if people > self.max_num_people:
            raise ValueError(f"{people} people for {self.max_num_people} slots (MAX_NUM_PEOPLE)")
        nodes = np.zeros((self.max_num_people, self.num_joints, 2), np.int32)
        nodes[:people] = joint_nodes(batch, self.output_res, self.tag_per_joint)[0]
        return nodes


def _pixels(joints: Tensor, height: int, width: int) -> tuple[Tensor, Tensor]:
    """(..., 3) -> (..., 2) whole coordinates, (...) whether a labelled joint lies on the map."""
    xy = joints[..., :2].trunc().long()
    x, y = xy.unbind(dim=-1)
    on_map = (x >= 0) & (x < width) & (y >= 0) & (y < height)
    return xy, (joints[..., 2] > 0) & on_map


def _one_sample(joints: np.ndarray, num_joints: int) -> Tensor:
    """(P, K, 3) -> (1, P, K, 3)"""
    return torch.from_numpy(np.array(joints, dtype=np.float64)).reshape(1, -1, num_joints, 3)
