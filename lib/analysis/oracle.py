"""A network that knows the answer: what heatmaps, tags and the decoding of both could reach."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor, nn
from yacs.config import CfgNode

from lib.codec import REFERENCE, Codec, codec_of
from lib.core.inference import InferenceSettings
from lib.dataset.pose_dataset import add_center
from lib.dataset.reader import ImageRecord
from lib.dataset.target_generators import heatmap_targets
from lib.utils.transforms import get_multi_scale_size, warp_matrix

MODES = ("both", "heatmaps", "tags")  # what the truth replaces
TAG_STEP = 10.0  # between two people; far beyond any tag threshold
TAG_BASE = 100.0  # below the first person; far beyond what a network says
TAG_SLOPE = 0.2  # over a map: grouping knows people by the very tag that founded them
STRIDES = (4, 2)  # of the outputs, coarse to fine


class Blind(nn.Module):
    """A network that sees nothing: outputs in the usual shapes, all of them 0."""

    def __init__(self, channels: Sequence[int]) -> None:
        """One number per output."""
        super().__init__()
        self.channels = list(channels)
        self.device = nn.Parameter(torch.zeros(()), requires_grad=False)

    def forward(self, images: Tensor) -> list[Tensor]:
        batch, _, height, width = images.shape
        return [
            images.new_zeros(batch, channels, height // stride, width // stride)
            for channels, stride in zip(self.channels, STRIDES, strict=True)
        ]


class Oracle(nn.Module):
    """A network's outputs with ground-truth maps of `set_records` in place of those of `mode`.

    Ideal heatmaps are the training targets of the labelled joints. An ideal tag is that of the
    person whose Gaussian is the highest there; where there is none, the network's tag stays, so
    what is found away from labelled joints forms people of its own.
    """

    def __init__(
        self,
        network: nn.Module,
        mode: str,
        swap: Sequence[int],
        *,
        input_size: int,
        scale_type: str,
        min_scale: float = 1.0,
        sigma: float = 2.0,
        with_center: bool = False,
        codec: Codec = REFERENCE,
    ) -> None:
        """`swap`: the mirror image of each joint; what follows as the config keys."""
        super().__init__()
        if mode not in MODES:
            raise ValueError(f"the oracle's mode is {mode!r}; known modes: {MODES}")
        self.network = network
        self.mode = mode
        self.swap = list(swap)
        self.input_size = input_size
        self.scale_type = scale_type
        self.min_scale = min_scale
        self.sigma = sigma
        self.with_center = with_center
        self.codec = codec
        self.pictures: tuple[ImageRecord, ...] = ()

    @classmethod
    def from_config(
        cls, cfg: CfgNode, network: nn.Module | None = None, mode: str = "both"
    ) -> Oracle:
        """In front of `network`, or of one that sees nothing where that is None."""
        joints = cfg.MODEL.NUM_JOINTS
        tags = joints if cfg.MODEL.TAG_PER_JOINT else 1
        return cls(
            network or Blind([joints + tags * has_tags for has_tags in cfg.LOSS.WITH_AE_LOSS]),
            mode,
            InferenceSettings.from_config(cfg).flip_index,
            input_size=cfg.DATASET.INPUT_SIZE,
            scale_type=cfg.TEST.SCALE_TYPE,
            min_scale=min(cfg.TEST.SCALE_FACTOR),
            sigma=float(cfg.DATASET.SIGMA),
            with_center=cfg.DATASET.WITH_CENTER,
            codec=codec_of(cfg),
        )

    def set_records(self, *pictures: ImageRecord) -> None:
        """The pictures that the next inputs show."""
        self.pictures = pictures

    def forward(self, images: Tensor) -> list[Tensor]:
        """images: (B, 3, H, W) of the B pictures; their mirror images may follow, (2B, 3, H, W)."""
        return [self._replace(output.float()) for output in self.network(images)]

    def _replace(self, output: Tensor) -> Tensor:
        """(B or 2B, C, h, w), K heatmaps and then tags -> the same with ideal maps."""
        joints, size = len(self.swap), tuple(output.shape[2:])
        people = [self._gaussians(picture, size).to(output.device) for picture in self.pictures]
        if len(output) > len(people):
            people += [gaussians[:, self.swap].flip(3) for gaussians in people]
        maps = []
        for own, gaussians in zip(output, people, strict=True):
            heatmaps, tags = own[:joints], own[joints:]
            if self.mode != "tags":
                heatmaps = gaussians.amax(dim=0)
            if self.mode != "heatmaps" and len(tags):
                # Among heatmaps of a network, people must not be told apart by equal tags alone.
                slope = TAG_SLOPE if self.mode == "tags" else 0.0
                ideal = ideal_tags(gaussians, len(tags), slope)
                tags = torch.where(ideal > 0, ideal, tags)
            maps.append(torch.cat([heatmaps, tags]))
        return torch.stack(maps)

    def _gaussians(self, picture: ImageRecord, size: tuple[int, int]) -> Tensor:
        """(1 + P, K, h, w): the training targets of nobody, then of each person alone."""
        joints = self._joints_on(picture, size)[:, None]  # (P, 1, K, 3)
        sigma = self.sigma if self.sigma > 0 else min(size) / 64
        alone = heatmap_targets(joints, torch.full(joints.shape[:2], sigma), size, self.codec)
        return torch.cat([alone.new_zeros(1, *alone.shape[1:]), alone])

    def _joints_on(self, picture: ImageRecord, size: tuple[int, int]) -> Tensor:
        """(P, K, 3): the picture's joints on a map of `size` (height, width) of the test."""
        canvas = np.empty((picture.height, picture.width, 0))
        _, center, scale = get_multi_scale_size(
            *(canvas, self.input_size, 1.0, self.min_scale, self.scale_type)
        )
        matrix = warp_matrix(center, scale, (size[1], size[0]))
        joints = add_center(picture.joints) if self.with_center else picture.joints
        joints = joints.astype(np.float64)
        places = joints[..., :2] + self.codec.pixel_center
        joints[..., :2] = places @ matrix[:, :2].T + matrix[:, 2]
        return torch.from_numpy(joints)


def ideal_tags(gaussians: Tensor, num_tags: int, slope: float = 0.0) -> Tensor:
    """(1 + P, K, h, w), nobody first -> (`num_tags`, h, w), K or 1: each pixel's tag; 0: nobody's.

    A person's tags rise by `slope` over the map, so that no two of them far apart are the same: a
    second candidate with the founder's very tag would take the place of the first.
    """
    if num_tags == 1:
        gaussians = gaussians.amax(dim=1, keepdim=True)
    owner = gaussians.max(dim=0).indices  # the first of equals, so nobody where all are 0
    height, width = owner.shape[1:]
    rise = torch.linspace(0, slope, height * width, device=owner.device).view(height, width)
    return torch.where(owner > 0, TAG_BASE + TAG_STEP * owner + rise, 0.0)
