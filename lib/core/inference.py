"""From a picture to people: maps of all stages, scales and the mirror image, then grouping.

Names and numbers are HigherHRNet's. `predict` is the one function that evaluation, search and
demonstrations call. Its three steps may run apart from one another: `prepare` in a loader process,
`network_maps` on the device and for several pictures at a time, `find_people` meanwhile.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from yacs.config import CfgNode

from lib.codec import codec_of
from lib.core.group import HeatmapParser
from lib.keypoints import keypoints_of
from lib.utils.precision import half_precision
from lib.utils.transforms import get_final_preds, get_multi_scale_size, resize_align_multi_scale

MEAN = (0.485, 0.456, 0.406)  # of ImageNet's pictures, RGB, 0 to 1
STD = (0.229, 0.224, 0.225)
MAX_SIDE = 2**15  # of an input, in pixels; a sliver of a picture would need all memory


class Input(NamedTuple):
    """A picture as the network sees it, and how to come back from there."""

    images: tuple[Tensor, ...]  # (H, W, 3) uint8 RGB, one per scale, the largest first
    base_size: tuple[int, int]  # width, height at scale 1: of the maps, where they are projected
    center: np.ndarray
    scale: np.ndarray


def normalize(images: Tensor) -> Tensor:
    """(B, H, W, 3) uint8 RGB -> (B, 3, H, W) float32, channels last in memory."""
    mean, std = (torch.tensor(x).to(images.device, non_blocking=True) for x in (MEAN, STD))
    return ((images / 255.0 - mean) / std).permute(0, 3, 1, 2)


def flip_index(cfg: CfgNode) -> list[int]:
    """The mirror image of each of the network's joints."""
    spec = keypoints_of(cfg, is_train=False)
    return (spec.with_center() if cfg.DATASET.WITH_CENTER else spec).flip_index


def predict(cfg: CfgNode, model: nn.Module, image: np.ndarray) -> tuple[np.ndarray, list[float]]:
    """People (N, K, 3 + L) in the pixels of `image` (H, W, 3) uint8 RGB, and their N scores.

    A joint is x, y, its score and its tags (L of them); one that was not found has score 0.
    """
    given = prepare(cfg, image)
    heatmaps, tags = network_maps(cfg, model, [given])
    return find_people(cfg, heatmaps, tags, given)


def prepare(cfg: CfgNode, image: np.ndarray) -> Input:
    """`image` (H, W, 3) at all scales of the test; on the CPU.

    ValueError when a sliver of a picture would become an input longer than MAX_SIDE.
    """
    scales, size = cfg.TEST.SCALE_FACTOR, cfg.DATASET.INPUT_SIZE
    kind = cfg.TEST.SCALE_TYPE
    base_size, center, scale = get_multi_scale_size(image, size, 1.0, min(scales), kind)
    pictures = []
    for factor in sorted(scales, reverse=True):
        shape, _, _ = get_multi_scale_size(image, size, factor, min(scales), kind)
        if max(shape) > MAX_SIDE:
            height, width = image.shape[:2]
            raise ValueError(
                f"{width} x {height} pixels become an input of {shape[0]} x {shape[1]}; "
                f"at most {MAX_SIDE} are possible"
            )
        resized, _, _ = resize_align_multi_scale(
            *(image, size, factor, min(scales), kind), codec_of(cfg).pixel_center
        )
        pictures.append(torch.from_numpy(resized))
    return Input(tuple(pictures), base_size, center, scale)


@torch.inference_mode()
def network_maps(cfg: CfgNode, model: nn.Module, inputs: Sequence[Input]) -> tuple[Tensor, Tensor]:
    """Heatmaps (B, K, H, W) and tags (B, K, H, W, L) over all scales, of B inputs of equal sizes.

    Each map of each joint is one plane in memory. With FP16.ENABLED the network runs in half
    precision on a GPU; maps are float32.
    """
    scales = sorted(cfg.TEST.SCALE_FACTOR, reverse=True)
    project = cfg.TEST.PROJECT2IMAGE and not codec_of(cfg).native
    device = next(model.parameters()).device
    final_heatmaps, tags_list = None, []
    for i, factor in enumerate(scales):
        pictures = torch.stack([given.images[i] for given in inputs])
        images = normalize(pictures.to(device))
        with half_precision(device, cfg.FP16.ENABLED and device.type == "cuda"):
            _, heatmaps, tags = get_multi_stage_outputs(
                *(cfg, model, images, cfg.TEST.FLIP_TEST, project),
                inputs[0].base_size,
            )
        final_heatmaps, tags_list = aggregate_results(
            cfg, factor, final_heatmaps, tags_list, heatmaps, tags
        )
    tags = torch.stack([tag[..., 0] for tag in tags_list], dim=1)  # (B, L, K, H, W)
    return final_heatmaps / len(scales), tags.movedim(1, 4)


@torch.inference_mode()
def find_people(
    cfg: CfgNode, heatmaps: Tensor, tags: Tensor, given: Input
) -> tuple[np.ndarray, list[float]]:
    """What `predict` gives, from the maps (1, K, H, W) and (1, K, H, W, L) of `given`."""
    size = (heatmaps.shape[3], heatmaps.shape[2])
    parser = HeatmapParser(cfg)
    grouped, scores = parser.parse(heatmaps, tags, cfg.TEST.ADJUST, cfg.TEST.REFINE)
    people = get_final_preds(*(grouped, given.center, given.scale, size), parser.codec.pixel_center)
    return np.array(people, np.float32).reshape(-1, *grouped[0].shape[1:]), scores


def get_multi_stage_outputs(
    cfg: CfgNode,
    model: nn.Module,
    image: Tensor,
    with_flip: bool = False,
    project2image: bool = False,
    size_projected: Sequence[int] | None = None,
) -> tuple[list[Tensor], Tensor, list[Tensor]]:
    """Raw outputs of `image` (B, 3, H, W) and, after it, of its mirror image; heatmaps; tags.

    Heatmaps are (B, K, h, w), averaged over the stages of TEST.WITH_HEATMAPS and the mirror image;
    each entry of the list of tags is (B, K or 1, h, w), one per stage of TEST.WITH_AE, then those
    of the mirror image. The mirror image's maps are mirrored back and their joints swapped. h, w:
    the finest map's size, or `size_projected` (width, height) when `project2image`. All maps are
    contiguous float32.
    """
    outputs = model(torch.cat([image, image.flip(3)]) if with_flip else image)
    maps = [output.float().contiguous() for output in outputs]
    resized = [resize_maps(output, maps[-1].shape[2:]) for output in maps]
    batch = image.shape[0]  # not len(image): that would be a constant of an exported graph
    heatmaps, tags = stage_maps(cfg, [output[:batch] for output in resized])
    if with_flip:
        swap = flip_index(cfg)
        mirrored = [output[batch:].flip(3) for output in resized]
        mirror_heatmaps, mirror_tags = stage_maps(cfg, mirrored)
        heatmaps = (heatmaps + mirror_heatmaps[:, swap]) / 2
        tags += [tag[:, swap] if cfg.MODEL.TAG_PER_JOINT else tag for tag in mirror_tags]
    if cfg.DATASET.WITH_CENTER and cfg.TEST.IGNORE_CENTER:
        heatmaps = heatmaps[:, :-1]
        tags = [tag[:, :-1] if cfg.MODEL.TAG_PER_JOINT else tag for tag in tags]
    if project2image and size_projected is not None:
        size = (size_projected[1], size_projected[0])
        heatmaps = resize_maps(heatmaps, size)
        tags = [resize_maps(tag, size) for tag in tags]
    return outputs, heatmaps, tags


def aggregate_results(
    cfg: CfgNode,
    scale_factor: float,
    final_heatmaps: Tensor | None,
    tags_list: list[Tensor],
    heatmaps: Tensor,
    tags: Sequence[Tensor],
) -> tuple[Tensor, list[Tensor]]:
    """Add one scale's maps: heatmaps are summed over scales, tags kept from scale 1 only.

    Tags become (B, K, h, w, 1) entries of the list. Where there is one scale, its tags are kept
    whatever it is.
    """
    size = heatmaps.shape[2:] if final_heatmaps is None else final_heatmaps.shape[2:]
    if scale_factor == 1 or len(cfg.TEST.SCALE_FACTOR) == 1:
        tags_list = tags_list + [resize_maps(tag, size)[..., None] for tag in tags]
    heatmaps = resize_maps(heatmaps, size)
    return (heatmaps if final_heatmaps is None else final_heatmaps + heatmaps), tags_list


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
