"""A network that knows the answer: what decoding could reach if every map were perfect."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor, nn
from yacs.config import CfgNode

from lib.core.inference import flip_index
from lib.dataset.reader import Picture
from lib.dataset.target_generators import heatmap_targets
from lib.utils.transforms import get_multi_scale_size, warp_matrix

TAG_STEP = 10.0  # between two people; far beyond any tag threshold
STRIDES = (4, 2)  # of the outputs, coarse to fine


class Oracle(nn.Module):
    """In place of a network: `look_at(picture)`, then outputs are its ideal maps.

    The heatmaps are the training targets of the labelled joints; at every pixel the tag is that
    of the person whose Gaussian is the highest there.
    """

    def __init__(
        self,
        input_size: int,
        scale_type: str,
        with_tags: Sequence[bool],
        sigma: float,
        swap: Sequence[int],
    ) -> None:
        """`swap`: the mirror image of each joint; the others as the config keys."""
        super().__init__()
        self.input_size = input_size
        self.scale_type = scale_type
        self.with_tags = list(with_tags)
        self.sigma = sigma
        self.swap = list(swap)
        self.device = nn.Parameter(torch.zeros(()), requires_grad=False)

    @classmethod
    def from_config(cls, cfg: CfgNode) -> Oracle:
        """Maps as the network of `cfg` would give them at best."""
        if cfg.DATASET.WITH_CENTER or not cfg.MODEL.TAG_PER_JOINT:
            raise ValueError("the oracle knows no WITH_CENTER and needs TAG_PER_JOINT")
        return cls(
            *(cfg.DATASET.INPUT_SIZE, cfg.TEST.SCALE_TYPE),
            *(cfg.LOSS.WITH_AE_LOSS, float(cfg.DATASET.SIGMA), flip_index(cfg)),
        )

    def look_at(self, picture: Picture) -> None:
        """The picture that the next inputs show."""
        self.picture = picture

    def forward(self, images: Tensor) -> list[Tensor]:
        """images: (1 or 2, 3, H, W), the second the mirror image of the first."""
        outputs = []
        for stride, with_tags in zip(STRIDES, self.with_tags, strict=True):
            height, width = images.shape[2] // stride, images.shape[3] // stride
            heatmaps, tags = self._maps(height, width)
            own = torch.cat([heatmaps, tags]) if with_tags else heatmaps
            groups = [heatmaps, tags] if with_tags else [heatmaps]
            mirrored = torch.cat([maps[self.swap].flip(2) for maps in groups])
            outputs.append(torch.stack([own, mirrored][: len(images)]))
        return outputs

    def _maps(self, height: int, width: int) -> tuple[Tensor, Tensor]:
        """Ideal heatmaps and tags, (K, height, width) each."""
        joints = self._joints_on(height, width)[:, None]  # (P, 1, K, 3)
        if len(joints) == 0:
            empty = torch.zeros(len(self.swap), height, width)
            return empty, empty
        sigma = self.sigma if self.sigma > 0 else min(height, width) / 64
        alone = heatmap_targets(joints, torch.full(joints.shape[:2], sigma), (height, width))
        heatmaps, nearest = alone.max(dim=0)  # over people
        return heatmaps, nearest * TAG_STEP

    def _joints_on(self, height: int, width: int) -> Tensor:
        """(P, K, 3): the picture's joints on the map that a test at scale 1 makes of it."""
        canvas = np.empty((self.picture.height, self.picture.width, 0))
        _, center, scale = get_multi_scale_size(canvas, self.input_size, 1, 1, self.scale_type)
        matrix = warp_matrix(center, scale, (width, height))
        joints = self.picture.joints.astype(np.float64)
        joints[..., :2] = joints[..., :2] @ matrix[:, :2].T + matrix[:, 2]
        return torch.from_numpy(joints)
