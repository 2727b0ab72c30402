"""EfficientHRNet (Neff et al., 2020): maps of an EfficientNet start the branches of an HRNet.

Attribute names are the format of published checkpoints.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

from torch import Tensor, nn
from yacs.config import CfgNode

from lib.models.arch import ArchSpec, make_divisible
from lib.models.baselines.hrnet import Deconv, HigherHead, Stage, init_higher, make_stage
from lib.models.baselines.hrnet_extra import read_extra
from lib.utils.text import brief

STEM_WIDTH = 32


class Group(NamedTuple):
    """Blocks of EfficientNet-B0 that have one width; the first one has the stride."""

    expansion: int
    channels: int
    blocks: int
    stride: int
    kernel: int


GROUPS = (
    Group(1, 16, 1, 1, 3),
    Group(6, 24, 2, 2, 3),
    Group(6, 40, 2, 2, 5),
    Group(6, 80, 3, 2, 3),
    Group(6, 112, 3, 1, 5),
    Group(6, 192, 4, 2, 5),
    Group(6, 320, 1, 1, 3),
)
MAX_FACTOR = 10  # WIDTH_MULT and DEPTH_MULT; 1 is EfficientNet-B0
TAPPED = (1, 2, 4, 6)  # groups whose last map, at 1/4, 1/8, 1/16, 1/32, starts a branch


def conv_bn_swish(
    in_channels: int, out_channels: int, kernel: int, stride: int = 1, groups: int = 1
) -> nn.Sequential:
    """Padded as in TensorFlow: an odd padding puts the extra pixel right and bottom."""
    padding = kernel - stride
    before, after = padding // 2, padding - padding // 2
    return nn.Sequential(
        nn.ZeroPad2d((before, after, before, after)),
        nn.Conv2d(in_channels, out_channels, kernel, stride, groups=groups, bias=False),
        nn.BatchNorm2d(out_channels),
        nn.SiLU(inplace=True),
    )


class SqueezeExcite(nn.Module):
    """Scales every channel by a factor computed from the means of all channels."""

    def __init__(self, channels: int, reduced: int) -> None:
        super().__init__()
        self.se = nn.Sequential(
            nn.AdaptiveAvgPool2d(1),
            nn.Conv2d(channels, reduced, 1),
            nn.SiLU(inplace=True),
            nn.Conv2d(reduced, channels, 1),
            nn.Sigmoid(),
        )

    def forward(self, x: Tensor) -> Tensor:
        return x * self.se(x)


class MBConv(nn.Module):
    """Expand (1x1), depthwise kxk, squeeze and excite, project (1x1), residual if shapes match."""

    def __init__(
        self, in_channels: int, out_channels: int, expansion: int, stride: int, kernel: int
    ) -> None:
        super().__init__()
        hidden = in_channels * expansion
        expand = [conv_bn_swish(in_channels, hidden, 1)] if expansion > 1 else []
        self.conv = nn.Sequential(
            *expand,
            conv_bn_swish(hidden, hidden, kernel, stride, groups=hidden),
            SqueezeExcite(hidden, in_channels // 4),
            nn.Conv2d(hidden, out_channels, 1, bias=False),
            nn.BatchNorm2d(out_channels),
        )
        self.residual = stride == 1 and in_channels == out_channels

    def forward(self, x: Tensor) -> Tensor:
        out = self.conv(x)
        return x + out if self.residual else out


def transition(in_channels: int, out_channels: int) -> nn.Sequential:
    """3x3 into a branch; published checkpoints have its bias, although BatchNorm follows."""
    return nn.Sequential(
        nn.Conv2d(in_channels, out_channels, 3, padding=1),
        nn.BatchNorm2d(out_channels),
        nn.ReLU(inplace=True),
    )


class EfficientHRNet(HigherHead):
    """images (B, 3, H, W), H and W multiples of 32 -> [(B, C0, H/4, W/4), (B, C1, H/2, W/2), ...].

    The channels of an output are K heatmaps, then its tag maps if it has any.
    """

    def __init__(
        self,
        width: float,
        depth: float,
        stages: Sequence[Stage],
        deconv: Deconv,
        out_channels: Sequence[int],
        final_kernel: int = 1,
    ) -> None:
        second, third, fourth = (stage.channels for stage in stages)
        super().__init__(fourth[0], deconv, out_channels, final_kernel)
        self.features, taps = make_features(width, depth)
        self.tapped = [index for index, _ in taps]
        widths = [channels for _, channels in taps]
        self.trans1_branch1 = transition(widths[0], second[0])
        self.trans1_branch2 = transition(widths[1], second[1])
        self.stage2 = make_stage(stages[0], outputs=2)
        self.trans2_branch1 = transition(second[0], third[0])
        self.trans2_branch2 = transition(second[1], third[1])
        self.trans2_branch3 = transition(widths[2], third[2])
        self.stage3 = make_stage(stages[1], outputs=3)
        self.trans3_branch1 = transition(third[0], fourth[0])
        self.trans3_branch2 = transition(third[1], fourth[1])
        self.trans3_branch3 = transition(third[2], fourth[2])
        self.trans3_branch4 = transition(widths[3], fourth[3])
        self.stage4 = make_stage(stages[2], outputs=1)
        init_higher(self)

    def forward(self, images: Tensor) -> list[Tensor]:
        quarter, eighth, sixteenth, coarsest = self.backbone(images)
        x1, x2 = self.stage2([self.trans1_branch1(quarter), self.trans1_branch2(eighth)])
        x1, x2, x3 = self.stage3(
            [self.trans2_branch1(x1), self.trans2_branch2(x2), self.trans2_branch3(sixteenth)]
        )
        x1, x2, x3 = self.trans3_branch1(x1), self.trans3_branch2(x2), self.trans3_branch3(x3)
        [finest] = self.stage4([x1, x2, x3, self.trans3_branch4(coarsest)])
        return self.head(finest)

    def backbone(self, images: Tensor) -> list[Tensor]:
        """Maps at 1/4, 1/8, 1/16 and 1/32 of the input."""
        maps, x = [], images
        for index, block in enumerate(self.features):
            x = block(x)
            if index in self.tapped:
                maps.append(x)
        return maps


def make_features(width: float, depth: float) -> tuple[nn.Sequential, list[tuple[int, int]]]:
    """EfficientNet-B0 scaled by `width` and `depth`, and its taps.

    A tap is (index, channels) of the last block at 1/4, 1/8, 1/16 or 1/32 of the input.
    """
    channels = make_divisible(STEM_WIDTH * width)
    features: list[nn.Module] = [conv_bn_swish(3, channels, kernel=3, stride=2)]
    taps = []
    for i, group in enumerate(GROUPS):
        out_channels = make_divisible(group.channels * width)
        for j in range(math.ceil(group.blocks * depth)):
            stride = group.stride if j == 0 else 1
            block = MBConv(
                channels,
                out_channels,
                expansion=group.expansion,
                stride=stride,
                kernel=group.kernel,
            )
            features.append(block)
            channels = out_channels
        if i in TAPPED:
            taps.append((len(features) - 1, channels))
    return nn.Sequential(*features), taps


def get_pose_net(cfg: CfgNode, arch: ArchSpec | None = None) -> EfficientHRNet:
    """The network that MODEL.EXTRA describes; there are no architecture files for it."""
    factors = ("WIDTH_MULT", "DEPTH_MULT")
    settings = read_extra(cfg, arch, network_keys=factors)
    width, depth = (cfg.MODEL.EXTRA[key] for key in factors)
    for key, factor in zip(factors, (width, depth), strict=True):
        if type(factor) not in (int, float) or not 0 < factor <= MAX_FACTOR:
            wanted = f"a number above 0, at most {MAX_FACTOR}"
            raise ValueError(f"MODEL.EXTRA.{key} is {brief(factor)}; must be {wanted}")
    return EfficientHRNet(width, depth, **settings._asdict())
