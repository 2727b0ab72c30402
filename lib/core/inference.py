"""From a picture to people: maps of all stages, scales and the mirror image, then grouping.

Names and numbers are HigherHRNet's. `predict` is the one function that evaluation, search and
demonstrations call.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from yacs.config import CfgNode

from lib.core.group import HeatmapParser
from lib.dataset.keypoints import KEYPOINTS
from lib.utils.transforms import get_final_preds, get_multi_scale_size, resize_align_multi_scale

MEAN = (0.485, 0.456, 0.406)  # of ImageNet's pictures, RGB, 0 to 1
STD = (0.229, 0.224, 0.225)


def normalize(images: Tensor) -> Tensor:
    """(B, H, W, 3) uint8 RGB -> (B, 3, H, W) float32, channels last in memory."""
    mean = torch.tensor(MEAN, device=images.device)
    std = torch.tensor(STD, device=images.device)
    return ((images / 255.0 - mean) / std).permute(0, 3, 1, 2)


def flip_index(cfg: CfgNode) -> list[int]:
    """The mirror image of each of the network's joints."""
    spec = KEYPOINTS[cfg.DATASET.DATASET_TEST]
    return (spec.with_center() if cfg.DATASET.WITH_CENTER else spec).flip_index


@torch.inference_mode()
def predict(cfg: CfgNode, model: nn.Module, image: np.ndarray) -> tuple[np.ndarray, list[float]]:
    """People (N, K, 3 + L) in the pixels of `image` (H, W, 3) uint8 RGB, and their N scores.

    A joint is x, y, its score and its tags (L of them); one that was not found has score 0.
    """
    heatmaps, tags, center, scale = multi_scale_maps(cfg, model, image)
    size = (heatmaps.shape[3], heatmaps.shape[2])
    parser = HeatmapParser(cfg)
    grouped, scores = parser.parse(heatmaps, tags, cfg.TEST.ADJUST, cfg.TEST.REFINE)
    people = get_final_preds(grouped, center, scale, size)
    return np.array(people, np.float32).reshape(-1, *grouped[0].shape[1:]), scores


def multi_scale_maps(
    cfg: CfgNode, model: nn.Module, image: np.ndarray
) -> tuple[Tensor, Tensor, np.ndarray, np.ndarray]:
    """Heatmaps (1, K, H, W) and tags (1, K, H, W, L) over all scales; center, scale of the warp."""
    scales, size = cfg.TEST.SCALE_FACTOR, cfg.DATASET.INPUT_SIZE
    kind = cfg.TEST.SCALE_TYPE
    base_size, center, scale = get_multi_scale_size(image, size, 1.0, min(scales), kind)
    device = next(model.parameters()).device
    final_heatmaps, tags_list = None, []
    for factor in sorted(scales, reverse=True):
        resized, _, _ = resize_align_multi_scale(image, size, factor, min(scales), kind)
        inputs = normalize(torch.from_numpy(resized)[None].to(device))
        _, heatmaps, tags = get_multi_stage_outputs(
            *(cfg, model, inputs, cfg.TEST.FLIP_TEST, cfg.TEST.PROJECT2IMAGE, base_size)
        )
        final_heatmaps, tags_list = aggregate_results(
            cfg, factor, final_heatmaps, tags_list, heatmaps, tags
        )
    return final_heatmaps / len(scales), torch.cat(tags_list, dim=4), center, scale


def get_multi_stage_outputs(
    cfg: CfgNode,
    model: nn.Module,
    image: Tensor,
    with_flip: bool = False,
    project2image: bool = False,
    size_projected: Sequence[int] | None = None,
) -> tuple[list[Tensor], list[Tensor], list[Tensor]]:
    """Raw outputs of `image` (1, 3, H, W); its heatmaps and tags, and those of its mirror image.

    Each entry of the second list is (1, K, h, w), averaged over the stages of TEST.WITH_HEATMAPS;
    of the third (1, K or 1, h, w), one per stage of TEST.WITH_AE. The mirror image's maps are
    mirrored back and their joints swapped. h, w: the finest map's size, or `size_projected`
    (width, height) when `project2image`.
    """
    outputs = model(torch.cat([image, image.flip(3)]) if with_flip else image)
    finest = outputs[-1].shape[2:]
    resized = [resize_maps(output, finest) for output in outputs]
    heatmaps, tags = stage_maps(cfg, [output[:1] for output in resized])
    heatmaps = [heatmaps]
    if with_flip:
        swap = flip_index(cfg)
        mirror_heatmaps, mirror_tags = stage_maps(cfg, [output[1:].flip(3) for output in resized])
        heatmaps.append(mirror_heatmaps[:, swap])
        tags += [tag[:, swap] if cfg.MODEL.TAG_PER_JOINT else tag for tag in mirror_tags]
    if cfg.DATASET.WITH_CENTER and cfg.TEST.IGNORE_CENTER:
        heatmaps = [maps[:, :-1] for maps in heatmaps]
        tags = [tag[:, :-1] if cfg.MODEL.TAG_PER_JOINT else tag for tag in tags]
    if project2image and size_projected is not None:
        size = (size_projected[1], size_projected[0])
        heatmaps = [resize_maps(maps, size) for maps in heatmaps]
        tags = [resize_maps(tag, size) for tag in tags]
    return outputs, heatmaps, tags


def aggregate_results(
    cfg: CfgNode,
    scale_factor: float,
    final_heatmaps: Tensor | None,
    tags_list: list[Tensor],
    heatmaps: Sequence[Tensor],
    tags: Sequence[Tensor],
) -> tuple[Tensor, list[Tensor]]:
    """Add one scale's maps: heatmaps are summed over scales, tags kept from scale 1 only.

    Tags become (1, K, h, w, 1) entries of the list. Where there is one scale, its tags are kept
    whatever it is.
    """
    own = sum(heatmaps) / len(heatmaps)
    size = own.shape[2:] if final_heatmaps is None else final_heatmaps.shape[2:]
    if scale_factor == 1 or len(cfg.TEST.SCALE_FACTOR) == 1:
        tags_list = tags_list + [resize_maps(tag, size)[..., None] for tag in tags]
    own = resize_maps(own, size)
    return (own if final_heatmaps is None else final_heatmaps + own), tags_list


def stage_maps(cfg: CfgNode, outputs: Sequence[Tensor]) -> tuple[Tensor, list[Tensor]]:
    """Outputs of one size -> mean heatmaps of the stages asked for, tags of the others."""
    joints = cfg.MODEL.NUM_JOINTS
    heatmaps = [
        output[:, :joints]
        for output, wanted in zip(outputs, cfg.TEST.WITH_HEATMAPS, strict=True)
        if wanted
    ]
    tags = [
        output[:, joints:]
        for output, wanted in zip(outputs, cfg.TEST.WITH_AE, strict=True)
        if wanted
    ]
    return sum(heatmaps) / len(heatmaps), tags


def resize_maps(maps: Tensor, size: Sequence[int]) -> Tensor:
    """Bilinear, to (height, width); maps of that size pass as they are."""
    if tuple(maps.shape[2:]) == tuple(size):
        return maps
    return F.interpolate(maps, size=tuple(size), mode="bilinear", align_corners=False)
