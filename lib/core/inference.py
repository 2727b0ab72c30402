"""Inference: maps of all stages and scales and of the flipped image, then grouping into people.

Function names and results are HigherHRNet's. `predict` does everything for one image. Its three
steps can also run separately: `prepare` in a loader process, `network_maps` on the device for a
batch, `find_people` in a thread.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property, reduce
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor, nn
from yacs.config import CfgNode

from lib.codec import Codec
from lib.core.group import Grouped, GroupParams, HeatmapParser
from lib.core.images import input_of, resize_maps, tag_dimensions, without_black_borders
from lib.core.maps import can_enlarge, maps_of
from lib.keypoints import KeypointSpec, keypoints_of
from lib.utils.device import half_precision
from lib.utils.transforms import get_final_preds, get_multi_scale_size, resize_align_multi_scale

MAX_SIDE = 2**15  # pixels of an input's side; the input of a very narrow image would be huge


@dataclass(frozen=True)
class InferenceSettings:
    """How a network is run and its maps are decoded: TEST.* and the keys that these depend on."""

    spec: KeypointSpec  # the network's joints, without a center
    group: GroupParams  # grouping, and the codec
    num_joints: int  # K, heatmaps of the network; includes the center joint, if there is one
    input_size: int  # pixels of the input's short or long side (scale_type)
    with_heatmaps: tuple[bool, ...]  # per output stage: whether its heatmaps are averaged
    with_ae: tuple[bool, ...]  # per output stage: whether its tags are used
    with_center: bool = False
    ignore_center: bool = False  # the center is predicted, but not grouped
    scale_type: str = "short"
    scale_factors: tuple[float, ...] = (1.0,)
    flip_test: bool = True
    mask_borders: bool = False  # no joints in rows and columns of the input that are all black
    project2image: bool = True  # decode maps of the input's size, unless the codec is native
    adjust: bool = True  # decode sub-pixel positions of peaks
    refine: bool = True  # search missing joints of each person on its heatmap
    half_precision: bool = False  # on a GPU
    scored: tuple[int, ...] | None = None  # joints that people consist of, in order; None: all

    @classmethod
    def from_config(cls, cfg: CfgNode) -> InferenceSettings:
        test = cfg.TEST
        group = GroupParams.from_config(cfg)
        return cls(
            spec=keypoints_of(cfg, is_train=False),
            group=group,
            num_joints=cfg.MODEL.NUM_JOINTS,
            input_size=cfg.DATASET.INPUT_SIZE,
            with_heatmaps=tuple(test.WITH_HEATMAPS),
            with_ae=tuple(test.WITH_AE),
            with_center=cfg.DATASET.WITH_CENTER,
            ignore_center=test.IGNORE_CENTER,
            scale_type=test.SCALE_TYPE,
            scale_factors=tuple(test.SCALE_FACTOR),
            flip_test=test.FLIP_TEST,
            mask_borders=test.MASK_BORDERS,
            project2image=test.PROJECT2IMAGE and not group.codec.native,
            adjust=test.ADJUST,
            refine=test.REFINE,
            half_precision=cfg.FP16.ENABLED,
        )

    @property
    def codec(self) -> Codec:
        return self.group.codec

    @property
    def tag_per_joint(self) -> bool:
        return self.group.tag_per_joint

    @cached_property
    def flip_index(self) -> list[int]:
        """Index of each joint's left-right counterpart, for all K heatmaps of the network."""
        return (self.spec.with_center() if self.with_center else self.spec).flip_index

    @cached_property
    def parser(self) -> HeatmapParser:
        return HeatmapParser(self)

    def geometry(
        self, width: int, height: int, factor: float = 1.0
    ) -> tuple[tuple[int, int], np.ndarray, np.ndarray]:
        """Input size (width, height), center and scale of an image at test scale `factor`."""
        canvas = np.empty((height, width, 0))
        min_scale = min(self.scale_factors)
        return get_multi_scale_size(canvas, self.input_size, factor, min_scale, self.scale_type)


Settings = InferenceSettings | CfgNode


def settings_of(settings: Settings) -> InferenceSettings:
    """`settings` itself, or the InferenceSettings of a config (calls in HigherHRNet's style)."""
    if isinstance(settings, InferenceSettings):
        return settings
    return InferenceSettings.from_config(settings)


class Input(NamedTuple):
    """An image at all test scales, and the geometry that maps people back to the image."""

    images: tuple[Tensor, ...]  # (H, W, 3) uint8 RGB, one per scale, the largest first
    base_size: tuple[int, int]  # (width, height) of projected maps: the input size at scale 1
    center: np.ndarray
    scale: np.ndarray


def predict(
    settings: Settings, model: nn.Module, image: np.ndarray
) -> tuple[np.ndarray, list[float]]:
    """People (N, K, 3 + L) in the pixels of `image` (H, W, 3) uint8 RGB, and their N scores.

    A joint is x, y, its score and its L tags; a missing joint has score 0.
    """
    settings = settings_of(settings)
    prepared = prepare(settings, image)
    heatmaps, tags = network_maps(settings, model, [prepared], project=False)
    people, scores, _ = find_people(settings, heatmaps, tags, prepared)
    return people, scores


def prepare(settings: InferenceSettings, image: np.ndarray) -> Input:
    """The network's input for `image` (H, W, 3) uint8 RGB at all test scales; on the CPU.

    ValueError if a side of the input would exceed MAX_SIDE, as for a very narrow image.
    """
    height, width = image.shape[:2]
    base_size, center, scale = settings.geometry(width, height)
    largest, _, _ = settings.geometry(width, height, max(settings.scale_factors))
    if max(largest) > MAX_SIDE:
        raise ValueError(
            f"{width} x {height} pixels become an input of {largest[0]} x {largest[1]}; "
            f"at most {MAX_SIDE} are possible"
        )
    images = []
    for factor in sorted(settings.scale_factors, reverse=True):
        resized, _, _ = resize_align_multi_scale(
            image,
            input_size=settings.input_size,
            current_scale=factor,
            min_scale=min(settings.scale_factors),
            scale_type=settings.scale_type,
            pixel_center=settings.codec.pixel_center,
        )
        images.append(torch.from_numpy(resized))
    return Input(tuple(images), base_size, center, scale)


@torch.inference_mode()
def network_maps(
    settings: InferenceSettings, model: nn.Module, inputs: Sequence[Input], project: bool = True
) -> tuple[Tensor, Tensor]:
    """Heatmaps (B, K, H, W) and tags (B, K, H, W, L) of B inputs of equal sizes, over all scales.

    The map of each joint is contiguous. With `half_precision` the network runs in
    float16 on a CUDA GPU; maps are float32. They are on that GPU, else on the CPU. project: False
    leaves maps on the CPU at the network's size where `find_people` can enlarge them, which is
    faster.
    """
    device = next(model.parameters()).device
    on_gpu = device.type == "cuda"
    project |= on_gpu or settings.mask_borders or len(settings.scale_factors) > 1
    final_heatmaps, tags_list = None, []
    for i, factor in enumerate(sorted(settings.scale_factors, reverse=True)):
        pixels = torch.stack([one.images[i] for one in inputs]).to(device)
        with half_precision(device, settings.half_precision and on_gpu):
            _, heatmaps, tags = get_multi_stage_outputs(
                settings,
                model,
                input_of(model, pixels),
                with_flip=settings.flip_test,
                project2image=settings.project2image and project,
                size_projected=inputs[0].base_size,
            )
        size = inputs[0].base_size[::-1]
        if settings.project2image and not (project or can_enlarge(heatmaps.shape[2:], size)):
            heatmaps, *tags = (resize_maps(one, size) for one in (heatmaps, *tags))
        if settings.mask_borders:
            heatmaps = without_black_borders(heatmaps, pixels)
        final_heatmaps, tags_list = aggregate_results(
            settings, factor, final_heatmaps, tags_list, heatmaps, tags
        )
    assert final_heatmaps is not None  # there is at least one scale
    tags = torch.stack([tag[..., 0] for tag in tags_list], dim=1)  # (B, L, K, H, W)
    final_heatmaps, tags = final_heatmaps / len(settings.scale_factors), tags.movedim(1, 4)
    return (final_heatmaps, tags) if on_gpu else (final_heatmaps.cpu(), tags.cpu())


@torch.inference_mode()
def find_people(
    settings: InferenceSettings,
    heatmaps: Tensor,
    tags: Tensor,
    prepared: Input,
    min_score: float = 0.0,
) -> Grouped:
    """People in pixels of the image from heatmaps (1, K, H, W) and tags (1, K, H, W, L).

    People below `min_score` are left out, before their missing joints are searched. Maps that
    `network_maps` has not projected are enlarged to the input's size.
    """
    size = (heatmaps.shape[3], heatmaps.shape[2])
    is_small = settings.project2image and can_enlarge(size, prepared.base_size)
    enlarge = prepared.base_size[0] // size[0] if is_small else 1
    size = size[0] * enlarge, size[1] * enlarge
    maps = maps_of(heatmaps[0], tags[0], enlarge)
    grouped = settings.parser.group(maps, settings.adjust, settings.refine, min_score)
    people = get_final_preds(
        [grouped.people], prepared.center, prepared.scale, size, settings.codec.pixel_center
    )
    joints = np.array(people, np.float32).reshape(grouped.people.shape)
    return grouped._replace(
        people=joints if settings.scored is None else joints[:, settings.scored]
    )


def get_multi_stage_outputs(
    settings: Settings,
    model: nn.Module,
    image: Tensor,
    with_flip: bool = False,
    project2image: bool = False,
    size_projected: Sequence[int] | None = None,
) -> tuple[list[Tensor], Tensor, list[Tensor]]:
    """Raw outputs, heatmaps and tags of `image` (B, 3, H, W).

    Raw outputs: one tensor per stage; with_flip: (2B, ...), those of the flipped images last.
    Heatmaps: (B, K, h, w), averaged over the stages of `with_heatmaps` and over the flip.
    Tags: a list of (B, K or 1, h, w), one per stage of `with_ae` and dimension, then the flip's.
    Maps of the flip are flipped back and left and right joints are swapped. h, w: the size of the
    finest map, or `size_projected` (width, height) with `project2image`. Maps are float32.
    """
    settings = settings_of(settings)
    outputs = model(torch.cat([image, image.flip(3)]) if with_flip else image)
    maps = [output.float().contiguous() for output in outputs]
    resized = [resize_maps(output, maps[-1].shape[2:]) for output in maps]
    batch = image.shape[0]  # not len(image): that would be a constant of an exported graph
    heatmaps, tags = stage_maps(settings, [output[:batch] for output in resized])
    if with_flip:
        swap = settings.flip_index
        flipped_back = [output[batch:].flip(3) for output in resized]
        flip_heatmaps, flip_tags = stage_maps(settings, flipped_back)
        heatmaps = (heatmaps + flip_heatmaps[:, swap]) / 2
        tags += [tag[:, swap] if settings.tag_per_joint else tag for tag in flip_tags]
    if settings.with_center and settings.ignore_center:
        heatmaps = heatmaps[:, :-1]
        tags = [tag[:, :-1] if settings.tag_per_joint else tag for tag in tags]
    if project2image and size_projected is not None:
        size = (size_projected[1], size_projected[0])
        heatmaps = resize_maps(heatmaps, size)
        tags = [resize_maps(tag, size) for tag in tags]
    return outputs, heatmaps, tags


def aggregate_results(
    settings: Settings,
    scale_factor: float,
    final_heatmaps: Tensor | None,
    tags_list: list[Tensor],
    heatmaps: Tensor,
    tags: Sequence[Tensor],
) -> tuple[Tensor, list[Tensor]]:
    """Add the maps of one test scale: heatmaps are summed over scales, tags are of scale 1 only.

    Tags are appended to the list as (B, K or 1, h, w, 1). If there is one scale, its tags are used.
    """
    size = heatmaps.shape[2:] if final_heatmaps is None else final_heatmaps.shape[2:]
    if scale_factor == 1 or len(settings_of(settings).scale_factors) == 1:
        tags_list = tags_list + [resize_maps(tag, size)[..., None] for tag in tags]
    heatmaps = resize_maps(heatmaps, size)
    return (heatmaps if final_heatmaps is None else final_heatmaps + heatmaps), tags_list


def stage_maps(
    settings: InferenceSettings, outputs: Sequence[Tensor]
) -> tuple[Tensor, list[Tensor]]:
    """Mean heatmaps over the stages of `with_heatmaps`, and the tags of the stages of `with_ae`.

    outputs: (B, C, h, w) per stage, resized to one size. Tags: as in `get_multi_stage_outputs`.
    """
    joints = settings.num_joints
    stages = list(zip(outputs, settings.with_heatmaps, settings.with_ae, strict=True))
    heatmaps = [output[:, :joints] for output, used, _ in stages if used]
    tags = [tag_dimensions(output[:, joints:], joints) for output, _, used in stages if used]
    return reduce(torch.add, heatmaps) / len(heatmaps), sum(tags, [])
