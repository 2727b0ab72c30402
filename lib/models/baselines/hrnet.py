"""What HRNet-like networks share: parallel branches that exchange maps, and HigherHRNet's head.

Attribute names are the format of published checkpoints (Sun et al., CVPR 2019; Cheng et al.,
CVPR 2020).
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import reduce
from typing import NamedTuple

import torch
from torch import Tensor, nn

from lib.models.head import double_map, init_weights
from lib.models.pose_mobilenet import conv_bn, conv_bn_relu6


class Stage(NamedTuple):
    """`modules` times: every branch by itself, then all exchange."""

    modules: int
    blocks: tuple[int, ...]  # residual blocks of a branch, fine to coarse; 0: one convolution
    channels: tuple[int, ...]  # width of a branch


class Deconv(NamedTuple):
    """One entry for each doubling of the finest map."""

    channels: tuple[int, ...]
    kernels: tuple[int, ...]
    cat_output: tuple[bool, ...]  # whether it reads the prediction before it, too
    blocks: int  # residual blocks after each


def conv_bn_relu(*args: int) -> nn.Sequential:
    return nn.Sequential(*conv_bn(*args), nn.ReLU(inplace=True))


class BasicBlock(nn.Module):
    """Two 3x3 convolutions beside an identity."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv1, self.bn1 = conv_bn(channels, channels, 3)
        self.conv2, self.bn2 = conv_bn(channels, channels, 3)
        self.relu = nn.ReLU(inplace=True)

    def forward(self, x: Tensor) -> Tensor:
        out = self.relu(self.bn1(self.conv1(x)))
        return self.relu(self.bn2(self.conv2(out)) + x)


class Bottleneck(nn.Module):
    """1x1 down to `channels`, 3x3, 1x1 up to four times as many, beside an identity or a 1x1."""

    expansion = 4

    def __init__(self, in_channels: int, channels: int) -> None:
        super().__init__()
        out_channels = channels * self.expansion
        self.conv1, self.bn1 = conv_bn(in_channels, channels, 1)
        self.conv2, self.bn2 = conv_bn(channels, channels, 3)
        self.conv3, self.bn3 = conv_bn(channels, out_channels, 1)
        self.relu = nn.ReLU(inplace=True)
        same = in_channels == out_channels
        self.downsample = None if same else nn.Sequential(*conv_bn(in_channels, out_channels, 1))

    def forward(self, x: Tensor) -> Tensor:
        out = self.relu(self.bn1(self.conv1(x)))
        out = self.relu(self.bn2(self.conv2(out)))
        out = self.bn3(self.conv3(out))
        return self.relu(out + (x if self.downsample is None else self.downsample(x)))


def make_branch(channels: int, blocks: int) -> nn.Sequential:
    """One branch of a module: `blocks` residual blocks.

    Zero blocks (gradual shrinking, shrink 3) leave one 3x3 convolution with BatchNorm and ReLU6.
    The activation is ReLU6 as in the original, although all others of this network are ReLU.
    """
    if blocks == 0:
        return conv_bn_relu6(channels, channels, 3)
    return nn.Sequential(*(BasicBlock(channels) for _ in range(blocks)))


class HighResolutionModule(nn.Module):
    """Every branch by itself, then each of the first `outputs` is the sum of all at its size."""

    def __init__(self, blocks: Sequence[int], channels: Sequence[int], outputs: int) -> None:
        super().__init__()
        self.branches = nn.ModuleList(map(make_branch, channels, blocks))
        self.fuse_layers = nn.ModuleList(
            nn.ModuleList(fuse_layer(channels, source, target) for source in range(len(channels)))
            for target in range(outputs)
        )
        self.relu = nn.ReLU(inplace=True)

    def forward(self, maps: list[Tensor]) -> list[Tensor]:
        """Fine to coarse: map i has 1 / 2**i of the size of map 0."""
        maps = [branch(x) for branch, x in zip(self.branches, maps, strict=True)]
        return [self.relu(self.fuse(row, maps)) for row in self.fuse_layers]

    @staticmethod
    def fuse(layers: nn.ModuleList, maps: list[Tensor]) -> Tensor:
        return reduce(torch.add, [layer(x) for layer, x in zip(layers, maps, strict=True)])


def fuse_layer(channels: Sequence[int], source: int, target: int) -> nn.Module:
    """From the map of branch `source` to width and size of branch `target`."""
    if source == target:
        return nn.Identity()
    if source > target:
        convolution = conv_bn(channels[source], channels[target], 1)
        return nn.Sequential(*convolution, nn.Upsample(scale_factor=2 ** (source - target)))
    halvings = [
        conv_bn_relu(channels[source], channels[source], 3, 2) for _ in range(target - source - 1)
    ]
    last = nn.Sequential(*conv_bn(channels[source], channels[target], 3, 2))
    return nn.Sequential(*halvings, last)


def make_stage(stage: Stage, outputs: int) -> nn.Sequential:
    """Maps of all branches -> maps of the first `outputs`; the modules before pass on all."""
    every = len(stage.channels)
    return nn.Sequential(
        *(
            HighResolutionModule(
                stage.blocks, stage.channels, outputs if i == stage.modules - 1 else every
            )
            for i in range(stage.modules)
        )
    )


def make_transition(before: Sequence[int], after: Sequence[int]) -> nn.ModuleList:
    """Into the branches of the next stage, of which the last is new and half as large."""
    kept = [
        nn.Identity() if old == new else conv_bn_relu(old, new, 3)
        for old, new in zip(before, after, strict=False)
    ]
    return nn.ModuleList([*kept, nn.Sequential(conv_bn_relu(before[-1], after[-1], 3, 2))])


def widen(transition: nn.ModuleList, maps: list[Tensor]) -> list[Tensor]:
    """The maps of the branches so far -> those of one branch more, made of the coarsest."""
    return [layer(x) for layer, x in zip(transition, [*maps, maps[-1]], strict=True)]


class HigherHead(nn.Module):
    """Inherited by a network rather than held by it: published names have no prefix here.

    Predicts from the finest map, then doubles it, with the prediction beside it, and predicts
    again.
    """

    arch = None  # no architecture file describes it; MODEL.EXTRA does

    def __init__(
        self, in_channels: int, deconv: Deconv, out_channels: Sequence[int], final_kernel: int = 1
    ) -> None:
        super().__init__()
        self.cat_output = deconv.cat_output
        inputs = (in_channels, *deconv.channels)
        self.deconv_layers = nn.ModuleList()
        for i, (channels, kernel) in enumerate(zip(deconv.channels, deconv.kernels, strict=True)):
            width = inputs[i] + out_channels[i] * deconv.cat_output[i]
            self.deconv_layers.append(make_deconv(width, channels, kernel, deconv.blocks))
        self.final_layers = nn.ModuleList(
            nn.Conv2d(width, maps, final_kernel, padding=final_kernel // 2)
            for width, maps in zip(inputs, out_channels, strict=True)
        )

    def head(self, x: Tensor) -> list[Tensor]:
        """The finest map (B, C, H/4, W/4) -> predictions, coarse (1/4) to fine."""
        outputs = [self.final_layers[0](x)]
        for i, deconv in enumerate(self.deconv_layers):
            if self.cat_output[i]:
                x = torch.cat([x, outputs[-1]], dim=1)
            x = deconv(x)
            outputs.append(self.final_layers[i + 1](x))
        return outputs


def make_deconv(in_channels: int, out_channels: int, kernel: int, blocks: int) -> nn.Sequential:
    """(B, in, h, w) -> (B, out, 2h, 2w)"""
    doubling = nn.Sequential(
        double_map(in_channels, out_channels, kernel),
        nn.BatchNorm2d(out_channels),
        nn.ReLU(inplace=True),
    )
    return nn.Sequential(
        doubling, *(nn.Sequential(BasicBlock(out_channels)) for _ in range(blocks))
    )


@torch.no_grad()
def init_higher(model: HigherHead) -> None:
    """He initialization by fan-out; predictions start near zero."""
    init_weights(model)
    for final in model.final_layers:
        nn.init.normal_(final.weight, std=1e-3)
        nn.init.zeros_(final.bias)
