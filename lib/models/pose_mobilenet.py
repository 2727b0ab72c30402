"""LitePose: a single-branch backbone with large kernels and a fusion head (paper, section 3).

Attribute names are those of published checkpoints.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from torch import Tensor, nn
from yacs.config import CfgNode

from lib.models.arch import ArchSpec, StageSpec, largest_arch, make_divisible
from lib.models.head import BackboneMaps, FusionHead, init_weights
from lib.models.layers.branches import DepthwiseBranches
from lib.models.layers.conv import conv_bn, conv_bn_relu6

STEM_WIDTH = 32
STAGES = 2  # outputs, at 1/4 and 1/2 of the input


class InvertedBottleneck(nn.Module):
    """Expand (1x1), depthwise kxk, project (1x1), residual if the shapes match (section 3.4)."""

    inv: Any  # Sequential, whose entries are just modules for a type checker; likewise below
    depth_conv: Any
    point_conv: Any

    def __init__(
        self, in_channels: int, out_channels: int, stride: int, expansion: int, kernel: int
    ) -> None:
        super().__init__()
        hidden = make_divisible(round(in_channels * expansion))
        self.inv = conv_bn_relu6(in_channels, hidden, 1)
        self.depth_conv = conv_bn_relu6(hidden, hidden, kernel, stride, depthwise=True)
        self.point_conv = nn.Sequential(*conv_bn(hidden, out_channels, 1))
        self.residual = stride == 1 and in_channels == out_channels

    def forward(self, x: Tensor) -> Tensor:
        out = self.point_conv(self.depth_conv(self.inv(x)))
        return x + out if self.residual else out


class BranchedBottleneck(InvertedBottleneck):
    """With smaller kernels parallel to the depthwise one, in training (MODEL.KERNEL_BRANCHES)."""

    def __init__(
        self, in_channels: int, out_channels: int, stride: int, expansion: int, kernel: int
    ) -> None:
        super().__init__(in_channels, out_channels, stride, expansion, kernel)
        hidden = self.depth_conv[0].out_channels
        self.depth_conv[0] = DepthwiseBranches(hidden, kernel, stride)


def make_stem(out_channels: int) -> nn.Sequential:
    """(B, 3, H, W) -> (B, out_channels, H/2, W/2); no activation at its end."""
    return nn.Sequential(
        conv_bn_relu6(3, STEM_WIDTH, 3, stride=2),
        conv_bn_relu6(STEM_WIDTH, STEM_WIDTH, 3, depthwise=True),
        *conv_bn(STEM_WIDTH, out_channels, 1),
    )


def make_stage(in_channels: int, spec: StageSpec, block: type[InvertedBottleneck]) -> nn.Sequential:
    """The blocks of one stage; the first has the stride and changes the width."""
    blocks = []
    for i, (expansion, kernel) in enumerate(spec.blocks):
        stride, width = (spec.stride, in_channels) if i == 0 else (1, spec.channel)
        blocks.append(block(width, spec.channel, stride=stride, expansion=expansion, kernel=kernel))
    return nn.Sequential(*blocks)


class LitePose(FusionHead):
    """images (B, 3, H, W), H and W multiples of 16 -> [(B, C0, H/4, W/4), (B, C1, H/2, W/2)].

    The channels of an output are K heatmaps, then its tag maps if it has any.
    """

    block = InvertedBottleneck
    first: Any
    stage: Any

    def __init__(
        self,
        arch: ArchSpec,
        out_channels: Sequence[int],
        deconv_kernels: Sequence[int] = (4, 4, 4),
        fusion: bool = True,
    ) -> None:
        channels = [stage.channel for stage in arch.stages]
        widths = BackboneMaps(arch.input_channel, channels)
        super().__init__(
            widths, arch.deconv, kernels=deconv_kernels, out_channels=out_channels, fusion=fusion
        )
        self.arch = arch
        self.first = make_stem(arch.input_channel)
        inputs = (arch.input_channel, *channels[:-1])
        self.stage = nn.ModuleList(
            make_stage(width, spec, self.block)
            for width, spec in zip(inputs, arch.stages, strict=True)
        )
        init_weights(self)

    def blocks(self) -> list[InvertedBottleneck]:
        """The blocks of all stages, in order."""
        return [block for stage in self.stage for block in stage]

    def forward(self, images: Tensor) -> list[Tensor]:
        x = stem = self.first(images)
        maps = []
        for stage in self.stage:
            x = stage(x)
            maps.append(x)
        return self.head(BackboneMaps(stem, maps))


class BranchedLitePose(LitePose):
    """A LitePose in training; `fold_branches` gives the weights of a LitePose from its weights."""

    block = BranchedBottleneck


def output_channels(
    num_joints: int, with_tags: Sequence[bool], tag_per_joint: bool, tag_dims: int = 1
) -> list[int]:
    """Channels of each output: K heatmaps, plus K tag maps (or one) if the output has tags.

    tag_dims: D; of several dimensions, the K tag maps of the first come first: K + D * K channels.
    """
    tags = num_joints * tag_dims if tag_per_joint else 1
    return [num_joints + tags * has_tags for has_tags in with_tags]


def get_pose_net(cfg: CfgNode, arch: ArchSpec | None = None) -> LitePose:
    """The LitePose of `arch` (None: the largest of the search space) with the head of `cfg`."""
    network = BranchedLitePose if cfg.MODEL.KERNEL_BRANCHES else LitePose
    return network(arch or default_arch(cfg), **head_settings(cfg))


def default_arch(cfg: CfgNode) -> ArchSpec:
    """The largest architecture, at the resolution of `cfg`."""
    return largest_arch(cfg.DATASET.INPUT_SIZE, cfg.MODEL.EXTRA.NUM_DECONV_FILTERS)


def head_settings(cfg: CfgNode) -> dict[str, Any]:
    """Keyword arguments of LitePose other than the architecture."""
    if cfg.LOSS.NUM_STAGES != STAGES:
        raise ValueError(
            f"LOSS.NUM_STAGES is {cfg.LOSS.NUM_STAGES}; {cfg.MODEL.NAME} has {STAGES} outputs"
        )
    model = cfg.MODEL
    return {
        "out_channels": output_channels(
            model.NUM_JOINTS, cfg.LOSS.WITH_AE_LOSS, model.TAG_PER_JOINT, model.AE_TAG_DIMS
        ),
        "deconv_kernels": model.EXTRA.NUM_DECONV_KERNELS,
        "fusion": model.FUSION_HEAD,
    }
