"""HigherHRNet (Cheng et al., CVPR 2020), and the gradual shrinking that led to LitePose.

One HRNet, and predictions at 1/4 and 1/2 of the input. Attribute names are the format of
published checkpoints.

The paper (section 3.2) asks how much the high-resolution branches of a small HigherHRNet
contribute. It removes residual blocks step by step, more from the finer branches than from the
coarser ones (experiments/crowd_pose/higher_hrnet/*.yaml; AP on CrowdPose test as published):

    yaml       blocks per branch in stage 2, 3, 4     base width   GMACs     AP
    w16        4 4     4 4 4     4 4 4 4                      16    12.5   50.4
    shrink_1   3 4     2 3 4     1 2 3 4                      16    10.1   51.0
    shrink_2   1 4     1 1 4     1 1 1 4                      18    10.0   51.8
    shrink_3   0 4     0 0 4     0 0 0 4                      18     9.2   53.0

The fewer blocks the fine branches have, the better and cheaper the network: they are redundant.
LitePose (`lib/models/pose_mobilenet.py`) removes them: a single branch, whose fusion deconv head
(`lib/models/head.py`) brings fine and coarse maps together instead.
"""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor, nn
from yacs.config import CfgNode

from lib.models.arch import ArchSpec, whole_number
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
from lib.models.baselines.hrnet_extra import read_extra
from lib.models.layers.conv import conv_bn

STEM_WIDTH = 64
STEM_BLOCKS = 4


class HigherHRNet(HigherHead):
    """images (B, 3, H, W), H and W multiples of 32 -> [(B, C0, H/4, W/4), (B, C1, H/2, W/2), ...].

    The channels of an output are K heatmaps, then its tag maps if it has any.
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
        self.conv1, self.bn1 = conv_bn(3, STEM_WIDTH, kernel=3, stride=2)
        self.conv2, self.bn2 = conv_bn(STEM_WIDTH, STEM_WIDTH, kernel=3, stride=2)
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
        # HRNets trained on ImageNet, from which "backbone" may start, end in other layers.
        last_fusion = f"stage4.{fourth.modules - 1}.fuse_layers."
        self.optional_weights = ("incre_modules.", "downsamp_modules.", "classifier.", last_fusion)
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
    settings = read_extra(cfg, arch, network_keys=("STEM_INPLANES",))
    planes = whole_number(cfg.MODEL.EXTRA.STEM_INPLANES, "MODEL.EXTRA.STEM_INPLANES")
    return HigherHRNet(planes, **settings._asdict())
