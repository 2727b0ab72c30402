"""Heatmaps and tag addresses from joints, for a whole batch in one operation.

Joints are (B, P, K, 3): x, y in pixels of the map they are stamped on, and visibility (0: not
labelled). The codec says where in or on its pixel a joint's Gaussian stands; its tag is read at the
pixel that its coordinates are truncated to.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from lib.dataset.codec import REFERENCE, Codec


class Targets(NamedTuple):
    """What the losses compare with, one entry per output stage, coarse to fine."""

    heatmaps: list[Tensor]  # (B, K, H, W)
    masks: list[Tensor]  # (B, H, W), 1 where the heatmap loss counts
    nodes: list[Tensor]  # (B, P, K, 2): flat tag address and 1, packed from slot 0 per person


def map_joints(joints: Tensor, mirrored: Tensor, ratio: float, codec: Codec = REFERENCE) -> Tensor:
    """(B, P, K, 3), pixels of the crop -> pixels of a map `ratio` times its size.

    mirrored: (B,). Where pixels are named by their corners, a mirror image maps x to size - x - 1
    on the crop and on every map alike, so it is undone and done again around the scaling.
    """
    shift = (1 - 2 * codec.pixel_center) * mirrored.to(joints.dtype)[:, None, None]
    x = (joints[..., 0] + shift) * ratio - shift
    return torch.stack([x, joints[..., 1] * ratio, joints[..., 2]], dim=-1)


def heatmap_targets(
    joints: Tensor,
    sigmas: Tensor,
    size: int | tuple[int, int],
    codec: Codec = REFERENCE,
) -> Tensor:
    """Gaussians of the visible joints, the largest value of all people: (B, K, H, W).

    size: (H, W), or one number for both. sigmas: (B, P), map pixels. A Gaussian ends 3 sigma + 1
    pixels from the pixel that the joint is on.
    """
    batch, _, num_joints, _ = joints.shape
    height, width = (size, size) if isinstance(size, int) else size
    xy, visible = _pixels(joints, height, width)
    image, person, joint = visible.nonzero(as_tuple=True)  # (N,) each: the joints to stamp
    heatmaps = sigmas.new_zeros(batch, num_joints, height, width)
    if len(image) == 0:
        return heatmaps
    sigma = sigmas[image, person][:, None]  # (N, 1)
    radius = int(3 * sigmas.max() + 1)
    offset = torch.arange(-radius, radius + 1, device=joints.device)  # (D,)
    pixel = xy[image, person, joint]  # (N, 2)
    center = codec.centers(joints[image, person, joint, :2]) - pixel  # (N, 2), from the pixel
    away = (offset - center[:, :, None]).to(sigma.dtype)  # (N, 2, D)
    profile = torch.exp(-away.square() / (2 * sigma[:, None].square()))
    profile = profile * (offset.abs() <= 3 * sigma + 1)[:, None]
    patch = profile[:, 1, :, None] * profile[:, 0, None, :]  # (N, D, D)
    at = pixel[:, :, None] + offset  # (N, 2, D)
    x, y = at[:, 0, None, :], at[:, 1, :, None]  # (N, 1, D), (N, D, 1)
    inside = ((x >= 0) & (x < width)) & ((y >= 0) & (y < height))  # (N, D, D)
    first = ((image * num_joints + joint) * height * width)[:, None, None]
    address = (first + y * width + x)[inside]
    heatmaps.view(-1).scatter_reduce_(0, address, patch[inside], reduce="amax")
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
    packed = visible.long().argsort(dim=2, descending=True, stable=True)
    return nodes.gather(2, packed[..., None].expand_as(nodes))


def make_targets(
    joints: Tensor,
    mirrored: Tensor,
    sigmas: Tensor,
    masks: list[Tensor],
    crop_size: int,
    tag_per_joint: bool = True,
    codec: Codec = REFERENCE,
) -> Targets:
    """Targets of every output stage from joints (B, P, K, 3) in pixels of the crop.

    masks: one (B, H, W) per stage; their sizes are the map sizes. sigmas: (B, P), map pixels;
    below 0, map size / 64.
    """
    targets = Targets([], [], [])
    for mask in masks:
        size = mask.shape[-1]
        on_map = map_joints(joints, mirrored, size / crop_size, codec)
        sigma = torch.where(sigmas < 0, size / 64, sigmas)
        targets.heatmaps.append(heatmap_targets(on_map, sigma, size, codec))
        targets.masks.append(mask.to(joints.dtype))
        targets.nodes.append(joint_nodes(on_map, size, tag_per_joint))
    return targets


class HeatmapGenerator:
    """The per-sample face of `heatmap_targets`: (P, K, 3) -> (K, H, W) float32."""

    def __init__(self, output_res: int, num_joints: int, sigma: float = -1) -> None:
        self.output_res = output_res
        self.num_joints = num_joints
        self.sigma = output_res / 64 if sigma < 0 else sigma

    def __call__(self, joints: np.ndarray) -> np.ndarray:
        batch = _one_sample(joints, self.num_joints)
        sigmas = torch.full(batch.shape[:2], float(self.sigma))
        return heatmap_targets(batch, sigmas, self.output_res)[0].numpy()


class JointsGenerator:
    """The per-sample face of `joint_nodes`: (P, K, 3) -> (max_num_people, K, 2) int32."""

    def __init__(
        self, max_num_people: int, num_joints: int, output_res: int, tag_per_joint: bool = True
    ) -> None:
        self.max_num_people = max_num_people
        self.num_joints = num_joints
        self.output_res = output_res
        self.tag_per_joint = tag_per_joint

    def __call__(self, joints: np.ndarray) -> np.ndarray:
        batch = _one_sample(joints, self.num_joints)
        if batch.shape[1] > self.max_num_people:
            raise ValueError(
                f"{batch.shape[1]} people for {self.max_num_people} slots (MAX_NUM_PEOPLE)"
            )
        nodes = np.zeros((self.max_num_people, self.num_joints, 2), np.int32)
        nodes[: batch.shape[1]] = joint_nodes(batch, self.output_res, self.tag_per_joint)[0]
        return nodes


def _pixels(joints: Tensor, height: int, width: int) -> tuple[Tensor, Tensor]:
    """(..., 3) -> (..., 2) whole coordinates, (...) whether a labelled joint lies on the map."""
    xy = joints[..., :2].trunc().long()
    limits = torch.tensor([width, height], device=xy.device)
    return xy, (joints[..., 2] > 0) & ((xy >= 0) & (xy < limits)).all(dim=-1)


def _one_sample(joints: np.ndarray, num_joints: int) -> Tensor:
    """(P, K, 3) -> (1, P, K, 3)"""
    return torch.from_numpy(np.array(joints, dtype=np.float64)).reshape(1, -1, num_joints, 3)
