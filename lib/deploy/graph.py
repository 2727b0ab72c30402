"""A network as a device runs it: from 8-bit pictures to the few numbers that grouping needs.

Normalization, the mirror image, stages, the enlargement of maps, their peaks and the codec are in
the graph, and computed by the functions of the evaluation where they can be traced.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from yacs.config import CfgNode

from lib.codec import codec_of
from lib.core.images import normalize
from lib.core.inference import InferenceSettings, get_multi_stage_outputs

AxisOffset = Callable[[Tensor, Tensor, Tensor], Tensor]  # values before, at and after a peak


class CandidateGraph(nn.Module):
    """pictures (B, H, W, 3) uint8 RGB -> the M strongest peaks of each joint, however weak.

    positions (B, K, M, 2): x, y in pixels of the input; values (B, K, M), falling; tags
    (B, K, M, L). Where a map has fewer peaks, values at the end are 0.
    """

    outputs: tuple[str, ...] = ("positions", "values", "tags")

    def __init__(self, cfg: CfgNode, network: nn.Module) -> None:
        super().__init__()
        test = cfg.TEST
        if list(test.SCALE_FACTOR) != [1] or not test.ADJUST or test.IGNORE_TOO_MUCH:
            raise ValueError("on devices TEST.SCALE_FACTOR is [1], ADJUST on, IGNORE_TOO_MUCH off")
        self.cfg = cfg
        self.settings = InferenceSettings.from_config(cfg)
        self.network = network

    def forward(self, pictures: Tensor) -> tuple[Tensor, ...]:
        return self.candidates(pictures, *self.maps(pictures))

    def maps(self, pictures: Tensor) -> tuple[Tensor, list[Tensor]]:
        """Heatmaps (B, K, H, W) and tags, L times (B, K or 1, H, W), as `network_maps` has them."""
        size = (pictures.shape[2], pictures.shape[1])
        _, heatmaps, tags = get_multi_stage_outputs(
            self.settings,
            self.network,
            normalize(pictures),
            with_flip=self.settings.flip_test,
            project2image=self.settings.project2image,
            size_projected=size,
        )
        return heatmaps, tags

    def candidates(
        self, pictures: Tensor, heatmaps: Tensor, tags: list[Tensor]
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Positions, values and tags of the strongest peaks."""
        codec = codec_of(self.cfg)
        reach = codec.reach(self.cfg.TEST.NMS_KERNEL // 2)
        peaks = local_maxima(heatmaps, reach, first_of_equals=codec.native)
        values, address = peaks.flatten(2).topk(self.cfg.DATASET.MAX_NUM_PEOPLE)
        positions, own_tags = self.read(pictures, heatmaps, tags, address)
        return positions, values, own_tags

    def read(
        self, pictures: Tensor, heatmaps: Tensor, tags: list[Tensor], address: Tensor
    ) -> tuple[Tensor, Tensor]:
        """Positions (B, K, M, 2) and tags (B, K, M, L) of the pixels at `address` (B, K, M)."""
        step = pictures.shape[2] // heatmaps.shape[3]
        xy = subpixel(heatmaps, address, codec_of(self.cfg).axis_offset)
        wanted = [at(tag.expand(-1, heatmaps.shape[1], -1, -1), address) for tag in tags]
        return xy * step, torch.stack(wanted, dim=3)


class PixelGraph(CandidateGraph):
    """The same, and after them the same of all pixels, M = H * W, row by row.

    With these a device finds the joints that a person lacks exactly as the evaluation does.
    """

    outputs = (*CandidateGraph.outputs, "pixel_positions", "pixel_values", "pixel_tags")

    def forward(self, pictures: Tensor) -> tuple[Tensor, ...]:
        heatmaps, tags = self.maps(pictures)
        step = pictures.shape[2] // heatmaps.shape[3]
        positions = subpixel_everywhere(heatmaps, codec_of(self.cfg).axis_offset) * step
        own_tags = torch.stack([tag.expand_as(heatmaps).flatten(2) for tag in tags], dim=3)
        candidates = self.candidates(pictures, heatmaps, tags)
        return *candidates, positions, heatmaps.flatten(2), own_tags


class NetworkGraph(nn.Module):
    """pictures (B, H, W, 3) uint8 RGB -> the network's outputs (B, C, h, w), coarse to fine."""

    def __init__(self, cfg: CfgNode, network: nn.Module) -> None:
        super().__init__()
        self.network = network
        self.outputs = tuple(f"stage{i}" for i in range(cfg.LOSS.NUM_STAGES))

    def forward(self, pictures: Tensor) -> tuple[Tensor, ...]:
        return tuple(self.network(normalize(pictures)))


GRAPHS = {"candidates": CandidateGraph, "pixels": PixelGraph, "network": NetworkGraph}


def local_maxima(heatmaps: Tensor, radius: int, first_of_equals: bool) -> Tensor:
    """(B, K, H, W): `heatmaps` where nothing within `radius` rows and columns exceeds, else 0.

    With `first_of_equals`, of equal neighbors only the first row by row stays.
    """
    side = 2 * radius + 1
    is_peak = heatmaps == F.max_pool2d(heatmaps, side, 1, radius)
    if first_of_equals:
        height, width = heatmaps.shape[2:]
        padded = F.pad(heatmaps, (radius,) * 4, value=-torch.inf)
        for step in range(side * side // 2):  # those before the middle
            dy, dx = divmod(step, side)
            is_peak = is_peak & (heatmaps != padded[:, :, dy : dy + height, dx : dx + width])
    return torch.where(is_peak, heatmaps, 0.0)


def at(maps: Tensor, address: Tensor) -> Tensor:
    """(B, K, H, W) read at y * W + x (B, K, M) -> (B, K, M)"""
    return maps.flatten(2).gather(2, address)


def subpixel(heatmaps: Tensor, address: Tensor, offset: AxisOffset) -> Tensor:
    """Where joints are, (B, K, M, 2) in pixels of the map, around peaks at y * W + x (B, K, M)."""
    height, width = heatmaps.shape[2:]
    y = address // width
    x = address - y * width
    middle = at(heatmaps, address)
    left, right = (y * width + (x + step).clamp(0, width - 1) for step in (-1, 1))
    above, below = ((y + step).clamp(0, height - 1) * width + x for step in (-1, 1))
    dx = offset(at(heatmaps, left), middle, at(heatmaps, right))
    dy = offset(at(heatmaps, above), middle, at(heatmaps, below))
    return torch.stack([x + dx, y + dy], dim=3)


def subpixel_everywhere(heatmaps: Tensor, offset: AxisOffset) -> Tensor:
    """The same (B, K, H * W, 2) around all pixels of `heatmaps` (B, K, H, W), row by row."""
    (left, right), (above, below) = (neighbors(heatmaps, axis) for axis in (3, 2))
    x, y = (torch.arange(heatmaps.shape[axis]) for axis in (3, 2))
    dx, dy = offset(left, heatmaps, right), offset(above, heatmaps, below)
    return torch.stack([x + dx, y[:, None] + dy], dim=4).flatten(2, 3)


def neighbors(maps: Tensor, axis: int) -> tuple[Tensor, Tensor]:
    """`maps` a pixel before and a pixel after along `axis`; beyond the border, its own."""
    length = maps.shape[axis]
    first, last = maps.narrow(axis, 0, 1), maps.narrow(axis, length - 1, 1)
    before = torch.cat([first, maps.narrow(axis, 0, length - 1)], axis)
    return before, torch.cat([maps.narrow(axis, 1, length - 1), last], axis)
