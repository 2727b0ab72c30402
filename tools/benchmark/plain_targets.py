"""Targets and normalization of one sample at a time in NumPy: the baseline of the benchmarks.

As in the original, loader processes make float32 images and heatmaps, which then cross to the
training process. `lib/dataset/target_generators` makes the same for a whole batch on its device.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import torch

from lib.core.images import MEAN, STD
from lib.dataset.samples import Sample
from lib.dataset.target_generators import Targets


class PlainSample(NamedTuple):
    """The input and the targets of one sample."""

    image: np.ndarray  # (3, H, W) float32, normalized
    heatmaps: list[np.ndarray]  # S of (K, h, w) float32
    masks: list[np.ndarray]  # S of (h, w) float32
    nodes: list[np.ndarray]  # S of (P, K, 2) int64: tag address and 1, packed from slot 0


def plain_sample(sample: Sample, max_people: int) -> PlainSample:
    """`sample` (of the reference codec) with targets of every stage."""
    crop = sample.image.shape[0]
    mean, std = np.array(MEAN, np.float32), np.array(STD, np.float32)
    image = (sample.image.astype(np.float32) / 255 - mean) / std
    plain = PlainSample(np.ascontiguousarray(image.transpose(2, 0, 1)), [], [], [])
    for mask in sample.masks:
        size = mask.shape[0]
        joints = on_map(sample.joints, size / crop, sample.flipped)
        plain.heatmaps.append(render_heatmaps(joints, sample.sigmas, size))
        plain.masks.append(mask.astype(np.float32))
        plain.nodes.append(tag_nodes(joints, size, max_people))
    return plain


def on_map(joints: np.ndarray, ratio: float, flipped: bool) -> np.ndarray:
    """(P, K, 3), pixels of the crop -> pixels of a map `ratio` times its size."""
    moved = joints.copy()
    moved[..., 0] = (joints[..., 0] + flipped) * ratio - flipped
    moved[..., 1] *= ratio
    return moved


def render_heatmaps(joints: np.ndarray, sigmas: np.ndarray, size: int) -> np.ndarray:
    """Gaussians of the visible joints (P, K, 3), the largest of all people: (K, size, size)."""
    maps = np.zeros((joints.shape[1], size, size), np.float32)
    for person, sigma in zip(joints, sigmas, strict=True):
        sigma = sigma if sigma > 0 else size / 64
        reach = int(3 * sigma + 1)
        offset = np.arange(-reach, reach + 1)
        patch = np.exp(-(offset[:, None] ** 2 + offset**2) / (2 * sigma**2))
        for k, (x, y) in visible(person, size):
            top, left = max(0, y - reach), max(0, x - reach)
            bottom, right = min(size, y + reach + 1), min(size, x + reach + 1)
            window = maps[k, top:bottom, left:right]
            inside = patch[
                top - y + reach : bottom - y + reach, left - x + reach : right - x + reach
            ]
            np.maximum(window, inside, out=window)
    return maps


def tag_nodes(joints: np.ndarray, size: int, max_people: int) -> np.ndarray:
    """(P, K, 3) -> (max_people, K, 2): the addresses of each person's tags, and 1; then zeros."""
    nodes = np.zeros((max_people, joints.shape[1], 2), np.int64)
    for slots, person in zip(nodes, joints, strict=False):
        for slot, (k, (x, y)) in zip(slots, visible(person, size), strict=False):
            slot[:] = k * size**2 + y * size + x, 1
    return nodes


def visible(person: np.ndarray, size: int) -> list[tuple[int, tuple[int, int]]]:
    """(joint, pixel) of the labelled joints on the map."""
    pixels = [
        (k, (int(x), int(y))) for k, (x, y, visibility) in enumerate(person) if visibility > 0
    ]
    return [(k, (x, y)) for k, (x, y) in pixels if 0 <= x < size and 0 <= y < size]


def plain_batch(samples: Sequence[PlainSample]) -> tuple[torch.Tensor, Targets]:
    """Images (B, 3, H, W) and targets."""
    images, *targets = zip(*samples, strict=True)
    heatmaps, masks, nodes = (
        [torch.from_numpy(np.stack(stage)) for stage in zip(*stages, strict=True)]
        for stages in targets
    )
    return torch.from_numpy(np.stack(images)), Targets(heatmaps, masks, nodes)
