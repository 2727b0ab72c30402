"""A network as one graph for devices: from 8-bit images to the candidates that grouping needs.

Normalization, the flip test, the stages, up-sampling, non-maximum suppression and the codec are
part of the graph. It calls the functions of the evaluation where they can be traced; the rest is
written again below for tensors of fixed rank, without loops over peaks.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lib.codec import Codec
from lib.core.images import input_of, normalize, without_black_borders
from lib.core.inference import InferenceSettings, get_multi_stage_outputs


class CandidateGraph(nn.Module):
    """images (B, H, W, 3) uint8 RGB -> the M strongest peaks of each joint.

    positions (B, K, M, 2): x, y in pixels of the input; values (B, K, M), in descending order and
    not thresholded; tags (B, K, M, L). Where a map has fewer peaks, the last values are 0.
    """

    outputs: tuple[str, ...] = ("positions", "values", "tags")

    def __init__(self, settings: InferenceSettings, network: nn.Module) -> None:
        super().__init__()
        one_scale = list(settings.scale_factors) == [1]
        if not (one_scale and settings.adjust) or settings.group.ignore_too_much:
            raise ValueError("on devices TEST.SCALE_FACTOR is [1], ADJUST on, IGNORE_TOO_MUCH off")
        self.settings = settings
        self.network = network

    def forward(self, images: Tensor) -> tuple[Tensor, ...]:
        return self.candidates(images, *self.maps(images))

    def maps(self, images: Tensor) -> tuple[Tensor, list[Tensor]]:
        """Heatmaps (B, K, H, W) and tags, L times (B, K or 1, H, W), as in `network_maps`."""
        _, heatmaps, tags = get_multi_stage_outputs(
            self.settings,
            self.network,
            input_of(self.network, images),
            with_flip=self.settings.flip_test,
            project2image=self.settings.project2image,
            size_projected=(images.shape[2], images.shape[1]),
        )
        if self.settings.mask_borders:
            heatmaps = without_black_borders(heatmaps, images)
        return heatmaps, tags

    def candidates(
        self, images: Tensor, heatmaps: Tensor, tags: list[Tensor]
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Positions, values and tags of the strongest peaks."""
        codec, params = self.settings.codec, self.settings.group
        radius = codec.reach(params.nms_kernel // 2)
        peaks = local_maxima(heatmaps, radius).flatten(2)
        # Twice as many as wanted: half of them may be equal neighbors, which are dropped.
        values, address = peaks.topk(2 * params.max_people)  # address: y * W + x
        values = torch.where(is_first_of_equals(heatmaps, address, radius), values, 0.0)
        values, order = values.topk(params.max_people)
        address = address.gather(2, order)
        step = images.shape[2] // heatmaps.shape[3]  # pixels of the input per pixel of the map
        positions = subpixel(heatmaps, address, codec) * step
        tags_of_peaks = [at(tag.expand(-1, heatmaps.shape[1], -1, -1), address) for tag in tags]
        return positions, values, torch.stack(tags_of_peaks, dim=3)


class PixelGraph(CandidateGraph):
    """The same outputs, followed by those of all pixels, M = H * W, row by row.

    With these a device finds the joints that a person lacks exactly as the evaluation does.
    """

    outputs = (*CandidateGraph.outputs, "pixel_positions", "pixel_values", "pixel_tags")

    def forward(self, images: Tensor) -> tuple[Tensor, ...]:
        heatmaps, tags = self.maps(images)
        step = images.shape[2] // heatmaps.shape[3]
        positions = subpixel_everywhere(heatmaps, self.settings.codec) * step
        tags_of_pixels = torch.stack([tag.expand_as(heatmaps).flatten(2) for tag in tags], dim=3)
        candidates = self.candidates(images, heatmaps, tags)
        return *candidates, positions, heatmaps.flatten(2), tags_of_pixels


class OfPixels(nn.Module):
    """images (B, H, W, 3) uint8 RGB -> the network's outputs (B, C, h, w), coarse to fine."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(self, images: Tensor) -> tuple[Tensor, ...]:
        return tuple(self.network(normalize(images)))


class NetworkGraph(OfPixels):
    """The network alone, as one of the graphs."""

    def __init__(self, settings: InferenceSettings, network: nn.Module) -> None:
        super().__init__(network)
        self.settings = settings
        self.outputs = tuple(f"stage{i}" for i in range(len(settings.with_heatmaps)))


Graph = CandidateGraph | NetworkGraph
GRAPHS = {"candidates": CandidateGraph, "pixels": PixelGraph, "network": NetworkGraph}


def local_maxima(heatmaps: Tensor, radius: int) -> Tensor:
    """(B, K, H, W): `heatmaps` where no value within `radius` rows and columns is larger, else 0.

    Of equal neighbors all stay.
    """
    # Not "equal": values that are not numbers stay as well, so that they are reported.
    is_peak = ~(heatmaps < F.max_pool2d(heatmaps, 2 * radius + 1, 1, radius))
    return torch.where(is_peak, heatmaps, 0.0)


def is_first_of_equals(heatmaps: Tensor, address: Tensor, radius: int) -> Tensor:
    """(B, K, M): whether no earlier pixel within `radius` equals that at y * W + x (B, K, M).

    A peak between two pixels has two of the same value, above all where a device computes in half
    precision. For example, with radius 1, of a row 0 5 5 0 the second 5 is not the first.
    """
    height, width = heatmaps.shape[2:]
    y = address // width
    x = address - y * width
    values, is_first = at(heatmaps, address), torch.ones_like(address, dtype=torch.bool)
    for step in range((2 * radius + 1) ** 2 // 2):  # rows above, then to the left
        dy, dx = divmod(step, 2 * radius + 1)
        row, column = (y + dy - radius).clamp(min=0), (x + dx - radius).clamp(0, width - 1)
        other = row * width + column  # beyond the border: the nearest pixel, perhaps a later one
        is_first = is_first & ((at(heatmaps, other) != values) | (other >= address))
    return is_first


def at(maps: Tensor, address: Tensor) -> Tensor:
    """(B, K, H, W) read at y * W + x (B, K, M) -> (B, K, M)"""
    return maps.flatten(2).gather(2, address)


def subpixel(heatmaps: Tensor, address: Tensor, codec: Codec) -> Tensor:
    """Decoded positions (B, K, M, 2), in pixels of the map, of peaks at y * W + x (B, K, M)."""
    height, width = heatmaps.shape[2:]
    y = address // width
    x = address - y * width
    # Neighbors in both axes; at the border a pixel is its own neighbor.
    left, right = (y * width + (x + step).clamp(0, width - 1) for step in (-1, 1))
    above, below = ((y + step).clamp(0, height - 1) * width + x for step in (-1, 1))
    middle = at(heatmaps, address)
    dx = codec.axis_offset(at(heatmaps, left), middle, at(heatmaps, right))
    dy = codec.axis_offset(at(heatmaps, above), middle, at(heatmaps, below))
    return torch.stack([x + dx, y + dy], dim=3)


def subpixel_everywhere(heatmaps: Tensor, codec: Codec) -> Tensor:
    """`subpixel` (B, K, H * W, 2) of all pixels of `heatmaps` (B, K, H, W), row by row."""
    padded = F.pad(heatmaps, (1, 1, 1, 1), mode="replicate")  # a border pixel is its own neighbor
    left, right = padded[:, :, 1:-1, :-2], padded[:, :, 1:-1, 2:]
    above, below = padded[:, :, :-2, 1:-1], padded[:, :, 2:, 1:-1]
    x, y = (torch.arange(heatmaps.shape[axis]) for axis in (3, 2))
    dx = codec.axis_offset(left, heatmaps, right)
    dy = codec.axis_offset(above, heatmaps, below)
    # Not stacked as the last dimension: OpenVINO copies single numbers then.
    return torch.stack([x + dx, y[:, None] + dy], dim=2).flatten(3).transpose(2, 3)
