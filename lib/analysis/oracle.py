"""Ground-truth maps in place of a network's: what heatmaps, tags and the decoder could reach."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor, nn
from yacs.config import CfgNode

from lib.core.inference import InferenceSettings
from lib.dataset.image_files import ImageRecord
from lib.dataset.pose_dataset import add_center
from lib.dataset.target_generators import heatmap_targets
from lib.utils.transforms import warp_matrix

MODES = ("both", "heatmaps", "tags")  # the maps that ground truth replaces
TAG_STEP = 10.0  # between two people; far beyond any tag threshold
TAG_BASE = 100.0  # below the first person; far beyond the tags of a network
TAG_SLOPE = 0.2  # over a map: grouping identifies people by the first tag of their first joint
STRIDES = (4, 2)  # of the outputs, coarse to fine


class ZeroNetwork(nn.Module):
    """A network whose outputs have the usual shapes and are 0."""

    def __init__(self, channels: Sequence[int]) -> None:
        """`channels`: of each output."""
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
    """A network's outputs with ground-truth maps in place of those named by `mode`.

    `set_records` must have the annotations of the images of the next `forward`. Ground-truth
    heatmaps are the training targets. A ground-truth tag is that of the person whose Gaussian is
    the highest at the pixel; where no Gaussian is, the network's tag stays, so that false peaks
    form separate people.
    """

    def __init__(
        self,
        settings: InferenceSettings,
        network: nn.Module,
        mode: str,
        sigma: float,  # DATASET.SIGMA
    ) -> None:
        super().__init__()
        if mode not in MODES:
            raise ValueError(f"the oracle's mode is {mode!r}; known modes: {MODES}")
        self.settings = settings
        self.network = network
        self.mode = mode
        self.sigma = sigma
        self.records: Sequence[ImageRecord] = ()

    @classmethod
    def from_config(
        cls, cfg: CfgNode, network: nn.Module | None = None, mode: str = "both"
    ) -> Oracle:
        """On the outputs of `network`; None: of a ZeroNetwork."""
        settings = InferenceSettings.from_config(cfg)
        joints = settings.num_joints
        tags = joints * cfg.MODEL.AE_TAG_DIMS if settings.tag_per_joint else 1
        if network is None:
            network = ZeroNetwork([joints + tags * has_tags for has_tags in cfg.LOSS.WITH_AE_LOSS])
        return cls(settings, network, mode, float(cfg.DATASET.SIGMA))

    def set_records(self, records: Sequence[ImageRecord]) -> None:
        """The annotations of the next batch of images."""
        self.records = records

    def forward(self, images: Tensor) -> list[Tensor]:
        """images: (B, 3, H, W) of the B records; their flips may follow, (2B, 3, H, W)."""
        return [self._replace(output.float()) for output in self.network(images)]

    def _replace(self, output: Tensor) -> Tensor:
        """(B or 2B, C, h, w), K heatmaps and then tags -> the same with ground-truth maps."""
        joints, size = self.settings.num_joints, (output.shape[2], output.shape[3])
        people = [self._gaussians(record, size).to(output.device) for record in self.records]
        if len(output) > len(people):
            swap = self.settings.flip_index
            people += [gaussians[:, swap].flip(3) for gaussians in people]
        maps = []
        for predicted, gaussians in zip(output, people, strict=True):
            heatmaps, tags = predicted[:joints], predicted[joints:]
            if self.mode != "tags":
                heatmaps = gaussians.amax(dim=0)
            if self.mode != "heatmaps" and len(tags):
                # With a network's heatmaps, equal tags must not be all that identifies a person.
                slope = TAG_SLOPE if self.mode == "tags" else 0.0
                exact = ground_truth_tags(gaussians, min(len(tags), joints), slope)
                exact = exact.repeat(len(tags) // len(exact), 1, 1)  # equal in all dimensions
                tags = torch.where(exact > 0, exact, tags)
            maps.append(torch.cat([heatmaps, tags]))
        return torch.stack(maps)

    def _gaussians(self, record: ImageRecord, size: tuple[int, int]) -> Tensor:
        """(1 + P, K, h, w): empty maps, then the training targets of each person alone."""
        joints = self._joints_on(record, size)[:, None]  # (P, 1, K, 3)
        sigma = self.sigma if self.sigma > 0 else min(size) / 64
        sigmas = torch.full(joints.shape[:2], sigma)
        alone = heatmap_targets(joints, sigmas, size, self.settings.codec)
        return torch.cat([alone.new_zeros(1, *alone.shape[1:]), alone])

    def _joints_on(self, record: ImageRecord, size: tuple[int, int]) -> Tensor:
        """(P, K, 3): the annotated joints on a map of `size` (height, width)."""
        settings = self.settings
        _, center, scale = settings.geometry(record.width, record.height)
        matrix = warp_matrix(center, scale, (size[1], size[0]))
        joints = add_center(record.joints) if settings.with_center else record.joints
        joints = joints.astype(np.float64)
        xy = joints[..., :2] + settings.codec.pixel_center
        joints[..., :2] = xy @ matrix[:, :2].T + matrix[:, 2]
        return torch.from_numpy(joints)


def ground_truth_tags(gaussians: Tensor, num_tags: int, slope: float = 0.0) -> Tensor:
    """(1 + P, K, h, w), empty maps first -> (`num_tags`, h, w): tags of pixels; 0: of nobody.

    num_tags is K or 1. A person's tags rise by `slope` over the map, so that they differ from
    pixel to pixel: grouping replaces a person's joint by a candidate whose tag equals that of the
    first joint exactly.
    """
    if num_tags == 1:
        gaussians = gaussians.amax(dim=1, keepdim=True)
    owner = gaussians.max(dim=0).indices  # the first of equals: 0, nobody, where all are 0
    height, width = owner.shape[1:]
    rise = torch.linspace(0, slope, height * width, device=owner.device).view(height, width)
    return torch.where(owner > 0, TAG_BASE + TAG_STEP * owner + rise, 0.0)
