"""HigherHRNet (Cheng et al., CVPR 2020): one HRNet, predictions at 1/4 and 1/2 of the input.

Attribute names are the format of published checkpoints.
"""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor, nn
from yacs.config import CfgNode

from lib.models.arch import ArchSpec
from lib.models.baselines.hrnet import (
    Bottleneck,
    Deconv,
    HigherHead,
    Stage,
    init_higher,
    make_stage,
    make_transition,
    widen,
)
from lib.models.baselines.hrnet_extra import read_extra, whole_number
from lib.models.pose_mobilenet import conv_bn

STEM_WIDTH = 64
STEM_BLOCKS = 4


class HigherHRNet(HigherHead):
    """images (B, 3, H, W), H and W multiples of 32 -> [(B, C0, H/4, W/4), (B, C1, H/2, W/2), ...].

    The channels of an output are K heatmaps, then the tag maps of the stages that have them.
    """

    def __init__(
        self,
        stem_planes: int,
        stages: Sequence[Stage],
        deconv: Deconv,
        out_channels: Sequence[int],
        final_kernel: int = 1,
    ) -> None:
        second, third, fourth = stages
        super().__init__(fourth.channels[0], deconv, out_channels, final_kernel)
        self.conv1, self.bn1 = conv_bn(3, STEM_WIDTH, 3, 2)
        self.conv2, self.bn2 = conv_bn(STEM_WIDTH, STEM_WIDTH, 3, 2)
        self.relu = nn.ReLU(inplace=True)
        stem_out = stem_planes * Bottleneck.expansion
        inputs = (STEM_WIDTH, *(stem_out,) * (STEM_BLOCKS - 1))
        self.layer1 = nn.Sequential(*(Bottleneck(width, stem_planes) for width in inputs))
        self.transition1 = make_transition((stem_out,), second.channels)
        self.stage2 = make_stage(second, outputs=2)
        self.transition2 = make_transition(second.channels, third.channels)
        self.stage3 = make_stage(third, outputs=3)
        self.transition3 = make_transition(third.channels, fourth.channels)
        self.stage4 = make_stage(fourth, outputs=1)
        # HRNets trained on ImageNet, a start for "backbone", end in other layers than this one.
        self.optional_weights = (
            *("incre_modules.", "downsamp_modules.", "classifier."),
            f"stage4.{fourth.modules - 1}.fuse_layers.",
        )
        init_higher(self)

    def forward(self, images: Tensor) -> list[Tensor]:
        x = self.relu(self.bn1(self.conv1(images)))
        x = self.layer1(self.relu(self.bn2(self.conv2(x))))
        maps = self.stage2(widen(self.transition1, [x]))
        maps = self.stage3(widen(self.transition2, maps))
        [finest] = self.stage4(widen(self.transition3, maps))
        return self.head(finest)


def get_pose_net(cfg: CfgNode, arch: ArchSpec | None = None) -> HigherHRNet:
    """The network that MODEL.EXTRA describes; there are no architecture files for it."""
    settings = read_extra(cfg, arch, own_keys=("STEM_INPLANES",))
    planes = whole_number(cfg.MODEL.EXTRA.STEM_INPLANES, "MODEL.EXTRA.STEM_INPLANES", 1)
    return HigherHRNet(planes, *settings)
