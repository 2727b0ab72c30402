"""Lightweight OpenPose (Osokin, 2018), to compare cost and latency with.

No script trains it: part affinity fields need other targets and another grouping than tags.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from lib.models.head import init_weights
from lib.models.layers.conv import conv_bn, conv_bn_relu

FEATURES = 128
HEATMAPS = 19  # 18 joints and the background
PAFS = 38  # x and y of 19 limbs
# Width, stride and dilation of MobileNet v1 up to its fifth group. Its last stride became a
# dilation, so the map stays at 1/8.
GROUPS = ((64, 1, 1), (128, 2, 1), (128, 1, 1), (256, 2, 1), (256, 1, 1))
LAST_GROUP = ((512, 1, 1), (512, 1, 2), (512, 1, 1), (512, 1, 1), (512, 1, 1), (512, 1, 1))


class LightweightOpenPose(nn.Module):
    """images (B, 3, H, W) -> [heatmaps (B, 19, H/8, W/8), part affinity fields (B, 38, H/8, W/8)].

    The outputs are those of the refinement stage, whose input includes the initial stage's.
    """

    def __init__(self) -> None:
        super().__init__()
        blocks, width = [conv_bn_relu(3, 32, kernel=3, stride=2)], 32
        for out, stride, dilation in GROUPS + LAST_GROUP:
            blocks.append(separable(width, out, stride=stride, dilation=dilation))
            width = out
        self.backbone = nn.Sequential(*blocks)
        self.align = conv_relu(width, FEATURES, 1)
        self.adapt = nn.Sequential(*(plain_separable(FEATURES) for _ in range(3)))
        self.features = conv_relu(FEATURES, FEATURES, 3)
        self.initial = nn.Sequential(*(conv_relu(FEATURES, FEATURES, 3) for _ in range(3)))
        self.initial_heads = make_heads(512)
        inputs = (FEATURES + HEATMAPS + PAFS, *(FEATURES,) * 4)
        self.refinement = nn.Sequential(*(RefinementBlock(channels) for channels in inputs))
        self.refined_heads = make_heads(FEATURES)
        init_weights(self)

    def forward(self, images: Tensor) -> list[Tensor]:
        x = self.align(self.backbone(images))
        features = self.features(x + self.adapt(x))
        x = self.initial(features)
        first = [head(x) for head in self.initial_heads]
        x = self.refinement(torch.cat([features, *first], dim=1))
        return [head(x) for head in self.refined_heads]


class RefinementBlock(nn.Module):
    """1x1, then two 3x3 (the second dilated) with a residual: the receptive field of a 7x7."""

    def __init__(self, in_channels: int) -> None:
        super().__init__()
        self.initial = conv_relu(in_channels, FEATURES, 1)
        self.trunk = nn.Sequential(
            conv_bn_relu(FEATURES, FEATURES, 3),
            nn.Conv2d(FEATURES, FEATURES, 3, padding=2, dilation=2, bias=False),
            nn.BatchNorm2d(FEATURES),
            nn.ReLU(inplace=True),
        )

    def forward(self, x: Tensor) -> Tensor:
        x = self.initial(x)
        return x + self.trunk(x)


def separable(in_channels: int, out_channels: int, stride: int, dilation: int) -> nn.Sequential:
    """Depthwise 3x3, 1x1; each with BatchNorm and ReLU."""
    return nn.Sequential(
        nn.Conv2d(
            in_channels,
            in_channels,
            kernel_size=3,
            stride=stride,
            padding=dilation,
            dilation=dilation,
            groups=in_channels,
            bias=False,
        ),
        nn.BatchNorm2d(in_channels),
        nn.ReLU(inplace=True),
        *conv_bn(in_channels, out_channels, 1),
        nn.ReLU(inplace=True),
    )


def plain_separable(channels: int) -> nn.Sequential:
    """Depthwise 3x3, 1x1; each with ELU, without BatchNorm."""
    return nn.Sequential(
        nn.Conv2d(channels, channels, 3, padding=1, groups=channels, bias=False),
        nn.ELU(inplace=True),
        nn.Conv2d(channels, channels, 1, bias=False),
        nn.ELU(inplace=True),
    )


def conv_relu(in_channels: int, out_channels: int, kernel: int) -> nn.Sequential:
    """With bias, without BatchNorm."""
    return nn.Sequential(
        nn.Conv2d(in_channels, out_channels, kernel, padding=kernel // 2), nn.ReLU(inplace=True)
    )


def make_heads(hidden: int) -> nn.ModuleList:
    """Features -> heatmaps, and -> part affinity fields."""
    return nn.ModuleList(
        nn.Sequential(conv_relu(FEATURES, hidden, 1), nn.Conv2d(hidden, maps, 1))
        for maps in (HEATMAPS, PAFS)
    )
