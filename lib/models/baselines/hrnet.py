"""Parts of HRNet-like networks: branches that exchange maps, and the head of HigherHRNet.

A network runs one branch per resolution side by side, fine to coarse. A module (paper, section
3.1: scale-aware multi-branch architectures) runs each branch through its residual blocks, then
every branch receives the sum of all maps, brought to its resolution and width. Attribute names
are the format of published checkpoints (Sun et al., CVPR 2019; Cheng et al., CVPR 2020).
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import reduce
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from lib.models.head import init_weights
from lib.models.layers.conv import conv_bn, conv_bn_relu, conv_bn_relu6, deconv2x


class Stage(NamedTuple):
    """Modules of the same branches; one entry per branch, fine to coarse."""

    modules: int
    blocks: tuple[int, ...]  # residual blocks; 0: one convolution
    channels: tuple[int, ...]


class Deconv(NamedTuple):
    """Deconv levels of the head; one entry per doubling of the finest map."""

    channels: tuple[int, ...]
    kernels: tuple[int, ...]
    cat_output: tuple[bool, ...]  # whether its input includes the previous prediction
    blocks: int  # residual blocks after each doubling


class BasicBlock(nn.Module):
    """Two 3x3 convolutions and a residual connection."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv1, self.bn1 = conv_bn(channels, channels, 3)
        self.conv2, self.bn2 = conv_bn(channels, channels, 3)
        self.relu = nn.ReLU(inplace=True)

    def forward(self, x: Tensor) -> Tensor:
        out = self.relu(self.bn1(self.conv1(x)))
        return self.relu(self.bn2(self.conv2(out)) + x)


class Bottleneck(nn.Module):
    """1x1 to `channels`, 3x3, 1x1 to four times as many, and a residual connection."""

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

    With zero blocks (the last step of the gradual shrinking) one 3x3 convolution with BatchNorm and
    ReLU6 remains. Every other activation of the network is ReLU; this one is the original's.
    """
    if blocks == 0:
        return conv_bn_relu6(channels, channels, 3)
    return nn.Sequential(*(BasicBlock(channels) for _ in range(blocks)))


class HighResolutionModule(nn.Module):
    """Runs every branch, then fuses all of them into each of the first `outputs` branches."""

    fuse_layers: Any  # ModuleLists, whose entries are just modules for a type checker

    def __init__(self, blocks: Sequence[int], channels: Sequence[int], outputs: int) -> None:
        super().__init__()
        self.branches = nn.ModuleList(map(make_branch, channels, blocks))
        self.fuse_layers = nn.ModuleList(
            nn.ModuleList(fuse_layer(channels, source, target) for source in range(len(channels)))
            for target in range(outputs)
        )
        self.relu = nn.ReLU(inplace=True)

    def forward(self, maps: list[Tensor]) -> list[Tensor]:
        """Fine to coarse: the side of map i is 1 / 2**i of the side of map 0."""
        maps = [branch(x) for branch, x in zip(self.branches, maps, strict=True)]
        fused = []
        for layers in self.fuse_layers:
            resized = [layer(x) for layer, x in zip(layers, maps, strict=True)]
            fused.append(self.relu(reduce(torch.add, resized)))
        return fused


def fuse_layer(channels: Sequence[int], source: int, target: int) -> nn.Module:
    """Brings a map of branch `source` to the width and size of branch `target`."""
    if source == target:
        return nn.Identity()
    if source > target:
        convolution = conv_bn(channels[source], channels[target], 1)
        return nn.Sequential(*convolution, nn.Upsample(scale_factor=2 ** (source - target)))
    halvings = [
        conv_bn_relu(channels[source], channels[source], kernel=3, stride=2)
        for _ in range(target - source - 1)
    ]
    last = nn.Sequential(*conv_bn(channels[source], channels[target], kernel=3, stride=2))
    return nn.Sequential(*halvings, last)


def make_stage(stage: Stage, outputs: int) -> nn.Sequential:
    """Maps of all branches -> maps of the first `outputs`; only the last module drops maps."""
    outputs_of = [len(stage.channels)] * (stage.modules - 1) + [outputs]
    return nn.Sequential(
        *(HighResolutionModule(stage.blocks, stage.channels, count) for count in outputs_of)
    )


def make_transition(before: Sequence[int], after: Sequence[int]) -> nn.ModuleList:
    """To the branches of the next stage: the last is new and half as large."""
    same_size = [
        nn.Identity() if old == new else conv_bn_relu(old, new, 3)
        for old, new in zip(before, after, strict=False)
    ]
    halving = conv_bn_relu(before[-1], after[-1], kernel=3, stride=2)
    return nn.ModuleList([*same_size, nn.Sequential(halving)])


def widen(transition: nn.ModuleList, maps: list[Tensor]) -> list[Tensor]:
    """Maps of n branches -> maps of n + 1; the new one comes from the coarsest."""
    return [layer(x) for layer, x in zip(transition, [*maps, maps[-1]], strict=True)]


class HigherHead(nn.Module):
    """Predicts from the finest map; doubles it, with the prediction appended, and predicts again.

    Networks inherit it instead of holding it: published names have no prefix here.
    """

    arch = None  # MODEL.EXTRA describes the network, not an architecture file
    final_layers: Any

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
            nn.Conv2d(width, channels, final_kernel, padding=final_kernel // 2)
            for width, channels in zip(inputs, out_channels, strict=True)
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
        deconv2x(in_channels, out_channels, kernel),
        nn.BatchNorm2d(out_channels),
        nn.ReLU(inplace=True),
    )
    residual = [nn.Sequential(BasicBlock(out_channels)) for _ in range(blocks)]
    return nn.Sequential(doubling, *residual)


@torch.no_grad()
def init_higher(model: HigherHead) -> None:
    """He initialization by fan-out; predictions start near zero."""
    init_weights(model)
    for final in model.final_layers:
        nn.init.normal_(final.weight, std=1e-3)
        nn.init.zeros_(final.bias)
